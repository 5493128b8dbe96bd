//! Binds the listening sockets, and accepts connections. The accept loop owns the task of every connection.
//!
//! `connection.rs` serves the connections.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ipnet::IpNet;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Deserializer};
use tokio::task::{JoinError, JoinSet};
use tracing::{debug, error, info, warn};

use super::{
    connection::{self, Entry, Handle},
    endpoint::{Endpoint, Listener},
    shutdown::Shutdown,
    socket::Socket,
    tls::Tls,
};
use crate::{
    error::{Error, Result},
    limit::{ClientLimiter, clients},
    metrics::{ConnectionCut, Connections},
    settings::{expected, networks, number, seconds},
};

/// Pause before the next accept if the process or the machine is out of a resource.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Settings of the listeners, from `[server]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The endpoints to listen on.
    #[serde(deserialize_with = "endpoints")]
    pub listen: Vec<Endpoint>,
    /// Networks whose PROXY headers are accepted, on listeners that expect them.
    #[serde(rename = "proxy_protocol_from", deserialize_with = "networks")]
    pub proxies: Vec<IpNet>,
    /// Upper limit of open connections; more wait in the kernel's queue. At most half of the descriptors that the process may
    /// open, since requests need files too.
    #[serde(deserialize_with = "number::<1, 1_000_000, _, _>")]
    pub connections_max: usize,
    /// Upper limit for one address (for IPv6, a /64); more connections are closed immediately.
    #[serde(deserialize_with = "number::<1, 1_000_000, _, _>")]
    pub connections_per_address_max: usize,
    /// Networks without that limit: proxies and the backend's own servers.
    #[serde(skip)]
    pub connections_exempt: Vec<IpNet>,
    /// How long running requests may take after a shutdown was triggered.
    #[serde(rename = "shutdown_grace_seconds", deserialize_with = "seconds")]
    pub shutdown_grace: Duration,
    /// Time limit for running requests after a handover: another process serves new requests meanwhile.
    #[serde(rename = "handover_grace_seconds", deserialize_with = "seconds")]
    pub handover_grace: Duration,
    /// Timeouts and limits of each connection.
    #[serde(skip)]
    pub connection: connection::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![Endpoint::tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))],
            proxies: Vec::new(),
            connections_max: 10_000,
            connections_per_address_max: 1_000,
            connections_exempt: Vec::new(),
            shutdown_grace: Duration::from_secs(30),
            handover_grace: Duration::from_secs(300),
            connection: connection::Config::default(),
        }
    }
}

fn endpoints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
    let endpoints = Vec::deserialize(deserializer)?;
    match endpoints.is_empty() {
        true => Err(expected("at least one address", "[]")),
        false => Ok(endpoints),
    }
}

impl Config {
    /// The limits of the clients of these connections.
    pub fn clients(&self) -> ClientLimiter {
        ClientLimiter::new(clients::Config::new(
            self.connections_max,
            self.connections_per_address_max,
            self.connections_exempt.clone(),
        ))
    }
}

/// Listens on every endpoint, or on none. Uses the sockets of `inherited` where there are any. Must be called within the
/// runtime.
///
/// `[::]` also accepts IPv4, and so conflicts with `0.0.0.0` on the same port.
///
/// # Errors
/// As [`Listener::bind`].
pub fn bind(
    endpoints: &[Endpoint],
    mut inherited: impl FnMut(&str) -> Option<OwnedFd>,
) -> Result<Vec<Listener>> {
    if endpoints.is_empty() {
        return Err(Error::invalid("no address to listen on"));
    }
    let bind = |endpoint: &Endpoint| match inherited(&endpoint.to_string()) {
        Some(socket) => Listener::inherit(endpoint, socket),
        None => Listener::bind(endpoint),
    };
    endpoints.iter().map(bind).collect()
}

/// Raises the soft limit of open descriptors (RLIMIT_NOFILE) to the hard limit, and returns the resulting limit. If the
/// system refuses, the limit is unchanged.
pub fn raise_descriptors_max() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    // `None` means unlimited.
    limit.current.unwrap_or(u64::MAX)
}

/// Accepts and serves connections until the shutdown is triggered. Then it closes the listeners, lets running requests
/// finish within [`Config::shutdown_grace`] or [`Config::handover_grace`] (or until [`Shutdown::abort`]), and drops the
/// rest. Returns when no connection is left. `counts` counts the connections, `clients` limits them by client. `tls` is for
/// the listeners that use it; without it, these listeners are closed immediately.
///
/// # Cancel safety
/// Dropping the future aborts all connections.
pub(crate) async fn serve<H: Handle>(
    listeners: Vec<Listener>,
    tls: Option<Tls>,
    handler: Arc<H>,
    config: Config,
    counts: Arc<Connections>,
    clients: Arc<ClientLimiter>,
    shutdown: Shutdown,
) {
    let connections_max = connections_max(config.connections_max, raise_descriptors_max());
    let connection_config = Arc::new(config.connection);
    let mut doors = Doors::new(listeners, &config.proxies, tls, clients, &counts);
    // The set both counts and owns the connections. Only this loop adds to it, so no semaphore is needed.
    let mut connections = JoinSet::new();
    let mut is_full = false;
    let mut triggered = pin!(shutdown.triggered());
    loop {
        tokio::select! {
            biased;
            () = &mut triggered => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                // The warning is repeated only after the number was clearly below the limit.
                is_full &= connections.len() > connections_max - connections_max.div_ceil(4);
            }
            (socket, peer, entry) = doors.accept(), if connections.len() < connections_max => {
                let (handler, config) = (handler.clone(), connection_config.clone());
                connections.spawn(connection::run(socket, peer, entry, handler, config, shutdown.clone()));
                if connections.len() >= connections_max && !is_full {
                    is_full = true;
                    warn!(connections_max, "connection limit reached; accepting no more until one closes");
                }
            }
        }
        counts.open.set(connections.len());
    }
    drop(doors);
    let grace_over = shutdown.grace_over(config.shutdown_grace, config.handover_grace);
    drain(connections, grace_over, &counts, &shutdown).await;
}

