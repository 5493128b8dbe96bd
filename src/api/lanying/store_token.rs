//! `store_token`: opens one object for an hour, without an access token.
//!
//! ```text
//! base64url( object | user | end, in seconds since 1970 | 32 hexadecimal digits of HMAC-SHA256 )
//! ```
//! Signed with the tenant's upload key. It acts for one user, so that what is asked of a user is asked of it, and it
//! ends when the user is revoked. One without a user is for a server that makes a picture (`process.rs`): whether the
//! viewer may see it was decided when the viewer was sent there. It ends with the application's tokens alone, so a
//! revoked user's lives on for its hour; naming the viewer would make one URL for each, which no cache could share.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use super::signed::{self, SIGNATURE_DIGITS};
use crate::{
    error::{Error, Kind, Result},
    store::Key,
    tenant::{Lanying, Tenant},
    time::Timestamp,
};

/// Its life. A token names its end alone, so the moment of issue is this much before it.
pub const TTL_SECS: i64 = 3600;
/// How long [`issue_to_server`] issues the same one: half of a token's life at the most is lost to it.
const STABLE_SECS: i64 = TTL_SECS / 2;
/// Bytes of a token: an object, a user, a number, a signature, in base64.
const TOKEN_BYTES_MAX: usize = 512;

/// A token for an hour from `now`.
pub fn issue(lanying: &Lanying, key: Key, user: &str, now: Timestamp) -> String {
    sign(lanying, key, user, now.secs() + TTL_SECS)
}

/// A token for a server that makes pictures. It stays the same for half an hour, so that caches of the URL it
/// stands in hold. After a revocation there is a new one at once.
pub(super) fn issue_to_server(
    tenant: &Tenant,
    lanying: &Lanying,
    key: Key,
    now: Timestamp,
) -> String {
    let begun = now.secs().div_euclid(STABLE_SECS) * STABLE_SECS;
    let revoked = tenant.tokens_not_before.filter(|moment| *moment <= now);
    // Rounded up: a token of the second in which the moment lies would itself be revoked.
    let not_before = revoked.map_or(begun, |moment| (moment.ms() + 999).div_euclid(1000));
    sign(lanying, key, "", begun.max(not_before) + TTL_SECS)
}

fn sign(lanying: &Lanying, key: Key, user: &str, end_secs: i64) -> String {
    let text = format!("{key}|{user}|{end_secs}");
    let signature = signature(lanying, &text);
    BASE64_URL_SAFE_NO_PAD.encode(format!("{text}|{signature}"))
}

/// Who opens an object with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Viewer {
    /// A user, of whom everything is asked.
    User(String),
    /// A server that makes a picture for somebody who may see it.
    Server,
}

/// Whom a token of this object acts for.
///
/// # Errors
/// `TokenInvalid` for one that is none of this tenant's, another object's, over, or revoked.
pub(super) fn verify(
    tenant: &Tenant,
    lanying: &Lanying,
    token: &str,
    key: Key,
    now: Timestamp,
) -> Result<Viewer> {
    read(tenant, lanying, token, key, now).ok_or_else(|| {
        Error::new(Kind::TokenInvalid).public("store_token is invalid or has expired")
    })
}

fn read(
    tenant: &Tenant,
    lanying: &Lanying,
    token: &str,
    key: Key,
    now: Timestamp,
) -> Option<Viewer> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let text = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
    let text = signed::text(text, |text| signature(lanying, text))?;
    let fields: Vec<&str> = text.split('|').collect();
    let &[bound_to, user, end] = &fields[..] else {
        return None;
    };
    let end_secs: i64 = end.parse().ok()?;
    let user = Some(user).filter(|user| !user.is_empty());
    let issued = Timestamp::from_secs(end_secs.saturating_sub(TTL_SECS));
    let is_good =
        bound_to == key.to_string() && now.secs() < end_secs && !tenant.is_revoked(user, issued);
    is_good.then(|| match user {
        None => Viewer::Server,
        Some(user) => Viewer::User(user.to_owned()),
    })
}

fn signature(lanying: &Lanying, text: &str) -> String {
    let key = &lanying.upload_key;
    signed::signature(key, lanying, "store_token", text, SIGNATURE_DIGITS)
}
