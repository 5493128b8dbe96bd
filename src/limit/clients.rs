//! Limits the connections and the memory of each client, and of all clients together.
//!
//! A client is an IPv4 address or an IPv6 /64, the smallest network that a provider assigns. Bounds on one connection
//! are not enough, since a client may open many. `budget.rs` limits the bytes of uploads, and `limiter.rs` the calls
//! per second.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ipnet::IpNet;
use parking_lot::Mutex;

use crate::{
    client_network::network,
    metrics::{Counter, MemoryLevels},
};

/// A resource that is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Open connections. `server/listener.rs` limits their total.
    Connections,
    /// Open HTTP/2 connections. They are counted and not limited: the number of streams that a connection may open
    /// depends on it.
    Http2Connections,
    /// Memory of the requests of HTTP/2 connections, in bytes.
    RequestBytes,
    /// Flow-control windows of HTTP/2 connections, in bytes, beyond the minimum of each connection.
    WindowBytes,
    /// Header tables of HTTP/2 connections, in bytes, beyond the minimum of each connection.
    TableBytes,
    /// Bytes of files that were read into memory and are not sent yet.
    FileBytes,
}

const RESOURCES: usize = 6;

/// The bounds of one resource.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// For all clients together.
    pub total_max: u64,
    /// For one client, unless it is exempt.
    pub client_max: u64,
    /// `client_max` applies once all clients together use this much: until then there is enough for everyone.
    pub contended_from: u64,
}

impl Bound {
    const NONE: Self = Self {
        total_max: u64::MAX,
        client_max: u64::MAX,
        contended_from: 0,
    };
}

/// The bounds of all resources.
#[derive(Debug, Clone)]
pub struct Config {
    /// For [`Resource::Connections`] of one client.
    pub connections_per_client_max: usize,
    /// For [`Resource::RequestBytes`].
    pub request_bytes: Bound,
    /// For [`Resource::WindowBytes`].
    pub window_bytes: Bound,
    /// For [`Resource::TableBytes`].
    pub table_bytes: Bound,
    /// For [`Resource::FileBytes`].
    pub file_bytes: Bound,
    /// Networks without per-client bounds: proxies, and the backend's own servers.
    pub exempt: Vec<IpNet>,
}

impl Config {
    /// The bounds of a server that accepts `connections_max` connections, `per_client_max` of them from one client.
    pub fn new(connections_max: usize, per_client_max: usize, exempt: Vec<IpNet>) -> Self {
        /// Request memory for each possible connection: as much as the read buffers of two idle HTTP/1 connections.
        /// With the default of 10,000 connections it is enough for 25,000 concurrent requests.
        const REQUEST_BYTES_PER_CONNECTION: u64 = 32 << 10;
        /// Minimum for any number of connections: enough for a few thousand requests.
        const REQUEST_BYTES_MIN: u64 = 64 << 20;
        const WINDOW_BYTES: u64 = 256 << 20;
        /// Enough for 1,000 connections with seven uploads each, or for 60 connections with any number of uploads.
        const TABLE_BYTES: u64 = 128 << 20;
        const FILE_BYTES: u64 = 128 << 20;
        let connections = u64::try_from(connections_max).unwrap_or(u64::MAX);
        let request_bytes = connections
            .saturating_mul(REQUEST_BYTES_PER_CONNECTION)
            .max(REQUEST_BYTES_MIN);
        let bound = |total_max: u64, share: u64, contended_from: u64| Bound {
            total_max,
            client_max: total_max / share,
            contended_from,
        };
        Self {
            connections_per_client_max: per_client_max,
            request_bytes: bound(request_bytes, 4, 0),
            window_bytes: bound(WINDOW_BYTES, 8, 0),
            table_bytes: bound(TABLE_BYTES, 8, TABLE_BYTES / 2),
            file_bytes: bound(FILE_BYTES, 8, FILE_BYTES / 2),
            exempt,
        }
    }
}

