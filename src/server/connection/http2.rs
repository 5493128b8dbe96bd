//! Serves HTTP/2 on one connection: runs hyper between a stream and a [`Handle`], and limits what one client can demand.
//!
//! The connection's own task polls the requests: none outlives the connection, and one connection never occupies more
//! than one thread.

mod answer;
mod flow;
mod head;
mod streams;
mod table;

use std::{
    future::{Future, poll_fn, ready},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Instant,
};

use h2::Reason;
use hyper::{Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use tracing::debug;

use self::{
    answer::Answer,
    flow::Line,
    streams::{Requests, StreamExecutor, Streams},
    table::{Allowance, Verdict},
};
use super::{
    Config, ConnectionInfo, Handle, Session,
    cut::cut,
    linger::{has_unacked, linger},
};
use crate::{
    delivery::FileBody,
    limit::{
        Client,
        clients::{Permit, Resource},
    },
    metrics::{ConnectionCut as Cut, Connections},
    server::{
        deadlines::{Step, Watchdog},
        socket::Queues,
        stall::Stall,
        transport::{Slot, Stream, Transport},
    },
    time::Clock,
};

/// Concurrent requests on one connection. RFC 9113 §5.1.2 recommends at least 100.
const STREAMS_MAX: u64 = 100;
/// Lower limit of the number that a connection is offered. If one client or all clients have very many connections, each
/// is offered fewer requests, because their total memory is limited ([`Resource::RequestBytes`]), and a request that the
/// client delays costs less than one that is refused. 16 is about what a browser starts at once for one page.
const STREAMS_MIN: u64 = 16;
/// Memory of a request in progress besides its handler's future: an ordinary head and the state of hyper and h2.
const USUAL_BYTES: u64 = 4 * 1024;
/// The part of it for the state of hyper and h2.
const STATE_BYTES: u64 = 3 * 1024;
/// Memory of a request from the head of its response to the last byte sent, without the bytes of files.
const ANSWER_BYTES: u64 = 3 * 1024;
/// Size of one request's header fields, counted as in RFC 9113 §6.5.2. A connection may have a hundred decoded requests.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Bytes that a client may send before they are read, for each stream and in total.
const WINDOWS: Windows = Windows {
    stream_bytes: 256 * 1024,
    connection_bytes: 1024 * 1024,
};
/// The windows if very many connections are open: the smallest that RFC 9113 §6.9.2 allows for a connection.
const LEAST_WINDOWS: Windows = Windows {
    stream_bytes: 65_535,
    connection_bytes: 65_535,
};
/// The smallest value that RFC 9113 §6.5.2 allows, and the one that clients use anyway. h2 buffers up to six frames of an
/// unfinished header block per connection.
const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// Bytes of one response that may wait for the client's window.
const SEND_BUFFER_BYTES_MAX: usize = 32 * 1024;
/// Streams that the client has reset and that hyper has not accepted yet.
const PENDING_RESETS_MAX: usize = 20;
/// Requests that a client may cancel within a second before they are answered. More is an attack (CVE-2023-44487).
const RESETS_PER_SECOND_MAX: u32 = 100;

/// Serves requests until either side ends the connection.
///
/// # Cancel safety
/// Dropping the future closes the stream and drops the requests in progress.
pub(super) async fn serve<S: Stream, H: Handle>(
    stream: S,
    watchdog: Watchdog,
    session: Session<H>,
) {
    let slot = Slot::default();
    let outcome = speak(stream, slot.clone(), watchdog, &session).await;
    let stream = slot.lock().take();
    let Session {
        info,
        config,
        counts,
        ..
    } = &session;
    let peer = info.peer;
    match (outcome, stream) {
        (Ok(Ok(())), Some(stream)) if has_unacked(&stream) => {
            if !linger(stream, config).await {
                cut(info, config, counts, Cut::WriteStall);
            }
        }
        (Ok(Ok(())), _) => {}
        (Ok(Err(error)), _) => debug!(%peer, %error, "connection broken"),
        (Err(why), stream) => {
            cut(info, config, counts, why);
            if let Some(stream) = stream
                && why == Cut::WriteStall
            {
                stream.socket().reset_on_close();
            }
        }
    }
}

/// Runs hyper until the connection ends, with `Err` if the server ends it. The stream is then in `slot`.
async fn speak<S: Stream, H: Handle>(
    stream: S,
    slot: Slot<S>,
    watchdog: Watchdog,
    session: &Session<H>,
) -> Result<hyper::Result<()>, Cut> {
    let (info, client, shutdown) = (&session.info, &session.info.client, &session.shutdown);
    let _counted = client.take(Resource::Http2Connections, 1);
    let (windows, _window_permit) = Windows::of(client);
    let clock = Clock::system();
    let mut guard = Guard::new(watchdog, session, &clock);
    let mut frames = guard.allowance.frames();
    let on_read = move |bytes: &[u8]| frames.read(bytes);
    let transport = Transport::new(stream, &info.progress, &info.loans, on_read);
    let requests = guard.streams.requests();
    let service = service_fn(|request| answer(&session.handler, info, &requests, request));
    let builder = builder(guard.streams.executor(), streams_max::<H>(client), windows);
    let mut connection = builder.serve_connection(transport.give_back_to(slot), service);
    // Registers this task's waker; afterwards the flag is enough.
    let mut triggered = pin!(shutdown.triggered());
    poll_fn(|cx| Poll::Ready(triggered.as_mut().poll(cx).is_ready())).await;
    poll_fn(|cx| {
        loop {
            let now = clock.monotonic();
            if shutdown.is_triggered() && guard.close(now) == Step::Close {
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Ok(result));
            }
            match guard.poll(cx, now) {
                Step::Wait => return Poll::Pending,
                Step::Ask => {}
                Step::Close => Pin::new(&mut connection).graceful_shutdown(),
                Step::Cut(why) => return Poll::Ready(Err(why)),
            }
        }
    })
    .await
}

