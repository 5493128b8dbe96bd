//! What happens before the first request: directories, the lock, probes, and the sweep of `tmp/`.
//!
//! Everything that can be wrong with a directory is found here, with a message that says what to do, and
//! not at the first upload.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::fs::FlockOperation;
use uuid::Uuid;

use super::{
    Durability,
    layout::{self, DERIVED, OBJECTS, PARTS, TMP},
    names::{self, At, RenameBy},
};
use crate::{
    durable,
    error::{Error, Result},
};

/// How the name of a probe in `objects/` begins.
const PROBE: &str = ".probe-";

/// One run of a server: its locks and its folder for unfinished uploads.
pub struct Instance {
    name: String,
    directory: PathBuf,
    sequence: AtomicU64,
    /// Open files hold the locks; the kernel frees them when the process ends, however it ends.
    store_lock: File,
    /// The folder itself.
    tmp_lock: File,
}

impl Instance {
    /// A random name, new at every start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path for an unfinished file that no other one has.
    pub(super) fn temporary(&self, stem: &str) -> PathBuf {
        self.directory.join(self.temporary_name(stem))
    }

    /// Its name in [`Instance::folder`].
    pub(super) fn temporary_name(&self, stem: impl fmt::Display) -> String {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        format!("{stem}-{sequence}")
    }

    /// The lock of the whole store.
    pub(super) fn store_lock(&self) -> BorrowedFd<'_> {
        self.store_lock.as_fd()
    }

    /// The folder of unfinished files.
    pub(super) fn folder(&self) -> BorrowedFd<'_> {
        self.tmp_lock.as_fd()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Nothing is lost if this fails: the next start sweeps it.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Makes the store ready for this process. Blocking.
pub(super) fn prepare(
    root: &Path,
    durability: Durability,
    lock: Option<File>,
) -> Result<(Instance, RenameBy)> {
    let fail = |what: &str, error: io::Error| explain(root, what, &error);
    make_root(root).map_err(|error| fail("cannot be made", error))?;
    let store_lock = match lock {
        Some(lock) => lock,
        None => lock_store(root)?,
    };
    for name in [OBJECTS, DERIVED, TMP, PARTS] {
        let path = root.join(name);
        names::make_dir(&path).map_err(|error| fail("cannot be written to", error))?;
        if !path.is_dir() {
            let what = format!("has a file named {name} where its directory should be");
            return Err(fail(&what, io::ErrorKind::NotADirectory.into()));
        }
    }
    sweep_probes(&root.join(OBJECTS))
        .map_err(|error| fail("has an objects/ that cannot be swept", error))?;
    sweep_tmp(&root.join(TMP)).map_err(|error| fail("has a tmp/ that cannot be swept", error))?;
    let name = Uuid::new_v4().simple().to_string();
    let directory = root.join(TMP).join(&name);
    names::make_dir(&directory).map_err(|error| fail("cannot be written to", error))?;
    let tmp_lock = File::open(&directory).map_err(|error| fail("cannot be read", error))?;
    rustix::fs::flock(&tmp_lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| fail("does not support locks", error.into()))?;
    let store_lock =
        note_holder(store_lock, &name).map_err(|error| fail("cannot be written to", error))?;
    let instance = Instance {
        name,
        directory,
        sequence: AtomicU64::new(0),
        store_lock,
        tmp_lock,
    };
    let rename = probe(root, &instance, durability)?;
    Ok((instance, rename))
}

fn make_root(root: &Path) -> io::Result<()> {
    // The store's own name must be as durable as what is stored in it, and so must those above it.
    durable::make_dirs(root)?;
    if !fs::metadata(root)?.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    Ok(())
}

fn lock_store(root: &Path) -> Result<File> {
    let path = root.join("lock");
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| explain(root, "cannot be written to", &error))?;
    match take_lock(&file) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // The text is only a help: an unreadable one leaves it out.
            let _ = file.read_to_string(&mut holder);
            let holder = holder.lines().next().unwrap_or("unknown").to_owned();
            Err(Error::internal(format!(
                "store.path = \"{}\" is in use by another server (process {holder}): one directory, one server",
                root.display()
            )))
        }
        Err(error) => Err(explain(root, "does not support locks", &error.into())),
    }
}

