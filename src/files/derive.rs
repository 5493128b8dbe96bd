//! Derivatives of a file: thumbnails, first frames of videos, and converted voice messages.
//!
//! A derivative is looked up in memory, then on disk, and then made; once, however many requests ask for it. The work runs
//! in the turn of the tenant and the client that asked (`fair_queue.rs`).
//!
//! Cache key: the object and the derivative. Bound: the bytes of all kinds together. Staleness: none, since an object
//! never changes. A failure is remembered for `failure_memory`, so that a damaged picture is not decoded at every request.

mod live;
mod memory;
mod pictures;
mod rendition;
mod single_flight;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;

use self::{
    live::Live,
    memory::{Failures, Made},
    pictures::{Picture, Pictures, Size, media_error},
    single_flight::{Claims, once},
};
use super::{Config, ffmpeg::Ffmpeg, open::OpenFile};
use crate::{
    derivative::{BoundingBox, Derivative},
    error::{Error, Kind, Result},
    fair_queue::Claimant,
    media::{
        sniff::Sniffed,
        thumbnail::{self, MediaError, OWN_THUMBNAIL_BYTES_MAX},
    },
    metrics::{Derivations, FileLevels, PartLevels, Source},
    store::{BoxFuture, Derived, ObjectId, Store},
    time::Clock,
};

pub use self::rendition::{DerivedFile, Rendition};

/// The least limit of the bytes of derivatives in memory, cached or being sent. It is twice the limit of the cache, and
/// no less than this.
const LIVE_BYTES_MIN: u64 = 64 << 20;
/// The share of the derivatives' memory that is for reduced pictures: 1 / 4.
const REDUCED_SHARE: u64 = 4;

/// Makes and caches derivatives.
pub(super) struct Derivatives {
    store: Arc<dyn Store>,
    made: Made,
    making: Claims,
    live: Arc<Live>,
    failures: Failures,
    pictures: Pictures,
    pub(super) ffmpeg: Ffmpeg,
    pixels_max: u64,
    pub(super) counts: Arc<Derivations>,
}

impl Derivatives {
    /// Probes ffmpeg, which blocks for some tenths of a second.
    pub(super) fn new(store: Arc<dyn Store>, config: &Config, clock: Clock) -> Self {
        let reduced_bytes_max = config.derived_bytes_max / REDUCED_SHARE;
        let live_bytes_max = config.derived_bytes_max.saturating_mul(2);
        let counts = Arc::<Derivations>::default();
        Self {
            store,
            made: memory::made(config.derived_bytes_max - reduced_bytes_max),
            making: Claims::default(),
            live: Arc::new(Live::new(live_bytes_max.max(LIVE_BYTES_MIN))),
            failures: Failures::new(config.failure_memory, clock),
            pictures: Pictures::new(config, reduced_bytes_max, counts.clone()),
            ffmpeg: Ffmpeg::probe(&config.ffmpeg),
            pixels_max: config.decode_pixels_max,
            counts,
        }
    }

    /// The levels of the derivatives, together with the given ones.
    pub(super) fn levels(&self, open_objects: usize, parts: PartLevels) -> FileLevels {
        FileLevels {
            open_objects,
            parts,
            derived_bytes: self.made.weight() + self.pictures.reductions.weight(),
            pictures: self.pictures.pool.levels(),
            ffmpeg: self.ffmpeg.pool.levels(),
        }
    }

