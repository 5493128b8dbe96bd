//! Texts that are given out and come back: `text|signature`, hexadecimal digits of HMAC-SHA256.
//!
//! What is signed names dialect, purpose and tenant beside the text: nothing that was signed for one of them is
//! good for the other, whatever the key. (Policies are signed as OSS has it, and name the tenant themselves.) What
//! the text says is its owner's (`link.rs`, `store_token.rs`).

use crate::{
    secret::{SecretKey, constant_time_eq},
    tenant::Lanying,
};

/// Hexadecimal digits of a signature at the least: 128 bits.
pub(super) const SIGNATURE_DIGITS: usize = 32;

/// The signature of a text, `digits` digits long, of 64.
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

/// The text of what came back, where `expected` makes the very signature that it carries. Nothing else of it is
/// looked at before.
pub(super) fn text(came: Vec<u8>, expected: impl FnOnce(&str) -> String) -> Option<String> {
    let came = String::from_utf8(came).ok()?;
    let (text, sent) = came.rsplit_once('|')?;
    constant_time_eq(expected(text).as_bytes(), sent.as_bytes()).then(|| text.to_owned())
}
