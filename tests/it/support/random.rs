//! Repeatable randomness: the seed is printed, and can be set in the environment.

#![allow(clippy::print_stdout, reason = "shown when a test fails")]

/// A xorshift generator.
pub struct Random(u64);

impl Random {
    /// Takes the seed from `CHATFILES_TEST_SEED` or the operating system, and prints it.
    pub fn new() -> Self {
        let seed = match std::env::var("CHATFILES_TEST_SEED") {
            Ok(text) => text.parse().expect("CHATFILES_TEST_SEED is a number"),
            Err(_) => {
                let mut bytes = [0; 8];
                getrandom::fill(&mut bytes).expect("randomness");
                u64::from_le_bytes(bytes)
            }
        };
        println!("to repeat: CHATFILES_TEST_SEED={seed}");
        Self::from_seed(seed)
    }

    /// Produces the same numbers for the same seed.
    pub fn from_seed(seed: u64) -> Self {
        // Never zero, because xorshift would stay at zero.
        Self(seed.wrapping_mul(2) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// `len` random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes())
            .flatten()
            .take(len)
            .collect()
    }
}
