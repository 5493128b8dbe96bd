//! From a token to an identity: every form of token, revocation, and a cache of those found good.
//!
//! Forms of token are a closed set (`Form`); JWTs of the chat backend and introspection join it there.
//! Nothing is issued here, and a missing token is the caller's to answer.

use std::{hash::RandomState, sync::Arc};

use hyper::header::{AUTHORIZATION, HeaderMap};
use quick_cache::{
    OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};

use super::{Identity, KeyRing, Subject, TOKEN_BYTES_MAX, dynamic, token};
use crate::{
    error::{Kind, Result},
    tenant::Tenant,
    time::Timestamp,
};

/// Tokens of usual length that the cache holds.
const CACHE_TOKENS: usize = 65_536;
/// Bytes of tokens and entries that the cache holds: no user can fill the memory with long dynamic tokens.
const CACHE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Bytes of an entry besides its token, about.
const ENTRY_BYTES: u64 = 256;

/// The token of `Authorization: Bearer <token>` (RFC 6750 §2.1). The scheme's case and the number of spaces
/// do not matter; another scheme, no token, or a header that is no text are `None`.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.split_once([' ', '\t'])?;
    let token = token.trim_start();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// How a token says what it says.
enum Form {
    /// A JWT of ours.
    Signed,
    /// An Easemob dynamic token.
    Dynamic,
}

impl Form {
    fn of(token: &str) -> Self {
        if token.starts_with(dynamic::PREFIX) {
            Self::Dynamic
        } else {
            Self::Signed
        }
    }
}

/// A token that was found good.
struct Entry {
    /// `org/app`.
    tenant: Box<str>,
    subject: Subject,
    issued: Timestamp,
    expires: Option<Timestamp>,
    /// Of the key ring, when it was verified.
    generation: u64,
    /// Of the tenants: a dynamic token is signed with a secret of theirs.
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
/// The cache: token → what it said, at most 32 MiB. It is never stale: an end, a revocation, the tenant
/// asked for and the generations of the key ring and of the tenants are checked at every hit. Tokens that fail
/// are not kept, so that nobody without a token can displace those of others.
///
/// A lookup hashes the whole token with a keyed hash (SipHash, keys from the OS) and compares texts only
/// where hashes meet; the time it takes tells nothing about how much of a guess is right.
pub struct Verifier {
    ring: Arc<KeyRing>,
    cache: Cache<Box<str>, Arc<Entry>, ByBytes, RandomState>,
    dynamic_ttls: dynamic::KnownTtls,
}

impl Verifier {
    /// A verifier with an empty cache.
    pub fn new(ring: Arc<KeyRing>) -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(CACHE_TOKENS)
            .weight_capacity(CACHE_BYTES_MAX)
            .build()
            .expect("both capacities are set");
        let cache = Cache::with_options(
            options,
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

    /// Who calls `tenant` with `token`.
    ///
    /// Once a second, one caller also looks whether the key file changed: a `stat`, and a read of a few
    /// hundred bytes after a rotation.
    ///
    /// # Errors
    /// [`Kind::TokenExpired`] when it has expired or was revoked by `tokens_not_before`;
    /// [`Kind::TokenInvalid`] when it is no token of ours, its key is unknown, or it is another tenant's.
    pub fn verify(&self, tenant: &Tenant, token: &str, now: Timestamp) -> Result<Identity> {
        // Before the lookup, or a long text would be hashed for nothing.
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
        let verified = match Form::of(token) {
            Form::Signed => token::verify(&self.ring, token, now)?,
            Form::Dynamic => dynamic::verify(tenant, &self.dynamic_ttls, token, now)?,
        };
        let entry = Arc::new(Entry {
            tenant: verified.tenant.into(),
            subject: verified.subject,
            issued: verified.issued,
            expires: verified.expires,
            // As it was before: a ring that changed meanwhile has the token verified once more.
            generation,
            tenants: tenant.generation,
        });
        let identity = entry.admit(tenant, now)?;
        self.cache.insert(token.into(), entry);
        Ok(identity)
    }
}

impl Entry {
    /// What must hold each time: the tenant, then the end, then that it was not revoked.
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

/// Whether `name` is the tenant's `org/app`, without building it.
fn is_name_of(tenant: &Tenant, name: &str) -> bool {
    name.strip_prefix(tenant.org.as_str())
        .and_then(|rest| rest.strip_prefix('/'))
        .is_some_and(|app| app == tenant.app)
}

#[cfg(test)]
mod tests;
