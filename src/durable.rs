//! Makes names durable. A name survives a power cut only after a sync of the directory that contains it; the sync of
//! the file or of the new directory does not include that (fsync(2)).

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::Path,
};

/// Makes a directory with mode 0700, and the missing directories above it with the mode that the umask gives. Syncs the
/// parent of each new directory before it makes the next one.
///
/// # Errors
/// If the file system refuses.
pub fn make_dirs(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|above| !above.as_os_str().is_empty() && !above.exists())
        .collect();
    for directory in missing.into_iter().rev() {
        let mode = if directory == path { 0o700 } else { 0o777 };
        match fs::DirBuilder::new().mode(mode).create(directory) {
            // Another process has made it at the same moment, and may not have synced it yet.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
        sync_parent(directory)?;
    }
    Ok(())
}

/// Syncs the directory that contains `path`.
///
/// # Errors
/// If the disk fails or the directory cannot be opened.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        Some(_) => sync_dir(Path::new(".")),
        None => Ok(()),
    }
}

/// Syncs a directory, that is the names in it.
///
/// # Errors
/// If the disk fails or the directory cannot be opened.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    // The standard library repeats both calls after a signal.
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn makes_every_missing_level() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/c");
        for _ in 0..2 {
            make_dirs(&path).unwrap();
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
        // A file is in the place of a directory.
        fs::write(path.join("file"), "").unwrap();
        make_dirs(&path.join("file/d")).unwrap_err();
    }
}
