//! Histograms of durations, counted without a lock.

use std::time::Duration;

use super::cells::{Counter, zeros};

/// Upper bounds of the buckets, inclusive; a last bucket has no bound. The range goes from a small download that is in
/// memory to the longest time that a client waits.
pub(super) const BOUNDS: [Duration; 20] = {
    const fn us(microseconds: u64) -> Duration {
        Duration::from_micros(microseconds)
    }
    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }
    [
        us(10),
        us(25),
        us(50),
        us(100),
        us(250),
        us(500),
        ms(1),
        us(2500),
        ms(5),
        ms(10),
        ms(25),
        ms(50),
        ms(100),
        ms(250),
        ms(500),
        ms(1000),
        ms(2500),
        ms(5000),
        ms(10_000),
        ms(30_000),
    ]
};

const BUCKETS: usize = BOUNDS.len() + 1;

/// Durations by bucket, and their sum. The number of durations is the sum of the buckets.
#[derive(Debug)]
pub(super) struct Durations {
    /// In nanoseconds. Overflows after 584 years.
    sum_ns: Counter,
    buckets: [Counter; BUCKETS],
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            sum_ns: Counter::default(),
            buckets: zeros(),
        }
    }
}

impl Durations {
    pub(super) fn observe(&self, took: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < took);
        self.buckets[bucket].add(1);
        self.sum_ns
            .add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// A snapshot of one or more [`Durations`]. If durations are recorded meanwhile, the sum may differ from the buckets by a
/// few of them; the buckets are consistent with each other.
#[derive(Debug, Clone, Default)]
pub(super) struct Distribution {
    sum_ns: u64,
    buckets: [u64; BUCKETS],
}

impl Distribution {
    pub(super) fn of(durations: &Durations) -> Self {
        let mut distribution = Self::default();
        distribution.add(durations);
        distribution
    }

    pub(super) fn add(&mut self, durations: &Durations) {
        self.sum_ns = self.sum_ns.wrapping_add(durations.sum_ns.get());
        for (number, bucket) in self.buckets.iter_mut().zip(&durations.buckets) {
            *number += bucket.get();
        }
    }

    pub(super) fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The upper bound of each bucket in seconds, and the number of durations in it. Not cumulative.
    pub(super) fn buckets(&self) -> [(f64, u64); BUCKETS] {
        std::array::from_fn(|at| {
            let bound = BOUNDS
                .get(at)
                .map_or(f64::INFINITY, |bound| bound.as_nanos() as f64 / 1e9);
            (bound, self.buckets[at])
        })
    }
}
