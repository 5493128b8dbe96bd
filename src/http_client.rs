//! Sends HTTP/1.1 requests to other servers, over TCP or TLS, with the client of hyper-util, which keeps connections.
//!
//! Used by the hooks (`auth/hook/`) and by `check-config --probe`. It follows no redirects, uses no proxy, and repeats
//! only a request of which nothing was sent. Any other repetition is up to the caller ([`Error::Closed`]).
//!
//! The client limits the time to connect. The caller sets all other time-outs: [`HttpClient::send`] returns with the
//! head of the response, and its body is a stream of frames, so that a caller can limit the time to the first byte, the
//! time without progress, or the total time.

mod resolver;

use std::{
    error::Error as StdError,
    fmt, io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    header::{AUTHORIZATION, HeaderValue},
    http::{
        self,
        uri::{Authority, Scheme},
    },
    rt::Executor,
};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioIo, TokioTimer},
};
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tower_service::Service;

pub use self::resolver::LOOKUPS_MAX;
use self::resolver::Resolver;

/// Maximum size of the read buffer of a connection, and so of the head of a response. The smallest that hyper allows.
const BUFFER_BYTES_MAX: usize = 8 * 1024;
/// Maximum number of idle connections to a host.
const IDLE_PER_HOST_MAX: usize = 8;
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// The body of a request.
pub type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// Sends requests. Clones share the idle connections. Dropping the last clone closes all connections.
#[derive(Clone)]
pub struct HttpClient {
    pooled: Client<Connector, RequestBody>,
    unpooled: Client<Connector, RequestBody>,
}

/// Why there is no complete response. The text contains neither the URL nor a header.
#[derive(Debug)]
pub enum Error {
    /// The URL is not an absolute `http://` or `https://` URL.
    Url,
    /// The server closed the connection before the response was complete. A server may close an idle connection just
    /// when a request is sent, so a request that changes nothing may be sent again.
    Closed,
    /// The body has more than this number of bytes.
    TooLarge(usize),
    /// There is no connection, or the response is not valid HTTP, or its head is too large.
    Failed(String),
}

impl HttpClient {
    /// Creates a client without connections.
    ///
    /// `connect_timeout` limits the time to look up the name, connect, and finish the TLS handshake.
    pub fn new(connect_timeout: Duration) -> Self {
        let roots = webpki_roots::TLS_SERVER_ROOTS.into();
        Self::trusting(RootCertStore { roots }, connect_timeout)
    }

    fn trusting(roots: RootCertStore, connect_timeout: Duration) -> Self {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = Connector {
            resolver: Resolver::default(),
            tls: Arc::new(tls).into(),
            timeout: connect_timeout,
        };
        let mut builder = Client::builder(Tasks::default());
        builder
            .http1_max_buf_size(BUFFER_BYTES_MAX)
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX);
        Self {
            pooled: builder.build(connector.clone()),
            unpooled: builder.pool_max_idle_per_host(0).build(connector),
        }
    }

    /// Sends a request with an absolute URL, over an idle connection if there is one, and returns the head of the
    /// response. Sets `Host`, and `Authorization` if the URL contains a user.
    ///
    /// # Errors
    /// [`Error`]. The server may close an idle connection at any time, also while a request is sent.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn send(&self, request: Request<RequestBody>) -> Result<Response<Incoming>, Error> {
        exchange(&self.pooled, request).await
    }

    /// Like [`Self::send`], over a new connection, which is not kept.
    ///
    /// # Errors
    /// [`Error`].
    ///
    /// # Cancel safety
    /// As [`Self::send`].
    pub async fn send_on_new_connection(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Error> {
        exchange(&self.unpooled, request).await
    }
}

async fn exchange(
    client: &Client<Connector, RequestBody>,
    mut request: Request<RequestBody>,
) -> Result<Response<Incoming>, Error> {
    if !matches!(request.uri().scheme_str(), Some("http" | "https")) {
        return Err(Error::Url);
    }
    move_credentials(&mut request).map_err(|_| Error::Url)?;
    let sent = client.request(request).await;
    sent.map_err(|error| Error::of(&error))
}

/// Moves the user and the password of the URL into `Authorization`. The client must not see them: it logs the authority.
fn move_credentials(request: &mut Request<RequestBody>) -> http::Result<()> {
    let mut uri = request.uri().clone().into_parts();
    let authority = uri.authority.take();
    let authority = authority.as_ref().map_or("", Authority::as_str);
    let Some((user, host)) = authority.rsplit_once('@') else {
        return Ok(());
    };
    // RFC 7617 §2: there is always a colon, also without a password.
    let colon = if user.contains(':') { "" } else { ":" };
    let credentials = STANDARD.encode([user, colon].concat());
    let value = HeaderValue::try_from(format!("Basic {credentials}"))?;
    request.headers_mut().insert(AUTHORIZATION, value);
    uri.authority = Some(host.parse()?);
    *request.uri_mut() = Uri::from_parts(uri)?;
    Ok(())
}

