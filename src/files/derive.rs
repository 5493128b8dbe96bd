//! Thumbnails: found in memory, then on disk, then made; once, however many ask.
//!
//! Key: the object and the derivative's name. Bound: bytes. Staleness: none, an object never changes; a
//! failure is believed for `failure_memory`, so that a broken picture is not decoded at every request.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use hyper::header::HeaderValue;
use quick_cache::{Weighter, sync::Cache};
use sha2::{Digest, Sha256};

use super::{Config, open::OpenFile, pool::Pool};
use crate::{
    error::{Error, Kind, Result},
    media::{self, thumbnail::MediaError},
    store::{BoundingBox, Derived, DerivedName, Key, Store},
    time::{Clock, Timestamp},
};

/// An original of at most this many bytes is its own thumbnail (the contract's rule).
const OWN_THUMBNAIL_BYTES_MAX: u64 = 10 * 1024;
/// What an entry without a body weighs.
const ENTRY_BYTES: u64 = 256;

/// A derivative, ready to be served.
pub struct DerivedFile {
    /// The body.
    pub bytes: Bytes,
    /// Its media type.
    pub content_type: HeaderValue,
    /// Strong: a hash of the bytes.
    pub etag: HeaderValue,
}

/// What to answer where a thumbnail was asked for.
pub enum Thumbnail {
    /// Made from the original.
    Derived(Arc<DerivedFile>),
    /// The original itself.
    Original,
}

#[derive(Clone)]
enum Entry {
    Made(Arc<DerivedFile>),
    /// The original itself: small enough, no larger than what would be made, or of a kind not decoded.
    Original,
    Failed {
        kind: Kind,
        until: Timestamp,
    },
}

#[derive(Clone)]
struct Weight;

impl Weighter<(Key, DerivedName), Entry> for Weight {
    fn weight(&self, _: &(Key, DerivedName), entry: &Entry) -> u64 {
        match entry {
            Entry::Made(file) => file.bytes.len() as u64 + ENTRY_BYTES,
            Entry::Original | Entry::Failed { .. } => ENTRY_BYTES,
        }
    }
}

pub(super) struct Thumbnails {
    store: Arc<dyn Store>,
    cache: Cache<(Key, DerivedName), Entry, Weight>,
    pool: Pool,
    bounds: media::thumbnail::Bounds,
    failure_memory: Duration,
    clock: Clock,
}

impl Thumbnails {
    pub(super) fn new(store: Arc<dyn Store>, config: &Config, clock: Clock) -> Self {
        /// What a thumbnail of 170 × 170 takes, for the map's first size.
        const TYPICAL_BYTES: u64 = 8 * 1024;
        let estimate =
            usize::try_from(config.derived_bytes_max / TYPICAL_BYTES).unwrap_or(usize::MAX);
        Self {
            store,
            cache: Cache::with_weighter(estimate, config.derived_bytes_max, Weight),
            pool: Pool::new(
                config.decode_threads,
                config.decode_queue_max,
                config.decode_bytes_max,
            ),
            bounds: media::thumbnail::Bounds {
                pixels_max: config.decode_pixels_max,
            },
            failure_memory: config.failure_memory,
            clock,
        }
    }

    pub(super) async fn get(&self, file: &Arc<OpenFile>) -> Result<Thumbnail> {
        let meta = &file.object.meta;
        match meta.sniffed_type.as_deref() {
            Some(kind) if kind.starts_with("image/") => {}
            _ => return Err(Kind::NoThumbnail.into()),
        }
        let cache_key = (file.object.key, DerivedName::Thumbnail(meta.thumbnail));
        loop {
            // The error of whoever computes is not shared: the next waiter computes again.
            let entry = self
                .cache
                .get_or_insert_async(&cache_key, self.find_or_make(file))
                .await?;
            match entry {
                Entry::Made(derived) => return Ok(Thumbnail::Derived(derived)),
                Entry::Original => return Ok(Thumbnail::Original),
                Entry::Failed { kind, until } if self.clock.now() < until => {
                    return Err(kind.into());
                }
                Entry::Failed { .. } => {
                    self.cache.remove(&cache_key);
                }
            }
        }
    }

    pub(super) fn forget(&self, key: Key) {
        self.cache.retain(|(cached, _), _| *cached != key);
    }

