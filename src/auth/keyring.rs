//! The keys that sign our tokens, in one file that the server and the command line share.
//!
//! ```text
//! <dir>/token-keys.toml   mode 0600, in a directory of mode 0700
//!   [[key]]
//!   kid = "Zk0a…"             names the key in a token's header
//!   secret = "…"              base64url of 32 random bytes
//!   created_ms = 1795305599999
//!   retire_after_ms = …       verifies until then; absent in the newest, which signs
//! ```
//! The file is only ever replaced whole, by a rename. A running server looks at it at most once a second
//! and takes a changed one over, so that a rotation by the command line reaches it without a signal. No
//! token is made or checked here ([`super::token`]), and no key leaves this file's types in readable form.

use std::{
    fs,
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

use self::file::{Publish, Stamp, publish, read_private};
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
/// Keys in the file; a rotation drops the longest retired ones to stay within.
const KEYS_MAX: usize = 32;
/// Bytes of a key's name.
const KID_BYTES_MAX: usize = 64;
/// How often the file is looked at, in milliseconds of wall time.
const LOOK_EVERY_MS: i64 = MS_PER_SECOND;

/// One key, ready for use.
pub(super) struct Key {
    pub(super) kid: String,
    pub(super) signs: EncodingKey,
    pub(super) verifies: DecodingKey,
    /// Verifies until then. `None` for the one key that signs.
    pub(super) retire_after: Option<Timestamp>,
}

/// One reading of the file.
pub(super) struct Keys {
    /// In the file's order; the one that signs is the last.
    keys: Vec<Key>,
    /// Differs between two readings: what was verified with another one must be verified again.
    pub(super) generation: u64,
}

impl Keys {
    pub(super) fn find(&self, kid: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    pub(super) fn signing(&self) -> &Key {
        self.keys
            .last()
            .expect("a reading without a signing key is refused")
    }
}

/// The key ring of a store.
pub struct KeyRing {
    path: PathBuf,
    /// A std lock: held for the clone of an `Arc` or its replacement, nothing is awaited meanwhile.
    keys: RwLock<Arc<Keys>>,
    /// When the file was looked at last, in milliseconds since 1970.
    looked_ms: AtomicI64,
    /// What the file looked like when it was read; held while it is read again, so that one thread does.
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
    // The key file is the one place where a key is written.
    serializer.serialize_str(secret.expose())
}

impl KeyRing {
    /// Reads the key file of `dir`, or makes directory, file and a first key. Of several processes that do
    /// so at once, one makes the file and all read it. Blocks on the disk.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::error::Kind::Internal), its cause naming file and key: the file cannot be
    /// made or read, can be read by group or others, or holds something else than keys.
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

    /// Reads the key file of `dir`, which must be there: a command that made one would print tokens that no server
    /// accepts. Blocks on the disk.
    ///
    /// # Errors
    /// As [`KeyRing::load_or_create`]; also where there is none.
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

    /// The keys as of at most a second ago. A file that cannot be read is reported to the log and leaves
    /// the keys as they are: a slip of an operator must not log every user out.
    pub(super) fn current(&self, now: Timestamp) -> Arc<Keys> {
        self.look(now);
        self.in_force()
    }

    fn in_force(&self) -> Arc<Keys> {
        let keys = self.keys.read();
        Arc::clone(&keys)
    }

    /// Which reading is in force, after a look at the file when one is due. What was verified under another
    /// generation must be verified again.
    pub(super) fn generation(&self, now: Timestamp) -> u64 {
        self.look(now);
        // Of every request: no reference is counted.
        let keys = self.keys.read();
        keys.generation
    }

    fn look(&self, now: Timestamp) {
        let looked_ms = self.looked_ms.load(Ordering::Relaxed);
        // The absolute difference: a clock set back must not end the looking.
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
        let generation = self.in_force().generation;
        let reading = read(&self.path).and_then(|(document, metadata)| {
            Ok((
                parse(&self.path, document, generation + 1)?,
                Stamp::of(&metadata),
            ))
        });
        match reading {
            Ok((keys, read)) => {
                *stamp = read;
                *self.keys.write() = Arc::new(keys);
                tracing::info!(file = %self.path.display(), "token keys read again");
            }
            Err(error) => {
                // Said once for one state of the file, and once while there is none.
                *stamp = seen;
                tracing::error!(%error, "token keys kept as they were");
            }
        }
    }
}

/// Adds a key that signs from now on; the others verify until `overlap` from now, or until they were to
/// retire anyway. Returns the new key's `kid`. Servers follow within a second. Blocks on the disk.
///
/// # Errors
/// As [`KeyRing::load`]; also while another rotation runs, and when too many keys still verify.
pub fn rotate(dir: &Path, now: Timestamp, overlap: Duration) -> Result<String> {
    KeyRing::load(dir, now)?;
    let path = dir.join(FILE);
    // Read, change, replace: two at once would lose one's key. Let go when the file is closed.
    let lock = file::open_lock(&dir.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            return Err(fault(&path, "another rotation is running; try again"));
        }
        Err(fs::TryLockError::Error(error)) => return Err(fault(&path, error)),
    }
    let (mut document, _) = read(&path)?;
    let until_ms = now.plus(overlap).ms();
    for key in &mut document.key {
        key.retire_after_ms = Some(key.retire_after_ms.map_or(until_ms, |at| at.min(until_ms)));
    }
    while document.key.len() >= KEYS_MAX {
        let retired = document
            .key
            .iter()
            .position(|key| key.retire_after_ms.is_some_and(|at_ms| at_ms < now.ms()));
        let Some(place) = retired else {
            return Err(fault(
                &path,
                format!(
                    "{KEYS_MAX} keys still verify, the most there may be; rotate with a shorter overlap"
                ),
            ));
        };
        document.key.remove(place);
    }
    let key = fresh(now)?;
    let kid = key.kid.clone();
    document.key.push(key);
    publish(dir, FILE, render(&document)?.expose(), Publish::Replace)?;
    Ok(kid)
}

/// The generated secret `name` of `dir` (base64url of 32 random bytes), made at first use with mode 0600.
/// Blocks on the disk.
///
/// # Errors
/// [`Kind::Internal`](crate::error::Kind::Internal), its cause naming the file: it cannot be made or read,
/// can be read by group or others, or is too short to protect anything; or `name` is not 1 to 192 of letters,
/// digits, `.`, `_`, `@` and `-`, the first no `.`.
pub fn load_or_create_secret(dir: &Path, name: &str) -> Result<SecretKey> {
    let path = secret_path(dir, name)?;
    file::create_dir(dir)?;
    if !path.exists() {
        let secret = random(SECRET_BYTES)?;
        publish(dir, name, secret.expose(), Publish::New)?;
    }
    load_secret(dir, name)
}

/// The generated secret `name` of `dir`, which must be there. Warns of one that can be guessed. Blocks on the disk.
///
/// # Errors
/// As [`load_or_create_secret`]; also where there is none.
pub fn load_secret(dir: &Path, name: &str) -> Result<SecretKey> {
    let path = secret_path(dir, name)?;
    check_is_there(&path)?;
    let (text, metadata) = read_private(&path)?;
    file::settle(dir, &path, &metadata)?;
    let key = SecretKey::new(Secret::new(text.expose().trim()))
        .map_err(|short| fault(&path, format!("{short}; remove the file to have one made")))?;
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
        return Err(fault(&path, "not a name for a secret's file"));
    }
    Ok(path)
}

