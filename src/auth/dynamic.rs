//! Easemob's dynamic tokens, which a chat backend signs itself with its client secret.
//!
//! ```text
//! base64( "dt-" {"signature", "appkey": "org#app", "userId", "curTime", "ttl"} )
//! signature = hex SHA-256( clientId ‖ appkey ‖ userId ‖ curTime ‖ ttl ‖ clientSecret )
//! ```
//! By the vendor's page and its server SDK, `curTime` and `ttl` are in seconds; the page shows base64url,
//! the SDK encodes with the standard alphabet and padding, so both are read. Milliseconds are not guessed
//! at: a `curTime` in them lies in the far future and is refused. `ttl` 0 means "for ever" in the vendor's
//! token call only; here it is over at once, since the vendor calls these tokens temporary.
//!
//! The signed text has no separators, which makes one signature good for several readings: the token of
//! `bob1795` at `1795305599` for `600` s is also one of `bob` at `1795179530` for `5599600` s. Whoever may
//! choose a user name could so become a user whose name is a beginning of theirs. A token is therefore
//! refused when its digits can be read as those of a longer name's; see `is_ambiguous`. Nothing is issued
//! here, and revocation is [`super::verifier`]'s.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Subject, TOKEN_BYTES_MAX, is_user_name, token::Verified};
use crate::{
    error::{Error, Kind, Result},
    secret::{constant_time_eq, hex},
    tenant::Tenant,
    time::Timestamp,
};

/// How every dynamic token begins: base64 of `dt-`, in both alphabets. A JWT begins with `ey`.
pub(super) const PREFIX: &str = "ZHQt";
/// How far `curTime` may lie in the future, in seconds: the backend's clock is not ours.
const AHEAD_SECS_MAX: i64 = 600;
/// Digits of a `curTime`: all of 2001 to 2286.
const TIME_DIGITS: usize = 10;
/// Digits of a `ttl`: 31 years.
const TTL_DIGITS_MAX: usize = 9;
/// Below this many seconds of `ttl` a token has one reading.
const TTL_UNAMBIGUOUS_SECS: i64 = 100_000;
/// How long before the time that it is read for a token may have been signed, in seconds: 400 days.
const PATIENCE_SECS_MAX: i64 = 400 * 86_400;

#[derive(Deserialize)]
struct Claims<'a> {
    #[serde(borrow)]
    signature: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    appkey: std::borrow::Cow<'a, str>,
    #[serde(rename = "userId", borrow)]
    user: std::borrow::Cow<'a, str>,
    #[serde(rename = "curTime")]
    time: Number,
    ttl: Number,
}

/// A whole number, written as a number or as a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u64),
    Text(String),
}

impl Number {
    /// Its digits as they were signed, where they are at most `digits_max` and without a leading zero.
    fn digits(self, digits_max: usize) -> Option<String> {
        let text = match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        };
        let plain = (1..=digits_max).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'));
        plain.then_some(text)
    }
}

/// Verifies a dynamic token against `tenant`.
///
/// # Errors
/// [`Kind::TokenExpired`] when `curTime + ttl` has passed, [`Kind::TokenInvalid`] for everything else:
/// another tenant's, a wrong signature, a `curTime` more than ten minutes ahead, an ambiguous text.
pub(super) fn verify(tenant: &Tenant, token: &str, now: Timestamp) -> Result<Verified> {
    let claims = decode(token).ok_or(Kind::TokenInvalid)?;
    let claims: Claims<'_> = serde_json::from_slice(&claims)
        .map_err(|error| Error::new(Kind::TokenInvalid).source(error))?;
    let (Some(time), Some(ttl)) = (
        claims.time.digits(TIME_DIGITS),
        claims.ttl.digits(TTL_DIGITS_MAX),
    ) else {
        return Err(Kind::TokenInvalid.into());
    };
    let appkey = format!("{}#{}", tenant.org, tenant.app);
    if claims.appkey != appkey || !is_user_name(&claims.user) {
        return Err(Kind::TokenInvalid.into());
    }
    let signature = signature(tenant, &appkey, &claims.user, &time, &ttl);
    if !constant_time_eq(
        signature.as_bytes(),
        claims.signature.to_ascii_lowercase().as_bytes(),
    ) {
        return Err(Kind::TokenInvalid.into());
    }
    // At most ten digits each, so neither fails and the sum does not overflow.
    let (Ok(time_secs), Ok(ttl_secs)) = (time.parse::<i64>(), ttl.parse::<i64>()) else {
        return Err(Kind::TokenInvalid.into());
    };
    if time_secs > now.secs() + AHEAD_SECS_MAX {
        return Err(Kind::TokenInvalid.into());
    }
    if is_ambiguous(&time, &ttl, now) {
        return Err(Error::new(Kind::TokenInvalid).source("a dynamic token with two readings"));
    }
    let expires = Timestamp::from_secs(time_secs + ttl_secs);
    if now >= expires {
        return Err(Kind::TokenExpired.into());
    }
    Ok(Verified {
        tenant: tenant.name(),
        subject: Subject::User(claims.user.as_ref().into()),
        issued: Timestamp::from_secs(time_secs),
        expires: Some(expires),
    })
}

/// What is inside the base64 after `dt-`.
fn decode(token: &str) -> Option<Vec<u8>> {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    if token.len() > TOKEN_BYTES_MAX || !token.starts_with(PREFIX) {
        return None;
    }
    let standard = token.replace('-', "+").replace('_', "/");
    // "dt-" is three bytes, one whole group of base64: the JSON begins with the next group.
    ENGINE.decode(&standard[PREFIX.len()..]).ok()
}

fn signature(tenant: &Tenant, appkey: &str, user: &str, time: &str, ttl: &str) -> String {
    let mut hash = Sha256::new();
    for part in [
        &tenant.client_id,
        appkey,
        user,
        time,
        ttl,
        tenant.client_secret.expose(),
    ] {
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

/// Whether the digits of time and ttl could also be the end of a longer user name, a believable time and a
/// ttl: then this may be a token of that other user, read anew. The other reading is believable when its
/// time is not ahead of now, not after this one's end, and at most 400 days before this one's time (somebody
/// may have been patient), and its ttl has two digits or more and no leading zero.
///
/// A ttl below 100,000 s is not looked at: to make it of five digits, at most two are taken from a time, and
/// the moments so reached lie years apart. So tokens as short as the vendor recommends are never refused by
/// chance. Longer ones are, where the digits of their time from the fourth on spell a recent time: in some
/// ten hours of every 116 days (1791760000 to 1791795000, and so on), and in four days of August 2027.
fn is_ambiguous(time: &str, ttl: &str, now: Timestamp) -> bool {
    let number = |digits: &str| digits.parse::<i64>().unwrap_or_default();
    let (own, life) = (number(time), number(ttl));
    if life < TTL_UNAMBIGUOUS_SECS {
        return false;
    }
    let latest = (now.secs() + AHEAD_SECS_MAX).min(own + life);
    let earliest = own - PATIENCE_SECS_MAX;
    let digits = format!("{time}{ttl}");
    (1..digits.len().saturating_sub(TIME_DIGITS + 1)).any(|moved| {
        let (other, rest) = digits[moved..].split_at(TIME_DIGITS);
        !rest.starts_with('0') && (earliest..=latest).contains(&number(other))
    })
}

#[cfg(test)]
mod tests;
