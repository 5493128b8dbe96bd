//! HTTP/2 on one connection: hyper between a stream and a [`Handle`], with bounds for what one client may ask of it.
//!
//! What answers a stream is polled by the connection's own task: nothing outlives the connection, and one
//! connection is never more than one thread's work.

mod streams;

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::TokioTimer;
use tracing::debug;

use self::streams::Streams;
use super::{Config, ConnectionInfo, Handle};
use crate::{
    files::LendTo,
    server::{
        deadlines::{Cut, Watchdog},
        shutdown::Shutdown,
        transport::{Stream, Transport},
    },
    time::Clock,
};

/// Requests at a time (RFC 9113 §5.1.2 asks for 100 at least).
const STREAMS_MAX: u32 = 100;
/// Size of one request's fields, as RFC 9113 §6.5.2 counts them. A connection may have a hundred of them decoded at
/// once.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Bytes that a client may send before they are read, of one stream and of all.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// The smallest value that RFC 9113 §6.5.2 allows, and the one that clients use whatever is offered. h2 gathers up to
/// six frames of an unfinished header block for each connection.
const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// Bytes of one answer that wait for the client's window.
const SEND_BUFFER_BYTES_MAX: usize = 32 * 1024;
/// Streams that the client has reset and nobody has looked at yet.
const PENDING_RESETS_MAX: usize = 20;
/// Requests in one second that the client takes back before their answer: more is an attack (CVE-2023-44487).
const RESETS_PER_SECOND_MAX: u32 = 100;
/// A client that does not answer a ping for so long is gone.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves until either side ends the connection.
///
/// # Cancel safety
/// Dropping the future closes the stream; requests in it are dropped too.
pub(super) async fn serve<S: Stream, H: Handle>(
    stream: S,
    handler: Arc<H>,
    info: &Arc<ConnectionInfo>,
    config: &Config,
    mut watchdog: Watchdog,
    shutdown: Shutdown,
) {
    let clock = Clock::system();
    let mut streams = Streams::new(clock.clone(), config.write_stall_timeout);
    let requests = streams.requests();
    let service = service_fn(|request| {
        let (handler, info) = (handler.clone(), info.clone());
        let request_under_way = requests.begin();
        // On the heap by itself: hyper keeps the place of this future, 10 KB with a handler's in it, until the client
        // has taken the last byte of the answer. The box is freed when there is an answer.
        Box::pin(async move {
            let mut response = handler.handle(&info, request).await;
            request_under_way.answered();
            response.body_mut().copy_out();
            Ok::<_, Infallible>(response)
        })
    });
    let mut connection = http2::Builder::new(streams.executor())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .keep_alive_interval(config.idle_timeout / 3)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(
            Transport::new(stream, info.progress.clone(), info.lent.clone()),
            service,
        );

    let mut triggered = pin!(shutdown.triggered());
    let mut is_waiting = false;
    let mut life = Life::new(clock.monotonic());
    let outcome = poll_fn(|cx| {
        loop {
            let now = clock.monotonic();
            // Polled once, to leave this task's waker; from then on the flag is enough.
            let is_told = !is_waiting && triggered.as_mut().poll(cx).is_ready();
            is_waiting = true;
            if !life.is_closing()
                && (is_told || shutdown.is_triggered() || life.is_idle(now, config))
            {
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
            life.look(now, streams.is_empty());
            let (at, cut) = life.deadline(config, info.progress.deadline());
            if watchdog.poll_passed(cx, Some(at)).is_pending() {
                return Poll::Pending;
            }
            if let Some(cut) = cut {
                return Poll::Ready(Err(cut));
            }
            life.looked_at_stalls(at);
            streams.reset_stalled(at);
        }
    })
    .await;
    let peer = info.peer;
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%peer, %error, "connection broken"),
        Err(cut) => debug!(%peer, ?cut, "connection cut"),
    }
}

/// Which deadline a connection has next.
struct Life {
    /// No request is under way since then.
    idle_since: Option<Instant>,
    /// The client was told that no further request is taken.
    closing_since: Option<Instant>,
    /// When to look for answers that the client does not take.
    stalls_at: Instant,
}

impl Life {
    fn new(now: Instant) -> Self {
        Self {
            idle_since: Some(now),
            closing_since: None,
            stalls_at: now,
        }
    }

    fn is_closing(&self) -> bool {
        self.closing_since.is_some()
    }

    fn is_idle(&self, now: Instant, config: &Config) -> bool {
        self.idle_since
            .is_some_and(|since| now >= since + config.idle_timeout)
    }

    fn close(&mut self, now: Instant) {
        self.closing_since = Some(now);
    }

    fn look(&mut self, now: Instant, is_idle: bool) {
        match is_idle {
            true => self.idle_since = self.idle_since.or(Some(now)),
            false => self.idle_since = None,
        }
    }

    /// The next moment to act, and how: with a cut, or by looking again at what is idle or stalled.
    fn deadline(&self, config: &Config, write: Option<(Instant, Cut)>) -> (Instant, Option<Cut>) {
        let own = match (self.idle_since, self.closing_since) {
            // The client has to take note of the end, and then to close.
            (Some(idle), Some(closing)) => {
                (idle.max(closing) + config.header_timeout, Some(Cut::Idle))
            }
            (Some(idle), None) => (idle + config.idle_timeout, None),
            (None, _) => (self.stalls_at + config.write_stall_timeout / 4, None),
        };
        match write {
            Some((at, cut)) if at < own.0 => (at, Some(cut)),
            _ => own,
        }
    }

    fn looked_at_stalls(&mut self, now: Instant) {
        self.stalls_at = self.stalls_at.max(now);
    }
}
