//! Thumbnails of images: the cost of a picture, its turn among the decoders, and one decode for several sizes.
//!
//! The header of a picture is read first, outside of the queue and through a small buffer, so that the cost of a job is
//! known when it enters the queue. The two usual sizes are made from the original and kept on disk. Any other size is
//! shrunk from a reduced picture in memory (decision 0017): clients can ask for millions of sizes, and each decode of an
//! original costs up to a second.

use std::{io, sync::Arc};

use quick_cache::sync::Cache;

use super::{
    memory::{self, Reductions},
    rendition::DerivedFile,
    single_flight::{Claims, WAIT_MAX},
};
use crate::{
    derivative::BoundingBox,
    error::{Error, Kind, Result},
    fair_queue::{self, Claimant, Permit},
    files::{
        Config,
        open::OpenFile,
        pool::{Cancel, Pool},
    },
    media::{
        sniff::Sniffed,
        thumbnail::{self, Header, MediaError, Outcome, PictureLimits, Plan, ReadAt, Reduced},
    },
    metrics::{Derivations, Source},
    store::ObjectId,
};

/// Headers in memory, of about 150 bytes each.
const HEADERS_MAX: usize = 4096;

/// A picture from which a thumbnail is made.
#[derive(Clone)]
pub(super) enum Picture {
    File(Arc<OpenFile>),
    /// The first frame of the video with this id, as JPEG.
    Frame(ObjectId, Arc<DerivedFile>),
}

/// The size of a thumbnail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// One of the two that a client gets if it names no size.
    Usual,
    Any,
}

/// Makes thumbnails of pictures.
pub(super) struct Pictures {
    pub(super) pool: Pool,
    limits: PictureLimits,
    /// Never stale: an object does not change.
    headers: Cache<ObjectId, Header>,
    pub(super) reductions: Reductions,
    /// Lets one request of each claimant at a time decode a picture, so that several sizes share a decode.
    decoding: Claims,
    counts: Arc<Derivations>,
}

impl Pictures {
    /// `reduced_bytes_max` is the limit of the reduced pictures in memory.
    pub(super) fn new(config: &Config, reduced_bytes_max: u64, counts: Arc<Derivations>) -> Self {
        Self {
            pool: Pool::new(fair_queue::Config {
                jobs_max: config.decode_threads,
                memory_bytes_max: config.decode_bytes_max,
                waiting_max: config.decode_queue_max,
                wait_max: WAIT_MAX,
                ..fair_queue::Config::default()
            }),
            limits: PictureLimits {
                pixels_max: config.decode_pixels_max,
                decode_bytes_max: config.decode_bytes_max,
            },
            headers: Cache::new(HEADERS_MAX),
            reductions: memory::reductions(reduced_bytes_max),
            decoding: Claims::default(),
            counts,
        }
    }

    pub(super) fn forget(&self, id: ObjectId) {
        self.headers.remove(&id);
        self.reductions.retain(|(reduced, _), _| *reduced != id);
    }

    /// The header of a picture. It may lack what a plan needs: see [`Pictures::measured`].
    ///
    /// # Errors
    /// As [`Header::read_outline`].
    pub(super) async fn header(&self, picture: &Picture) -> Result<Header, MediaError> {
        let (limits, id, picture) = (self.limits, picture.id(), picture.clone());
        let read = async move {
            let read = move || Header::read_outline(&picture, picture.kind(), &limits);
            let read = tokio::task::spawn_blocking(read).await;
            read.map_err(|error| MediaError::Unreadable(io::Error::other(error)))?
        };
        self.headers.get_or_insert_async(&id, read).await
    }

    /// The header of a picture, with everything that decides how much memory the decoder takes. Reading that may cost as
    /// much CPU as decoding, so it happens in the claimant's turn.
    ///
    /// # Errors
    /// As [`Header::measure`] and [`Pool::run`].
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue.
    async fn measured(&self, picture: &Picture, claimant: Claimant) -> Result<Header> {
        let header = self.header(picture).await.map_err(media_error)?;
        if header.is_measured() {
            return Ok(header);
        }
        let id = picture.id();
        let _claim = self.decoding.claim(id, claimant).await?;
        if let Some(header) = self.headers.get(&id).filter(Header::is_measured) {
            return Ok(header);
        }
        let (limits, picture) = (self.limits, picture.clone());
        let work = move |_: &Cancel| header.measure(&picture, &limits).map_err(media_error);
        let measured = self.pool.run(claimant, Header::MEASURE_BYTES, work).await?;
        self.headers.insert(id, measured);
        Ok(measured)
    }

    /// Makes a thumbnail, or chooses the original where that has no more bytes.
    ///
    /// # Errors
    /// `NoThumbnail`, `UnsupportedMediaType`; `Unavailable` where too many requests wait; `Internal`.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the work at its next check.
    pub(super) async fn thumbnail(
        &self,
        picture: Picture,
        fit: BoundingBox,
        size: Size,
        claimant: Claimant,
    ) -> Result<Outcome> {
        let header = self.measured(&picture, claimant).await?;
        match (&picture, size) {
            (Picture::File(_), Size::Any) => self.shrink(picture, fit, header, claimant).await,
            // A frame is small already (`ffmpeg.rs`).
            _ => self.decode(picture, fit, header, claimant).await,
        }
    }

