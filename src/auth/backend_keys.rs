//! Holds the keys of all chat backends that sign their own JWTs, and reads their files again when they change.
//!
//! The formats are in `jwks.rs`. A file is checked by a background task, never by a request. If a new version of a
//! file is not usable, the old keys stay in use and the error is logged: a mistake must not log out all users. To withdraw
//! all keys, write a JWK set without keys.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::{
    jwks::{self, Key},
    keyring::Stamp,
};
use crate::{
    error::{Error, Result},
    tenant::{JwtIssuer, Tenants},
};

/// Maximum size of a file.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// The keys by file. Two tenants may use one file.
type Files = HashMap<PathBuf, Arc<KeyFile>>;

/// The last usable version of a file.
struct KeyFile {
    /// The version of the file that was read last, usable or not.
    stamp: Stamp,
    /// That version could not be used.
    is_stale: bool,
    keys: Vec<Arc<Key>>,
}

/// The keys of all tenants.
#[derive(Default)]
pub struct BackendKeys {
    files: ArcSwap<Files>,
    /// Changes with `files`. A token that was verified in another generation must be verified again.
    generation: AtomicU64,
    /// Held while `files` is changed, so that no change is lost.
    changing: Mutex<()>,
}

/// Keys that were read, and are not in use yet: see [`BackendKeys::install`].
pub struct NewKeys(Files);

impl BackendKeys {
    /// Reads the key files of all tenants. Changes nothing. Blocking.
    ///
    /// # Errors
    /// A file cannot be read, is not usable, gives access to others, or has no key for the algorithms of a tenant. The
    /// message names the tenant and the file.
    pub fn read(tenants: &Tenants) -> Result<NewKeys> {
        let mut files = Files::new();
        for tenant in tenants.iter() {
            let Some(issuer) = &tenant.auth.jwt else {
                continue;
            };
            for path in &issuer.keys {
                let fault = |what: &str| {
                    let (name, path) = (tenant.name(), path.display());
                    Error::invalid(format!("tenant {name}: auth: jwt.keys: {path}: {what}"))
                };
                if !files.contains_key(path) {
                    let file = KeyFile::read(path).map_err(|error| fault(&error))?;
                    files.insert(path.clone(), Arc::new(file));
                }
                let usable = |key: &Arc<Key>| issuer.algorithms.contains(&key.algorithm);
                if !files[path].keys.iter().any(usable) {
                    return Err(fault("it has no key for any of jwt.algorithms"));
                }
            }
        }
        Ok(NewKeys(files))
    }

    /// Uses these keys from now on, instead of all others.
    pub fn install(&self, keys: NewKeys) {
        let _changing = self.changing.lock();
        self.replace(keys.0);
    }

    fn replace(&self, files: Files) {
        self.files.store(Arc::new(files));
        // After the keys: whoever sees this generation sees these keys.
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Reads the files that have changed, and logs what cannot be used. Blocking.
    pub fn look(&self) {
        let _changing = self.changing.lock();
        let files = self.files.load_full();
        let newer: Vec<_> = files
            .iter()
            .filter_map(|(path, file)| Some((path.clone(), Arc::new(file.newer(path)?))))
            .collect();
        if newer.is_empty() {
            return;
        }
        let mut files = Files::clone(&files);
        files.extend(newer);
        self.replace(files);
    }

    /// The generation of the keys. Read it before the keys.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Files whose last version could not be used.
    pub fn stale_files(&self) -> usize {
        let files = self.files.load();
        files.values().filter(|file| file.is_stale).count()
    }

    /// The keys that may have signed a token with this `kid`, all of an algorithm that the tenant allows.
    ///
    /// A `kid` selects one key. If no key has a kid, as in PEM files, the `kid` of a token has no meaning. A token without
    /// a `kid` is for the keys without one, or else for the only key (OpenID Connect Core §10.1).
    pub(super) fn candidates(&self, issuer: &JwtIssuer, kid: Option<&str>) -> Vec<Arc<Key>> {
        let files = self.files.load();
        let files = issuer.keys.iter().filter_map(|path| files.get(path));
        let allowed = |key: &&Arc<Key>| issuer.algorithms.contains(&key.algorithm);
        let keys: Vec<&Arc<Key>> = files.flat_map(|file| &file.keys).filter(allowed).collect();
        let all_without = keys.iter().all(|key| key.kid.is_none());
        let is_alone = keys.len() == 1;
        let may_have_signed = |key: &&&Arc<Key>| match kid {
            Some(_) if all_without => true,
            Some(_) => key.kid.as_deref() == kid,
            None => key.kid.is_none() || is_alone,
        };
        keys.iter()
            .filter(may_have_signed)
            .copied()
            .cloned()
            .collect()
    }
}

impl KeyFile {
    /// Reads a file.
    fn read(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        // Of the open file, so that the checked file is the one that is read.
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        if metadata.len() > FILE_BYTES_MAX {
            return Err("the file is larger than 256 KiB".into());
        }
        // Allocated at full size, because a growing buffer leaves copies of a secret in memory.
        let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize + 1));
        let read = file.take(FILE_BYTES_MAX).read_to_end(&mut text);
        read.map_err(|error| error.to_string())?;
        let set = jwks::parse(&text)?;
        check_mode(&metadata, set.has_secret)?;
        Ok(Self {
            stamp: Stamp::of(&metadata),
            is_stale: false,
            keys: set.keys.into_iter().map(Arc::new).collect(),
        })
    }

    /// This file after a change; `None` if it has not changed.
    fn newer(&self, path: &Path) -> Option<Self> {
        let seen = fs::metadata(path).map_or(Stamp::ABSENT, |metadata| Stamp::of(&metadata));
        let is_same = seen == self.stamp;
        // A file that was refused because of its mode may be usable now: its stamp does not show that.
        if is_same && !self.is_stale {
            return None;
        }
        let file = path.display();
        match Self::read(path) {
            Ok(read) if read.keys.is_empty() => {
                tracing::warn!(%file, "a key file of a chat backend has no usable key any more: its tokens are refused");
                Some(read)
            }
            Ok(read) => {
                let keys = read.keys.len();
                tracing::info!(%file, keys, "reloaded the keys of a chat backend");
                Some(read)
            }
            Err(_) if is_same => None,
            Err(error) => {
                // Logged once per version of the file, and once if it is missing.
                tracing::error!(%file, error, "cannot reload the keys of a chat backend; the old ones stay in use");
                Some(Self {
                    stamp: seen,
                    is_stale: true,
                    keys: self.keys.clone(),
                })
            }
        }
    }
}

/// Refuses a file that others can change, and a secret that others can read. The group may have access, because
/// configuration files often belong to root and the server's group.
fn check_mode(metadata: &fs::Metadata, has_secret: bool) -> Result<(), String> {
    let mode = metadata.mode() & 0o7777;
    let (forbidden, what) = match has_secret {
        true => (0o007, "it has a secret, and"),
        false => (0o002, "it decides who may log in, and"),
    };
    match mode & forbidden {
        0 => Ok(()),
        _ => Err(format!(
            "{what} the mode {mode:04o} gives access to others (chmod o-rwx takes it away)"
        )),
    }
}

#[cfg(test)]
mod tests;
