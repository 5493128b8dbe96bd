//! The embedded store: a directory, and nothing else.
//!
//! ```text
//! <path>/lock                                      held by the running server
//! <path>/keys/                                     token keys and generated secrets, mode 0700
//! <path>/tmp/<instance>/<uuid>                     uploads on their way in
//! <path>/objects/<class>/YYYY-MM-DD/<xx>/<uuid>    committed objects, never changed; a forwarded one has a
//!                                                  name (a hard link) in each day it was forwarded on
//! <path>/derived/<class>/YYYY-MM-DD/<xx>/<uuid>-…  derivatives, may be deleted at any time
//! <path>/parts/<uuid>/                             uploads in parts, not complete yet
//! ```
//! There is no index and no database: an id's own time gives its path.

mod derived;
mod layout;
mod names;
mod observe;
mod parts;
mod scrub;
mod space;
mod startup;
mod upload;
mod writers;

use std::{
    fs::{self, File},
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::{
    derived::{read_derived, write_derived},
    layout::Layout,
    writers::Writers,
};
use super::{
    BoundingBox, BoxFuture, Class, Derived, DerivedName, Dialect, Key, Meta, Object, ObjectId,
    Store, Upload, UploadSize,
};
use crate::{
    error::{Error, Kind, Result},
    time::{Day, Timestamp},
};

pub use self::{
    layout::DayDirectory,
    parts::{
        PART_BYTES_MIN, PART_NUMBER_MAX, PartUpload, PartUploads, PartWriter, StoredPart,
        expired_parts, sweep_parts,
    },
    scrub::{Damaged, scrub},
    startup::{Instance, is_store, running_instance},
};

/// Whether an answered upload survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Every upload is synced to the disk before it is answered.
    #[default]
    Full,
    /// Left to the kernel: survives a crash of the process, not of the machine.
    None,
}

/// What the local store needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory; made if it does not exist.
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

/// The local store. Cheap to clone; the clones are one store.
#[derive(Clone)]
pub struct LocalStore {
    layout: Arc<Layout>,
    /// Held for the lifetime of a serving process: the directory's lock and its folder under `tmp/`.
    instance: Arc<Instance>,
    writers: Writers,
}

impl LocalStore {
    /// Opens the store for serving: makes what is missing, probes what the file system can do, takes the
    /// lock, and sweeps what a crash left in `tmp/`. Blocking.
    ///
    /// # Errors
    /// A message that names the path and what to do: not writable, read-only, full, on two file systems, or
    /// in use by another server.
    pub fn open(config: &Config) -> Result<Self> {
        Self::open_with(config, None)
    }

    /// The same with the lock of another server that hands it over, and goes on with what it has begun. Blocking.
    ///
    /// # Errors
    /// As [`LocalStore::open`].
    pub fn open_with(config: &Config, lock: Option<File>) -> Result<Self> {
        let root = layout::absolute(&config.path)?;
        let (instance, rename) = startup::prepare(&root, config.durability, lock)?;
        let layout = Arc::new(Layout::new(root, config.clone(), rename));
        Ok(Self {
            layout,
            instance: Arc::new(instance),
            writers: Writers::default(),
        })
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// The lock, to be handed over.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.instance.store_lock()
    }

    /// The random name of this run of the server.
    pub fn instance(&self) -> &str {
        self.instance.name()
    }

    /// Uploads in parts, kept beside the objects.
    pub fn parts(&self) -> PartUploads {
        PartUploads::new(self.layout.clone(), self.instance.clone())
    }
}

/// Opens an object in a store that another process may be serving. Blocking.
///
/// # Errors
/// `Internal` where the disk fails or the file is damaged.
pub fn open_object(root: &Path, key: Key) -> Result<Option<Object>> {
    match names::open_read(&layout::object_path(root, key)) {
        Ok(file) => Object::from_file(file, key).map(Some),
        Err(error) if names::is_absent(&error) => Ok(None),
        Err(_) if names::is_bar(&layout::object_path(root, key)) => Ok(None),
        Err(error) => Err(Error::internal(error)),
    }
}

/// Removes an object and its derivatives from a store, whether or not a server runs on it. Blocking.
///
/// # Errors
/// `Internal` where the disk refuses.
pub fn remove_object(root: &Path, key: Key) -> Result<bool> {
    // The derivatives first: if this is cut short, the object is still there to be removed again. And once
    // more after it: one that was being made meanwhile looks for its object only after it was kept.
    remove_derived(root, key)?;
    let path = layout::object_path(root, key);
    let was_there =
        !names::is_bar(&path) && names::remove_if_there(&path).map_err(Error::internal)?;
    remove_derived(root, key)?;
    if was_there {
        names::sync_dir(layout::parent(&path)).map_err(Error::internal)?;
    }
    Ok(was_there)
}

