//! Verifies Easemob's dynamic tokens, which a chat backend signs with its client secret.
//!
//! ```text
//! base64( "dt-" {"signature", "appkey": "org#app", "userId", "curTime", "ttl"} )
//! signature = hex SHA-256( clientId ‖ appkey ‖ userId ‖ curTime ‖ ttl ‖ clientSecret )
//! ```
//! According to the vendor's page, its Java server SDK and its sample server, `curTime` and `ttl` are in seconds. The
//! page shows base64url and the SDK uses the standard alphabet with padding, so both are accepted. A `curTime` in
//! milliseconds has 13 digits and is refused: no such backend is known, and each further form makes tokens more
//! ambiguous. `ttl` 0 means "does not expire" only in the vendor's token call. Here such a token has expired, since the
//! vendor calls these tokens temporary.
//!
//! The signed text has no separators, so one signature may be valid for several readings. `readings` finds the intended
//! one, or refuses the token. [`super::verifier`] applies revocation.

mod readings;

use std::ops::RangeInclusive;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

pub(super) use self::readings::KnownTtls;
use self::readings::Reading;
use super::{Subject, TOKEN_BYTES_MAX, is_user_name, token::Verified};
use crate::{
    error::{Error, Kind, Result},
    secret::{constant_time_eq, hex},
    tenant::Tenant,
    time::Timestamp,
};

/// The beginning of every dynamic token: base64 of `dt-`, in both alphabets. A JWT begins with `ey`.
pub(super) const PREFIX: &str = "ZHQt";
/// How far `curTime` may be in the future, in seconds, since the backend's clock may differ.
const AHEAD_SECS_MAX: i64 = 600;
/// Number of digits of `curTime`: covers the years 2001 to 2286.
const TIME_DIGITS: usize = 10;
/// Maximum number of digits of `ttl`: 31 years.
const TTL_DIGITS_MAX: usize = 9;

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

/// A whole number, as a JSON number or a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u64),
    Text(String),
}

impl Number {
    /// The digits as they were signed, if their count is allowed and there is no leading zero.
    fn digits(self, allowed: RangeInclusive<usize>) -> Option<String> {
        let text = match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        };
        let plain = allowed.contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'));
        plain.then_some(text)
    }
}

/// A token with a valid signature.
struct Signed {
    user: String,
    time: String,
    ttl: String,
}

/// Verifies a dynamic token of `tenant`. `known` contains the ttls that the tenant's backend uses.
///
/// # Errors
/// [`Kind::TokenExpired`] if `curTime + ttl` has passed. [`Kind::TokenInvalid`] otherwise: another tenant, a wrong
/// signature, a `curTime` more than ten minutes ahead, or a text that can be read in two ways.
pub(super) fn verify(
    tenant: &Tenant,
    known: &KnownTtls,
    token: &str,
    now: Timestamp,
) -> Result<Verified> {
    let Signed { user, time, ttl } = check_signature(tenant, token)?;
    // Each has at most ten digits, so neither fails and the sum does not overflow.
    let (Ok(time_secs), Ok(ttl_secs)) = (time.parse::<i64>(), ttl.parse::<i64>()) else {
        return Err(Kind::TokenInvalid.into());
    };
    if time_secs > now.secs() + AHEAD_SECS_MAX {
        return Err(Kind::TokenInvalid.into());
    }
    let expires = Timestamp::from_secs(time_secs + ttl_secs);
    if now >= expires {
        return Err(Kind::TokenExpired.into());
    }
    let own = Reading {
        time_secs,
        ttl_secs,
    };
    let others = readings::others(&user, &time, &ttl);
    if !known.decide(tenant, own, others, now) {
        let cause = "a dynamic token can be read in two ways, or has a ttl that its backend does not use: see \
                     dynamic_token_ttl_seconds";
        return Err(Error::new(Kind::TokenInvalid).source(cause));
    }
    Ok(Verified {
        tenant: tenant.name(),
        subject: Subject::User(user.into()),
        issued: Timestamp::from_secs(time_secs),
        expires: Some(expires),
    })
}

fn check_signature(tenant: &Tenant, token: &str) -> Result<Signed> {
    let claims = decode(token).ok_or(Kind::TokenInvalid)?;
    let claims: Claims<'_> = serde_json::from_slice(&claims)
        .map_err(|error| Error::new(Kind::TokenInvalid).source(error))?;
    let (Some(time), Some(ttl)) = (
        claims.time.digits(TIME_DIGITS..=TIME_DIGITS),
        claims.ttl.digits(1..=TTL_DIGITS_MAX),
    ) else {
        return Err(Kind::TokenInvalid.into());
    };
    let appkey = format!("{}#{}", tenant.org, tenant.app);
    if claims.appkey != appkey || !is_user_name(&claims.user) {
        return Err(Kind::TokenInvalid.into());
    }
    let expected = signature(tenant, &appkey, &claims.user, &time, &ttl);
    let signature = claims.signature.to_ascii_lowercase();
    if !constant_time_eq(expected.as_bytes(), signature.as_bytes()) {
        return Err(Kind::TokenInvalid.into());
    }
    let user = claims.user.into_owned();
    Ok(Signed { user, time, ttl })
}

/// Decodes the base64 after `dt-`.
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
    // "dt-" has three bytes, which is one base64 group, so the JSON begins with the next group.
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

#[cfg(test)]
mod tests;
