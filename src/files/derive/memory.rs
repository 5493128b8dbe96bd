//! Caches in memory: derivatives, reduced pictures, and failures.
//!
//! Key, bound and staleness of each: `derive.rs`.

use std::{hash::Hash, sync::Arc, time::Duration};

use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};

use super::rendition::Rendition;
use crate::{
    derivative::{BoundingBox, Derivative},
    error::{Error, Kind, Result},
    media::thumbnail::Reduced,
    store::ObjectId,
    time::{Clock, Timestamp},
};

/// Failures in memory, of about 200 bytes each.
const FAILURES_MAX: usize = 16_384;
/// The weight of an entry without a body.
const ENTRY_BYTES: u64 = 256;

/// Derivatives by object, not by key: a forwarded object shares its derivatives.
pub(super) type Made = Cache<(ObjectId, Derivative), Rendition, Weight>;
/// Reduced pictures by object and box.
pub(super) type Reductions = Cache<(ObjectId, BoundingBox), Arc<Reduced>, Weight>;

#[derive(Clone)]
pub(in crate::files) struct Weight;

impl Weighter<(ObjectId, BoundingBox), Arc<Reduced>> for Weight {
    fn weight(&self, _: &(ObjectId, BoundingBox), reduced: &Arc<Reduced>) -> u64 {
        reduced.bytes() + ENTRY_BYTES
    }
}

impl Weighter<(ObjectId, Derivative), Rendition> for Weight {
    fn weight(&self, _: &(ObjectId, Derivative), rendition: &Rendition) -> u64 {
        match rendition {
            Rendition::Made(file) => file.bytes.len() as u64 + ENTRY_BYTES,
            Rendition::Original => ENTRY_BYTES,
        }
    }
}

pub(super) fn made(bytes_max: u64) -> Made {
    /// A thumbnail of 170 × 170, for the initial size of the map.
    const TYPICAL_BYTES: u64 = 8 << 10;
    cache(bytes_max, TYPICAL_BYTES)
}

pub(super) fn reductions(bytes_max: u64) -> Reductions {
    /// 512 × 384 pixels.
    const TYPICAL_BYTES: u64 = 576 << 10;
    cache(bytes_max, TYPICAL_BYTES)
}

/// A cache with shards that are large enough for a derivative of any size: an entry larger than its shard is not kept.
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

/// Derivatives that could not be made, each for a limited time.
pub(super) struct Failures {
    cache: Cache<(ObjectId, Derivative), Failure>,
    memory: Duration,
    clock: Clock,
}

/// An error that is returned again until a time.
#[derive(Clone)]
struct Failure {
    kind: Kind,
    text: Option<Arc<str>>,
    until: Timestamp,
}

/// The key of a failure. A picture that cannot be decoded has no thumbnail of any size.
fn failure_key(id: ObjectId, derivative: Derivative) -> (ObjectId, Derivative) {
    match derivative {
        Derivative::Thumbnail(_) => (id, Derivative::Thumbnail(BoundingBox::DEFAULT)),
        Derivative::VideoFrame | Derivative::Voice(_) => (id, derivative),
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

    /// Fails where making this derivative has failed a short time ago.
    ///
    /// # Errors
    /// The error of that time.
    pub(super) fn check(&self, id: ObjectId, derivative: Derivative) -> Result<()> {
        let failure_key = failure_key(id, derivative);
        match self.cache.get(&failure_key) {
            Some(failure) if self.clock.now() < failure.until => Err(failure.into()),
            Some(_) => {
                self.cache.remove(&failure_key);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Remembers an error that is caused by the file. Any other error may not occur the next time. The cause is logged,
    /// since it names the setting where a limit is too low.
    pub(super) fn remember(&self, id: ObjectId, derivative: Derivative, error: &Error) {
        if !matches!(error.kind(), Kind::NoThumbnail | Kind::NotConvertible) {
            return;
        }
        tracing::info!(%id, %error, "a derivative cannot be made");
        let failure = Failure {
            kind: error.kind(),
            text: error.public_text().map(Arc::from),
            until: self.clock.now().plus(self.memory),
        };
        self.cache.insert(failure_key(id, derivative), failure);
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
    use crate::{derivative::VoiceFormat, files::derive::rendition::DerivedFile, store::Derived};

    const MP3: Derivative = Derivative::Voice(VoiceFormat::Mp3);

    fn rendition(len: usize) -> Rendition {
        Rendition::Made(Arc::new(DerivedFile::new(Derived {
            content_type: "image/jpeg".into(),
            bytes: Bytes::from(vec![7; len]),
        })))
    }

    fn thumbnail(side: u16) -> Derivative {
        Derivative::Thumbnail(BoundingBox::square(side))
    }

    fn id(last: u8) -> ObjectId {
        ObjectId::new(Timestamp::from_ms(1_795_000_123_456), &[last; 10])
    }

    #[test]
    fn derivatives_stay_within_budget() {
        for bytes_max in [1 << 20, 64 << 20] {
            let made = made(bytes_max);
            for side in 1..=2000 {
                for derivative in [thumbnail(side), Derivative::VideoFrame, MP3] {
                    made.insert((id(side as u8), derivative), rendition(50_000));
                    assert!(made.weight() <= bytes_max, "{} {derivative}", made.weight());
                }
            }
            assert!(made.weight() > bytes_max / 2, "{}", made.weight());
        }
    }

    #[test]
    fn default_budget_holds_large_derivatives() {
        let made = made(64 << 20);
        // As large as a voice of ten minutes, or a picture of 2048 × 2048 pixels of noise.
        for (number, len) in [2_400_000, 4_300_000, 8 << 20].into_iter().enumerate() {
            let entry = (id(number as u8), MP3);
            made.insert(entry, rendition(len));
            assert!(made.get(&entry).is_some(), "{len}");
        }
    }

    #[test]
    fn remembers_failures_for_any_size() {
        let clock = Clock::adjustable();
        let failures = Failures::new(Duration::from_secs(60), clock.clone());
        let error = Error::new(Kind::NoThumbnail).public("broken");
        failures.remember(id(1), thumbnail(170), &error);
        failures.remember(id(2), MP3, &Kind::Unavailable(Duration::ZERO).into());
        let told = failures.check(id(1), thumbnail(90)).unwrap_err();
        assert_eq!(
            (told.kind(), told.public_text()),
            (Kind::NoThumbnail, Some("broken"))
        );
        assert!(failures.check(id(1), Derivative::VideoFrame).is_ok());
        assert!(failures.check(id(2), MP3).is_ok(), "no fault of the file");
        clock.advance(60_000);
        assert!(failures.check(id(1), thumbnail(90)).is_ok());
    }
}
