//! Thumbnails: what a picture costs, its turn among the decoders, and one decode for several sizes.
//!
//! A picture's header is read first, outside of the queue and through a small buffer, so that a job enters the queue with
//! its cost. The two usual sizes of a picture are made from the original and kept on disk. Any other size is shrunk from
//! a picture in memory that fits one of few boxes (decision 0017): millions of sizes can be asked for, and each decode of
//! an original costs up to a second.

use std::{io, sync::Arc};

use bytes::Bytes;
use quick_cache::sync::Cache;

use super::{
    DerivedFile, media_error,
    memory::{self, Reductions},
    single_flight::{Claims, WAIT_MAX},
};
use crate::{
    error::{Error, Result},
    fair_queue::{self, Claimant},
    files::{
        Config,
        open::OpenFile,
        pool::{Cancel, Pool},
    },
    media::thumbnail::{self, BoundingBox, Bounds, Header, MediaError, Outcome, Plan, ReadAt},
    metrics::{Derivations, Derived, PoolLevels, Source},
    store::ObjectId,
};

/// Headers kept, of some 150 bytes each.
const HEADERS_MAX: usize = 4096;

/// The picture that a thumbnail is made of.
#[derive(Clone)]
pub(super) enum Picture {
    File(Arc<OpenFile>),
    /// Of the video with this id.
    Frame(ObjectId, Arc<DerivedFile>),
}

/// Which sizes a thumbnail's size is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// One of the two that a client gets without asking for a size.
    Usual,
    Any,
}

pub(super) struct Pictures {
    pool: Pool,
    bounds: Bounds,
    /// Never stale: an object does not change.
    headers: Cache<ObjectId, Header>,
    reductions: Reductions,
    /// Several sizes of one picture are one decode at a time.
    decoding: Claims,
    counts: Arc<Derivations>,
}

impl Pictures {
    /// `reduced_bytes_max`: bytes in memory of pictures that sizes are shrunk from.
    pub(super) fn new(config: &Config, reduced_bytes_max: u64, counts: Arc<Derivations>) -> Self {
        Self {
            pool: Pool::new(fair_queue::Config {
                jobs_max: config.decode_threads,
                memory_bytes_max: config.decode_bytes_max,
                waiting_max: config.decode_queue_max,
                wait_max: WAIT_MAX,
                ..fair_queue::Config::default()
            }),
            bounds: Bounds {
                pixels_max: config.decode_pixels_max,
                memory_bytes_max: config.decode_bytes_max,
            },
            headers: Cache::new(HEADERS_MAX),
            reductions: memory::reductions(reduced_bytes_max),
            decoding: Claims::default(),
            counts,
        }
    }

    pub(super) fn levels(&self) -> PoolLevels {
        self.pool.levels()
    }

    /// Bytes in memory of pictures that sizes are shrunk from.
    pub(super) fn reduced_bytes(&self) -> u64 {
        self.reductions.weight()
    }

    pub(super) fn forget(&self, id: ObjectId) {
        self.headers.remove(&id);
        self.reductions.retain(|(reduced, _), _| *reduced != id);
    }

    /// What the picture's header says, perhaps without what a plan needs: [`Pictures::measured`].
    ///
    /// # Errors
    /// As [`Header::read_outline`].
    pub(super) async fn header(&self, picture: &Picture) -> Result<Header, MediaError> {
        let (bounds, id, picture) = (self.bounds, picture.id(), picture.clone());
        let read = async move {
            let read = tokio::task::spawn_blocking(move || picture.read_header(&bounds)).await;
            read.map_err(|error| MediaError::Unreadable(io::Error::other(error)))?
        };
        self.headers.get_or_insert_async(&id, read).await
    }