/// Reads a whole body, of at most `bytes_max` bytes.
///
/// # Errors
/// [`Error`].
pub async fn read_body(mut body: Incoming, bytes_max: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::of(&error))?;
        // Trailers are ignored.
        let data = frame.into_data().unwrap_or_default();
        if data.len() > bytes_max - bytes.len() {
            return Err(Error::TooLarge(bytes_max));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Owns the tasks that hyper-util spawns, mainly one for each connection. They end when the last client is dropped.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut tasks = self.0.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// Opens connections, with TLS for `https://`.
#[derive(Clone)]
struct Connector {
    resolver: Resolver,
    tls: TlsConnector,
    timeout: Duration,
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> io::Result<Box<dyn Stream>> {
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        let host = uri.host().unwrap_or_default();
        // An IPv6 address is in brackets.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let addresses = self.resolver.resolve(host, port).await?;
        let stream = TcpStream::connect(&*addresses).await?;
        stream.set_nodelay(true)?;
        if !is_tls {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Box::new(self.tls.connect(name, stream).await?))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let connected = timeout(connector.timeout, connector.connect(&uri)).await;
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
            connected.map_err(late).flatten().map(TokioIo::new)
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Connection for Box<dyn Stream> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Error {
    /// Finds the reason among the causes of an error.
    fn of(error: &(dyn StdError + 'static)) -> Self {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe => Self::Closed,
                _ => Self::Failed(format!("io: {error}")),
            };
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
                return Self::Closed;
            }
            if error.is_parse_too_large() {
                let text = "http: the header of the response has more than";
                return Self::Failed(format!("{text} {BUFFER_BYTES_MAX} bytes"));
            }
        }
        match error.source() {
            Some(cause) => Self::of(cause),
            None => Self::Failed(format!("http: {error}")),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url => f.write_str("its address is no http:// or https:// URL"),
            Self::Closed => f.write_str("io: the server disconnected"),
            Self::TooLarge(bytes) => write!(f, "the response has more than {bytes} bytes"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl StdError for Error {}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const TIMEOUT: Duration = Duration::from_secs(30);

    fn get(url: &str) -> Request<RequestBody> {
        Request::get(url).body(RequestBody::default()).unwrap()
    }

    async fn ask(client: &HttpClient, url: &str) -> Result<Vec<u8>, Error> {
        read_body(client.send(get(url)).await?.into_body(), 100).await
    }

    /// Answers each request until the client disconnects. Returns the heads of the requests.
    async fn answer(mut stream: impl Stream) -> String {
        let mut heads = String::new();
        while let Ok(byte) = stream.read_u8().await {
            heads.push(byte.into());
            if heads.ends_with("\r\n\r\n") {
                stream.write_all(ANSWER).await.unwrap();
            }
        }
        heads
    }

    #[tokio::test]
    async fn sends_path_host_and_credentials() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap();
        // printf user:pass | base64; printf user: | base64
        for (user, header) in [
            ("user:pass@", Some("authorization: Basic dXNlcjpwYXNz\r\n")),
            ("user@", Some("authorization: Basic dXNlcjo=\r\n")),
            ("", None),
        ] {
            let client = HttpClient::new(TIMEOUT);
            let url = format!("http://{user}{host}/a?b=c");
            let mut seen_by_client = get(&url);
            move_credentials(&mut seen_by_client).unwrap();
            assert_eq!(*seen_by_client.uri(), *format!("http://{host}/a?b=c"));
            let serve = async { answer(listener.accept().await.unwrap().0).await };
            let request = async {
                assert_eq!(ask(&client, &url).await.unwrap(), b"ok");
                drop(client);
            };
            let (head, ()) = tokio::join!(serve, request);
            assert!(head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{head}");
            assert!(head.contains(&format!("host: {host}\r\n")), "{head}");
            assert_eq!(head.contains("authorization"), header.is_some());
            assert!(head.contains(header.unwrap_or_default()), "{head}");
        }
    }

    #[tokio::test]
    async fn limits_kept_connections() {
        let client = HttpClient::new(TIMEOUT);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        let serve = async {
            let mut streams = Vec::new();
            while streams.len() <= IDLE_PER_HOST_MAX {
                streams.push(listener.accept().await.unwrap().0);
            }
            // No answer before the last connection: otherwise, the client would use the first one again.
            for stream in streams {
                server.spawn(answer(stream));
            }
        };
        let asks = join_all((0..=IDLE_PER_HOST_MAX).map(|_| ask(&client, &url)));
        let (answers, ()) = tokio::join!(asks, serve);
        for answer in answers {
            assert_eq!(answer.unwrap(), b"ok");
        }
        server.join_next().await.unwrap().unwrap();
        drop(listener);
        // This uses an idle connection, since no new one would be accepted.
        let reused = client.send(get(&url)).await.unwrap().into_body();
        let too_large = read_body(reused, 1).await;
        assert!(matches!(too_large, Err(Error::TooLarge(1))));
        assert!(server.try_join_next().is_none());
        assert_eq!(server.len(), IDLE_PER_HOST_MAX);
        drop(client);
        server.join_all().await;
    }

    #[tokio::test]
    async fn connect_timeout_includes_tls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let client = HttpClient::new(Duration::from_millis(50));
        // The listener never answers the TLS handshake.
        let error = ask(&client, &url).await.unwrap_err();
        assert_eq!(error.to_string(), "io: no connection in time");
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
        let trusting = HttpClient::trusting(roots, TIMEOUT);
        let url = format!("https://localhost:{port}/");
        assert_eq!(ask(&trusting, &url).await.unwrap(), b"ok");
        let other_name = format!("https://127.0.0.1:{port}/");
        assert!(ask(&trusting, &other_name).await.is_err());
        let usual = HttpClient::new(TIMEOUT);
        assert!(ask(&usual, &url).await.is_err());
    }
}
