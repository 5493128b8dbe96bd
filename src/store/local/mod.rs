//! The embedded store: a directory, and nothing else.
//!
//! ```text
//! <path>/lock                                      held by the running server
//! <path>/store-id                                  tells this store and its copies from others
//! <path>/keys/                                     token keys and generated secrets, mode 0700
//! <path>/tmp/<instance>/<uuid>                     uploads on their way in
//! <path>/objects/<class>/YYYY-MM-DD/<xx>/<uuid>    committed objects, never changed; a forwarded one has a
//!                                                  name (a hard link) in each day it was forwarded on
//! <path>/derived/<class>/YYYY-MM-DD/<xx>/<uuid>-…  derivatives, may be deleted at any time
//! <path>/parts/<uuid>/                             uploads in parts, not complete yet
//! <path>/tombstones/                               what keeps files that were taken down from coming back
//! ```
//! There is no index and no database: an id's own time gives its path.

mod derived;
mod health;
mod instance;
mod layout;
mod mend;
mod names;
mod observe;
mod parts;
mod removal;
mod root;
mod scrub;
mod space;
mod startup;
mod tombstones;
mod upload;
mod writers;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Deserializer};
use tokio::sync::watch;
use uuid::Uuid;

use self::{
    derived::{read_derived, write_derived},
    layout::Layout,
    names::At,
    writers::Writers,
};
use super::{
    BoundingBox, BoxFuture, Class, Derived, DerivedName, Dialect, Key, Meta, ObjectId, Opened,
    Store, Upload, UploadSize, blocking,
};
use crate::{
    durable,
    error::{Error, Result},
    settings::expected,
    time::{Day, Timestamp},
};

pub use self::{
    health::Troubles,
    layout::DayDirectory,
    observe::Presence,
    parts::{
        ClaimedParts, FolderContents, FoundUpload, PART_BYTES_MIN, PART_NUMBER_MAX, PartFolder,
        PartWriter, PartsReader, StoredPart, WrittenPart, expired_parts, sweep_parts,
    },
    removal::{remove_everywhere, remove_object},
    scrub::{Damaged, scrub},
    startup::{is_store, running_instance},
    tombstones::gather as gather_tombstones,
};

/// Whether an answered upload survives a power cut.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Every upload is synced to the disk before it is answered.
    #[default]
    Full,
    /// Left to the kernel: survives a crash of the process, not of the machine.
    None,
}

/// What the local store needs to know: from `[store]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The directory; made if it does not exist.
    #[serde(deserialize_with = "directory")]
    pub path: PathBuf,
    /// Whether uploads are synced.
    pub durability: Durability,
    /// Uploads are refused while fewer bytes are free.
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
    writers: Writers,
    /// Random, new at every start of a server.
    name: Arc<str>,
    /// How often the directory was opened again.
    openings: Arc<watch::Sender<u64>>,
}

impl LocalStore {
    /// Opens the store for serving: makes what is missing, probes what the file system can do, takes the
    /// lock, and sweeps what a crash left in `tmp/`. A store that is there and cannot be written is opened all the
    /// same: what is in it can be read, uploads are refused, and [`LocalStore::mend`] tries again. Blocking.
    ///
    /// # Errors
    /// A message that names the path and what to do: not writable, read-only or full without a store in it, on two
    /// file systems, or in use by another server.
    pub fn open(config: &Config) -> Result<Self> {
        Self::open_with(config, None)
    }

