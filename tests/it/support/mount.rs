//! Mounts for tests of the store's file system. They need root; without it, the tests are skipped.

#![allow(clippy::print_stdout, reason = "shown when a test fails or is skipped")]

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

/// A mount, removed on drop.
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts a tmpfs of `bytes` bytes. Prints a note and returns `None` where mounting is not allowed.
    pub fn tmpfs(path: &Path, bytes: u64) -> Option<Self> {
        Self::tmpfs_of(path, &format!("size={bytes}"))
    }

    /// Mounts a tmpfs with mount options.
    pub fn tmpfs_of(path: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a mount point");
        Self::new(path, &["-t", "tmpfs", "-o", options, "tmpfs"])
    }

    /// Mounts another directory.
    pub fn bind(from: &Path, path: &Path) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a mount point");
        Self::new(path, &["--bind", &from.display().to_string()])
    }

    /// Mounts an ext4 file system in a file, which is created if it does not exist.
    pub fn ext4(image: &Path, path: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a mount point");
        if !image.exists() {
            let file = File::create(image).expect("a file for the file system");
            file.set_len(16 << 20).expect("room for it");
            let made = Command::new("mkfs.ext4")
                .args(["-q", "-F"])
                .arg(image)
                .output();
            if !made.as_ref().is_ok_and(|made| made.status.success()) {
                println!("SKIPPED: no ext4 can be made here: {made:?}");
                return None;
            }
        }
        let options = format!("loop,{options}");
        Self::new(path, &["-o", &options, &image.display().to_string()])
    }

    /// Mounts a directory read-only over itself.
    pub fn read_only(path: &Path) -> Option<Self> {
        let mount = Self::new(path, &["--bind", &path.display().to_string()])?;
        let again = Command::new("mount")
            .args(["-o", "remount,bind,ro"])
            .arg(path)
            .status();
        assert!(again.expect("mount runs").success());
        Some(mount)
    }

    fn new(path: &Path, arguments: &[&str]) -> Option<Self> {
        let mounted = Command::new("mount").args(arguments).arg(path).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(path.to_owned())),
            refused => {
                println!("SKIPPED: mounting is not allowed here: {refused:?}");
                None
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, because a failed test may still have files open in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
