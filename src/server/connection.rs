//! One connection: what comes before HTTP (a PROXY header, TLS), and which HTTP it is.
//!
//! It knows no route and no dialect. Malformed heads are hyper's to refuse (400, 414, 431, without a body).
//! How long a request's body may take is the handler's to bound; the rest of the time-outs are here.

mod cut;
mod http1;
mod http2;
mod linger;
mod silence;

use std::{
    future::Future,
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
use serde::Deserialize;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use self::{
    cut::{Counted, ExitCount, Unanswered},
    silence::Silence,
};
use super::{
    deadlines::Progress,
    proxy_protocol::{self, Parsed},
    shutdown::Shutdown,
    socket::Socket,
    tls::{self, Tls},
};
use crate::{
    delivery::{FileBody, Loans},
    limit::{
        Client, ClientLimiter,
        clients::{Permit, Resource},
    },
    metrics::{ConnectionRefusal, Connections},
    settings::seconds,
    time::Clock,
};

/// The bounds of one connection, from `[server]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// From the first byte of a request to the end of its head.
    #[serde(rename = "header_timeout_seconds", deserialize_with = "seconds")]
    pub header_timeout: Duration,
    /// Without a request: after the last answer, or after connecting. Above a load balancer's (75 s at
    /// most in common ones), or it sends a request into a connection that is being closed.
    #[serde(rename = "idle_timeout_seconds", deserialize_with = "seconds")]
    pub idle_timeout: Duration,
    /// How long the client may acknowledge nothing of an answer that was sent to it. Twelve times as long where
    /// its receive window is closed and it has taken much before (`stall.rs`).
    #[serde(rename = "write_stall_timeout_seconds", deserialize_with = "seconds")]
    pub write_stall_timeout: Duration,
    /// For reading on, without looking, after an answer that came before the end of the request; from the moment
    /// when the client has acknowledged the answer.
    #[serde(skip)]
    pub linger_timeout: Duration,
    /// The same in bytes.
    #[serde(skip)]
    pub linger_bytes_max: u64,
    /// hyper's read buffer for HTTP/1, and so the longest head (431 above it); at least 8 KiB. The part of an answer
    /// that hyper holds before it waits for the socket is bounded by the same number and one chunk.
    #[serde(skip)]
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
        + FileBody
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
    loans: Arc<Loans>,
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
    pub clients: Arc<ClientLimiter>,
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
    mut socket: Socket,
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
    match (&entry.proxies, peer) {
        // Refused before it is waited for: nothing bounds how many connections it has here.
        (Some(proxies), Some(peer)) if !is_trusted(proxies, peer) => {
            entry.counts.refuse(ConnectionRefusal::Proxy);
            return debug!(%peer, "connection closed: a PROXY header is taken from trusted networks only");
        }
        // The client's address is the one that counts, and is not known yet.
        (Some(_), _) => {}
        (None, peer) => {
            permit = entry.permit(peer);
            if permit.is_none() {
                return;
            }
        }
    }
    let mut peer = peer.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    // Only the monotonic reading is used, which is the same for every Clock.
    let clock = Clock::system();
    let mut silence = Silence::new(clock.monotonic() + config.idle_timeout);
    let mut spoke = silence.end(&socket, &entry, &shutdown).await;
    if spoke == 0 {
        return;
    }
    if entry.proxies.is_some() {
        let read = Box::pin(read_proxy_header(&mut socket));
        let read = tokio::time::timeout(config.header_timeout, read).await;
        match read.unwrap_or_else(|_| Err("out of time".into())) {
            Ok(client) => peer = client.unwrap_or(peer),
            Err(why) => {
                entry.counts.refuse(ConnectionRefusal::Proxy);
                return debug!(%peer, why, "connection closed before HTTP");
            }
        }
        // Before the client is waited for once more: it may have opened many connections, and say nothing on any.
        permit = entry.permit(Some(peer));
        if permit.is_none() {
            return;
        }
        spoke = silence.end(&socket, &entry, &shutdown).await;
        if spoke == 0 {
            return;
        }
    }
    let Some(permit) = permit else { return };
    let Silence {
        watchdog, first, ..
    } = silence;
    let spoken = if entry.tls.is_none() && !HTTP2_PREFACE.starts_with(&first[..spoke]) {
        // As nearly all are: no timer, no further future.
        Spoken {
            is_http2: false,
            over: Over::Socket(socket),
        }
    } else {
        let open = Box::pin(open(socket, &entry));
        let opened = tokio::time::timeout(config.header_timeout, open).await;
        match opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(spoken) => spoken,
            Err(error) => {
                if entry.tls.is_some() {
                    entry.counts.refuse(ConnectionRefusal::Tls);
                }
                return debug!(%peer, %error, "connection closed before HTTP");
            }
        }
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
        loans: Arc::default(),
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

/// Whether a peer's PROXY headers are taken.
fn is_trusted(proxies: &[IpNet], peer: SocketAddr) -> bool {
    let address = peer.ip().to_canonical();
    proxies.iter().any(|net| net.contains(&address))
}

/// What comes before HTTP once the client is known. The caller bounds the time.
async fn open(mut socket: Socket, entry: &Entry) -> io::Result<Spoken> {
    match &entry.tls {
        Some(tls) => {
            let stream = tls.accept(socket).await?;
            Ok(Spoken {
                is_http2: tls::is_http2(&stream),
                over: Over::Tls(Box::new(stream)),
            })
        }
        None => Ok(Spoken {
            is_http2: has_preface(&mut socket).await?,
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
