//! Calls of the operator, in no vendor's dialect: today the health check.

use bytes::Bytes;
use hyper::{
    Response,
    header::{self, HeaderValue},
};

use super::body::Body;

/// Answers as long as the process can answer at all. `server` names this run of it, so that a probe knows
/// whom it reached.
pub fn health(server: &str) -> Response<Body> {
    let text = serde_json::json!({ "status": "ok", "server": server }).to_string();
    let mut response = Response::new(Body::from(Bytes::from(text)));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
