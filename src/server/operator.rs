//! The operator listener: `/metrics`, `/livez`, `/readyz`, `/readyz/reads`, `/log-level`, `/openapi/…`, and the console
//! at `/`.
//!
//! It has an address of its own. Everything but the probes needs the operator's token, unless the configuration says
//! otherwise (`authenticator.rs`). It stops after the public listener, so that it can report that the server is stopping.

mod authenticator;
mod console;
mod origin;
mod session;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    http::request::Parts,
};
use serde::{Deserialize, Deserializer};
use tokio::sync::Semaphore;

use self::console::{Call, Route};
use super::{
    access::Watched,
    connection::{self, ConnectionInfo, Handle},
    endpoint::{ADDRESSES, Listener, tcp_address},
    listener,
    service::Service,
    shutdown::Shutdown,
    tls::Tls,
};
use crate::{
    api::ops,
    delivery::Body,
    error::{Error, Kind, Result},
    http::body::{Pace, RequestBody},
    limit::{ClientLimiter, Limiter},
    logging,
    metrics::{Levels, Metrics, StoreLevels, TENANTS_MAX, TenantName},
    settings::{self, expected},
    store::{Store, to_end},
    time::Clock,
};

pub use self::{
    authenticator::{Authentication, Authenticator},
    console::Console,
};

/// Upper limit of connections: a few scrapers, probes, and pages of the console.
const CONNECTIONS_MAX: usize = 64;
/// Time for a running scrape after everything else has ended.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// A disk that does not report its free space within this time counts as failing. Probes usually wait for a second or more.
const DISK_PATIENCE: Duration = Duration::from_millis(500);
/// Upper limit of bytes of a log level in a request.
const LEVEL_BYTES_MAX: usize = 1 << 10;
/// Minimum pace of the body of a call. Uploads have that of the public listener.
const CALL_PACE: Pace = Pace {
    idle_timeout: Duration::from_secs(5),
    bytes_per_second_min: 1 << 10,
    whole_timeout: Duration::from_secs(30),
};

/// Settings of the operator listener, from `[operator]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The address; `None`: there is no operator listener.
    #[serde(deserialize_with = "address")]
    pub listen: Option<SocketAddr>,
    /// Who may use it; by default decided by the address.
    authentication: Option<Authentication>,
    /// The file of the token; by default in the store's directory of keys.
    token_file: Option<PathBuf>,
    /// Names by which browsers may reach the console, besides IP addresses and `localhost`.
    #[serde(deserialize_with = "origin::hosts")]
    pub hosts: Vec<String>,
}

/// Answers the requests of the operator.
pub struct Operator {
    /// All counters of the server.
    pub metrics: Metrics,
    /// The service of the public listener, for its levels.
    pub service: Arc<Service>,
    /// The rate limiter, for its levels.
    pub limiter: Arc<Limiter>,
    /// The limiter of the public listener's clients, for its levels.
    pub clients: Arc<ClientLimiter>,
    /// The disk of the store.
    pub disk: Disk,
    /// The TLS state of the public listeners, if one uses TLS.
    pub tls: Option<Tls>,
    /// The shutdown of the public listener.
    pub shutdown: Shutdown,
    /// The console, and who may use the listener.
    pub console: Console,
}

/// The part of the service that a probe asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All requests.
    Everything,
    /// Downloads only: they continue if nothing can be written.
    Reads,
}

/// Asks the store for its disk's free space, one request at a time, so that probes of a hanging disk do not pile up.
pub struct Disk {
    store: Arc<dyn Store>,
    free_min_bytes: u64,
    asking: Arc<Semaphore>,
}

impl Config {
    /// Who may use the listener; `None` if there is none.
    pub fn authentication(&self) -> Option<Authentication> {
        let default = Authentication::default_at(self.listen?);
        Some(self.authentication.unwrap_or(default))
    }

    /// The file of the token, in the directory of keys by default.
    pub fn token_file(&self, keys: &Path) -> PathBuf {
        let default = || authenticator::default_token_file(keys);
        let file = self.token_file.clone().unwrap_or_else(default);
        // Fails only without a current directory, and then the file cannot be opened either.
        std::path::absolute(&file).unwrap_or(file)
    }

    /// What is dangerous about the settings, in words for the operator.
    pub fn warning(&self) -> Option<String> {
        let listen = self.listen?;
        let is_local = listen.ip().to_canonical().is_loopback();
        (!is_local && self.authentication() == Some(Authentication::None)).then(|| {
            format!(
                "operator.authentication = \"none\": everybody who reaches {listen} may read metrics, look up and take \
                 down files, and upload as any user; set \"token\", or let a firewall restrict the address"
            )
        })
    }

    /// Reads or creates the token, and warns about dangerous settings. Blocking.
    ///
    /// # Errors
    /// `Internal`, with the file of the token.
    pub fn authenticator(&self, keys: &Path, clock: Clock) -> Result<Authenticator> {
        if let Some(warning) = self.warning() {
            tracing::warn!("{warning}");
        }
        let authentication = self.authentication().unwrap_or(Authentication::None);
        Authenticator::new(authentication, &self.token_file(keys), clock)
    }
}

