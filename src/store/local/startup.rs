//! Opening the store's directory: the lock, trial writes, and the sweep of `tmp/`.
//!
//! All problems of a directory are found at start, with a message that says what to do, and not at the first upload. A
//! store that cannot be written is opened too, for downloads only.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::{fs::FlockOperation, io::Errno};
use uuid::Uuid;

use super::{
    Durability,
    instance::{Instance, TRIAL},
    names::{self, RenameBy},
    paths::{DERIVED, OBJECTS, PARTS, TMP},
    root::{Root, STORE_ID},
    tombstones,
};
use crate::{
    durable,
    error::{Error, Result},
};

const LOCK: &str = "lock";

/// The store's directory, opened at start or after it came back. The fields are in drop order: the folder of unfinished
/// uploads is removed before the lock is released.
pub(super) struct Opened {
    /// What uploads need, or why uploads are refused.
    pub(super) writing: Result<Arc<Instance>, String>,
    pub(super) root: Arc<Root>,
    /// Identifies the store. `None` only if it has no id yet and cannot be written.
    id: Option<String>,
    /// The locked file; the kernel releases the lock when the process ends, however it ends. If there is no lock file
    /// and none can be made, the directory itself is locked. `None` for a command that attached to the store.
    pub(super) lock: Option<Arc<File>>,
}

/// A problem of the directory, and the system's error if there is one.
struct Fault {
    what: String,
    error: Option<io::Error>,
}

impl Fault {
    fn new(what: impl Into<String>, error: impl Into<io::Error>) -> Self {
        Self {
            what: what.into(),
            error: Some(error.into()),
        }
    }

