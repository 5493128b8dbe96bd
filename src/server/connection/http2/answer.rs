//! The body of an HTTP/2 answer: its request's permit is given back when the last of its bytes has left.
//!
//! hyper has done with an answer when it has given h2 the last chunk; h2 may keep that for as long as the client's window
//! is closed.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::limit::clients::Permit;

/// A body and its request's permit.
pub(super) struct Answer<B> {
    body: B,
    permit: Arc<Permit>,
}

/// A chunk that is not sent yet.
struct Chunk {
    bytes: Bytes,
    _permit: Arc<Permit>,
}

impl<B> Answer<B> {
    pub(super) fn new(body: B, permit: Permit) -> Self {
        Self {
            body,
            permit: Arc::new(permit),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let keep = |bytes| {
            let _permit = this.permit.clone();
            Bytes::from_owner(Chunk { bytes, _permit })
        };
        Pin::new(&mut this.body)
            .poll_frame(cx)
            .map_ok(|frame| frame.map_data(keep))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