/// Counts what is in use, by client and in total.
///
/// Memory: one entry for each client with an open connection. The lock is held for one map operation, when a
/// connection opens and when it closes.
#[derive(Debug)]
pub struct ClientLimiter {
    by_network: Mutex<HashMap<IpAddr, Entry>>,
    total: Usage,
    bounds: [Bound; RESOURCES],
    refusals: [Counter; RESOURCES],
    exempt: Vec<IpNet>,
}

#[derive(Debug)]
struct Entry {
    connections: usize,
    usage: Arc<Usage>,
}

#[derive(Debug, Default)]
struct Usage([AtomicU64; RESOURCES]);

/// A client with an open connection. The last one of a client removes its entry when it is dropped.
pub struct Client {
    clients: Arc<ClientLimiter>,
    usage: Arc<Usage>,
    /// `None` for an exempt client, which has no entry.
    network: Option<IpAddr>,
}

/// Permission to use some of a resource. Dropping it returns that amount.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    client: Arc<Client>,
    resource: Resource,
    amount: u64,
}

/// Without bounds.
impl Default for ClientLimiter {
    fn default() -> Self {
        Self::new(Config {
            connections_per_client_max: usize::MAX,
            request_bytes: Bound::NONE,
            window_bytes: Bound::NONE,
            table_bytes: Bound::NONE,
            file_bytes: Bound::NONE,
            exempt: Vec::new(),
        })
    }
}

impl ClientLimiter {
    /// An unused limiter.
    pub fn new(config: Config) -> Self {
        let connections = Bound {
            client_max: config.connections_per_client_max as u64,
            ..Bound::NONE
        };
        Self {
            by_network: Mutex::default(),
            total: Usage::default(),
            bounds: [
                connections,
                Bound::NONE,
                config.request_bytes,
                config.window_bytes,
                config.table_bytes,
                config.file_bytes,
            ],
            refusals: Default::default(),
            exempt: config.exempt,
        }
    }

    /// The client with this address.
    pub fn client(self: &Arc<Self>, address: IpAddr) -> Arc<Client> {
        let address = address.to_canonical();
        if self.exempt.iter().any(|net| net.contains(&address)) {
            return self.exempt_client();
        }
        let network = network(address);
        let mut by_network = self.by_network.lock();
        let entry = by_network.entry(network).or_insert_with(|| Entry {
            connections: 0,
            usage: Arc::default(),
        });
        entry.connections += 1;
        Arc::new(Client {
            clients: self.clone(),
            usage: entry.usage.clone(),
            network: Some(network),
        })
    }

    /// A client with no bounds but those for all clients together.
    pub fn exempt_client(self: &Arc<Self>) -> Arc<Client> {
        Arc::new(Client {
            clients: self.clone(),
            usage: Arc::default(),
            network: None,
        })
    }

    /// How much of a resource is in use, and its total bound.
    fn level(&self, resource: Resource) -> (u64, u64) {
        (
            self.total.get(resource),
            self.bounds[resource as usize].total_max,
        )
    }

    /// The levels of each kind of memory, for metrics.
    pub fn memory(&self) -> Vec<MemoryLevels> {
        let levels = |(resource, of)| {
            let (held_bytes, held_bytes_max) = self.level(resource);
            MemoryLevels {
                of,
                held_bytes,
                held_bytes_max,
                refusals: self.refusals(resource),
            }
        };
        [
            (Resource::RequestBytes, "http2_requests"),
            (Resource::WindowBytes, "http2_windows"),
            (Resource::TableBytes, "http2_tables"),
            (Resource::FileBytes, "file_bytes"),
        ]
        .map(levels)
        .into()
    }

    /// How often a resource was refused, by either bound.
    fn refusals(&self, resource: Resource) -> u64 {
        self.refusals[resource as usize].get()
    }
}

