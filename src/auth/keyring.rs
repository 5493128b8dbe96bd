//! The keys that sign tokens, in a file that the server and the command line share.
//!
//! ```text
//! <dir>/token-keys.toml   mode 0600, in a directory of mode 0700
//!   [[key]]
//!   kid = "Zk0a…"             the id of the key in the header of a token
//!   secret = "…"              base64url of 32 random bytes
//!   created_ms = 1795305599999
//!   retire_after_ms = …       valid until then; absent in the newest key, which signs
//! ```
//! The file is replaced as a whole, by a rename. A running server checks it for changes at most once per second, so that
//! a rotation by the command line needs no signal. Tokens are made and verified in [`super::token`]. Keys do not leave the
//! types of this file in readable form.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, EncodingKey};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub(super) use self::file::Stamp;
use self::file::{Publish, publish, read_private};
use crate::{
    error::{Error, Result},
    secret::{Secret, SecretKey},
    time::{MS_PER_SECOND, Timestamp},
};

mod file;
#[cfg(test)]
mod tests;

const FILE: &str = "token-keys.toml";
const LOCK: &str = "token-keys.lock";
/// Bytes of a signing key: the length of HS256's output (RFC 7518 §3.2).
const SECRET_BYTES: usize = 32;
/// Maximum number of keys in the file. A rotation removes the oldest retired keys.
const KEYS_MAX: usize = 32;
/// Maximum length of the id of a key.
const KID_BYTES_MAX: usize = 64;
/// How often the file is checked for changes, in milliseconds of wall time.
const LOOK_EVERY_MS: i64 = MS_PER_SECOND;

/// A parsed key.
pub(super) struct Key {
    pub(super) kid: String,
    pub(super) signs: EncodingKey,
    pub(super) verifies: DecodingKey,
    /// Verifies tokens until then. `None` for the key that signs.
    pub(super) retire_after: Option<Timestamp>,
}

/// The keys of one version of the file.
pub(super) struct Keys {
    /// In the order of the file. The last one signs.
    keys: Vec<Key>,
    /// Changes when the file is read again. A token that was verified in another generation must be verified again.
    pub(super) generation: u64,
}

impl Keys {
    pub(super) fn find(&self, kid: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    pub(super) fn signing(&self) -> &Key {
        self.keys
            .last()
            .expect("`parse` refuses a file without a signing key")
    }
}

/// The key ring of a store.
pub struct KeyRing {
    path: PathBuf,
    /// Held to clone or replace the `Arc`.
    keys: RwLock<Arc<Keys>>,
    /// When the file was checked last, in milliseconds since 1970.
    looked_ms: AtomicI64,
    /// The version of the file that was read. Held while the file is read again, so that only one thread reads it.
    stamp: Mutex<Stamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    key: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    kid: String,
    #[serde(serialize_with = "exposed")]
    secret: Secret,
    created_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retire_after_ms: Option<i64>,
}

fn exposed<S: serde::Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    // The key file is the only place where a key is written.
    serializer.serialize_str(secret.expose())
}

impl KeyRing {
    /// Reads the key file in `dir`, or creates the directory and the file with a first key. If several processes do so at
    /// once, one creates the file and all read it. Blocking.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::error::Kind::Internal), with the file and the key: the file cannot be created or read, is
    /// readable by group or others, or is not valid.
    pub fn load_or_create(dir: &Path, now: Timestamp) -> Result<Self> {
        file::create_dir(dir)?;
        if !dir.join(FILE).exists() {
            let first = Document {
                key: vec![fresh(now)?],
            };
            publish(dir, FILE, render(&first)?.expose(), Publish::New)?;
        }
        Self::load(dir, now)
    }

    /// Reads the key file in `dir`, which must exist: a command that created one would print tokens that no server
    /// accepts. Blocking.
    ///
    /// # Errors
    /// As [`KeyRing::load_or_create`]; also if there is no file.
    pub fn load(dir: &Path, now: Timestamp) -> Result<Self> {
        let path = dir.join(FILE);
        check_is_there(&path)?;
        let (document, metadata) = read(&path)?;
        file::settle(dir, &path, &metadata)?;
        Ok(Self {
            keys: RwLock::new(Arc::new(parse(&path, document, 0)?)),
            looked_ms: AtomicI64::new(now.ms()),
            stamp: Mutex::new(Stamp::of(&metadata)),
            path,
        })
    }

    /// The current keys, at most one second old. If the file cannot be read, the old keys stay in use and the error is
    /// logged: a mistake of an operator must not log out all users.
    pub(super) fn current(&self, now: Timestamp) -> Arc<Keys> {
        self.look(now);
        self.in_force()
    }

