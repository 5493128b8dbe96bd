//! Warnings about secrets in the configuration that are easy to guess. The warnings do not show the secrets.
//!
//! `auth/keyring.rs` checks the secrets in files below `keys/`.

use super::{Config, TenantConfig};
use crate::{auth::password, secret::SecretKey};

/// Less than the length of keys that the server or `openssl rand -base64 32` generates.
const KEY_BYTES_ADVISED: usize = 32;
/// The beginning and the length of client secrets from the vendor's console, which have 160 random bits.
const VENDOR_PREFIX: &str = "YXA6";
const VENDOR_BYTES: usize = 31;

/// The settings with weak secrets, each with the reason.
pub(super) fn secrets(config: &Config) -> Vec<String> {
    let cdn = config.service.cdn_secret.iter();
    let cdn = cdn.filter_map(|cdn| weak("cdn.secret", &cdn.secret, KEY_BYTES_ADVISED));
    cdn.chain(config.tenants.iter().flat_map(of_tenant))
        .collect()
}

fn of_tenant(tenant: &TenantConfig) -> Vec<String> {
    let client_secret = &tenant.client_secret;
    let is_vendors = |secret: &SecretKey| {
        let secret = secret.expose();
        secret.len() == VENDOR_BYTES && secret.starts_with(VENDOR_PREFIX)
    };
    let client_secret_bytes = match client_secret.as_ref().is_some_and(is_vendors) {
        true => VENDOR_BYTES,
        false => KEY_BYTES_ADVISED,
    };
    let introspection = tenant.auth.introspection.as_ref();
    let introspection_secret = introspection.map(|server| server.client_secret.clone());
    let secrets = [
        ("client_secret", client_secret, client_secret_bytes),
        (
            "auth: introspection.client_secret",
            &introspection_secret,
            KEY_BYTES_ADVISED,
        ),
        ("url_key", &tenant.url_key, KEY_BYTES_ADVISED),
        ("link_key", &tenant.link_key, KEY_BYTES_ADVISED),
        ("upload_key", &tenant.upload_key, KEY_BYTES_ADVISED),
        ("sdk_sign_key", &tenant.sdk_sign_key, KEY_BYTES_ADVISED),
        ("hook_secret", &tenant.hook_secret, KEY_BYTES_ADVISED),
    ];
    let secrets = secrets
        .into_iter()
        .filter_map(|(name, secret, bytes_advised)| {
            weak(&tenant.key(name), secret.as_ref()?, bytes_advised)
        });
    let accounts = tenant.account.iter().filter_map(|account| {
        let weakness = password::weakness(&account.password_hash)?;
        let key = tenant.key(&format!("account {}", account.name));
        Some(format!("{key}: password_hash: {weakness}"))
    });
    secrets.chain(accounts).collect()
}

fn weak(key: &str, secret: &SecretKey, bytes_advised: usize) -> Option<String> {
    let weakness = secret.weakness(bytes_advised)?;
    Some(format!("{key}: {weakness}"))
}
