//! Renders the JSON of this API: `{"code", "message", "data"}`, with HTTP 200 also for business errors. No other file
//! knows its field names. The default codes for a refusal by the chat backend are in `auth/hook.rs`.

use hyper::Response;
use serde_json::json;

use super::{Context, policy};
use crate::{
    api::answer,
    delivery::Body,
    error::{Error, Kind},
    store::Key,
    time::Timestamp,
};

/// The `code` of a success.
const OK: u32 = 200;

/// A successful response.
pub(super) fn data(data: &impl serde::Serialize) -> Response<Body> {
    let body = json!({ "code": OK, "message": "success", "data": data });
    answer::json(200, &body)
}

/// A permission to upload one file.
pub(super) struct Ticket {
    pub(super) download_url: String,
    pub(super) upload_url: String,
    pub(super) key: Key,
    pub(super) signed: policy::Signed,
    pub(super) expires: Timestamp,
    pub(super) store_token: String,
}

/// The response to a request for an upload ticket.
pub(super) fn ticket(context: &Context<'_>, ticket: &Ticket) -> Response<Body> {
    // As the vendor: all values are strings, and there is an empty `callback`. Clients ignore both.
    let fields = json!({
        "OSSAccessKeyId": &context.lanying.app_id,
        "policy": ticket.signed.policy,
        "signature": ticket.signed.signature,
        "callback": "",
        "key": ticket.key.to_string(),
    });
    data(&json!({
        "download_url": ticket.download_url,
        "upload_url": ticket.upload_url,
        "oss_body_param": fields,
        "upload_method": "POST",
        "max_size": context.tenant.limits.upload_bytes_max,
        "expires": ticket.expires.secs(),
        "store_token": ticket.store_token,
    }))
}

/// The error table of the contract: HTTP status, code, message. Errors of HTTP itself, such as an unknown path or an
/// unsatisfiable range, keep their HTTP status.
fn error_body(kind: Kind) -> (u16, u32, &'static str) {
    match kind {
        Kind::TokenExpired => (200, 402, "the token has expired"),
        Kind::UserMissing => (200, 10000, "the user is missing: set the header user_id"),
        Kind::InvalidArgument
        | Kind::TooLarge
        | Kind::TooSmall
        | Kind::UnsupportedMediaType
        | Kind::Policy(_) => (200, 10002, "a parameter is wrong"),
        Kind::TokenMissing => (200, 10003, "access-token is missing"),
        Kind::TokenInvalid | Kind::GrantPassword | Kind::GrantUser | Kind::GrantClient => {
            (200, 10008, "access-token is invalid")
        }
        Kind::StorageFull => (200, 10009, "there is no space left to store files"),
        Kind::Internal | Kind::AlreadyExists => (200, 10009, "the file store failed"),
        Kind::Denied(code) => (200, code, denied(code)),
        Kind::ObjectNotFound => (200, 20022, "the file does not exist"),
        Kind::ObjectExpired => (200, 20022, "the file has expired"),
        Kind::NoThumbnail => (200, 20022, "the file has no picture"),
        Kind::NotConvertible => (200, 20022, "the voice cannot be converted"),
        Kind::Forbidden => (200, 20023, "the file may not be opened"),
        Kind::TenantNotFound => (200, 40000, "app_id is missing or unknown"),
        Kind::BadMessage => (400, 400, "the request is no good HTTP"),
        Kind::Disconnected => (400, 400, "the request was cut off"),
        Kind::RouteNotFound => (404, 404, "there is no such call"),
        Kind::MethodNotAllowed => (405, 405, "the method is not supported on this path"),
        Kind::RequestTimeout => (408, 408, "the request's body did not come in time"),
        Kind::PreconditionFailed => (412, 412, "a precondition of the request is false"),
        Kind::RangeNotSatisfiable(_) => (416, 416, "the range lies outside of the file"),
        Kind::RateLimited(_) => (503, 503, "too many calls: try again in a moment"),
        // Only forms have it, and `oss.rs` renders their errors.
        Kind::QuotaReached(_) => (429, 429, "the upload quota of today is used up"),
        Kind::Unavailable(_) => (503, 503, "try again in a moment"),
    }
}

/// The meaning of the codes of the chat backend.
fn denied(code: u32) -> &'static str {
    match code {
        20001 => "there is no such group",
        20002 => "the user is not in the group",
        20012 => "only the group's administrators may do this",
        _ => "the user lacks the permission",
    }
}

/// Renders an error of this API.
pub fn error(error: &Error) -> Response<Body> {
    let (status, code, message) = error_body(error.kind());
    let message = error.public_text().unwrap_or(message);
    let body = json!({ "code": code, "message": message, "data": null });
    let mut response = answer::json(status, &body);
    answer::error_headers(error.kind(), response.headers_mut());
    response
}
