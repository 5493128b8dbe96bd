//! Signed texts that clients send back: `text|signature`, hexadecimal digits of HMAC-SHA256.
//!
//! The signature covers API, purpose and tenant in addition to the text, so a text signed for one of them is invalid
//! for another, even with the same key. (Policies are signed as in OSS and name the tenant themselves.) `link.rs` and
//! `store_token.rs` interpret the texts.

use base64::{Engine, engine::GeneralPurpose};

use crate::{
    secret::{SecretKey, constant_time_eq},
    tenant::Lanying,
};

/// The least hexadecimal digits of a signature: 128 bits.
pub(super) const SIGNATURE_DIGITS: usize = 32;

/// The longest signed text in base64: two ids, an object, a signature.
const BASE64_BYTES_MAX: usize = 512;

/// The first `digits` of the 64 digits of the signature of a text.
pub(super) fn signature(
    key: &SecretKey,
    lanying: &Lanying,
    purpose: &str,
    text: &str,
    digits: usize,
) -> String {
    let mut signature = key.sign_parts([purpose, "lanying", &lanying.app_id, text]);
    signature.truncate(digits);
    signature
}

/// The text of `base64(text|signature)`, if `expected` computes the same signature for it. Nothing of the text is
/// interpreted before.
pub(super) fn verified_text(
    encoded: &str,
    base64: &GeneralPurpose,
    expected: impl FnOnce(&str) -> String,
) -> Option<String> {
    if encoded.len() > BASE64_BYTES_MAX {
        return None;
    }
    let signed = String::from_utf8(base64.decode(encoded).ok()?).ok()?;
    let (text, sent) = signed.rsplit_once('|')?;
    constant_time_eq(expected(text).as_bytes(), sent.as_bytes()).then(|| text.to_owned())
}