/// A server that has just ended may seem to hold its lock for a moment more: a program that it was starting has
/// its descriptors until it is loaded. A server that lives holds it for longer than this.
fn take_lock(file: &File) -> rustix::io::Result<()> {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 1..TRIES {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
}

/// Writes this process's id and name into the lock file: for the message of a second server, and for a
/// probe that asks whom it reached.
fn note_holder(mut lock: File, name: &str) -> io::Result<File> {
    lock.set_len(0)?;
    lock.write_all(format!("{}\n{name}\n", std::process::id()).as_bytes())?;
    Ok(lock)
}

/// Whether a server has made a store at `root`. Blocking.
pub fn is_store(root: &Path) -> bool {
    root.join(OBJECTS).is_dir()
}

/// The name of the server that runs, or ran last, on the store at `root`; `None` where none ever did.
/// Blocking.
///
/// # Errors
/// `Internal` where the lock file cannot be read.
pub fn running_instance(root: &Path) -> Result<Option<String>> {
    match fs::read_to_string(root.join("lock")) {
        Ok(text) => Ok(text.lines().nth(1).map(str::to_owned)),
        Err(error) if names::is_absent(&error) => Ok(None),
        Err(error) => Err(explain(root, "has a lock that cannot be read", &error)),
    }
}

/// Removes the folders of servers that are gone: those whose lock nobody holds.
fn sweep_tmp(tmp: &Path) -> io::Result<()> {
    for entry in fs::read_dir(tmp)? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        let directory = File::open(&path)?;
        if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let unfinished = fs::read_dir(&path)?.count();
            fs::remove_dir_all(&path)?;
            tracing::info!(unfinished, "swept what an earlier run left in tmp/");
        }
    }
    Ok(())
}

/// Removes the probes of starts that were killed: the store's lock is ours, so none is under way.
fn sweep_probes(objects: &Path) -> io::Result<()> {
    for entry in fs::read_dir(objects)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PROBE) {
            names::remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

/// Does once what every upload does, and finds out how a name can be given without replacing one.
fn probe(root: &Path, instance: &Instance, durability: Durability) -> Result<RenameBy> {
    let target = root
        .join(OBJECTS)
        .join(format!("{PROBE}{}", instance.name()));
    let mut result =
        probe_one(RenameBy::NoReplace, instance, &target, durability).map(|()| RenameBy::NoReplace);
    if result.as_ref().is_err_and(lacks_flag) {
        result = probe_one(RenameBy::Link, instance, &target, durability).map(|()| RenameBy::Link);
    }
    result.map_err(|error| {
        let what = match rustix::io::Errno::from_io_error(&error) {
            Some(rustix::io::Errno::XDEV) => {
                "has tmp/ and objects/ on two file systems: a finished upload could not be moved in one step"
            }
            _ => "failed a trial upload",
        };
        explain(root, what, &error)
    })
}

fn lacks_flag(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
    )
}

fn probe_one(
    by: RenameBy,
    instance: &Instance,
    target: &Path,
    durability: Durability,
) -> io::Result<()> {
    let trial = || -> io::Result<()> {
        for must_be_refused in [false, true] {
            let temporary = instance.temporary("probe");
            let mut file = names::create_new(&temporary)?;
            file.write_all(b"probe")?;
            if durability == Durability::Full {
                file.sync_data()?;
            }
            match (
                names::rename_no_replace(by, At::path(&temporary), target),
                must_be_refused,
            ) {
                (Ok(()), false) => {}
                (Err(error), true) if error.kind() == io::ErrorKind::AlreadyExists => {
                    fs::remove_file(&temporary)?
                }
                (Ok(()), true) => return Err(io::Error::from(io::ErrorKind::Unsupported)),
                (Err(error), _) => return Err(error),
            }
        }
        if durability == Durability::Full {
            names::sync_dir(layout::parent(target))?;
        }
        Ok(())
    };
    let result = trial();
    names::remove_if_there(target)?;
    result
}

/// A message with the key, the path, what is wrong and what to do.
fn explain(root: &Path, what: &str, error: &io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; give the server's user write access, or set store.path"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; the file system is read-only: set store.path to a writable one"
        }
        io::ErrorKind::StorageFull => "; the disk is full",
        io::ErrorKind::NotADirectory => "; set store.path to a directory",
        _ => "",
    };
    Error::internal(format!(
        "store.path = \"{}\" {what}: {error}{hint}",
        root.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_naming_refuse_to_replace() {
        let directory = tempfile::tempdir().unwrap();
        let (instance, _) = prepare(directory.path(), Durability::None, None).unwrap();
        for by in [RenameBy::NoReplace, RenameBy::Link] {
            probe_one(
                by,
                &instance,
                &directory.path().join("objects/x"),
                Durability::Full,
            )
            .unwrap();
        }
    }

    #[test]
    fn only_folders_that_nobody_holds_are_swept() {
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
    fn a_lock_that_is_let_go_in_a_moment_is_waited_for_and_one_that_is_held_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock_store(directory.path()).unwrap();
        let error = lock_store(directory.path()).unwrap_err();
        assert!(
            error.causes().contains("in use by another server"),
            "{error}"
        );
        // As a program does that was being started when its server ended.
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            drop(held);
        });
        lock_store(directory.path()).unwrap();
        ends.join().unwrap();
    }
}
