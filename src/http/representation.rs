//! The response headers of one representation of a file, rendered once and copied into each response.
//!
//! Content negotiation and cache headers are not here: they depend on the request.

use std::ops::Range;

use hyper::{
    HeaderMap,
    header::{self, HeaderName, HeaderValue},
};

use super::byteranges::{self, Layout};
use crate::time::Timestamp;

const CORP: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The headers of every response that carries this representation, or a part of it.
///
/// Rendered at the first delivery and then kept in memory beside the open file: cloning a header map costs less than
/// hashing a dozen names. `files/` holds the slot (`OnceLock<RepresentationHeaders>`) and knows nothing of its
/// contents; `delivery/` fills it. So one lookup in the cache of open files finds the headers too. Rejected: a second
/// cache in `delivery/`, which costs every request a second lookup; a slot of type `dyn Any`; a type parameter of
/// `Files`, which every use case would have to carry.
#[derive(Debug)]
pub struct RepresentationHeaders {
    etag: Box<str>,
    body_bytes: u64,
    whole: HeaderMap,
}

/// The values that differ between representations.
#[derive(Debug)]
pub struct Description<'a> {
    /// A strong entity tag, in double quotes.
    pub etag: &'a str,
    /// The value of `Last-Modified`.
    pub last_modified: Timestamp,
    /// Replaced by `application/octet-stream` if it is not a valid header value.
    pub content_type: &'a str,
    /// The value of `Content-Disposition`.
    pub disposition: HeaderValue,
    /// Length of the body in bytes.
    pub body_bytes: u64,
}

impl RepresentationHeaders {
    /// Renders the headers of a 200 with the whole body.
    ///
    /// A user's upload must not act in the origin of the page that shows it: `nosniff`, and a sandbox without scripts.
    /// `Cross-Origin-Resource-Policy` lets web clients show it in an `<img>` on another origin.
    pub fn new(description: Description<'_>) -> Self {
        let value = |text: &str| {
            HeaderValue::try_from(text)
                .unwrap_or(HeaderValue::from_static("application/octet-stream"))
        };
        let mut whole = HeaderMap::with_capacity(16);
        whole.insert(header::ETAG, value(description.etag));
        let date = httpdate::fmt_http_date(description.last_modified.system());
        whole.insert(header::LAST_MODIFIED, value(&date));
        whole.insert(header::CONTENT_TYPE, value(description.content_type));
        whole.insert(header::CONTENT_LENGTH, description.body_bytes.into());
        whole.insert(header::CONTENT_DISPOSITION, description.disposition);
        for (name, text) in [
            (header::ACCEPT_RANGES, "bytes"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (
                header::CONTENT_SECURITY_POLICY,
                "sandbox; default-src 'none'",
            ),
            (CORP, "cross-origin"),
        ] {
            whole.insert(name, HeaderValue::from_static(text));
        }
        Self {
            etag: description.etag.into(),
            body_bytes: description.body_bytes,
            whole,
        }
    }

    /// The entity tag, in double quotes.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// Length of the body in bytes.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// The media type of the body.
    pub fn content_type(&self) -> &HeaderValue {
        &self.whole[header::CONTENT_TYPE]
    }

    /// Headers of a 200 with the whole body.
    pub fn whole(&self) -> HeaderMap {
        self.whole.clone()
    }

    /// Headers of a 206 with one range.
    pub fn range(&self, range: &Range<u64>) -> HeaderMap {
        let mut headers = self.whole();
        headers.insert(
            header::CONTENT_LENGTH,
            HeaderValue::from(range.end - range.start),
        );
        let content_range = byteranges::content_range(range, self.body_bytes);
        headers.insert(header::CONTENT_RANGE, content_range);
        headers
    }

    /// Headers of a 206 with several ranges.
    pub fn ranges(&self, layout: &Layout) -> HeaderMap {
        let mut headers = self.whole();
        headers.insert(header::CONTENT_TYPE, layout.content_type.clone());
        let length = HeaderValue::from(layout.content_length);
        headers.insert(header::CONTENT_LENGTH, length);
        headers
    }

    /// Headers of a 304: the validators alone (RFC 9110 §15.4.5).
    pub fn not_modified(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(16);
        for name in [header::ETAG, header::LAST_MODIFIED] {
            let value = self.whole[&name].clone();
            headers.insert(name, value);
        }
        headers
    }
}