    fn in_force(&self) -> Arc<Keys> {
        self.keys.read().clone()
    }

    /// The generation of the current keys, at most one second old. A token that was verified in another generation must
    /// be verified again.
    pub(super) fn generation(&self, now: Timestamp) -> u64 {
        self.look(now);
        // Called for each request, so it does not clone the `Arc`.
        self.keys.read().generation
    }

    fn look(&self, now: Timestamp) {
        let looked_ms = self.looked_ms.load(Ordering::Relaxed);
        // The absolute difference, so that checks go on if the clock is set back.
        if now.ms().abs_diff(looked_ms) < LOOK_EVERY_MS as u64 {
            return;
        }
        let Some(mut stamp) = self.stamp.try_lock() else {
            return;
        };
        self.looked_ms.store(now.ms(), Ordering::Relaxed);
        let seen = fs::metadata(&self.path).map_or(Stamp::ABSENT, |metadata| Stamp::of(&metadata));
        if seen == *stamp {
            return;
        }
        let generation = self.in_force().generation + 1;
        let reading = read(&self.path).and_then(|(document, metadata)| {
            let keys = parse(&self.path, document, generation)?;
            Ok((keys, Stamp::of(&metadata)))
        });
        match reading {
            Ok((keys, read)) => {
                *stamp = read;
                *self.keys.write() = Arc::new(keys);
                tracing::info!(file = %self.path.display(), "reloaded the token keys");
            }
            Err(error) => {
                // Logged once per version of the file, and once if it is missing.
                *stamp = seen;
                tracing::error!(%error, "cannot reload the token keys; the old ones stay in use");
            }
        }
    }
}

/// Adds a key that signs new tokens, and returns its `kid`. The old keys stay valid for `overlap`, or until their earlier
/// retirement. Running servers use the new key within a second. Blocking.
///
/// # Errors
/// As [`KeyRing::load`]; also if another rotation runs, or too many keys are still valid.
pub fn rotate(dir: &Path, now: Timestamp, overlap: Duration) -> Result<String> {
    KeyRing::load(dir, now)?;
    let path = dir.join(FILE);
    // Two concurrent rotations would lose a key. The lock is released when the file is closed.
    let lock = file::open_lock(&dir.join(LOCK))?;
    lock.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => fault(&path, "another rotation is running; try again"),
        fs::TryLockError::Error(error) => fault(&path, error),
    })?;
    let (mut document, _) = read(&path)?;
    let until_ms = now.plus(overlap).ms();
    for key in &mut document.key {
        key.retire_after_ms = Some(key.retire_after_ms.map_or(until_ms, |at| at.min(until_ms)));
    }
    while document.key.len() >= KEYS_MAX {
        let is_retired = |key: &Entry| key.retire_after_ms.is_some_and(|at_ms| at_ms < now.ms());
        let Some(place) = document.key.iter().position(is_retired) else {
            let text = "keys are still valid, which is the maximum; rotate with a shorter overlap";
            return Err(fault(&path, format!("{KEYS_MAX} {text}")));
        };
        document.key.remove(place);
    }
    let key = fresh(now)?;
    let kid = key.kid.clone();
    document.key.push(key);
    publish(dir, FILE, render(&document)?.expose(), Publish::Replace)?;
    Ok(kid)
}

/// Reads the generated secret `name` in `dir`, or creates it: base64url of 32 random bytes, with mode 0600. Blocking.
///
/// # Errors
/// [`Kind::Internal`](crate::error::Kind::Internal), with the file: it cannot be created or read, is readable by group or
/// others, or is too short; or `name` is not 1 to 192 letters, digits, `.`, `_`, `@` and `-` without a `.` at the start.
pub fn load_or_create_secret(dir: &Path, name: &str) -> Result<SecretKey> {
    let path = secret_path(dir, name)?;
    file::create_dir(dir)?;
    if !path.exists() {
        let secret = random(SECRET_BYTES)?;
        publish(dir, name, secret.expose(), Publish::New)?;
    }
    load_secret(dir, name)
}

/// Reads the generated secret `name` in `dir`, which must exist. Warns if it is easy to guess. Blocking.
///
/// # Errors
/// As [`load_or_create_secret`]; also if there is no such file.
pub fn load_secret(dir: &Path, name: &str) -> Result<SecretKey> {
    let path = secret_path(dir, name)?;
    check_is_there(&path)?;
    let (text, metadata) = read_private(&path)?;
    file::settle(dir, &path, &metadata)?;
    let too_short = |short| format!("{short}; to generate a new secret, remove the file");
    let key = SecretKey::new(Secret::new(text.expose().trim()))
        .map_err(|short| fault(&path, too_short(short)))?;
    warn_if_weak(&path, &key);
    Ok(key)
}

