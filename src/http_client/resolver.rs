//! Looks up the addresses of a host name, on a bounded number of threads.
//!
//! The system's resolver blocks its thread, for half a minute if no name server answers, and cannot be cancelled.
//! Concurrent callers with the same name share one lookup. So a name that hangs occupies one thread, and other names do
//! not wait for it.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use futures_util::future::{BoxFuture, FutureExt, Shared};
use parking_lot::Mutex;

/// Maximum number of concurrent lookups, each on a blocking thread.
pub const LOOKUPS_MAX: usize = 32;

type Name = (Box<str>, u16);
type Lookup = Shared<BoxFuture<'static, Result<Arc<[SocketAddr]>, Arc<io::Error>>>>;

#[derive(Clone, Default)]
pub(super) struct Resolver {
    /// Running lookups; at most [`LOOKUPS_MAX`].
    running: Arc<Mutex<HashMap<Name, Lookup>>>,
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
        let found = self.look_up((host.into(), port))?.await;
        found.map_err(|error| io::Error::new(error.kind(), error))
    }

    /// Joins the running lookup of a name, or starts one.
    fn look_up(&self, name: Name) -> io::Result<Lookup> {
        let mut running = self.running.lock();
        if let Some(lookup) = running.get(&name) {
            return Ok(lookup.clone());
        }
        if running.len() >= LOOKUPS_MAX {
            let text = "too many names are being looked up";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        let (key, lookups) = (name.clone(), self.running.clone());
        let thread = tokio::task::spawn_blocking(move || {
            let found = (&*key.0, key.1).to_socket_addrs().map(Arc::from_iter);
            lookups.lock().remove(&key);
            found
        });
        let found = async { thread.await.map_err(io::Error::from).flatten() };
        let lookup = found.map(|found| found.map_err(Arc::new)).boxed().shared();
        running.insert(name, lookup.clone());
        Ok(lookup)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::pending;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn callers_share_one_lookup() {
        let resolver = Resolver::default();
        let (told, answer) = oneshot::channel();
        let lookup = async { Ok(answer.await.unwrap()) }.boxed().shared();
        let name: Name = ("hangs.invalid".into(), 80);
        resolver.running.lock().insert(name, lookup);
        let waiting = [(), ()].map(|()| resolver.resolve("hangs.invalid", 80));
        let address = SocketAddr::from(([192, 0, 2, 1], 80));
        told.send([address].into()).unwrap();
        for waits in waiting {
            assert_eq!(*waits.await.unwrap(), [address]);
        }
    }

    #[tokio::test]
    async fn limits_lookups() {
        let resolver = Resolver::default();
        let hangs = pending().boxed().shared();
        for port in 0..LOOKUPS_MAX as u16 {
            let name: Name = ("hangs.invalid".into(), port);
            resolver.running.lock().insert(name, hangs.clone());
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
