//! The local engine: one directory, without an index or a database. The time in an id gives the path of its object.
//!
//! ```text
//! <path>/lock                                      locked by the running server
//! <path>/store-id                                  distinguishes this store and its copies from others
//! <path>/keys/                                     token keys and generated secrets, mode 0700
//! <path>/tmp/<instance>/<uuid>                     uploads on their way in
//! <path>/objects/<class>/YYYY-MM-DD/<xx>/<uuid>    committed objects, never changed; a forwarded object has a
//!                                                  name (a hard link) in each day that it was forwarded on
//! <path>/derived/<class>/YYYY-MM-DD/<xx>/<uuid>-…  derivatives, may be deleted at any time
//! <path>/parts/<uuid>/                             uploads in parts, not complete yet
//! <path>/last-sweep                                time of the last sweep, in milliseconds
//! <path>/tombstones/                               names of files that were taken down, which no upload may reuse
//! ```

mod derived;
mod health;
mod instance;
mod layout;
mod mend;
mod names;
mod parts;
mod paths;
mod removal;
mod root;
mod scrub;
mod space;
mod startup;
mod tombstones;
mod unfinished;
mod upload;
mod walk;
mod writers;

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Deserializer};
use tokio::sync::watch;

use self::{
    derived::{read_derived, write_derived},
    layout::Layout,
    names::At,
    parts::PartFolder,
    unfinished::{NewFile, UnfinishedFile},
    upload::LocalUpload,
    writers::Writers,
};
use super::{
    Access, BoxFuture, Class, Cutoffs, Derived, ExpireMode, Expired, Health, Key, Maintenance,
    Meta, ObjectId, Opened, PartStore, Progress, Sink, Store, StoreFuture, Upload, UploadSize,
    Verified, blocking,
};
use crate::{
    derivative::Derivative,
    error::{Error, Result},
    metrics::Syncs,
    settings::{expected, size},
    time::{Day, Timestamp},
};

/// Whether an acknowledged upload survives a power cut.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Every upload is synced to the disk before it is acknowledged.
    #[default]
    Full,
    /// The kernel decides when to write: an upload survives a crash of the process, not of the machine.
    None,
}

/// Configuration of the local store, from `[store]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The directory. It is made if it does not exist.
    #[serde(deserialize_with = "directory")]
    pub path: PathBuf,
    /// Whether uploads are synced.
    pub durability: Durability,
    /// Uploads are refused while fewer bytes are free.
    #[serde(deserialize_with = "size::<0, { 1 << 60 }, _, _>")]
    pub free_space_min_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: PathBuf::from("chatfiles-data"),
            durability: Durability::Full,
            free_space_min_bytes: 1 << 30,
        }
    }
}

fn directory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    match path.as_os_str().is_empty() {
        true => Err(expected("a directory", "\"\"")),
        false => Ok(path),
    }
}

/// The local store. Cheap to clone; the clones are one store.
#[derive(Clone)]
pub struct LocalStore {
    layout: Arc<Layout>,
    parts: PartFolder,
    writers: Writers,
    /// Counts how often the directory was opened again.
    openings: Arc<watch::Sender<u64>>,
}

impl LocalStore {
    /// Opens the store for serving: makes missing directories, tries what the file system supports, takes the lock, and
    /// removes what a crash left in `tmp/`. A store that exists and cannot be written is opened all the same: its files
    /// can be read, uploads are refused, and [`Maintenance::mend`] tries again. Blocking.
    ///
    /// `inherited` is the lock of a running server that hands over ([`Maintenance::handover`]).
    ///
    /// # Errors
    /// A message that names the path and what to do: not writable, read-only or full without a store in it, on two
    /// file systems, or in use by another server.
    pub fn open(config: &Config, inherited: Option<OwnedFd>) -> Result<Self> {
        let root = paths::absolute(&config.path)?;
        let opened = startup::open(&root, config.durability, inherited.map(Into::into))?;
        let store = Self::over(Layout::new(root, config.clone(), opened));
        if let Some(why) = store.layout.health.troubles().writes {
            tracing::error!(
                path = %store.layout.root().display(),
                why,
                "the store cannot be written: files can be read, uploads are refused"
            );
        }
        Ok(store)
    }

    /// Opens a store for a command, whether or not a server uses it: to read, verify, expire and remove. Uploads are
    /// refused. Blocking.
    ///
    /// Returns `None` if there is no store. An empty mount point is none.
    ///
    /// # Errors
    /// `Internal` if the directory cannot be opened.
    pub fn attach(config: &Config) -> Result<Option<Self>> {
        let root = paths::absolute(&config.path)?;
        let opened = startup::attach(&root)?;
        Ok(opened.map(|opened| Self::over(Layout::new(root, config.clone(), opened))))
    }

    fn over(layout: Layout) -> Self {
        let (layout, writers) = (Arc::new(layout), Writers::default());
        Self {
            parts: PartFolder {
                layout: layout.clone(),
                writers: writers.clone(),
            },
            layout,
            writers,
            openings: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Runs blocking work. An error becomes `Unavailable` if the whole store is gone.
    fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Layout) -> Result<T> + Send + 'static,
    ) -> StoreFuture<'static, T> {
        self.find(work, |_| false)
    }

    /// Like [`LocalStore::on_disk`], but "absent" becomes `Unavailable` too.
    fn find<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Layout) -> Result<T> + Send + 'static,
        is_absent: impl FnOnce(&T) -> bool + Send + 'static,
    ) -> StoreFuture<'static, T> {
        let layout = self.layout.clone();
        Box::pin(blocking(move || {
            layout.unless_gone(work(&layout), is_absent)
        }))
    }
}

