//! Signed URLs: each opens one view of one file until it expires, without a token, so that a shared cache or a CDN can
//! store the response.
//!
//! ```text
//! {base}{path}?{parameters of the view}&expires={seconds since 1970}&signature={HMAC-SHA256, 64 digits}
//! ```
//! An authorized client is redirected to the URL (302, not cached), on the CDN if one is configured. The signature covers
//! path and query as sent, so each view has exactly one URL, and none can be derived from another. Headers neither choose
//! the view nor authorize the request. A URL cannot be revoked, by a revoked token or by the hook. The file's expiry and
//! its removal end it here, but a cache does not notice them.

use hyper::Response;

use super::{Api, Call, answer};
use crate::{
    delivery::Body,
    error::{Error, Kind, Result},
    secret::{SecretKey, constant_time_eq},
    store::ObjectId,
    tenant::{DownloadAuth, Tenant},
    time::Timestamp,
};

/// Redirects an authorized caller to the signed URL for `target`, a path and query of this server. `None` if the tenant
/// does not use signed URLs.
pub(super) fn redirect(
    api: &Api,
    call: &Call<'_>,
    tenant: &Tenant,
    id: ObjectId,
    target: &str,
) -> Option<Result<Response<Body>>> {
    let DownloadAuth::Signed(key) = &tenant.download_auth else {
        return None;
    };
    let base = match &api.config.cdn_url {
        Some(url) => url.to_string(),
        None => call.public_url(api),
    };
    let expires_secs = expires_secs(id, call.now, api.config.url_ttl_secs);
    let target = sign(key, tenant, target, expires_secs);
    Some(answer::redirect(&format!("{base}{target}")))
}

/// When a URL that is issued now expires. The value is stable for three quarters of `ttl_secs`, so every URL is valid for
/// at least a quarter. It changes at a different time for each file, so that caches do not lose all files at once.
fn expires_secs(id: ObjectId, now: Timestamp, ttl_secs: i64) -> i64 {
    let stable_secs = (ttl_secs * 3 / 4).max(1);
    let [.., a, b, c, d] = *id.as_bytes();
    let offset = i64::from(u32::from_be_bytes([a, b, c, d])) % stable_secs;
    let period_start = (now.secs() - offset).div_euclid(stable_secs) * stable_secs + offset;
    period_start + ttl_secs
}

fn sign(key: &SecretKey, tenant: &Tenant, target: &str, expires_secs: i64) -> String {
    let separator = if target.contains('?') { '&' } else { '?' };
    let text = format!("{target}{separator}expires={expires_secs}");
    let signature = signature(key, tenant, &text);
    format!("{text}&signature={signature}")
}

/// Whether the call's URL has a signature, valid or not, and the tenant gives out such URLs.
pub(super) fn is_signed(call: &Call<'_>, tenant: &Tenant) -> bool {
    signed_parts(call, tenant).is_some()
}

/// The tenant's key, the query before the signature, and the signature.
fn signed_parts<'c>(
    call: &'c Call<'_>,
    tenant: &'c Tenant,
) -> Option<(&'c SecretKey, &'c str, &'c str)> {
    let DownloadAuth::Signed(key) = &tenant.download_auth else {
        return None;
    };
    let (before, signature) = call.target.query()?.rsplit_once("&signature=")?;
    Some((key, before, signature))
}

/// When the signed URL expires that the call came by; `None` if it is no signed URL.
///
/// # Errors
/// `Forbidden` if the signature is wrong or has expired.
pub(super) fn verify(call: &Call<'_>, tenant: &Tenant) -> Result<Option<Timestamp>> {
    let Some((key, before, sent)) = signed_parts(call, tenant) else {
        return Ok(None);
    };
    let forbidden = |text: &'static str| Error::new(Kind::Forbidden).public(text);
    let expected = signature(key, tenant, &format!("{}?{before}", call.target.path()));
    if !constant_time_eq(expected.as_bytes(), sent.as_bytes()) {
        return Err(forbidden(
            "the URL's signature is wrong: path and query must be as they were given out",
        ));
    }
    let last = before
        .rsplit('&')
        .next()
        .and_then(|pair| pair.strip_prefix("expires="));
    let end = last
        .and_then(|end| end.parse().ok())
        .map(Timestamp::from_secs);
    end.filter(|end| call.now < *end)
        .map(Some)
        .ok_or_else(|| forbidden("the URL has expired: ask for the file again"))
}

fn signature(key: &SecretKey, tenant: &Tenant, text: &str) -> String {
    key.sign_parts(["download", &tenant.org, &tenant.app, text])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MS_PER_DAY;

    #[test]
    fn url_is_stable_and_staggered() {
        for ttl_secs in [60, 3600, 86_400, 100_001] {
            let now = Timestamp::from_ms(20_000 * MS_PER_DAY);
            for byte in [0, 1, 77, 255] {
                let id = ObjectId::new(now, &[byte; 10]);
                let ends: Vec<i64> = (0..2 * ttl_secs)
                    .map(|second| {
                        let at = Timestamp::from_secs(now.secs() + second);
                        let end = expires_secs(id, at, ttl_secs);
                        let left = end - at.secs();
                        assert!(
                            left > ttl_secs / 4 && left <= ttl_secs,
                            "{left} of {ttl_secs}"
                        );
                        end
                    })
                    .collect();
                let changes = ends.windows(2).filter(|pair| pair[0] != pair[1]).count();
                assert!((2..=3).contains(&changes), "{changes} of {ttl_secs}");
            }
        }
    }
}
