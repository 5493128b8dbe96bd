//! A chat backend that signs JWTs, with keys that `openssl` made.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::LazyLock,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use sha2::Sha256;

use super::{AUDIENCE, ISSUER};
use crate::support::TestServer;

/// A key pair or a secret.
pub(super) struct Signer {
    /// The algorithm, which is also the kid.
    pub(super) name: &'static str,
    /// PKCS#8 in DER, or the secret.
    private: Vec<u8>,
    /// PEM; empty for a secret.
    pub(super) public: String,
}

/// RSA keys take long to make.
static RSA: LazyLock<Vec<u8>> = LazyLock::new(|| {
    openssl(
        &[
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-outform",
            "DER",
        ],
        b"",
    )
});

/// Runs `openssl`.
pub(super) fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is installed");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}");
    output.stdout
}

pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// HMAC-SHA256 in base64url.
pub(super) fn hmac(secret: &[u8], message: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(message.as_bytes());
    encode(mac.finalize().into_bytes())
}

/// Header and claims, as they are signed.
pub(super) fn message(header: &Value, claims: &Value) -> String {
    format!(
        "{}.{}",
        encode(header.to_string()),
        encode(claims.to_string())
    )
}

/// The claims of a token of alice that is valid for an hour.
pub(super) fn claims(server: &TestServer) -> Value {
    let now = server.clock.now().secs();
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 3600 })
}

/// Claims with some replaced; `null` removes one.
pub(super) fn with(mut claims: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

impl Signer {
    pub(super) fn all() -> [Self; 4] {
        [Self::hs256(), Self::rs256(), Self::es256(), Self::ed25519()]
    }

    fn pair(name: &'static str, private: Vec<u8>) -> Self {
        let public = openssl(&["pkey", "-inform", "DER", "-pubout"], &private);
        Self {
            name,
            private,
            public: String::from_utf8(public).unwrap(),
        }
    }

    /// A secret of its own.
    pub(super) fn hs256() -> Self {
        Self {
            name: "HS256",
            private: openssl(&["rand", "48"], b""),
            public: String::new(),
        }
    }

    /// The only RSA key of this process.
    pub(super) fn rs256() -> Self {
        Self::pair("RS256", RSA.clone())
    }

    pub(super) fn es256() -> Self {
        let curve = "ec_paramgen_curve:P-256";
        let key = openssl(
            &[
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                curve,
                "-outform",
                "DER",
            ],
            b"",
        );
        Self::pair("ES256", key)
    }

    pub(super) fn ed25519() -> Self {
        let key = openssl(
            &["genpkey", "-algorithm", "ed25519", "-outform", "DER"],
            b"",
        );
        Self::pair("EdDSA", key)
    }

    /// Signs a message, whatever it is.
    pub(super) fn sign(&self, message: &str) -> String {
        match self.name {
            "HS256" => hmac(&self.private, message),
            "RS256" => encode(self.sign_digest(message)),
            "ES256" => encode(es256_signature(&self.sign_digest(message))),
            _ => {
                let key = EncodingKey::from_ed_der(&self.private);
                jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::EdDSA).unwrap()
            }
        }
    }

    /// `openssl` signs the SHA-256 of a message.
    fn sign_digest(&self, message: &str) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        fs::write(&file, &self.private).unwrap();
        let file = file.to_str().unwrap();
        let arguments = ["dgst", "-sha256", "-keyform", "DER", "-sign", file];
        openssl(&arguments, message.as_bytes())
    }

    /// A token with this header.
    pub(super) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        format!("{message}.{}", self.sign(&message))
    }

    /// A token with this kid.
    pub(super) fn token(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = json!({ "alg": self.name, "typ": "JWT" });
        if let Some(kid) = kid {
            header["kid"] = kid.into();
        }
        self.token_with(&header, claims)
    }

    /// The key as a JWK with this kid.
    pub(super) fn jwk(&self, kid: &str) -> Value {
        let der = || {
            openssl(
                &["pkey", "-pubin", "-outform", "DER"],
                self.public.as_bytes(),
            )
        };
        match self.name {
            "HS256" => {
                json!({ "kty": "oct", "kid": kid, "alg": "HS256", "k": encode(&self.private) })
            }
            "RS256" => {
                let text = openssl(
                    &["rsa", "-pubin", "-noout", "-modulus"],
                    self.public.as_bytes(),
                );
                let text = String::from_utf8(text).unwrap();
                let digits = text.trim().strip_prefix("Modulus=").unwrap();
                let byte =
                    |index: usize| u8::from_str_radix(&digits[index..index + 2], 16).unwrap();
                let n: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
                json!({ "kty": "RSA", "kid": kid, "use": "sig", "n": encode(n), "e": "AQAB" })
            }
            "ES256" => {
                // The point is at the end: 32 bytes each.
                let der = der();
                let (rest, y) = der.split_at(der.len() - 32);
                let x = &rest[rest.len() - 32..];
                json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": encode(x), "y": encode(y) })
            }
            _ => {
                let der = der();
                let x = &der[der.len() - 32..];
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "alg": "EdDSA", "x": encode(x) })
            }
        }
    }

    /// Writes a file for the setting `keys`: PEM, or a JWK set without a kid for a secret.
    pub(super) fn write(&self, directory: &Path, name: &str) {
        match self.public.is_empty() {
            false => write(directory, name, &self.public),
            true => {
                let key = with(self.jwk("x"), json!({ "kid": null }));
                write(directory, name, &json!({ "keys": [key] }).to_string());
            }
        }
    }

    /// Writes a JWK set with this key, whose kid is the algorithm.
    pub(super) fn write_set(&self, directory: &Path, name: &str) {
        write(directory, name, &set(&[self.jwk(self.name)]));
    }
}

/// The two numbers of an ECDSA signature in DER, as RFC 7518 §3.4 wants them: 32 bytes each.
fn es256_signature(der: &[u8]) -> Vec<u8> {
    let number = |at: usize| {
        assert_eq!(der[at], 2, "an INTEGER");
        let bytes = &der[at + 2..][..der[at + 1].into()];
        let digits = bytes.strip_prefix(&[0]).unwrap_or(bytes);
        [&vec![0; 32 - digits.len()], digits].concat()
    };
    let second = 4 + usize::from(der[3]);
    [number(2), number(second)].concat()
}

/// A JWK set.
pub(super) fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// Replaces a file, as programs do that keep keys: by a rename, with the mode 0600.
pub(super) fn write(directory: &Path, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let draft = directory.join(".draft");
    fs::write(&draft, text).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(draft, directory.join(name)).unwrap();
}
