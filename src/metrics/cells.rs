//! The cells: counters, gauges, closed sets of labels, and what is kept once for each thread.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread::available_parallelism,
};

/// A number that goes up. Relaxed: nothing is concluded from it but the number.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `more`.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters that have counted nothing.
pub(super) const fn zeros<const N: usize>() -> [Counter; N] {
    [const { Counter(AtomicU64::new(0)) }; N]
}

/// How many there are now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more, until the guard is dropped.
    pub fn enter(&self) -> Entered<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(self)
    }

    /// Sets the number, where one place alone knows it.
    pub fn set(&self, number: usize) {
        self.0.store(number as u64, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of those that a [`Gauge`] counts.
#[derive(Debug)]
pub struct Entered<'a>(&'a Gauge);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The most shards: over that, threads share them. A shard of the requests' cells has 8 KB.
const SHARDS_MAX: usize = 64;

/// One `T` for each thread that counts, as long as there are no more of them than twice the cores: a thread
/// of the pipeline then writes to cache lines that no other one writes to. With more, the counts are still right.
#[derive(Debug)]
pub(super) struct Sharded<T> {
    /// A power of two of them, so that a thread's number becomes an index by a mask.
    shards: Box<[Apart<T>]>,
}

/// At an address of its own pair of cache lines: processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

impl<T> Sharded<T> {
    pub(super) fn new(zero: impl Fn() -> T) -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        let shards = (2 * cores).next_power_of_two().min(SHARDS_MAX);
        Self {
            shards: (0..shards).map(|_| Apart(zero())).collect(),
        }
    }

    /// This thread's.
    pub(super) fn mine(&self) -> &T {
        &self.shards[thread_number() & (self.shards.len() - 1)].0
    }

    /// A counter's number over all threads.
    pub(super) fn sum(&self, counter: impl Fn(&T) -> &Counter) -> u64 {
        self.iter().map(|shard| counter(shard).get()).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.shards.iter().map(|shard| &shard.0)
    }
}

/// Threads are numbered in the order in which they count for the first time; what blocks counts nothing that is
/// sharded, so the few threads of the runtime get neighbouring numbers, and so shards of their own.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    const UNKNOWN: usize = usize::MAX;
    thread_local! {
        // Const and without a destructor: reading it is one load.
        static NUMBER: Cell<usize> = const { Cell::new(UNKNOWN) };
    }
    let number = NUMBER.get();
    if number != UNKNOWN {
        return number;
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    NUMBER.set(number);
    number
}

/// A closed set of a label's values: an enum, its members in order, their texts.
macro_rules! label {
    (
        $(#[$about:meta])*
        pub enum $name:ident {
            $($(#[$member_about:meta])* $member:ident = $text:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$member_about])* $member,)+
        }

        impl $name {
            /// All of them, in the order of their indices.
            pub const ALL: &'static [Self] = &[$(Self::$member),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The label's text.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$member => $text,)+
                }
            }

            /// Its place in an array of [`Self::COUNT`].
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}
pub(super) use label;
