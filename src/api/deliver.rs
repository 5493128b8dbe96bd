//! Rendering a file: the plan of RFC 9110 §13–14 made into status, headers and body.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{self, HeaderValue},
};

use super::{
    Call,
    body::{Body, Segment},
};
use crate::{
    error::{Error, Kind, Result},
    fair_queue::Claimant,
    files::{DerivedFile, OpenFile, Rendition},
    http::{
        byteranges::{self, Boundary},
        conditional::Forms,
        plan::{Plan, Representation, plan},
        range::ByteRange,
    },
    tenant::Tenant,
    time::Timestamp,
};

/// A year, RFC 9111's customary "for ever".
const MAX_AGE_SECONDS: i64 = 365 * 86_400;

/// What is to be sent.
pub enum Content {
    /// The object itself.
    Original(Arc<OpenFile>),
    /// Something made from it.
    Derived(Arc<DerivedFile>, Arc<OpenFile>),
}

impl Content {
    /// What was made of a file, or the file itself.
    pub fn of(made: Rendition, file: Arc<OpenFile>) -> Self {
        match made {
            Rendition::Made(derived) => Self::Derived(derived, file),
            Rendition::Original => Self::Original(file),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Original(file) => file.object.len(),
            Self::Derived(derived, _) => derived.bytes.len() as u64,
        }
    }

    fn file(&self) -> &Arc<OpenFile> {
        match self {
            Self::Original(file) | Self::Derived(_, file) => file,
        }
    }

    fn etag(&self) -> &HeaderValue {
        match self {
            Self::Original(file) => &file.etag,
            Self::Derived(derived, _) => &derived.etag,
        }
    }

    fn content_type(&self) -> &HeaderValue {
        match self {
            Self::Original(file) => &file.content_type,
            Self::Derived(derived, _) => &derived.content_type,
        }
    }

    /// The headers of an answer with all of it.
    fn head(&self) -> &HeaderMap {
        let head = match self {
            Self::Original(file) => &file.head,
            Self::Derived(derived, _) => &derived.head,
        };
        head.get_or_init(|| {
            let mut headers = HeaderMap::with_capacity(16);
            self.put_validators(&mut headers);
            body_headers(&mut headers, self, self.content_type().clone(), self.len());
            headers
        })
    }

    fn put_validators(&self, headers: &mut HeaderMap) {
        headers.insert(header::ETAG, self.etag().clone());
        headers.insert(header::LAST_MODIFIED, self.file().last_modified.clone());
    }

    fn disposition(&self) -> HeaderValue {
        match self {
            Self::Original(file) => file.disposition.clone(),
            Self::Derived(..) => HeaderValue::from_static("inline"),
        }
    }

    fn range(&self, range: ByteRange, claimant: Claimant) -> Body {
        match self {
            Self::Original(file) => {
                Body::range(file.clone(), range.start..range.end_exclusive, claimant)
            }
            Self::Derived(derived, _) => Body::from(slice(&derived.bytes, range)),
        }
    }
}

/// Who may keep an answer.
pub enum Keep {
    /// Whom it was sent to alone: a token opened it.
    Client {
        /// The file's end.
        until: Option<Timestamp>,
        /// The request headers that open it, and that choose the content.
        vary: HeaderValue,
    },
    /// Every cache on the way: the URL alone opens it and chooses the content.
    Everybody {
        /// The URL's end, or the file's where that is earlier.
        until: Timestamp,
    },
}

impl Keep {
    /// For a URL that ends, of a file that may end.
    pub fn everybody(url_end: Timestamp, file_end: Option<Timestamp>) -> Self {
        let until = file_end.map_or(url_end, |end| end.min(url_end));
        Self::Everybody { until }
    }

