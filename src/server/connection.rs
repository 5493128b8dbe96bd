//! One connection: what comes before HTTP (a PROXY header, TLS), and which HTTP it is.
//!
//! It knows no route and no dialect. Malformed heads are hyper's to refuse (400, 414, 431, without a body).
//! How long a request's body may take is the handler's to bound; the rest of the time-outs are here.

mod cut;
mod http1;
mod http2;
mod linger;

use std::{
    future::{Future, poll_fn},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Request, Response,
    body::{Body, Incoming},
};
use ipnet::IpNet;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use self::cut::{Counted, ExitCount, Unanswered};
use super::{
    deadlines::{Progress, Watchdog},
    proxy_protocol::{self, Parsed},
    shutdown::Shutdown,
    socket::Socket,
    tls::{self, Tls},
};
use crate::{
    files::{LendTo, Lent},
    limit::{
        Client, Clients,
        clients::{Permit, Resource},
    },
    metrics::{ConnectionCut, ConnectionRefusal, Connections},
    time::Clock,
};

/// The bounds of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// From the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// Without a request: after the last answer, or after connecting. Above a load balancer's (75 s at
    /// most in common ones), or it sends a request into a connection that is being closed.
    pub idle_timeout: Duration,
    /// How long the client may acknowledge nothing of an answer that was sent to it. Twelve times as long where
    /// its receive window is closed and it has taken much before (`stall.rs`).
    pub write_stall_timeout: Duration,
    /// For reading on, without looking, after an answer that came before the end of the request; from the moment
    /// when the client has acknowledged the answer.
    pub linger_timeout: Duration,
    /// The same in bytes.
    pub linger_bytes_max: u64,
    /// hyper's read buffer for HTTP/1, and so the longest head (431 above it); at least 8 KiB. The part of an answer
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
        + Unpin
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
    /// The other end of the connection: the client, or the proxy before it. What a PROXY header said, where
    /// there was one.
    pub peer: SocketAddr,
    /// The other end is a process of this machine that was let in by a socket file's permissions, and speaks for
    /// its clients by a forwarding header.
    pub is_local: bool,
    /// The client speaks TLS with us.
    pub is_tls: bool,
    linger: AtomicBool,
    /// Requests that the handler works on.
    unanswered: Unanswered,
    /// Open streams of an HTTP/2 connection; `None` for HTTP/1.
    streams: Option<AtomicUsize>,
    progress: Arc<Progress>,
    lent: Arc<Lent>,
    /// Whose connection it is, and what it may hold: the proxy's, where one is in front.
    client: Arc<Client>,
}

