//! Warnings about secrets in the configuration that are easy to guess. The warnings do not show the secrets.
//!
//! `auth/keyring.rs` checks the secrets in files below `keys/`.

use super::{Config, TenantConfig};
use crate::{auth::password, secret::SecretKey};

/// Less than the length of keys that the server or `openssl rand -base64 32` generates.
const KEY_BYTES_ADVISED: usize = 32;
/// Less than the length of client secrets from the vendor's console: 31 characters, with 160 random bits.
const CLIENT_SECRET_BYTES_ADVISED: usize = 24;

impl Config {
    /// The settings with weak secrets, each with the reason.
    pub fn weak_secrets(&self) -> Vec<String> {
        let cdn = self.service.cdn_secret.as_ref().map(|cdn| &cdn.secret);
        let mut weak = Vec::new();
        note(&mut weak, "cdn.secret", cdn, KEY_BYTES_ADVISED);
        for tenant in &self.tenants {
            note_tenant(&mut weak, tenant);
        }
        weak
    }

    /// Logs a warning for each weak secret.
    pub fn warn_of_weak_secrets(&self) {
        for secret in self.weak_secrets() {
            tracing::warn!(secret, "a secret in the configuration is easy to guess");
        }
    }
}

fn note_tenant(weak: &mut Vec<String>, tenant: &TenantConfig) {
    let secrets = [
        (
            "client_secret",
            &tenant.client_secret,
            CLIENT_SECRET_BYTES_ADVISED,
        ),
        ("url_key", &tenant.url_key, KEY_BYTES_ADVISED),
        ("link_key", &tenant.link_key, KEY_BYTES_ADVISED),
        ("upload_key", &tenant.upload_key, KEY_BYTES_ADVISED),
        ("sdk_sign_key", &tenant.sdk_sign_key, KEY_BYTES_ADVISED),
        ("hook_secret", &tenant.hook_secret, KEY_BYTES_ADVISED),
    ];
    for (name, secret, bytes_advised) in secrets {
        note(weak, &tenant.key(name), secret.as_ref(), bytes_advised);
    }
    for account in &tenant.account {
        if let Some(weakness) = password::weakness(&account.password_hash) {
            let key = tenant.key(&format!("account {}", account.name));
            weak.push(format!("{key}: password_hash: {weakness}"));
        }
    }
}

fn note(weak: &mut Vec<String>, key: &str, secret: Option<&SecretKey>, bytes_advised: usize) {
    if let Some(weakness) = secret.and_then(|secret| secret.weakness(bytes_advised)) {
        weak.push(format!("{key}: {weakness}"));
    }
}
