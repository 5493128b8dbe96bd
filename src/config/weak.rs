//! Secrets that are legal and can be guessed: named at start and by `check-config`, never shown.
//!
//! Secrets in files below `keys/` are looked at where they are read (`auth/keyring.rs`).

use super::{Config, TenantConfig};
use crate::{auth::password, secret::SecretKey};

/// The length of a key that is made by `openssl rand -base64 32` or by the server, and a little less.
const KEY_BYTES_ADVISED: usize = 32;
/// The vendor's console gives out client secrets of 31 characters, with 160 random bits.
const CLIENT_SECRET_BYTES_ADVISED: usize = 24;

impl Config {
    /// What is weak: the setting, and why.
    pub fn weak_secrets(&self) -> Vec<String> {
        let cdn = self.service.cdn_secret.as_ref().map(|cdn| &cdn.secret);
        let mut weak = Vec::new();
        note(&mut weak, "cdn.secret", cdn, KEY_BYTES_ADVISED);
        for tenant in &self.tenants {
            note_tenant(&mut weak, tenant);
        }
        weak
    }

    /// Says in the log what is weak.
    pub fn warn_of_weak_secrets(&self) {
        for secret in self.weak_secrets() {
            tracing::warn!(secret, "a secret of the configuration can be guessed");
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
