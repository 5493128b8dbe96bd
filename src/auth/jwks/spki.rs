//! Reads public keys in DER: SubjectPublicKeyInfo (RFC 5280 §4.1.2.7) of RSA, P-256 and Ed25519.
//!
//! Only the structure is checked here. Sizes and points are checked by the parent.

/// The algorithm identifiers, as the contents of an OBJECT IDENTIFIER.
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// A public key, with its numbers as big-endian bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PublicKey<'a> {
    Rsa {
        n: &'a [u8],
        e: &'a [u8],
    },
    /// A point in the form of SEC 1 §2.3.3.
    P256(&'a [u8]),
    Ed25519(&'a [u8]),
}

/// Parses a SubjectPublicKeyInfo; `None` if it is malformed, or of another algorithm.
pub(super) fn parse(mut der: &[u8]) -> Option<PublicKey<'_>> {
    let mut info = take(&mut der, SEQUENCE)?;
    let mut algorithm = take(&mut info, SEQUENCE)?;
    let key = take(&mut info, BIT_STRING)?;
    if !der.is_empty() || !info.is_empty() {
        return None;
    }
    // The first byte is the number of unused bits.
    let (0, key) = key.split_first().map(|(unused, key)| (*unused, key))? else {
        return None;
    };
    match take(&mut algorithm, OBJECT_IDENTIFIER)? {
        RSA_ENCRYPTION => rsa(key),
        EC_PUBLIC_KEY if take(&mut algorithm, OBJECT_IDENTIFIER)? == PRIME256V1 => {
            Some(PublicKey::P256(key))
        }
        ED25519 => Some(PublicKey::Ed25519(key)),
        _ => None,
    }
}

/// RSAPublicKey (RFC 8017 §A.1.1).
fn rsa(mut key: &[u8]) -> Option<PublicKey<'_>> {
    let mut numbers = take(&mut key, SEQUENCE)?;
    let n = take(&mut numbers, INTEGER)?;
    let e = take(&mut numbers, INTEGER)?;
    (key.is_empty() && numbers.is_empty()).then_some(PublicKey::Rsa { n, e })
}

/// Takes a value with this tag off the front, and returns its contents. Its length is below 64 KiB (X.690 §8.1.3).
fn take<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&[found, first], rest) = input.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            (usize::from(*length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    *input = rest;
    (found == tag).then_some(contents)
}
