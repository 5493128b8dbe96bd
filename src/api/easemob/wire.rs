//! Renders the JSON of this API, responses and errors. No other file knows its field names.

use std::borrow::Cow;

use hyper::{
    Response,
    header::{self, HeaderValue},
};
use serde_json::{Map, Value, json};

use super::Context;
use crate::{
    api::{Api, Call, answer},
    auth::{Granted, Subject},
    delivery::Body,
    error::{Error, Kind},
    files::Stored,
    store::{ObjectId, StoredPart},
};

/// The response to a complete upload, in one piece or in parts.
pub(super) fn uploaded(context: &Context<'_>, stored: &Stored) -> Response<Body> {
    let mut entity = Map::new();
    entity.insert("uuid".into(), json!(stored.key.id.to_string()));
    entity.insert("type".into(), json!("chatfile"));
    if let Some(secret) = &stored.share_secret {
        entity.insert("share-secret".into(), json!(secret.expose()));
    }
    let metadata =
        json!({ "content-length": stored.meta.len, "content-type": stored.meta.content_type });
    entity.insert("file-metadata".into(), metadata);
    entities(context, "post", vec![Value::Object(entity)])
}

/// The response to the start of an upload in parts.
pub(super) fn parts_begun(
    context: &Context<'_>,
    id: ObjectId,
    part_bytes_min: u64,
    bytes_max: u64,
) -> Response<Body> {
    let entity = json!({
        "uuid": id.to_string(),
        "type": "chatfile",
        "part_lower_limit": part_bytes_min,
        "file_upper_limit": bytes_max,
    });
    entities(context, "post", vec![entity])
}

/// The response to an uploaded part, and to a request for the list of parts.
pub(super) fn parts(context: &Context<'_>, action: &str, parts: &[StoredPart]) -> Response<Body> {
    let parts = parts
        .iter()
        .map(|part| json!({ "part_number": part.number, "part_size": part.bytes }))
        .collect();
    entities(context, action, parts)
}

/// The response to an aborted upload in parts.
pub(super) fn parts_aborted(context: &Context<'_>, id: ObjectId) -> Response<Body> {
    let entity = json!({ "uuid": id.to_string() });
    entities(context, "delete", vec![entity])
}

fn entities(context: &Context<'_>, action: &str, entities: Vec<Value>) -> Response<Body> {
    const PATH: &str = "/chatfiles";
    let Context { api, call, tenant } = context;
    // Old clients build the download URL from `uri`.
    let uri = format!("{}/{}{PATH}", call.public_url(api), tenant.name());
    let answer = json!({
        "action": action,
        "application": tenant.application.to_string(),
        "path": PATH,
        "uri": uri,
        "entities": entities,
        "timestamp": call.now.ms(),
        "duration": duration_ms(api, call),
        "organization": tenant.org,
        "applicationName": tenant.app,
    });
    answer::json(200, &answer)
}

/// The response to a token request.
pub(super) fn granted(context: &Context<'_>, granted: &Granted) -> Response<Body> {
    let mut answer =
        json!({ "access_token": granted.token.expose(), "expires_in": granted.expires_in_secs });
    match &granted.subject {
        Subject::App => answer["application"] = json!(context.tenant.application.to_string()),
        Subject::User(name) => {
            // There is no table of users: the id is derived from the name, and the dates are the current time.
            let id = uuid::Uuid::new_v5(&context.tenant.application, name.as_bytes());
            let now = context.call.now.ms();
            answer["user"] = json!({
                "uuid": id.to_string(),
                "type": "user",
                "created": now,
                "modified": now,
                "username": &**name,
                "activated": true,
            });
        }
    }
    answer::json(200, &answer)
}

