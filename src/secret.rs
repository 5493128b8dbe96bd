//! Secret texts: redacted in `Debug`, zeroed on drop, compared in constant time.
//!
//! [`Secret`] is any such text, for example one from a client. [`SecretKey`] protects something: it signs, or gives access
//! to those who know it. It has a minimum length, and only a `SecretKey` can sign.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret text: a password, a token, the text of a key.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself, which must not get into a log. Say in a comment why it is needed, unless that is clear.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in a time that depends on the lengths alone.
    pub fn equals(&self, other: &str) -> bool {
        constant_time_eq(self.0.as_bytes(), other.as_bytes())
    }
}

/// A key of at least 16 bytes.
///
/// Anyone can sign with an empty key. The type has no such value, so an empty setting is an error when it is read.
#[derive(Clone)]
pub struct SecretKey(Secret);

impl SecretKey {
    /// Minimum number of bytes, without white space and NUL characters at both ends. 16 random letters and digits have
    /// 95 bits.
    const BYTES_MIN: usize = 16;
    /// The error message for a key that is too short.
    const RULE: &str =
        "a secret must have at least 16 bytes (`openssl rand -base64 32` makes a good one)";

    /// Makes a key of a text.
    ///
    /// # Errors
    /// The text has fewer than [`SecretKey::BYTES_MIN`] bytes. Returns the rule.
    pub(crate) fn new(secret: Secret) -> Result<Self, &'static str> {
        if significant(secret.expose()).len() < Self::BYTES_MIN {
            return Err(Self::RULE);
        }
        Ok(Self(secret))
    }

    /// The text itself; see [`Secret::expose`].
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Compares in a time that depends on the lengths alone.
    pub fn equals(&self, other: &str) -> bool {
        self.0.equals(other)
    }

    /// HMAC-SHA256 (RFC 2104) of the concatenated parts. If two lists of parts can have the same concatenation, add
    /// a separator that cannot occur in a part.
    pub fn hmac_sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.expose().as_bytes())
            .expect("HMAC takes keys of any length");
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// HMAC-SHA1, with which the vendor's upload policies are signed.
    pub fn hmac_sha1(&self, text: &[u8]) -> [u8; 20] {
        let mut mac = Hmac::<Sha1>::new_from_slice(self.expose().as_bytes())
            .expect("HMAC takes keys of any length");
        mac.update(text);
        mac.finalize().into_bytes().into()
    }

    /// Signs four texts, separated by NUL, with HMAC-SHA256, and returns 64 hexadecimal digits. Only the last text may
    /// contain a NUL: otherwise a signature for one purpose could be valid for another.
    pub fn sign_parts(&self, parts: [&str; 4]) -> String {
        hex(&self.hmac_sha256(&[parts.join("\0").as_bytes()]))
    }

    /// Why the key looks easy to guess, if it does. The caller warns and goes on: an upgrade must not stop a server whose
    /// key was accepted before. `bytes_advised` is the usual length of a random key for this purpose.
    pub fn weakness(&self, bytes_advised: usize) -> Option<&'static str> {
        let text = significant(self.expose()).as_bytes();
        let mut seen = [false; 256];
        text.iter().for_each(|byte| seen[usize::from(*byte)] = true);
        let different = seen.into_iter().filter(|is_seen| *is_seen).count();
        let plain: String = String::from_utf8_lossy(text)
            .chars()
            .filter(|c| c.is_alphanumeric())
            .flat_map(char::to_lowercase)
            .collect();
        if PLACEHOLDERS.iter().any(|word| plain.contains(word)) {
            Some("it contains a well-known placeholder")
        } else if different < DIFFERENT_BYTES_ADVISED {
            Some("it has few different characters")
        } else if (1..=text.len() / 2).any(|period| text[period..] == text[..text.len() - period]) {
            Some("it repeats itself")
        } else if text.len() < bytes_advised {
            Some("it is short")
        } else {
            None
        }
    }
}

/// A key with fewer distinct bytes is weak. 16 random hexadecimal digits have 10 on average.
const DIFFERENT_BYTES_ADVISED: usize = 8;
/// Words from examples and common passwords, without punctuation. None is shorter than six characters, so at most one
/// random key in a hundred thousand contains one by chance.
const PLACEHOLDERS: [&str; 11] = [
    "changeme",
    "placeholder",
    "replaceme",
    "example",
    "password",
    "secret",
    "atleast32",
    "123456",
    "abcdefgh",
    "qwerty",
    "letmein",
];

/// The part of a key that makes it hard to guess. HMAC pads short keys with NUL bytes (RFC 2104 §2), so a key of NULs
/// signs as an empty key does.
fn significant(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\0')
}