/// Starts to answer one request.
fn answer<H: Handle>(
    handler: &Arc<H>,
    info: &Arc<ConnectionInfo>,
    requests: &Requests,
    mut request: Request<Incoming>,
) -> Answering<H> {
    let (handler, info) = (handler.clone(), info.clone());
    let (unanswered_request, flow) = requests.begin();
    let bytes = future_bytes::<H>() + USUAL_BYTES.max(STATE_BYTES + head::bytes(&request));
    let Some(mut permit) = info.client.take(Resource::RequestBytes, bytes) else {
        // The request was not processed, so the client may retry it immediately (RFC 9113 §8.7).
        unanswered_request.answered();
        return Box::pin(ready(Err(h2::Error::from(Reason::REFUSED_STREAM))));
    };
    head::detach(&mut request);
    // Boxed: hyper keeps this future's memory, including the handler's, until the client has received the last byte of
    // the response. The box is freed at the head of the response.
    Box::pin(async move {
        let unanswered = info.unanswered.begin();
        let mut response = handler.handle(&info, request).await;
        drop(unanswered);
        unanswered_request.answered();
        response.body_mut().copy_out(&info.client);
        permit.shrink(ANSWER_BYTES);
        Ok(response.map(|body| Answer::new(body, flow, permit)))
    })
}

/// hyper's settings.
///
/// There are no keep-alive pings: a slow client acknowledges a ping only after it has read everything that was sent
/// before, so a timeout would cut slow clients and not dead ones. Dead clients are found by their unacknowledged
/// responses, by the timeouts of request bodies, or by the idle timeout.
fn builder(
    executor: StreamExecutor,
    streams_max: u32,
    windows: Windows,
) -> http2::Builder<StreamExecutor> {
    let mut builder = http2::Builder::new(executor);
    builder
        .max_concurrent_streams(streams_max)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(windows.stream_bytes)
        .initial_connection_window_size(windows.connection_bytes)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX);
    builder
}

