//! The operator listener: `/metrics`, `/livez`, `/readyz`, `/readyz/reads`, `/log-level` and `/openapi/…`.
//!
//! It has an address of its own without authentication, so the network must restrict who reaches it. It serves no files,
//! and stops after the public listener, so that it can report that the server is stopping.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use serde::{Deserialize, Deserializer};
use tokio::sync::Semaphore;

use super::{
    connection::{self, ConnectionInfo, Handle},
    endpoint::Listener,
    listener,
    service::Service,
    shutdown::Shutdown,
    tls::Tls,
};
use crate::{
    api::ops,
    delivery::Body,
    error::{Error, Kind},
    http::body::{Pace, RequestBody},
    limit::{ClientLimiter, Limiter},
    logging,
    metrics::{Levels, Metrics, StoreLevels},
    settings::expected,
    store::{Store, to_end},
};

/// Upper limit of connections: a few scrapers and probes.
const CONNECTIONS_MAX: usize = 64;
/// Time for a running scrape after everything else has ended.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// A disk that does not report its free space within this time counts as failing. Probes usually wait for a second or more.
const DISK_PATIENCE: Duration = Duration::from_millis(500);
/// Upper limit of bytes of a log level in a request.
const LEVEL_BYTES_MAX: usize = 1 << 10;
/// Minimum pace of such a request's body.
const LEVEL_PACE: Pace = Pace {
    idle_timeout: Duration::from_secs(5),
    bytes_per_second_min: LEVEL_BYTES_MAX as u64,
    whole_timeout: Duration::from_secs(30),
};

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

/// Reads `operator.listen`; an empty text means no listener.
///
/// # Errors
/// If the text is not an address with a port.
pub fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.parse() {
        Ok(address) => Ok(Some(address)),
        Err(_) if text.is_empty() => Ok(None),
        Err(_) => Err(expected(
            "an address and a port, such as 127.0.0.1:9090",
            format_args!("{text:?}"),
        )),
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
    async fn metrics(&self) -> Response<Body> {
        let health = self.disk.store.maintenance().health();
        let levels = Levels {
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
            log_lines_dropped: logging::lines_dropped(),
        };
        ops::metrics(self.metrics.render(levels))
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

impl Handle for Operator {
    type Body = Body;

    async fn handle(
        &self,
        connection: &Arc<ConnectionInfo>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let (head, incoming) = request.into_parts();
        let mut body = RequestBody::new(incoming, LEVEL_PACE);
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        let response = match head.uri.path() {
            "/metrics" | "/livez" | "/readyz" | "/readyz/reads" if !is_read => {
                ops::only("GET, HEAD")
            }
            "/metrics" => self.metrics().await,
            "/livez" => ops::text(StatusCode::OK, "alive"),
            "/readyz" => self.ready(Part::Everything).await,
            "/readyz/reads" => self.ready(Part::Reads).await,
            "/log-level" if head.method == Method::PUT => set_log_level(&mut body).await,
            "/log-level" if !is_read => ops::only("GET, HEAD, PUT"),
            "/log-level" => ops::text(StatusCode::OK, &logging::level()),
            path if path.starts_with("/openapi/") && !is_read => ops::only("GET, HEAD"),
            path => {
                ops::openapi(path).unwrap_or_else(|| ops::text(StatusCode::NOT_FOUND, "not found"))
            }
        };
        if !body.is_ended() {
            connection.set_linger();
        }
        response
    }
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
