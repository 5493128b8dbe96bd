//! An origin that answers its CDN alone: a header whose value only the CDN knows.

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

/// Whether a request came through the CDN, where there has to be one. What is refused is limited like any other
/// call: a secret is not to be tried out at any rate.
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
