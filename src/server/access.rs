//! The access log: one line for a request when the body of its response has ended or was dropped.
//!
//! The body of a logged response holds its `Access`, which writes the line when it is dropped; other bodies hold a null
//! pointer. The line counts the bytes that were passed to the connection; the last of them may still wait in a queue of
//! hyper or the kernel.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    Method, Version,
    body::{Body, Frame, SizeHint},
};
use serde::Deserialize;

use crate::{
    delivery::{FileBody, Loans},
    limit::Client,
    metrics::Answered,
    settings::number,
    tenant::Tenant,
    time::Clock,
    trace_parent::TraceParent,
};

/// The log target of these lines, which turns them on: `warn,access=info`.
const TARGET: &str = "access";
/// Upper limit of bytes of a method in the log, because clients may send any method.
const METHOD_SHOWN_MAX: usize = 16;

/// `log.access_sample`: one in this many requests is logged; 0 = none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct Sample(#[serde(deserialize_with = "number::<0, 1_000_000, _, _>")] u32);

impl Sample {
    /// Whether a request is logged. Ids are consecutive, so their remainders select a fair sample without another counter.
    /// All server errors are logged, but no request that exceeded its rate limit, although some APIs answer those with 503.
    pub(super) fn has(self, id: u64, answered: &Answered) -> bool {
        let is_failure = answered.status >= 500 && answered.refusal.is_none();
        self.0 > 0
            && (is_failure || id.is_multiple_of(u64::from(self.0)))
            && tracing::enabled!(target: TARGET, tracing::Level::INFO)
    }
}

/// The facts about an answered request in its line.
pub(super) struct Access {
    pub(super) id: u64,
    pub(super) client: IpAddr,
    pub(super) tenant: Option<Arc<Tenant>>,
    /// Method and path as they are logged, truncated: the originals may be as long as a request head, and this value lives
    /// as long as the body of the response.
    pub(super) method: String,
    pub(super) path: String,
    pub(super) version: Version,
    /// The trace that the client says it belongs to.
    pub(super) trace: Option<TraceParent>,
    pub(super) answered: Answered,
    pub(super) started: Instant,
    pub(super) clock: Clock,
}

/// The body of a response, observed if it is logged.
pub(crate) struct Watched<B: Body> {
    body: B,
    /// Boxed, because most responses have none and all are moved several times.
    watch: Option<Box<Watch>>,
}

struct Watch {
    access: Access,
    sent_bytes: u64,
    /// Whether the body has ended; else it was cut short.
    is_ended: bool,
}

impl<B: Body> Watched<B> {
    /// A body, with the facts for its line if it is logged.
    pub(super) fn new(body: B, access: Option<Access>) -> Self {
        let watch = access.map(|access| {
            Box::new(Watch {
                access,
                sent_bytes: 0,
                is_ended: body.is_end_stream(),
            })
        });
        Self { body, watch }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let Self { body, watch } = &mut *self;
        if let (Some(watch), Poll::Ready(frame)) = (watch, &polled) {
            if let Some(Ok(frame)) = frame {
                watch.sent_bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
            }
            watch.is_ended = frame.is_none() || body.is_end_stream();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body + FileBody> FileBody for Watched<B> {
    fn lend_to(&mut self, loans: &Arc<Loans>) {
        self.body.lend_to(loans);
    }

    fn copy_out(&mut self, client: &Arc<Client>) {
        self.body.copy_out(client);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Access {
            id,
            client,
            tenant,
            method,
            path,
            version,
            trace,
            answered,
            started,
            clock,
        } = &self.access;
        tracing::info!(
            target: TARGET,
            request = format_args!("{id:016x}"),
            %client,
            tenant = tenant.as_ref().map(|tenant| tracing::field::display(tenant.name())),
            route = format_args!("{}", answered.route.name),
            %method,
            %path,
            version = ?version,
            status = answered.status,
            received_bytes = answered.received_bytes,
            sent_bytes = self.sent_bytes,
            head_us = us(answered.took),
            end_us = us(clock.monotonic() - *started),
            cut = !self.is_ended,
            trace_id = trace.map(|trace| tracing::field::display(trace.trace_id())),
            parent_id = trace.map(|trace| tracing::field::display(trace.parent_id())),
            "access"
        );
    }
}

/// A method as it is logged.
pub(super) fn shown_method(method: &Method) -> String {
    format!("{:.METHOD_SHOWN_MAX$}", method.as_str())
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