/// The response of a request in progress; an error resets its stream.
type Answering<H> =
    Pin<Box<dyn Future<Output = Result<Response<Answer<<H as Handle>::Body>>, h2::Error>> + Send>>;

/// The number of concurrent requests that a new connection is offered: an equal share of the memory that its client and
/// all clients may use.
fn streams_max<H: Handle>(client: &Client) -> u32 {
    let bytes = client.share(Resource::RequestBytes, Resource::Http2Connections);
    let streams = bytes / (future_bytes::<H>() + USUAL_BYTES);
    streams.clamp(STREAMS_MIN, STREAMS_MAX) as u32
}

/// The size of the handler's future.
fn future_bytes<H: Handle>() -> u64 {
    fn size_of_output<'a, H: 'a, F>(
        _: impl Fn(&'a H, &'a Arc<ConnectionInfo>, Request<Incoming>) -> F,
    ) -> u64 {
        size_of::<F>() as u64
    }
    size_of_output(H::handle)
}

/// Flow-control windows.
#[derive(Debug, Clone, Copy)]
struct Windows {
    stream_bytes: u32,
    connection_bytes: u32,
}

impl Windows {
    /// The usual windows and the permit for them, or the smallest ones if the total of all connections is used up.
    fn of(client: &Arc<Client>) -> (Self, Option<Permit>) {
        let more = WINDOWS.connection_bytes - LEAST_WINDOWS.connection_bytes;
        match client.take(Resource::WindowBytes, more.into()) {
            Some(permit) => (WINDOWS, Some(permit)),
            None => (LEAST_WINDOWS, None),
        }
    }
}

/// Enforces the timeouts and limits of a connection. At each deadline the kernel is asked first what the client has
/// acknowledged.
struct Guard<'a> {
    watchdog: Watchdog,
    streams: Streams,
    allowance: Allowance,
    info: &'a ConnectionInfo,
    config: &'a Config,
    counts: &'a Connections,
    /// Since when no request is in progress.
    idle_since: Option<Instant>,
    /// When the client was told to send no further request.
    closing_since: Option<Instant>,
    /// No request is in progress, but the client has not acknowledged all responses.
    is_lagging: bool,
    /// The transport was asked for the state of the kernel's queues.
    is_asked: bool,
    looked_at: Instant,
    stall: Stall,
}

impl<'a> Guard<'a> {
    fn new<H>(watchdog: Watchdog, session: &'a Session<H>, clock: &Clock) -> Self {
        let now = clock.monotonic();
        let stall_timeout = session.config.write_stall_timeout;
        Self {
            watchdog,
            streams: Streams::new(clock.clone(), stall_timeout),
            allowance: Allowance::new(session.info.client.clone()),
            info: &session.info,
            config: &session.config,
            counts: &session.counts,
            idle_since: Some(now),
            closing_since: None,
            is_lagging: false,
            is_asked: false,
            looked_at: now,
            stall: Stall::new(stall_timeout, now),
        }
    }

    /// The client must be told to send no further request, if it was not told yet.
    fn close(&mut self, now: Instant) -> Step {
        match self.closing_since {
            Some(_) => Step::Wait,
            None => {
                self.closing_since = Some(now);
                Step::Close
            }
        }
    }

    /// Runs the requests and checks the limits. Must be called after each poll of hyper.
    fn poll(&mut self, cx: &mut Context<'_>, now: Instant) -> Step {
        self.streams.poll_all(cx);
        if self.streams.resets_in_a_second() > RESETS_PER_SECOND_MAX {
            return Step::Cut(Cut::Resets);
        }
        let step = match self.allowance.look() {
            Verdict::GoOn => Step::Wait,
            Verdict::Close => self.close(now),
            Verdict::Cut => Step::Cut(Cut::Fields),
        };
        step.or_else(|| {
            self.count_streams(now);
            self.check(now)
        })
        .or_else(|| self.wait(cx))
    }