impl ConnectionInfo {
    /// Says that more may come after the request than is read: the rest of its body, or, of a server that stops, a
    /// further request. The answer then carries
    /// `Connection: close` (RFC 9112 §9.6), and after it the rest is read and discarded within
    /// [`Config::linger_timeout`] and [`Config::linger_bytes_max`]: closing a socket with unread bytes
    /// resets it, and a client that writes all before it reads would lose the answer.
    pub fn set_linger(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    /// An answer is on its way.
    fn is_answering(&self) -> bool {
        match &self.streams {
            Some(open) => open.load(Ordering::Relaxed) > 0,
            None => self.progress.is_busy(),
        }
    }
}

/// What is spoken on a listener's connections before HTTP.
#[derive(Clone, Default)]
pub struct Entry {
    /// A PROXY header, believed from these networks; the connections of others are closed.
    pub proxies: Option<Arc<[IpNet]>>,
    /// TLS.
    pub tls: Option<Tls>,
    /// How many connections a client may have, and what they may hold.
    pub clients: Arc<Clients>,
    /// Where it is counted what was closed before HTTP.
    pub counts: Arc<Connections>,
}

impl Entry {
    /// A permit for a connection; none, which is counted, where its client has too many. A peer without an address is
    /// a process of this machine, and exempt.
    fn permit(&self, peer: Option<SocketAddr>) -> Option<Permit> {
        let client = match peer {
            Some(peer) => self.clients.client(peer.ip()),
            None => self.clients.exempt_client(),
        };
        let permit = client.take(Resource::Connections, 1);
        if permit.is_none() {
            self.counts.refuse(ConnectionRefusal::Address);
            debug!(?peer, "connection closed: its address has too many");
        }
        permit
    }
}

/// The first bytes of HTTP/2 without TLS, where the client knows beforehand (RFC 9113 §3.3, §3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves one connection until either side ends it. A peer without an address came over a socket file.
///
/// # Cancel safety
/// Dropping the future closes the socket; a request in it is dropped too.
pub(super) async fn run<H: Handle>(
    socket: Socket,
    peer: Option<SocketAddr>,
    entry: Arc<Entry>,
    handler: Arc<H>,
    config: Arc<Config>,
    shutdown: Shutdown,
) {
    let is_by_file = peer.is_none();
    // Who comes behind a PROXY header is not the proxy: a forwarding header is then the client's own.
    let is_local = is_by_file && entry.proxies.is_none();
    let mut permit = None;
    // Behind a proxy it is the client's address that counts, which is not known yet.
    if entry.proxies.is_none() {
        permit = entry.permit(peer);
        if permit.is_none() {
            return;
        }
    }
    let mut peer = peer.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    // Only the monotonic reading is used, which is the same for every Clock.
    let clock = Clock::system();
    let idle_deadline = clock.monotonic() + config.idle_timeout;
    let mut watchdog = Watchdog::new(idle_deadline);
    // A client that connects early, or never speaks, costs its socket and this small future: what hyper
    // needs is made at the first byte, and boxed so that it is not part of this future's size.
    let mut first = [0; HTTP2_PREFACE.len()];
    let mut is_draining = false;
    let spoke = loop {
        tokio::select! {
            biased;
            // Not `readable()`, which a new socket may answer without a byte being there: hyper was then built for
            // every connection, and 10,000 that never spoke cost 192 MB.
            peeked = socket.peek(&mut first) => break peeked.unwrap_or(0),
            () = shutdown.draining(), if !is_draining => {
                is_draining = true;
                // A request may be there of which the runtime has not told us yet. It is answered.
                if !socket.queues().is_ok_and(|queues| queues.unread_bytes > 0) {
                    entry.counts.cut(ConnectionCut::ExitIdle);
                    break 0;
                }
            }
            () = poll_fn(|cx| watchdog.poll_passed(cx, Some(idle_deadline))) => {
                entry.counts.cut(ConnectionCut::Idle);
                break 0;
            }
        }
    };
    if spoke == 0 {
        return;
    }
    let is_plain = entry.proxies.is_none() && entry.tls.is_none();
    let spoken = if is_plain && !HTTP2_PREFACE.starts_with(&first[..spoke]) {
        // As nearly all are: no timer, no further future.
        Spoken {
            is_http2: false,
            over: Over::Socket(socket),
        }
    } else {
        let mut step = None;
        let open = Box::pin(open(socket, &mut peer, &mut step, is_by_file, &entry));
        let opened = tokio::time::timeout(config.header_timeout, open).await;
        match opened.unwrap_or_else(|_| Err("out of time".into())) {
            Ok(spoken) => spoken,
            Err(why) => {
                if let Some(step) = step {
                    entry.counts.refuse(step);
                }
                return debug!(%peer, why, "connection closed before HTTP");
            }
        }
    };
    let Some(permit) = permit.or_else(|| entry.permit(Some(peer))) else {
        return;
    };
    let progress = Arc::new(Progress::new(clock, config.header_timeout));
    let info = Arc::new(ConnectionInfo {
        peer,
        is_local,
        is_tls: matches!(spoken.over, Over::Tls(_)),
        linger: AtomicBool::new(false),
        unanswered: Unanswered::default(),
        streams: spoken.is_http2.then(AtomicUsize::default),
        progress,
        lent: Arc::default(),
        client: permit.client().clone(),
    });
    let exit = ExitCount::new(info.clone(), entry.counts.clone(), shutdown.clone());
    let (handler, info, config, counts) = (handler, &info, &*config, &*entry.counts);
    // Boxed one by one, so that this future is not as large as the largest of them.
    match (spoken.over, spoken.is_http2) {
        (Over::Socket(socket), false) => {
            let work = http1::serve(socket, handler, info, config, counts, watchdog, shutdown);
            Counted {
                exit,
                work: Box::pin(work),
            }
            .await;
        }
        (Over::Socket(socket), true) => {
            let work = http2::serve(socket, handler, info, config, counts, watchdog, shutdown);
            Counted {
                exit,
                work: Box::pin(work),
            }
            .await;
        }
        (Over::Tls(stream), false) => {
            let work = http1::serve(*stream, handler, info, config, counts, watchdog, shutdown);
            Counted {
                exit,
                work: Box::pin(work),
            }
            .await;
        }
        (Over::Tls(stream), true) => {
            let work = http2::serve(*stream, handler, info, config, counts, watchdog, shutdown);
            Counted {
                exit,
                work: Box::pin(work),
            }
            .await;
        }
    }
}

/// What is spoken, once that is known.
struct Spoken {
    is_http2: bool,
    over: Over,
}

enum Over {
    Socket(Socket),
    Tls(Box<TlsStream<Socket>>),
}

/// All that comes before HTTP. The caller bounds the time; `step` says what a connection that ends here is refused
/// for, where that is counted.
async fn open(
    mut socket: Socket,
    peer: &mut SocketAddr,
    step: &mut Option<ConnectionRefusal>,
    is_by_file: bool,
    entry: &Entry,
) -> Result<Spoken, String> {
    if let Some(proxies) = &entry.proxies {
        *step = Some(ConnectionRefusal::Proxy);
        let address = peer.ip().to_canonical();
        if !is_by_file && !proxies.iter().any(|net| net.contains(&address)) {
            return Err("a PROXY header is taken from trusted networks only".into());
        }
        let client = read_proxy_header(&mut socket).await?;
        *peer = client.unwrap_or(*peer);
    }
    *step = entry.tls.as_ref().map(|_| ConnectionRefusal::Tls);
    match &entry.tls {
        Some(tls) => {
            let stream = tls
                .accept(socket)
                .await
                .map_err(|error| error.to_string())?;
            Ok(Spoken {
                is_http2: tls::is_http2(&stream),
                over: Over::Tls(Box::new(stream)),
            })
        }
        None => Ok(Spoken {
            is_http2: has_preface(&mut socket)
                .await
                .map_err(|error| error.to_string())?,
            over: Over::Socket(socket),
        }),
    }
}

async fn read_proxy_header(socket: &mut Socket) -> Result<Option<SocketAddr>, String> {
    loop {
        let ahead = socket.read_ahead(proxy_protocol::HEADER_BYTES_MAX).await;
        let ahead = ahead.map_err(|error| error.to_string())?;
        let bytes = ahead.ok_or("it ended in its PROXY header")?;
        if let Parsed::Header(len, client) = proxy_protocol::parse(bytes)? {
            socket.consume(len);
            return Ok(client);
        }
    }
}

/// Whether HTTP/2 is spoken; one byte may be enough to see that it is not.
async fn has_preface(socket: &mut Socket) -> io::Result<bool> {
    let mut first = [0; HTTP2_PREFACE.len()];
    loop {
        let len = socket.peek(&mut first).await?;
        if len == 0 || !HTTP2_PREFACE.starts_with(&first[..len]) {
            return Ok(false);
        }
        if len == first.len() {
            return Ok(true);
        }
        // Some of it: to peek again would not wait.
        if socket.read_ahead(first.len() - len).await?.is_none() {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests;
