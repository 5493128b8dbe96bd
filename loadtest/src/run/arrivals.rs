//! The intended start times of requests. In an open loop they do not depend on the server: a request that starts late
//! has waited, and the wait counts. A closed loop has none: a free connection sends at once.

use std::time::Duration;

use rand::{SeedableRng as _, rngs::SmallRng};
use rand_distr::{Distribution as _, Exp};

/// Distribution of start times in an open loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Spread {
    /// Independent users: exponential gaps.
    Poisson,
    /// Equal gaps.
    Uniform,
}

impl Spread {
    /// The name in arguments and reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Poisson => "poisson",
            Self::Uniform => "uniform",
        }
    }
}

/// Start times of one thread, in order, counted from the start of the run.
#[derive(Debug)]
pub(crate) struct Arrivals {
    gaps: Gaps,
    /// In seconds; a sum of gaps in whole nanoseconds would drift from the rate.
    next_s: f64,
}

#[derive(Debug)]
enum Gaps {
    Poisson { gap: Exp<f64>, random: SmallRng },
    Uniform { gap_s: f64 },
}

impl Arrivals {
    /// `per_second` must be finite and positive. `phase`, from 0 to 1, shifts uniform times so that threads alternate.
    /// Poisson streams with different seeds add up to one stream with the sum of their rates.
    pub(crate) fn new(spread: Spread, per_second: f64, phase: f64, seed: u64) -> Self {
        debug_assert!(per_second.is_finite() && per_second > 0.0);
        match spread {
            Spread::Poisson => {
                let gap = Exp::new(per_second).expect("a rate above zero");
                let mut random = SmallRng::seed_from_u64(seed);
                let next_s = gap.sample(&mut random);
                let gaps = Gaps::Poisson { gap, random };
                Self { gaps, next_s }
            }
            Spread::Uniform => {
                let gap_s = 1.0 / per_second;
                let next_s = gap_s * phase;
                let gaps = Gaps::Uniform { gap_s };
                Self { gaps, next_s }
            }
        }
    }

    /// The next start time, not consumed.
    pub(crate) fn next(&self) -> Duration {
        Duration::from_secs_f64(self.next_s)
    }

    /// Consumes the next start time.
    pub(crate) fn take(&mut self) -> Duration {
        let taken = self.next();
        self.next_s += match &mut self.gaps {
            Gaps::Poisson { gap, random } => gap.sample(random),
            Gaps::Uniform { gap_s } => *gap_s,
        };
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 20_260_101;

    /// Gaps in seconds.
    fn gaps(spread: Spread, per_second: f64, count: usize) -> Vec<f64> {
        let mut arrivals = Arrivals::new(spread, per_second, 0.0, SEED);
        let mut last = arrivals.take().as_secs_f64();
        let mut gap = || {
            let next = arrivals.take().as_secs_f64();
            next - std::mem::replace(&mut last, next)
        };
        (0..count).map(|_| gap()).collect()
    }

    #[test]
    fn poisson_gaps_are_exponential() {
        let count = 100_000;
        let gaps = gaps(Spread::Poisson, 5000.0, count);
        let mean = gaps.iter().sum::<f64>() / count as f64;
        // The standard error of the mean is mean/√count, 0.3 %; the bound is four of them.
        assert!(
            (mean * 5000.0 - 1.0).abs() < 0.013,
            "seed {SEED}: mean {mean}"
        );
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count as f64;
        let deviation = variance.sqrt() / mean;
        assert!(
            (deviation - 1.0).abs() < 0.03,
            "seed {SEED}: deviation {deviation}"
        );
        // A share of e⁻¹ of the gaps is longer than the mean.
        let longer = gaps.iter().filter(|gap| **gap > mean).count() as f64 / count as f64;
        assert!(
            (longer - (-1.0f64).exp()).abs() < 0.01,
            "seed {SEED}: {longer}"
        );
    }

    #[test]
    fn poisson_counts_have_mean_and_variance() {
        let (per_second, seconds, runs) = (200.0, 5.0, 400u64);
        let count = |seed| {
            let mut arrivals = Arrivals::new(Spread::Poisson, per_second, 0.0, seed);
            let within = || arrivals.take().as_secs_f64() < seconds;
            std::iter::repeat_with(within)
                .take_while(|within| *within)
                .count() as f64
        };
        let counts: Vec<f64> = (0..runs).map(|run| count(SEED + run)).collect();
        let mean = counts.iter().sum::<f64>() / runs as f64;
        let variance = counts
            .iter()
            .map(|count| (count - mean).powi(2))
            .sum::<f64>()
            / runs as f64;
        // 1000 are expected. The standard error of the mean of 400 runs is √(1000/400) = 1.6, and that of the variance
        // 7 %; the bounds are four of them.
        assert!((mean - 1000.0).abs() < 6.4, "mean {mean}");
        assert!(
            (variance / 1000.0 - 1.0).abs() < 0.28,
            "variance {variance}"
        );
    }

    #[test]
    fn uniform_gaps_do_not_drift() {
        let gaps = gaps(Spread::Uniform, 3000.0, 30_000);
        assert!(gaps.iter().all(|gap| (gap * 3000.0 - 1.0).abs() < 1e-4));
        let sum: f64 = gaps.iter().sum();
        assert!((sum - 10.0).abs() < 1e-6, "{sum}");
    }

    #[test]
    fn uniform_threads_take_turns() {
        let mut first = Arrivals::new(Spread::Uniform, 100.0, 0.0, SEED);
        let mut second = Arrivals::new(Spread::Uniform, 100.0, 0.5, SEED);
        let ms = |arrivals: &mut Arrivals| arrivals.take().as_millis();
        assert_eq!(
            [ms(&mut first), ms(&mut second), ms(&mut first)],
            [0, 5, 10]
        );
    }

    #[test]
    fn same_seed_gives_same_moments() {
        assert_eq!(
            gaps(Spread::Poisson, 10.0, 100),
            gaps(Spread::Poisson, 10.0, 100)
        );
    }
}