impl Client {
    /// Takes some of a resource. Returns `None`, and counts a refusal, if this client or all together would use too
    /// much.
    pub fn take(self: &Arc<Self>, resource: Resource, amount: u64) -> Option<Permit> {
        let (clients, index) = (&self.clients, resource as usize);
        let bound = clients.bounds[index];
        let is_bound =
            self.network.is_some() && clients.total.get(resource) >= bound.contended_from;
        let client_max = if is_bound { bound.client_max } else { u64::MAX };
        if self.usage.add(resource, amount, client_max) {
            if clients.total.add(resource, amount, bound.total_max) {
                return Some(Permit {
                    client: self.clone(),
                    resource,
                    amount,
                });
            }
            self.usage.subtract(resource, amount);
        }
        clients.refusals[index].add(1);
        None
    }

    /// The amount of `resource` for each unit of `among`, if it is divided evenly: the smaller of the share within this
    /// client and the share within all.
    pub fn share(&self, resource: Resource, among: Resource) -> u64 {
        let bound = self.clients.bounds[resource as usize];
        let of_all = bound.total_max / self.clients.total.get(among).max(1);
        let of_client = bound.client_max / self.usage.get(among).max(1);
        match self.network {
            Some(_) => of_all.min(of_client),
            None => of_all,
        }
    }
}

impl Permit {
    /// The client that has the permit.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Takes `more`. Returns `false`, and counts a refusal, if that is too much.
    pub fn grow(&mut self, more: u64) -> bool {
        let Some(mut permit) = self.client.take(self.resource, more) else {
            return false;
        };
        self.amount += std::mem::take(&mut permit.amount);
        true
    }

    /// Returns what is above `amount`.
    pub fn shrink(&mut self, amount: u64) {
        let over = self.amount.saturating_sub(amount);
        self.give_back(over);
        self.amount -= over;
    }

    fn give_back(&self, amount: u64) {
        self.client.usage.subtract(self.resource, amount);
        self.client.clients.total.subtract(self.resource, amount);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.network).finish()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back(self.amount);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let Some(network) = self.network else { return };
        let mut by_network = self.clients.by_network.lock();
        if let Some(entry) = by_network.get_mut(&network) {
            entry.connections -= 1;
            if entry.connections == 0 {
                by_network.remove(&network);
            }
        }
    }
}

impl Usage {
    // Relaxed: these words protect no other memory, and the changes of one atomic have a total order.

    fn get(&self, resource: Resource) -> u64 {
        self.0[resource as usize].load(Ordering::Relaxed)
    }

    /// Adds `amount`, unless the sum would exceed `max`.
    fn add(&self, resource: Resource, amount: u64, max: u64) -> bool {
        let add = |held: u64| held.checked_add(amount).filter(|after| *after <= max);
        self.0[resource as usize]
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .is_ok()
    }

