//! HTTP/2 on one connection: hyper between a stream and a [`Handle`], with bounds for what one client may ask of it.
//!
//! What answers a stream is polled by the connection's own task: nothing outlives the connection, and one
//! connection is never more than one thread's work.

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
    streams::Streams,
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

/// Requests at a time on one connection. RFC 9113 §5.1.2 recommends no fewer than 100.
const STREAMS_MAX: u64 = 100;
/// Where a client has very many connections, or all together are very many, each is told fewer: what they hold in sum is
/// bounded ([`Resource::RequestBytes`]), and a request that a client holds back costs less than one that is refused. As
/// many as a browser begins at once for one page.
const STREAMS_MIN: u64 = 16;
/// A request that is handled, beside its handler's future: an ordinary head, hyper's and h2's state.
const USUAL_BYTES: u64 = 4 * 1024;
/// Of these, hyper's and h2's state.
const STATE_BYTES: u64 = 3 * 1024;
/// What a request holds from its answer's head to the last byte of its body that is sent, beside bytes of files.
const ANSWER_BYTES: u64 = 3 * 1024;
/// Size of one request's fields, as RFC 9113 §6.5.2 counts them. A connection may have a hundred of them decoded at
/// once.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Bytes that a client may send before they are read, of one stream and of all.
const WINDOWS: Windows = Windows {
    stream_bytes: 256 * 1024,
    connection_bytes: 1024 * 1024,
};
/// The same where very many connections are open: the least that RFC 9113 §6.9.2 allows for a connection.
const LEAST_WINDOWS: Windows = Windows {
    stream_bytes: 65_535,
    connection_bytes: 65_535,
};
/// The smallest value that RFC 9113 §6.5.2 allows, and the one that clients use whatever is offered. h2 gathers up to
/// six frames of an unfinished header block for each connection.
const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// Bytes of one answer that wait for the client's window.
const SEND_BUFFER_BYTES_MAX: usize = 32 * 1024;
/// Streams that the client has reset and nobody has looked at yet.
const PENDING_RESETS_MAX: usize = 20;
/// Requests in one second that the client takes back before their answer: more is an attack (CVE-2023-44487).
const RESETS_PER_SECOND_MAX: u32 = 100;

