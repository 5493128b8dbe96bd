//! `sdk_sign`: proves that a download was requested by the application's own client.
//!
//! The vendor's algorithm is not public. Ours is the lower-case hexadecimal HMAC-SHA256, with the tenant's
//! `sdk_sign_key`, of the path, `?`, and the query parameters without `sdk_sign`: as sent (encoded), sorted by their
//! bytes and joined by `&`. Without a configured key, any value is accepted.

use super::Context;
use crate::{
    error::{Error, Kind, Result},
    secret::{constant_time_eq, hex},
};

/// Checks the signature of a call.
///
/// # Errors
/// `Forbidden` if a key is configured and the signature is missing or wrong.
pub(super) fn check(context: &Context<'_>) -> Result<()> {
    let Some(key) = &context.lanying.sdk_sign_key else {
        return Ok(());
    };
    let target = context.call.target;
    let query = target.query().unwrap_or_default();
    let is_signature = |pair: &&str| pair.split('=').next() == Some("sdk_sign");
    let pairs = query.split('&').filter(|pair| !is_signature(pair));
    let mut signed: Vec<&str> = pairs.collect();
    signed.sort_unstable();
    let text = format!("{}?{}", target.path(), signed.join("&"));
    let expected = hex(&key.hmac_sha256(&[text.as_bytes()]));
    let sent = context.query("sdk_sign").unwrap_or_default();
    if constant_time_eq(expected.as_bytes(), sent.as_bytes()) {
        return Ok(());
    }
    Err(Error::new(Kind::Forbidden).public("sdk_sign is missing or wrong"))
}