    fn count_streams(&mut self, now: Instant) {
        let open = self.streams.len();
        if let Some(streams) = &self.info.streams {
            streams.store(open, Ordering::Relaxed);
        }
        match open == 0 {
            true => self.idle_since = self.idle_since.or(Some(now)),
            false => (self.idle_since, self.is_lagging) = (None, false),
        }
    }

    /// If the kernel was asked, checks the connection and its streams, and resets streams that have stalled.
    fn check(&mut self, now: Instant) -> Step {
        if !std::mem::take(&mut self.is_asked) {
            return Step::Wait;
        }
        let queues = self.info.progress.take_answer();
        let is_over = match self.look(now, queues) {
            Ok(is_over) => is_over,
            Err(why) => return Step::Cut(why),
        };
        let looked = self.streams.look(self.line(now, queues));
        self.counts.streams_stalled.add(looked.resets);
        let step = match is_over || looked.has_stalled_for_good {
            true => self.close(now),
            false => Step::Wait,
        };
        step.or_else(|| match looked.resets > 0 {
            true => Step::Ask,
            false => Step::Wait,
        })
    }

    /// Waits for the next deadline, then asks the kernel.
    fn wait(&mut self, cx: &mut Context<'_>) -> Step {
        let deadline = self.deadline();
        if self.watchdog.poll_passed(cx, Some(deadline)).is_pending() {
            return Step::Wait;
        }
        self.info.progress.ask();
        self.is_asked = true;
        Step::Ask
    }

    /// When the connection will have been idle for too long.
    fn end(&self) -> Option<Instant> {
        let idle = self.idle_since.filter(|_| !self.is_lagging)?;
        Some(match self.closing_since {
            // The client must first notice the end, then close.
            Some(closing) => idle.max(closing) + self.config.header_timeout,
            None => idle + self.config.idle_timeout,
        })
    }

    /// When to check next.
    fn deadline(&self) -> Instant {
        let look = self.looked_at + self.stall.looks_every();
        match self.end() {
            Some(end) if self.info.progress.is_blocked() => end.min(look),
            Some(end) => end,
            None => look,
        }
    }

    /// Checks the connection as a whole. Returns whether it must begin to close, because it was idle for too long.
    fn look(&mut self, now: Instant, queues: Option<Queues>) -> Result<bool, Cut> {
        self.looked_at = now;
        let unacked_bytes = queues.map_or(0, |queues| queues.unacked_bytes);
        let owes = self.info.progress.is_blocked() || unacked_bytes > 0;
        if !owes {
            self.stall.rest(now);
        } else {
            // If the kernel does not answer, a blocked write is cut after the timeout.
            let (acked_bytes, is_in_flight) = queues.map_or((0, true), |queues| {
                (queues.acked_bytes, queues.is_in_flight)
            });
            if self.stall.look(now, acked_bytes, is_in_flight) {
                return Err(Cut::WriteStall);
            }
        }
        let end = self.end();
        if self.idle_since.is_some() && self.is_lagging != owes {
            self.is_lagging = owes;
            self.idle_since = Some(now);
            return Ok(false);
        }
        let is_over = end.is_some_and(|end| now >= end);
        match is_over && self.closing_since.is_some() {
            true => Err(Cut::Idle),
            false => Ok(is_over),
        }
    }

    fn line(&self, now: Instant, queues: Option<Queues>) -> Line {
        let (written_bytes, acked_bytes) =
            queues.map_or((0, 0), |queues| (queues.written_bytes, queues.acked_bytes));
        Line {
            now,
            written_bytes,
            acked_bytes,
            is_blocked: self.info.progress.is_blocked(),
            waiting_streams: 0,
        }
    }
}
