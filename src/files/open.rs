//! Caches open objects, so that a request for a hot file costs no `open` and no `mmap`.
//!
//! Key: the object's [`Key`]. Bound: the number of objects and their mapped bytes. Staleness: none, because an object
//! never changes. [`OpenFiles::forget`] drops a removed object; callers refuse expired ones.

use std::sync::{Arc, OnceLock};

use quick_cache::{Weighter, sync::Cache};
use serde::Deserialize;

use crate::{
    error::{Kind, Result},
    http::representation::RepresentationHeaders,
    media::sniff::Sniffed,
    metrics::{Lookup, Lookups},
    settings::number,
    store::{Key, ObjectId, Opened, Store},
    time::Timestamp,
};

/// Bounds of the cache of open objects, from `[store]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Open objects in the cache, each with a descriptor and a memory map.
    #[serde(
        rename = "open_objects_max",
        deserialize_with = "number::<1, { 1 << 20 }, _, _>"
    )]
    pub objects_max: u64,
    /// Mapped bytes of these objects. They are address space, not memory.
    #[serde(skip)]
    pub bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            objects_max: 4096,
            bytes_max: 8 << 30,
        }
    }
}

/// An open object.
pub struct OpenFile {
    /// The object.
    pub object: Opened,
    /// Its kind, found by its first bytes when it was uploaded.
    pub kind: Sniffed,
    /// Where `delivery/` keeps the headers of this file.
    pub headers: OnceLock<RepresentationHeaders>,
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpenFile")
            .field(&self.object.key.id)
            .finish()
    }
}

/// The cache of open objects.
pub(super) struct OpenFiles {
    store: Arc<dyn Store>,
    pub(super) cache: Cache<Key, Arc<OpenFile>, Weight>,
    pub(super) lookups: Arc<Lookups>,
}

/// Weighs an entry by its bytes, but at least by `bytes_max / objects_max`, so that one budget bounds bytes and count.
#[derive(Clone)]
pub(super) struct Weight {
    least: u64,
}

impl Weighter<Key, Arc<OpenFile>> for Weight {
    fn weight(&self, _: &Key, file: &Arc<OpenFile>) -> u64 {
        file.object.len().max(self.least)
    }
}

impl OpenFiles {
    pub(super) fn new(store: Arc<dyn Store>, config: &Config) -> Self {
        let count = config.objects_max.max(1);
        let weight = Weight {
            least: (config.bytes_max / count).max(1),
        };
        let estimate = usize::try_from(count).unwrap_or(usize::MAX);
        Self {
            store,
            cache: Cache::with_weighter(estimate, config.bytes_max, weight),
            lookups: Arc::default(),
        }
    }

    /// Returns the open file. Concurrent requests open it once.
    ///
    /// # Errors
    /// `ObjectNotFound`; otherwise as [`Store::open`].
    pub(super) async fn get(&self, key: Key, now: Timestamp) -> Result<Arc<OpenFile>> {
        if let Some(file) = self.cache.get(&key) {
            self.lookups.count(Lookup::Hit);
            file.object.touch(now);
            return Ok(file);
        }
        self.lookups.count(Lookup::Miss);
        let open = async {
            let object = self.store.open(key).await?.ok_or(Kind::ObjectNotFound)?;
            Ok::<_, crate::error::Error>(Arc::new(OpenFile::new(object)))
        };
        let file = self.cache.get_or_insert_async(&key, open).await?;
        // A take-down may have happened during the open. This costs one system call, only on a miss.
        if file.object.is_removed() {
            self.cache.remove(&key);
            return Err(Kind::ObjectNotFound.into());
        }
        file.object.touch(now);
        Ok(file)
    }

    pub(super) fn forget(&self, id: ObjectId) {
        self.cache.retain(|key, _| key.id != id);
    }
}

impl OpenFile {
    fn new(object: Opened) -> Self {
        let sniffed = object.meta.sniffed_type.as_deref();
        Self {
            kind: sniffed.map_or(Sniffed::Unknown, Sniffed::of_media_type),
            object,
            headers: OnceLock::new(),
        }
    }
}
