//! Verifies JWTs that a chat backend signs with its own key: `[tenant.auth.jwt]`.
//!
//! The rules of RFC 8725: the algorithm comes from the key and the configuration, never from the token; issuer and
//! audience are mandatory; a critical extension is refused. The time is a parameter, and the library checks no claims.
//! Our own tokens are in [`super::token`].

use jsonwebtoken::{Header, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Subject,
    backend_keys::BackendKeys,
    claims::{self, Rules},
    jwks::library_algorithm,
    token::Verified,
};
use crate::{
    error::{Error, Kind, Result},
    tenant::{JwtIssuer, Tenant},
    time::Timestamp,
};

/// The issuer that a JWT names, before anything is verified; `None` if it is no JWT, or names none.
pub(super) fn claimed_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        iss: Option<String>,
    }
    let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Claims>(token);
    claims.ok()?.iss
}

/// Verifies a token that claims to be from the tenant's issuer.
///
/// # Errors
/// [`Kind::TokenExpired`] if only `exp` is wrong, [`Kind::TokenInvalid`] otherwise.
pub(super) fn verify(
    keys: &BackendKeys,
    issuer: &JwtIssuer,
    tenant: &Tenant,
    token: &str,
    now: Timestamp,
) -> Result<Verified> {
    let invalid = |error| Error::new(Kind::TokenInvalid).source(error);
    let header = jsonwebtoken::decode_header(token).map_err(invalid)?;
    // RFC 7515 §4.1.11: an extension that is not understood makes the token invalid. None is understood here.
    if header.crit.is_some() {
        return Err(Error::new(Kind::TokenInvalid).source("the token has a critical extension"));
    }
    let claims = signed_claims(keys, issuer, &header, token)?;
    let rules = Rules {
        issuer: Some(&issuer.issuer),
        audience: &issuer.audience,
        subject_claim: &issuer.subject_claim,
        app_claim: issuer.app_claim.as_deref(),
    };
    let claimed = claims::check(&rules, tenant, &claims, now)?;
    Ok(Verified {
        tenant: tenant.name(),
        subject: Subject::User(claimed.user),
        issued: claimed.issued,
        expires: Some(claimed.expires.ok_or_else(|| claims::wrong("exp"))?),
    })
}

/// The claims, if one of the keys that the token may be signed with verifies it.
fn signed_claims(
    keys: &BackendKeys,
    issuer: &JwtIssuer,
    header: &Header,
    token: &str,
) -> Result<Map<String, Value>> {
    let candidates = keys.candidates(issuer, header.kid.as_deref());
    for key in &candidates {
        let mut rules = Validation::new(library_algorithm(key.algorithm));
        rules.required_spec_claims.clear();
        rules.validate_exp = false;
        rules.validate_aud = false;
        if let Ok(decoded) = jsonwebtoken::decode(token, &key.decodes, &rules) {
            return Ok(decoded.claims);
        }
    }
    let cause = match candidates.is_empty() {
        true => "no key of the backend has the kid of the token",
        false => "the algorithm or the signature of the token is wrong",
    };
    Err(Error::new(Kind::TokenInvalid).source(cause))
}
