//! Time: timestamps, days, and the only code that reads a clock. All other code gets a [`Timestamp`] or a [`Clock`].

#![allow(clippy::disallowed_methods)]

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jiff::civil::Date;

/// Milliseconds in a second.
pub const MS_PER_SECOND: i64 = 1000;
/// Milliseconds in a day (POSIX time has no leap seconds).
pub const MS_PER_DAY: i64 = 86_400 * MS_PER_SECOND;

/// A time in UTC, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Creates a timestamp from milliseconds since 1970.
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Creates a timestamp from seconds since 1970. Saturates.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(MS_PER_SECOND))
    }

    /// Milliseconds since 1970.
    pub const fn ms(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, rounded down.
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(MS_PER_SECOND)
    }

    /// Adds a duration. Saturates.
    pub fn plus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// Subtracts a duration. Saturates.
    pub fn minus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// Adds whole days. Saturates.
    pub const fn plus_days(self, days: u32) -> Self {
        Self(
            self.0
                .saturating_add((days as i64).saturating_mul(MS_PER_DAY)),
        )
    }

    /// The UTC day that contains this time; saturates.
    pub fn day(self) -> Day {
        let day = self.0.div_euclid(MS_PER_DAY);
        Day(day.clamp(i32::MIN.into(), i32::MAX.into()) as i32)
    }

    /// Converts to `SystemTime`. Times before 1970 become 1970.
    pub fn system(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(u64::try_from(self.0).unwrap_or(0))
    }
}

/// A UTC calendar day, shown as `YYYY-MM-DD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i32);

impl Day {
    /// Parses `YYYY-MM-DD`. Any other form is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 10 {
            return None;
        }
        let date: Date = text.parse().ok()?;
        let epoch = jiff::civil::date(1970, 1, 1);
        let days = epoch.until(date).ok()?.get_days();
        let day = Self(days);
        (day.to_string() == text).then_some(day)
    }

    /// The first millisecond of the day.
    pub fn start(self) -> Timestamp {
        Timestamp(i64::from(self.0) * MS_PER_DAY)
    }

    /// The first millisecond after the day.
    pub fn end(self) -> Timestamp {
        Timestamp((i64::from(self.0) + 1) * MS_PER_DAY)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let epoch = jiff::civil::date(1970, 1, 1);
        match epoch.checked_add(jiff::Span::new().days(self.0.clamp(-700_000, 2_932_896))) {
            Ok(date) => write!(f, "{date}"),
            Err(_) => write!(f, "day{}", self.0),
        }
    }
}

/// A source of time: the system's clock, or one that a test adjusts.
#[derive(Clone, Default)]
pub struct Clock {
    /// Added to the system's wall clock, in milliseconds; `None` outside tests.
    offset_ms: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that starts at the system's time, and that [`Clock::advance`] changes.
    pub fn adjustable() -> Self {
        Self {
            offset_ms: Some(Arc::default()),
        }
    }

    /// Changes the wall time of an adjustable clock by `by_ms`, which may be negative. Does not affect the system's
    /// clock.
    pub fn advance(&self, by_ms: i64) {
        if let Some(offset) = &self.offset_ms {
            offset.fetch_add(by_ms, Ordering::Relaxed);
        }
    }

    /// The wall time.
    pub fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        Timestamp(
            ms + self
                .offset_ms
                .as_ref()
                .map_or(0, |offset| offset.load(Ordering::Relaxed)),
        )
    }

    /// The monotonic time, for durations. [`Clock::advance`] does not change it.
    pub fn monotonic(&self) -> Instant {
        Instant::now()
    }
}

/// The time `after` from now on tokio's clock, for its timers.
pub fn deadline(after: Duration) -> tokio::time::Instant {
    tokio::time::Instant::now() + after
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn day_round_trips() {
        for (ms, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (951_782_400_000, "2000-02-29"),
            (1_795_305_599_999, "2026-11-21"),
            (253_402_300_799_999, "9999-12-31"),
        ] {
            let day = Timestamp::from_ms(ms).day();
            assert_eq!(day.to_string(), text);
            assert_eq!(Day::parse(text), Some(day));
            assert!(day.start() <= Timestamp::from_ms(ms) && Timestamp::from_ms(ms) < day.end());
        }
    }

    #[test]
    fn rejects_other_forms_of_a_day() {
        for text in [
            "",
            "2026-1-1",
            "2026-13-01",
            "2026-02-30",
            "2026-01-01 ",
            "..",
            "2026-01-01T",
            "+026-01-01",
        ] {
            assert_eq!(Day::parse(text), None, "{text}");
        }
    }
}