    /// Finds a derivative, or makes it in the claimant's turn.
    ///
    /// # Errors
    /// `NoThumbnail`, `NotConvertible`; `Unavailable` where too many requests wait; `Internal`.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the work. Another request that waits for the same derivative makes it then.
    pub(super) async fn get(
        &self,
        file: &Arc<OpenFile>,
        derivative: Derivative,
        claimant: Claimant,
    ) -> Result<Rendition> {
        if matches!(derivative, Derivative::Thumbnail(_)) && !has_picture(file) {
            return Err(Kind::NoThumbnail.into());
        }
        let id = file.object.key.id;
        let is_in_memory = AtomicBool::new(true);
        let make = || async {
            is_in_memory.store(false, Ordering::Relaxed);
            // Boxed: it was 9 of the 13 KB of a request's future, for which each HTTP/1 connection reserves memory.
            Box::pin(self.find_or_make(file, derivative, claimant)).await
        };
        let (key, claim) = ((id, derivative), (id, claimant));
        let found = once(&self.made, key, &self.making, claim, make).await;
        if is_in_memory.into_inner() {
            self.counts.count(derivative, Source::Memory);
        }
        found
    }

    /// Removes everything about an object from memory.
    pub(super) fn forget(&self, id: ObjectId) {
        self.made.retain(|(made, _), _| *made != id);
        self.pictures.forget(id);
        self.failures.forget(id);
    }

    async fn find_or_make(
        &self,
        file: &Arc<OpenFile>,
        derivative: Derivative,
        claimant: Claimant,
    ) -> Result<Rendition> {
        let id = file.object.key.id;
        self.failures
            .check(id, derivative)
            .inspect_err(|_| self.counts.count(derivative, Source::FailedBefore))?;
        self.live.admit(claimant)?;
        let found = self.find_on_disk_or_make(file, derivative, claimant).await;
        found.inspect_err(|error| {
            // The thumbnail of a video fails because of its first frame, whose failure is remembered separately.
            if !matches!(derivative, Derivative::Thumbnail(_)) || is_image(file) {
                self.failures.remember(id, derivative, error);
            }
        })
    }

    async fn find_on_disk_or_make(
        &self,
        file: &Arc<OpenFile>,
        derivative: Derivative,
        claimant: Claimant,
    ) -> Result<Rendition> {
        let key = file.object.key;
        if matches!(derivative, Derivative::Thumbnail(_)) && self.is_own_thumbnail(file).await? {
            self.counts.count(derivative, Source::Original);
            return Ok(Rendition::Original);
        }
        let is_kept = is_kept_on_disk(file, derivative);
        // The disk is only the second cache: where it fails, the derivative is made again.
        if is_kept {
            match self.store.derived(key, derivative).await {
                Ok(Some(derived)) => {
                    self.counts.count(derivative, Source::Disk);
                    return self.rendition(derived, claimant).await;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(id = %key.id, %error, "reading a derivative from disk failed");
                }
            }
        }
        self.counts.count(derivative, Source::Made);
        let made = match self.make(file, derivative, claimant).await {
            Ok(Some(made)) => made,
            Ok(None) => return Ok(Rendition::Original),
            Err(error) if error.kind() == Kind::UnsupportedMediaType => {
                return not_decoded(file, error);
            }
            Err(error) => return Err(error),
        };
        // A derivative that cannot be stored is still sent.
        if is_kept && let Err(error) = self.store.put_derived(key, derivative, made.clone()).await {
            tracing::warn!(id = %key.id, %error, "storing a derivative on disk failed");
        }
        self.rendition(made, claimant).await
    }

    async fn rendition(&self, derived: Derived, claimant: Claimant) -> Result<Rendition> {
        let bytes = self.live.count(claimant, derived.bytes);
        Rendition::made(Derived { bytes, ..derived }).await
    }

    /// Makes a derivative. `None`: send the original.
    async fn make(
        &self,
        file: &Arc<OpenFile>,
        derivative: Derivative,
        claimant: Claimant,
    ) -> Result<Option<Derived>> {
        let (original, len, kind) = (file.clone(), file.object.len(), file.kind);
        // Only a payload that is not a file is copied.
        let open = move || original.object.to_file().map_err(Error::internal);
        let (content_type, bytes) = match derivative {
            Derivative::Thumbnail(fit) => return self.thumbnail(file, fit, claimant).await,
            Derivative::VideoFrame => {
                let frame = self
                    .ffmpeg
                    .first_frame(open, len, kind, self.pixels_max, claimant);
                ("image/jpeg", frame.await?)
            }
            Derivative::Voice(format) => {
                let voice = self.ffmpeg.voice(open, len, kind, format, claimant);
                (format.media_type(), voice.await?)
            }
        };
        Ok(Some(Derived {
            content_type: content_type.to_owned(),
            bytes: Bytes::from(bytes),
        }))
    }

