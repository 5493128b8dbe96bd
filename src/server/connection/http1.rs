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
use tracing::debug;

use super::{
    Config, ConnectionInfo, Handle,
    cut::cut,
    linger::{has_unacked, linger},
};
use crate::{
    delivery::FileBody,
    metrics::{ConnectionCut as Cut, Connections},
    server::{
        deadlines::{Guard, HeadTimer, Progress, Step, Watchdog},
        shutdown::Shutdown,
        transport::{Stream, Transport},
    },
};

/// hyper panics below this.
const READ_BUFFER_BYTES_MIN: usize = 8 * 1024;

/// Serves until either side ends the connection.
///
/// # Cancel safety
/// Dropping the future closes the stream; a request in it is dropped too.
pub(super) async fn serve<S: Stream, H: Handle>(
    stream: S,
    handler: Arc<H>,
    info: &Arc<ConnectionInfo>,
    config: &Config,
    counts: &Connections,
    watchdog: Watchdog,
    shutdown: Shutdown,
) {
    let peer = info.peer;
    let (stream, is_lingering) =
        match speak(stream, handler, info, config, watchdog, shutdown).await {
            End::Done(stream) => {
                let is_lingering = info.linger.load(Ordering::Relaxed) || has_unacked(&stream);
                (stream, is_lingering)
            }
            End::Drained(stream) => {
                counts.cut(Cut::ExitIdle);
                (stream, false)
            }
            End::Refused(stream, error) => {
                debug!(%peer, %error, "malformed request refused");
                (stream, true)
            }
            End::Broken(error) => return debug!(%peer, %error, "connection broken"),
            End::Cut(stream, why) => {
                cut(info, config, counts, why);
                if why == Cut::WriteStall {
                    // What the peer does not take would stay in the kernel for many minutes: reset instead.
                    stream.reset_on_close();
                }
                (stream, false)
            }
        };
    if is_lingering && !linger(stream, config).await {
        cut(info, config, counts, Cut::WriteStall);
    }
}

/// How a connection ended. Where the stream is given back, its write side may be open still.
enum End<S> {
    /// As HTTP has it: after an answer, or between two requests.
    Done(S),
    /// Idle when the server stopped.
    Drained(S),
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
    watchdog: Watchdog,
    shutdown: Shutdown,
) -> End<S> {
    let service = service_fn(|request| {
        let (handler, info, shutdown) = (handler.clone(), info.clone(), shutdown.clone());
        async move {
            let unanswered = info.unanswered.begin();
            let mut response = handler.handle(&info, request).await;
            drop(unanswered);
            if S::SENDS_FILES {
                response.body_mut().lend_to(&info.loans);
            } else {
                response.body_mut().copy_out(&info.client);
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
            Transport::new(stream, progress.clone(), info.loans.clone()),
            service,
        );

    let mut guard = Guard::new(
        watchdog,
        progress,
        config.idle_timeout,
        config.write_stall_timeout,
    );
    let mut draining = pin!(shutdown.draining());
    let mut is_waiting = false;
    let mut drain = Drain::default();
    let outcome = poll_fn(|cx| {
        // Polled once, to leave this task's waker, which stays the same; from then on the flag is enough
        // and no connection takes the lock of the shared list of waiters at each of its wake-ups.
        if !is_waiting {
            is_waiting = true;
            let _ = draining.as_mut().poll(cx);
        }
        loop {
            // Not `poll_without_shutdown`: that one is done when all is buffered, this one when all is written
            // and the write side is shut down.
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Ok(result));
            }
            if shutdown.is_draining() {
                match drain.step(info, progress) {
                    DrainStep::Wait => {}
                    DrainStep::Ask => continue,
                    DrainStep::Close => {
                        Pin::new(&mut connection).graceful_shutdown();
                        continue;
                    }
                }
            }
            match guard.poll(cx, progress) {
                Step::Wait => return Poll::Pending,
                Step::Ask => {}
                Step::Cut(why) => return Poll::Ready(Err(why)),
            }
        }
    })
    .await;
    let is_drained = drain == Drain::ClosedIdle;
    match outcome {
        Ok(Ok(())) if is_drained => End::Drained(connection.into_parts().io.into_inner()),
        Ok(Ok(())) => End::Done(connection.into_parts().io.into_inner()),
        Ok(Err(error)) if error.is_parse() => {
            End::Refused(connection.into_parts().io.into_inner(), error)
        }
        Ok(Err(error)) => End::Broken(error),
        Err(why) => End::Cut(connection.into_parts().io.into_inner(), why),
    }
}

/// How far the end of a connection is that began when the server stopped.
///
/// hyper closes an idle connection at once when it is told to, and takes one for idle as long as no complete head
/// was parsed. A request of which something has come must not be lost to that: the client could not know what became
/// of it. So hyper is told only after a poll in which it has read what was there, and only where the kernel holds
/// nothing more.
#[derive(Debug, Default, PartialEq, Eq)]
enum Drain {
    /// Not decided.
    #[default]
    Open,
    /// The transport is to say what the kernel holds.
    Asked,
    /// hyper was told, and closes after the answer.
    Closing,
    /// hyper was told, and closes at once.
    ClosedIdle,
}

enum DrainStep {
    Wait,
    /// Poll hyper, so that the transport answers.
    Ask,
    /// Tell hyper to shut down, and poll it.
    Close,
}

impl Drain {
    /// To be called after a poll of hyper.
    fn step(&mut self, info: &ConnectionInfo, progress: &Progress) -> DrainStep {
        if matches!(self, Self::Closing | Self::ClosedIdle) {
            return DrainStep::Wait;
        }
        let was_asked = std::mem::take(self) == Self::Asked;
        if progress.is_busy() {
            info.set_linger();
            *self = Self::Closing;
            return DrainStep::Close;
        }
        // Its first bytes are there, but not its first request: it had a TLS handshake to do before.
        progress.expect_first_head();
        if !progress.is_idle() {
            // The head is timed. Its answer will be the last.
            info.set_linger();
            return DrainStep::Wait;
        }
        if !was_asked {
            progress.ask();
            *self = Self::Asked;
            return DrainStep::Ask;
        }
        let queues = progress.take_answer();
        if queues.is_some_and(|queues| queues.unread_bytes > 0) {
            // The runtime will wake the task for it.
            return DrainStep::Wait;
        }
        *self = Self::ClosedIdle;
        DrainStep::Close
    }
}
