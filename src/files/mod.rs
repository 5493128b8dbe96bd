//! The use cases, without a dialect: receive a file, open it, derive from it, take it down.
//!
//! What a client may do is decided here (the object's tenant, dialect and secret, its expiry); how it is
//! asked and answered belongs to `api/`.

mod derive;
mod ffmpeg;
mod open;
mod parts;
mod pool;
mod upload;

use std::{sync::Arc, time::Duration};

use serde::Deserialize;

use crate::{
    derivative::{BoundingBox, Derivative, VoiceFormat},
    error::{Error, Kind, Result},
    fair_queue::{Claimant, FairQueue},
    media::{sniff::Sniffed, thumbnail::PictureLimits},
    metrics::{Derivations, FileLevels, Lookups},
    retention,
    secret::constant_time_eq,
    settings::{number, seconds},
    store::{Class, Dialect, Key, ObjectId, Store},
    tenant::Tenant,
    time::{Clock, Timestamp},
};

pub use self::{
    derive::{DerivedFile, Rendition},
    ffmpeg::{Capabilities, Config as FfmpegConfig},
    open::OpenFile,
    parts::{Completion, PartUpload, PartUploads, ReceivedPart},
    upload::{Attributes, Received, Stored},
};

/// Bounds of the use cases: `[thumbnails]`, and the structs within from other sections.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Bytes of derivatives kept in memory.
    #[serde(
        rename = "cache_bytes_max",
        deserialize_with = "number::<{ 1 << 20 }, { 1 << 40 }, _, _>"
    )]
    pub derived_bytes_max: u64,
    /// Images decoded at once.
    #[serde(rename = "threads", deserialize_with = "number::<1, 256, _, _>")]
    pub decode_threads: usize,
    /// Images waiting to be decoded; more are refused with `Unavailable`.
    #[serde(rename = "queue_max", deserialize_with = "number::<1, 100_000, _, _>")]
    pub decode_queue_max: usize,
    /// Bytes that all decoders together may use.
    #[serde(deserialize_with = "number::<{ 1 << 20 }, { 1 << 40 }, _, _>")]
    pub decode_bytes_max: u64,
    /// Pixels of an image that is decoded at all.
    #[serde(
        rename = "pixels_max",
        deserialize_with = "number::<1, 1_000_000_000, _, _>"
    )]
    pub decode_pixels_max: u64,
    /// How long a failed derivation is not tried again.
    #[serde(rename = "failure_memory_seconds", deserialize_with = "seconds")]
    pub failure_memory: Duration,
    /// The cache of open objects.
    #[serde(skip)]
    pub open: open::Config,
    /// Unfinished uploads in parts.
    #[serde(skip)]
    pub parts: parts::Bounds,
    /// The program that takes frames out of videos and converts voices.
    #[serde(skip)]
    pub ffmpeg: FfmpegConfig,
}

impl Default for Config {
    fn default() -> Self {
        let picture = PictureLimits::default();
        Self {
            derived_bytes_max: 64 << 20,
            decode_threads: std::thread::available_parallelism().map_or(1, usize::from),
            decode_queue_max: 256,
            decode_bytes_max: picture.decode_bytes_max,
            decode_pixels_max: picture.pixels_max,
            failure_memory: Duration::from_secs(60),
            open: open::Config::default(),
            parts: parts::Bounds::default(),
            ffmpeg: FfmpegConfig::default(),
        }
    }
}

/// What the program of this configuration can do here. Blocking, for some tenths of a second.
pub fn capabilities(config: &FfmpegConfig) -> Capabilities {
    ffmpeg::Ffmpeg::probe(config).capabilities()
}

/// Whose objects a request may see at all.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The tenant in the path.
    pub tenant: &'a Tenant,
    /// The API asked through.
    pub dialect: Dialect,
}

/// Everything about files, built once.
pub struct Files {
    store: Arc<dyn Store>,
    parts: PartUploads,
    completions: FairQueue,
    open: open::OpenFiles,
    derivatives: derive::Derivatives,
    clock: Clock,
}

impl Files {
    /// Over a store. Blocking.
    pub fn new(store: Arc<dyn Store>, config: &Config, clock: Clock) -> Self {
        Self {
            open: open::OpenFiles::new(store.clone(), &config.open),
            derivatives: derive::Derivatives::new(store.clone(), config, clock.clone()),
            parts: PartUploads::new(store.clone(), config.parts, clock.clone()),
            store,
            completions: parts::places(),
            clock,
        }
    }

    /// What the program that converts media can do here.
    pub fn capabilities(&self) -> Capabilities {
        self.derivatives.capabilities()
    }

    /// What the cache of open objects and the derivatives count.
    pub fn counts(&self) -> (Arc<Lookups>, Arc<Derivations>) {
        (self.open.lookups.clone(), self.derivatives.counts.clone())
    }

    /// How much there is now.
    pub fn levels(&self) -> FileLevels {
        let parts = self.parts.levels();
        self.derivatives.levels(self.open.len(), parts)
    }

    /// Uploads in parts.
    pub fn parts(&self) -> &PartUploads {
        &self.parts
    }

    /// A new id, made now from the randomness of the operating system.
    ///
    /// # Errors
    /// `Internal` where there is no randomness.
    pub fn new_id(&self) -> Result<ObjectId> {
        let mut random = [0; 10];
        getrandom::fill(&mut random).map_err(Error::internal)?;
        Ok(ObjectId::new(self.clock.now(), &random))
    }

