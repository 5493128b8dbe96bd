//! Looks up the addresses of a host name, on a bounded number of threads.
//!
//! The system's resolver blocks its thread, for half a minute if no name server answers, and cannot be cancelled.
//! Concurrent callers with the same name share one lookup. So a name that hangs occupies one thread, and other names do
//! not wait for it.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Maximum number of concurrent lookups, each on a blocking thread.
pub const LOOKUPS_MAX: usize = 32;

type Name = (Box<str>, u16);
/// `None` until the lookup has ended.
type Answer = Option<Result<Arc<[SocketAddr]>, Arc<io::Error>>>;

#[derive(Default)]
pub(super) struct Resolver {
    /// Running lookups; at most [`LOOKUPS_MAX`].
    running: Arc<Mutex<HashMap<Name, watch::Receiver<Answer>>>>,
}

impl Resolver {
    /// Returns the addresses of a host.
    ///
    /// # Errors
    /// Errors of the resolver; `ResourceBusy` if too many lookups are running.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the lookup.
    pub(super) async fn resolve(&self, host: &str, port: u16) -> io::Result<Arc<[SocketAddr]>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok([SocketAddr::new(address, port)].into());
        }
        let mut answer = self.look_up((host.into(), port))?;
        let answer = answer.wait_for(Option::is_some).await;
        match answer.as_deref() {
            Ok(Some(Ok(addresses))) => Ok(addresses.clone()),
            Ok(Some(Err(error))) => Err(io::Error::new(error.kind(), error.to_string())),
            Ok(None) | Err(_) => Err(io::Error::other("the lookup did not end")),
        }
    }

    /// Joins the running lookup of a name, or starts one.
    fn look_up(&self, name: Name) -> io::Result<watch::Receiver<Answer>> {
        let mut running = self.running.lock();
        let is_full = running.len() >= LOOKUPS_MAX;
        let entry = match running.entry(name) {
            Entry::Occupied(entry) => return Ok(entry.get().clone()),
            Entry::Vacant(_) if is_full => {
                let text = "too many names are being looked up";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
            }
            Entry::Vacant(entry) => entry,
        };
        let (told, answer) = watch::channel(None);
        let (name, lookups) = (entry.key().clone(), self.running.clone());
        entry.insert(answer.clone());
        tokio::task::spawn_blocking(move || {
            let found = (&*name.0, name.1).to_socket_addrs().map(Arc::from_iter);
            lookups.lock().remove(&name);
            told.send_replace(Some(found.map_err(Arc::new)));
        });
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn callers_share_one_lookup() {
        let resolver = Resolver::default();
        let name: Name = ("hangs.invalid".into(), 80);
        let (told, answer) = watch::channel(None);
        resolver.running.lock().insert(name.clone(), answer);
        let waiting = [(), ()].map(|()| resolver.resolve("hangs.invalid", 80));
        let address = SocketAddr::from(([192, 0, 2, 1], 80));
        told.send_replace(Some(Ok([address].into())));
        for waits in waiting {
            assert_eq!(*waits.await.unwrap(), [address]);
        }
    }

    #[tokio::test]
    async fn limits_lookups() {
        let resolver = Resolver::default();
        let (_told, answer) = watch::channel(None);
        for port in 0..LOOKUPS_MAX as u16 {
            let name: Name = ("hangs.invalid".into(), port);
            resolver.running.lock().insert(name, answer.clone());
        }
        let refused = resolver.resolve("localhost", 80).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
        // An address needs no lookup.
        assert!(resolver.resolve("::1", 80).await.is_ok());
        resolver.running.lock().clear();
        assert!(resolver.resolve("localhost", 80).await.is_ok());
        assert!(resolver.running.lock().is_empty());
    }
}
