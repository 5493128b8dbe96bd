//! Building blocks of the metrics: counters, gauges, closed sets of label values, and values with one copy per thread.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread::available_parallelism,
};

/// A number that only grows. Relaxed ordering is enough: no other memory depends on it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `more`.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number of things that exist at the moment.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    /// Adds one until the guard is dropped.
    pub(crate) fn enter(&self) -> Entered<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(self)
    }

    /// Sets the value. For gauges with a single writer.
    pub(crate) fn set(&self, number: usize) {
        self.0.store(number as u64, Ordering::Relaxed);
    }

    /// The current value.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Guard of [`Gauge::enter`].
#[derive(Debug)]
pub(crate) struct Entered<'a>(&'a Gauge);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Upper limit of shards. More threads share them. One shard of the request counters has 8 KB.
const SHARDS_MAX: usize = 64;

/// One `T` per thread, so that threads do not write to the same cache lines. If there are more threads than twice the
/// number of cores, some share a shard, and the sums are still correct.
#[derive(Debug)]
pub(super) struct Sharded<T> {
    /// A power of two, so that a mask maps a thread's number to an index.
    shards: Box<[Apart<T>]>,
}

/// Aligned to a pair of cache lines, because processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

impl<T> Sharded<T> {
    pub(super) fn new(zero: impl Fn() -> T) -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        let shards = (2 * cores).next_power_of_two().min(SHARDS_MAX);
        Self {
            shards: (0..shards).map(|_| Apart(zero())).collect(),
        }
    }

    /// The shard of this thread.
    pub(super) fn mine(&self) -> &T {
        &self.shards[thread_number() & (self.shards.len() - 1)].0
    }

    /// A counter's sum over all threads.
    pub(super) fn sum(&self, counter: impl Fn(&T) -> &Counter) -> u64 {
        self.iter().map(|shard| counter(shard).get()).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.shards.iter().map(|shard| &shard.0)
    }
}

/// The number of this thread. Threads are numbered when they count for the first time. Blocking threads count nothing
/// that is sharded, so the runtime's few threads get consecutive numbers, and thus separate shards.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    const UNKNOWN: usize = usize::MAX;
    thread_local! {
        // `const` and without a destructor, so reading it is a single load.
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

/// A closed set of label values, defined by `label!`.
pub(crate) trait Label: Copy + 'static {
    /// All values in the order of their indices.
    const ALL: &'static [Self];

    /// The label's text.
    fn name(self) -> &'static str;
}

/// Defines a [`Label`]: an enum, the list of its variants, and their texts.
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
            /// The number of variants.
            pub(crate) const COUNT: usize = <Self as $crate::metrics::Label>::ALL.len();

            /// The index in an array of [`Self::COUNT`] elements.
            pub(crate) const fn index(self) -> usize {
                self as usize
            }
        }

        impl $crate::metrics::Label for $name {
            const ALL: &'static [Self] = &[$(Self::$member),+];

            fn name(self) -> &'static str {
                match self {
                    $(Self::$member => $text,)+
                }
            }
        }
    };
}
pub(super) use label;
