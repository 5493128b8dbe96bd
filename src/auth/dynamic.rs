//! Easemob's dynamic tokens, which a chat backend signs itself with its client secret.
//!
//! ```text
//! base64( "dt-" {"signature", "appkey": "org#app", "userId", "curTime", "ttl"} )
//! signature = hex SHA-256( clientId ‖ appkey ‖ userId ‖ curTime ‖ ttl ‖ clientSecret )
//! ```
//! By the vendor's page, its Java server SDK and its sample server, `curTime` and `ttl` are in seconds; the page shows
//! base64url, the SDK encodes with the standard alphabet and padding, so both are read. A `curTime` in milliseconds has
//! 13 digits and is refused: no such backend is known, and each further form is one more way to read a token. `ttl` 0
//! means "without end" in the vendor's token call only; here it is over at once, since the vendor calls these tokens
//! temporary.
//!
//! The signed text has no separators, so one signature may be good for several readings: `readings` finds the one
//! that is meant, or refuses. Nothing is issued here, and revocation is [`super::verifier`]'s.

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

/// How every dynamic token begins: base64 of `dt-`, in both alphabets. A JWT begins with `ey`.
pub(super) const PREFIX: &str = "ZHQt";
/// How far `curTime` may lie in the future, in seconds: the backend's clock is not ours.
const AHEAD_SECS_MAX: i64 = 600;
/// Digits of a `curTime`, neither more nor fewer: all of 2001 to 2286.
const TIME_DIGITS: usize = 10;
/// Digits of a `ttl`: 31 years.
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

/// A whole number, written as a number or as a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u64),
    Text(String),
}

impl Number {
    /// Its digits as they were signed, where there are so many of them and no leading zero.
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

/// Verifies a dynamic token against `tenant`, of whose backend `known` remembers the ttls.
///
/// # Errors
/// [`Kind::TokenExpired`] when `curTime + ttl` has passed, [`Kind::TokenInvalid`] for everything else:
/// another tenant's, a wrong signature, a `curTime` more than ten minutes ahead, a text that can be read in two ways.
pub(super) fn verify(
    tenant: &Tenant,
    known: &KnownTtls,
    token: &str,
    now: Timestamp,
) -> Result<Verified> {
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
    let expires = Timestamp::from_secs(time_secs + ttl_secs);
    if now >= expires {
        return Err(Kind::TokenExpired.into());
    }
    let own = Reading {
        time_secs,
        ttl_secs,
    };
    let others = readings::others(&claims.user, &time, &ttl);
    if !known.decide(tenant, own, others, now) {
        let cause = "a dynamic token that can be read in two ways, or has a ttl that its backend does not give: see \
                     dynamic_token_ttl_seconds";
        return Err(Error::new(Kind::TokenInvalid).source(cause));
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

#[cfg(test)]
mod tests;
