//! Generated secrets of tenants: files in the directory `keys` of the store.
//!
//! The files themselves are read and written by `auth/keyring.rs`.

use std::path::PathBuf;

use crate::{
    auth::keyring,
    config::TenantConfig,
    error::Result,
    secret::SecretKey,
    tenant::{Tenant, Tenants},
};

/// Finds the secrets that the configuration leaves out, and makes tenants with them.
#[derive(Debug, Clone)]
pub struct SecretStore {
    keys: PathBuf,
}

impl SecretStore {
    /// The secrets in the directory `keys`.
    pub fn new(keys: PathBuf) -> Self {
        Self { keys }
    }

    /// Makes the table that replaces `before`. Secrets that are missing are generated and written. Blocking.
    ///
    /// # Errors
    /// `Internal`: a secret cannot be read or written.
    pub fn tenants(&self, before: &Tenants, configs: &[TenantConfig]) -> Result<Tenants> {
        let generate = |name: &str| keyring::load_or_create_secret(&self.keys, name);
        let tenants = configs.iter().map(|config| config.tenant(generate));
        Ok(before.followed_by(tenants.collect::<Result<_>>()?))
    }

    /// Makes one tenant with the secrets that are there. Writes nothing, so that a command that is started with the
    /// wrong directory does not make secrets that no server accepts. Blocking.
    ///
    /// # Errors
    /// `Internal`: a secret is missing or cannot be read.
    pub fn existing_tenant(&self, config: &TenantConfig) -> Result<Tenant> {
        let load = |name: &str| -> Result<SecretKey> { keyring::load_secret(&self.keys, name) };
        config.tenant(load)
    }
}