/// The first 16 hexadecimal digits of the SHA-256 of a text. It replaces a secret in log lines: if you know the secret,
/// `printf %s TEXT | sha256sum` finds its lines. Only for texts that cannot be guessed.
pub fn fingerprint(text: &str) -> String {
    const BYTES: usize = 8;
    hex(&Sha256::digest(text.as_bytes())[..BYTES])
}

/// Encodes bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// Compares byte strings in a time that depends on the lengths alone.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("«redacted»")
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("«redacted»")
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's error for a wrong type would show the value.
        let text = String::deserialize(deserializer);
        text.map(Self::new)
            .map_err(|_| serde::de::Error::custom("expected a text in quotes"))
    }
}

impl<'de> serde::Deserialize<'de> for SecretKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Secret::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Option<SecretKey> {
        SecretKey::new(Secret::new(text)).ok()
    }

    /// RFC 4231 §4.5, test case 4. Its key, 25 bytes of ASCII, is long enough for a `SecretKey`.
    #[test]
    fn hmac_matches_rfc_vectors() {
        let text: String = (1..=25).map(char::from).collect();
        let key = key(&text).unwrap();
        let data = [0xcd; 50];
        for parts in [&[&data[..]][..], &[&data[..7], b"", &data[7..]]] {
            assert_eq!(
                hex(&key.hmac_sha256(parts)),
                "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"
            );
        }
        // RFC 2202 §3, test case 4.
        assert_eq!(
            hex(&key.hmac_sha1(&data)),
            "4c9007f4026250c6bc8414f9bf50c86c2d7235da"
        );
    }

    #[test]
    fn debug_hides_secrets() {
        let secret = Secret::new("hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert!(
            secret.equals("hunter2") && !secret.equals("hunter3") && !secret.equals("hunter22")
        );
        let key = key("hunter2-hunter2-hunter2").unwrap();
        assert!(!format!("{key:?}").contains("hunter2"));
        assert!(key.equals("hunter2-hunter2-hunter2") && !key.equals("hunter2"));
    }

    #[test]
    fn refuses_short_keys() {
        let blank = " ".repeat(64);
        for text in [
            "",
            " ",
            "\n",
            &blank,
            "fifteen bytes x",
            " fifteen bytes x ",
            "\u{a0}\u{3000}",
            // HMAC treats these as the empty key and as a key of one byte.
            &"\0".repeat(32),
            &format!("k{}", "\0".repeat(31)),
            "\0 fifteen bytes x\u{2028}\0",
        ] {
            assert!(key(text).is_none(), "{text:?}");
        }
        for text in ["sixteen bytes xy", " sixteen bytes xy ", "äöüäöüäö"] {
            assert!(key(text).is_some(), "{text:?}");
        }
        // The deserializer refuses them, too.
        #[derive(Debug, serde::Deserialize)]
        struct Section {
            #[allow(dead_code, reason = "only whether it can be made")]
            key: Option<SecretKey>,
        }
        let error = toml::from_str::<Section>("key = \"short one\"").unwrap_err();
        assert_eq!(error.message(), SecretKey::RULE);
        assert!(toml::from_str::<Section>("").is_ok());
    }

    #[test]
    fn detects_weak_keys() {
        for (text, is_weak) in [
            ("q7Jm2ZxV0pYc9TnR4sKdW6uEaHbL1fGi", false),
            ("0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c", false),
            ("correct horse battery staple of ours", false),
            ("q7Jm2ZxV0pYc9TnR4sKdW6uEaHbL1fG", true),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", true),
            ("abcdefghijklmnopabcdefghijklmnop", true),
            ("a                                               b", true),
            ("Change-Me! q7Jm2ZxV0pYc9TnR4sKdW6uEaHbL1fGi", true),
            ("at least 32 random characters, it says", true),
            ("our-Secret-of-the-files-2026-11-30", true),
            ("ABCDEFGHIJKLMNOPQRSTUVWXYZ-123456", true),
        ] {
            assert_eq!(key(text).unwrap().weakness(32).is_some(), is_weak, "{text}");
        }
        // The advised length depends on the purpose.
        let vendors = key("YXA6jzFVg1BmTRUSJLG4KG7nZZQd0uE").unwrap();
        assert!(vendors.weakness(32).is_some() && vendors.weakness(24).is_none());
    }

    #[test]
    fn fingerprint_matches_sha256sum() {
        // printf %s abc | sha256sum
        assert_eq!(fingerprint("abc"), "ba7816bf8f01cfea");
    }
}