fn duration_ms(api: &Api, call: &Call<'_>) -> u64 {
    let now = api.clock.monotonic();
    let duration = now.saturating_duration_since(call.started);
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An error in this API: the status, and the texts `error`, `error_description` and `exception`. The vendor's Java SDK
/// logs the last one.
type ErrorBody = (u16, &'static str, &'static str, &'static str);

const SECURITY: &str = "org.apache.usergrid.rest.exceptions.SecurityException";
const GRANT: &str = "org.apache.usergrid.rest.exceptions.OAuthProblemException";
const ARGUMENT: &str = "java.lang.IllegalArgumentException";
const NOT_FOUND: &str = "org.apache.usergrid.services.exceptions.ServiceResourceNotFoundException";
const APPLICATION: &str =
    "org.apache.usergrid.rest.exceptions.OrganizationApplicationNotFoundException";
const OPERATION: &str =
    "org.apache.usergrid.services.exceptions.UnsupportedServiceOperationException";
const FORBIDDEN: &str = "org.apache.usergrid.rest.exceptions.ForbiddenOperationException";
const TOO_LARGE: &str = "org.apache.usergrid.rest.exceptions.FileSizeLimitExceededException";
const MEDIA_TYPE: &str = "org.apache.usergrid.rest.exceptions.UnsupportedMediaTypeException";
const LIMIT: &str = "org.apache.usergrid.rest.exceptions.ReachLimitException";
const UNAVAILABLE: &str = "org.apache.usergrid.rest.exceptions.ServiceUnavailableException";
const STORAGE: &str = "org.apache.usergrid.rest.exceptions.InsufficientStorageException";
const TIMEOUT: &str = "org.apache.usergrid.rest.exceptions.RequestTimeoutException";
const CONDITION: &str = "org.apache.usergrid.rest.exceptions.PreconditionFailedException";
const RANGE: &str = "org.apache.usergrid.rest.exceptions.RangeNotSatisfiableException";
const INTERNAL: &str = "org.apache.usergrid.rest.exceptions.InternalErrorException";

/// The error table of the contract.
#[rustfmt::skip]
fn error_body(kind: Kind, limit_status_429: bool) -> ErrorBody {
    use Kind::*;
    match kind {
        InvalidArgument | BadMessage => (400, "illegal_argument", "file must be provided.", ARGUMENT),
        Disconnected => (400, "illegal_argument", "the request was cut off.", ARGUMENT),
        UserMissing => (400, "illegal_argument", "the user is missing.", ARGUMENT),
        TooSmall => (400, "illegal_argument", "the file is empty.", ARGUMENT),
        GrantPassword => (400, "invalid_grant", "invalid password", GRANT),
        GrantClient => (400, "invalid_grant", "client_id does not match", GRANT),
        GrantUser => (404, "invalid_grant", "user not found", GRANT),
        TokenMissing => (401, "unauthorized", "Unable to authenticate (OAuth)", SECURITY),
        TokenExpired => (401, "unauthorized", "Unable to authenticate due to expired access token", SECURITY),
        TokenInvalid => (401, "auth_bad_access_token", "Unable to authenticate due to corrupt access token", SECURITY),
        // `Denied` and `Policy` do not occur: uploads need a token, and this API asks no backend.
        Forbidden | Denied(_) | Policy(_) => (403, "forbidden_op", "chatfile no permission", FORBIDDEN),
        ObjectNotFound => (404, "entity_not_found", "file may not exists", NOT_FOUND),
        ObjectExpired => (404, "file_expired", "file is expired", NOT_FOUND),
        NoThumbnail => (404, "entity_not_found", "no thumbnail for this file", NOT_FOUND),
        NotConvertible => (404, "entity_not_found", "this voice cannot be converted", NOT_FOUND),
        TenantNotFound => (404, "organization_application_not_found", "Could not find application", APPLICATION),
        RouteNotFound => (404, "service_resource_not_found", "Service resource not found", NOT_FOUND),
        MethodNotAllowed => (405, "unsupported_service_operation", "the method is not supported on this path", OPERATION),
        RequestTimeout => (408, "request_timeout", "the request's body did not come in time", TIMEOUT),
        AlreadyExists => (409, "duplicate_unique_property_exists", "the file is there already", ARGUMENT),
        PreconditionFailed => (412, "precondition_failed", "a precondition of the request is false", CONDITION),
        TooLarge => (413, "file exceeding maximum limit", "the file size exceeds the maximum limit.", TOO_LARGE),
        UnsupportedMediaType => (415, "web_application", "Unsupported Media Type", MEDIA_TYPE),
        RangeNotSatisfiable(_) => (416, "range_not_satisfiable", "the range lies outside of the file", RANGE),
        RateLimited(_) if limit_status_429 => (429, "reach_limit", LIMIT_TEXT, LIMIT),
        RateLimited(_) => (503, "reach_limit", LIMIT_TEXT, LIMIT),
        // Never 503 as for the rate limit: a retry a moment later would fail again.
        QuotaReached(_) => (429, "reach_limit", LIMIT_TEXT, LIMIT),
        Unavailable(_) => (503, "service_unavailable", "try again in a moment", UNAVAILABLE),
        StorageFull => (507, "insufficient_storage", "not enough storage", STORAGE),
        Internal => (500, "internal_error", "an internal error occurred", INTERNAL),
    }
}

const LIMIT_TEXT: &str = "This request has reached api limit";

/// Renders an error of this API, or of a path that belongs to no API.
pub fn error(api: &Api, call: &Call<'_>, error: &Error) -> Response<Body> {
    let (status, code, description, exception) =
        error_body(error.kind(), api.config.limit_status_429);
    let description = match (error.kind(), error.public_text()) {
        // The vendor's text comes first.
        (Kind::NoThumbnail, Some(why)) => Cow::from(format!("{description}: {why}")),
        (_, Some(text)) => text.into(),
        (_, None) => description.into(),
    };
    let answer = json!({
        "error": code,
        "error_description": description,
        "exception": exception,
        "timestamp": call.now.ms(),
        "duration": duration_ms(api, call),
    });
    let mut response = answer::json(status, &answer);
    let headers = response.headers_mut();
    if let Kind::TokenMissing | Kind::TokenExpired | Kind::TokenInvalid = error.kind() {
        // RFC 9110 §15.5.2 requires it. With Bearer, browsers do not ask for a password.
        headers.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"chatfiles\""),
        );
    }
    answer::error_headers(error.kind(), headers);
    response
}
