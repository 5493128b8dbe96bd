//! Keys that `openssl` and JWK sets provide, and those that must not be used.

use serde_json::{Value, json};

use super::*;

/// `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 | openssl pkey -pubout`, and the same for P-256,
/// Ed25519, RSA of 1024 bits, and P-384.
const RSA: &str = include_str!("../../../tests/data/keys/rsa.pem");
const EC: &str = include_str!("../../../tests/data/keys/ec.pem");
const ED: &str = include_str!("../../../tests/data/keys/ed.pem");
const RSA_1024: &str = include_str!("../../../tests/data/keys/rsa1024.pem");
const P384: &str = include_str!("../../../tests/data/keys/p384.pem");

fn algorithms(text: &str) -> Result<Vec<JwtAlgorithm>, String> {
    let set = parse(text.as_bytes())?;
    Ok(set.keys.iter().map(|key| key.algorithm).collect())
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

#[track_caller]
fn assert_refused(text: &str, about: &str) {
    let error = parse(text.as_bytes()).err().expect("an error");
    assert!(error.contains(about), "{error}");
}

#[test]
fn reads_pem_of_openssl() {
    use JwtAlgorithm::{ES256, EdDSA, RS256};
    for (text, expected) in [
        (RSA.to_owned(), vec![RS256]),
        (EC.to_owned(), vec![ES256]),
        (ED.to_owned(), vec![EdDSA]),
        (
            format!("issued 2026\n{RSA}{EC}\n\n{ED}"),
            vec![RS256, ES256, EdDSA],
        ),
        (RSA.replace('\n', "\r\n"), vec![RS256]),
    ] {
        assert_eq!(algorithms(&text).unwrap(), expected, "{text}");
    }
}

#[test]
fn refuses_other_pem() {
    for (text, about) in [
        ("", "neither PEM"),
        ("secret", "neither PEM"),
        (&RSA[..RSA.len() / 2], "PEM"),
        (RSA_1024, "1024 bits: expected 2048 to 4096"),
        (P384, "P-256"),
        (&RSA.replacen("MIIB", "MIIA", 1), "expected a public key"),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "private key",
        ),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "certificate",
        ),
        (
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "expected a public key",
        ),
    ] {
        assert_refused(text, about);
    }
    // Cut at any byte, a key is refused and nothing panics.
    let whole = RSA.lines().filter(|line| !line.starts_with('-'));
    let der = base64::prelude::BASE64_STANDARD
        .decode(whole.collect::<String>())
        .unwrap();
    for end in 0..der.len() {
        assert_eq!(spki::parse(&der[..end]), None, "{end}");
    }
    assert!(spki::parse(&der).is_some());
    assert_eq!(spki::parse(&[&der[..], &[0]].concat()), None);
}

/// A JWK of 32 distinct bytes.
fn oct() -> Value {
    let secret: Vec<u8> = (0..32).collect();
    json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret) })
}

/// The example of RFC 8037 §A.2.
fn okp() -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" })
}

/// The example of RFC 7517 §A.1.
fn ec() -> Value {
    json!({
        "kty": "EC", "crv": "P-256",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    })
}

/// The same key with further members.
fn with(mut key: Value, members: Value) -> Value {
    for (name, value) in members.as_object().unwrap() {
        key[name] = value.clone();
    }
    key
}

#[test]
fn reads_jwk_sets() {
    use JwtAlgorithm::{ES256, EdDSA, HS256};
    let other = json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA" });
    for (keys, expected) in [
        (vec![], vec![]),
        (vec![oct()], vec![HS256]),
        (vec![okp(), ec()], vec![EdDSA, ES256]),
        (vec![other, json!({ "kty": "AKP" })], vec![]),
        (vec![with(ec(), json!({ "use": "enc" }))], vec![]),
        (
            vec![with(ec(), json!({ "use": "sig", "alg": "ES256" }))],
            vec![ES256],
        ),
        (vec![with(ec(), json!({ "alg": "ECDH-ES" }))], vec![]),
        (vec![with(oct(), json!({ "alg": "HS512" }))], vec![]),
        (vec![with(okp(), json!({ "alg": "Ed25519" }))], vec![EdDSA]),
        (vec![with(ec(), json!({ "key_ops": ["sign"] }))], vec![]),
        (
            vec![with(ec(), json!({ "key_ops": ["verify"], "x5c": ["x"] }))],
            vec![ES256],
        ),
    ] {
        assert_eq!(algorithms(&set(&keys)).unwrap(), expected, "{keys:?}");
    }
    let kids = parse(set(&[with(ec(), json!({ "kid": "1" })), okp()]).as_bytes()).unwrap();
    let kids: Vec<_> = kids.keys.iter().map(|key| key.kid.as_deref()).collect();
    assert_eq!(kids, [Some("1"), None]);
    assert!(parse(set(&[oct()]).as_bytes()).unwrap().has_secret);
    assert!(!parse(set(&[ec()]).as_bytes()).unwrap().has_secret);
}

#[test]
fn refuses_weak_and_broken_jwks() {
    let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let rsa = |n: &[u8], e: &[u8]| json!({ "kty": "RSA", "n": encoded(n), "e": encoded(e) });
    let secret = |bytes: &[u8]| json!({ "kty": "oct", "k": encoded(bytes) });
    let f4: &[u8] = &[1, 0, 1];
    for (key, about) in [
        (secret(&[7; 64]), "not random"),
        (
            secret(&oct()["k"].as_str().unwrap().as_bytes()[..31]),
            "31 bytes",
        ),
        (json!({ "kty": "oct" }), "k is not base64url"),
        (json!({ "kty": "oct", "k": "AA==" }), "k is not base64url"),
        (rsa(&[255; 128], f4), "1024 bits"),
        (rsa(&[&[0; 128][..], &[255; 128]].concat(), f4), "1024 bits"),
        (rsa(&[&[127][..], &[255; 255]].concat(), f4), "2047 bits"),
        (rsa(&[255; 513], f4), "4104 bits"),
        (rsa(&[255; 256], &[1]), "unusual exponent"),
        (rsa(&[255; 256], &[0, 1]), "unusual exponent"),
        (rsa(&[255; 256], &[2]), "unusual exponent"),
        (rsa(&[254; 256], f4), "unusual exponent"),
        (with(ec(), json!({ "y": ec()["x"] })), "not valid"),
        (with(ec(), json!({ "y": "AAAA" })), "P-256"),
        (with(okp(), json!({ "x": "AAAA" })), "32 bytes"),
        (with(okp(), json!({ "d": "AAAA" })), "private key"),
        (with(ec(), json!({ "kid": "k".repeat(257) })), "256 bytes"),
    ] {
        assert_refused(&set(&[key]), about);
    }
    let same = with(ec(), json!({ "kid": "1" }));
    assert_refused(&set(&[same.clone(), same]), "two keys have the kid \"1\"");
    assert_refused(&set(&vec![ec(); 5]), "at most 4 keys without a kid");
    let many: Vec<_> = (0..65)
        .map(|kid: u32| with(ec(), json!({ "kid": kid.to_string() })))
        .collect();
    assert_refused(&set(&many), "at most 64 keys");
    for text in [
        "{}",
        "{\"keys\":{}}",
        "{\"keys\":[1]}",
        "{\"keys\":[]",
        "{\"keys\":[{\"kty\":1}]}",
    ] {
        assert_refused(text, "not a JWK set");
    }
    // The message does not repeat a secret.
    let error = parse(br#"{"keys":[{"kty":"oct","k":{"my-secret":1}}]}"#)
        .err()
        .unwrap();
    assert!(!error.contains("my-secret"), "{error}");
}
