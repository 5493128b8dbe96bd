//! Finishes a response: renders and logs an error, and adds the headers that every response has.

use hyper::{
    Method, Response, StatusCode,
    body::Body as _,
    header::{self, HeaderName, HeaderValue},
};

use super::Service;
use crate::{
    api::{Call, easemob, lanying},
    delivery::Body,
    error::{Error, Kind, Result},
    routes::{self, ErrorFormat},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl Service {
    pub(super) fn render(&self, call: &Call<'_>, result: Result<Response<Body>>) -> Response<Body> {
        let mut response = match result {
            Ok(response) => {
                log_success(call, response.status());
                response
            }
            Err(error) => self.render_error(call, &error),
        };
        let headers = response.headers_mut();
        headers.insert(
            REQUEST_ID,
            HeaderValue::try_from(format!("{:016x}", call.id)).expect("hexadecimal digits"),
        );
        let origin = call.headers.get(header::ORIGIN);
        self.cors.apply(origin, headers);
        if call.method == Method::OPTIONS {
            let requested = call.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
            self.cors.preflight_headers(origin, requested, headers);
        }
        if call.method == Method::HEAD {
            // hyper sends no body, but takes the length from the body that it is given.
            let length = response.body().size_hint().exact();
            if let Some(length) = length.filter(|length| *length > 0) {
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
                *response.body_mut() = Body::empty();
            }
        }
        response
    }

    fn render_error(&self, call: &Call<'_>, error: &Error) -> Response<Body> {
        let path = call.target.path();
        let mut response = match routes::error_format(path) {
            ErrorFormat::Easemob => easemob::wire::error(&self.api, call, error),
            ErrorFormat::Lanying => lanying::wire::error(error),
            ErrorFormat::Oss => lanying::form_error(call, error),
        };
        if error.kind() == Kind::MethodNotAllowed {
            let allow = HeaderValue::try_from(routes::allow(path));
            let allow = allow.expect("method names are valid header values");
            response.headers_mut().insert(header::ALLOW, allow);
        }
        log_failure(call, error, response.status());
        response
    }
}

fn log_success(call: &Call<'_>, status: StatusCode) {
    tracing::debug!(
        request = format_args!("{:016x}", call.id),
        method = %call.method,
        path = %call.target,
        client = %call.client,
        status = status.as_u16(),
        "answered"
    );
}

/// Logs an error. The only place that does so.
fn log_failure(call: &Call<'_>, error: &Error, status: StatusCode) {
    let status = status.as_u16();
    let (method, path, client) = (call.method, call.target, call.client);
    let request = format_args!("{:016x}", call.id);
    match error.kind() {
        Kind::Internal | Kind::StorageFull => {
            tracing::error!(request, %method, %path, %client, status, %error, "failed");
        }
        Kind::RateLimited(_) => {
            tracing::debug!(request, %method, %path, %client, status, %error, "refused")
        }
        // The error's text repeats the path as it was sent, so only its kind is logged.
        kind @ Kind::TenantNotFound => {
            tracing::info!(request, %method, %path, %client, status, error = ?kind, "refused")
        }
        _ => tracing::info!(request, %method, %path, %client, status, %error, "refused"),
    }
}