/// The listeners that can be served, and how their connections begin.
struct Doors {
    listeners: Vec<(Listener, Arc<Entry>)>,
    /// The listener that is polled first.
    turn: usize,
    /// The last attempt has failed, and was logged.
    is_failing: bool,
}

/// A connection, its peer's address (a Unix socket has none), and how it begins.
type Accepted = (Socket, Option<SocketAddr>, Arc<Entry>);

impl Doors {
    /// The proxies are for the listeners that expect PROXY headers.
    fn new(
        listeners: Vec<Listener>,
        proxies: &[IpNet],
        tls: Option<Tls>,
        clients: Arc<ClientLimiter>,
        counts: &Arc<Connections>,
    ) -> Self {
        let proxies: Arc<[IpNet]> = proxies.into();
        let door = |listener: Listener| {
            let endpoint = listener.endpoint();
            let entry = Entry {
                proxies: endpoint.is_proxied.then(|| proxies.clone()),
                tls: tls.clone().filter(|_| endpoint.is_tls),
                clients: clients.clone(),
                counts: counts.clone(),
            };
            (endpoint.is_tls == entry.tls.is_some()).then_some((listener, Arc::new(entry)))
        };
        Self {
            listeners: listeners.into_iter().filter_map(door).collect(),
            turn: 0,
            is_failing: false,
        }
    }

    /// Accepts the next connection of any listener.
    ///
    /// # Cancel safety
    /// Dropping the future loses no connection. It ends a pause after an error early.
    async fn accept(&mut self) -> Accepted {
        loop {
            match poll_fn(|cx| self.poll_accept(cx)).await {
                Ok((mut socket, peer, entry)) => {
                    self.is_failing = false;
                    match socket.prepare(peer) {
                        Ok(()) => {
                            entry.counts.accepted.add(1);
                            return (socket, peer, entry);
                        }
                        Err(error) => {
                            debug!(?peer, %error, "connection closed before it was served");
                        }
                    }
                }
                Err(error) if is_of_one_connection(&error) => {
                    debug!(%error, "connection closed before it was accepted");
                }
                Err(error) => {
                    if !self.is_failing {
                        self.is_failing = true;
                        error!(%error, "cannot accept connections; retrying every {} ms", ACCEPT_PAUSE.as_millis());
                    }
                    // Errors like EMFILE leave the connection in the queue, so an immediate retry would spin.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Each listener is polled first in turn, so that none starves the others.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        for step in 0..self.listeners.len() {
            let index = self.turn.wrapping_add(step) % self.listeners.len();
            let (listener, entry) = &self.listeners[index];
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                self.turn = index + 1;
                return Poll::Ready(accepted.map(|(socket, peer)| (socket, peer, entry.clone())));
            }
        }
        Poll::Pending
    }
}

/// At least one, since otherwise nothing would be served.
fn connections_max(wanted: usize, descriptors_max: u64) -> usize {
    let possible = usize::try_from(descriptors_max / 2).unwrap_or(usize::MAX);
    if wanted > possible {
        warn!(
            wanted,
            possible,
            "fewer connections than configured: limited to half of the open-descriptor limit (RLIMIT_NOFILE)"
        );
    }
    wanted.min(possible).max(1)
}

/// Whether an error of accept(2) concerns a connection that broke while it waited, and not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

async fn drain(
    mut connections: JoinSet<()>,
    grace_over: impl Future<Output = ()>,
    counts: &Connections,
    shutdown: &Shutdown,
) {
    let finished = async {
        let mut retirement = pin!(shutdown.end_retirement());
        let mut is_retired = false;
        loop {
            tokio::select! {
                ended = connections.join_next() => match ended {
                    Some(ended) => report(ended),
                    None => return,
                },
                () = &mut retirement, if !is_retired => is_retired = true,
            }
            counts.open.set(connections.len());
        }
    };
    let is_finished = tokio::select! {
        biased;
        () = finished => true,
        () = shutdown.aborted() => false,
        () = grace_over => false,
    };
    if !is_finished {
        warn!(
            connections = connections.len(),
            "dropping connections that did not finish in time"
        );
        connections.shutdown().await;
    }
    counts.open.set(0);
}

/// Logs the connections that the shutdown has ended. After a handover, nobody scrapes this process's metrics, so this is
/// the only record of them.
pub fn report_exit(counts: &Connections) {
    info!(
        closed_idle = counts.cuts(ConnectionCut::ExitIdle),
        dropped_requests = counts.cuts(ConnectionCut::ExitRequest),
        dropped_answers = counts.cuts(ConnectionCut::ExitAnswer),
        "all connections are closed"
    );
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a connection's task panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_files() {
        for (wanted, descriptors, max) in [
            (10_000, 1 << 20, 10_000),
            (10_000, 1024, 512),
            (0, 1024, 1),
            (5, 0, 1),
        ] {
            assert_eq!(connections_max(wanted, descriptors), max);
        }
    }
}
