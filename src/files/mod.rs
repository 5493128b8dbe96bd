//! The operations on files that both APIs share: receive, open, derive, forward, take down.
//!
//! This module decides what a client may do, by tenant, API, secret and expiry. Requests and responses belong to
//! `api/`.

mod derive;
mod ffmpeg;
mod open;
mod parts;
mod pool;
mod reference;
mod take_down;
mod upload;

use std::{sync::Arc, time::Duration};

use serde::Deserialize;

use crate::{
    derivative::Derivative,
    error::{Error, Kind, Result},
    fair_queue::{Claimant, FairQueue},
    logging::Actor,
    media::thumbnail::PictureLimits,
    metrics::{Derivations, FileLevels, Lookups},
    retention,
    secret::constant_time_eq,
    settings::{number, seconds, size},
    store::{Class, Dialect, Key, ObjectId, Store},
    tenant::Tenant,
    time::{Clock, Timestamp},
};

pub use self::{
    derive::{DerivedFile, Rendition},
    ffmpeg::{Capabilities, Config as FfmpegConfig, PACKAGES},
    open::OpenFile,
    parts::{Completion, PartUpload, ReceivedPart},
    reference::Reference,
    take_down::take_down,
    upload::{Attributes, Received, Stored},
};

/// Bounds of the use cases: `[thumbnails]`, and the structs within from other sections.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Bytes of derivatives kept in memory.
    #[serde(
        rename = "cache_bytes_max",
        deserialize_with = "size::<{ 1 << 20 }, { 1 << 40 }, _, _>"
    )]
    pub derived_bytes_max: u64,
    /// Images decoded at once.
    #[serde(rename = "threads", deserialize_with = "number::<1, 256, _, _>")]
    pub decode_threads: usize,
    /// Images waiting to be decoded; more are refused with `Unavailable`.
    #[serde(rename = "queue_max", deserialize_with = "number::<1, 100_000, _, _>")]
    pub decode_queue_max: usize,
    /// Bytes that all decoders together may use.
    #[serde(deserialize_with = "size::<{ 1 << 20 }, { 1 << 40 }, _, _>")]
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
    pub(crate) parts: parts::Bounds,
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
    ffmpeg::Ffmpeg::probe(config).capabilities
}

/// The objects that a request may see.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The tenant in the path.
    pub tenant: &'a Tenant,
    /// The API of the request.
    pub dialect: Dialect,
}

/// All operations on files.
pub struct Files {
    store: Arc<dyn Store>,
    parts: parts::PartUploads,
    completions: FairQueue,
    open: open::OpenFiles,
    derivatives: derive::Derivatives,
    clock: Clock,
}

impl Files {
    /// Builds everything over a store. Blocking.
    pub fn new(store: Arc<dyn Store>, config: &Config, clock: Clock) -> Self {
        Self {
            open: open::OpenFiles::new(store.clone(), &config.open),
            derivatives: derive::Derivatives::new(store.clone(), config, clock.clone()),
            parts: parts::PartUploads::new(store.clone(), config.parts, clock.clone()),
            store,
            completions: parts::places(),
            clock,
        }
    }

    /// What the program that converts media can do here.
    pub fn capabilities(&self) -> Capabilities {
        self.derivatives.ffmpeg.capabilities
    }

    /// The counters of the cache of open objects and of the derivatives.
    pub fn counts(&self) -> (Arc<Lookups>, Arc<Derivations>) {
        (self.open.lookups.clone(), self.derivatives.counts.clone())
    }

    /// Current levels, for metrics.
    pub fn levels(&self) -> FileLevels {
        let parts = self.parts.levels();
        self.derivatives.levels(self.open.cache.len(), parts)
    }

    /// Uploads in parts.
    pub(crate) fn parts(&self) -> &parts::PartUploads {
        &self.parts
    }

