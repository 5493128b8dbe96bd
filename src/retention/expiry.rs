//! Computes when a file expires.
//!
//! Expiry depends on the key and the settings alone, so files need no record of it, and a change of a setting applies to
//! all files at once.

use crate::{
    store::{Dialect, Key},
    tenant::Retention,
    time::Timestamp,
};

/// When an object expires; `None` = never.
///
/// In the Easemob API, the days count from the creation of the object. In the Lanying API, they count from the end of the
/// day in its key: the file can be forwarded at any time of that day, and each link must work for the full time.
pub fn expires_at(dialect: Dialect, key: Key, retention: &Retention) -> Option<Timestamp> {
    let days = retention.days(key.class);
    let counted_from = match dialect {
        Dialect::Easemob => key.id.created(),
        Dialect::Lanying => key.day.end(),
    };
    (days > 0).then(|| counted_from.plus_days(days))
}

/// Whether an object has expired at `now`.
pub fn is_expired(dialect: Dialect, key: Key, retention: &Retention, now: Timestamp) -> bool {
    expires_at(dialect, key, retention).is_some_and(|end| end <= now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::{Class, ObjectId},
        time::MS_PER_DAY,
    };

    fn key(created: Timestamp) -> Key {
        Key::of(Class::Image, ObjectId::new(created, &[1; 10]))
    }

    fn image(days: u32) -> Retention {
        Retention::default().with(Class::Image, days)
    }

    #[test]
    fn links_count_from_end_of_day() {
        let created = Timestamp::from_ms(5 * MS_PER_DAY + 1_000);
        let end = |day| {
            let key = Key {
                day,
                ..key(created)
            };
            expires_at(Dialect::Lanying, key, &image(7)).unwrap().ms()
        };
        assert_eq!(end(created.day()), 13 * MS_PER_DAY);
        assert_eq!(end(created.plus_days(3).day()), 16 * MS_PER_DAY);
    }

    #[test]
    fn files_expire_to_the_millisecond() {
        let created = Timestamp::from_ms(1_000);
        for (days, now_ms, expected) in [
            (7, 1_000 + 7 * MS_PER_DAY - 1, false),
            (7, 1_000 + 7 * MS_PER_DAY, true),
            (0, i64::MAX, false),
            (u32::MAX, 1_000 + 7 * MS_PER_DAY, false),
        ] {
            assert_eq!(
                is_expired(
                    Dialect::Easemob,
                    key(created),
                    &image(days),
                    Timestamp::from_ms(now_ms)
                ),
                expected,
                "{days} {now_ms}"
            );
        }
    }
}
