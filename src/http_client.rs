//! Sends HTTP/1.1 requests to other servers, over TCP or TLS, and reuses connections.
//!
//! Used by the hooks (`auth/hook/`) and by `check-config --probe`. It follows no redirects, uses no proxy, and never
//! repeats a request: only the caller knows whether a request may be sent twice ([`Error::is_closed`]).
//!
//! The client limits the time to connect. The caller sets all other time-outs: [`HttpClient::send`] returns with the
//! head of the response and [`ResponseBody::chunk`] with each piece of its body, so that a caller can limit the time to
//! the first byte, the time without progress, or the total time.
//!
//! This is a small pool over `hyper::client::conn`. hyper-util's client was considered: it limits idle connections per
//! host and not in total, spawns a task for each connection, and cannot be told to open a new one.

mod resolver;

use std::{
    collections::VecDeque,
    fmt,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::future::{Fuse, FutureExt};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{AUTHORIZATION, HOST, HeaderValue},
    http::uri::{Authority, Scheme},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

pub use self::resolver::LOOKUPS_MAX;
use self::resolver::Resolver;
use crate::time::Clock;

/// Maximum size of the head of a response.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Maximum size of the read buffer of a connection, larger than a head.
const BUFFER_BYTES_MAX: usize = 16 * 1024;
/// How long an idle connection is kept.
const IDLE_MAX: Duration = Duration::from_secs(15);

/// The body of a request.
pub type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// The bounds of an [`HttpClient`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Maximum time to look up the name, connect, and finish the TLS handshake.
    pub connect_timeout: Duration,
    /// Maximum number of idle connections, to all servers together.
    pub idle_connections_max: usize,
}

/// Sends requests. Clones share the idle connections.
#[derive(Clone)]
pub struct HttpClient(Arc<Shared>);

struct Shared {
    config: Config,
    clock: Clock,
    resolver: Resolver,
    tls: TlsConnector,
    /// Idle connections, ordered by the time of their last use; at most `idle_connections_max`.
    idle: Mutex<VecDeque<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// The scheme, host and port of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    is_tls: bool,
    host: Box<str>,
    port: u16,
}

/// A connection, which carries one request at a time. The task that waits for the response does its I/O, so nothing is
/// spawned. Dropping it closes it.
struct Connection {
    origin: Origin,
    sender: SendRequest<RequestBody>,
    driver: Driver,
}

type Driver = Fuse<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>;

/// The body of a response. Dropping it before its end closes the connection.
pub struct ResponseBody {
    client: HttpClient,
    /// `None` after the end of the body.
    connection: Option<Connection>,
    incoming: Incoming,
}

/// Why there is no complete response. The text contains neither the URL nor a header.
#[derive(Debug)]
pub enum Error {
    /// The URL is not an absolute `http://` or `https://` URL.
    Url,
    /// Connecting failed, or the connection did.
    Io(io::Error),
    /// The server closed the connection before the response was complete.
    Closed,
    /// The response is not valid HTTP, or its head is too large.
    Http(hyper::Error),
    /// The body has more than this number of bytes.
    TooLarge(usize),
}

impl HttpClient {
    /// A client without connections.
    pub fn new(config: Config, clock: Clock) -> Self {
        let roots = webpki_roots::TLS_SERVER_ROOTS.into();
        Self::trusting(RootCertStore { roots }, config, clock)
    }

    fn trusting(roots: RootCertStore, config: Config, clock: Clock) -> Self {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self(Arc::new(Shared {
            config,
            clock,
            resolver: Resolver::default(),
            tls: Arc::new(tls).into(),
            idle: Mutex::default(),
        }))
    }

    /// Sends a request with an absolute URL, over an idle connection if there is one, and returns the head of the
    /// response. Sets `Host`, and `Authorization` if the URL contains a user and a password.
    ///
    /// # Errors
    /// [`Error`]. The server may close an idle connection at any time, also while a request is sent.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, Error> {
        let origin = Origin::of(request.uri())?;
        match self.0.take_idle(&origin) {
            Some(connection) => self.exchange(connection, request).await,
            None => self.send_on_new_connection(request).await,
        }
    }

    /// Like [`Self::send`], over a new connection.
    ///
    /// # Errors
    /// [`Error`].
    ///
    /// # Cancel safety
    /// As [`Self::send`].
    pub async fn send_on_new_connection(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, Error> {
        let origin = Origin::of(request.uri())?;
        let connecting = self.0.connect(origin);
        let connection = timeout(self.0.config.connect_timeout, connecting).await;
        let connection = connection.map_err(|_| {
            Error::Io(io::Error::new(
                io::ErrorKind::TimedOut,
                "no connection in time",
            ))
        })??;
        self.exchange(connection, request).await
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        mut request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, Error> {
        to_origin_form(&mut request)?;
        let response = connection.sender.send_request(request);
        let response = drive(&mut connection.driver, response).await?;
        Ok(response.map(|incoming| ResponseBody {
            client: self.clone(),
            connection: Some(connection),
            incoming,
        }))
    }
}

/// Replaces the URL of a request by its path, as servers expect it, and adds the headers that contain the rest.
fn to_origin_form(request: &mut Request<RequestBody>) -> Result<(), Error> {
    let uri = std::mem::take(request.uri_mut()).into_parts();
    let authority = uri.authority.ok_or(Error::Url)?;
    let (user, host) = match authority.as_str().rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority.as_str()),
    };
    let header = |value: &str| HeaderValue::from_str(value).map_err(|_| Error::Url);
    let headers = request.headers_mut();
    headers.insert(HOST, header(host)?);
    if let Some(user) = user {
        // RFC 7617 §2: there is always a colon, also without a password.
        let colon = if user.contains(':') { "" } else { ":" };
        let credentials = STANDARD.encode([user, colon].concat());
        headers.insert(AUTHORIZATION, header(&format!("Basic {credentials}"))?);
    }
    let path = uri.path_and_query.ok_or(Error::Url)?;
    *request.uri_mut() = Uri::from(path);
    Ok(())
}

