//! Expiry is counted from the creation date alone, so a file needs no record of it and a change of the
//! setting holds for every file at once.

use crate::time::Timestamp;

/// When an object created at `created` ends; `None` for never (`days` = 0).
pub fn expires_at(created: Timestamp, days: u32) -> Option<Timestamp> {
    (days > 0).then(|| created.plus_days(days))
}

/// Whether it has ended at `now`.
pub fn is_expired(created: Timestamp, days: u32, now: Timestamp) -> bool {
    expires_at(created, days).is_some_and(|end| end <= now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MS_PER_DAY;

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
                is_expired(created, days, Timestamp::from_ms(now_ms)),
                expected,
                "{days} {now_ms}"
            );
        }
    }
}
