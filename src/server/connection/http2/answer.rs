//! The body of an HTTP/2 response, which counts its bytes until the last one was sent.
//!
//! hyper does not report the progress of a response, and is done with it when it has passed the last chunk to h2, which
//! may keep it for as long as the client's window is closed. But h2 reads the chunks of a body through [`bytes::Buf`], so
//! a chunk of our own type sees each of its bytes leave, and holds the request's permit until then.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};

use super::flow::Flow;
use crate::limit::clients::Permit;

/// A body that counts its bytes in a [`Flow`] and holds its request's permit.
pub(super) struct Answer<B> {
    body: B,
    flow: Arc<Flow>,
    permit: Arc<Permit>,
}

/// Bytes that h2 has not sent yet.
pub(super) struct Chunk {
    bytes: Bytes,
    flow: Arc<Flow>,
    _permit: Arc<Permit>,
}

impl<B> Answer<B> {
    pub(super) fn new(body: B, flow: Arc<Flow>, permit: Permit) -> Self {
        Self {
            body,
            flow,
            permit: Arc::new(permit),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Chunk;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, B::Error>>> {
        let this = &mut *self;
        Pin::new(&mut this.body).poll_frame(cx).map_ok(|frame| {
            frame.map_data(|bytes| {
                this.flow.given(bytes.len());
                Chunk {
                    bytes,
                    flow: this.flow.clone(),
                    _permit: this.permit.clone(),
                }
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
        self.flow.taken(bytes);
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.flow.taken(self.bytes.len());
    }
}