    async fn thumbnail(
        &self,
        file: &Arc<OpenFile>,
        fit: BoundingBox,
        claimant: Claimant,
    ) -> Result<Option<Derived>> {
        let picture = if is_image(file) {
            Picture::File(file.clone())
        } else {
            match self.first_frame(file, claimant).await? {
                Rendition::Made(frame) => Picture::Frame(file.object.key.id, frame),
                Rendition::Original => {
                    return Err(Error::internal("a video is not its own first frame"));
                }
            }
        };
        let size = match is_kept_on_disk(file, Derivative::Thumbnail(fit)) {
            true => Size::Usual,
            false => Size::Any,
        };
        let made = self.pictures.thumbnail(picture, fit, size, claimant);
        Ok(match made.await? {
            thumbnail::Outcome::Made(made) => Some(Derived {
                content_type: made.content_type.to_owned(),
                bytes: Bytes::from(made.bytes),
            }),
            thumbnail::Outcome::OriginalIsSmaller => None,
        })
    }

    /// Boxed, since the thumbnail of a video is made from another derivative.
    fn first_frame<'a>(
        &'a self,
        file: &'a Arc<OpenFile>,
        claimant: Claimant,
    ) -> BoxFuture<'a, Result<Rendition>> {
        Box::pin(self.get(file, Derivative::VideoFrame, claimant))
    }

    /// Whether an original is its own thumbnail: an image of few bytes, and of few pixels. Few bytes can be a
    /// decompression bomb, which must not be sent to a phone. An image without a readable header is sent as it is.
    async fn is_own_thumbnail(&self, file: &Arc<OpenFile>) -> Result<bool> {
        if !is_image(file) || file.object.len() > OWN_THUMBNAIL_BYTES_MAX {
            return Ok(false);
        }
        match self.pictures.header(&Picture::File(file.clone())).await {
            Ok(header) => Ok(thumbnail::is_small_enough(&header)),
            Err(error @ MediaError::UnsupportedImage) => {
                not_decoded(file, media_error(error)).map(|_| true)
            }
            Err(MediaError::NotAnImage | MediaError::Corrupt(_)) => Ok(true),
            Err(error) => Err(media_error(error)),
        }
    }
}

/// For an image of a kind that is not decoded, the original is sent, as the vendor does. An image of a decodable kind in a
/// coding that is not decoded (a lossless JPEG) may claim any size: it has no thumbnail.
fn not_decoded(file: &OpenFile, error: Error) -> Result<Rendition> {
    match file.kind.is_decodable_image() {
        true => Err(Error::new(Kind::NoThumbnail).source(error.to_string())),
        false => Ok(Rendition::Original),
    }
}

/// SVG is sniffed as text, but it is an image to a client that asks for its thumbnail.
fn is_image(file: &OpenFile) -> bool {
    file.kind.is_image() || file.kind == Sniffed::Svg
}

fn has_picture(file: &OpenFile) -> bool {
    is_image(file) || file.kind.is_video()
}

/// Clients can ask for thumbnails of any size, but only two sizes of each file are kept on disk.
fn is_kept_on_disk(file: &OpenFile, derivative: Derivative) -> bool {
    match derivative {
        Derivative::Thumbnail(fit) => {
            fit == file.object.meta.thumbnail || fit == BoundingBox::DEFAULT
        }
        Derivative::VideoFrame | Derivative::Voice(_) => true,
    }
}
