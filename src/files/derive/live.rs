//! Limits the bytes of derivatives in memory: those in the cache, and those that are being sent.
//!
//! A response body keeps its bytes until the last of them is sent. Clients can ask for thumbnails of any size, up to some
//! megabytes each, so a client that reads slowly could make the server hold any number of them. So no derivative is made
//! for a client or tenant that holds most of the limit.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    error::{Error, Kind, Result},
    fair_queue::Claimant,
    files::pool::RETRY_AFTER,
};

/// Counts the bytes by tenant and client.
///
/// Memory: one entry per tenant and per client with a derivative in memory.
pub(super) struct Live {
    /// Above this limit, a client or tenant that holds more than half of it is refused; above 1.5 times the limit, everyone.
    bytes_max: u64,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    bytes: u64,
    tenants: HashMap<u32, u64>,
    clients: HashMap<Claimant, u64>,
}

/// Bytes that count until the last reference to them is dropped.
struct Counted {
    bytes: Bytes,
    live: Arc<Live>,
    claimant: Claimant,
}

impl Live {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            held: Mutex::default(),
        }
    }

    /// Checks whether a derivative may be made for a claimant.
    ///
    /// # Errors
    /// `Unavailable` where the claimant, its tenant, or all of them hold too much.
    pub(super) fn admit(&self, claimant: Claimant) -> Result<()> {
        let held = self.held.lock();
        let is_admitted = match held.bytes {
            bytes if bytes <= self.bytes_max => true,
            bytes if bytes > self.bytes_max + self.bytes_max / 2 => false,
            _ => !held.is_greedy(claimant, self.bytes_max / 2),
        };
        match is_admitted {
            true => Ok(()),
            false => Err(Error::from(Kind::Unavailable(RETRY_AFTER))
                .source("clients have not read enough of the derivatives that were made for them")),
        }
    }

    /// Counts bytes that were made for a claimant, until the last reference to them is dropped.
    pub(super) fn count(self: &Arc<Self>, claimant: Claimant, bytes: Bytes) -> Bytes {
        self.held.lock().add(claimant, bytes.len() as u64);
        Bytes::from_owner(Counted {
            bytes,
            live: self.clone(),
            claimant,
        })
    }
}

impl Held {
    /// Whether a client holds more than `share`, or its tenant does and the client has at least the tenant's average.
    fn is_greedy(&self, claimant: Claimant, share: u64) -> bool {
        let own = self.clients.get(&claimant).copied().unwrap_or_default();
        let tenants = self.tenants.get(&claimant.tenant).copied();
        let clients = self.clients.keys();
        let siblings = clients.filter(|other| other.tenant == claimant.tenant);
        let siblings = siblings.count() as u64;
        let tenants = tenants.unwrap_or_default();
        own > share || tenants > share && own.saturating_mul(siblings) >= tenants
    }

    fn add(&mut self, claimant: Claimant, bytes: u64) {
        self.bytes += bytes;
        *self.tenants.entry(claimant.tenant).or_default() += bytes;
        *self.clients.entry(claimant).or_default() += bytes;
    }

    fn remove(&mut self, claimant: Claimant, bytes: u64) {
        self.bytes -= bytes;
        let take = |held: &mut u64| {
            *held -= bytes;
            *held == 0
        };
        if self.tenants.get_mut(&claimant.tenant).is_some_and(take) {
            self.tenants.remove(&claimant.tenant);
        }
        if self.clients.get_mut(&claimant).is_some_and(take) {
            self.clients.remove(&claimant);
        }
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let bytes = self.bytes.len() as u64;
        self.live.held.lock().remove(self.claimant, bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn claimant(tenant: u32, client: u8) -> Claimant {
        Claimant::new(tenant, Ipv4Addr::new(192, 0, 2, client).into())
    }

    fn made(live: &Arc<Live>, tenant: u32, client: u8, bytes: usize) -> Bytes {
        live.count(claimant(tenant, client), Bytes::from(vec![7; bytes]))
    }

    #[test]
    fn counts_until_last_slice_drops() {
        let live = Arc::new(Live::new(100));
        let bytes = made(&live, 0, 1, 60);
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_eq!((live.held.lock().bytes, &slice[..]), (60, &[7; 10][..]));
        drop(slice);
        let held = live.held.lock();
        assert_eq!(held.bytes, 0);
        assert!(held.tenants.is_empty() && held.clients.is_empty());
    }

    #[test]
    fn refuses_only_greedy_client() {
        let live = Arc::new(Live::new(100));
        let held = made(&live, 0, 1, 101);
        assert!(live.admit(claimant(0, 1)).is_err());
        for (tenant, client) in [(0, 2), (1, 1), (1, 3)] {
            assert!(live.admit(claimant(tenant, client)).is_ok());
        }
        drop(held);
        assert!(live.admit(claimant(0, 1)).is_ok());
    }

    #[test]
    fn refuses_greedy_tenant() {
        let live = Arc::new(Live::new(100));
        let _held = [1, 2, 3].map(|client| made(&live, 0, client, 40));
        for client in [1, 2, 3] {
            assert!(live.admit(claimant(0, client)).is_err());
        }
        assert!(live.admit(claimant(0, 4)).is_ok());
        assert!(live.admit(claimant(1, 4)).is_ok());
    }

    #[test]
    fn refuses_everyone_above_hard_limit() {
        let live = Arc::new(Live::new(100));
        let _held = [0, 1, 2, 3].map(|tenant| made(&live, tenant, 1, 38));
        assert!(live.admit(claimant(9, 9)).is_err());
    }
}
