//! The operator's listener: `/metrics`, `/livez`, `/readyz`. An address of its own, so that it is shown to whom
//! the network lets reach it, and to nobody who downloads a file; there is no authentication. It serves nothing
//! else, and outlives the public listener, so that it can say that the server is stopping.

use std::{sync::Arc, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
};
use tokio::sync::Semaphore;

use super::{
    connection::{self, ConnectionInfo, Handle},
    endpoint::Listener,
    listener,
    service::Service,
    shutdown::Shutdown,
};
use crate::{
    api::{body::Body, ops},
    error::Error,
    limit::Limiter,
    metrics::{Levels, Metrics},
    store::local::LocalStore,
};

/// Connections at a time: a few scrapers and probes.
const CONNECTIONS_MAX: usize = 64;
/// What a scrape under way has when all else has ended.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// A disk that does not say within this time what it has left counts as failing. Probes commonly wait for a
/// second or more.
const DISK_PATIENCE: Duration = Duration::from_millis(500);

/// Answers the operator's requests.
pub struct Operator {
    /// Every cell of the server.
    pub metrics: Metrics,
    /// The public listener's, for its levels.
    pub service: Arc<Service>,
    /// The same.
    pub limiter: Arc<Limiter>,
    /// Whose disk is asked.
    pub disk: Disk,
    /// The public listener's.
    pub shutdown: Shutdown,
}

/// The store's disk, asked by one at a time: on one that hangs, probes must not gather blocked threads.
pub struct Disk {
    store: LocalStore,
    free_min_bytes: u64,
    asking: Arc<Semaphore>,
}

/// Serves until `ended` is triggered; without listeners there is only the end to wait for.
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
        shutdown_grace: SHUTDOWN_GRACE,
        connection,
    };
    // Nobody asks how many of these there are.
    let counts = Arc::default();
    listener::serve(listeners, None, Arc::new(operator), config, counts, ended).await;
}

impl Operator {
    async fn metrics(&self) -> Response<Body> {
        let levels = Levels {
            files: self.service.api().files.levels(),
            limiter_addresses: self.limiter.entries(),
            disk_free_bytes: self.disk.free_bytes().await,
            disk_free_min_bytes: self.disk.free_min_bytes,
        };
        ops::metrics(self.metrics.render(levels))
    }

    /// Whether to send clients here, and why not.
    async fn ready(&self) -> Response<Body> {
        let not_ready = |why: &str| ops::text(StatusCode::SERVICE_UNAVAILABLE, why);
        if self.shutdown.is_triggered() {
            return not_ready("draining: the server is stopping");
        }
        let floor = self.disk.free_min_bytes;
        match self.disk.free_bytes().await {
            None => not_ready("disk: it does not say what it has left"),
            Some(free) if free < floor => {
                not_ready(&format!("disk: {free} bytes free, the floor is {floor}"))
            }
            Some(_) => ops::text(StatusCode::OK, "ready"),
        }
    }
}

impl Disk {
    /// The store's, which takes uploads while `free_min_bytes` are free.
    pub fn new(store: LocalStore, free_min_bytes: u64) -> Self {
        Self {
            store,
            free_min_bytes,
            asking: Arc::new(Semaphore::new(1)),
        }
    }

    /// Bytes that are free; `None` where the disk fails or does not answer in time.
    async fn free_bytes(&self) -> Option<u64> {
        let ask = async {
            let turn = self.asking.clone().acquire_owned().await;
            let turn = turn.map_err(Error::internal)?;
            let store = self.store.clone();
            let asked = tokio::task::spawn_blocking(move || {
                // Kept until the disk has answered, however long that takes.
                let _turn = turn;
                store.free_bytes()
            });
            asked.await.map_err(Error::internal)?
        };
        match tokio::time::timeout(DISK_PATIENCE, ask).await {
            Ok(Ok(free)) => Some(free),
            Ok(Err(error)) => {
                tracing::error!(%error, "the disk cannot be asked what it has left");
                None
            }
            Err(_) => {
                tracing::error!("the disk does not say in time what it has left");
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
        // Nothing here takes a body.
        if !request.body().is_end_stream() {
            connection.set_linger();
        }
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/metrics" | "/livez" | "/readyz" if !is_read => ops::only_read(),
            "/metrics" => self.metrics().await,
            "/livez" => ops::text(StatusCode::OK, "alive"),
            "/readyz" => self.ready().await,
            _ => ops::text(StatusCode::NOT_FOUND, "not found"),
        }
    }
}
