//! The use cases, without a dialect: receive a file, open it, derive from it, take it down.
//!
//! What a client may do is decided here (the object's tenant, dialect and secret, its expiry); how it is
//! asked and answered belongs to `api/`.

mod derive;
mod open;
mod pool;
mod upload;

use std::{sync::Arc, time::Duration};

use crate::{
    error::{Error, Kind, Result},
    retention,
    secret::constant_time_eq,
    store::{Class, Dialect, Key, ObjectId, Store, local::PartUploads},
    tenant::Tenant,
    time::{Clock, Timestamp},
};

pub use self::{
    derive::{DerivedFile, Thumbnail},
    open::OpenFile,
    upload::{Attributes, Received, Stored},
};

/// Bounds of the use cases.
#[derive(Debug, Clone)]
pub struct Config {
    /// Objects kept open (a descriptor and a map each).
    pub open_objects_max: u64,
    /// Bytes mapped by open objects: address space, not memory.
    pub open_bytes_max: u64,
    /// Bytes of derivatives kept in memory.
    pub derived_bytes_max: u64,
    /// Images decoded at once.
    pub decode_threads: usize,
    /// Images waiting to be decoded; more are refused with `Unavailable`.
    pub decode_queue_max: usize,
    /// Bytes that all decoders together may use.
    pub decode_bytes_max: u64,
    /// Pixels of an image that is decoded at all.
    pub decode_pixels_max: u64,
    /// How long a failed derivation is not tried again.
    pub failure_memory: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            open_objects_max: 4096,
            open_bytes_max: 8 << 30,
            derived_bytes_max: 64 << 20,
            decode_threads: std::thread::available_parallelism().map_or(1, usize::from),
            decode_queue_max: 256,
            decode_bytes_max: 384 << 20,
            decode_pixels_max: 64_000_000,
            failure_memory: Duration::from_secs(60),
        }
    }
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
    open: open::OpenFiles,
    thumbnails: derive::Thumbnails,
    clock: Clock,
}

impl Files {
    /// Over a store; uploads in parts lie in `parts` until they are complete.
    pub fn new(store: Arc<dyn Store>, parts: PartUploads, config: &Config, clock: Clock) -> Self {
        Self {
            open: open::OpenFiles::new(store.clone(), config),
            thumbnails: derive::Thumbnails::new(store.clone(), config, clock.clone()),
            store,
            parts,
            clock,
        }
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
    pub async fn open(
        &self,
        scope: Scope<'_>,
        class: Class,
        id: ObjectId,
        now: Timestamp,
    ) -> Result<Arc<OpenFile>> {
        let days = match class {
            Class::Chatfile => scope.tenant.limits.chatfile_days,
        };
        // Before the look-up, so that a file answers the same before and after its bytes are swept.
        let is_expired = retention::is_expired(id.created(), days, now);
        match self.open.get(Key::of(class, id), now).await {
            Ok(file) if !file.belongs_to(scope) => Err(Kind::ObjectNotFound.into()),
            Ok(_) if is_expired => Err(Kind::ObjectExpired.into()),
            Err(error) if error.kind() == Kind::ObjectNotFound && is_expired => {
                Err(Kind::ObjectExpired.into())
            }
            result => result,
        }
    }

    /// The thumbnail of a file: a derivative, or the original where that is the rule.
    ///
    /// # Errors
    /// `NoThumbnail`, `Unavailable` when too many wait to be decoded.
    pub async fn thumbnail(&self, file: &Arc<OpenFile>) -> Result<Thumbnail> {
        self.thumbnails.get(file).await
    }

    /// Takes an object down, whatever its class: the file, its derivatives, and every cache.
    ///
    /// # Errors
    /// `Internal` where the disk refuses.
    pub async fn remove(&self, id: ObjectId) -> Result<bool> {
        let mut was_there = false;
        for class in Class::ALL {
            let key = Key::of(class, id);
            // Forgotten whatever the disk answers, and also where nobody waits for the answer any more.
            let forget = ForgetOnDrop { files: self, key };
            let removed = self.store.remove(key).await;
            drop(forget);
            was_there |= removed?;
        }
        Ok(was_there)
    }
}

/// Takes an object out of every cache when dropped.
struct ForgetOnDrop<'a> {
    files: &'a Files,
    key: Key,
}

impl Drop for ForgetOnDrop<'_> {
    fn drop(&mut self) {
        self.files.open.forget(self.key);
        self.files.thumbnails.forget(self.key);
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