    /// Makes a thumbnail from the original.
    async fn decode(
        &self,
        picture: Picture,
        fit: BoundingBox,
        header: Header,
        claimant: Claimant,
    ) -> Result<Outcome> {
        let plan = Plan::new(&header, fit, &self.limits).map_err(media_error)?;
        let _claim = self.decoding.claim(picture.id(), claimant).await?;
        let work = move |cancel: &Cancel| {
            let reduced = picture.reduce(&plan, cancel)?;
            let made = thumbnail::finish(reduced, &header).map_err(media_error)?;
            Ok(match picture {
                Picture::File(_) => thumbnail::outcome(made, &header),
                // The frame is not the original. The thumbnail must fit the box, even where the frame has fewer bytes.
                Picture::Frame(..) => Outcome::Made(made),
            })
        };
        self.pool.run(claimant, plan.cost_bytes(), work).await
    }

    /// Makes a thumbnail of any size from a reduced picture, which is decoded first where it is not in memory. The job
    /// does not hold the reduced picture while it waits: the memory of waiting jobs is not counted.
    async fn shrink(
        &self,
        picture: Picture,
        fit: BoundingBox,
        header: Header,
        claimant: Claimant,
    ) -> Result<Outcome> {
        let reduced_box = thumbnail::reduced_box(&header, fit);
        let key = (picture.id(), reduced_box);
        let plan = Plan::new(&header, reduced_box, &self.limits).map_err(media_error)?;
        let shrink_bytes = plan.shrink_cost_bytes(fit);
        let is_reduced = || self.reductions.peek(&key).is_some();
        let mut claim = None;
        if !is_reduced() {
            claim = Some(self.decoding.claim(picture.id(), claimant).await?);
        }
        if is_reduced() {
            drop(claim.take());
            let permit = self.pool.enter(claimant, shrink_bytes).await?;
            if let Some(reduced) = self.reductions.get(&key) {
                return self.shrink_reduced(permit, reduced, fit, header).await;
            }
            // The reduced picture was evicted during the wait.
        }
        let decode_bytes = plan.cost_bytes().max(shrink_bytes);
        let permit = self.pool.enter(claimant, decode_bytes).await?;
        if let Some(reduced) = self.reductions.get(&key) {
            return self.shrink_reduced(permit, reduced, fit, header).await;
        }
        self.counts.count_reduced(Source::Made);
        let work = move |cancel: &Cancel| {
            let reduced = picture.reduce(&plan, cancel)?;
            Ok((shrunk(&reduced, fit, &header)?, reduced))
        };
        let (outcome, reduced) = Pool::run_with(permit, work).await?;
        self.reductions.insert(key, Arc::new(reduced));
        drop(claim);
        Ok(outcome)
    }

    async fn shrink_reduced(
        &self,
        permit: Permit,
        reduced: Arc<Reduced>,
        fit: BoundingBox,
        header: Header,
    ) -> Result<Outcome> {
        self.counts.count_reduced(Source::Memory);
        let work = move |_: &Cancel| shrunk(&reduced, fit, &header);
        Pool::run_with(permit, work).await
    }
}

/// Blocking.
fn shrunk(reduced: &Reduced, fit: BoundingBox, header: &Header) -> Result<Outcome> {
    let made = thumbnail::shrink(reduced, fit, header).map_err(media_error)?;
    Ok(thumbnail::outcome(made, header))
}

impl Picture {
    fn id(&self) -> ObjectId {
        match self {
            Self::File(file) => file.object.key.id,
            Self::Frame(video, _) => *video,
        }
    }

    fn kind(&self) -> Sniffed {
        match self {
            Self::File(file) => file.kind,
            Self::Frame(..) => Sniffed::Jpeg,
        }
    }

    /// Decodes the picture as planned. Blocking.
    fn reduce(&self, plan: &Plan, cancel: &Cancel) -> Result<Reduced> {
        let source = match self {
            Self::File(file) => file
                .object
                .read_range(0..file.object.len())
                .map_err(Error::internal)?,
            Self::Frame(_, frame) => frame.bytes.clone(),
        };
        thumbnail::reduce(&source, plan, &|| cancel.is_cancelled()).map_err(media_error)
    }
}

/// Blocking.
impl ReadAt for Picture {
    fn size(&self) -> u64 {
        match self {
            Self::File(file) => file.object.len(),
            Self::Frame(_, frame) => frame.bytes.len() as u64,
        }
    }

    fn read_exact_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.object.read_exact_at(at, into),
            Self::Frame(_, frame) => (&*frame.bytes).read_exact_at(at, into),
        }
    }
}

pub(super) fn media_error(error: MediaError) -> Error {
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
