//! Verifies tokens of every form, applies revocation, and caches valid tokens.
//!
//! A token is our JWT, an Easemob dynamic token, or one of the tenant's chat backend. Issuing tokens, asking an
//! introspection server, and answering requests without a token, is elsewhere.

use std::{hash::RandomState, sync::Arc};

use hyper::header::{AUTHORIZATION, HeaderMap};
use quick_cache::{
    Weighter,
    sync::{Cache, DefaultLifecycle},
};

use super::{
    BackendKeys, Identity, KeyRing, Subject, TOKEN_BYTES_MAX, dynamic, jwt,
    token::{self, Verified},
};
use crate::{
    error::{Kind, Result},
    tenant::{IntrospectionServer, JwtIssuer, Tenant},
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

/// What a token says, as far as this server can know it.
#[derive(Debug)]
pub enum Verdict<'t> {
    /// The token is valid, and this is who sent it.
    Caller(Identity),
    /// Only the tenant's introspection server can know the token.
    Ask(&'t IntrospectionServer),
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
    /// For a JWT of the chat backend: the generation of the keys when the token was verified.
    backend_keys: Option<u64>,
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
/// The order, in which the first form that fits decides: a dynamic token by its beginning; our own token by its key or its
/// issuer; a JWT of the chat backend by its issuer; anything else is for the introspection server, if there is one. So a
/// token of this server, valid or not, is never sent to another server.
///
/// The cache. Key: the token. Bound: 32 MiB. Staleness: none. Each hit checks the expiry, the revocation, the requested
/// tenant, and the generations of the key ring, of the tenants and of the chat backends' keys. Invalid tokens are not
/// cached, so a client without a valid token cannot evict those of others.
///
/// A lookup hashes the whole token with a keyed hash (SipHash, keys from the OS), and compares tokens only if the
/// hashes are equal. So its duration does not reveal how much of a guessed token is right.
pub struct Verifier {
    ring: Arc<KeyRing>,
    backend_keys: Arc<BackendKeys>,
    cache: Cache<Box<str>, Arc<Entry>, ByBytes, RandomState>,
    dynamic_ttls: dynamic::KnownTtls,
}

impl Verifier {
    /// A verifier with an empty cache.
    pub fn new(ring: Arc<KeyRing>, backend_keys: Arc<BackendKeys>) -> Self {
        let cache = Cache::with(
            CACHE_TOKENS,
            CACHE_BYTES_MAX,
            ByBytes,
            RandomState::new(),
            DefaultLifecycle::default(),
        );
        Self {
            ring,
            backend_keys,
            cache,
            dynamic_ttls: dynamic::KnownTtls::default(),
        }
    }

    /// Key files of chat backends whose last version could not be used.
    pub fn stale_key_files(&self) -> usize {
        self.backend_keys.stale_files()
    }

    /// Verifies `token` for `tenant`, or says that an introspection server must be asked.
    ///
    /// Once a second, one caller also checks whether the key file has changed: one `stat`, and after a rotation a read
    /// of a few hundred bytes.
    ///
    /// # Errors
    /// [`Kind::TokenExpired`] if it has expired or was revoked by `tokens_not_before`; [`Kind::TokenInvalid`] if it is
    /// no token of this server or of the tenant's backend, its key is unknown, or it belongs to another tenant.
    pub fn verify<'t>(
        &self,
        tenant: &'t Tenant,
        token: &str,
        now: Timestamp,
    ) -> Result<Verdict<'t>> {
        // Before the lookup, which hashes the whole token.
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Kind::TokenInvalid.into());
        }
        // Read before the keys: if they change meanwhile, the token is verified again next time.
        let generation = self.ring.generation(now);
        let is_fresh = |entry: &Arc<Entry>| {
            let is_of = |keys| keys == self.backend_keys.generation();
            entry.generation == generation
                && entry.tenants == tenant.generation
                && entry.backend_keys.is_none_or(is_of)
        };
        if let Some(entry) = self.cache.get(token).filter(is_fresh)
            && is_name_of(tenant, &entry.tenant)
        {
            return entry.admit(tenant, now).map(Verdict::Caller);
        }
        let backend_keys = self.backend_keys.generation();
        let (verified, backend_keys) = match self.origin(tenant, token, now)? {
            Origin::Dynamic => {
                let verified = dynamic::verify(tenant, &self.dynamic_ttls, token, now)?;
                (verified, None)
            }
            Origin::Own => (token::verify(&self.ring, token, now)?, None),
            Origin::Jwt(issuer) => {
                let verified = jwt::verify(&self.backend_keys, issuer, tenant, token, now)?;
                (verified, Some(backend_keys))
            }
            Origin::Elsewhere(server) => return Ok(Verdict::Ask(server)),
        };
        let Verified {
            tenant: name,
            subject,
            issued,
            expires,
        } = verified;
        if !is_name_of(tenant, &name) {
            return Err(Kind::TokenInvalid.into());
        }
        let entry = Arc::new(Entry {
            tenant: name.into(),
            subject,
            issued,
            expires,
            generation,
            tenants: tenant.generation,
            backend_keys,
        });
        let identity = entry.admit(tenant, now)?;
        self.cache.insert(token.into(), entry);
        Ok(Verdict::Caller(identity))
    }

    /// Who can verify a token, by what the token claims to be.
    fn origin<'t>(&self, tenant: &'t Tenant, token: &str, now: Timestamp) -> Result<Origin<'t>> {
        if token.starts_with(dynamic::PREFIX) {
            return Ok(Origin::Dynamic);
        }
        let auth = &tenant.auth;
        if auth.is_none() || token::has_own_key(&self.ring, token, now) {
            return Ok(Origin::Own);
        }
        let issuer = jwt::claimed_issuer(token);
        if issuer.as_deref() == Some(token::ISSUER) {
            return Ok(Origin::Own);
        }
        if let Some(jwt) = &auth.jwt
            && issuer.as_deref() == Some(&jwt.issuer)
        {
            return Ok(Origin::Jwt(jwt));
        }
        // Anything else, such as control characters, cannot be a token (RFC 6750 §2.1), and is not worth a question.
        let is_token = token.bytes().all(|byte| byte.is_ascii_graphic());
        match &auth.introspection {
            Some(server) if is_token => Ok(Origin::Elsewhere(server)),
            _ => Err(Kind::TokenInvalid.into()),
        }
    }
}

/// Who can verify a token.
enum Origin<'t> {
    /// The tenant's client secret.
    Dynamic,
    /// The key ring.
    Own,
    /// The keys of the chat backend.
    Jwt(&'t JwtIssuer),
    /// The introspection server.
    Elsewhere(&'t IntrospectionServer),
}

impl Entry {
    /// Checks expiry and revocation, at each use.
    fn admit(&self, tenant: &Tenant, now: Timestamp) -> Result<Identity> {
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
