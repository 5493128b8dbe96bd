//! Restricts an origin to its CDN, by a header whose value only the CDN knows.

use hyper::{HeaderMap, header::HeaderName};

use crate::{
    error::{Error, Kind, Result},
    secret::SecretKey,
};

/// What the CDN sends.
#[derive(Debug, Clone)]
pub struct CdnSecret {
    /// In which header.
    pub header: HeaderName,
    /// Its value.
    pub secret: SecretKey,
}

/// Checks that a request came through the CDN, if one is configured. Refused requests count against the rate limit, so that
/// the secret cannot be guessed quickly.
///
/// # Errors
/// `Forbidden`.
pub fn check(expected: Option<&CdnSecret>, headers: &HeaderMap) -> Result<()> {
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
