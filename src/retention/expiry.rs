//! Expiry is counted from what a key says, creation or the day of forwarding, so a file needs no record of it and a change of the
//! setting holds for every file at once.

use crate::{
    store::{Dialect, Key},
    tenant::Retention,
    time::Timestamp,
};

/// When an object ends; `None` for never. Counted from its creation in the Easemob API, and from the end of
/// its key's day in the other one: a file may be forwarded at any moment of that day, and each link to it must
/// live as long as it is said to.
pub fn expires_at(dialect: Dialect, key: Key, retention: &Retention) -> Option<Timestamp> {
    let days = retention.days(key.class);
    let counted_from = match dialect {
        Dialect::Easemob => key.id.created(),
        Dialect::Lanying => key.day.end(),
    };
    (days > 0).then(|| counted_from.plus_days(days))
}

/// Whether it has ended at `now`.
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
    fn a_link_lives_to_the_end_of_its_day_and_its_days_more() {
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
    fn a_file_of_seven_days_ends_after_seven_days_to_the_millisecond() {
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
