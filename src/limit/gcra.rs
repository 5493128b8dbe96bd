//! A token bucket in one atomic word: the generic cell rate algorithm (ITU-T I.371), virtual scheduling.
//!
//! The word is the *theoretical arrival time*: the moment at which the bucket is full again. This module reads no clock
//! and rounds no duration: the caller passes nanoseconds since an epoch of its choice and rounds `Retry-After`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::tenant::Limits;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// The size of a bucket, and the rate at which it refills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Calls added to the bucket each second; 0 = unlimited.
    pub per_second: u32,
    /// Size of the bucket: calls that may come back to back. 0 counts as 1.
    pub burst: u32,
}

impl From<&Limits> for Rate {
    fn from(limits: &Limits) -> Self {
        Self {
            per_second: limits.calls_per_second,
            burst: limits.calls_burst,
        }
    }
}

impl Rate {
    /// Nanoseconds between calls at the sustained rate; `None` = unlimited. Rounded down, so that a call that the rate
    /// allows is never refused.
    fn interval_ns(self) -> Option<u64> {
        match self.per_second {
            0 => None,
            // Above 1e9 calls per second the interval would round to 0, which means no limit.
            calls => Some((NS_PER_SECOND / u64::from(calls)).max(1)),
        }
    }
}

/// One bucket. A new one is full.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// When the bucket is full again, in nanoseconds since the caller's epoch. Now or earlier means full.
    full_at_ns: AtomicU64,
}

impl Bucket {
    /// Takes one call from the bucket.
    ///
    /// Lock-free: a compare-and-swap loop, in which a failed attempt means that another call succeeded. A refused call
    /// changes nothing. If `now_ns` is earlier than another thread's, the bucket is as full as at that later time.
    ///
    /// # Errors
    /// The time until the next call is allowed, never zero.
    pub(super) fn check(&self, now_ns: u64, rate: Rate) -> Result<(), Duration> {
        let Some(interval_ns) = rate.interval_ns() else {
            return Ok(());
        };
        let tolerance_ns = interval_ns.saturating_mul(u64::from(rate.burst.saturating_sub(1)));
        // Relaxed: the word protects no other memory, and the changes of one atomic have a total order.
        let taken =
            self.full_at_ns
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at_ns| {
                    let is_allowed = full_at_ns.saturating_sub(now_ns) <= tolerance_ns;
                    is_allowed.then(|| full_at_ns.max(now_ns).saturating_add(interval_ns))
                });
        match taken {
            Ok(_) => Ok(()),
            Err(full_at_ns) => Err(Duration::from_nanos(full_at_ns - now_ns - tolerance_ns)),
        }
    }

    /// Whether the bucket is full at `now_ns`. A full bucket may be removed: a new one is full too.
    pub(super) fn is_full(&self, now_ns: u64) -> bool {
        self.full_at_ns.load(Ordering::Relaxed) <= now_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate { per_second, burst }
    }

    /// Each step has a time in ms, the number of calls, and how many of them pass.
    fn check(rate: Rate, steps: &[(u64, u32, u32)]) {
        let bucket = Bucket::default();
        for &(at_ms, calls, passing) in steps {
            let passed = (0..calls)
                .filter(|_| bucket.check(at_ms * MS, rate).is_ok())
                .count();
            assert_eq!(passed, passing as usize, "{rate:?} at {at_ms} ms");
        }
    }

    #[test]
    fn allows_a_burst() {
        check(rate(30, 30), &[(5, 31, 30)]);
        check(rate(30, 30), &[(0, 30, 30), (0, 1, 0)]);
    }

    #[test]
    fn refills_up_to_the_burst() {
        check(rate(30, 30), &[(0, 40, 30), (34, 5, 1), (100, 5, 2)]);
        check(rate(30, 30), &[(0, 40, 30), (1000, 40, 30)]);
        check(rate(30, 30), &[(0, 40, 30), (3_600_000, 40, 30)]);
        check(rate(2, 1), &[(0, 5, 1), (499, 5, 0), (500, 5, 1)]);
        check(rate(5, 10), &[(0, 20, 10), (1000, 20, 5)]);
    }

    #[test]
    fn zero_rate_is_unlimited() {
        check(rate(0, 1), &[(0, 1000, 1000)]);
        check(rate(10, 0), &[(0, 3, 1)]);
    }

    #[test]
    fn wait_is_exact() {
        let (bucket, rate) = (Bucket::default(), rate(30, 30));
        for _ in 0..30 {
            bucket.check(0, rate).unwrap();
        }
        let wait = bucket.check(0, rate).unwrap_err();
        assert_eq!(wait, Duration::from_nanos(33_333_333));
        let wait_ns = u64::try_from(wait.as_nanos()).unwrap();
        assert!(bucket.check(wait_ns - 1, rate).is_err());
        assert!(bucket.check(wait_ns, rate).is_ok());
    }

    #[test]
    fn extreme_values_stay_limited() {
        check(rate(u32::MAX, 1), &[(0, 3, 1)]);
        let bucket = Bucket::default();
        assert!(bucket.check(u64::MAX, rate(1, u32::MAX)).is_ok());
        assert!(bucket.check(0, rate(1, 1)).is_err());
    }

    #[test]
    fn older_time_refills_nothing() {
        let (bucket, rate) = (Bucket::default(), rate(10, 2));
        assert!(bucket.check(1000 * MS, rate).is_ok());
        assert!(bucket.check(999 * MS, rate).is_err());
    }

    #[test]
    fn concurrent_calls_get_one_burst() {
        let bucket = Bucket::default();
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..2000)
                            .filter(|_| bucket.check(7 * MS, rate(30, 1000)).is_ok())
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(passed, 1000);
    }
}
