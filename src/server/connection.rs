//! One connection: hyper's HTTP/1 between a socket and a [`Handle`], and its end.
//!
//! It knows no route and no dialect. Malformed heads are hyper's to refuse (400, 414, 431, without a body).
//! How long a request's body may take is the handler's to bound; the rest of the time-outs are here.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tracing::debug;

use super::{
    deadlines::{Cut, HeadTimer, Progress, Watchdog},
    shutdown::Shutdown,
    transport::Transport,
};
use crate::{
    files::{LendTo, Lent},
    time::Clock,
};

/// hyper panics below this.
const READ_BUFFER_BYTES_MIN: usize = 8 * 1024;
/// What is read and thrown away at once while lingering.
const DISCARD_BYTES: usize = 16 * 1024;

/// The bounds of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// From the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// Without a request: after the last answer, or after connecting. Above a load balancer's (75 s at
    /// most in common ones), or it sends a request into a connection that is being closed.
    pub idle_timeout: Duration,
    /// With an answer to send and no byte of it taken by the peer.
    pub write_stall_timeout: Duration,
    /// For reading on, without looking, after an answer that came before the end of the request.
    pub linger_timeout: Duration,
    /// The same in bytes.
    pub linger_bytes_max: u64,
    /// hyper's read buffer, and so the longest head (431 above it); at least 8 KiB. The part of an answer
    /// that hyper holds before it waits for the socket is bounded by the same number and one chunk.
    pub read_buffer_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(90),
            write_stall_timeout: Duration::from_secs(30),
            linger_timeout: Duration::from_secs(5),
            linger_bytes_max: 64 * 1024 * 1024,
            read_buffer_bytes_max: 64 * 1024,
        }
    }
}

/// What answers requests.
pub trait Handle: Send + Sync + 'static {
    /// The body of an answer. An error of it ends the connection where it stands, so that the client sees a
    /// truncated answer and not a wrong one.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + LendTo
        + Send
        + 'static;

    /// Answers one request. If it answers without having read the whole body, it calls
    /// [`ConnectionInfo::set_linger`] first.
    ///
    /// The future is dropped, at whatever `await` it stands, when the connection breaks or the grace of a
    /// shutdown has passed. A panic ends this connection alone.
    fn handle(
        &self,
        connection: &Arc<ConnectionInfo>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// What is known of a connection, shared by its requests.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// The other end of the socket: the client, or the proxy before it.
    pub peer: SocketAddr,
    linger: AtomicBool,
    progress: Arc<Progress>,
    lent: Arc<Lent>,
}