    /// Like [`LocalStore::open`], with the lock of another server that hands it over, and goes on with what it has begun. Blocking.
    ///
    /// # Errors
    /// As [`LocalStore::open`].
    pub fn open_with(config: &Config, lock: Option<File>) -> Result<Self> {
        let root = layout::absolute(&config.path)?;
        let name = Uuid::new_v4().simple().to_string();
        let opened = startup::open(&root, config.durability, &name, lock)?;
        let layout = Layout::new(root, config.clone(), opened);
        if let Some(why) = layout.health.troubles().writes {
            tracing::error!(
                path = %layout.root().display(),
                why,
                "the store cannot be written: files can be read, uploads are refused"
            );
        }
        Ok(Self {
            layout: Arc::new(layout),
            writers: Writers::default(),
            name: name.into(),
            openings: Arc::new(watch::Sender::new(0)),
        })
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// Checks that the directory is the store's, and can be written: before something else is written there, by its
    /// path. Blocking.
    ///
    /// # Errors
    /// `Unavailable` where it is gone, `StorageFull` where it was opened for reading alone.
    pub fn check_writable(&self) -> Result<()> {
        self.layout.instance().map(drop)
    }

    /// The lock, to be handed over.
    pub fn lock(&self) -> Arc<File> {
        self.layout.opened().lock.clone()
    }

    /// Changes when the directory was opened again: what lies in it by a path of its own is to be made anew.
    pub fn openings(&self) -> watch::Receiver<u64> {
        self.openings.subscribe()
    }

    /// The random name of this run of the server.
    pub fn instance(&self) -> &str {
        &self.name
    }

    /// Unfinished uploads in parts, kept beside the objects.
    pub fn parts(&self) -> PartFolder {
        PartFolder::new(self.layout.clone())
    }
}

/// Opens an object in a store that another process may be serving. Blocking.
///
/// # Errors
/// `Internal` where the disk fails or the file is damaged.
pub fn open_object(root: &Path, key: Key) -> Result<Option<Opened>> {
    match names::open_read(&layout::object_path(root, key)) {
        Ok(file) => Opened::from_file(file, key).map(Some),
        Err(error) if names::is_absent(&error) => Ok(None),
        Err(_) if tombstones::is_at(At::path(&layout::object_path(root, key))) => Ok(None),
        Err(error) => Err(Error::internal(error)),
    }
}

/// The days of a class for which anything is stored, oldest first. Blocking.
///
/// # Errors
/// `Internal` where a directory cannot be read.
pub fn days(root: &Path, class: Class) -> Result<Vec<DayDirectory>> {
    layout::days(root, class)
        .map_err(|error| Error::internal(format!("{}: {error}", root.display())))
}

/// Calls `visit` with the metadata of every object of a day that can be read; the names of one of its 256
/// directories are held at a time. Blocking.
///
/// # Errors
/// `Internal` where a directory cannot be read, and what `visit` returns; a damaged object is passed over.
pub fn visit_metas(
    root: &Path,
    class: Class,
    day: &DayDirectory,
    visit: &mut dyn FnMut(Key, Meta) -> Result<()>,
) -> Result<()> {
    for spread in layout::spreads_of(day).map_err(Error::internal)? {
        for key in layout::objects_in(&spread, class, day.day).map_err(Error::internal)? {
            let meta = names::open_read(&layout::object_path(root, key)).and_then(|file| {
                let file_len = file.metadata()?.len();
                super::trailer::read(&file, file_len)
            });
            if let Ok(meta) = meta {
                visit(key, meta)?;
            }
        }
    }
    Ok(())
}

/// Removes a day whole, objects and derivatives. Blocking.
///
/// # Errors
/// `Internal` where the disk refuses; what was removed until then stays removed.
pub fn remove_day(day: &DayDirectory) -> Result<()> {
    for path in &day.paths {
        match fs::remove_dir_all(path) {
            Err(error) if !names::is_absent(&error) => {
                return Err(Error::internal(format!("{}: {error}", path.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Like [`blocking`](crate::store::blocking), but an error becomes `Unavailable` if the whole store is gone.
async fn on_disk<T: Send + 'static>(
    layout: &Arc<Layout>,
    work: impl FnOnce(&Arc<Layout>) -> Result<T> + Send + 'static,
) -> Result<T> {
    find_on_disk(layout, work, |_| false).await
}

/// Like [`on_disk`], but "absent" becomes `Unavailable` too.
async fn find_on_disk<T: Send + 'static>(
    layout: &Arc<Layout>,
    work: impl FnOnce(&Arc<Layout>) -> Result<T> + Send + 'static,
    is_absent: impl FnOnce(&T) -> bool + Send + 'static,
) -> Result<T> {
    let layout = layout.clone();
    blocking(move || layout.unless_gone(work(&layout), is_absent)).await
}

impl Store for LocalStore {
    fn begin(&self, key: Key, size: UploadSize) -> BoxFuture<'_, Result<Box<dyn Upload>>> {
        let new = upload::NewFile {
            layout: self.layout.clone(),
            key,
            size,
        };
        Box::pin(async move {
            let upload = upload::LocalUpload::begin(self.writers.clone(), new).await?;
            Ok(Box::new(upload) as Box<dyn Upload>)
        })
    }

    fn open(&self, key: Key) -> BoxFuture<'_, Result<Option<Opened>>> {
        let open = move |layout: &Arc<Layout>| open_object(layout.root(), key);
        Box::pin(find_on_disk(&self.layout, open, Option::is_none))
    }

    fn is_taken(&self, key: Key) -> BoxFuture<'_, Result<bool>> {
        let find = move |layout: &Arc<Layout>| {
            let path = layout::object_path(layout.root(), key);
            Ok(open_object(layout.root(), key)?.is_some()
                || tombstones::is_at(At::path(&path))
                || tombstones::is_listed(layout.root(), key).map_err(Error::internal)?)
        };
        Box::pin(find_on_disk(&self.layout, find, |is_taken| !is_taken))
    }

    fn is_taken_down(&self, key: Key) -> BoxFuture<'_, Result<bool>> {
        let find = move |layout: &Arc<Layout>| {
            tombstones::is_listed(layout.root(), key).map_err(Error::internal)
        };
        Box::pin(on_disk(&self.layout, find))
    }

    fn keep_until(&self, key: Key, day: Day) -> BoxFuture<'_, Result<bool>> {
        let link = move |layout: &Arc<Layout>| {
            let instance = layout.instance()?;
            let (from, to) = (key, Key { day, ..key });
            layout
                .link(
                    &instance,
                    &layout::object_name(from),
                    &layout::object_name(to),
                )
                .map_err(|error| layout.write_error(error))
        };
        Box::pin(find_on_disk(&self.layout, link, |is_there| !is_there))
    }

    fn remove(&self, id: ObjectId) -> BoxFuture<'_, Result<bool>> {
        let remove = move |layout: &Arc<Layout>| remove_everywhere(layout.root(), id);
        Box::pin(find_on_disk(&self.layout, remove, |was_there| !was_there))
    }