/// Removes an object under every key it has, with all its derivatives, and bars the name that it was uploaded
/// under: whoever still holds a ticket for it must not bring it back. Blocking.
///
/// # Errors
/// `Internal` where the disk refuses.
pub fn remove_everywhere(root: &Path, id: ObjectId) -> Result<bool> {
    let mut was_there = false;
    // Again until a whole walk finds none: it may be forwarded into a new day meanwhile.
    loop {
        let mut found = false;
        for class in Class::ALL {
            for DayDirectory { day, .. } in days(root, class)? {
                let key = Key { class, day, id };
                // Derivatives also where the object is gone: an earlier removal may have been cut short.
                let removed = remove_object(root, key)?;
                if removed && key == Key::of(class, id) {
                    bar(root, key)?;
                }
                found |= removed;
            }
        }
        if !found {
            return Ok(was_there);
        }
        was_there = true;
    }
}

/// Until it is barred: an upload under way may take the name in between.
fn bar(root: &Path, key: Key) -> Result<()> {
    let path = layout::object_path(root, key);
    while let Err(error) = names::bar(&path) {
        if error.kind() != io::ErrorKind::AlreadyExists {
            return Err(Error::internal(error));
        }
        if !remove_object(root, key)? {
            return Ok(());
        }
    }
    names::sync_dir(layout::parent(&path)).map_err(Error::internal)
}

fn remove_derived(root: &Path, key: Key) -> Result<()> {
    for path in layout::derived_of(root, key).map_err(Error::internal)? {
        names::remove_if_there(&path).map_err(Error::internal)?;
    }
    Ok(())
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
                super::object::read_trailer(&file, file_len)
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

/// Runs blocking work off the reactor threads, to its end even if the caller goes away.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal(error)),
    }
}

impl Store for LocalStore {
    fn begin(&self, key: Key, size: UploadSize) -> BoxFuture<'_, Result<Box<dyn Upload>>> {
        let new = upload::NewFile {
            layout: self.layout.clone(),
            instance: self.instance.clone(),
            key,
            size,
        };
        Box::pin(async move {
            let upload = upload::LocalUpload::begin(self.writers.clone(), new).await?;
            Ok(Box::new(upload) as Box<dyn Upload>)
        })
    }

    fn open(&self, key: Key) -> BoxFuture<'_, Result<Option<Object>>> {
        let layout = self.layout.clone();
        Box::pin(blocking(move || open_object(layout.root(), key)))
    }

    fn keep_until(&self, key: Key, day: Day) -> BoxFuture<'_, Result<bool>> {
        let (layout, instance) = (self.layout.clone(), self.instance.clone());
        Box::pin(blocking(move || {
            let path = |key| layout::object_path(layout.root(), key);
            layout
                .link(&instance, &path(key), &path(Key { day, ..key }))
                .map_err(storage_error)
        }))
    }

    fn remove(&self, id: ObjectId) -> BoxFuture<'_, Result<bool>> {
        let layout = self.layout.clone();
        Box::pin(blocking(move || remove_everywhere(layout.root(), id)))
    }

    fn derived(&self, key: Key, name: DerivedName) -> BoxFuture<'_, Result<Option<Derived>>> {
        let layout = self.layout.clone();
        Box::pin(blocking(move || {
            Ok(read_derived(&layout.derived_path(key, name), key))
        }))
    }

    fn put_derived(
        &self,
        key: Key,
        name: DerivedName,
        derived: Derived,
    ) -> BoxFuture<'_, Result<()>> {
        let (layout, instance) = (self.layout.clone(), self.instance.clone());
        Box::pin(blocking(move || {
            let path = layout.derived_path(key, name);
            write_derived(&layout, &instance, &path, key, derived)
        }))
    }
}

/// A failure to write, told apart: a full disk is the client's to retry later, the rest is ours.
fn storage_error(error: io::Error) -> Error {
    use rustix::io::Errno;
    match Errno::from_io_error(&error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => {
            Error::new(Kind::StorageFull).source(error)
        }
        Some(Errno::EXIST) => Error::new(Kind::AlreadyExists).source(error),
        _ => Error::internal(error),
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
        let temporary = self.0.with_extension(format!("{}.tmp", std::process::id()));
        let write = || {
            fs::write(&temporary, format!("{}\n", now.ms()))?;
            File::open(&temporary)?.sync_all()?;
            fs::rename(&temporary, &self.0)
        };
        write().map_err(storage_error)
    }
}