    /// Makes an id from the current time and random bytes of the operating system.
    ///
    /// # Errors
    /// `Internal` if the system has no random bytes.
    pub fn new_id(&self) -> Result<ObjectId> {
        let mut random = [0; 10];
        getrandom::fill(&mut random).map_err(Error::internal)?;
        Ok(ObjectId::new(self.clock.now(), &random))
    }

    /// Opens a file of the scope. Does not check the share-secret: see [`OpenFile::check_secret`].
    ///
    /// # Errors
    /// `ObjectExpired` if the retention of its tenant has ended, also after its bytes were removed; `ObjectNotFound` if
    /// it never existed or belongs to another tenant or API.
    pub async fn open(&self, scope: Scope<'_>, key: Key, now: Timestamp) -> Result<Arc<OpenFile>> {
        // Before the look-up, so that the response is the same before and after the bytes are swept.
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

    /// A derivative of a file, or the original where that is the rule. It is made in the claimant's turn.
    ///
    /// # Errors
    /// `NoThumbnail`; `NotConvertible` where it is no voice, is too long or broken, or the converter is missing;
    /// `Unavailable` when too many wait.
    pub async fn derivative(
        &self,
        file: &Arc<OpenFile>,
        derivative: Derivative,
        claimant: Claimant,
    ) -> Result<Rendition> {
        self.derivatives.get(file, derivative, claimant).await
    }

    /// Makes a key of a class, with a new id.
    ///
    /// # Errors
    /// As [`Files::new_id`].
    pub fn new_key(&self, class: Class) -> Result<Key> {
        self.new_id().map(|id| Key::of(class, id))
    }

    /// Whether an object of this key is stored or was taken down, of any tenant.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn is_taken(&self, key: Key) -> Result<bool> {
        self.store.is_taken(key).await
    }

    /// Extends the life of a file as if it were stored now, and returns its new key. No byte is copied.
    ///
    /// # Errors
    /// `ObjectNotFound` if the file is gone.
    pub async fn forward(&self, file: &OpenFile, now: Timestamp) -> Result<Key> {
        let key = file.object.key;
        // Never to an earlier day, so that a clock that was set back does not shorten the life of a file.
        let day = now.day().max(key.day);
        if day != key.day && !self.store.extend_life(key, day).await? {
            return Err(Kind::ObjectNotFound.into());
        }
        Ok(Key { day, ..key })
    }

    /// Closes every open file, because the store was opened again and they belong to its previous opening.
    pub fn forget_open(&self) {
        self.open.cache.clear();
    }

    /// Opens a file of any tenant and API, expired or not, for the operator.
    ///
    /// # Errors
    /// `ObjectNotFound`: it is not stored under a key of the reference. Otherwise those of the store.
    pub async fn find(&self, reference: Reference, now: Timestamp) -> Result<Arc<OpenFile>> {
        for key in reference.keys() {
            match self.open.get(key, now).await {
                Err(error) if error.kind() == Kind::ObjectNotFound => {}
                found => return found,
            }
        }
        Err(Kind::ObjectNotFound.into())
    }

    /// Takes an object of any class down: the file, its derivatives, and every cache entry. Leaves an audit line with
    /// the actor.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove(&self, id: ObjectId, actor: Actor<'_>) -> Result<bool> {
        // Before, because an open file keeps its inode, and the disk may have no other inode for the tombstone. And
        // after, whatever the result is, also if this call is dropped.
        drop(ForgetOnDrop { files: self, id });
        let _forget = ForgetOnDrop { files: self, id };
        take_down(&*self.store, id, actor).await
    }
}

/// Removes an object from every cache when dropped.
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

    /// Checks the share-secret of a restricted file. An unrestricted file needs none.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn check_secret(&self, sent: Option<&str>) -> Result<()> {
        let Some(expected) = &self.object.meta.secret_hash else {
            return Ok(());
        };
        match sent.is_some_and(|sent| constant_time_eq(&upload::hash_secret(sent), expected)) {
            true => Ok(()),
            false => Err(Kind::Forbidden.into()),
        }
    }
}
