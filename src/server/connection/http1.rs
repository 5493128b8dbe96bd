//! HTTP/1 on one connection: hyper between a stream and a [`Handle`], and what is left to do after it.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use hyper::{
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::debug;

use super::{Config, ConnectionInfo, Handle};
use crate::{
    files::LendTo,
    server::{
        deadlines::{Cut, HeadTimer, Watchdog},
        shutdown::Shutdown,
        transport::{Stream, Transport},
    },
};

/// hyper panics below this.
const READ_BUFFER_BYTES_MIN: usize = 8 * 1024;
/// What is read and thrown away at once while lingering.
const DISCARD_BYTES: usize = 16 * 1024;

/// Serves until either side ends the connection.
///
/// # Cancel safety
/// Dropping the future closes the stream; a request in it is dropped too.
pub(super) async fn serve<S: Stream, H: Handle>(
    stream: S,
    handler: Arc<H>,
    info: &Arc<ConnectionInfo>,
    config: &Config,
    watchdog: Watchdog,
    shutdown: Shutdown,
) {
    let peer = info.peer;
    match speak(stream, handler, info, config, watchdog, shutdown).await {
        End::Done(stream) if info.linger.load(Ordering::Relaxed) => linger(stream, config).await,
        End::Done(_) => {}
        End::Refused(stream, error) => {
            debug!(%peer, %error, "malformed request refused");
            linger(stream, config).await;
        }
        End::Broken(error) => debug!(%peer, %error, "connection broken"),
        End::Cut(stream, cut) => {
            debug!(%peer, ?cut, "connection cut");
            if cut == Cut::WriteStall {
                // What the peer does not take would stay in the kernel for many minutes: reset instead.
                stream.reset_on_close();
            }
        }
    }
}

/// How a connection ended. Where the stream is given back, its write side may be open still.
enum End<S> {
    /// As HTTP has it: after an answer, or between two requests.
    Done(S),
    /// hyper answered a malformed head.
    Refused(S, hyper::Error),
    /// The peer went away in the middle, or an answer's body failed.
    Broken(hyper::Error),
    /// Out of time.
    Cut(S, Cut),
}

async fn speak<S: Stream, H: Handle>(
    stream: S,
    handler: Arc<H>,
    info: &Arc<ConnectionInfo>,
    config: &Config,
    mut watchdog: Watchdog,
    shutdown: Shutdown,
) -> End<S> {
    let service = service_fn(|request| {
        let (handler, info, shutdown) = (handler.clone(), info.clone(), shutdown.clone());
        async move {
            let mut response = handler.handle(&info, request).await;
            if S::SENDS_FILES {
                response.body_mut().lend_to(&info.lent);
            } else {
                response.body_mut().copy_out();
            }
            if shutdown.is_triggered() {
                info.set_linger();
            }
            // The last one on this connection: whatever comes after it will be discarded.
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

    let mut draining = pin!(shutdown.draining());
    let (mut waiting, mut is_draining) = (false, false);
    let outcome = poll_fn(|cx| {
        if !is_draining {
            // Polled once, to leave this task's waker, which stays the same; from then on the flag is enough
            // and no connection takes the lock of the shared list of waiters at each of its wake-ups.
            let ready = !waiting && draining.as_mut().poll(cx).is_ready();
            waiting = true;
            if ready || shutdown.is_draining() {
                is_draining = true;
                if progress.is_busy() {
                    info.set_linger();
                }
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
async fn linger<S: Stream>(mut stream: S, config: &Config) {
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
