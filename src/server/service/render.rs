//! An answer as it leaves: a failure rendered in its dialect and logged, and the headers that every answer has.

use std::net::IpAddr;

use hyper::{
    Method, Response,
    body::Body as _,
    header::{self, HeaderName, HeaderValue},
};

use super::Service;
use crate::{
    api::{Call, easemob, lanying},
    delivery::Body,
    error::{Error, Kind, Result},
    server::router::{self, Voice},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl Service {
    pub(super) fn render(
        &self,
        call: &Call<'_>,
        client: IpAddr,
        result: Result<Response<Body>>,
    ) -> Response<Body> {
        let id = call.id;
        let mut response = match result {
            Ok(response) => {
                tracing::debug!(
                    request = format_args!("{id:016x}"),
                    method = %call.method,
                    path = %call.target,
                    %client,
                    status = response.status().as_u16(),
                    "answered"
                );
                response
            }
            Err(error) => {
                let response = match router::voice(call.target.path()) {
                    Voice::Easemob => easemob::wire::error(&self.api, call, &error),
                    Voice::Lanying => lanying::wire::error(&error),
                    Voice::Form => lanying::form_error(call, &error),
                };
                log_failure(id, call, client, &error, &response);
                response
            }
        };
        let headers = response.headers_mut();
        headers.insert(
            REQUEST_ID,
            HeaderValue::try_from(format!("{id:016x}")).expect("hexadecimal digits"),
        );
        let origin = call.headers.get(header::ORIGIN);
        self.cors.apply(origin, headers);
        if call.method == Method::OPTIONS {
            let requested = call.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
            self.cors.preflight_headers(origin, requested, headers);
        }
        if call.method == Method::HEAD {
            // hyper sends no body, but takes the length from the body that it is given.
            if let Some(length) = response
                .body()
                .size_hint()
                .exact()
                .filter(|length| *length > 0)
            {
                response
                    .headers_mut()
                    .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
                *response.body_mut() = Body::empty();
            }
        }
        response
    }
}

/// A failure is logged once, here.
fn log_failure(id: u64, call: &Call<'_>, client: IpAddr, error: &Error, response: &Response<Body>) {
    let status = response.status().as_u16();
    let (method, path) = (call.method, call.target);
    let request = format_args!("{id:016x}");
    match error.kind() {
        Kind::Internal | Kind::StorageFull => {
            tracing::error!(request, %method, %path, %client, status, %error, "failed");
        }
        Kind::RateLimited(_) => {
            tracing::debug!(request, %method, %path, %client, status, %error, "refused")
        }
        // Its text repeats the path as it was sent, whatever is in it.
        kind @ Kind::TenantNotFound => {
            tracing::info!(request, %method, %path, %client, status, error = ?kind, "refused")
        }
        _ => tracing::info!(request, %method, %path, %client, status, %error, "refused"),
    }
}