    fn bare(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            error: None,
        }
    }

    /// Whether the file system can be read but not written. Other problems end the start, because an operator must fix
    /// them: wrong permissions, for example.
    fn is_unwritable(&self) -> bool {
        let errno = self.error.as_ref().and_then(Errno::from_io_error);
        matches!(
            errno,
            Some(Errno::ROFS | Errno::NOSPC | Errno::DQUOT | Errno::IO)
        )
    }

    /// The message for the operator: the setting, the path, what is wrong and what to do.
    fn explain(&self, root: &Path) -> Error {
        let hint = match self.error.as_ref().map(io::Error::kind) {
            Some(io::ErrorKind::PermissionDenied) => {
                "; the server and its commands must run as a user who may write to it, or set store.path"
            }
            Some(io::ErrorKind::ReadOnlyFilesystem) => {
                "; the file system is read-only: set store.path to a writable one"
            }
            Some(io::ErrorKind::StorageFull) => "; the disk is full",
            Some(io::ErrorKind::NotADirectory) => "; set store.path to a directory",
            _ => "",
        };
        let text = format!("store.path = \"{}\" {self}{hint}", root.display());
        match self.error.as_ref().map(io::Error::kind) {
            Some(io::ErrorKind::NotADirectory) => Error::invalid(text),
            _ => Error::internal(text),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            Some(error) => write!(f, "{}: {error}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Opens the directory at the start of a server. `inherited` is the lock of a running server that hands over. Blocking.
pub(super) fn open(path: &Path, durability: Durability, inherited: Option<File>) -> Result<Opened> {
    let open = || -> Result<Opened, Fault> {
        make_root(path).map_err(|error| Fault::new("cannot be made", error))?;
        let root = Root::open(path).map_err(|error| Fault::new("cannot be read", error))?;
        let lock = open_lock(&root)?;
        let lock = match inherited {
            None => take_lock(lock)?,
            Some(held) if is_same_file(&held, &lock) => held,
            Some(_) => {
                return Err(Fault::bare(
                    "is not the directory of the server that runs: mount it, or stop that server",
                ));
            }
        };
        finish(root, Arc::new(lock), durability)
    };
    open().map_err(|fault| fault.explain(path))
}

/// Opens the directory of a store for a command, without the lock; `None` if there is no store. Blocking.
pub(super) fn attach(path: &Path) -> Result<Option<Opened>> {
    let unreadable = |error| Fault::new("cannot be read", error).explain(path);
    if !is_store(path).map_err(unreadable)? {
        return Ok(None);
    }
    let root = Root::open(path).map_err(unreadable)?;
    Ok(Some(Opened {
        writing: Err("the store is open for a command, not for uploads".into()),
        root: Arc::new(root),
        id: None,
        lock: None,
    }))
}

/// Opens the directory again after it was gone or could not be written, if it is the same store. Blocking.
///
/// # Errors
/// The reason, without the path.
pub(super) fn open_again(before: &Opened, durability: Durability) -> Result<Opened, String> {
    let open = || -> Result<Opened, Fault> {
        let root = Root::open(before.root.path())
            .map_err(|error| Fault::new("the store's directory cannot be reached", error))?;
        if !is_same_store(before, &root)? {
            return Err(Fault::bare(
                "an empty directory, or another store, is in the place of the store's directory",
            ));
        }
        let lock = open_lock(&root)?;
        let lock = match &before.lock {
            Some(held) if is_same_file(held, &lock) => held.clone(),
            _ => Arc::new(take_lock(lock)?),
        };
        finish(root, lock, durability)
    };
    open().map_err(|fault| fault.to_string())
}

fn is_same_store(before: &Opened, root: &Root) -> Result<bool, Fault> {
    match &before.id {
        Some(id) => Ok(read_id(root)?.as_ref() == Some(id)),
        None => Ok(root.is_same_directory(&before.root)),
    }
}

fn read_id(root: &Root) -> Result<Option<String>, Fault> {
    root.read_id()
        .map_err(|error| Fault::new(format!("has a {STORE_ID} that cannot be read"), error))
}

fn finish(root: Root, lock: Arc<File>, durability: Durability) -> Result<Opened, Fault> {
    let id = read_id(&root)?;
    let root = Arc::new(root);
    let written = prepare(&root, durability).and_then(|instance| {
        note_holder(&root).map_err(|error| Fault::new("cannot be written to", error))?;
        let id = match id.clone() {
            Some(id) => id,
            None => make_id(&instance)?,
        };
        Ok((id, instance))
    });
    let (id, writing) = match written {
        Ok((id, instance)) => (Some(id), Ok(Arc::new(instance))),
        Err(fault) if fault.is_unwritable() && is_store(root.path()).unwrap_or(false) => {
            (id, Err(format!("the store {fault}")))
        }
        Err(fault) => return Err(fault),
    };
    Ok(Opened {
        root,
        lock: Some(lock),
        id,
        writing,
    })
}

/// Whether a directory contains a store. An empty mount point does not. Blocking.
fn is_store(path: &Path) -> io::Result<bool> {
    match fs::metadata(path.join(OBJECTS)) {
        Ok(found) => Ok(found.is_dir()),
        Err(error) if names::is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Prepares the directory for uploads, and makes a trial upload.
fn prepare(root: &Arc<Root>, durability: Durability) -> Result<Instance, Fault> {
    let unwritable = |error: io::Error| Fault::new("cannot be written to", error);
    for name in [OBJECTS, DERIVED, TMP, PARTS] {
        let directory = root.at(Path::new(name));
        directory.make_dir().map_err(unwritable)?;
        if let Err(error) = directory.open_dir() {
            let what = format!("has a {name} that is no directory, or cannot be read");
            return Err(Fault::new(what, error));
        }
    }
    let (directory, shared) = tombstones::shared();
    if let Err(error) = tombstones::prepare(root.at(&directory), root.at(&shared)) {
        // Then each tombstone is a link of its own.
        tracing::debug!(%error, "no tombstone that can be shared");
    }
    sweep_trials(&root.path().join(OBJECTS))
        .map_err(|error| Fault::new("has an objects/ that cannot be swept", error))?;
    sweep_tmp(&root.path().join(TMP))
        .map_err(|error| Fault::new("has a tmp/ that cannot be swept", error))?;
    let mut instance = Instance::new(root.clone()).map_err(unwritable)?;
    let mut tried = instance.try_upload(durability);
    if tried.as_ref().is_err_and(lacks_flag) {
        instance.rename = RenameBy::Link;
        tried = instance.try_upload(durability);
    }
    tried.map_err(|error| {
        let what = match Errno::from_io_error(&error) {
            Some(Errno::XDEV) => {
                "has tmp/ and objects/ on two file systems: a finished upload could not be moved in one step"
            }
            _ => "failed a trial upload",
        };
        Fault::new(what, error)
    })?;
    Ok(instance)
}

fn make_root(root: &Path) -> io::Result<()> {
    // The store's own name must be as durable as what is stored in it, and so must those above it.
    durable::make_dirs(root)?;
    if !fs::metadata(root)?.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    Ok(())
}

fn make_id(instance: &Instance) -> Result<String, Fault> {
    let id = Uuid::new_v4().simple().to_string();
    let draft = instance.temporary_name(STORE_ID);
    let to = instance.root.at(Path::new(STORE_ID));
    names::write_over(instance.unfinished(&draft), to, &format!("{id}\n"))
        .and_then(|()| instance.root.directory().sync_all())
        .map_err(|error| Fault::new(format!("has no {STORE_ID}, and none can be made"), error))?;
    Ok(id)
}

/// Opens the lock file, or the directory itself if there is no lock file and none can be made.
fn open_lock(root: &Root) -> Result<File, Fault> {
    let lock = root.at(Path::new(LOCK));
    match lock.open_or_create() {
        Ok(file) => Ok(file),
        Err(error) => {
            let fault = Fault::new("cannot be written to", error);
            if !fault.is_unwritable() {
                return Err(fault);
            }
            match lock.open_read() {
                Err(error) if names::is_absent(&error) => root.directory().try_clone(),
                opened => opened,
            }
            .map_err(|error| Fault::new("has a lock that cannot be read", error))
        }
    }
}

fn is_same_file(held: &File, other: &File) -> bool {
    let held = names::inode_of(held);
    held.is_ok_and(|held| names::inode_of(other).is_ok_and(|other| other == held))
}

fn take_lock(mut file: File) -> Result<File, Fault> {
    match try_lock(&file) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // The text is only a help: an unreadable one leaves it out.
            let _ = file.read_to_string(&mut holder);
            let holder = holder.lines().next().unwrap_or("unknown");
            Err(Fault::bare(format!(
                "is in use by another server (process {holder}): one directory, one server"
            )))
        }
        Err(error) => Err(Fault::new("does not support locks", error)),
    }
}

/// A server that has just ended may seem to hold its lock for a moment more: a program that it was starting has
/// its descriptors until it is loaded. A server that lives holds it for longer than this.
fn try_lock(file: &File) -> rustix::io::Result<()> {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 1..TRIES {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
}

/// Writes this process's id into the lock file, for the message of a second server.
fn note_holder(root: &Root) -> io::Result<()> {
    // A new descriptor, because the locked one may have been opened for reading only.
    let mut file = root.at(Path::new(LOCK)).open_or_create()?;
    file.set_len(0)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

/// Removes the folders of servers that are gone: those whose lock nobody holds.
fn sweep_tmp(tmp: &Path) -> io::Result<()> {
    for entry in fs::read_dir(tmp)? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        let directory = match File::open(&path) {
            // Its server has just ended.
            Err(error) if names::is_absent(&error) => continue,
            directory => directory?,
        };
        if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let unfinished = fs::read_dir(&path)?.count();
            fs::remove_dir_all(&path)?;
            tracing::info!(
                unfinished,
                "removed unfinished uploads of an earlier run from tmp/"
            );
        }
    }
    Ok(())
}

/// Removes the trials of servers that were killed: the store's lock is ours, so none is under way.
fn sweep_trials(objects: &Path) -> io::Result<()> {
    for entry in fs::read_dir(objects)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(TRIAL) {
            names::remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn lacks_flag(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renames_never_replace() {
        let directory = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(directory.path()).unwrap());
        let mut instance =
            prepare(&root, Durability::None).unwrap_or_else(|fault| panic!("{fault}"));
        for by in [RenameBy::NoReplace, RenameBy::Link] {
            instance.rename = by;
            instance.try_upload(Durability::Full).unwrap();
        }
        assert_eq!(
            fs::read_dir(directory.path().join(OBJECTS))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn sweeps_only_unlocked_folders() {
        let directory = tempfile::tempdir().unwrap();
        let tmp = directory.path().join("tmp");
        for name in ["dead", "alive"] {
            fs::create_dir_all(tmp.join(name)).unwrap();
            fs::write(tmp.join(name).join("upload"), "x").unwrap();
        }
        let held = File::open(tmp.join("alive")).unwrap();
        rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        sweep_tmp(&tmp).unwrap();
        assert!(!tmp.join("dead").exists() && tmp.join("alive/upload").exists());
    }

    #[test]
    fn waits_briefly_for_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        let lock = || open_lock(&root).and_then(take_lock);
        let held = lock().unwrap_or_else(|fault| panic!("{fault}"));
        let refused = lock().err().unwrap();
        assert!(refused.what.contains("in use by another server"));
        // Like a program that was being started when its server ended.
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            drop(held);
        });
        assert!(lock().is_ok());
        ends.join().unwrap();
    }
}
