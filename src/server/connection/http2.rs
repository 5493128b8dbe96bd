//! Serves HTTP/2 on one connection: runs hyper between a stream and a [`Handle`], and limits what one client can demand.
//!
//! The connection's own task polls the requests: none outlives the connection, and one connection never occupies more
//! than one thread.

mod answer;
mod flow;
mod handback;
mod head;
mod streams;
mod table;

use std::{
    future::{Future, poll_fn, ready},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Instant,
};

use h2::Reason;
use hyper::{Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use tracing::debug;

use self::{
    answer::Answer,
    flow::Line,
    handback::Handback,
    streams::{Requests, StreamExecutor, Streams},
    table::{Allowance, Verdict},
};
use super::{
    Config, ConnectionInfo, Handle,
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
        deadlines::{Progress, Watchdog},
        shutdown::Shutdown,
        socket::Queues,
        stall::Stall,
        transport::{Stream, Transport},
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
    handler: Arc<H>,
    info: &Arc<ConnectionInfo>,
    config: &Config,
    counts: &Connections,
    watchdog: Watchdog,
    shutdown: Shutdown,
) {
    let (stream, slot) = Handback::new(stream);
    let outcome = speak(stream, handler, info, config, counts, watchdog, shutdown).await;
    let stream = slot.take();
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
                stream.reset_on_close();
            }
        }
    }
}