    fn subtract(&self, resource: Resource, amount: u64) {
        self.0[resource as usize].fetch_sub(amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(bound: Bound) -> Arc<ClientLimiter> {
        let mut config = Config::new(10, 2, vec!["10.0.0.0/8".parse().unwrap()]);
        config.request_bytes = bound;
        Arc::new(ClientLimiter::new(config))
    }

    fn at(clients: &Arc<ClientLimiter>, address: &str) -> Arc<Client> {
        clients.client(address.parse().unwrap())
    }

    #[test]
    fn limits_connections_per_address() {
        let clients = clients(Bound::NONE);
        let connect = |address: &str| at(&clients, address).take(Resource::Connections, 1);
        let first = connect("192.0.2.1").unwrap();
        let second = connect("::ffff:192.0.2.1").unwrap();
        assert!(connect("192.0.2.1").is_none());
        let other = connect("192.0.2.2").unwrap();
        drop(first);
        let again = connect("192.0.2.1").unwrap();
        assert!(connect("192.0.2.1").is_none());
        // An IPv6 /64 is one client.
        let six = (
            connect("2001:db8::1").unwrap(),
            connect("2001:db8::2").unwrap(),
        );
        assert!(connect("2001:db8::3").is_none());
        let another = connect("2001:db8:0:1::1").unwrap();
        let many: Vec<_> = (0..10).map(|_| connect("10.1.2.3").unwrap()).collect();
        assert_eq!(clients.refusals(Resource::Connections), 3);
        drop((second, other, again, six, another, many));
        assert!(
            clients.by_network.lock().is_empty(),
            "clients that left are remembered"
        );
        assert_eq!(clients.level(Resource::Connections), (0, u64::MAX));
    }

    #[test]
    fn limits_client_and_total() {
        let clients = clients(Bound {
            total_max: 100,
            client_max: 40,
            contended_from: 0,
        });
        let (one, other) = (at(&clients, "192.0.2.1"), at(&clients, "192.0.2.2"));
        let exempt = at(&clients, "10.0.0.1");
        let take = |client: &Arc<Client>, amount| client.take(Resource::RequestBytes, amount);
        let mut held = take(&one, 40).unwrap();
        assert!(take(&one, 1).is_none());
        let second = take(&other, 10).unwrap();
        let third = take(&exempt, 50).unwrap();
        assert!(take(&other, 1).is_none(), "nothing is left");
        held.shrink(30);
        held.shrink(35);
        assert_eq!(clients.level(Resource::RequestBytes), (90, 100));
        assert!(take(&other, 10).is_some());
        drop((held, second, third));
        assert_eq!(clients.level(Resource::RequestBytes), (0, 100));
        assert_eq!(clients.refusals(Resource::RequestBytes), 2);
    }

    #[test]
    fn client_bound_applies_when_contended() {
        let clients = clients(Bound {
            total_max: 100,
            client_max: 20,
            contended_from: 50,
        });
        let (one, other) = (at(&clients, "192.0.2.1"), at(&clients, "192.0.2.2"));
        let take = |client: &Arc<Client>, amount| client.take(Resource::RequestBytes, amount);
        let held: Vec<_> = (0..5).map(|_| take(&one, 10).unwrap()).collect();
        assert!(take(&one, 10).is_none());
        let second = (take(&other, 10).unwrap(), take(&other, 10).unwrap());
        assert!(take(&other, 10).is_none());
        drop((held, second));
        assert!(take(&one, 10).is_some());
    }

    #[test]
    fn shares_evenly_among_connections() {
        let clients = clients(Bound {
            total_max: 1000,
            client_max: 400,
            contended_from: 0,
        });
        let one = at(&clients, "192.0.2.1");
        let share =
            |client: &Client| client.share(Resource::RequestBytes, Resource::Http2Connections);
        assert_eq!(share(&one), 400);
        let _of_one: Vec<_> = (0..2)
            .map(|_| one.take(Resource::Http2Connections, 1))
            .collect();
        assert_eq!(share(&one), 200);
        let exempt = clients.exempt_client();
        let _of_exempt: Vec<_> = (0..8)
            .map(|_| exempt.take(Resource::Http2Connections, 1))
            .collect();
        assert_eq!((share(&one), share(&exempt)), (100, 100));
    }

    #[test]
    fn bounds_hold_under_concurrency() {
        const MAX: u64 = 1000;
        let clients = clients(Bound {
            total_max: MAX,
            client_max: MAX / 2,
            contended_from: 0,
        });
        let now = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8_u8 {
                let (clients, now) = (&clients, &now);
                scope.spawn(move || {
                    let client = at(clients, &format!("192.0.2.{}", thread % 3));
                    for round in 0..20_000_u64 {
                        let amount = (u64::from(thread) * 131 + round * 17) % 400;
                        let Some(permit) = client.take(Resource::RequestBytes, amount) else {
                            continue;
                        };
                        let sum = now.fetch_add(amount, Ordering::SeqCst) + amount;
                        assert!(sum <= MAX, "{sum}");
                        now.fetch_sub(amount, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(clients.level(Resource::RequestBytes), (0, MAX));
    }
}
