//! How many bytes may be on their way in at once, over all callers: one atomic word.
//!
//! A caller holds what it is about to bring, before it brings it. Who holds how much, and what a refusal looks
//! like, is not decided here.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::{Counter, UploadLevels};

/// So many bytes, and who holds some of them.
#[derive(Debug)]
pub struct Budget {
    held_bytes: AtomicU64,
    bytes_max: u64,
    refusals: Counter,
}

/// Bytes of a [`Budget`], given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct Held<'b> {
    budget: &'b Budget,
    bytes: u64,
    /// Asked for and not taken yet.
    rest: u64,
}

impl Budget {
    /// Of `bytes_max` bytes, none of them held.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            held_bytes: AtomicU64::new(0),
            bytes_max,
            refusals: Counter::default(),
        }
    }

    /// Takes so many bytes; `None` where fewer are left, which is counted.
    pub fn hold(&self, bytes: u64) -> Option<Held<'_>> {
        self.hold_some(bytes, bytes)
    }

    /// Where there is room for so many bytes, takes `first` of them, and the rest by [`Held::take_rest`]: for
    /// a caller that is nobody yet.
    pub fn hold_some(&self, bytes: u64, first: u64) -> Option<Held<'_>> {
        let first = first.min(bytes);
        self.take(first, bytes).then(|| Held {
            budget: self,
            bytes: first,
            rest: bytes - first,
        })
    }

    /// Takes so many bytes where there is `room`; else counts a refusal.
    ///
    /// Lock-free, as `gcra.rs` is: each failed turn of the loop means that another call succeeded.
    fn take(&self, bytes: u64, room: u64) -> bool {
        // Relaxed: the word guards no other memory, and one atomic has one order of changes by itself.
        let mut seen = self.held_bytes.load(Ordering::Relaxed);
        loop {
            let has_room = seen
                .checked_add(room)
                .is_some_and(|after| after <= self.bytes_max);
            if !has_room {
                self.refusals.add(1);
                return false;
            }
            match self.held_bytes.compare_exchange_weak(
                seen,
                seen + bytes,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(changed) => seen = changed,
            }
        }
    }

    /// What is held now, of how much, and how often there was too little.
    pub fn levels(&self) -> UploadLevels {
        UploadLevels {
            in_flight_bytes: self.held_bytes.load(Ordering::Relaxed),
            in_flight_bytes_max: self.bytes_max,
            refusals: self.refusals.get(),
        }
    }
}

impl Held<'_> {
    /// Takes what was asked for and is not held yet, or none of it where others have it meanwhile, which is counted.
    #[must_use]
    pub fn take_rest(&mut self) -> bool {
        let is_taken = self.rest == 0 || self.budget.take(self.rest, self.rest);
        if is_taken {
            self.bytes += std::mem::take(&mut self.rest);
        }
        is_taken
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.budget
            .held_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes held, and refusals so far.
    fn levels(budget: &Budget) -> (u64, u64) {
        let levels = budget.levels();
        (levels.in_flight_bytes, levels.refusals)
    }

    #[test]
    fn what_fits_is_held_until_its_guard_is_dropped() {
        let budget = Budget::new(100);
        let (first, second) = (budget.hold(60).unwrap(), budget.hold(40).unwrap());
        assert!(budget.hold(1).is_none());
        assert!(budget.hold(0).is_some(), "nothing always fits");
        assert_eq!(levels(&budget), (100, 1));
        drop(first);
        assert!(budget.hold(61).is_none());
        assert!(budget.hold(60).is_some());
        drop(second);
        assert_eq!(levels(&budget), (0, 2));
    }

    #[test]
    fn a_part_is_held_first_where_there_is_room_for_the_whole() {
        let budget = Budget::new(100);
        assert!(budget.hold_some(101, 10).is_none());
        let mut first = budget.hold_some(80, 10).unwrap();
        let mut other = budget.hold_some(80, 10).unwrap();
        assert_eq!(levels(&budget), (20, 1));
        assert!(first.take_rest() && first.take_rest());
        assert!(!other.take_rest());
        assert_eq!(levels(&budget), (90, 2));
        drop(first);
        assert!(other.take_rest());
        assert_eq!(levels(&budget), (80, 2));
        let mut small = budget.hold_some(5, 10).unwrap();
        assert!(small.take_rest());
        assert_eq!(levels(&budget), (85, 2));
        drop((other, small));
        assert_eq!(levels(&budget), (0, 2));
    }

    #[test]
    fn a_number_without_end_is_refused_and_holds_nothing() {
        let budget = Budget::new(u64::MAX - 1);
        let _one = budget.hold(1);
        assert!(budget.hold(u64::MAX).is_none());
        assert_eq!(levels(&budget), (1, 1));
    }

    #[test]
    fn the_bound_holds_under_many_threads_and_all_comes_back() {
        const BYTES_MAX: u64 = 1000;
        let (budget, now) = (Budget::new(BYTES_MAX), AtomicU64::new(0));
        let passed: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8_u64)
                .map(|thread| {
                    let (budget, now) = (&budget, &now);
                    scope.spawn(move || {
                        let mut passed = 0;
                        for round in 0..20_000 {
                            let bytes = (thread * 131 + round * 17) % 400;
                            let Some(held) = budget.hold(bytes) else {
                                continue;
                            };
                            // Beside the budget's own word, and before the guard lets go.
                            let sum = now.fetch_add(bytes, Ordering::SeqCst) + bytes;
                            assert!(sum <= BYTES_MAX, "{sum}");
                            if round % 64 == 0 {
                                std::thread::yield_now();
                            }
                            now.fetch_sub(bytes, Ordering::SeqCst);
                            drop(held);
                            passed += 1;
                        }
                        passed
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(levels(&budget), (0, 160_000 - passed));
        assert!(passed > 0);
    }
}