    async fn find_or_make(&self, file: &Arc<OpenFile>) -> Result<Entry> {
        let key = file.object.key;
        let name = DerivedName::Thumbnail(file.object.meta.thumbnail);
        if file.object.len() <= OWN_THUMBNAIL_BYTES_MAX {
            return self.own(file).await;
        }
        // Disk is only the second cache: where it fails, the thumbnail is made again.
        match self.store.derived(key, name).await {
            Ok(Some(derived)) => return Ok(Entry::Made(Arc::new(DerivedFile::new(derived)))),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(id = %key.id, %error, "a kept thumbnail could not be read");
            }
        }
        let made = match self.make(file).await {
            Ok(media::thumbnail::Outcome::Made(made)) => made,
            Ok(media::thumbnail::Outcome::OriginalIsSmaller) => return Ok(Entry::Original),
            Err(error) if error.kind() == Kind::NoThumbnail => return Ok(self.failed(key, &error)),
            Err(error) if error.kind() == Kind::UnsupportedMediaType => {
                return Ok(self.not_decoded(file, &error));
            }
            Err(error) => return Err(error),
        };
        let derived = Derived {
            content_type: made.content_type.to_owned(),
            bytes: Bytes::from(made.bytes),
        };
        // And where it cannot be kept, it is still served.
        if let Err(error) = self.store.put_derived(key, name, derived.clone()).await {
            tracing::warn!(id = %key.id, %error, "a thumbnail could not be kept on disk");
        }
        Ok(Entry::Made(Arc::new(DerivedFile::new(derived))))
    }

    /// An original so small that it is its own thumbnail, unless its header claims more pixels than the
    /// limit, or is in a coding that may claim any: a bomb has few bytes, and must not be handed to a phone.
    async fn own(&self, file: &Arc<OpenFile>) -> Result<Entry> {
        let (bounds, moved) = (self.bounds, file.clone());
        let read = tokio::task::spawn_blocking(move || moved.object.read());
        let source = read
            .await
            .map_err(Error::internal)?
            .map_err(Error::internal)?;
        match media::thumbnail::decode_cost_bytes(&source, &bounds) {
            Err(error @ MediaError::TooManyPixels { .. }) => {
                Ok(self.failed(file.object.key, &media_error(error)))
            }
            Err(error @ MediaError::UnsupportedImage) => {
                Ok(self.not_decoded(file, &media_error(error)))
            }
            _ => Ok(Entry::Original),
        }
    }

    /// An image of a type that is not decoded here is answered with the original, as the vendor does. One of
    /// a type that is, in a coding that is not (a lossless JPEG), may claim any size: it has no thumbnail.
    fn not_decoded(&self, file: &OpenFile, error: &Error) -> Entry {
        const DECODED: [&str; 5] = [
            "image/jpeg",
            "image/png",
            "image/gif",
            "image/webp",
            "image/bmp",
        ];
        match file.object.meta.sniffed_type.as_deref() {
            Some(kind) if DECODED.contains(&kind) => {
                let error = Error::new(Kind::NoThumbnail).source(error.to_string());
                self.failed(file.object.key, &error)
            }
            _ => Entry::Original,
        }
    }

    fn failed(&self, key: Key, error: &Error) -> Entry {
        tracing::info!(id = %key.id, %error, "no thumbnail can be made");
        Entry::Failed {
            kind: error.kind(),
            until: self.clock.now().plus(self.failure_memory),
        }
    }

    async fn make(&self, file: &Arc<OpenFile>) -> Result<media::thumbnail::Outcome> {
        let BoundingBox { width, height } = file.object.meta.thumbnail;
        let fit = media::thumbnail::BoundingBox {
            width: width.into(),
            height: height.into(),
        };
        let (bounds, file) = (self.bounds, file.clone());
        let prepare = move || {
            let source = file.object.read().map_err(Error::internal)?;
            let cost_bytes =
                media::thumbnail::decode_cost_bytes(&source, &bounds).map_err(media_error)?;
            let bytes = cost_bytes + source.len() as u64;
            Ok((source, bytes))
        };
        let work = move |source: Vec<u8>, cancel: super::pool::Cancel| {
            media::thumbnail::thumbnail(&source, fit, &bounds, &|| cancel.is_cancelled())
                .map_err(media_error)
        };
        self.pool.run(prepare, work).await
    }
}

impl DerivedFile {
    fn new(derived: Derived) -> Self {
        let hash = Sha256::digest(&derived.bytes);
        let etag = format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(&hash[..16]));
        Self {
            etag: HeaderValue::try_from(etag).expect("base64 between quotes is a header value"),
            content_type: HeaderValue::try_from(derived.content_type)
                .unwrap_or(HeaderValue::from_static("application/octet-stream")),
            bytes: derived.bytes,
        }
    }
}

fn media_error(error: MediaError) -> Error {
    match error {
        MediaError::UnsupportedImage => Error::new(Kind::UnsupportedMediaType).source(error),
        MediaError::Cancelled => Error::new(Kind::Disconnected).source(error),
        MediaError::NotAnImage | MediaError::TooManyPixels { .. } | MediaError::Corrupt(_) => {
            Error::new(Kind::NoThumbnail).source(error)
        }
    }
}
