//! What is made of a file (thumbnails, first frames, voices in another format): found in memory, then on
//! disk, then made; once, however many ask.
//!
//! Key: the object and the derivative's name. Bound: bytes, of all kinds together. Staleness: none, an object
//! never changes; a failure is believed for `failure_memory`, so that a broken picture is not decoded at every
//! request. Whoever makes something does so in the turn of its tenant and client (`fair_queue.rs`).

mod live;
mod memory;
mod pictures;
mod single_flight;

use std::{
    fs::File,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use self::{
    live::Live,
    memory::{Failures, Made},
    pictures::{Picture, Pictures, Size},
    single_flight::{Claims, once},
};
use super::{
    Config,
    ffmpeg::{Abilities, Ffmpeg},
    open::OpenFile,
};
use crate::{
    error::{Error, Kind, Result},
    fair_queue::Claimant,
    http::representation::RepresentationHeaders,
    media::{
        sniff::Sniffed,
        thumbnail::{self, MediaError},
        voice::VoiceFormat,
    },
    metrics::{self, Derivations, FileLevels, PartLevels, Source},
    store::{BoundingBox, BoxFuture, Derived, DerivedName, ObjectId, Store, blocking},
    time::Clock,
};

/// An original of at most this many bytes is its own thumbnail (the contract's rule), unless it has more pixels than the
/// largest thumbnail.
const OWN_THUMBNAIL_BYTES_MAX: u64 = 10 * 1024;
/// Bytes of derivatives in memory, cached or being sent: twice what the cache may have, and no less than this.
const LIVE_BYTES_MIN: u64 = 64 << 20;
/// One part in so many of the memory for derivatives is for pictures that sizes are shrunk from.
const REDUCED_SHARE: u64 = 4;

/// A derivative, ready to be served.
pub struct DerivedFile {
    /// The body.
    pub bytes: Bytes,
    /// Its media type.
    pub content_type: String,
    /// A strong entity tag in double quotes: a hash of the bytes.
    pub etag: String,
    /// Where `delivery/` keeps the headers of this derivative.
    pub headers: OnceLock<RepresentationHeaders>,
}

/// What to answer where a derivative was asked for.
#[derive(Clone)]
pub enum Derivative {
    /// Made from the original.
    Made(Arc<DerivedFile>),
    /// The original itself: small enough, no larger than what would be made, of a kind that is not decoded, or
    /// in the format already.
    Original,
}

pub(super) struct Derivatives {
    store: Arc<dyn Store>,
    made: Made,
    making: Claims,
    live: Arc<Live>,
    failures: Failures,
    pictures: Pictures,
    ffmpeg: Ffmpeg,
    pixels_max: u64,
    pub(super) counts: Arc<Derivations>,
}

impl Derivatives {
    /// Asks ffmpeg what it can do: blocking, for some tenths of a second.
    pub(super) fn new(store: Arc<dyn Store>, config: &Config, clock: Clock) -> Self {
        let reduced_bytes_max = config.derived_bytes_max / REDUCED_SHARE;
        let counts = Arc::<Derivations>::default();
        Self {
            store,
            made: memory::made(config.derived_bytes_max - reduced_bytes_max),
            making: Claims::default(),
            live: Arc::new(Live::new(
                config
                    .derived_bytes_max
                    .saturating_mul(2)
                    .max(LIVE_BYTES_MIN),
            )),
            failures: Failures::new(config.failure_memory, clock),
            pictures: Pictures::new(config, reduced_bytes_max, counts.clone()),
            ffmpeg: Ffmpeg::probe(&config.ffmpeg),
            pixels_max: config.decode_pixels_max,
            counts,
        }
    }

    /// Those of the derivatives, beside those that others know.
    pub(super) fn levels(&self, open_objects: usize, parts: PartLevels) -> FileLevels {
        FileLevels {
            open_objects,
            parts,
            derived_bytes: self.made.weight() + self.pictures.reduced_bytes(),
            pictures: self.pictures.levels(),
            ffmpeg: self.ffmpeg.levels(),
        }
    }

    pub(super) fn abilities(&self) -> Abilities {
        self.ffmpeg.abilities()
    }

    /// Finds or makes a derivative, in the claimant's turn where it must be made.
    ///
    /// # Errors
    /// `NoThumbnail`, `NotConvertible`; `Unavailable` when too many wait; `Internal`.
    ///
    /// # Cancel safety
    /// Dropping the future cancels what it makes; whoever waits for the same makes it then.
    pub(super) async fn get(
        &self,
        file: &Arc<OpenFile>,
        name: DerivedName,
        claimant: Claimant,
    ) -> Result<Derivative> {
        if matches!(name, DerivedName::Thumbnail(_)) && !is_pictured(file) {
            return Err(Kind::NoThumbnail.into());
        }
        let id = file.object.key.id;
        let is_in_memory = AtomicBool::new(true);
        let make = || async {
            is_in_memory.store(false, Ordering::Relaxed);
            // Boxed: it was 9 of the 13 KB of a request's future, for which each HTTP/1 connection keeps room.
            Box::pin(self.find_or_make(file, name, claimant)).await
        };
        let found = once(&self.made, (id, name), &self.making, (id, claimant), make).await;
        if is_in_memory.into_inner() {
            self.count(name, Source::Memory);
        }
        found
    }

    fn count(&self, name: DerivedName, source: Source) {
        let derived = match name {
            DerivedName::Thumbnail(_) => metrics::Derived::Thumbnail,
            DerivedName::Frame => metrics::Derived::Frame,
            DerivedName::Mp3 => metrics::Derived::Mp3,
            DerivedName::Amr => metrics::Derived::Amr,
        };
        self.counts.count(derived, source);
    }

    pub(super) fn forget(&self, id: ObjectId) {
        self.made.retain(|(made, _), _| *made != id);
        self.pictures.forget(id);
        self.failures.forget(id);
    }

    async fn find_or_make(
        &self,
        file: &Arc<OpenFile>,
        name: DerivedName,
        claimant: Claimant,
    ) -> Result<Derivative> {
        let id = file.object.key.id;
        self.failures
            .check(id, name)
            .inspect_err(|_| self.count(name, Source::FailedBefore))?;
        self.live.admit(claimant)?;
        let found = self.find_or_make_now(file, name, claimant).await;
        found.inspect_err(|error| {
            // Of a video, what failed is its frame, and that is remembered by itself.
            if !matches!(name, DerivedName::Thumbnail(_)) || is_image(file) {
                self.failures.remember(id, name, error);
            }
        })
    }

    async fn find_or_make_now(
        &self,
        file: &Arc<OpenFile>,
        name: DerivedName,
        claimant: Claimant,
    ) -> Result<Derivative> {
        let key = file.object.key;
        if matches!(name, DerivedName::Thumbnail(_)) && self.is_own(file).await? {
            self.count(name, Source::Original);
            return Ok(Derivative::Original);
        }
        let is_kept = is_kept(file, name);
        // Disk is only the second cache: where it fails, the derivative is made again.
        if is_kept {
            match self.store.derived(key, name).await {
                Ok(Some(derived)) => {
                    self.count(name, Source::Disk);
                    return self.hold(derived, claimant).await;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(id = %key.id, %error, "a kept derivative could not be read");
                }
            }
        }
        self.count(name, Source::Made);
        let made = match self.make(file, name, claimant).await {
            Ok(Some(made)) => made,
            Ok(None) => return Ok(Derivative::Original),
            Err(error) if error.kind() == Kind::UnsupportedMediaType => {
                return not_decoded(file, error);
            }
            Err(error) => return Err(error),
        };
        // And where it cannot be kept, it is still served.
        if is_kept && let Err(error) = self.store.put_derived(key, name, made.clone()).await {
            tracing::warn!(id = %key.id, %error, "a derivative could not be kept on disk");
        }
        self.hold(made, claimant).await
    }

    async fn hold(&self, derived: Derived, claimant: Claimant) -> Result<Derivative> {
        let bytes = self.live.count(claimant, derived.bytes);
        Derivative::made(Derived { bytes, ..derived }).await
    }

    /// `None`: the original serves better.
    async fn make(
        &self,
        file: &Arc<OpenFile>,
        name: DerivedName,
        claimant: Claimant,
    ) -> Result<Option<Derived>> {
        let (content_type, bytes) = match name {
            DerivedName::Thumbnail(fit) => return self.thumbnail(file, fit, claimant).await,
            DerivedName::Frame => ("image/jpeg", self.frame(file, claimant).await?),
            DerivedName::Mp3 => (
                VoiceFormat::Mp3.mime(),
                self.voice(file, VoiceFormat::Mp3, claimant).await?,
            ),
            DerivedName::Amr => (
                VoiceFormat::Amr.mime(),
                self.voice(file, VoiceFormat::Amr, claimant).await?,
            ),
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
                Derivative::Made(frame) => Picture::Frame(file.object.key.id, frame),
                Derivative::Original => {
                    return Err(Error::internal("a video is not its own first frame"));
                }
            }
        };
        let size = match is_kept(file, DerivedName::Thumbnail(fit)) {
            true => Size::Usual,
            false => Size::Any,
        };
        let fit = thumbnail::BoundingBox {
            width: fit.width.into(),
            height: fit.height.into(),
        };
        let outcome = self
            .pictures
            .thumbnail(picture, fit, size, claimant)
            .await?;
        Ok(match outcome {
            thumbnail::Outcome::Made(made) => Some(Derived {
                content_type: made.content_type.to_owned(),
                bytes: Bytes::from(made.bytes),
            }),
            thumbnail::Outcome::OriginalIsSmaller => None,
        })
    }

    /// Boxed, since a thumbnail of a video is made of another derivative.
    fn first_frame<'a>(
        &'a self,
        file: &'a Arc<OpenFile>,
        claimant: Claimant,
    ) -> BoxFuture<'a, Result<Derivative>> {
        Box::pin(self.get(file, DerivedName::Frame, claimant))
    }

    async fn frame(&self, file: &Arc<OpenFile>, claimant: Claimant) -> Result<Vec<u8>> {
        let kind = file.kind.ok_or(Kind::NoThumbnail)?;
        let input = input_of(file).await?;
        self.ffmpeg
            .first_frame(input, file.object.len(), kind, self.pixels_max, claimant)
            .await
    }

    async fn voice(
        &self,
        file: &Arc<OpenFile>,
        format: VoiceFormat,
        claimant: Claimant,
    ) -> Result<Vec<u8>> {
        let kind = file.kind.ok_or(Kind::NotConvertible)?;
        let input = input_of(file).await?;
        self.ffmpeg
            .voice(input, file.object.len(), kind, format, claimant)
            .await
    }

    /// Whether an original is its own thumbnail: an image of few bytes. Not one that has many pixels all the same: few
    /// bytes can be a bomb, and a bomb must not be handed to a phone. What has no readable header is sent as it is.
    async fn is_own(&self, file: &Arc<OpenFile>) -> Result<bool> {
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

/// Opens the payload for ffmpeg. Only a payload that is no file has to be copied.
async fn input_of(file: &Arc<OpenFile>) -> Result<File> {
    let file = file.clone();
    blocking(move || file.object.to_file().map_err(Error::internal)).await
}

/// An image of a type that is not decoded here is answered with the original, as the vendor does. One of
/// a type that is, in a coding that is not (a lossless JPEG), may claim any size: it has no thumbnail.
fn not_decoded(file: &OpenFile, error: Error) -> Result<Derivative> {
    match file.kind {
        Some(kind) if kind.is_decodable_image() => {
            Err(Error::new(Kind::NoThumbnail).source(error.to_string()))
        }
        _ => Ok(Derivative::Original),
    }
}

/// SVG is text to the sniffer, and a picture to whoever asks for its thumbnail.
fn is_image(file: &OpenFile) -> bool {
    file.kind
        .is_some_and(|kind| kind.is_image() || kind == Sniffed::Svg)
}

/// Whether there is a picture of it at all.
fn is_pictured(file: &OpenFile) -> bool {
    is_image(file) || file.kind.is_some_and(Sniffed::is_video)
}

/// Thumbnails of any size can be asked for, and only two of them are kept on disk.
fn is_kept(file: &OpenFile, name: DerivedName) -> bool {
    match name {
        DerivedName::Thumbnail(fit) => {
            fit == file.object.meta.thumbnail || fit == BoundingBox::USUAL
        }
        DerivedName::Frame | DerivedName::Mp3 | DerivedName::Amr => true,
    }
}

impl Derivative {
    /// Hashes what is large off the reactor threads: at 1 GB/s, 64 KiB take as long as a thread hop or two.
    async fn made(derived: Derived) -> Result<Self> {
        const INLINE_BYTES_MAX: usize = 64 << 10;
        let file = if derived.bytes.len() <= INLINE_BYTES_MAX {
            DerivedFile::new(derived)
        } else {
            tokio::task::spawn_blocking(|| DerivedFile::new(derived))
                .await
                .map_err(Error::internal)?
        };
        Ok(Self::Made(Arc::new(file)))
    }
}

impl DerivedFile {
    fn new(derived: Derived) -> Self {
        let hash = Sha256::digest(&derived.bytes);
        Self {
            etag: format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(&hash[..16])),
            content_type: derived.content_type,
            bytes: derived.bytes,
            headers: OnceLock::new(),
        }
    }
}

fn media_error(error: MediaError) -> Error {
    match error {
        MediaError::UnsupportedImage => Error::new(Kind::UnsupportedMediaType).source(error),
        MediaError::Cancelled => Error::new(Kind::Disconnected).source(error),
        MediaError::Unreadable(error) => Error::internal(error),
        MediaError::NotAnImage
        | MediaError::TooManyPixels { .. }
        | MediaError::TooManyScans { .. }
        | MediaError::TooMuchMemory { .. }
        | MediaError::Corrupt(_) => Error::new(Kind::NoThumbnail).source(error),
    }
}
