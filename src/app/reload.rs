//! What can be changed while the server runs: certificates, tenants, how long files live.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;

use crate::{
    config::{self, Config},
    error::{Error, Kind, Result},
    logging,
    retention::Policy,
    server::{shutdown::Shutdown, tls::Tls},
    store::{Access, Store},
    tenant::Tenants,
};

/// How often the files of certificates are looked at.
const CERTIFICATES_TICK: Duration = Duration::from_secs(5);

/// Changes a running server. Cheap to clone.
#[derive(Clone)]
pub struct Reloader {
    /// None where no listener speaks it.
    pub(super) tls: Option<Tls>,
    pub(super) tenants: Arc<ArcSwap<Tenants>>,
    pub(super) policy: Arc<ArcSwap<Policy>>,
    /// As the server was started with.
    pub(super) upload_bytes_in_flight_max: u64,
    /// Where generated secrets lie.
    pub(super) keys: PathBuf,
    /// Weak, so that a reloader does not keep the store open.
    pub(super) store: Weak<dyn Store>,
}

impl Reloader {
    /// Puts a new configuration in force, for requests and connections to come: `[[tenant]]` with what they take
    /// from `[limits]` and `[retention]`, and the certificates' files. The rest of it needs a new process. Blocking.
    ///
    /// # Errors
    /// What is wrong; then nothing has changed.
    pub fn reload(&self, config: &Config) -> Result<()> {
        config.check_in_flight(self.upload_bytes_in_flight_max)?;
        // Secrets that are not found are made: never in the place of those of a store that is gone.
        let store = self.store.upgrade().ok_or_else(|| {
            Error::new(Kind::Unavailable(Duration::ZERO)).source("the server has ended")
        })?;
        store.maintenance().check(Access::Read)?;
        let before = self.tenants.load_full();
        let (configs, defaults) = (&config.tenants, &config.tenant_defaults);
        let tenants = config::tenants_after(&before, configs, defaults, &self.keys)?;
        self.certificates()?;
        config.warn_of_weak_secrets();
        self.policy.store(Arc::new(config.retention()));
        // Before an id opens a file, and until after it no longer does.
        let (were_open, are_open) = (before.has_open_ids(), tenants.has_open_ids());
        logging::set_ids_masked(were_open || are_open);
        self.tenants.store(Arc::new(tenants));
        logging::set_ids_masked(are_open);
        Ok(())
    }

    /// Reads the certificates anew, for connections to come. Blocking.
    ///
    /// # Errors
    /// Which file, and what is wrong with it; those in force stay.
    pub fn certificates(&self) -> Result<()> {
        self.tls.as_ref().map_or(Ok(()), Tls::reload)
    }

    /// Reads certificates anew whose files have changed, until the end.
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
                Ok(Ok(true)) => tracing::info!("new certificates are in force"),
                Ok(Err(error)) => kept(&error),
                Err(error) => kept(&Error::internal(error)),
            }
        }
    }
}

fn kept(error: &Error) {
    tracing::error!(%error, "the certificates stay as they were");
}