    /// What the picture's header says, and what else decides how much memory the decoder takes. Reading that may cost as
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
        let (bounds, picture) = (self.bounds, picture.clone());
        let work = move |_: &Cancel| picture.measure(&header, &bounds).map_err(media_error);
        let measured = self.pool.run(claimant, Header::MEASURE_BYTES, work).await?;
        self.headers.insert(id, measured);
        Ok(measured)
    }

    /// Makes a thumbnail; the original where that serves better.
    ///
    /// # Errors
    /// `NoThumbnail`, `UnsupportedMediaType`; `Unavailable` where too many wait; `Internal`.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the work where it next looks.
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
            // A frame is small enough already (`ffmpeg.rs`).
            _ => self.direct(picture, fit, header, claimant).await,
        }
    }

    async fn direct(
        &self,
        picture: Picture,
        fit: BoundingBox,
        header: Header,
        claimant: Claimant,
    ) -> Result<Outcome> {
        let plan = Plan::new(&header, fit, &self.bounds).map_err(media_error)?;
        let _claim = self.decoding.claim(picture.id(), claimant).await?;
        let work = move |cancel: &Cancel| {
            let source = picture.read()?;
            let reduced = thumbnail::reduce(&source, &plan, &|| cancel.is_cancelled());
            let made = reduced.and_then(|reduced| thumbnail::finish(reduced, &header));
            let made = made.map_err(media_error)?;
            Ok(match picture {
                Picture::File(_) => thumbnail::outcome(made, &header),
                // A frame is nobody's original: it must fit, though one of a single colour has fewer bytes.
                Picture::Frame(..) => Outcome::Made(made),
            })
        };
        self.pool.run(claimant, plan.cost_bytes(), work).await
    }

    /// A thumbnail of any size. What it is shrunk from is not held while it waits: the memory of jobs that wait is not
    /// counted.
    async fn shrink(
        &self,
        picture: Picture,
        fit: BoundingBox,
        header: Header,
        claimant: Claimant,
    ) -> Result<Outcome> {
        let step = thumbnail::step(&header, fit);
        let key = (picture.id(), step.width);
        let plan = Plan::new(&header, step, &self.bounds).map_err(media_error)?;
        let is_reduced = || self.reductions.peek(&key).is_some();
        let mut claim = None;
        if !is_reduced() {
            claim = Some(self.decoding.claim(picture.id(), claimant).await?);
        }
        // The second time, where it was removed from memory during the wait.
        for may_decode in [!is_reduced(), true] {
            if !may_decode {
                claim = None;
            }
            let cost_bytes = match may_decode {
                true => plan.cost_bytes().max(plan.shrink_cost_bytes(fit)),
                false => plan.shrink_cost_bytes(fit),
            };
            let permit = self.pool.enter(claimant, cost_bytes).await?;
            let reduced = self.reductions.get(&key);
            if reduced.is_some() || may_decode {
                let source = match reduced {
                    Some(_) => Source::Memory,
                    None => Source::Made,
                };
                self.counts.count(Derived::Reduced, source);
                let picture = picture.clone();
                let work = move |cancel: &Cancel| {
                    let reduced = match reduced {
                        Some(reduced) => reduced,
                        None => {
                            let source = picture.read()?;
                            let reduced =
                                thumbnail::reduce(&source, &plan, &|| cancel.is_cancelled());
                            Arc::new(reduced.map_err(media_error)?)
                        }
                    };
                    let made = thumbnail::shrink(&reduced, fit, &header).map_err(media_error)?;
                    Ok((thumbnail::outcome(made, &header), reduced))
                };
                let (outcome, reduced) = Pool::run_with(permit, work).await?;
                if source == Source::Made {
                    self.reductions.insert(key, reduced);
                }
                drop(claim);
                return Ok(outcome);
            }
        }
        Err(Error::internal(
            "the second time, the picture may be decoded",
        ))
    }
}

/// The payload of an object.
struct Payload<'a>(&'a OpenFile);

impl ReadAt for Payload<'_> {
    fn size(&self) -> u64 {
        self.0.object.len()
    }

    fn read_exact_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.object.read_exact_at(at, into)
    }
}

impl Picture {
    fn id(&self) -> ObjectId {
        match self {
            Self::File(file) => file.object.key.id,
            Self::Frame(video, _) => *video,
        }
    }

    /// Blocking.
    fn read_header(&self, bounds: &Bounds) -> Result<Header, MediaError> {
        match self {
            Self::File(file) => Header::read_outline(&Payload(file), bounds),
            Self::Frame(_, frame) => Header::read_outline(&&*frame.bytes, bounds),
        }
    }

    /// Blocking.
    fn measure(&self, header: &Header, bounds: &Bounds) -> Result<Header, MediaError> {
        match self {
            Self::File(file) => header.measure(&Payload(file), bounds),
            Self::Frame(_, frame) => header.measure(&&*frame.bytes, bounds),
        }
    }

    /// Blocking.
    fn read(&self) -> Result<Bytes> {
        match self {
            Self::File(file) => {
                let whole = 0..file.object.len();
                file.object.read_range(whole).map_err(Error::internal)
            }
            Self::Frame(_, frame) => Ok(frame.bytes.clone()),
        }
    }
}
