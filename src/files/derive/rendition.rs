//! The result of asking for a derivative of a file: new bytes, or the original.

use std::sync::{Arc, OnceLock};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    http::representation::RepresentationHeaders,
    store::Derived,
};

/// The body to send for a derivative.
#[derive(Clone)]
pub enum Rendition {
    /// Made from the original.
    Made(Arc<DerivedFile>),
    /// The original itself. It is small enough, no larger than the derivative, or of a kind that is not decoded.
    Original,
}

/// A derivative in memory.
pub struct DerivedFile {
    /// The body.
    pub bytes: Bytes,
    /// Its media type.
    pub content_type: String,
    /// A strong entity tag in double quotes: a hash of the bytes.
    pub etag: String,
    /// The response headers, which `delivery/` renders at the first response.
    pub headers: OnceLock<RepresentationHeaders>,
}

impl Rendition {
    /// Hashes large derivatives on a blocking thread: at 1 GB/s, 64 KiB take as long as a thread hop or two.
    pub(super) async fn made(derived: Derived) -> Result<Self> {
        const INLINE_BYTES_MAX: usize = 64 << 10;
        let file = if derived.bytes.len() <= INLINE_BYTES_MAX {
            DerivedFile::new(derived)
        } else {
            tokio::task::spawn_blocking(|| DerivedFile::new(derived))
                .await
                .map_err(Error::internal)?
        };
        Ok(Self::Made(Arc::new(file)))
    }
}

impl DerivedFile {
    pub(super) fn new(derived: Derived) -> Self {
        let hash = Sha256::digest(&derived.bytes);
        Self {
            etag: format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(&hash[..16])),
            content_type: derived.content_type,
            bytes: derived.bytes,
            headers: OnceLock::new(),
        }
    }
}
