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

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// A JSON response. `status` is a valid HTTP status.
pub(super) fn json(status: u16, value: &serde_json::Value) -> Response<Body> {
    text(status, "application/json;charset=UTF-8", value.to_string())
}

/// A response with a text. Not cached, and not interpreted as another type. `status` is a valid HTTP status.
pub(super) fn text(
    status: u16,
    content_type: &'static str,
    text: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() =
        StatusCode::from_u16(status).expect("the APIs use statuses from 200 to 507");
    let headers = response.headers_mut();
    let content_type = HeaderValue::from_static(content_type);
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    response
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
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    Ok(response)
}

/// Adds the headers that HTTP requires beside the status of an error (RFC 9110 §15.5.17, §10.2.3).
pub(super) fn error_headers(kind: Kind, headers: &mut HeaderMap) {
    match kind {
        Kind::RangeNotSatisfiable(len) => {
            let value = byteranges::unsatisfied_content_range(len);
            headers.insert(header::CONTENT_RANGE, value);
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
