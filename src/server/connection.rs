//! Serves one connection: PROXY header, TLS, and the choice between HTTP/1 and HTTP/2.
//!
//! Knows neither routes nor APIs. hyper refuses malformed heads (400, 414, 431, without a body). Handlers limit the time
//! of request bodies; all other timeouts are here.

mod cut;
mod http1;
mod http2;
mod linger;
mod silence;

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
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
    cut::{Counted, ExitCount, Unanswered, Work},
    silence::Silence,
};
use super::{
    deadlines::{Progress, Watchdog},
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

/// Timeouts and limits of one connection, from `[server]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Time from the first byte of a request to the end of its head.
    #[serde(rename = "header_timeout_seconds", deserialize_with = "seconds")]
    pub header_timeout: Duration,
    /// Time without a request, after the last response or after connecting. Must be longer than a load balancer's idle timeout
    /// (commonly at most 75 s), or the load balancer sends a request to a connection that is being closed.
    #[serde(rename = "idle_timeout_seconds", deserialize_with = "seconds")]
    pub idle_timeout: Duration,
    /// How long the client may acknowledge nothing of a response. Twelve times as long if its receive window is closed and it
    /// has received much before (`stall.rs`).
    #[serde(rename = "write_stall_timeout_seconds", deserialize_with = "seconds")]
    pub write_stall_timeout: Duration,
    /// Time limit for discarding the rest of a request after an early response, from when the client has acknowledged the
    /// response.
    #[serde(skip)]
    pub linger_timeout: Duration,
    /// Limit in bytes for the same.
    #[serde(skip)]
    pub linger_bytes_max: u64,
    /// hyper's read buffer for HTTP/1, and so the longest request head (431 above it); at least 8 KiB. It also limits, plus one
    /// chunk, the part of a response that hyper holds before it waits for the socket.
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

/// A handler of requests.
pub(crate) trait Handle: Send + Sync + 'static {
    /// The body of a response. An error of the body ends the connection immediately, so that the client sees a truncated
    /// response and not a wrong one.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + FileBody
        + Send
        + Unpin
        + 'static;

    /// Answers one request. If the response comes before the end of the request body, the handler calls
    /// [`ConnectionInfo::set_linger`] first.
    ///
    /// The future is dropped at any `await` when the connection breaks or the shutdown grace period has passed. A panic
    /// ends only this connection.
    fn handle(
        &self,
        connection: &Arc<ConnectionInfo>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// A connection, as its requests see it.
#[derive(Debug)]
pub(crate) struct ConnectionInfo {
    /// The other end of the connection, the client or a proxy; or the client named by a PROXY header.
    pub(super) peer: SocketAddr,
    /// The other end is a process on this machine that may access the socket file. It names its clients in a forwarding
    /// header.
    pub(super) is_local: bool,
    /// TLS ends at this server.
    pub(super) is_tls: bool,
    linger: AtomicBool,
    /// Requests that the handler has not answered.
    unanswered: Unanswered,
    /// Open streams of an HTTP/2 connection; `None` for HTTP/1.
    streams: Option<AtomicUsize>,
    progress: Arc<Progress>,
    loans: Arc<Loans>,
    /// The limits of the client, or of the proxy in front of it.
    client: Arc<Client>,
}

impl ConnectionInfo {
    /// Records that the client may send more than will be read: the rest of the body, or another request to a server that
    /// is stopping. The response then has `Connection: close` (RFC 9112 §9.6), and afterwards the rest is read and
    /// discarded within [`Config::linger_timeout`] and [`Config::linger_bytes_max`]. Closing a socket with unread bytes
    /// would reset it, and a client that writes everything before it reads would lose the response.
    pub(crate) fn set_linger(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    /// Whether a response is being sent.
    fn is_answering(&self) -> bool {
        match &self.streams {
            Some(open) => open.load(Ordering::Relaxed) > 0,
            None => self.progress.is_busy(),
        }
    }
}

/// How a listener's connections begin, and their limits.
#[derive(Clone, Default)]
pub(super) struct Entry {
    /// Connections begin with a PROXY header, which is accepted from these networks; other connections are closed.
    pub(super) proxies: Option<Arc<[IpNet]>>,
    /// Connections use TLS.
    pub(super) tls: Option<Tls>,
    /// Limits the connections and the memory of clients.
    pub(super) clients: Arc<ClientLimiter>,
    /// Counts connections that were closed before HTTP.
    pub(super) counts: Arc<Connections>,
}

impl Entry {
    /// Acquires the permit for a connection; `None`, which is counted, if its client has too many. A peer without an
    /// address is a process on this machine and exempt.
    fn permit(&self, peer: Option<SocketAddr>) -> Option<Permit> {
        let client = match peer {
            Some(peer) => self.clients.client(peer.ip()),
            None => self.clients.exempt_client(),
        };
        let permit = client.take(Resource::Connections, 1);
        if permit.is_none() {
            self.counts.refuse(ConnectionRefusal::Address);
            debug!(
                ?peer,
                "connection closed: too many connections from its address"
            );
        }
        permit
    }
}

/// The first bytes of HTTP/2 without TLS (RFC 9113 §3.3, §3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The parts of a connection that are not its stream.
struct Session<H> {
    handler: Arc<H>,
    info: Arc<ConnectionInfo>,
    config: Arc<Config>,
    counts: Arc<Connections>,
    shutdown: Shutdown,
}

/// Serves one connection until either side ends it. A peer without an address is connected to a socket file.
///
/// # Cancel safety
/// Dropping the future closes the socket and drops a request in progress.
pub(super) async fn run<H: Handle>(
    mut socket: Socket,
    peer: Option<SocketAddr>,
    entry: Arc<Entry>,
    handler: Arc<H>,
    config: Arc<Config>,
    shutdown: Shutdown,
) {
    // Clients behind a PROXY header are not the proxy: a forwarding header is written by the client itself.
    let is_local = peer.is_none() && entry.proxies.is_none();
    // Only the monotonic time is used, which is the same for all clocks.
    let clock = Clock::system();
    let mut silence = Silence::new(&clock, &entry, &config, &shutdown);
    let Some((peer, permit, spoke)) = admit(&mut socket, peer, &mut silence).await else {
        return;
    };
    let (watchdog, first) = (silence.watchdog, silence.first);
    let Some(spoken) = negotiate(socket, peer, &first[..spoke], &entry, &config).await else {
        return;
    };
    let info = Arc::new(ConnectionInfo {
        peer,
        is_local,
        is_tls: matches!(spoken.over, Over::Tls(_)),
        linger: AtomicBool::new(false),
        unanswered: Unanswered::default(),
        streams: spoken.is_http2.then(AtomicUsize::default),
        progress: Arc::new(Progress::new(clock, config.header_timeout)),
        loans: Arc::default(),
        client: permit.client().clone(),
    });
    let session = Session {
        handler,
        info,
        config,
        counts: entry.counts.clone(),
        shutdown,
    };
    work(spoken, watchdog, session).await;
}

/// Serves a connection in its protocols. Boxed one by one, so that [`run`]'s future is not as large as the largest of them.
fn work<H: Handle>(spoken: Spoken, watchdog: Watchdog, session: Session<H>) -> Counted {
    let exit = ExitCount::new(&session);
    let work: Work = match (spoken.over, spoken.is_http2) {
        (Over::Socket(socket), false) => Box::pin(http1::serve(socket, watchdog, session)),
        (Over::Socket(socket), true) => Box::pin(http2::serve(socket, watchdog, session)),
        (Over::Tls(stream), false) => Box::pin(http1::serve(*stream, watchdog, session)),
        (Over::Tls(stream), true) => Box::pin(http2::serve(*stream, watchdog, session)),
    };
    Counted { exit, work }
}

/// Reads the PROXY header, if the listener expects one, acquires the client's permit, and waits for the client's first
/// bytes. Returns the client's address, the permit, and the number of bytes in [`Silence::first`]; `None` if the connection
/// must be closed.
async fn admit(
    socket: &mut Socket,
    peer: Option<SocketAddr>,
    silence: &mut Silence<'_>,
) -> Option<(SocketAddr, Permit, usize)> {
    let entry = silence.entry;
    let peer = match &entry.proxies {
        Some(proxies) => Some(named(socket, peer, proxies, silence).await?),
        None => peer,
    };
    // Acquired before the wait, because the client may open many connections and send nothing.
    let permit = entry.permit(peer)?;
    let spoke = silence.end(socket).await?;
    Some((peer.unwrap_or(UNNAMED), permit, spoke))
}

/// Reads the PROXY header, and returns the address of the client, or of the proxy if it names none. `None`, which is
/// counted, if the header is not acceptable.
async fn named(
    socket: &mut Socket,
    peer: Option<SocketAddr>,
    proxies: &[IpNet],
    silence: &mut Silence<'_>,
) -> Option<SocketAddr> {
    let counts = &silence.entry.counts;
    let refuse = |peer: SocketAddr, why: &str| {
        counts.refuse(ConnectionRefusal::Proxy);
        debug!(%peer, why, "connection closed before HTTP");
    };
    // Refused before the wait for its header: the number of connections of such a peer is not limited here.
    if let Some(peer) = peer.filter(|peer| !is_trusted(proxies, *peer)) {
        refuse(
            peer,
            "PROXY headers are accepted from trusted networks only",
        );
        return None;
    }
    let peer = peer.unwrap_or(UNNAMED);
    silence.end(socket).await?;
    let read = Box::pin(read_proxy_header(socket));
    let read = tokio::time::timeout(silence.config.header_timeout, read).await;
    match read.unwrap_or_else(|_| Err("timeout".into())) {
        Ok(client) => Some(client.unwrap_or(peer)),
        Err(why) => {
            refuse(peer, &why);
            None
        }
    }
}

/// The address of a peer that has none: a process on this machine.
const UNNAMED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Finds out the protocols of a connection by its first bytes; `None`, if it ends before HTTP begins.
async fn negotiate(
    socket: Socket,
    peer: SocketAddr,
    first: &[u8],
    entry: &Entry,
    config: &Config,
) -> Option<Spoken> {
    if entry.tls.is_none() && !HTTP2_PREFACE.starts_with(first) {
        // Nearly all connections: this needs no timer and no further future.
        return Some(Spoken {
            is_http2: false,
            over: Over::Socket(socket),
        });
    }
    let open = Box::pin(open(socket, entry));
    let opened = tokio::time::timeout(config.header_timeout, open).await;
    match opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(spoken) => Some(spoken),
        Err(error) => {
            if entry.tls.is_some() {
                entry.counts.refuse(ConnectionRefusal::Tls);
            }
            debug!(%peer, %error, "connection closed before HTTP");
            None
        }
    }
}

/// The protocols of a connection.
struct Spoken {
    is_http2: bool,
    over: Over,
}

enum Over {
    Socket(Socket),
    Tls(Box<TlsStream<Socket>>),
}

/// Whether PROXY headers of a peer are accepted.
fn is_trusted(proxies: &[IpNet], peer: SocketAddr) -> bool {
    let address = peer.ip().to_canonical();
    proxies.iter().any(|net| net.contains(&address))
}

/// Performs the TLS handshake, or reads the HTTP/2 preface. The caller limits the time.
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
        let bytes = ahead.ok_or("it ended within its PROXY header")?;
        if let Parsed::Header(len, client) = proxy_protocol::parse(bytes)? {
            socket.consume(len);
            return Ok(client);
        }
    }
}

/// Whether the client speaks HTTP/2. One byte may be enough to see that it does not.
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
        // A part of the preface has arrived. Peeking again would not wait.
        if socket.read_ahead(first.len() - len).await?.is_none() {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests;