/// Opens an object in a store that another process may be serving. Blocking.
///
/// # Errors
/// `Internal` if the disk fails or the file is damaged.
fn open_object(root: &Path, key: Key) -> Result<Option<Opened>> {
    match names::open_read(&paths::object_path(root, key)) {
        Ok(file) => Opened::from_file(file, key).map(Some),
        Err(error) if names::is_absent(&error) => Ok(None),
        Err(_) if tombstones::is_at(At::path(&paths::object_path(root, key))) => Ok(None),
        Err(error) => Err(Error::internal(error)),
    }
}

impl Store for LocalStore {
    fn begin(&self, key: Key, size: UploadSize) -> StoreFuture<'_, Box<dyn Upload>> {
        let layout = self.layout.clone();
        Box::pin(async move {
            let file =
                UnfinishedFile::begin(self.writers.clone(), NewFile { layout, size }).await?;
            Ok(Box::new(LocalUpload { file, key }) as Box<dyn Upload>)
        })
    }

    fn open(&self, key: Key) -> StoreFuture<'_, Option<Opened>> {
        self.find(
            move |layout| open_object(layout.root(), key),
            Option::is_none,
        )
    }

    fn is_taken(&self, key: Key) -> StoreFuture<'_, bool> {
        let find = move |layout: &Layout| {
            let path = paths::object_path(layout.root(), key);
            Ok(open_object(layout.root(), key)?.is_some()
                || tombstones::is_at(At::path(&path))
                || tombstones::is_listed(layout.root(), key)?)
        };
        self.find(find, |is_taken| !is_taken)
    }

    fn is_taken_down(&self, key: Key) -> StoreFuture<'_, bool> {
        self.on_disk(move |layout| tombstones::is_listed(layout.root(), key))
    }

    fn extend_life(&self, key: Key, day: Day) -> StoreFuture<'_, bool> {
        let link = move |layout: &Layout| {
            let instance = layout.instance()?;
            let [from, to] = [key, Key { day, ..key }].map(paths::object_name);
            let linked = layout.link(&instance, &from, &to);
            linked.map_err(|error| layout.write_error(error))
        };
        self.find(link, |is_there| !is_there)
    }

    fn remove(&self, id: ObjectId) -> StoreFuture<'_, bool> {
        let remove = move |layout: &Layout| {
            removal::remove_everywhere(layout.root(), id).map_err(Error::internal)
        };
        self.find(remove, |was_there| !was_there)
    }

    fn derived(&self, key: Key, derivative: Derivative) -> StoreFuture<'_, Option<Derived>> {
        self.on_disk(move |layout| {
            let name = paths::derived_name(key, derivative);
            Ok(read_derived(&layout.root().join(name)))
        })
    }

    fn put_derived(
        &self,
        key: Key,
        derivative: Derivative,
        derived: Derived,
    ) -> StoreFuture<'_, ()> {
        self.on_disk(move |layout| {
            let name = paths::derived_name(key, derivative);
            write_derived(layout, &name, key, &derived)
        })
    }

    fn parts(&self) -> &dyn PartStore {
        &self.parts
    }

    fn maintenance(&self) -> &dyn Maintenance {
        self
    }
}

impl Maintenance for LocalStore {
    fn health(&self) -> Health {
        let health = &self.layout.health;
        let troubles = health.troubles();
        Health {
            reads: troubles.reads,
            writes: troubles.writes,
            write_errors: health.errors(),
            reserved_bytes: self.layout.space.reserved_bytes(),
        }
    }

    fn check(&self, access: Access) -> Result<()> {
        match access {
            Access::Read => self.layout.check_root(),
            Access::Write => self.layout.check_writable(),
        }
    }

    fn free_bytes(&self) -> StoreFuture<'_, u64> {
        self.on_disk(|layout| {
            layout.check_root()?;
            // The directory may have come back by itself, for example after it was renamed and renamed back.
            layout.health.root_is_there();
            layout.free_bytes()
        })
    }

    fn expire(
        &self,
        class: Class,
        cutoffs: Cutoffs,
        mode: ExpireMode,
        progress: Arc<Progress>,
    ) -> StoreFuture<'_, Expired> {
        self.on_disk(move |layout| {
            if mode == ExpireMode::Remove {
                layout.check_writable()?;
            }
            let expired = removal::expire(layout.root(), class, &cutoffs, mode, &progress);
            expired.map_err(Error::internal)
        })
    }

    fn last_sweep(&self) -> StoreFuture<'_, Option<Timestamp>> {
        let read = |layout: &Layout| removal::last_sweep(layout.root());
        self.find(read, Option::is_none)
    }

    fn record_sweep(&self, now: Timestamp) -> StoreFuture<'_, ()> {
        self.on_disk(move |layout| {
            layout.check_writable()?;
            removal::record_sweep(layout.root(), now)
        })
    }

    fn verify(&self, progress: Arc<Progress>) -> StoreFuture<'_, Verified> {
        self.on_disk(move |layout| scrub::verify(layout.root(), progress))
    }

    fn openings(&self) -> watch::Receiver<u64> {
        self.openings.subscribe()
    }

    fn mend(&self) -> BoxFuture<'_, ()> {
        Box::pin(mend::mend(self))
    }

    fn syncs(&self) -> Arc<Syncs> {
        self.layout.syncs.clone()
    }

    fn handover(&self) -> Option<OwnedFd> {
        let lock = self.layout.opened().lock.clone()?;
        Some(lock.try_clone().ok()?.into())
    }
}
