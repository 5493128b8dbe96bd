//! When an object expires. Expiry is computed from the key (creation, or the day of forwarding) and the configuration,
//! so it is not stored, and a change of the configuration applies to every file at once.

use crate::{
    store::{Class, Dialect, Key},
    tenant::Days,
    time::Timestamp,
};

/// The days that objects of a class live; 0 = for ever.
pub fn days_of(class: Class, days: &Days) -> u32 {
    match class {
        Class::Chatfile => days.chatfile,
        Class::Voice => days.voice,
        Class::Image => days.image,
        Class::Video => days.video,
        Class::Shared => days.shared,
        Class::SharedVoice => days.shared_voice,
        Class::SharedImage => days.shared_image,
        Class::SharedVideo => days.shared_video,
        Class::Avatar => days.avatar,
    }
}

/// When an object expires; `None` for never. Counted from its creation in the Easemob API, and from the end of the day
/// in its key in the Lanying API: a file may be forwarded at any time of that day, and each link to it must stay valid
/// for the configured time.
pub fn expires_at(dialect: Dialect, key: Key, days: &Days) -> Option<Timestamp> {
    let days = days_of(key.class, days);
    let counted_from = match dialect {
        Dialect::Easemob => key.id.created(),
        Dialect::Lanying => key.day.end(),
    };
    (days > 0).then(|| counted_from.plus_days(days))
}

/// Whether an object has expired at `now`.
pub fn is_expired(dialect: Dialect, key: Key, days: &Days, now: Timestamp) -> bool {
    expires_at(dialect, key, days).is_some_and(|end| end <= now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::ObjectId, time::MS_PER_DAY};

    fn key(created: Timestamp) -> Key {
        Key::of(Class::Image, ObjectId::new(created, &[1; 10]))
    }

    fn image(days: u32) -> Days {
        Days {
            image: days,
            ..Days::default()
        }
    }

    #[test]
    fn links_expire_at_end_of_day() {
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
