//! Serves HTTP/1 on one connection: runs hyper between a stream and a [`Handle`], and ends the connection.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use hyper::{
    Request, Response,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use tracing::debug;

use super::{
    Config, ConnectionInfo, Handle, Session,
    cut::cut,
    linger::{has_unacked, linger},
};
use crate::{
    delivery::FileBody,
    metrics::ConnectionCut as Cut,
    server::{
        deadlines::{Guard, HeadTimer, Progress, Step, Watchdog},
        shutdown::Shutdown,
        transport::{Stream, Transport},
    },
};

/// hyper panics with a smaller buffer.
const READ_BUFFER_BYTES_MIN: usize = 8 * 1024;

/// Serves requests until either side ends the connection.
///
/// # Cancel safety
/// Dropping the future closes the stream and drops the request in progress.
pub(super) async fn serve<S: Stream, H: Handle>(
    stream: S,
    watchdog: Watchdog,
    session: Session<H>,
) {
    let (stream, end) = speak(stream, watchdog, &session).await;
    let Session {
        info,
        config,
        counts,
        ..
    } = &session;
    let peer = info.peer;
    let is_lingering = match end {
        End::Done => info.linger.load(Ordering::Relaxed) || has_unacked(&stream),
        End::Drained => {
            counts.cut(Cut::ExitIdle);
            false
        }
        End::Failed(error) if error.is_parse() => {
            debug!(%peer, %error, "malformed request refused");
            true
        }
        End::Failed(error) => return debug!(%peer, %error, "connection broken"),
        End::Cut(why) => {
            cut(info, config, counts, why);
            if why == Cut::WriteStall {
                // Otherwise the kernel would keep the unacknowledged data for many minutes.
                stream.socket().reset_on_close();
            }
            false
        }
    };
    if is_lingering && !linger(stream, config).await {
        cut(info, config, counts, Cut::WriteStall);
    }
}

/// How a connection ended.
enum End {
    /// Regularly: after a response, or between two requests.
    Done,
    /// Closed while idle, because the server is stopping.
    Drained,
    /// hyper has answered a malformed head, the peer closed the connection during a request, or the body of a response
    /// failed.
    Failed(hyper::Error),
    /// The server ends it, for example because of a timeout.
    Cut(Cut),
}

/// Runs hyper until the connection ends.
async fn speak<S: Stream, H: Handle>(
    stream: S,
    watchdog: Watchdog,
    session: &Session<H>,
) -> (S, End) {
    let (info, config) = (&session.info, &session.config);
    let progress = &info.progress;
    let on_read = |bytes: &[u8]| progress.received(bytes.len());
    let transport = Transport::new(stream, progress, &info.loans, on_read);
    let service =
        service_fn(async |request| Ok::<_, Infallible>(answer::<S, H>(session, request).await));
    let mut connection = builder(config, progress).serve_connection(transport, service);
    let (idle_timeout, stall_timeout) = (config.idle_timeout, config.write_stall_timeout);
    let mut guard = Guard::new(watchdog, progress, idle_timeout, stall_timeout);
    // Registers this task's waker, which does not change. Afterwards the flag is enough, and the connection does not take
    // the lock of the shared list of waiters at each wake-up.
    let mut draining = pin!(session.shutdown.draining());
    poll_fn(|cx| Poll::Ready(draining.as_mut().poll(cx).is_ready())).await;
    let mut drain = Drain::default();
    let end = poll_fn(|cx| {
        loop {
            // Not `poll_without_shutdown`, which is ready when everything is buffered. This one is ready when everything
            // is written and the write side is shut down.
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(result.map_or_else(End::Failed, |()| drain.end()));
            }
            let step = drain.step(info, &session.shutdown);
            match step.or_else(|| guard.poll(cx, progress)) {
                Step::Wait => return Poll::Pending,
                Step::Ask => {}
                Step::Close => Pin::new(&mut connection).graceful_shutdown(),
                Step::Cut(why) => return Poll::Ready(End::Cut(why)),
            }
        }
    })
    .await;
    (connection.into_parts().io.into_inner(), end)
}

/// hyper's settings. `max_headers` keeps hyper's default of 100: setting it moves the headers from the stack to the heap.
fn builder(config: &Config, progress: &Arc<Progress>) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(HeadTimer(progress.clone()))
        .header_read_timeout(config.idle_timeout)
        .keep_alive(true)
        // A client may shut down its write side after the request and still wait for the response. The cost: a client
        // that is gone is noticed only when the response is written.
        .half_close(true)
        .max_buf_size(config.read_buffer_bytes_max.max(READ_BUFFER_BYTES_MIN))
        .pipeline_flush(false);
    builder
}

/// Answers one request, and decides whether it is the last one.
async fn answer<S: Stream, H: Handle>(
    session: &Session<H>,
    request: Request<Incoming>,
) -> Response<H::Body> {
    let info = &session.info;
    let unanswered = info.unanswered.begin();
    let mut response = session.handler.handle(info, request).await;
    drop(unanswered);
    if S::SENDS_FILES {
        response.body_mut().lend_to(&info.loans);
    } else {
        response.body_mut().copy_out(&info.client);
    }
    if session.shutdown.is_triggered() {
        info.set_linger();
    }
    // The connection discards what the client sends after its last response.
    if info.linger.load(Ordering::Relaxed) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

/// The state of a graceful shutdown of this connection.
///
/// When hyper is told to shut down, it closes an idle connection immediately, and it regards a connection as idle until
/// a complete head was parsed. A request that has partly arrived must not be lost, because its client could not know
/// whether it was processed. So hyper is told only after a poll in which it has read all available data, and only if
/// the kernel holds no more.
#[derive(Debug, Default, PartialEq, Eq)]
enum Drain {
    /// Not decided yet.
    #[default]
    Open,
    /// The transport was asked for the state of the kernel's queues.
    Asked,
    /// hyper was told, and closes after the current response.
    Closing,
    /// hyper was told, and closes immediately.
    ClosedIdle,
}

impl Drain {
    /// How a connection has ended that hyper closed.
    fn end(&self) -> End {
        match self {
            Self::ClosedIdle => End::Drained,
            Self::Open | Self::Asked | Self::Closing => End::Done,
        }
    }

    /// Advances the state. Must be called after a poll of hyper.
    fn step(&mut self, info: &ConnectionInfo, shutdown: &Shutdown) -> Step {
        let progress = &info.progress;
        if !shutdown.is_draining() || matches!(self, Self::Closing | Self::ClosedIdle) {
            return Step::Wait;
        }
        let was_asked = std::mem::take(self) == Self::Asked;
        if progress.is_busy() {
            info.set_linger();
            *self = Self::Closing;
            return Step::Close;
        }
        // The client has begun to speak, but the TLS handshake came first, so its first request is still to come.
        progress.expect_first_head();
        if !progress.is_idle() {
            // The head has a timeout. Its response will be the last one.
            info.set_linger();
            return Step::Wait;
        }
        if !was_asked {
            progress.ask();
            *self = Self::Asked;
            return Step::Ask;
        }
        let queues = progress.take_answer();
        if queues.is_some_and(|queues| queues.unread_bytes > 0) {
            // The runtime will wake this task for the data.
            return Step::Wait;
        }
        *self = Self::ClosedIdle;
        Step::Close
    }
}
