//! URLs that open one file, in one form, by themselves and for a while: what a cache in front may keep.
//!
//! ```text
//! {base}{path}?{what chooses the form}&expires={end, in seconds since 1970}&signature={HMAC-SHA256, 64 digits}
//! ```
//! Whoever may have a file is sent there (302, not to be stored), to the CDN where there is one. The signature
//! covers path and query as they stand, so that there is one URL for each form and none can be made of another;
//! no header chooses or opens anything there. A URL given out stays good to its end: neither a token that is
//! revoked nor a hook that changes its mind calls it back, only the file's own end and its removal do, and a cache
//! learns of neither.

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

/// Sends the caller, who may have the file, to `target`: a path of this server, and a query that chooses the form.
/// `None` where the tenant's files are not opened so.
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
    let end = end(id, call.now, api.config.url_ttl_secs);
    let target = sign(key, tenant, target, end);
    Some(answer::redirect(&format!("{base}{target}")))
}

/// When a URL ends that is given out now. It stays the same for three quarters of its life, so a URL lives for a
/// quarter of `ttl_secs` at the least; each file has its own turn, or caches would lose everything at one moment.
fn end(id: ObjectId, now: Timestamp, ttl_secs: i64) -> i64 {
    let stable_secs = (ttl_secs * 3 / 4).max(1);
    let [.., a, b, c, d] = *id.as_bytes();
    let turn = i64::from(u32::from_be_bytes([a, b, c, d])) % stable_secs;
    let begun = (now.secs() - turn).div_euclid(stable_secs) * stable_secs + turn;
    begun + ttl_secs
}

fn sign(key: &SecretKey, tenant: &Tenant, target: &str, end_secs: i64) -> String {
    let separator = if target.contains('?') { '&' } else { '?' };
    let text = format!("{target}{separator}expires={end_secs}");
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
    let refused = |text: &'static str| Error::new(Kind::Forbidden).public(text);
    let expected = signature(key, tenant, &format!("{}?{before}", call.target.path()));
    if !constant_time_eq(expected.as_bytes(), sent.as_bytes()) {
        return Err(refused(
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
        .ok_or_else(|| refused("the URL has expired: ask for the file again"))
}

fn signature(key: &SecretKey, tenant: &Tenant, text: &str) -> String {
    key.sign_parts(["download", &tenant.org, &tenant.app, text])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MS_PER_DAY;

    #[test]
    fn a_url_stays_the_same_for_most_of_its_life_and_never_ends_at_once() {
        for ttl_secs in [60, 3600, 86_400, 100_001] {
            let now = Timestamp::from_ms(20_000 * MS_PER_DAY);
            for byte in [0, 1, 77, 255] {
                let id = ObjectId::new(now, &[byte; 10]);
                let ends: Vec<i64> = (0..2 * ttl_secs)
                    .map(|second| {
                        let at = Timestamp::from_secs(now.secs() + second);
                        let end = end(id, at, ttl_secs);
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
