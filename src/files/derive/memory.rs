//! What was made and what could not be made, in memory. Key, bound and staleness of both: `derive.rs`.

use std::{sync::Arc, time::Duration};

use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};

use super::Derivative;
use crate::{
    error::{Error, Kind, Result},
    store::{DerivedName, Key, ObjectId},
    time::{Clock, Timestamp},
};

/// Failures remembered: some 200 bytes each.
const FAILURES_MAX: usize = 16_384;
/// What an entry without a body weighs.
const ENTRY_BYTES: u64 = 256;

pub(super) type Made = Cache<(Key, DerivedName), Derivative, Weight>;

#[derive(Clone)]
pub(in crate::files) struct Weight;

impl Weighter<(Key, DerivedName), Derivative> for Weight {
    fn weight(&self, _: &(Key, DerivedName), derivative: &Derivative) -> u64 {
        match derivative {
            Derivative::Made(file) => file.bytes.len() as u64 + ENTRY_BYTES,
            Derivative::Original => ENTRY_BYTES,
        }
    }
}

/// Shards so large that a derivative of any size has a place: the map keeps nothing larger than its shard.
pub(super) fn made(bytes_max: u64) -> Made {
    /// What a thumbnail of 170 × 170 takes, for the map's first size.
    const TYPICAL_BYTES: u64 = 8 << 10;
    const SHARD_BYTES: u64 = 16 << 20;
    const SHARDS_MAX: u64 = 64;
    let shards = (bytes_max / SHARD_BYTES).clamp(1, SHARDS_MAX);
    let estimate = usize::try_from(bytes_max / TYPICAL_BYTES).unwrap_or(usize::MAX);
    let options = OptionsBuilder::new()
        .estimated_items_capacity(estimate)
        .weight_capacity(bytes_max)
        .shards(usize::try_from(shards).unwrap_or(1))
        .build()
        .expect("both capacities are set");
    Cache::with_options(
        options,
        Weight,
        DefaultHashBuilder::default(),
        DefaultLifecycle::default(),
    )
}

/// What cannot be made, for a while.
pub(super) struct Failures {
    cache: Cache<(Key, Making), Failure>,
    memory: Duration,
    clock: Clock,
}

/// An error that is believed for a while.
#[derive(Clone)]
struct Failure {
    kind: Kind,
    text: Option<Arc<str>>,
    until: Timestamp,
}

/// What cannot be made of an object: a picture that cannot be decoded has no thumbnail of any size.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Making {
    Thumbnail,
    Frame,
    Mp3,
    Amr,
}

impl Making {
    fn of(name: DerivedName) -> Self {
        match name {
            DerivedName::Thumbnail(_) => Self::Thumbnail,
            DerivedName::Frame => Self::Frame,
            DerivedName::Mp3 => Self::Mp3,
            DerivedName::Amr => Self::Amr,
        }
    }
}

impl Failures {
    pub(super) fn new(memory: Duration, clock: Clock) -> Self {
        Self {
            cache: Cache::new(FAILURES_MAX),
            memory,
            clock,
        }
    }

    /// # Errors
    /// The one that is remembered.
    pub(super) fn check(&self, key: Key, name: DerivedName) -> Result<()> {
        let failure_key = (key, Making::of(name));
        match self.cache.get(&failure_key) {
            Some(failure) if self.clock.now() < failure.until => Err(failure.into()),
            Some(_) => {
                self.cache.remove(&failure_key);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Remembers what is the file's fault; anything else may go well the next time.
    pub(super) fn remember(&self, key: Key, name: DerivedName, error: &Error) {
        if !matches!(error.kind(), Kind::NoThumbnail | Kind::NotConvertible) {
            return;
        }
        tracing::info!(id = %key.id, %error, "no derivative can be made");
        let failure = Failure {
            kind: error.kind(),
            text: error.public_text().map(Arc::from),
            until: self.clock.now().plus(self.memory),
        };
        self.cache.insert((key, Making::of(name)), failure);
    }

    pub(super) fn forget(&self, id: ObjectId) {
        self.cache.retain(|(failed, _), _| failed.id != id);
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let error = Self::new(failure.kind);
        match failure.text {
            Some(text) => error.public(text.to_string()),
            None => error,
        }
    }
}
