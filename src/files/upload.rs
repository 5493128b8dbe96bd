//! Receiving a file: bytes to the store as they come, cut off at the limit, then the commit.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{Files, Scope};
use crate::{
    derivative::BoundingBox,
    error::{Error, Kind, Result},
    http::multipart::Form,
    limit::QuotaPermit,
    media::sniff::{SNIFF_BYTES_MAX, content_type, sniff},
    secret::Secret,
    store::{BoxFuture, Key, Meta, SECRET_HASH_BYTES, Upload, UploadSize},
};

/// Random bytes of a share-secret: 48 characters, as long as the vendor's.
const SECRET_BYTES: usize = 36;

/// A file whose bytes are all there, but which nobody can see yet. Dropping it removes it.
pub struct Received {
    upload: Box<dyn Upload>,
    key: Key,
    len: u64,
    first_bytes: Vec<u8>,
    declared_type: Option<String>,
    file_name: Option<String>,
}

/// What the dialect knows of a file beside its bytes.
pub struct Attributes<'a> {
    /// Whose it becomes.
    pub scope: Scope<'a>,
    /// The user; empty for the application itself.
    pub owner: &'a str,
    /// Make a secret that opens it.
    pub restricted: bool,
    /// The size of its thumbnail.
    pub thumbnail: BoundingBox,
    /// Whom it is for, where the dialect knows.
    pub recipient: Option<&'a str>,
}

/// A committed file.
pub struct Stored {
    /// Where it is.
    pub key: Key,
    /// What was stored with it.
    pub meta: Meta,
    /// The secret of a restricted file: shown once, only its hash is kept.
    pub share_secret: Option<Secret>,
}

impl Files {
    /// Receives the current part of the form as the file of a key, of at most `bytes_max` bytes. `announced`
    /// is the length of the whole request, which bounds the file's.
    ///
    /// # Errors
    /// `TooLarge` at the first byte over; `TooSmall` for an empty file; the form's and the store's own.
    /// Whatever the error, nothing of the file stays.
    ///
    /// # Cancel safety
    /// Dropping the future removes what was received.
    pub async fn receive(
        &self,
        form: &mut Form<'_>,
        key: Key,
        bytes_max: u64,
        announced: Option<u64>,
        file_name: Option<String>,
        declared_type: Option<String>,
    ) -> Result<Received> {
        let size = match announced {
            Some(bytes) => UploadSize::Announced(bytes.min(bytes_max)),
            None => UploadSize::AtMost(bytes_max),
        };
        let upload = self.store.begin(key, size).await?;
        let mut received = Received::new(upload, key, file_name, declared_type);
        while let Some(chunk) = form.chunk().await? {
            received.append(chunk, bytes_max).await?;
        }
        received.check_not_empty()
    }

    /// Makes a received file durable and visible. Its bytes count in the place of those that were reserved for it.
    ///
    /// # Errors
    /// `AlreadyExists` where an object of its key was stored meanwhile; the store's own.
    ///
    /// # Cancel safety
    /// All or nothing: a dropped commit either removes every trace or runs to its end by itself. The bytes count
    /// then, since nobody is left who would know.
    pub async fn commit(
        &self,
        received: Received,
        attributes: Attributes<'_>,
        mut reserved: QuotaPermit,
    ) -> Result<Stored> {
        let (len, key) = (received.len, received.key);
        let commit = received.into_commit(attributes)?;
        reserved.store(len);
        let committed = match commit.await {
            Ok(stored) => self.refuse_taken_down(key).await.map(|()| stored),
            refused => refused,
        };
        committed.inspect_err(|_| reserved.give_back())
    }
}

impl Files {
    /// A name of an earlier day may have been taken down while its upload was under way, and its tombstone gathered,
    /// which the commit cannot see. Only a policy that somebody else signed lives so long.
    async fn refuse_taken_down(&self, key: Key) -> Result<()> {
        let is_of_today = key.day.end() > self.clock.now();
        if is_of_today || !self.store.is_taken_down(key).await? {
            return Ok(());
        }
        self.remove(key.id).await?;
        Err(Kind::AlreadyExists.into())
    }
}

impl Received {
    /// The file of a key, of which nothing has come.
    pub(super) fn new(
        upload: Box<dyn Upload>,
        key: Key,
        file_name: Option<String>,
        declared_type: Option<String>,
    ) -> Self {
        Self {
            upload,
            key,
            len: 0,
            first_bytes: Vec::new(),
            declared_type,
            file_name,
        }
    }

    /// Bytes received.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// What makes the file durable and visible. It has begun with its first poll, and then runs to its end, or
    /// removes every trace, even if it is dropped.
    pub(super) fn into_commit(
        self,
        attributes: Attributes<'_>,
    ) -> Result<BoxFuture<'static, Result<Stored>>> {
        let sniffed = sniff(&self.first_bytes);
        let (share_secret, secret_hash) = match attributes.restricted {
            true => new_secret().map(|(secret, hash)| (Some(secret), Some(hash)))?,
            false => (None, None),
        };
        let key = self.key;
        let meta = Meta {
            // Set by the store, from the bytes it wrote.
            len: self.len,
            crc: 0,
            created: key.id.created(),
            tenant: attributes.scope.tenant.name(),
            dialect: attributes.scope.dialect,
            owner: attributes.owner.to_owned(),
            content_type: content_type(self.declared_type.as_deref(), sniffed).into_owned(),
            sniffed_type: sniffed.media_type().map(str::to_owned),
            inline: sniffed.may_be_inline(),
            file_name: self.file_name,
            secret_hash,
            thumbnail: attributes.thumbnail,
            recipient: attributes.recipient.map(str::to_owned),
        };
        let commit = self.upload.commit(meta);
        Ok(Box::pin(async move {
            Ok(Stored {
                key,
                meta: commit.await?,
                share_secret,
            })
        }))
    }

    pub(super) async fn append(&mut self, chunk: Bytes, bytes_max: u64) -> Result<()> {
        self.len += chunk.len() as u64;
        if self.len > bytes_max {
            return Err(Kind::TooLarge.into());
        }
        keep_first(&mut self.first_bytes, &chunk);
        self.upload.write(chunk).await
    }

    pub(super) fn check_not_empty(self) -> Result<Self> {
        match self.len {
            // To Android clients an empty body is a failed download, so it is a failed upload.
            0 => Err(Kind::TooSmall.into()),
            _ => Ok(self),
        }
    }
}

fn keep_first(first_bytes: &mut Vec<u8>, chunk: &[u8]) {
    let missing = SNIFF_BYTES_MAX - first_bytes.len();
    first_bytes.extend_from_slice(&chunk[..chunk.len().min(missing)]);
}

fn new_secret() -> Result<(Secret, [u8; SECRET_HASH_BYTES])> {
    let mut random = [0; SECRET_BYTES];
    getrandom::fill(&mut random).map_err(Error::internal)?;
    let secret = BASE64_URL_SAFE_NO_PAD.encode(random);
    let hash = hash_secret(&secret);
    Ok((Secret::new(secret), hash))
}

/// A plain hash is enough: the secret is 288 random bits, not a password.
pub(super) fn hash_secret(secret: &str) -> [u8; SECRET_HASH_BYTES] {
    Sha256::digest(secret.as_bytes()).into()
}
