//! Our signed tokens: JWTs (RFC 7519) with HS256, signed by the key ring.
//!
//! The current time is a parameter, and the time checks of the JWT library are off. [`super::verifier`] checks the
//! tenant of a token and its revocation.

use std::{sync::LazyLock, time::Duration};

use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};

use super::{KeyRing, Subject, TOKEN_BYTES_MAX};
use crate::{
    error::{Error, Kind, Result},
    time::Timestamp,
};

/// The claim `iss` of our tokens. No tenant's backend may use it.
pub const ISSUER: &str = "chatfiles";

/// Only HS256, whatever the header says. The library checks no time claims.
static RULES: LazyLock<Validation> = LazyLock::new(|| {
    let mut rules = Validation::new(Algorithm::HS256);
    rules.required_spec_claims.clear();
    rules.validate_exp = false;
    rules.validate_nbf = false;
    rules.leeway = 0;
    rules
});

/// The claims of a token.
#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    /// The tenant, `org/app`.
    t: String,
    /// The user; absent in a token of the backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    /// Whether it is a token of the backend.
    app: bool,
    /// Seconds since 1970.
    iat: i64,
    /// Seconds since 1970; absent if the token does not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
}

/// A token with a valid signature that has not expired.
#[derive(Debug, Clone)]
pub(super) struct Verified {
    /// `org/app`.
    pub(super) tenant: String,
    pub(super) subject: Subject,
    pub(super) issued: Timestamp,
    /// The first moment at which it is invalid, which is also the retirement of its key. `None` = never.
    pub(super) expires: Option<Timestamp>,
}

/// Issues a token of `tenant` (`org/app`) for `subject`. `ttl` is rounded up to whole seconds; with `None` or zero the
/// token does not expire.
///
/// # Errors
/// [`Kind::InvalidArgument`] if the token is longer than [`TOKEN_BYTES_MAX`].
pub fn issue(
    ring: &KeyRing,
    tenant: String,
    subject: &Subject,
    ttl: Option<Duration>,
    now: Timestamp,
) -> Result<String> {
    let ttl = ttl.filter(|ttl| !ttl.is_zero());
    let claims = Claims {
        iss: ISSUER.to_owned(),
        t: tenant,
        sub: subject.user().map(str::to_owned),
        app: subject.user().is_none(),
        iat: now.secs(),
        exp: ttl.map(|ttl| now.plus(ttl + Duration::from_millis(999)).secs()),
    };
    let keys = ring.current(now);
    let key = keys.signing();
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(key.kid.clone());
    let token = jsonwebtoken::encode(&header, &claims, &key.signs).map_err(Error::internal)?;
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Error::invalid(
            "the tenant's name and the user's name are too long for a token",
        ));
    }
    Ok(token)
}

/// Whether a token names one of our keys, so that nobody else can have issued it.
pub(super) fn has_own_key(ring: &KeyRing, token: &str, now: Timestamp) -> bool {
    let kid = jsonwebtoken::decode_header(token).ok();
    let kid = kid.and_then(|header| header.kid);
    kid.is_some_and(|kid| ring.current(now).find(&kid).is_some())
}

/// Verifies the signature, the form and the expiry of one of our tokens.
///
/// # Errors
/// [`Kind::TokenExpired`] if the token or its key has expired (RFC 7519 §4.1.4: *on or after*; no leeway),
/// [`Kind::TokenInvalid`] otherwise.
pub(super) fn verify(ring: &KeyRing, token: &str, now: Timestamp) -> Result<Verified> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Kind::TokenInvalid.into());
    }
    let invalid = |error| Error::new(Kind::TokenInvalid).source(error);
    let header = jsonwebtoken::decode_header(token).map_err(invalid)?;
    let keys = ring.current(now);
    let key = header
        .kid
        .as_deref()
        .and_then(|kid| keys.find(kid))
        .ok_or(Kind::TokenInvalid)?;
    let claims = jsonwebtoken::decode::<Claims>(token, &key.verifies, &RULES)
        .map_err(invalid)?
        .claims;
    if claims.iss != ISSUER {
        return Err(Kind::TokenInvalid.into());
    }
    let subject = match (claims.sub, claims.app) {
        (Some(user), false) => Subject::User(user.into()),
        (None, true) => Subject::App,
        _ => return Err(Kind::TokenInvalid.into()),
    };
    let expires = match (claims.exp.map(Timestamp::from_secs), key.retire_after) {
        (Some(token), Some(key)) => Some(token.min(key)),
        (token, key) => token.or(key),
    };
    if expires.is_some_and(|end| now >= end) {
        return Err(Kind::TokenExpired.into());
    }
    Ok(Verified {
        tenant: claims.t,
        subject,
        issued: Timestamp::from_secs(claims.iat),
        expires,
    })
}