impl ConnectionInfo {
    /// Says that the answer to come leaves some of the request's body unread. The answer then carries
    /// `Connection: close` (RFC 9112 §9.6), and after it the rest is read and discarded within
    /// [`Config::linger_timeout`] and [`Config::linger_bytes_max`]: closing a socket with unread bytes
    /// resets it, and a client that writes all before it reads would lose the answer.
    pub fn set_linger(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    /// Bytes received on this connection so far, heads included.
    pub fn received_bytes(&self) -> u64 {
        self.progress.received_bytes()
    }

    /// Bytes that the socket took so far, heads included.
    pub fn sent_bytes(&self) -> u64 {
        self.progress.sent_bytes()
    }
}

/// Serves one connection until either side ends it.
///
/// # Cancel safety
/// Dropping the future closes the socket; a request in it is dropped too.
pub(super) async fn run<H: Handle>(
    stream: TcpStream,
    peer: SocketAddr,
    handler: Arc<H>,
    config: Arc<Config>,
    shutdown: Shutdown,
) {
    // Only the monotonic reading is used, which is the same for every Clock.
    let clock = Clock::system();
    let idle_deadline = clock.monotonic() + config.idle_timeout;
    let mut watchdog = Watchdog::new(idle_deadline);
    // A client that connects early, or never speaks, costs its socket and this small future: what hyper
    // needs is made at the first byte, and boxed so that it is not part of this future's size.
    let mut first = [0];
    let spoke = tokio::select! {
        biased;
        () = shutdown.triggered() => false,
        // Not `readable()`, which a new socket may answer without a byte being there: hyper was then built for
        // every connection, and 10,000 that never spoke cost 192 MB.
        peeked = stream.peek(&mut first) => peeked.is_ok_and(|bytes| bytes > 0),
        () = poll_fn(|cx| watchdog.poll_passed(cx, Some(idle_deadline))) => false,
    };
    if !spoke {
        return;
    }
    let progress = Arc::new(Progress::new(
        clock,
        config.header_timeout,
        config.write_stall_timeout,
    ));
    let info = Arc::new(ConnectionInfo {
        peer,
        linger: AtomicBool::new(false),
        progress,
        lent: Arc::default(),
    });
    let end = Box::pin(speak(stream, handler, &info, &config, watchdog, shutdown)).await;
    match end {
        End::Done(stream) if info.linger.load(Ordering::Relaxed) => linger(stream, &config).await,
        End::Done(_) => {}
        End::Refused(stream, error) => {
            debug!(%peer, %error, "malformed request refused");
            linger(stream, &config).await;
        }
        End::Broken(error) => debug!(%peer, %error, "connection broken"),
        End::Cut(stream, cut) => {
            debug!(%peer, ?cut, "connection cut");
            if cut == Cut::WriteStall {
                // What the peer does not take would stay in the kernel for many minutes: reset instead.
                let _ = stream.set_zero_linger();
            }
        }
    }
}

/// How a connection ended. Where the stream is given back, its write side may be open still.
enum End {
    /// As HTTP has it: after an answer, or between two requests.
    Done(TcpStream),
    /// hyper answered a malformed head.
    Refused(TcpStream, hyper::Error),
    /// The peer went away in the middle, or an answer's body failed.
    Broken(hyper::Error),
    /// Out of time.
    Cut(TcpStream, Cut),
}

async fn speak<H: Handle>(
    stream: TcpStream,
    handler: Arc<H>,
    info: &Arc<ConnectionInfo>,
    config: &Config,
    mut watchdog: Watchdog,
    shutdown: Shutdown,
) -> End {
    let service = service_fn(|request| {
        let (handler, info) = (handler.clone(), info.clone());
        async move {
            let mut response = handler.handle(&info, request).await;
            response.body_mut().lend_to(&info.lent);
            if info.linger.load(Ordering::Relaxed) {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let progress = &info.progress;
    let mut connection = http1::Builder::new()
        .timer(HeadTimer(progress.clone()))
        .header_read_timeout(config.idle_timeout)
        .keep_alive(true)
        // A client may shut its write side down after the request and still wants the answer. The price: a
        // client that is gone is noticed only when the answer is written.
        .half_close(true)
        .max_buf_size(config.read_buffer_bytes_max.max(READ_BUFFER_BYTES_MIN))
        .pipeline_flush(false)
        // `max_headers` stays at hyper's own 100: setting it moves the headers from the stack to the heap.
        .serve_connection(
            Transport::new(stream, progress.clone(), info.lent.clone()),
            service,
        );

    let mut triggered = pin!(shutdown.triggered());
    let (mut waiting, mut draining) = (false, false);
    let outcome = poll_fn(|cx| {
        if !draining {
            // Polled once, to leave this task's waker, which stays the same; from then on the flag is enough
            // and no connection takes the lock of the shared list of waiters at each of its wake-ups.
            let ready = !waiting && triggered.as_mut().poll(cx).is_ready();
            waiting = true;
            if ready || shutdown.is_triggered() {
                draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
        // Not `poll_without_shutdown`: that one is done when all is buffered, this one when all is written
        // and the write side is shut down.
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Ok(result));
        }
        let deadline = progress.deadline();
        match (
            watchdog.poll_passed(cx, deadline.map(|(at, _)| at)),
            deadline,
        ) {
            (Poll::Ready(()), Some((_, cut))) => Poll::Ready(Err(cut)),
            _ => Poll::Pending,
        }
    })
    .await;
    match outcome {
        Ok(Ok(())) => End::Done(connection.into_parts().io.into_inner()),
        Ok(Err(error)) if error.is_parse() => {
            End::Refused(connection.into_parts().io.into_inner(), error)
        }
        Ok(Err(error)) => End::Broken(error),
        Err(cut) => End::Cut(connection.into_parts().io.into_inner(), cut),
    }
}

/// Half-closes, then reads and discards until the client closes too or the bounds are reached.
async fn linger(mut stream: TcpStream, config: &Config) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut left_bytes = config.linger_bytes_max;
    let mut buffer = vec![0; DISCARD_BYTES];
    let discard = async {
        while left_bytes > 0 {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => left_bytes = left_bytes.saturating_sub(read as u64),
            }
        }
    };
    // Either way the socket is closed now.
    let _ = tokio::time::timeout(config.linger_timeout, discard).await;
}

#[cfg(test)]
mod tests;
