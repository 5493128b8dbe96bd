//! How the tokens of a tenant's own chat backend are recognized: `[tenant.auth.jwt]` and `[tenant.auth.introspection]`.
//!
//! Only settings. The keys are read by `auth/backend_keys.rs`, tokens are checked by `auth/jwt.rs` and
//! `auth/introspection.rs`. What the settings need of each other is in `config/tenants.rs`.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, de::Error};

use crate::{secret::SecretKey, settings::seconds_in};

/// Which tokens of the chat backend a tenant accepts, besides those of this server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackendAuth {
    /// JWTs that the backend signs.
    pub jwt: Option<JwtIssuer>,
    /// Tokens that only the backend's introspection server knows.
    pub introspection: Option<IntrospectionServer>,
}

impl BackendAuth {
    /// Whether the tenant accepts no tokens but those of this server.
    pub fn is_none(&self) -> bool {
        self.jwt.is_none() && self.introspection.is_none()
    }
}

/// Whoever signs JWTs for a tenant.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtIssuer {
    /// The claim `iss`, which must be equal.
    pub issuer: String,
    /// The claim `aud` must contain one of these. Not empty.
    #[serde(deserialize_with = "one_or_more")]
    pub audience: Vec<String>,
    /// Files with keys: PEM, or JWK sets. Not empty.
    #[serde(deserialize_with = "one_or_more")]
    pub keys: Vec<PathBuf>,
    /// The algorithms of usable keys. Keys of other algorithms are ignored.
    pub algorithms: Vec<JwtAlgorithm>,
    /// The claim with the user's name.
    #[serde(default = "default_subject_claim")]
    pub subject_claim: String,
    /// The claim that must name the tenant.
    #[serde(default)]
    pub app_claim: Option<String>,
}

/// A signature algorithm of JWTs. The type of a key determines its algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256, for secrets.
    HS256,
    /// RSA PKCS#1 v1.5 with SHA-256.
    RS256,
    /// ECDSA on the curve P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

/// An introspection server (RFC 7662).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionServer {
    /// An `http://` or `https://` URL, called with POST.
    pub url: String,
    /// Authenticates this server, by HTTP Basic.
    pub client_id: String,
    /// The secret of `client_id`.
    pub client_secret: SecretKey,
    /// Maximum time that an answer is used.
    #[serde(
        rename = "cache_seconds",
        default = "default_cache",
        deserialize_with = "cache_seconds"
    )]
    pub cache: Duration,
    /// If it is not empty, `aud` in the answer must contain one of these.
    #[serde(default, deserialize_with = "one_or_more")]
    pub audience: Vec<String>,
    /// The member of the answer with the user's name.
    #[serde(default = "default_subject_claim")]
    pub subject_claim: String,
    /// The member of the answer that must name the tenant.
    #[serde(default)]
    pub app_claim: Option<String>,
}

fn default_subject_claim() -> String {
    "sub".into()
}

const fn default_cache() -> Duration {
    Duration::from_secs(60)
}

fn cache_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    seconds_in::<0, 3600, _, _>(deserializer).map(Duration::from_secs)
}

/// One value, or a list of at least one.
fn one_or_more<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore<T> {
        One(T),
        More(Vec<T>),
    }
    match OneOrMore::deserialize(deserializer) {
        Ok(OneOrMore::One(value)) => Ok(vec![value]),
        Ok(OneOrMore::More(values)) if !values.is_empty() => Ok(values),
        _ => Err(D::Error::custom(
            "expected a text, or a list of at least one text",
        )),
    }
}