impl Shared {
    /// An idle connection to this origin that the server has not closed. Closes those that are too old.
    fn take_idle(&self, origin: &Origin) -> Option<Connection> {
        let mut idle = self.idle.lock();
        self.drop_old(&mut idle);
        loop {
            let index = idle
                .iter()
                .rposition(|kept| kept.connection.origin == *origin)?;
            let mut connection = idle.remove(index)?.connection;
            if connection.is_ready() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, mut connection: Connection) {
        if !connection.is_ready() {
            return;
        }
        let mut idle = self.idle.lock();
        self.drop_old(&mut idle);
        let since = self.clock.monotonic();
        idle.push_back(Idle { connection, since });
        if idle.len() > self.config.idle_connections_max {
            idle.pop_front();
        }
    }

    fn drop_old(&self, idle: &mut VecDeque<Idle>) {
        let now = self.clock.monotonic();
        let is_old = |kept: &Idle| now.saturating_duration_since(kept.since) >= IDLE_MAX;
        while idle.front().is_some_and(is_old) {
            idle.pop_front();
        }
    }

    async fn connect(&self, origin: Origin) -> Result<Connection, Error> {
        let addresses = self.resolver.resolve(&origin.host, origin.port).await?;
        let stream = TcpStream::connect(&*addresses).await?;
        stream.set_nodelay(true)?;
        if !origin.is_tls {
            return Connection::new(origin, stream).await;
        }
        let name = ServerName::try_from(String::from(&*origin.host)).map_err(|_| Error::Url)?;
        let stream = self.tls.connect(name, stream).await?;
        Connection::new(origin, stream).await
    }
}

impl Origin {
    fn of(uri: &Uri) -> Result<Self, Error> {
        let is_tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(Error::Url),
        };
        let host = uri.host().ok_or(Error::Url)?;
        // An IPv6 address is in brackets.
        let host = host.trim_start_matches('[').trim_end_matches(']').into();
        let port = uri.authority().and_then(Authority::port_u16);
        Ok(Self {
            is_tls,
            host,
            port: port.unwrap_or(if is_tls { 443 } else { 80 }),
        })
    }
}

impl Connection {
    async fn new<S>(origin: Origin, stream: S) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, driver) = http1::Builder::new()
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        let driver: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(driver);
        Ok(Self {
            origin,
            sender,
            driver: driver.fuse(),
        })
    }

    /// Whether the connection can carry another request. Reads from the socket to detect that the server has closed it.
    fn is_ready(&mut self) -> bool {
        let _ = (&mut self.driver).now_or_never();
        self.sender.is_ready()
    }
}

/// Waits for a step of an exchange, and does the I/O of the connection at the same time.
async fn drive<T>(driver: &mut Driver, step: impl Future<Output = T>) -> T {
    let mut step = pin!(step);
    poll_fn(|cx| {
        // An error of the connection is also the error of the step.
        let _ = driver.poll_unpin(cx);
        step.as_mut().poll(cx)
    })
    .await
}

impl ResponseBody {
    /// Returns the next bytes, or `None` at the end. At the end, the connection becomes idle.
    ///
    /// # Errors
    /// [`Error`].
    ///
    /// # Cancel safety
    /// Dropping the future loses no bytes.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(connection) = &mut self.connection {
            let frame = drive(&mut connection.driver, self.incoming.frame()).await;
            match frame.transpose()? {
                // Trailers are ignored.
                Some(frame) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                None => self
                    .connection
                    .take()
                    .into_iter()
                    .for_each(|ended| self.client.0.keep(ended)),
            }
        }
        Ok(None)
    }

    /// Reads the whole body, of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn read(mut self, bytes_max: usize) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if chunk.len() > bytes_max - body.len() {
                return Err(Error::TooLarge(bytes_max));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

