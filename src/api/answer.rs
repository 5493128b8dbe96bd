//! Responses without a file: JSON, redirects, and the headers that errors of both APIs have.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{self, HeaderValue},
};

use crate::{
    delivery::Body,
    error::{Error, Kind, Result},
    http::byteranges,
};

/// A JSON response. Not cached, and not interpreted as another type.
pub(super) fn json(status: StatusCode, text: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(text.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json;charset=UTF-8"),
    );
    forbid_caching(headers);
    response
}

/// Adds the headers of every response without a file.
pub(super) fn forbid_caching(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
}

/// A redirect to the URL. Not cached: the response at the URL is.
///
/// # Errors
/// `Internal` if the URL is not a valid header value.
pub(super) fn redirect(url: &str) -> Result<Response<Body>> {
    let location = HeaderValue::try_from(url).map_err(Error::internal)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Adds the headers that HTTP requires beside the status of an error (RFC 9110 §15.5.17, §10.2.3).
pub(super) fn error_headers(kind: Kind, headers: &mut HeaderMap) {
    match kind {
        Kind::RangeNotSatisfiable(len) => {
            headers.insert(
                header::CONTENT_RANGE,
                byteranges::unsatisfied_content_range(len),
            );
        }
        Kind::RateLimited(after) | Kind::QuotaReached(after) | Kind::Unavailable(after) => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds_up(after)));
        }
        _ => {}
    }
}

/// Whole seconds, rounded up, at least one.
fn seconds_up(after: Duration) -> u64 {
    after
        .as_secs()
        .saturating_add(u64::from(after.subsec_nanos() > 0))
        .max(1)
}
