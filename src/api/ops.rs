//! Responses that belong to no vendor's API: the public health check, preflights, and the responses of the operator
//! listener (`server/operator.rs`), with the OpenAPI documents.

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{self, HeaderValue},
};

use crate::{delivery::Body, metrics};

/// The OpenAPI documents, and their paths on the operator listener.
const DOCUMENTS: [(&str, &str); 3] = [
    (
        "/openapi/easemob.yaml",
        include_str!("../../docs/openapi/easemob.yaml"),
    ),
    (
        "/openapi/lanying.yaml",
        include_str!("../../docs/openapi/lanying.yaml"),
    ),
    (
        "/openapi/operator.yaml",
        include_str!("../../docs/openapi/operator.yaml"),
    ),
];

/// The health check: succeeds whenever the process can answer. `server` is the random name of this run, so that a probe
/// knows which process it reached.
pub fn health(server: &str) -> Response<Body> {
    let text = serde_json::json!({ "status": "ok", "server": server }).to_string();
    let json = HeaderValue::from_static("application/json");
    answer(StatusCode::OK, json, text)
}

/// The response to a browser's preflight. Its CORS headers are added to every response.
pub fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}

/// A plain-text response for people and probes.
pub fn text(status: StatusCode, words: &str) -> Response<Body> {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer(status, plain, format!("{words}\n"))
}

/// The response to a wrong method on a path with these methods.
pub fn only(methods: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    let allow = HeaderValue::from_static(methods);
    response.headers_mut().insert(header::ALLOW, allow);
    response
}

/// The metrics for Prometheus.
pub fn metrics(text: String) -> Response<Body> {
    let exposition = HeaderValue::from_static(metrics::CONTENT_TYPE);
    answer(StatusCode::OK, exposition, text)
}

/// The OpenAPI document at this path of the operator listener; `None` if there is none.
pub fn openapi(path: &str) -> Option<Response<Body>> {
    let (_, text) = DOCUMENTS.iter().find(|(at, _)| *at == path)?;
    // RFC 9512.
    let yaml = HeaderValue::from_static("application/yaml");
    Some(answer(StatusCode::OK, yaml, *text))
}

fn answer(status: StatusCode, content_type: HeaderValue, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