    /// `immutable`: these bodies never change. No longer than they live.
    fn put(self, headers: &mut HeaderMap, now: Timestamp) {
        let value = |who: &str, until: Timestamp| {
            let seconds = (until.secs() - now.secs()).clamp(0, MAX_AGE_SECONDS);
            HeaderValue::try_from(format!("{who}, max-age={seconds}, immutable"))
                .expect("digits and letters")
        };
        let cache_control = match self {
            Self::Client { until, vary } => {
                headers.insert(header::VARY, vary);
                match until {
                    None => HeaderValue::from_static("private, max-age=31536000, immutable"),
                    Some(until) => value("private", until),
                }
            }
            Self::Everybody { until } => {
                // Any page may read what it has the URL of. So the answer is the same for all and caches keep one,
                // and a redirect from another origin (`Origin: null`) works.
                headers.insert(
                    header::ACCESS_CONTROL_ALLOW_ORIGIN,
                    HeaderValue::from_static("*"),
                );
                value("public", until)
            }
        };
        headers.insert(header::CACHE_CONTROL, cache_control);
    }
}

/// Answers a GET or HEAD of one of the tenant's files with the content.
///
/// # Errors
/// `PreconditionFailed`, `RangeNotSatisfiable`: for the dialect to render.
pub fn deliver(
    call: &Call<'_>,
    tenant: &Tenant,
    content: &Content,
    keep: Keep,
) -> Result<Response<Body>> {
    let representation = Representation {
        len: content.len(),
        etag: content
            .etag()
            .to_str()
            .expect("made here, of visible ASCII"),
        last_modified: content.file().object.meta.created,
        // Something can be made of a file of a known kind.
        forms: match content.file().kind.has_derivatives() {
            true => Forms::Several,
            false => Forms::One,
        },
    };
    let claimant = call.claimant(tenant);
    let plan = plan(call.method, call.headers, &representation);
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    if plan == Plan::Full {
        headers.clone_from(content.head());
    } else {
        headers.reserve(16);
        content.put_validators(headers);
    }
    keep.put(headers, call.now);
    match plan {
        Plan::NotModified => *response.status_mut() = StatusCode::NOT_MODIFIED,
        Plan::PreconditionFailed => return Err(Kind::PreconditionFailed.into()),
        Plan::Unsatisfiable => return Err(Kind::RangeNotSatisfiable(content.len()).into()),
        Plan::Full => {
            let whole = ByteRange {
                start: 0,
                end_exclusive: content.len(),
            };
            *response.body_mut() = content.range(whole, claimant);
        }
        Plan::Single(range) => {
            body_headers(
                headers,
                content,
                content.content_type().clone(),
                range.len(),
            );
            headers.insert(
                header::CONTENT_RANGE,
                byteranges::content_range(range, content.len()),
            );
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            *response.body_mut() = content.range(range, claimant);
        }
        Plan::Multi(ranges) => {
            let mut random = [0; 16];
            getrandom::fill(&mut random).map_err(Error::internal)?;
            let boundary = Boundary::from_random(random);
            let layout =
                byteranges::layout(&ranges, content.content_type(), content.len(), boundary);
            body_headers(
                headers,
                content,
                layout.content_type.clone(),
                layout.content_length,
            );
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            *response.body_mut() = several(content, layout, claimant);
        }
    }
    Ok(response)
}

/// Headers of an answer that carries (part of) a file. Whatever a user uploaded must not act in the page's
/// origin: no sniffing, no scripts, in place only for types on the list (`media/sniff.rs`).
fn body_headers(headers: &mut HeaderMap, content: &Content, content_type: HeaderValue, len: u64) {
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    headers.insert(header::CONTENT_DISPOSITION, content.disposition());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("sandbox; default-src 'none'"),
    );
    // Web clients show these bodies in <img> on other origins.
    headers.insert(
        "cross-origin-resource-policy",
        HeaderValue::from_static("cross-origin"),
    );
}

fn several(content: &Content, layout: byteranges::Layout, claimant: Claimant) -> Body {
    let mut segments = VecDeque::with_capacity(2 * layout.parts.len() + 1);
    for part in layout.parts {
        segments.push_back(Segment::Bytes(part.head));
        segments.push_back(match content {
            Content::Original(_) => Segment::Range(part.range.start..part.range.end_exclusive),
            Content::Derived(derived, _) => Segment::Bytes(slice(&derived.bytes, part.range)),
        });
    }
    segments.push_back(Segment::Bytes(layout.closing));
    Body::segments(content.file().clone(), segments, claimant)
}

fn slice(bytes: &Bytes, range: ByteRange) -> Bytes {
    let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(index(range.start)..index(range.end_exclusive))
}
