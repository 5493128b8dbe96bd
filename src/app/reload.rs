//! Reloads settings while the server runs: certificates, keys of chat backends, tenants and retention.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;

use super::SecretStore;
use crate::{
    auth::BackendKeys,
    config::Config,
    error::{Error, Kind, Result},
    logging,
    retention::Policy,
    server::{operator::Authenticator, shutdown::Shutdown, tls::Tls},
    store::{Access, Store},
    tenant::Tenants,
};

/// How often the certificate files are checked for changes.
const CERTIFICATES_TICK: Duration = Duration::from_secs(5);

/// How often the key files of chat backends are checked for changes.
const BACKEND_KEYS_TICK: Duration = Duration::from_secs(1);

/// Changes the settings of a running server. Cheap to clone.
#[derive(Clone)]
pub struct Reloader {
    /// `None` if no listener speaks TLS.
    pub(super) tls: Option<Tls>,
    pub(super) tenants: Arc<ArcSwap<Tenants>>,
    pub(super) policy: Arc<ArcSwap<Policy>>,
    pub(super) backend_keys: Arc<BackendKeys>,
    /// The value that the server was started with.
    pub(super) upload_bytes_in_flight_max: u64,
    pub(super) secrets: SecretStore,
    /// Has the token of the operator.
    pub(super) authenticator: Arc<Authenticator>,
    /// Weak, so that a reloader does not keep the store open.
    pub(super) store: Weak<dyn Store>,
}

impl Reloader {
    /// Applies the tenants of a configuration, with their limits and retention, and reads the certificates, the keys of
    /// chat backends and the operator's token again. New requests and connections use them. All other settings need a
    /// restart. Blocking.
    ///
    /// # Errors
    /// The configuration, a key file or a certificate is not usable; nothing has changed then.
    pub fn reload(&self, config: &Config) -> Result<()> {
        let note = " (in force until the server is restarted)";
        config.check_in_flight(self.upload_bytes_in_flight_max, note)?;
        // Missing secrets are generated. Not if the store is unmounted: its secrets are not lost.
        let store = self.store.upgrade().ok_or_else(|| {
            Error::new(Kind::Unavailable(Duration::ZERO)).source("the server has ended")
        })?;
        store.maintenance().check(Access::Read)?;
        let before = self.tenants.load_full();
        let tenants = self.secrets.tenants(&before, &config.tenants)?;
        let backend_keys = BackendKeys::read(&tenants)?;
        self.certificates()?;
        self.authenticator.reload()?;
        // Nothing below can fail.
        self.backend_keys.install(backend_keys);
        config.warn_of_weak_secrets();
        self.policy.store(Arc::new(config.retention()));
        // Log lines hide ids from before an id can open a file until after the last one can.
        let (were_open, are_open) = (before.has_open_ids(), tenants.has_open_ids());
        logging::set_ids_masked(were_open || are_open);
        self.tenants.store(Arc::new(tenants));
        logging::set_ids_masked(are_open);
        Ok(())
    }

    /// Reads the certificates again, for new connections. Blocking.
    ///
    /// # Errors
    /// A file is not usable; the old certificates stay in use.
    pub fn certificates(&self) -> Result<()> {
        self.tls.as_ref().map_or(Ok(()), Tls::reload)
    }

    /// Reads the key files of chat backends again whenever they change, until shutdown.
    pub(super) async fn watch_backend_keys(self, shutdown: Shutdown) {
        while tokio::time::timeout(BACKEND_KEYS_TICK, shutdown.triggered())
            .await
            .is_err()
        {
            let keys = self.backend_keys.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || keys.look()).await {
                tracing::error!(%error, "cannot check the key files of chat backends");
            }
        }
    }

    /// Reads the certificates again whenever their files change, until shutdown.
    pub(super) async fn watch_certificates(self, shutdown: Shutdown) {
        while tokio::time::timeout(CERTIFICATES_TICK, shutdown.triggered())
            .await
            .is_err()
        {
            let this = self.clone();
            let work = move || match &this.tls {
                Some(tls) if tls.is_changed() => tls.reload().map(|()| true),
                _ => Ok(false),
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => tracing::info!("reloaded the certificates"),
                Ok(Err(error)) => kept(&error),
                Err(error) => kept(&Error::internal(error)),
            }
        }
    }
}

fn kept(error: &Error) {
    tracing::error!(%error, "cannot reload the certificates; the old ones stay in use");
}