/// Reads `operator.listen`; an empty text means no listener.
///
/// # Errors
/// If the text is not an address with a port.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = settings::text(deserializer)?;
    match tcp_address(&text) {
        None if text.is_empty() => Ok(None),
        None => Err(expected(ADDRESSES, format_args!("{text:?}"))),
        address => Ok(address),
    }
}

/// Serves until `ended` is triggered. Without listeners, it only waits for that.
///
/// # Cancel safety
/// Dropping the future aborts all connections.
pub async fn serve(
    listeners: Vec<Listener>,
    operator: Operator,
    connection: connection::Config,
    ended: Shutdown,
) {
    let config = listener::Config {
        listen: Vec::new(),
        proxies: Vec::new(),
        connections_max: CONNECTIONS_MAX,
        connections_per_address_max: CONNECTIONS_MAX,
        connections_exempt: Vec::new(),
        shutdown_grace: SHUTDOWN_GRACE,
        handover_grace: SHUTDOWN_GRACE,
        connection,
    };
    // These connections are not shown in the metrics.
    let (counts, clients, operator) = (Arc::default(), Arc::default(), Arc::new(operator));
    listener::serve(listeners, None, operator, config, counts, clients, ended).await;
}

impl Operator {
    /// Measures what is not counted.
    async fn levels(&self) -> Levels {
        let health = self.disk.store.maintenance().health();
        let tenants = self.service.api().tenants.load_full();
        let counted = tenants.iter().filter(|tenant| tenant.index < TENANTS_MAX);
        Levels {
            tenants: counted
                .map(|tenant| TenantName {
                    index: tenant.index,
                    name: tenant.name(),
                })
                .collect(),
            files: self.service.api().files.levels(),
            limiter_addresses: self.limiter.entries(),
            uploads: self.service.upload_levels(),
            client_memory: self.clients.memory(),
            disk_free_bytes: self.disk.free_bytes().await,
            disk_free_min_bytes: self.disk.free_min_bytes,
            disk_reserved_bytes: health.reserved_bytes,
            store: StoreLevels {
                is_readable: health.reads.is_none(),
                is_writable: health.reads.is_none() && health.writes.is_none(),
                write_errors: health.write_errors,
            },
            certificates_end_secs: self.tls.as_ref().and_then(Tls::end_secs),
            stale_key_files: self.service.api().verifier.stale_key_files(),
            log_lines_dropped: logging::lines_dropped(),
        }
    }

    async fn metrics(&self) -> Response<Body> {
        ops::metrics(self.metrics.render(self.levels().await))
    }

    /// Whether clients should be sent here, else one line for each problem, which begins with the name of the part.
    async fn ready(&self, service: Part) -> Response<Body> {
        let not_ready = |why: &str| ops::text(StatusCode::SERVICE_UNAVAILABLE, why);
        if self.shutdown.is_triggered() {
            return not_ready("draining: the server is stopping");
        }
        let floor = self.disk.free_min_bytes;
        let free = self.disk.free_bytes().await;
        let health = self.disk.store.maintenance().health();
        let disk = match (health.reads, free) {
            (Some(why), _) => Some(format!("disk: {why}: nothing can be read or written")),
            (None, None) => Some("disk: it does not say what it has left".to_owned()),
            (None, Some(free)) if free < floor && service == Part::Everything => {
                Some(format!("disk: {free} bytes free, the floor is {floor}"))
            }
            (None, Some(_)) => None,
        };
        let uploads = health
            .writes
            .filter(|_| service == Part::Everything)
            .map(|why| format!("uploads: {why}"));
        let lines: Vec<String> = disk.into_iter().chain(uploads).collect();
        match lines.is_empty() {
            true => ops::text(StatusCode::OK, "ready"),
            false => not_ready(&lines.join("\n")),
        }
    }
}

impl Disk {
    /// The disk of a store that accepts uploads while `free_min_bytes` are free.
    pub fn new(store: Arc<dyn Store>, free_min_bytes: u64) -> Self {
        Self {
            store,
            free_min_bytes,
            asking: Arc::new(Semaphore::new(1)),
        }
    }

    /// Free bytes; `None` if the disk fails or does not answer in time.
    async fn free_bytes(&self) -> Option<u64> {
        let ask = async {
            let turn = self.asking.clone().acquire_owned().await;
            let turn = turn.map_err(Error::internal)?;
            let store = self.store.clone();
            // A task, because the permit is held until the disk has answered, however long that takes.
            to_end(async move {
                let _turn = turn;
                store.maintenance().free_bytes().await
            })
            .await
        };
        match tokio::time::timeout(DISK_PATIENCE, ask).await {
            Ok(Ok(free)) => Some(free),
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot read the free space of the store's disk");
                None
            }
            Err(_) => {
                tracing::error!("the store's disk did not report its free space in time");
                None
            }
        }
    }
}

