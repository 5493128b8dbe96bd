//! Caches in memory: what was made, what other sizes are shrunk from, and what could not be made.
//!
//! Key, bound and staleness of each: `derive.rs`.

use std::{hash::Hash, sync::Arc, time::Duration};

use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};

use super::Derivative;
use crate::{
    error::{Error, Kind, Result},
    media::thumbnail::Reduced,
    store::{DerivedName, ObjectId},
    time::{Clock, Timestamp},
};

/// Failures remembered: some 200 bytes each.
const FAILURES_MAX: usize = 16_384;
/// What an entry without a body weighs.
const ENTRY_BYTES: u64 = 256;

/// By object, not by key: a forwarded object shares what was made of it.
pub(super) type Made = Cache<(ObjectId, DerivedName), Derivative, Weight>;
/// Pictures that sizes are shrunk from, by object and side of their box.
pub(super) type Reductions = Cache<(ObjectId, u32), Arc<Reduced>, Weight>;

#[derive(Clone)]
pub(in crate::files) struct Weight;

impl Weighter<(ObjectId, u32), Arc<Reduced>> for Weight {
    fn weight(&self, _: &(ObjectId, u32), reduced: &Arc<Reduced>) -> u64 {
        reduced.bytes() + ENTRY_BYTES
    }
}

impl Weighter<(ObjectId, DerivedName), Derivative> for Weight {
    fn weight(&self, _: &(ObjectId, DerivedName), derivative: &Derivative) -> u64 {
        match derivative {
            Derivative::Made(file) => file.bytes.len() as u64 + ENTRY_BYTES,
            Derivative::Original => ENTRY_BYTES,
        }
    }
}

pub(super) fn made(bytes_max: u64) -> Made {
    /// What a thumbnail of 170 × 170 takes, for the map's first size.
    const TYPICAL_BYTES: u64 = 8 << 10;
    cache(bytes_max, TYPICAL_BYTES)
}

pub(super) fn reductions(bytes_max: u64) -> Reductions {
    /// 512 × 384 pixels.
    const TYPICAL_BYTES: u64 = 576 << 10;
    cache(bytes_max, TYPICAL_BYTES)
}

/// Shards so large that a derivative of any size has a place: the map keeps nothing larger than its shard.
fn cache<K: Eq + Hash, V: Clone>(bytes_max: u64, typical_bytes: u64) -> Cache<K, V, Weight>
where
    Weight: Weighter<K, V>,
{
    const SHARD_BYTES: u64 = 16 << 20;
    const SHARDS_MAX: u64 = 64;
    let shards = (bytes_max / SHARD_BYTES).clamp(1, SHARDS_MAX);
    let estimate = usize::try_from(bytes_max / typical_bytes).unwrap_or(usize::MAX);
    let options = OptionsBuilder::new()
        .estimated_items_capacity(estimate.max(1))
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
    cache: Cache<(ObjectId, Making), Failure>,
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
    pub(super) fn check(&self, id: ObjectId, name: DerivedName) -> Result<()> {
        let failure_key = (id, Making::of(name));
        match self.cache.get(&failure_key) {
            Some(failure) if self.clock.now() < failure.until => Err(failure.into()),
            Some(_) => {
                self.cache.remove(&failure_key);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Remembers what is the file's fault; anything else may go well the next time. The reason is logged: it names the
    /// setting where one is too small.
    pub(super) fn remember(&self, id: ObjectId, name: DerivedName, error: &Error) {
        if !matches!(error.kind(), Kind::NoThumbnail | Kind::NotConvertible) {
            return;
        }
        tracing::info!(%id, %error, "no derivative can be made");
        let failure = Failure {
            kind: error.kind(),
            text: error.public_text().map(Arc::from),
            until: self.clock.now().plus(self.memory),
        };
        self.cache.insert((id, Making::of(name)), failure);
    }

    pub(super) fn forget(&self, id: ObjectId) {
        self.cache.retain(|(failed, _), _| *failed != id);
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        files::derive::DerivedFile,
        store::{BoundingBox, Derived},
    };

    fn derivative(len: usize) -> Derivative {
        Derivative::Made(Arc::new(DerivedFile::new(Derived {
            content_type: "image/jpeg".into(),
            bytes: Bytes::from(vec![7; len]),
        })))
    }

    fn thumbnail(side: u16) -> DerivedName {
        DerivedName::Thumbnail(BoundingBox {
            width: side,
            height: side,
        })
    }

    fn id(last: u8) -> ObjectId {
        ObjectId::new(Timestamp::from_ms(1_795_000_123_456), &[last; 10])
    }

    #[test]
    fn all_derivatives_together_stay_within_one_budget() {
        for bytes_max in [1 << 20, 64 << 20] {
            let made = made(bytes_max);
            for side in 1..=2000 {
                for name in [thumbnail(side), DerivedName::Frame, DerivedName::Mp3] {
                    made.insert((id(side as u8), name), derivative(50_000));
                    assert!(made.weight() <= bytes_max, "{} {name}", made.weight());
                }
            }
            assert!(made.weight() > bytes_max / 2, "{}", made.weight());
        }
    }

    #[test]
    fn the_default_budget_has_a_place_for_large_derivatives_too() {
        let made = made(64 << 20);
        // As large as a voice of ten minutes, or a picture of 2048 × 2048 pixels of noise.
        for (number, len) in [2_400_000, 4_300_000, 8 << 20].into_iter().enumerate() {
            let entry = (id(number as u8), DerivedName::Mp3);
            made.insert(entry, derivative(len));
            assert!(made.get(&entry).is_some(), "{len}");
        }
    }

    #[test]
    fn a_failure_is_believed_for_its_time_whatever_the_size_that_was_asked_for() {
        let clock = Clock::adjustable();
        let failures = Failures::new(Duration::from_secs(60), clock.clone());
        let error = Error::new(Kind::NoThumbnail).public("broken");
        failures.remember(id(1), thumbnail(170), &error);
        failures.remember(
            id(2),
            DerivedName::Mp3,
            &Kind::Unavailable(Duration::ZERO).into(),
        );
        let told = failures.check(id(1), thumbnail(90)).unwrap_err();
        assert_eq!(
            (told.kind(), told.public_text()),
            (Kind::NoThumbnail, Some("broken"))
        );
        assert!(failures.check(id(1), DerivedName::Frame).is_ok());
        assert!(
            failures.check(id(2), DerivedName::Mp3).is_ok(),
            "no fault of the file"
        );
        clock.advance(60_000);
        assert!(failures.check(id(1), thumbnail(90)).is_ok());
    }
}
