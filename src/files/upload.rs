//! Receives a file: passes its bytes to the store, stops at the size limit, then commits it.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{Files, Scope};
use crate::{
    derivative::BoundingBox,
    error::{Error, Kind, Result},
    http::multipart::Form,
    limit::QuotaPermit,
    logging::Actor,
    media::sniff::{SNIFF_BYTES_MAX, content_type, sniff},
    secret::Secret,
    store::{BoxFuture, Key, Meta, SECRET_HASH_BYTES, Upload, UploadSize},
};

/// Random bytes of a share-secret. It has 48 characters, as in the vendor's API.
const SECRET_BYTES: usize = 36;

/// A file that was received and is not visible yet. Dropping it removes it.
pub struct Received {
    upload: Box<dyn Upload>,
    key: Key,
    len: u64,
    first_bytes: Vec<u8>,
    declared_type: Option<String>,
    file_name: Option<String>,
}

/// What the API knows about a file beside its bytes.
pub struct Attributes<'a> {
    /// The tenant and API that it is stored for.
    pub scope: Scope<'a>,
    /// The user; empty for the application itself.
    pub owner: &'a str,
    /// Whether a secret is required to open it.
    pub restricted: bool,
    /// The default size of its thumbnail.
    pub thumbnail: BoundingBox,
    /// The recipient, if the API knows one.
    pub recipient: Option<&'a str>,
}

/// A committed file.
pub struct Stored {
    /// Its key.
    pub key: Key,
    /// Its metadata.
    pub meta: Meta,
    /// The secret of a restricted file. It is shown once; only its hash is stored.
    pub share_secret: Option<Secret>,
}

impl Files {
    /// Receives the current part of the form as the file `key`, of at most `bytes_max` bytes. `announced` is the length
    /// of the whole request, which is an upper bound for the file.
    ///
    /// # Errors
    /// `TooLarge` at the first byte over the limit; `TooSmall` for an empty file; the errors of the form and the store.
    /// After any error, nothing of the file stays.
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

    /// Makes a received file durable and visible. Its bytes replace those that were reserved of the quotas.
    ///
    /// # Errors
    /// `AlreadyExists` if an object of its key was stored meanwhile; the errors of the store.
    ///
    /// # Cancel safety
    /// A dropped commit either removes every trace or runs to its end. Its bytes then count towards the quotas in both
    /// cases, because the outcome is not known.
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

    /// Removes a file that was taken down during its upload. The commit does not notice a take-down of an earlier day
    /// whose tombstone was gathered. Only an upload policy that a backend signed itself is valid for so long.
    async fn refuse_taken_down(&self, key: Key) -> Result<()> {
        let is_of_today = key.day.end() > self.clock.now();
        if is_of_today || !self.store.is_taken_down(key).await? {
            return Ok(());
        }
        let actor = Actor {
            by: "server, since the file was taken down before its upload ended",
            request: None,
        };
        self.remove(key.id, actor).await?;
        Err(Kind::AlreadyExists.into())
    }
}

impl Received {
    /// A file of which nothing was received yet.
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

    /// Number of bytes received.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Returns the commit. After its first poll, it runs to its end or removes every trace, even if it is dropped.
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
            // The store sets `len` and `crc` from the bytes that it wrote.
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
        let missing = SNIFF_BYTES_MAX - self.first_bytes.len();
        self.first_bytes
            .extend_from_slice(&chunk[..chunk.len().min(missing)]);
        self.upload.write(chunk).await
    }

    pub(super) fn check_not_empty(self) -> Result<Self> {
        match self.len {
            // Android clients treat an empty body as a failed download, so an empty upload is refused.
            0 => Err(Kind::TooSmall.into()),
            _ => Ok(self),
        }
    }
}

fn new_secret() -> Result<(Secret, [u8; SECRET_HASH_BYTES])> {
    let mut random = [0; SECRET_BYTES];
    getrandom::fill(&mut random).map_err(Error::internal)?;
    let secret = BASE64_URL_SAFE_NO_PAD.encode(random);
    let hash = hash_secret(&secret);
    Ok((Secret::new(secret), hash))
}

/// Hashes a share-secret. A plain hash is enough, because the secret is 288 random bits and not a password.
pub(super) fn hash_secret(secret: &str) -> [u8; SECRET_HASH_BYTES] {
    Sha256::digest(secret.as_bytes()).into()
}