/// Runs hyper until the connection ends, with `Err` if the server ends it.
async fn speak<S: Stream, H: Handle>(
    stream: Handback<S>,
    handler: Arc<H>,
    info: &Arc<ConnectionInfo>,
    config: &Config,
    counts: &Connections,
    mut watchdog: Watchdog,
    shutdown: Shutdown,
) -> Result<hyper::Result<()>, Cut> {
    let clock = Clock::system();
    let client = &info.client;
    let _counted = client.take(Resource::Http2Connections, 1);
    let (windows, _window_permit) = Windows::of(client);
    let mut allowance = Allowance::new(client.clone(), stream.table_bytes());
    let mut streams = Streams::new(clock.clone(), config.write_stall_timeout);
    let requests = streams.requests();
    let service = service_fn(|request| answer(&handler, info, &requests, request));
    let transport = Transport::new(stream, info.progress.clone(), info.loans.clone());
    let mut connection = builder(streams.executor(), streams_max::<H>(client), windows)
        .serve_connection(transport, service);

    let mut triggered = pin!(shutdown.triggered());
    let mut is_waiting = false;
    let mut life = Life::new(config, clock.monotonic());
    let progress = &*info.progress;
    poll_fn(|cx| {
        loop {
            let now = clock.monotonic();
            // Polled once to register this task's waker; afterwards the flag is enough.
            let is_told = !is_waiting && triggered.as_mut().poll(cx).is_ready();
            is_waiting = true;
            if !life.is_closing() && (is_told || shutdown.is_triggered() || life.is_done) {
                life.close(now);
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Ok(result));
            }
            streams.poll_all(cx);
            if streams.resets_in_a_second() > RESETS_PER_SECOND_MAX {
                return Poll::Ready(Err(Cut::Resets));
            }
            match allowance.look() {
                Verdict::GoOn => {}
                Verdict::Close if life.is_closing() => {}
                Verdict::Close => {
                    life.is_done = true;
                    continue;
                }
                Verdict::Cut => return Poll::Ready(Err(Cut::Fields)),
            }
            if let Some(open) = &info.streams {
                open.store(streams.len(), Ordering::Relaxed);
            }
            life.set_idle(now, streams.len() == 0);
            match life.check(now, progress, &mut streams, counts) {
                Next::Wait => {}
                Next::PollHyper => continue,
                Next::Cut(why) => return Poll::Ready(Err(why)),
            }
            if watchdog
                .poll_passed(cx, Some(life.deadline(progress)))
                .is_pending()
            {
                return Poll::Pending;
            }
            progress.ask();
            life.is_asked = true;
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

/// What to do after a check.
enum Next {
    Wait,
    PollHyper,
    Cut(Cut),
}

/// The timeouts of a connection. At each deadline the kernel is asked first what the client has acknowledged.
struct Life<'a> {
    config: &'a Config,
    /// Since when no request is in progress.
    idle_since: Option<Instant>,
    /// When the client was told to send no further request.
    closing_since: Option<Instant>,
    /// The client must be told to send no further request.
    is_done: bool,
    /// No request is in progress, but the client has not acknowledged all responses.
    is_lagging: bool,
    /// The transport was asked for the state of the kernel's queues.
    is_asked: bool,
    looked_at: Instant,
    stall: Stall,
}

impl<'a> Life<'a> {
    fn new(config: &'a Config, now: Instant) -> Self {
        Self {
            config,
            idle_since: Some(now),
            closing_since: None,
            is_done: false,
            is_lagging: false,
            is_asked: false,
            looked_at: now,
            stall: Stall::new(config.write_stall_timeout, now),
        }
    }

    fn is_closing(&self) -> bool {
        self.closing_since.is_some()
    }

    fn close(&mut self, now: Instant) {
        self.closing_since = Some(now);
    }

    fn set_idle(&mut self, now: Instant, is_idle: bool) {
        match is_idle {
            true => self.idle_since = self.idle_since.or(Some(now)),
            false => (self.idle_since, self.is_lagging) = (None, false),
        }
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
    fn deadline(&self, progress: &Progress) -> Instant {
        let look = self.looked_at + self.stall.looks_every();
        match self.end() {
            Some(end) if progress.is_blocked() => end.min(look),
            Some(end) => end,
            None => look,
        }
    }

    /// If the kernel was asked, checks the connection and its streams, and resets streams that have stalled.
    fn check(
        &mut self,
        now: Instant,
        progress: &Progress,
        streams: &mut Streams,
        counts: &Connections,
    ) -> Next {
        if !std::mem::take(&mut self.is_asked) {
            return Next::Wait;
        }
        let queues = progress.take_answer();
        if let Some(why) = self.look(now, progress, queues) {
            return Next::Cut(why);
        }
        let looked = streams.look(self.line(now, progress, queues));
        counts.streams_stalled.add(looked.resets);
        self.is_done |= looked.has_stalled_for_good;
        match looked.resets > 0 || self.is_done && !self.is_closing() {
            true => Next::PollHyper,
            false => Next::Wait,
        }
    }

    /// Checks the connection as a whole.
    fn look(&mut self, now: Instant, progress: &Progress, queues: Option<Queues>) -> Option<Cut> {
        self.looked_at = now;
        let unacked_bytes = queues.map_or(0, |queues| queues.unacked_bytes);
        let owes = progress.is_blocked() || unacked_bytes > 0;
        if !owes {
            self.stall.rest(now);
        } else {
            // If the kernel does not answer, a blocked write is cut after the timeout.
            let (acked_bytes, is_in_flight) = queues.map_or((0, true), |queues| {
                (queues.acked_bytes, queues.is_in_flight)
            });
            if self.stall.look(now, acked_bytes, is_in_flight) {
                return Some(Cut::WriteStall);
            }
        }
        let end = self.end();
        if self.idle_since.is_some() && self.is_lagging != owes {
            self.is_lagging = owes;
            self.idle_since = Some(now);
            return None;
        }
        if end.is_some_and(|end| now >= end) {
            match self.is_closing() {
                true => return Some(Cut::Idle),
                false => self.is_done = true,
            }
        }
        None
    }

    fn line(&self, now: Instant, progress: &Progress, queues: Option<Queues>) -> Line {
        let (written_bytes, acked_bytes) =
            queues.map_or((0, 0), |queues| (queues.written_bytes, queues.acked_bytes));
        Line {
            now,
            written_bytes,
            acked_bytes,
            is_blocked: progress.is_blocked(),
            waiting_streams: 0,
        }
    }
}
