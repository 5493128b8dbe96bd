//! Listening sockets and the accept loop, the owner of every connection's task.
//!
//! What happens on a connection is `connection.rs`'s.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    pin::pin,
    sync::Arc,
    task::Poll,
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

/// How long to leave accepting alone when the process or the machine has run out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Settings of the listeners: `[server]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where to listen.
    #[serde(deserialize_with = "endpoints")]
    pub listen: Vec<Endpoint>,
    /// Whose PROXY headers are believed, on the listeners that read them.
    #[serde(rename = "proxy_protocol_from", deserialize_with = "networks")]
    pub proxies: Vec<IpNet>,
    /// Connections at a time; further ones wait in the kernel's queue. At most half of the descriptors that
    /// the process may open, since a request needs files too.
    #[serde(deserialize_with = "number::<1, 1_000_000, _, _>")]
    pub connections_max: usize,
    /// The same from one address (of IPv6, a /64); further ones are closed at once.
    #[serde(deserialize_with = "number::<1, 1_000_000, _, _>")]
    pub connections_per_address_max: usize,
    /// Networks to which that does not apply: proxies, the backend's own servers.
    #[serde(skip)]
    pub connections_exempt: Vec<IpNet>,
    /// How long running requests may take after a shutdown was triggered.
    #[serde(rename = "shutdown_grace_seconds", deserialize_with = "seconds")]
    pub shutdown_grace: Duration,
    /// The same after another process has taken over: nobody waits for the end of this one then.
    #[serde(rename = "handover_grace_seconds", deserialize_with = "seconds")]
    pub handover_grace: Duration,
    /// The bounds of each connection.
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
    /// What limits the clients of these connections.
    pub fn clients(&self) -> ClientLimiter {
        ClientLimiter::new(clients::Config::new(
            self.connections_max,
            self.connections_per_address_max,
            self.connections_exempt.clone(),
        ))
    }
}

/// Listens on every endpoint, or on none; takes the sockets of `inherited` that are there. Must be called within
/// the runtime.
///
/// `[::]` takes IPv4 too where the system is set so (`net.ipv6.bindv6only` = 0), and then clashes with
/// `0.0.0.0` at the same port.
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

/// Raises the soft limit of open descriptors (RLIMIT_NOFILE) to the hard one and returns what is in force.
/// Where the system refuses, the limit stays as it was.
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
    // None is "unlimited".
    limit.current.unwrap_or(u64::MAX)
}

/// Accepts and serves until the shutdown is triggered; then closes the listeners, lets running requests
/// finish within [`Config::shutdown_grace`] or [`Config::handover_grace`] (or until [`Shutdown::abort`]), and drops the
/// rest. Returns when no connection is left. Connections are counted in `counts`, and by client in `clients`. `tls` is
/// for the listeners that speak it; without it, they are closed at once.
///
/// # Cancel safety
/// Dropping the future aborts all connections.
pub async fn serve<H: Handle>(
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
    let proxies: Arc<[IpNet]> = config.proxies.into();
    let (listeners, entries): (Vec<_>, Vec<_>) = listeners
        .into_iter()
        .filter_map(|listener| {
            let endpoint = listener.endpoint();
            let entry = Entry {
                proxies: endpoint.is_proxied.then(|| proxies.clone()),
                tls: endpoint.is_tls.then(|| tls.clone()).flatten(),
                clients: clients.clone(),
                counts: counts.clone(),
            };
            (endpoint.is_tls == entry.tls.is_some()).then_some((listener, Arc::new(entry)))
        })
        .unzip();
    // The set is the count and the owner at once: the loop alone adds to it, so no semaphore is needed.
    let mut connections = JoinSet::new();
    let (mut turn, mut full, mut failing) = (0, false, false);
    let mut triggered = pin!(shutdown.triggered());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut triggered => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                counts.open.set(connections.len());
                // Said again only after it was clearly over.
                full &= connections.len() > connections_max - connections_max.div_ceil(4);
                continue;
            }
            accepted = accept(&listeners, &mut turn), if connections.len() < connections_max => accepted,
        };
        match accepted {
            Ok((mut socket, peer, index)) => {
                failing = false;
                if let Err(error) = socket.prepare(peer) {
                    debug!(?peer, %error, "connection gone before it was served");
                    continue;
                }
                let (handler, config) = (handler.clone(), connection_config.clone());
                connections.spawn(connection::run(
                    socket,
                    peer,
                    entries[index].clone(),
                    handler,
                    config,
                    shutdown.clone(),
                ));
                counts.accepted.add(1);
                counts.open.set(connections.len());
                if connections.len() >= connections_max && !full {
                    full = true;
                    warn!(
                        connections_max,
                        "all connections are taken, accepting no more until one ends"
                    );
                }
            }
            Err(error) if is_of_one_connection(&error) => {
                debug!(%error, "connection gone before it was accepted")
            }
            Err(error) => {
                if !failing {
                    failing = true;
                    error!(%error, "cannot accept connections, trying again every {} ms", ACCEPT_PAUSE.as_millis());
                }
                // Errors like EMFILE leave the connection in the queue: accepting at once again would spin.
                tokio::select! {
                    () = &mut triggered => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    drop(listeners);
    let grace_over = shutdown.grace_over(config.shutdown_grace, config.handover_grace);
    drain(connections, grace_over, &counts, &shutdown).await;
    counts.open.set(0);
}

/// At least one, or nothing would ever be served.
fn connections_max(wanted: usize, descriptors_max: u64) -> usize {
    let possible = usize::try_from(descriptors_max / 2).unwrap_or(usize::MAX);
    if wanted > possible {
        warn!(
            wanted,
            possible,
            "fewer connections than configured: half of the descriptor limit (RLIMIT_NOFILE)"
        );
    }
    wanted.min(possible).max(1)
}

/// The next connection of any listener, and which; each has its turn to be asked first, so none starves another.
async fn accept(
    listeners: &[Listener],
    turn: &mut usize,
) -> io::Result<(Socket, Option<SocketAddr>, usize)> {
    poll_fn(|cx| {
        for step in 0..listeners.len() {
            let index = turn.wrapping_add(step) % listeners.len();
            if let Poll::Ready(accepted) = listeners[index].poll_accept(cx) {
                *turn = index + 1;
                return Poll::Ready(accepted.map(|(socket, peer)| (socket, peer, index)));
            }
        }
        Poll::Pending
    })
    .await
}

/// Errors of accept(2) that speak of a connection that broke while it waited, not of the listener.
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
            "dropping connections that have not finished"
        );
        connections.shutdown().await;
    }
}

/// Logs what the stop has cut. It is the only place where that is seen of a process that has handed over: nobody
/// scrapes its metrics.
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
    fn connections_leave_half_of_the_descriptors_to_files() {
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