    /// Opens a file of the scope. Whether the caller's secret is right is a second question:
    /// [`OpenFile::check_secret`].
    ///
    /// # Errors
    /// `ObjectExpired` for what outlived its tenant's retention, also where its bytes are gone already;
    /// `ObjectNotFound` for what never was or is another tenant's or dialect's.
    pub async fn open(&self, scope: Scope<'_>, key: Key, now: Timestamp) -> Result<Arc<OpenFile>> {
        // Before the look-up, so that a file answers the same before and after its bytes are swept.
        let is_expired =
            retention::is_expired(scope.dialect, key, &scope.tenant.limits.retention, now);
        match self.open.get(key, now).await {
            Ok(file) if !file.belongs_to(scope) => Err(Kind::ObjectNotFound.into()),
            Ok(_) if is_expired => Err(Kind::ObjectExpired.into()),
            Err(error) if error.kind() == Kind::ObjectNotFound && is_expired => {
                Err(Kind::ObjectExpired.into())
            }
            result => result,
        }
    }

    /// The thumbnail of a picture or a video's first frame: a derivative, or the original where that is the
    /// rule. `fit` is the size asked for; `None`: the one asked for at its upload. It is made in the claimant's turn.
    ///
    /// # Errors
    /// `NoThumbnail`, `Unavailable` when too many wait to be decoded.
    pub async fn thumbnail(
        &self,
        file: &Arc<OpenFile>,
        fit: Option<BoundingBox>,
        claimant: Claimant,
    ) -> Result<Rendition> {
        let fit = fit.unwrap_or(file.object.meta.thumbnail);
        self.derivatives
            .get(file, Derivative::Thumbnail(fit), claimant)
            .await
    }

    /// A voice in the format asked for; the original where it is in it already. It is made in the claimant's turn.
    ///
    /// # Errors
    /// `NotConvertible` where it is no voice, is too long or broken, or the converter is missing;
    /// `Unavailable` when too many wait.
    pub async fn voice(
        &self,
        file: &Arc<OpenFile>,
        format: VoiceFormat,
        claimant: Claimant,
    ) -> Result<Rendition> {
        let is_in_format = match format {
            VoiceFormat::Amr => file.kind.is_amr(),
            VoiceFormat::Mp3 => file.kind == Sniffed::Mp3,
        };
        if is_in_format {
            return Ok(Rendition::Original);
        }
        self.derivatives
            .get(file, Derivative::Voice(format), claimant)
            .await
    }

    /// A new key of a class, made now from the randomness of the operating system.
    ///
    /// # Errors
    /// `Internal` where there is no randomness.
    pub fn new_key(&self, class: Class) -> Result<Key> {
        self.new_id().map(|id| Key::of(class, id))
    }

    /// Whether an object of this key is stored or was taken down, whosesoever it is.
    ///
    /// # Errors
    /// `Internal` where the disk fails.
    pub async fn is_taken(&self, key: Key) -> Result<bool> {
        self.store.is_taken(key).await
    }

    /// Makes a file live as long as one that were stored now, and returns the key by which it does: no byte
    /// is copied.
    ///
    /// # Errors
    /// `ObjectNotFound` where it is gone.
    pub async fn forward(&self, file: &OpenFile, now: Timestamp) -> Result<Key> {
        let key = file.object.key;
        // Never to an earlier day: a clock that went back must not shorten a life.
        let day = now.day().max(key.day);
        if day != key.day && !self.store.extend_life(key, day).await? {
            return Err(Kind::ObjectNotFound.into());
        }
        Ok(Key { day, ..key })
    }

    /// Lets every open file go: the store was opened again, and what is open lies in what it was before.
    pub fn forget_open(&self) {
        self.open.forget_all();
    }

    /// Takes an object down, whatever its class: the file, its derivatives, and every cache.
    ///
    /// # Errors
    /// `Internal` where the disk refuses.
    pub async fn remove(&self, id: ObjectId) -> Result<bool> {
        // Before, since an open file keeps its inode, and the disk may have no other one for the tombstone. And after,
        // whatever the disk answers, and also where nobody waits for the answer any more.
        drop(ForgetOnDrop { files: self, id });
        let _forget = ForgetOnDrop { files: self, id };
        self.store.remove(id).await
    }
}

/// Takes an object out of every cache when dropped.
struct ForgetOnDrop<'a> {
    files: &'a Files,
    id: ObjectId,
}

impl Drop for ForgetOnDrop<'_> {
    fn drop(&mut self) {
        self.files.open.forget(self.id);
        self.files.derivatives.forget(self.id);
    }
}

impl OpenFile {
    fn belongs_to(&self, scope: Scope<'_>) -> bool {
        let meta = &self.object.meta;
        let (org, app) = meta.tenant.split_once('/').unwrap_or_default();
        meta.dialect == scope.dialect && org == scope.tenant.org && app == scope.tenant.app
    }

    /// Whether a restricted file opens with what the caller sent; an unrestricted one opens with anything.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn check_secret(&self, sent: Option<&str>) -> Result<()> {
        let Some(expected) = &self.object.meta.secret_hash else {
            return Ok(());
        };
        let is_right =
            sent.is_some_and(|sent| constant_time_eq(&upload::hash_secret(sent), expected));
        if is_right {
            Ok(())
        } else {
            Err(Kind::Forbidden.into())
        }
    }
}
