//! The JSON of this API: answers and errors. The only file that knows its field names.

use hyper::{
    Response, StatusCode,
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

/// The answer to an upload, in one piece or in parts.
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
    entities(context, "post", "/chatfiles", vec![Value::Object(entity)])
}

/// The answer to the start of an upload in parts.
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
    entities(context, "post", "/chatfiles", vec![entity])
}

/// The answer to a part, or to the question which are there.
pub(super) fn parts(context: &Context<'_>, action: &str, parts: &[StoredPart]) -> Response<Body> {
    let parts = parts
        .iter()
        .map(|part| json!({ "part_number": part.number, "part_size": part.bytes }))
        .collect();
    entities(context, action, "/chatfiles", parts)
}

/// The answer to the end of an upload in parts that its client gave up.
pub(super) fn parts_aborted(context: &Context<'_>, id: ObjectId) -> Response<Body> {
    entities(
        context,
        "delete",
        "/chatfiles",
        vec![json!({ "uuid": id.to_string() })],
    )
}

fn entities(
    context: &Context<'_>,
    action: &str,
    path: &str,
    entities: Vec<Value>,
) -> Response<Body> {
    let Context { api, call, tenant } = context;
    // Old clients build the download URL from `uri`.
    let uri = format!(
        "{}/{}/{}{path}",
        call.public_url(api),
        tenant.org,
        tenant.app
    );
    let answer = json!({
        "action": action,
        "application": tenant.application.to_string(),
        "path": path,
        "uri": uri,
        "entities": entities,
        "timestamp": call.now.ms(),
        "duration": duration_ms(api, call),
        "organization": tenant.org,
        "applicationName": tenant.app,
    });
    answer::json(StatusCode::OK, &answer)
}