impl Error {
    /// Whether the server closed the connection before the response was complete. A server may close an idle connection
    /// just when a request is sent, so a request that changes nothing may be sent again.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl From<hyper::Error> for Error {
    fn from(error: hyper::Error) -> Self {
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            return Self::Closed;
        }
        let source = std::error::Error::source(&error);
        let io = source.and_then(|source| source.downcast_ref::<io::Error>());
        match io.map(|io| Self::from(io::Error::from(io.kind()))) {
            Some(Self::Closed) => Self::Closed,
            _ => Self::Http(error),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url => f.write_str("its address is no http:// or https:// URL"),
            Self::Io(error) => write!(f, "io: {error}"),
            Self::Closed => f.write_str("io: the server disconnected"),
            Self::Http(error) if error.is_parse_too_large() => {
                write!(
                    f,
                    "http: the header of the response has more than {HEAD_BYTES_MAX} bytes"
                )
            }
            Self::Http(error) => write!(f, "http: {error}"),
            Self::TooLarge(bytes) => write!(f, "the response has more than {bytes} bytes"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        task::JoinSet,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    fn config(idle_connections_max: usize) -> Config {
        Config {
            connect_timeout: Duration::from_secs(30),
            idle_connections_max,
        }
    }

    fn get(url: &str) -> Request<RequestBody> {
        Request::get(url).body(RequestBody::default()).unwrap()
    }

    async fn ask(client: &HttpClient, url: &str) -> Result<Vec<u8>, Error> {
        client.send(get(url)).await?.into_body().read(100).await
    }

    /// Answers each request until the client disconnects.
    async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while let Ok(byte) = stream.read_u8().await {
            head.push(byte);
            if head.ends_with(b"\r\n\r\n") {
                stream.write_all(ANSWER).await.unwrap();
                head.clear();
            }
        }
    }

    /// Accepts this number of connections, and waits for their end.
    async fn serve(listener: TcpListener, connections: usize) {
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            tasks.spawn(answer(listener.accept().await.unwrap().0));
        }
        tasks.join_all().await;
    }

    #[test]
    fn sends_the_path_host_and_credentials() {
        let mut request = get("http://user:pass@[::1]:8080/a?b=c");
        to_origin_form(&mut request).unwrap();
        assert_eq!(request.uri(), "/a?b=c");
        assert_eq!(request.headers()[HOST], "[::1]:8080");
        // printf user:pass | base64
        assert_eq!(request.headers()[AUTHORIZATION], "Basic dXNlcjpwYXNz");
        let mut request = get("http://user@[::1]/");
        to_origin_form(&mut request).unwrap();
        // printf user: | base64
        assert_eq!(request.headers()[AUTHORIZATION], "Basic dXNlcjo=");
        let mut request = get("https://chat.example");
        assert_eq!(Origin::of(request.uri()).unwrap().port, 443);
        to_origin_form(&mut request).unwrap();
        assert_eq!(request.uri(), "/");
        assert!(!request.headers().contains_key(AUTHORIZATION));
    }

    #[tokio::test]
    async fn limits_kept_connections() {
        let client = HttpClient::new(config(2), Clock::system());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(serve(listener, 3));
        let mut bodies = Vec::new();
        for _ in 0..3 {
            bodies.push(client.send(get(&url)).await.unwrap().into_body());
        }
        for body in bodies {
            assert_eq!(body.read(2).await.unwrap(), b"ok");
        }
        assert_eq!(client.0.idle.lock().len(), 2);
        // This uses an idle connection: a fourth one would not be accepted.
        assert_eq!(ask(&client, &url).await.unwrap(), b"ok");
        let too_large = client.send(get(&url)).await.unwrap().into_body().read(1);
        assert!(matches!(too_large.await, Err(Error::TooLarge(1))));
        // The body was not read to its end, so the connection is closed.
        assert_eq!(client.0.idle.lock().len(), 1);
        drop(client);
        server.join_all().await;
    }

    #[tokio::test]
    async fn connect_timeout_includes_tls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let config = Config {
            connect_timeout: Duration::from_millis(50),
            idle_connections_max: 1,
        };
        let client = HttpClient::new(config, Clock::system());
        // The listener never answers the TLS handshake.
        match ask(&client, &url).await {
            Err(Error::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn checks_certificates() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(tls));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(stream).await;
                }
            }
        });
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let trusting = HttpClient::trusting(roots, config(0), Clock::system());
        let url = format!("https://localhost:{port}/");
        assert_eq!(ask(&trusting, &url).await.unwrap(), b"ok");
        let other_name = format!("https://127.0.0.1:{port}/");
        assert!(ask(&trusting, &other_name).await.is_err());
        let usual = HttpClient::new(config(0), Clock::system());
        assert!(ask(&usual, &url).await.is_err());
    }
}