fn warn_if_weak(path: &Path, key: &SecretKey) {
    if let Some(weakness) = key.weakness(SECRET_BYTES) {
        let file = path.display();
        tracing::warn!(%file, weakness, "a secret can be guessed");
    }
}

fn secret_path(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'@' | b'-');
    if !(1..=192).contains(&name.len()) || name.starts_with('.') || !name.bytes().all(plain) {
        let text = "this is not a valid name for the file of a secret";
        return Err(fault(&path, text));
    }
    Ok(path)
}

fn check_is_there(path: &Path) -> Result<()> {
    match path.try_exists() {
        Ok(false) => Err(fault(
            path,
            "the file does not exist: `chatfiles serve` creates it at start, or at SIGHUP for a new tenant",
        )),
        _ => Ok(()),
    }
}

/// An error for the operator, with the path of the file.
fn fault(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::internal(format!("{}: {what}", path.display()))
}

fn random(bytes: usize) -> Result<Secret> {
    let mut buffer = Zeroizing::new(vec![0; bytes]);
    getrandom::fill(&mut buffer).map_err(|error| {
        Error::internal(format!("cannot get random bytes from the system: {error}"))
    })?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(&*buffer)))
}

fn fresh(now: Timestamp) -> Result<Entry> {
    Ok(Entry {
        kid: random(9)?.expose().to_owned(),
        secret: random(SECRET_BYTES)?,
        created_ms: now.ms(),
        retire_after_ms: None,
    })
}

fn render(document: &Document) -> Result<Secret> {
    let keys = toml::to_string(document).map_err(Error::internal)?;
    let note = "# Signs the tokens of this server. Whoever reads this file can be any user.\n";
    Ok(Secret::new(format!("{note}{keys}")))
}

fn read(path: &Path) -> Result<(Document, fs::Metadata)> {
    let (text, metadata) = read_private(path)?;
    let document = toml::from_str(text.expose()).map_err(|error: toml::de::Error| {
        // The display of the error quotes the line, which may hold a secret.
        let before = |span: Range<usize>| text.expose().as_bytes().iter().take(span.start);
        let line = error.span().map_or(0, |span| {
            before(span).filter(|byte| **byte == b'\n').count() + 1
        });
        fault(path, format!("line {line}: {}", error.message()))
    })?;
    Ok((document, metadata))
}

fn parse(path: &Path, document: Document, generation: u64) -> Result<Keys> {
    if document.key.len() > KEYS_MAX {
        return Err(fault(path, format!("more than {KEYS_MAX} keys")));
    }
    let mut keys: Vec<Key> = Vec::with_capacity(document.key.len());
    for entry in document.key {
        let wrong = |what: &str| fault(path, format!("key {:?}: {what}", entry.kid));
        if keys.iter().any(|key| key.kid == entry.kid) {
            return Err(wrong("is in the file twice"));
        }
        let secret = entry.secret_bytes().map_err(wrong)?;
        let text = SecretKey::new(entry.secret).map_err(Error::internal)?;
        warn_if_weak(path, &text);
        if keys.last().is_some_and(|key| key.retire_after.is_none()) {
            return Err(wrong(
                "is after the key that signs, which must be the last one",
            ));
        }
        keys.push(Key {
            signs: EncodingKey::from_secret(&secret),
            verifies: DecodingKey::from_secret(&secret),
            retire_after: entry.retire_after_ms.map(Timestamp::from_ms),
            kid: entry.kid,
        });
    }
    match keys.last() {
        Some(last) if last.retire_after.is_none() => Ok(Keys { keys, generation }),
        _ => Err(fault(
            path,
            "there is no key to sign with: the last key must not have retire_after_ms",
        )),
    }
}

impl Entry {
    /// The bytes of a valid key, or what is wrong with it.
    fn secret_bytes(&self) -> Result<Zeroizing<Vec<u8>>, &'static str> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
        if !(1..=KID_BYTES_MAX).contains(&self.kid.len()) || !self.kid.bytes().all(plain) {
            return Err("kid is not 1 to 64 letters, digits, _ and -");
        }
        let secret = URL_SAFE_NO_PAD
            .decode(self.secret.expose())
            .map(Zeroizing::new);
        // HMAC treats a key of zeros as the empty key.
        let is_key = |bytes: &[u8]| bytes.len() == SECRET_BYTES && bytes.iter().any(|b| *b != 0);
        secret
            .ok()
            .filter(|secret| is_key(secret))
            .ok_or("secret is not base64url of 32 bytes, or is all zero")
    }
}
