//! Parses files with the keys that verify a chat backend's JWTs: PEM with public keys (RFC 7468), or a JWK set (RFC 7517).
//!
//! The type of a key determines its algorithm, so a public key can never become the secret of an HMAC (RFC 8725 §3.1).
//! Pure. Files are read in [`super::backend_keys`].

mod spki;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use rustls::pki_types::pem::{PemObject, SectionKind};
use serde::{Deserialize, de::IgnoredAny};
use zeroize::Zeroizing;

use crate::{secret::Secret, tenant::JwtAlgorithm};

/// Maximum number of keys in a file.
const KEYS_MAX: usize = 64;
/// Maximum number of keys without a kid in a file: all of them are tried for a token without a kid.
const KEYS_WITHOUT_KID_MAX: usize = 4;
/// Maximum length of a kid.
const KID_BYTES_MAX: usize = 256;
/// Sizes of an RSA modulus. NIST SP 800-131A allows no less. The RSA library verifies with no more.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// The length of HS256's output (RFC 7518 §3.2).
const HMAC_BYTES_MIN: usize = 32;
/// A secret with fewer distinct bytes is not random. 32 random bytes have 30 on average.
const HMAC_DIFFERENT_BYTES_MIN: usize = 8;

/// A key that verifies tokens.
pub(super) struct Key {
    /// The id that tokens name it by.
    pub(super) kid: Option<String>,
    pub(super) algorithm: JwtAlgorithm,
    pub(super) decodes: DecodingKey,
}

/// The keys of a file, and whether the file must be private.
pub(super) struct KeySet {
    pub(super) keys: Vec<Key>,
    /// It contains the secret of an HMAC.
    pub(super) has_secret: bool,
}

/// Parses a file. Keys in a JWK set that are not for signatures, or of an unsupported type, are left out, as RFC 7517 §5
/// demands; so the result may have no keys.
///
/// # Errors
/// What is wrong with the file, in words for the operator. They contain no secret.
pub(super) fn parse(text: &[u8]) -> Result<KeySet, String> {
    let keys = match text.trim_ascii_start().first() {
        Some(b'{') => parse_set(text)?,
        _ => parse_pem(text)?,
    };
    if keys.len() > KEYS_MAX {
        return Err(format!(
            "expected at most {KEYS_MAX} keys, found {}",
            keys.len()
        ));
    }
    let without_kid = keys.iter().filter(|key| key.kid.is_none()).count();
    if without_kid > KEYS_WITHOUT_KID_MAX {
        return Err(format!(
            "expected at most {KEYS_WITHOUT_KID_MAX} keys without a kid, found {without_kid}"
        ));
    }
    for (index, key) in keys.iter().enumerate() {
        let is_same = |other: &Key| other.kid.is_some() && other.kid == key.kid;
        if keys[..index].iter().any(is_same) {
            let kid = key.kid.as_deref().unwrap_or_default();
            return Err(format!("two keys have the kid {kid:?}"));
        }
    }
    let has_secret = keys.iter().any(|key| key.algorithm == JwtAlgorithm::HS256);
    Ok(KeySet { keys, has_secret })
}

