//! The bytes to deliver: a stored file, or a derivative of it.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::Bytes;
use hyper::header::HeaderValue;

use super::body::{Body, Segment};
use crate::{
    fair_queue::Claimant,
    files::{DerivedFile, OpenFile, Rendition},
    http::{
        byteranges::Layout,
        conditional::{Forms, Representation},
        disposition::{Disposition, content_disposition},
        representation::{Description, RepresentationHeaders},
    },
    media::sniff::served_type,
    store::ObjectId,
};

/// The content of a response.
pub enum Content {
    /// The stored file.
    Original(Arc<OpenFile>),
    /// A derivative, and the file that it was made from.
    Derived(Arc<DerivedFile>, Arc<OpenFile>),
}

/// The entity tag of a stored file, in double quotes. A file never changes, so its id is a strong tag.
pub fn etag(id: ObjectId) -> String {
    format!("\"{id}\"")
}

impl Content {
    /// The derivative, or the file itself where that serves as one.
    pub fn of(rendition: Rendition, file: Arc<OpenFile>) -> Self {
        match rendition {
            Rendition::Made(derived) => Self::Derived(derived, file),
            Rendition::Original => Self::Original(file),
        }
    }

    fn file(&self) -> &Arc<OpenFile> {
        match self {
            Self::Original(file) | Self::Derived(_, file) => file,
        }
    }

    /// The headers, rendered at the first call.
    pub(super) fn headers(&self) -> &RepresentationHeaders {
        match self {
            Self::Original(file) => file.headers.get_or_init(|| original_headers(file)),
            Self::Derived(derived, file) => derived.headers.get_or_init(|| {
                RepresentationHeaders::new(Description {
                    etag: &derived.etag,
                    last_modified: file.object.meta.created,
                    content_type: &derived.content_type,
                    disposition: HeaderValue::from_static("inline"),
                    body_bytes: derived.bytes.len() as u64,
                })
            }),
        }
    }

    /// The content as `http::plan` needs it.
    pub(super) fn representation(&self) -> Representation<'_> {
        let (headers, file) = (self.headers(), self.file());
        Representation {
            len: headers.body_bytes(),
            etag: headers.etag(),
            last_modified: file.object.meta.created,
            forms: match file.kind.has_derivatives() {
                true => Forms::Several,
                false => Forms::One,
            },
        }
    }

    /// The whole content as a body.
    pub(super) fn whole(&self, claimant: Claimant) -> Body {
        self.range(0..self.headers().body_bytes(), claimant)
    }

    /// One range as a body.
    pub(super) fn range(&self, range: Range<u64>, claimant: Claimant) -> Body {
        match self {
            Self::Original(file) => Body::range(file.clone(), range, claimant),
            Self::Derived(derived, _) => Body::from(slice(&derived.bytes, range)),
        }
    }

    /// Several ranges as a `multipart/byteranges` body.
    pub(super) fn ranges(&self, layout: Layout, claimant: Claimant) -> Body {
        let mut segments = VecDeque::with_capacity(2 * layout.parts.len() + 1);
        for part in layout.parts {
            segments.push_back(Segment::Bytes(part.head));
            segments.push_back(match self {
                Self::Original(_) => Segment::Range(part.range),
                Self::Derived(derived, _) => Segment::Bytes(slice(&derived.bytes, part.range)),
            });
        }
        segments.push_back(Segment::Bytes(layout.closing));
        Body::segments(self.file().clone(), segments, claimant)
    }
}

fn original_headers(file: &OpenFile) -> RepresentationHeaders {
    let meta = &file.object.meta;
    let disposition = match meta.inline {
        true => Disposition::Inline,
        false => Disposition::Attachment,
    };
    RepresentationHeaders::new(Description {
        etag: &etag(file.object.key.id),
        last_modified: meta.created,
        // Older versions stored types that a browser would run as scripts.
        content_type: served_type(&meta.content_type),
        disposition: content_disposition(disposition, meta.file_name.as_deref()),
        body_bytes: meta.len,
    })
}

fn slice(bytes: &Bytes, range: Range<u64>) -> Bytes {
    let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(index(range.start)..index(range.end))
}