/// The answer to a token request.
pub(super) fn granted(context: &Context<'_>, granted: &Granted) -> Response<Body> {
    let mut answer =
        json!({ "access_token": granted.token.expose(), "expires_in": granted.expires_in_secs });
    match &granted.subject {
        Subject::App => answer["application"] = json!(context.tenant.application.to_string()),
        Subject::User(name) => {
            // No registry of users is kept: the id is derived from the name, the dates are now.
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
    answer::json(StatusCode::OK, &answer)
}

fn duration_ms(api: &Api, call: &Call<'_>) -> u64 {
    let duration = api
        .clock
        .monotonic()
        .saturating_duration_since(call.started);
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How one kind of error looks in this API.
struct Face {
    status: StatusCode,
    error: &'static str,
    description: &'static str,
    /// Clients of the vendor's Java SDK log it.
    exception: &'static str,
}

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

/// The contract's error table.
fn face(kind: Kind, limit_status_429: bool) -> Face {
    let (status, error, description, exception) = match kind {
        Kind::InvalidArgument | Kind::BadMessage => {
            (400, "illegal_argument", "file must be provided.", ARGUMENT)
        }
        Kind::Disconnected => (
            400,
            "illegal_argument",
            "the request was cut off.",
            ARGUMENT,
        ),
        Kind::GrantPassword => (400, "invalid_grant", "invalid password", GRANT),
        Kind::GrantClient => (400, "invalid_grant", "client_id does not match", GRANT),
        Kind::GrantUser => (404, "invalid_grant", "user not found", GRANT),
        Kind::TokenMissing => (
            401,
            "unauthorized",
            "Unable to authenticate (OAuth)",
            SECURITY,
        ),
        Kind::TokenExpired => (
            401,
            "unauthorized",
            "Unable to authenticate due to expired access token",
            SECURITY,
        ),
        Kind::TokenInvalid => (
            401,
            "auth_bad_access_token",
            "Unable to authenticate due to corrupt access token",
            SECURITY,
        ),
        // The last two are never met in this API: its uploads need a token, and it asks no backend.
        Kind::Forbidden | Kind::Denied(_) | Kind::Policy(_) => {
            (403, "forbidden_op", "chatfile no permission", FORBIDDEN)
        }
        Kind::UserMissing => (400, "illegal_argument", "the user is missing.", ARGUMENT),
        Kind::TooSmall => (400, "illegal_argument", "the file is empty.", ARGUMENT),
        Kind::AlreadyExists => (
            409,
            "duplicate_unique_property_exists",
            "the file is there already",
            ARGUMENT,
        ),
        Kind::ObjectNotFound => (404, "entity_not_found", "file may not exists", NOT_FOUND),
        Kind::ObjectExpired => (404, "file_expired", "file is expired", NOT_FOUND),
        Kind::NoThumbnail => (
            404,
            "entity_not_found",
            "no thumbnail for this file",
            NOT_FOUND,
        ),
        Kind::NotConvertible => (
            404,
            "entity_not_found",
            "this voice cannot be converted",
            NOT_FOUND,
        ),
        Kind::TenantNotFound => (
            404,
            "organization_application_not_found",
            "Could not find application",
            APPLICATION,
        ),
        Kind::RouteNotFound => (
            404,
            "service_resource_not_found",
            "Service resource not found",
            NOT_FOUND,
        ),
        Kind::MethodNotAllowed => (
            405,
            "unsupported_service_operation",
            "the method is not supported on this path",
            OPERATION,
        ),
        Kind::RequestTimeout => (
            408,
            "request_timeout",
            "the request's body did not come in time",
            TIMEOUT,
        ),
        Kind::PreconditionFailed => (
            412,
            "precondition_failed",
            "a precondition of the request is false",
            CONDITION,
        ),
        Kind::TooLarge => (
            413,
            "file exceeding maximum limit",
            "the file size exceeds the maximum limit.",
            TOO_LARGE,
        ),
        Kind::UnsupportedMediaType => {
            (415, "web_application", "Unsupported Media Type", MEDIA_TYPE)
        }
        Kind::RangeNotSatisfiable(_) => (
            416,
            "range_not_satisfiable",
            "the range lies outside of the file",
            RANGE,
        ),
        Kind::RateLimited(_) if limit_status_429 => (429, "reach_limit", LIMIT_TEXT, LIMIT),
        Kind::RateLimited(_) => (503, "reach_limit", LIMIT_TEXT, LIMIT),
        // Never the limiter's 503: who comes again in a moment comes in vain.
        Kind::QuotaReached(_) => (429, "reach_limit", LIMIT_TEXT, LIMIT),
        Kind::Unavailable(_) => (
            503,
            "service_unavailable",
            "try again in a moment",
            UNAVAILABLE,
        ),
        Kind::StorageFull => (507, "insufficient_storage", "not enough storage", STORAGE),
        Kind::Internal => (
            500,
            "internal_error",
            "an internal error occurred",
            INTERNAL,
        ),
    };
    let status = StatusCode::from_u16(status).expect("the statuses above are all valid");
    Face {
        status,
        error,
        description,
        exception,
    }
}

const LIMIT_TEXT: &str = "This request has reached api limit";

/// Renders any error of this API, and of every path that belongs to none.
pub fn error(api: &Api, call: &Call<'_>, error: &Error) -> Response<Body> {
    let face = face(error.kind(), api.config.limit_status_429);
    let description = match error.kind() {
        // Clients know the vendor's text; why there is none stands in the log.
        Kind::NoThumbnail => face.description,
        _ => error.public_text().unwrap_or(face.description),
    };
    let answer = json!({
        "error": face.error,
        "error_description": description,
        "exception": face.exception,
        "timestamp": call.now.ms(),
        "duration": duration_ms(api, call),
    });
    let mut response = answer::json(face.status, &answer);
    let headers = response.headers_mut();
    if let Kind::TokenMissing | Kind::TokenExpired | Kind::TokenInvalid = error.kind() {
        // RFC 9110 §15.5.2 wants it; Bearer makes no browser ask for a password.
        headers.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"chatfiles\""),
        );
    }
    answer::error_headers(error.kind(), headers);
    response
}
