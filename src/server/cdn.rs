//! Restricts an origin to its CDN, by a header whose value only the CDN knows.

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};
use serde::{Deserialize, Deserializer};

use crate::{
    error::{Error, Kind, Result},
    secret::SecretKey,
    settings::expected,
};

/// The header that the CDN sends.
#[derive(Debug, Clone)]
pub(crate) struct CdnSecret {
    /// The name of the header.
    header: HeaderName,
    /// Its value.
    pub(crate) secret: SecretKey,
}

impl CdnSecret {
    /// Adds the header to a request that this process makes itself.
    pub(super) fn mark(&self, headers: &mut HeaderMap) {
        // The configuration has checked that the secret is a valid value.
        if let Ok(mut value) = HeaderValue::from_str(self.secret.expose()) {
            value.set_sensitive(true);
            headers.insert(self.header.clone(), value);
        }
    }
}

/// Settings of the CDN, from `[cdn]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    #[serde(deserialize_with = "secret")]
    secret: Option<SecretKey>,
    #[serde(deserialize_with = "header")]
    secret_header: Option<HeaderName>,
}

impl Config {
    /// The header to require; `None` if there is no secret.
    ///
    /// # Errors
    /// `InvalidArgument` if there is a header without a secret, since nothing would be checked.
    pub(crate) fn secret(self) -> Result<Option<CdnSecret>> {
        match (self.secret, self.secret_header) {
            (Some(secret), header) => Ok(Some(CdnSecret {
                header: header.unwrap_or(HeaderName::from_static("x-cdn-secret")),
                secret,
            })),
            (None, Some(header)) => Err(Error::invalid(format!(
                "cdn.secret_header = \"{header}\": set it together with cdn.secret"
            ))),
            (None, None) => Ok(None),
        }
    }
}

/// Reads a secret that is a valid header value.
fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretKey>, D::Error> {
    let secret = SecretKey::deserialize(deserializer)?;
    match secret.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(Some(secret)),
        false => Err(expected(
            "visible ASCII characters without spaces",
            "others",
        )),
    }
}

fn header<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<HeaderName>, D::Error> {
    let name = String::deserialize(deserializer)?;
    let header = name.parse().map(Some);
    header.map_err(|_| expected("the name of a header", format_args!("{name:?}")))
}

/// Checks that a request came through the CDN, if one is configured. Refused requests count against the rate limit, so that
/// the secret cannot be guessed quickly.
///
/// # Errors
/// `Forbidden`.
pub(super) fn check(expected: Option<&CdnSecret>, headers: &HeaderMap) -> Result<()> {
    let Some(CdnSecret { header, secret }) = expected else {
        return Ok(());
    };
    let said = headers.get(header).and_then(|value| value.to_str().ok());
    match said.is_some_and(|said| secret.equals(said)) {
        true => Ok(()),
        false => {
            Err(Error::new(Kind::Forbidden).public("this server answers through its CDN only."))
        }
    }
}
