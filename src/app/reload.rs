//! What can be changed while the server runs.

use std::time::Duration;

use crate::{
    error::{Error, Result},
    server::{shutdown::Shutdown, tls::Tls},
};

/// How often the files of certificates are looked at.
const CERTIFICATES_TICK: Duration = Duration::from_secs(5);

/// Changes a running server. Cheap to clone.
#[derive(Clone)]
pub struct Reloader {
    pub(super) tls: Option<Tls>,
}

impl Reloader {
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
