//! Histograms of durations, counted without a lock.

use std::time::Duration;

use super::cells::Counter;

/// Upper bounds of the buckets, inclusive; a last bucket has no bound. The range goes from a small download that is in
/// memory to the longest time that a client waits.
pub(super) const BOUNDS: [Duration; 20] = {
    const MICROSECONDS: [u64; 20] = [
        10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000,
        500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
    ];
    let mut bounds = [Duration::ZERO; 20];
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = Duration::from_micros(MICROSECONDS[at]);
        at += 1;
    }
    bounds
};

const BUCKETS: usize = BOUNDS.len() + 1;

/// Durations by bucket, and their sum. The number of durations is the sum of the buckets.
#[derive(Debug, Default)]
pub(super) struct Durations {
    /// In nanoseconds. Overflows after 584 years.
    sum_ns: Counter,
    buckets: [Counter; BUCKETS],
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