/// The algorithm in the words of the JWT library.
pub(super) fn library_algorithm(algorithm: JwtAlgorithm) -> Algorithm {
    match algorithm {
        JwtAlgorithm::HS256 => Algorithm::HS256,
        JwtAlgorithm::RS256 => Algorithm::RS256,
        JwtAlgorithm::ES256 => Algorithm::ES256,
        JwtAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

/// A key of a set: the members that this server knows. All others are ignored.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// The secret of an HMAC.
    k: Option<Secret>,
    /// The private part of an asymmetric key.
    d: Option<IgnoredAny>,
}

fn parse_set(text: &[u8]) -> Result<Vec<Key>, String> {
    let set: JwkSet = serde_json::from_slice(text).map_err(|error| {
        // The text of the parser may repeat a value.
        let (line, column) = (error.line(), error.column());
        format!("not a JWK set ({{\"keys\":[…]}}): line {line}, column {column}")
    })?;
    let mut keys = Vec::new();
    for (index, jwk) in set.keys.into_iter().enumerate() {
        let name = match &jwk.kid {
            Some(kid) => format!("key {kid:?}"),
            None => format!("key number {}", index + 1),
        };
        keys.extend(jwk.key().map_err(|wrong| format!("{name}: {wrong}"))?);
    }
    Ok(keys)
}

impl Jwk {
    /// The key; `None` if it is of another kind, or for another purpose.
    fn key(self) -> Result<Option<Key>, String> {
        if self
            .kid
            .as_ref()
            .is_some_and(|kid| kid.len() > KID_BYTES_MAX)
        {
            return Err(format!("its kid has more than {KID_BYTES_MAX} bytes"));
        }
        let curve = self.crv.as_deref();
        let (algorithm, name) = match (self.kty.as_str(), curve) {
            ("oct", _) => (JwtAlgorithm::HS256, "HS256"),
            ("RSA", _) => (JwtAlgorithm::RS256, "RS256"),
            ("EC", Some("P-256")) => (JwtAlgorithm::ES256, "ES256"),
            ("OKP", Some("Ed25519")) => (JwtAlgorithm::EdDSA, "EdDSA"),
            _ => return Ok(None),
        };
        // RFC 9864 §2.2 renames EdDSA with Ed25519.
        let is_other = |alg: &String| *alg != name && !(name == "EdDSA" && *alg == "Ed25519");
        let verifies = |operations: &Vec<String>| operations.iter().any(|one| one == "verify");
        if self.alg.as_ref().is_some_and(is_other)
            || self.usage.as_ref().is_some_and(|usage| usage != "sig")
            || self.key_ops.as_ref().is_some_and(|has| !verifies(has))
        {
            return Ok(None);
        }
        if self.d.is_some() {
            return Err("it is a private key: give this server only the public one".into());
        }
        let decodes = match algorithm {
            JwtAlgorithm::HS256 => hmac(&member(self.k.as_ref().map(Secret::expose), "k")?)?,
            JwtAlgorithm::RS256 => rsa(
                &member(self.n.as_deref(), "n")?,
                &member(self.e.as_deref(), "e")?,
            )?,
            JwtAlgorithm::ES256 => {
                let (x, y) = (
                    member(self.x.as_deref(), "x")?,
                    member(self.y.as_deref(), "y")?,
                );
                // SEC 1 §2.3.3: an uncompressed point.
                p256(&[&[4], &x[..], &y[..]].concat())?
            }
            JwtAlgorithm::EdDSA => ed25519(&member(self.x.as_deref(), "x")?)?,
        };
        Ok(Some(Key {
            kid: self.kid,
            algorithm,
            decodes,
        }))
    }
}

/// The bytes of a member in base64url.
fn member(text: Option<&str>, name: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let bytes = URL_SAFE_NO_PAD.decode(text.unwrap_or_default());
    let bytes = bytes.ok().map(Zeroizing::new).filter(|has| !has.is_empty());
    bytes.ok_or_else(|| format!("{name} is not base64url without padding"))
}

fn parse_pem(text: &[u8]) -> Result<Vec<Key>, String> {
    let mut keys = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, der) = section.map_err(|_| "its PEM is damaged")?;
        let der = Zeroizing::new(der);
        match kind {
            SectionKind::PublicKey => keys.push(public_key(&der)?),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                let command = "openssl pkey -in private.pem -pubout";
                return Err(format!(
                    "it has a private key: give this server only the public one ({command})"
                ));
            }
            SectionKind::Certificate => {
                let command = "openssl x509 -in certificate.pem -noout -pubkey";
                return Err(format!(
                    "it has a certificate: extract the public key ({command})"
                ));
            }
            _ => {}
        }
    }
    match keys.is_empty() {
        true => Err("it has neither PEM with a PUBLIC KEY nor a JWK set".into()),
        false => Ok(keys),
    }
}

fn public_key(der: &[u8]) -> Result<Key, String> {
    let (algorithm, decodes) = match spki::parse(der) {
        Some(spki::PublicKey::Rsa { n, e }) => (JwtAlgorithm::RS256, rsa(n, e)?),
        Some(spki::PublicKey::P256(point)) => (JwtAlgorithm::ES256, p256(point)?),
        Some(spki::PublicKey::Ed25519(key)) => (JwtAlgorithm::EdDSA, ed25519(key)?),
        None => return Err("expected a public key of RSA, EC on P-256, or Ed25519".into()),
    };
    Ok(Key {
        kid: None,
        algorithm,
        decodes,
    })
}

fn hmac(secret: &[u8]) -> Result<DecodingKey, String> {
    if secret.len() < HMAC_BYTES_MIN {
        return Err(format!(
            "the secret has {} bytes: HS256 needs at least {HMAC_BYTES_MIN}",
            secret.len()
        ));
    }
    let mut seen = [false; 256];
    secret
        .iter()
        .for_each(|byte| seen[usize::from(*byte)] = true);
    if seen.into_iter().filter(|is_seen| *is_seen).count() < HMAC_DIFFERENT_BYTES_MIN {
        return Err("the secret is not random: it has few different bytes".into());
    }
    Ok(DecodingKey::from_secret(secret))
}

fn rsa(n: &[u8], e: &[u8]) -> Result<DecodingKey, String> {
    let significant = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes[zeros..].to_vec()
    };
    let (n, e) = (significant(n), significant(e));
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        let (min, max) = (RSA_BITS.start(), RSA_BITS.end());
        return Err(format!(
            "the RSA key has {bits} bits: expected {min} to {max}"
        ));
    }
    // With the exponent 1, anyone could sign. All common libraries use 65537.
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
    let is_exponent = is_odd(&e) && e != [1] && e.len() <= 4;
    match is_exponent && is_odd(&n) {
        true => usable(
            DecodingKey::from_rsa_raw_components(&n, &e),
            Algorithm::RS256,
        ),
        false => Err("the RSA key has an unusual exponent or modulus".into()),
    }
}

fn p256(point: &[u8]) -> Result<DecodingKey, String> {
    match point {
        [4, rest @ ..] if rest.len() == 64 => {
            usable(DecodingKey::from_ec_der(point), Algorithm::ES256)
        }
        _ => Err("expected an uncompressed point of P-256".into()),
    }
}

fn ed25519(key: &[u8]) -> Result<DecodingKey, String> {
    match key.len() {
        32 => usable(DecodingKey::from_ed_der(key), Algorithm::EdDSA),
        _ => Err("expected 32 bytes of Ed25519".into()),
    }
}

/// Refuses a key with which the library cannot verify anything, for example a point that is not on the curve.
fn usable(key: DecodingKey, algorithm: Algorithm) -> Result<DecodingKey, String> {
    match jsonwebtoken::crypto::verify("", b"", &key, algorithm) {
        Ok(_) => Ok(key),
        Err(_) => Err("the key is not valid".into()),
    }
}

#[cfg(test)]
mod tests;