impl Operator {
    /// Answers a request for a path that programs use.
    async fn answer(&self, head: &Parts, client: IpAddr, body: &mut RequestBody) -> Response<Body> {
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        let path = head.uri.path();
        if matches!(path, "/metrics" | "/log-level")
            && let Err(refused) = self.console.authenticator.check(&head.headers, client)
        {
            return unauthorized(&refused);
        }
        match path {
            "/metrics" | "/livez" | "/readyz" | "/readyz/reads" if !is_read => {
                ops::only("GET, HEAD")
            }
            "/metrics" => self.metrics().await,
            "/livez" => ops::text(StatusCode::OK, "alive"),
            "/readyz" => self.ready(Part::Everything).await,
            "/readyz/reads" => self.ready(Part::Reads).await,
            "/log-level" if head.method == Method::PUT => match self.console.foreign_page(head) {
                Some(why) => ops::text(StatusCode::FORBIDDEN, why),
                None => set_log_level(body).await,
            },
            "/log-level" if !is_read => ops::only("GET, HEAD, PUT"),
            "/log-level" => ops::text(StatusCode::OK, &logging::level()),
            path if path.starts_with("/openapi/") && !is_read => ops::only("GET, HEAD"),
            path => {
                ops::openapi(path).unwrap_or_else(|| ops::text(StatusCode::NOT_FOUND, "not found"))
            }
        }
    }

    /// Answers a request for the console.
    async fn console(
        &self,
        connection: &Arc<ConnectionInfo>,
        route: Route,
        head: Parts,
        incoming: Incoming,
    ) -> Response<Watched<Body>> {
        let client = self.service.client(connection, &head.headers);
        let admitted = self.console.admit(&route, &head, client);
        let call = admitted.map(|caller| Call {
            head,
            caller,
            client,
        });
        let call = match call {
            Ok(call) if route == Route::Upload => match self.console.upload(call) {
                Ok(head) => {
                    let request = Request::from_parts(head, incoming);
                    return self.service.handle(connection, request).await;
                }
                Err(error) => Err(Box::new(console::refused(&error))),
            },
            call => call,
        };
        let mut body = RequestBody::new(incoming, CALL_PACE);
        let response = match call {
            Ok(_) if route == Route::Levels => {
                let levels = self.levels().await;
                console::json(StatusCode::OK, &self.metrics.snapshot(&levels))
            }
            Ok(call) => self.console.answer(route, &call, &mut body).await,
            Err(refused) => *refused,
        };
        settled(connection, &body, response)
    }
}

impl Handle for Operator {
    type Body = Watched<Body>;

    async fn handle(
        &self,
        connection: &Arc<ConnectionInfo>,
        request: Request<Incoming>,
    ) -> Response<Watched<Body>> {
        let (head, incoming) = request.into_parts();
        if let Some(route) = Route::find(&head) {
            let answered = Box::pin(self.console(connection, route, head, incoming)).await;
            return console::secured(answered);
        }
        let client = self.service.client(connection, &head.headers);
        let mut body = RequestBody::new(incoming, CALL_PACE);
        let response = self.answer(&head, client, &mut body).await;
        settled(connection, &body, response)
    }
}

/// A response, after which the rest of the request body is discarded.
fn settled(
    connection: &ConnectionInfo,
    body: &RequestBody,
    response: Response<Body>,
) -> Response<Watched<Body>> {
    if !body.is_ended() {
        connection.set_linger();
    }
    response.map(|body| Watched::new(body, None))
}

/// The response to a program that has not sent the operator's token.
fn unauthorized(error: &Error) -> Response<Body> {
    if let Kind::RateLimited(wait) = error.kind() {
        let why = "too many wrong tokens from this address";
        let mut response = ops::text(StatusCode::TOO_MANY_REQUESTS, why);
        let secs = HeaderValue::from(wait.as_secs() + 1);
        response.headers_mut().insert(header::RETRY_AFTER, secs);
        return response;
    }
    let why = "expected Authorization: Bearer, with the token in operator.token_file";
    let mut response = ops::text(StatusCode::UNAUTHORIZED, why);
    let scheme = HeaderValue::from_static("Bearer realm=\"chatfiles operator\"");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, scheme);
    response
}

/// Sets the log level before it answers. PUT, because a page of another origin cannot send it without a preflight.
async fn set_log_level(body: &mut RequestBody) -> Response<Body> {
    let text = match body.collect(LEVEL_BYTES_MAX).await {
        Ok(bytes) => String::from_utf8(bytes),
        Err(error) if error.kind() == Kind::TooLarge => {
            let why = format!("a level has at most {LEVEL_BYTES_MAX} bytes");
            return ops::text(StatusCode::PAYLOAD_TOO_LARGE, &why);
        }
        Err(_) => return ops::text(StatusCode::BAD_REQUEST, "the level did not come to its end"),
    };
    let set = match &text {
        // Editors and `echo` end a line with a line feed.
        Ok(text) => logging::set_level(text.trim_ascii_end()),
        Err(_) => Err("not UTF-8".to_owned()),
    };
    match set {
        Ok(()) => ops::text(StatusCode::OK, &logging::level()),
        Err(why) => ops::text(StatusCode::BAD_REQUEST, &why),
    }
}