    fn derived(&self, key: Key, name: DerivedName) -> BoxFuture<'_, Result<Option<Derived>>> {
        let layout = self.layout.clone();
        Box::pin(blocking(move || {
            let path = layout.root().join(layout::derived_name(key, name));
            Ok(read_derived(&path, key))
        }))
    }

    fn put_derived(
        &self,
        key: Key,
        name: DerivedName,
        derived: Derived,
    ) -> BoxFuture<'_, Result<()>> {
        let put = move |layout: &Arc<Layout>| {
            write_derived(layout, &layout::derived_name(key, name), key, derived)
        };
        Box::pin(on_disk(&self.layout, put))
    }
}

/// When the sweep last ran, kept across restarts so that a jump of the clock is noticed.
pub struct SweepMemory(PathBuf);

impl SweepMemory {
    /// Of the store at `root`.
    pub fn of(root: &Path) -> Self {
        Self(root.join("last-sweep"))
    }

    /// The remembered time; `None` before the first sweep.
    ///
    /// # Errors
    /// `Internal` where the file cannot be read or holds no number.
    pub fn read(&self) -> Result<Option<Timestamp>> {
        match fs::read_to_string(&self.0) {
            Ok(text) => match text.trim().parse() {
                Ok(ms) => Ok(Some(Timestamp::from_ms(ms))),
                Err(_) => Err(Error::internal(format!(
                    "{}: not a number of milliseconds",
                    self.0.display()
                ))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::internal(error)),
        }
    }

    /// Remembers `now`, whole or not at all.
    ///
    /// # Errors
    /// As a write may fail.
    pub fn write(&self, now: Timestamp) -> Result<()> {
        let draft = self.0.with_extension(format!("{}.tmp", std::process::id()));
        // What an earlier process of this id left.
        let write = || {
            At::path(&draft).remove_if_there()?;
            names::write_over(
                At::path(&draft),
                At::path(&self.0),
                &format!("{}\n", now.ms()),
            )?;
            durable::sync_parent(&self.0)
        };
        write().map_err(health::storage_error)
    }
}
