//! What the settings of `[tenant.auth]` may be, and what they need of those of other tenants.

use std::{collections::HashMap, path::Path};

use super::{TenantConfig, is_url};
use crate::{
    auth::token,
    error::{Error, Result},
    tenant::{IntrospectionServer, JwtIssuer},
};

/// Key files of a tenant.
const KEY_FILES_MAX: usize = 4;

impl TenantConfig {
    /// Checks `[tenant.auth]`. The key files are read later.
    pub(super) fn check_auth(&self) -> Result<()> {
        if let Some(jwt) = &self.auth.jwt {
            let wrong = |(key, what): (&str, &str)| self.error(&format!("auth: jwt.{key}"), what);
            check_jwt(jwt).map_err(wrong)?;
        }
        if let Some(server) = &self.auth.introspection {
            let key = |key: &str| format!("auth: introspection.{key}");
            let wrong = |(name, what): (&str, &str)| self.error(&key(name), what);
            check_introspection(server).map_err(wrong)?;
        }
        Ok(())
    }
}

/// The name of a setting, and what is wrong with it.
type Wrong = (&'static str, &'static str);

fn check_jwt(jwt: &JwtIssuer) -> Result<(), Wrong> {
    let texts = [
        ("issuer", &jwt.issuer),
        ("subject_claim", &jwt.subject_claim),
    ];
    check_texts(
        texts
            .into_iter()
            .chain(jwt.app_claim.as_ref().map(|claim| ("app_claim", claim))),
    )?;
    check_texts(jwt.audience.iter().map(|text| ("audience", text)))?;
    if jwt.issuer == token::ISSUER {
        return Err((
            "issuer",
            "\"chatfiles\" is the issuer of this server's own tokens: choose another name",
        ));
    }
    if jwt.algorithms.is_empty() {
        return Err((
            "algorithms",
            "expected at least one of HS256, RS256, ES256 and EdDSA",
        ));
    }
    match jwt.keys.len() > KEY_FILES_MAX {
        true => Err(("keys", "expected at most 4 files")),
        false => Ok(()),
    }
}

fn check_introspection(server: &IntrospectionServer) -> Result<(), Wrong> {
    let texts = [
        ("client_id", &server.client_id),
        ("subject_claim", &server.subject_claim),
    ];
    let app_claim = server.app_claim.as_ref().map(|claim| ("app_claim", claim));
    check_texts(texts.into_iter().chain(app_claim))?;
    check_texts(server.audience.iter().map(|text| ("audience", text)))?;
    // The messages do not show the URL, which may hold a password.
    if !is_url(&server.url) {
        return Err(("url", "expected a URL that begins with http:// or https://"));
    }
    // A user in the URL would replace the client's credentials.
    let authority = server.url.split('/').nth(2).unwrap_or_default();
    match authority.contains('@') {
        true => Err((
            "url",
            "expected a URL without a user: set client_id and client_secret",
        )),
        false => Ok(()),
    }
}

/// Checks that no text is blank. A blank one is probably an environment variable that was not set.
fn check_texts<'a>(
    texts: impl IntoIterator<Item = (&'static str, &'a String)>,
) -> Result<(), Wrong> {
    let mut texts = texts.into_iter();
    match texts.find(|(_, text)| text.trim().is_empty()) {
        Some((key, _)) => Err((key, "expected a text")),
        None => Ok(()),
    }
}

/// Checks that a JWT for one tenant is not valid for another one.
///
/// Tenants may share issuer, audience and a key file only if a claim of the token names the tenant.
pub(super) fn check_shared_keys(tenants: &[TenantConfig]) -> Result<()> {
    // The first tenant of each combination.
    let mut first: HashMap<(&str, &str, &Path), &TenantConfig> = HashMap::new();
    let has_claim = |tenant: &TenantConfig| {
        let jwt = tenant.auth.jwt.as_ref();
        jwt.is_some_and(|jwt| jwt.app_claim.is_some())
    };
    for tenant in tenants {
        let Some(jwt) = &tenant.auth.jwt else {
            continue;
        };
        let with_file = |audience| jwt.keys.iter().map(move |file| (audience, file));
        for (audience, file) in jwt.audience.iter().flat_map(with_file) {
            let other = *first.entry((&jwt.issuer, audience, file)).or_insert(tenant);
            let is_told_apart = has_claim(other) && has_claim(tenant);
            if !is_told_apart && !std::ptr::eq(other, tenant) {
                return Err(Error::invalid(format!(
                    "tenants {} and {} share auth.jwt.issuer, an audience and a key file: a token for one would be \
                     accepted by the other; set app_claim for both, or give each an audience of its own",
                    other.name(),
                    tenant.name()
                )));
            }
        }
    }
    Ok(())
}
