//! Text that must not be seen: redacted in `Debug`, wiped when dropped, compared in constant time.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret text: a client secret, a signing key, a password hash, a token.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself. Name the call's reason where it is not plain: it must not reach a log.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `other` is the same text, in time that depends on the lengths alone.
    pub fn equals(&self, other: &str) -> bool {
        constant_time_eq(self.0.as_bytes(), other.as_bytes())
    }
}

/// The signature of texts that are told apart by a NUL, in 64 hexadecimal digits of HMAC-SHA256. No part but the last
/// may hold a NUL: else what was signed for one thing could be good for another.
pub fn sign_parts(key: &Secret, parts: [&str; 4]) -> String {
    hex(&hmac_sha256(key, &[parts.join("\0").as_bytes()]))
}

/// HMAC-SHA256 (RFC 2104) over the parts, joined as they are: where one could be read two ways, put something
/// between them that cannot stand in them.
pub fn hmac_sha256(key: &Secret, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.0.as_bytes()).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// In lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// Whether two byte strings are equal, in time that depends on the lengths alone.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("«redacted»")
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The error of a wrong type would show what was written.
        let text = String::deserialize(deserializer);
        text.map(Self::new)
            .map_err(|_| serde::de::Error::custom("must be a text in quotes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231 §4.3, test case 2.
    #[test]
    fn hmac_is_the_one_of_the_rfc_however_the_text_is_parted() {
        let key = Secret::new("Jefe");
        for parts in [
            &[&b"what do ya want for nothing?"[..]][..],
            &[b"what do ya want ", b"", b"for nothing?"],
        ] {
            assert_eq!(
                hex(&hmac_sha256(&key, parts)),
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
            );
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert!(
            secret.equals("hunter2") && !secret.equals("hunter3") && !secret.equals("hunter22")
        );
    }
}