/// Serves until either side ends the connection.
///
/// # Cancel safety
/// Dropping the future closes the stream; requests in it are dropped too.
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
    let service = service_fn(|mut request: Request<Incoming>| {
        let (handler, info) = (handler.clone(), info.clone());
        let (request_under_way, flow) = requests.begin();
        let bytes = future_bytes::<H>() + USUAL_BYTES.max(STATE_BYTES + head::bytes(&request));
        let Some(mut permit) = info.client.take(Resource::RequestBytes, bytes) else {
            // Nothing was done, so the client may send it again at once (RFC 9113 §8.7).
            request_under_way.answered();
            return Box::pin(ready(Err(h2::Error::from(Reason::REFUSED_STREAM)))) as Answering<H>;
        };
        head::detach(&mut request);
        // On the heap by itself: hyper keeps the place of this future, the handler's in it, until the client has taken
        // the last byte of the answer. The box is freed when there is an answer.
        Box::pin(async move {
            let unanswered = info.unanswered.begin();
            let mut response = handler.handle(&info, request).await;
            drop(unanswered);
            request_under_way.answered();
            response.body_mut().copy_out(&info.client);
            permit.shrink(ANSWER_BYTES);
            Ok(response.map(|body| Answer::new(body, flow, permit)))
        })
    });
    // No pings: an acknowledgement would have to wait until a slow client has read all that was sent before it, so a
    // time-out for it cuts the slow and not the dead. Whoever is gone is found by its answers, by the time-outs of
    // bodies, or by being idle.
    let mut connection = http2::Builder::new(streams.executor())
        .max_concurrent_streams(streams_max::<H>(client))
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(windows.stream_bytes)
        .initial_connection_window_size(windows.connection_bytes)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .serve_connection(
            Transport::new(stream, info.progress.clone(), info.loans.clone()),
            service,
        );

    let mut triggered = pin!(shutdown.triggered());
    let mut is_waiting = false;
    let mut life = Life::new(config, clock.monotonic());
    let progress = &*info.progress;
    poll_fn(|cx| {
        loop {
            let now = clock.monotonic();
            // Polled once, to leave this task's waker; from then on the flag is enough.
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
            if std::mem::take(&mut life.is_asked) {
                let queues = progress.take_answer();
                if let Some(why) = life.look(now, progress, queues) {
                    return Poll::Ready(Err(why));
                }
                let (resets, is_hopeless) = streams.look(life.line(now, progress, queues));
                counts.streams_stalled.add(resets);
                life.is_done |= is_hopeless;
                if resets > 0 || life.is_done && !life.is_closing() {
                    continue;
                }
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

/// An answer on its way; an error resets its stream.
type Answering<H> =
    Pin<Box<dyn Future<Output = Result<Response<Answer<<H as Handle>::Body>>, h2::Error>> + Send>>;

/// How many requests a connection that has just opened may have at a time: its even share of what its client and all
/// clients may hold.
fn streams_max<H: Handle>(client: &Client) -> u32 {
    let bytes = client.share(Resource::RequestBytes, Resource::Http2Connections);
    let streams = bytes / (future_bytes::<H>() + USUAL_BYTES);
    streams.clamp(STREAMS_MIN, STREAMS_MAX) as u32
}

/// The size of a handler's future.
fn future_bytes<H: Handle>() -> u64 {
    fn size_of_output<'a, H: 'a, F>(
        _: impl Fn(&'a H, &'a Arc<ConnectionInfo>, Request<Incoming>) -> F,
    ) -> u64 {
        size_of::<F>() as u64
    }
    size_of_output(H::handle)
}

/// How much a client may send ahead.
#[derive(Debug, Clone, Copy)]
struct Windows {
    stream_bytes: u32,
    connection_bytes: u32,
}

impl Windows {
    /// The usual ones, and the permit for them, as long as the sum of all allows it.
    fn of(client: &Arc<Client>) -> (Self, Option<Permit>) {
        let more = WINDOWS.connection_bytes - LEAST_WINDOWS.connection_bytes;
        match client.take(Resource::WindowBytes, more.into()) {
            Some(permit) => (WINDOWS, Some(permit)),
            None => (LEAST_WINDOWS, None),
        }
    }
}

/// What a connection's next deadline is, and what to do then. At each of them the kernel is asked first what the client
/// has acknowledged.
struct Life<'a> {
    config: &'a Config,
    /// No request is under way since then.
    idle_since: Option<Instant>,
    /// The client was told that no further request is taken.
    closing_since: Option<Instant>,
    /// It is to be told.
    is_done: bool,
    /// No request is under way, but the client has not acknowledged the answers.
    is_lagging: bool,
    /// The transport is to say what the kernel holds.
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

    /// When the connection has been idle for so long that it must end.
    fn end(&self) -> Option<Instant> {
        let idle = self.idle_since.filter(|_| !self.is_lagging)?;
        Some(match self.closing_since {
            // The client has to take note of the end, and then to close.
            Some(closing) => idle.max(closing) + self.config.header_timeout,
            None => idle + self.config.idle_timeout,
        })
    }

    /// The next moment to look.
    fn deadline(&self, progress: &Progress) -> Instant {
        let look = self.looked_at + self.stall.looks_every();
        match self.end() {
            Some(end) if progress.is_blocked() => end.min(look),
            Some(end) => end,
            None => look,
        }
    }

    /// Looks at the connection as a whole.
    fn look(&mut self, now: Instant, progress: &Progress, queues: Option<Queues>) -> Option<Cut> {
        self.looked_at = now;
        let unacked_bytes = queues.map_or(0, |queues| queues.unacked_bytes);
        let owes = progress.is_blocked() || unacked_bytes > 0;
        if !owes {
            self.stall.rest(now);
        } else {
            // Where the kernel does not say, a blocked write is cut after the time-out.
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