fn check_is_there(path: &Path) -> Result<()> {
    match path.try_exists() {
        Ok(false) => Err(fault(
            path,
            "not there yet: `chatfiles serve` makes it when it starts, or at SIGHUP for a new tenant",
        )),
        _ => Ok(()),
    }
}

/// An error for the operator: the file and what is wrong with it.
fn fault(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::internal(format!("{}: {what}", path.display()))
}

fn random(bytes: usize) -> Result<Secret> {
    let mut buffer = zeroize::Zeroizing::new(vec![0; bytes]);
    getrandom::fill(&mut buffer)
        .map_err(|error| Error::internal(format!("no random bytes from the system: {error}")))?;
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
        // The error's own display quotes the line, which may be the secret's.
        let line = error.span().map_or(0, |span| {
            text.expose().as_bytes()[..span.start.min(text.expose().len())]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1
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
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
        if !(1..=KID_BYTES_MAX).contains(&entry.kid.len()) || !entry.kid.bytes().all(plain) {
            return Err(wrong("kid is not 1 to 64 of letters, digits, _ and -"));
        }
        if keys.iter().any(|key| key.kid == entry.kid) {
            return Err(wrong("stands there twice"));
        }
        let secret = URL_SAFE_NO_PAD
            .decode(entry.secret.expose())
            .map(zeroize::Zeroizing::new);
        // For HMAC, nothing but zeros is the empty key.
        let is_key = |bytes: &[u8]| bytes.len() == SECRET_BYTES && bytes.iter().any(|b| *b != 0);
        let Some(secret) = secret.ok().filter(|secret| is_key(secret)) else {
            return Err(wrong("secret is not base64url of 32 bytes, not all zero"));
        };
        warn_if_weak(
            path,
            &SecretKey::new(entry.secret).map_err(Error::internal)?,
        );
        if keys.last().is_some_and(|key| key.retire_after.is_none()) {
            return Err(wrong("follows the key that signs, which must be the last"));
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
            "no key to sign with: the last must have no retire_after_ms",
        )),
    }
}
