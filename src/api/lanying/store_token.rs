//! `store_token`: opens one object for an hour, without an access token.
//!
//! ```text
//! base64url( object | user | end, in seconds since 1970 | 32 hexadecimal digits of HMAC-SHA256 )
//! ```
//! Signed with the tenant's upload key. A token acts for one user: it is checked like that user, and ends when the user
//! is revoked. A token without a user is for an image service (`process.rs`): the viewer was authorized before the
//! redirect. Such a token is revoked only with all tokens of the application, so it outlives a revoked user by up to an
//! hour. With the user in it, each viewer would have a URL of their own, and caches could not share the picture.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use super::signed::{self, SIGNATURE_DIGITS};
use crate::{
    error::{Error, Kind, Result},
    store::Key,
    tenant::{Lanying, Tenant},
    time::Timestamp,
};

/// How long a token is valid. A token contains only its end; it was issued this long before.
const TTL_SECS: i64 = 3600;
/// How long [`issue_to_server`] returns the same token, which is valid for at least the other half of the hour.
const STABLE_SECS: i64 = TTL_SECS / 2;

/// Issues a token that is valid for an hour.
pub fn issue(lanying: &Lanying, key: Key, user: &str, now: Timestamp) -> String {
    sign(lanying, key, user, now.secs() + TTL_SECS)
}

/// Issues a token for an image service. It is the same for half an hour, so that caches can reuse its URL. After a
/// revocation, a new one is issued at once.
pub(super) fn issue_to_server(
    tenant: &Tenant,
    lanying: &Lanying,
    key: Key,
    now: Timestamp,
) -> String {
    let period_start = now.secs().div_euclid(STABLE_SECS) * STABLE_SECS;
    let revoked = tenant.tokens_not_before.filter(|moment| *moment <= now);
    // Rounded up: a token issued in the second of the revocation would itself be revoked.
    let not_before = revoked.map_or(period_start, |moment| (moment.ms() + 999).div_euclid(1000));
    sign(lanying, key, "", period_start.max(not_before) + TTL_SECS)
}

fn sign(lanying: &Lanying, key: Key, user: &str, end_secs: i64) -> String {
    let text = format!("{key}|{user}|{end_secs}");
    let signature = signature(lanying, &text);
    BASE64_URL_SAFE_NO_PAD.encode(format!("{text}|{signature}"))
}

/// The one that a token acts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Viewer {
    /// A user, whose rights must be checked.
    User(String),
    /// An image service that acts for an authorized viewer.
    Server,
}

/// Checks a token for this object.
///
/// # Errors
/// `TokenInvalid` if it was issued by another tenant or for another object, has expired, or is revoked.
pub(super) fn verify(
    tenant: &Tenant,
    lanying: &Lanying,
    token: &str,
    key: Key,
    now: Timestamp,
) -> Result<Viewer> {
    parse(tenant, lanying, token, key, now).ok_or_else(|| {
        Error::new(Kind::TokenInvalid).public("store_token is invalid or has expired")
    })
}

fn parse(
    tenant: &Tenant,
    lanying: &Lanying,
    token: &str,
    key: Key,
    now: Timestamp,
) -> Option<Viewer> {
    let signature = |text: &str| signature(lanying, text);
    let text = signed::verified_text(token, &BASE64_URL_SAFE_NO_PAD, signature)?;
    let fields: Vec<&str> = text.split('|').collect();
    let &[bound_to, user, end] = &fields[..] else {
        return None;
    };
    let end_secs: i64 = end.parse().ok()?;
    let user = Some(user).filter(|user| !user.is_empty());
    let issued = Timestamp::from_secs(end_secs.saturating_sub(TTL_SECS));
    let is_valid =
        bound_to == key.to_string() && now.secs() < end_secs && !tenant.is_revoked(user, issued);
    is_valid.then(|| match user {
        None => Viewer::Server,
        Some(user) => Viewer::User(user.to_owned()),
    })
}

fn signature(lanying: &Lanying, text: &str) -> String {
    let key = &lanying.upload_key;
    signed::signature(key, lanying, "store_token", text, SIGNATURE_DIGITS)
}
