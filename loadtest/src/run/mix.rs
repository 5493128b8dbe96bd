//! Random choices: a kind of request by weight, a file by popularity, a length by class.

use rand::{Rng, RngExt as _};
use rand_distr::{Distribution as _, Zipf, weighted::WeightedAliasIndex};

use crate::Error;

/// Chooses an index by weight in constant time.
#[derive(Debug, Clone)]
pub(crate) struct Weighted(WeightedAliasIndex<f64>);

impl Weighted {
    /// Weights must be finite and not negative, and at least one must be positive.
    pub(crate) fn new(weights: Vec<f64>) -> Result<Self, Error> {
        let index = WeightedAliasIndex::new(weights);
        Ok(Self(index.map_err(|error| format!("weights: {error}"))?))
    }

    pub(crate) fn choose(&self, random: &mut impl Rng) -> usize {
        self.0.sample(random)
    }
}

/// Chooses files by Zipf's law: the file of rank n has the weight n^-exponent.
#[derive(Debug, Clone)]
pub(crate) struct Popularity {
    zipf: Zipf<f64>,
    count: usize,
}

impl Popularity {
    /// For `count` files; the exponent is 0 (uniform) or more.
    pub(crate) fn new(count: usize, exponent: f64) -> Result<Self, Error> {
        let zipf = Zipf::new(count as f64, exponent);
        let zipf = zipf.map_err(|error| format!("zipf_exponent, of {count} files: {error}"))?;
        Ok(Self { zipf, count })
    }

    /// An index below `count`; 0 is the most popular.
    pub(crate) fn choose(&self, random: &mut impl Rng) -> usize {
        let rank = self.zipf.sample(random) as usize;
        rank.clamp(1, self.count) - 1
    }
}

/// A length between two bounds (inclusive), with a uniform logarithm, as file sizes have.
pub(crate) fn length([min, max]: [u64; 2], random: &mut impl Rng) -> u64 {
    let (low, high) = ((min.max(1) as f64).ln(), (max.max(1) as f64).ln());
    let drawn = (low + (high - low) * random.random::<f64>()).exp();
    (drawn.round() as u64).clamp(min, max)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::SmallRng};

    use super::*;

    const SEED: u64 = 20_260_102;

    #[test]
    fn popularity_follows_zipf() {
        let count = 1000;
        let draws = 200_000;
        for exponent in [0.0, 0.8, 1.0, 1.3] {
            let popularity = Popularity::new(count, exponent).unwrap();
            let mut random = SmallRng::seed_from_u64(SEED);
            let mut seen = vec![0u32; count];
            (0..draws).for_each(|_| seen[popularity.choose(&mut random)] += 1);
            let all: f64 = (1..=count).map(|n| (n as f64).powf(-exponent)).sum();
            // Shares of ever larger groups of ranks, each within five standard errors.
            let mut from = 0;
            for to in [1, 2, 4, 16, 128, count] {
                let share: f64 = (from..to)
                    .map(|n| (n as f64 + 1.0).powf(-exponent) / all)
                    .sum();
                let found = f64::from(seen[from..to].iter().sum::<u32>()) / f64::from(draws);
                let error = (share * (1.0 - share) / f64::from(draws)).sqrt();
                let off = (found - share).abs();
                assert!(
                    off < 5.0 * error + 1e-9,
                    "seed {SEED}: {exponent} {to} {found} {share}"
                );
                from = to;
            }
        }
    }

    #[test]
    fn single_file_is_always_chosen() {
        let mut random = SmallRng::seed_from_u64(SEED);
        assert_eq!(Popularity::new(1, 1.0).unwrap().choose(&mut random), 0);
        assert!(Popularity::new(0, 1.0).is_err());
    }

    #[test]
    fn kinds_follow_weights() {
        let weighted = Weighted::new(vec![6.0, 0.0, 2.0]).unwrap();
        let mut random = SmallRng::seed_from_u64(SEED);
        let mut seen = [0u32; 3];
        (0..40_000).for_each(|_| seen[weighted.choose(&mut random)] += 1);
        assert_eq!(seen[1], 0);
        assert!((29_500..30_500).contains(&seen[0]), "seed {SEED}: {seen:?}");
        assert!(Weighted::new(vec![0.0]).is_err());
    }

    /// Half of them are below the geometric mean.
    #[test]
    fn lengths_stay_within_bounds() {
        let mut random = SmallRng::seed_from_u64(SEED);
        let mut lengths = || length([5_000, 50_000], &mut random);
        let drawn: Vec<u64> = (0..20_000).map(|_| lengths()).collect();
        assert!(drawn.iter().all(|len| (5_000..=50_000).contains(len)));
        let below = drawn.iter().filter(|len| **len < 15_811).count();
        assert!((9_700..10_300).contains(&below), "seed {SEED}: {below}");
        assert_eq!(length([9, 9], &mut random), 9);
        assert_eq!(length([0, 0], &mut random), 0);
    }
}
