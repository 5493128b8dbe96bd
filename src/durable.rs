//! Makes names durable. A name survives a power cut once the directory that holds it has been synced, which is a
//! sync of its own: that of the file or of the new directory does not include it (fsync(2)).

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::Path,
};

/// Makes a directory and those above it that are missing, and syncs the parent of each new one before it makes the
/// next. The directory itself gets mode 0700; those above follow the umask.
///
/// # Errors
/// Where the file system refuses.
pub fn make_dirs(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|above| !above.as_os_str().is_empty() && !above.exists())
        .collect();
    for directory in missing.into_iter().rev() {
        let mode = if directory == path { 0o700 } else { 0o777 };
        match fs::DirBuilder::new().mode(mode).create(directory) {
            // Made by another process just now, which may not have synced it yet.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
        sync_parent(directory)?;
    }
    Ok(())
}

/// Syncs the directory that holds `path`.
///
/// # Errors
/// Where the disk fails, or the directory cannot be opened.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        Some(_) => sync_dir(Path::new(".")),
        None => Ok(()),
    }
}

/// Syncs a directory: the names in it.
///
/// # Errors
/// Where the disk fails, or the directory cannot be opened.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    // Both calls are made again where a signal interrupts them.
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
        // A file in the place of a directory.
        fs::write(path.join("file"), "").unwrap();
        make_dirs(&path.join("file/d")).unwrap_err();
    }
}
