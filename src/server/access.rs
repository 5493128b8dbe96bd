//! The access log: a line for a request once its answer's body has ended or was given up.
//!
//! An answer that is logged carries its `Access`, which writes the line when it is dropped; one that is not
//! carries a null pointer. What is in the line is what was handed to the connection: of the last bytes some may
//! still wait in a queue of hyper's or the kernel's.

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
};

/// The target of these lines, by which they are switched: `warn,access=info`.
const TARGET: &str = "access";
/// Bytes of a method that are shown; a client may make up a longer one.
const METHOD_SHOWN_MAX: usize = 16;

/// One of how many requests is logged; 0 = none: `log.access_sample`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct Sample(#[serde(deserialize_with = "number::<0, 1_000_000, _, _>")] u32);

impl Sample {
    /// Whether a request is in it. Ids are counted, so their remainders are a fair choice without a counter of
    /// its own. Failures of ours are all in it; a call over its rate is none, though some clients are told 503.
    pub(super) fn has(self, id: u64, answered: &Answered) -> bool {
        let is_failure = answered.status >= 500 && answered.refusal.is_none();
        self.0 > 0
            && (is_failure || id.is_multiple_of(u64::from(self.0)))
            && tracing::enabled!(target: TARGET, tracing::Level::INFO)
    }
}

/// What the line says of a request that is answered.
pub(super) struct Access {
    pub(super) id: u64,
    pub(super) client: IpAddr,
    pub(super) tenant: Option<Arc<Tenant>>,
    /// Both as they are shown, cut: the request's own may be as long as its head, and this lives as long as the
    /// answer's body.
    pub(super) method: String,
    pub(super) path: String,
    pub(super) version: Version,
    pub(super) answered: Answered,
    pub(super) started: Instant,
    pub(super) clock: Clock,
}

/// The body of an answer, watched where it is logged.
pub struct Watched<B: Body> {
    body: B,
    /// Boxed: most answers have none, and all are moved several times.
    watch: Option<Box<Watch>>,
}

struct Watch {
    access: Access,
    sent_bytes: u64,
    /// The body has said so; until then it was cut short.
    is_ended: bool,
}

impl<B: Body> Watched<B> {
    /// A body, and what its line says where it has one.
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
            "access"
        );
    }
}

/// A method as the log shows it.
pub(super) fn shown_method(method: &Method) -> String {
    format!("{:.METHOD_SHOWN_MAX$}", method.as_str())
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
