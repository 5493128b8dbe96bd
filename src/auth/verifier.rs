//! Verifies tokens of every form, applies revocation, and caches valid tokens.
//!
//! A token is our JWT or an Easemob dynamic token. Issuing tokens, and answering requests without a token, is elsewhere.

use std::{hash::RandomState, sync::Arc};

use hyper::header::{AUTHORIZATION, HeaderMap};
use quick_cache::{
    Weighter,
    sync::{Cache, DefaultLifecycle},
};

use super::{Identity, KeyRing, Subject, TOKEN_BYTES_MAX, dynamic, token};
use crate::{
    error::{Kind, Result},
    tenant::Tenant,
    time::Timestamp,
};

/// Expected number of tokens in the cache.
const CACHE_TOKENS: usize = 65_536;
/// Maximum size of the cache in bytes, tokens and entries: long dynamic tokens cannot fill the memory.
const CACHE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Approximate size of an entry without its token.
const ENTRY_BYTES: u64 = 256;

/// The token of `Authorization: Bearer <token>` (RFC 6750 §2.1). The scheme is case-insensitive and may be followed by
/// several spaces. Returns `None` for another scheme, an empty token, or a header that is not text.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.split_once([' ', '\t'])?;
    let token = token.trim_start();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// A verified token in the cache.
struct Entry {
    /// `org/app`.
    tenant: Box<str>,
    subject: Subject,
    issued: Timestamp,
    expires: Option<Timestamp>,
    /// The generation of the key ring when the token was verified.
    generation: u64,
    /// The generation of the tenants: a dynamic token is signed with the tenant's secret.
    tenants: u64,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Box<str>, Arc<Entry>> for ByBytes {
    fn weight(&self, token: &Box<str>, _: &Arc<Entry>) -> u64 {
        token.len() as u64 + ENTRY_BYTES
    }
}

/// Verifies tokens.
///
/// The cache. Key: the token. Bound: 32 MiB. Staleness: none. Each hit checks the expiry, the revocation, the requested
/// tenant, and the generations of the key ring and of the tenants. Invalid tokens are not cached, so a client without a
/// valid token cannot evict those of others.
///
/// A lookup hashes the whole token with a keyed hash (SipHash, keys from the OS), and compares tokens only if the
/// hashes are equal. So its duration does not reveal how much of a guessed token is right.
pub struct Verifier {
    ring: Arc<KeyRing>,
    cache: Cache<Box<str>, Arc<Entry>, ByBytes, RandomState>,
    dynamic_ttls: dynamic::KnownTtls,
}

impl Verifier {
    /// A verifier with an empty cache.
    pub fn new(ring: Arc<KeyRing>) -> Self {
        let cache = Cache::with(
            CACHE_TOKENS,
            CACHE_BYTES_MAX,
            ByBytes,
            RandomState::new(),
            DefaultLifecycle::default(),
        );
        Self {
            ring,
            cache,
            dynamic_ttls: dynamic::KnownTtls::default(),
        }
    }

    /// Verifies `token` for `tenant` and returns its identity.
    ///
    /// Once a second, one caller also checks whether the key file has changed: one `stat`, and after a rotation a read
    /// of a few hundred bytes.
    ///
    /// # Errors
    /// [`Kind::TokenExpired`] if it has expired or was revoked by `tokens_not_before`; [`Kind::TokenInvalid`] if it is
    /// not a token of this server, its key is unknown, or it belongs to another tenant.
    pub fn verify(&self, tenant: &Tenant, token: &str, now: Timestamp) -> Result<Identity> {
        // Before the lookup, which hashes the whole token.
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Kind::TokenInvalid.into());
        }
        let generation = self.ring.generation(now);
        if let Some(entry) = self
            .cache
            .get(token)
            .filter(|entry| entry.generation == generation && entry.tenants == tenant.generation)
        {
            return entry.admit(tenant, now);
        }
        let verified = match token.starts_with(dynamic::PREFIX) {
            true => dynamic::verify(tenant, &self.dynamic_ttls, token, now)?,
            false => token::verify(&self.ring, token, now)?,
        };
        let entry = Arc::new(Entry {
            tenant: verified.tenant.into(),
            subject: verified.subject,
            issued: verified.issued,
            expires: verified.expires,
            // The generation read above: if the key ring has changed since, the token is verified again next time.
            generation,
            tenants: tenant.generation,
        });
        let identity = entry.admit(tenant, now)?;
        self.cache.insert(token.into(), entry);
        Ok(identity)
    }
}

impl Entry {
    /// The checks of each use: the tenant, then expiry and revocation.
    fn admit(&self, tenant: &Tenant, now: Timestamp) -> Result<Identity> {
        if !is_name_of(tenant, &self.tenant) {
            return Err(Kind::TokenInvalid.into());
        }
        let expired = self.expires.is_some_and(|end| now >= end);
        if expired || tenant.is_revoked(self.subject.user(), self.issued) {
            return Err(Kind::TokenExpired.into());
        }
        Ok(Identity {
            tenant: tenant.index,
            subject: self.subject.clone(),
        })
    }
}

/// Whether `name` is the tenant's `org/app`, without an allocation.
fn is_name_of(tenant: &Tenant, name: &str) -> bool {
    name.strip_prefix(tenant.org.as_str())
        .and_then(|rest| rest.strip_prefix('/'))
        .is_some_and(|app| app == tenant.app)
}

#[cfg(test)]
mod tests;
