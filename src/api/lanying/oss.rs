//! The answers to an upload form, as OSS's PostObject gives them: XML, and the JSON that the vendor's web SDK
//! wants to see. What a form is, and whether it is let in, is not decided here.

use std::borrow::Cow;

use bytes::Bytes;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};

use super::policy::Success;
use crate::{
    api::{Call, answer},
    delivery::Body,
    error::{Error, Kind, PolicyFault},
};

/// The web SDK looks for `"Status":"OK"` or `"data":true`, the other clients for the status 200.
const STORED: &str = r#"{"code":200,"data":true,"Status":"OK","message":null}"#;
const XML: HeaderValue = HeaderValue::from_static("application/xml");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Where clients of OSS look for what names the request.
const OSS_REQUEST_ID: HeaderName = HeaderName::from_static("x-oss-request-id");

/// The answer to a form whose file is stored. `etag` stands in its quotes.
pub(super) fn stored(
    call: &Call<'_>,
    success: Success,
    bucket: &str,
    object: &str,
    location: &str,
    etag: &str,
) -> Response<Body> {
    let mut response = match success {
        Success::Ok200 => respond(call, StatusCode::OK, JSON, STORED),
        Success::Created201 => {
            let answer = xml(
                "PostResponse",
                &[
                    ("Bucket", bucket),
                    ("Location", location),
                    ("Key", object),
                    ("ETag", etag),
                ],
            );
            respond(call, StatusCode::CREATED, XML, answer)
        }
        Success::NoContent204 => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            common_headers(call, response.headers_mut());
            response
        }
    };
    if let Ok(etag) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

/// Renders any error of the form's call.
pub fn error(call: &Call<'_>, error: &Error) -> Response<Body> {
    let face = face(error.kind());
    let answer = xml(
        "Error",
        &[
            ("Code", face.code),
            ("Message", error.public_text().unwrap_or(face.message)),
            ("RequestId", &request_id(call)),
            ("HostId", call.host()),
        ],
    );
    let mut response = respond(call, face.status, XML, answer);
    answer::error_headers(error.kind(), response.headers_mut());
    response
}

/// How one kind of error looks to a client of OSS.
struct Face {
    status: StatusCode,
    code: &'static str,
    message: &'static str,
}

/// OSS's error table; its own words where it has some.
fn face(kind: Kind) -> Face {
    let (status, code, message) = match kind {
        Kind::InvalidArgument
        | Kind::BadMessage
        | Kind::UnsupportedMediaType
        | Kind::Disconnected => (
            400,
            "MalformedPOSTRequest",
            "The body of your POST request is not well-formed multipart/form-data.",
        ),
        Kind::TooLarge => (
            400,
            "EntityTooLarge",
            "Your proposed upload exceeds the maximum allowed size.",
        ),
        Kind::TooSmall => (
            400,
            "EntityTooSmall",
            "Your proposed upload is smaller than the minimum allowed size.",
        ),
        Kind::RequestTimeout => (
            400,
            "RequestTimeout",
            "Your socket connection to the server was not read from or written to within the timeout period.",
        ),
        Kind::Policy(fault) => policy_face(fault),
        Kind::Forbidden | Kind::Denied(_) => (403, "AccessDenied", "Access denied."),
        Kind::TenantNotFound => (404, "NoSuchBucket", "The specified bucket does not exist."),
        Kind::RouteNotFound | Kind::ObjectNotFound | Kind::ObjectExpired => {
            (404, "NoSuchKey", "The specified key does not exist.")
        }
        Kind::MethodNotAllowed => (
            405,
            "MethodNotAllowed",
            "The specified method is not allowed against this resource.",
        ),
        Kind::AlreadyExists => (
            409,
            "FileAlreadyExists",
            "The object you specified already exists and can not be overwritten.",
        ),
        Kind::Internal => (
            500,
            "InternalError",
            "We encountered an internal error. Please try again.",
        ),
        Kind::RateLimited(_) => (503, "QpsLimitExceeded", "Please reduce your request rate."),
        // OSS counts no bytes of a day and has no code for it.
        Kind::QuotaReached(_) => (
            429,
            "QuotaExceeded",
            "The upload quota of today is used up.",
        ),
        Kind::Unavailable(_) => (503, "ServiceUnavailable", "Please try again in a moment."),
        // OSS is never full and has no code for it.
        Kind::StorageFull => (507, "InsufficientStorage", "There is not enough storage."),
        // A form carries no token and reads nothing.
        Kind::TokenMissing
        | Kind::TokenExpired
        | Kind::TokenInvalid
        | Kind::GrantPassword
        | Kind::GrantUser
        | Kind::GrantClient
        | Kind::UserMissing
        | Kind::NoThumbnail
        | Kind::NotConvertible
        | Kind::PreconditionFailed
        | Kind::RangeNotSatisfiable(_) => (400, "InvalidRequest", "The request is invalid."),
    };
    Face {
        status: StatusCode::from_u16(status).expect("the statuses above are all valid"),
        code,
        message,
    }
}

fn policy_face(fault: PolicyFault) -> (u16, &'static str, &'static str) {
    match fault {
        PolicyFault::Document => (
            400,
            "InvalidPolicyDocument",
            "Invalid Policy: Invalid JSON.",
        ),
        PolicyFault::ObjectName => (
            400,
            "InvalidObjectName",
            "The specified object is not valid.",
        ),
        PolicyFault::AccessKey => (
            403,
            "InvalidAccessKeyId",
            "The OSS Access Key Id you provided does not exist in our records.",
        ),
        PolicyFault::Signature => (
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
        ),
        PolicyFault::Denied => (403, "AccessDenied", "Invalid according to Policy."),
    }
}

fn respond(
    call: &Call<'_>,
    status: StatusCode,
    content_type: HeaderValue,
    answer: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    common_headers(call, headers);
    response
}

fn common_headers(call: &Call<'_>, headers: &mut HeaderMap) {
    answer::not_to_keep(headers);
    let id = HeaderValue::try_from(request_id(call)).expect("hexadecimal digits");
    headers.insert(OSS_REQUEST_ID, id);
}

fn request_id(call: &Call<'_>) -> String {
    format!("{:016x}", call.id)
}

/// One element with its children, each a text.
fn xml(name: &str, children: &[(&str, &str)]) -> String {
    let mut xml = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{name}>");
    for (child, text) in children {
        xml.push_str(&format!("<{child}>{}</{child}>", escaped(text)));
    }
    xml.push_str(&format!("</{name}>"));
    xml
}

/// Text as XML 1.0 (§2.2, §2.4) can hold it: a character that it has no place for becomes U+FFFD.
fn escaped(text: &str) -> Cow<'_, str> {
    let replacement = |c| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        '\'' => Some("&apos;"),
        '\t' | '\n' => None,
        '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => Some("\u{fffd}"),
        _ => None,
    };
    if text.chars().all(|c| replacement(c).is_none()) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 32);
    for c in text.chars() {
        match replacement(c) {
            Some(text) => escaped.push_str(text),
            None => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;
    use hyper::{Method, Uri};

    use super::*;
    use crate::{
        http::target::Target,
        time::{Clock, Timestamp},
    };

    /// Status, headers and text of the answer to a call with this `Host`.
    fn answer(
        host: &'static str,
        render: impl FnOnce(&Call<'_>) -> Response<Body>,
    ) -> (u16, HeaderMap, String) {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        let call = Call {
            client: std::net::Ipv4Addr::LOCALHOST.into(),
            is_tls: false,
            method: &Method::POST,
            target: &Target::new(Uri::from_static("/file/oss/welovemaxim")),
            headers: &headers,
            id: 0xabc,
            now: Timestamp::from_secs(1_795_608_000),
            started: Clock::system().monotonic(),
        };
        let (parts, body) = render(&call).into_parts();
        let body = futures_util::FutureExt::now_or_never(body.collect());
        let body = body.unwrap().unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        (parts.status.as_u16(), parts.headers, text)
    }

    fn failed(error: Error) -> (u16, HeaderMap, String) {
        answer("chat.example:8080", |call| super::error(call, &error))
    }

    #[test]
    fn an_error_is_the_xml_of_oss() {
        let text = "Invalid according to Policy: Policy expired.";
        let error = Error::new(Kind::Policy(PolicyFault::Denied)).public(text);
        let (status, headers, body) = failed(error);
        assert_eq!(status, 403);
        assert_eq!(headers[header::CONTENT_TYPE], "application/xml");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[OSS_REQUEST_ID], "0000000000000abc");
        assert_eq!(
            body,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code>\
             <Message>Invalid according to Policy: Policy expired.</Message>\
             <RequestId>0000000000000abc</RequestId><HostId>chat.example:8080</HostId></Error>"
        );
    }

    #[test]
    fn each_kind_has_the_status_and_code_of_oss() {
        let soon = Duration::from_millis(1001);
        for (kind, status, code) in [
            (Kind::InvalidArgument, 400, "MalformedPOSTRequest"),
            (Kind::UnsupportedMediaType, 400, "MalformedPOSTRequest"),
            (Kind::Disconnected, 400, "MalformedPOSTRequest"),
            (Kind::TooLarge, 400, "EntityTooLarge"),
            (Kind::TooSmall, 400, "EntityTooSmall"),
            (Kind::RequestTimeout, 400, "RequestTimeout"),
            (
                Kind::Policy(PolicyFault::Document),
                400,
                "InvalidPolicyDocument",
            ),
            (
                Kind::Policy(PolicyFault::ObjectName),
                400,
                "InvalidObjectName",
            ),
            (
                Kind::Policy(PolicyFault::AccessKey),
                403,
                "InvalidAccessKeyId",
            ),
            (
                Kind::Policy(PolicyFault::Signature),
                403,
                "SignatureDoesNotMatch",
            ),
            (Kind::Policy(PolicyFault::Denied), 403, "AccessDenied"),
            (Kind::Forbidden, 403, "AccessDenied"),
            (Kind::TenantNotFound, 404, "NoSuchBucket"),
            (Kind::RouteNotFound, 404, "NoSuchKey"),
            (Kind::MethodNotAllowed, 405, "MethodNotAllowed"),
            (Kind::AlreadyExists, 409, "FileAlreadyExists"),
            (Kind::Internal, 500, "InternalError"),
            (Kind::RateLimited(soon), 503, "QpsLimitExceeded"),
            (Kind::QuotaReached(soon), 429, "QuotaExceeded"),
            (Kind::Unavailable(soon), 503, "ServiceUnavailable"),
            (Kind::StorageFull, 507, "InsufficientStorage"),
            (Kind::TokenMissing, 400, "InvalidRequest"),
            (Kind::RangeNotSatisfiable(1), 400, "InvalidRequest"),
        ] {
            let (found, headers, body) = failed(kind.into());
            assert_eq!(found, status, "{kind:?}");
            assert!(body.contains(&format!("<Code>{code}</Code>")), "{body}");
            let allow = headers.get(header::ALLOW);
            assert_eq!(allow.is_some(), status == 405);
            assert!(allow.is_none_or(|allow| allow == "POST, OPTIONS"));
            let after = headers.get(header::RETRY_AFTER);
            assert_eq!(after.is_some(), matches!(status, 429 | 503));
            assert!(after.is_none_or(|after| after == "2"));
        }
    }

    #[test]
    fn nothing_of_the_inside_is_shown() {
        let (_, _, body) = failed(Error::internal("/var/lib/chatfiles: input/output error"));
        assert!(!body.contains("/var/lib"), "{body}");
    }

    #[test]
    fn what_xml_cannot_hold_is_escaped_or_replaced() {
        let text = "<a b=\"c\" d='e'>&\u{0}\u{b}\r\u{ffff}\tü🎉]]>";
        let (_, _, body) = failed(Error::invalid(text));
        let expected = "<Message>&lt;a b=&quot;c&quot; d=&apos;e&apos;&gt;&amp;\u{fffd}\u{fffd}\u{fffd}\
                        \u{fffd}\tü🎉]]&gt;</Message>";
        assert!(body.contains(expected), "{body}");
    }

    #[test]
    fn a_host_that_is_none_is_not_repeated() {
        for (host, shown) in [
            ("chat.example", "chat.example"),
            ("[::1]:80", "[::1]:80"),
            ("<script>", "localhost"),
            ("a b", "localhost"),
            ("", "localhost"),
        ] {
            let error = Error::from(Kind::Internal);
            let (_, _, body) = answer(host, |call| super::error(call, &error));
            assert!(
                body.contains(&format!("<HostId>{shown}</HostId>")),
                "{body}"
            );
        }
    }

    #[test]
    fn success_is_answered_as_the_form_asked() {
        let etag = "\"e1\"";
        let stored = |success| {
            answer("h", |call| {
                super::stored(call, success, "b", "k&1", "http://h/b/k&1", etag)
            })
        };
        let (status, headers, body) = stored(Success::Ok200);
        assert_eq!(status, 200);
        assert_eq!(headers[header::CONTENT_TYPE], "application/json");
        assert_eq!(
            body,
            "{\"code\":200,\"data\":true,\"Status\":\"OK\",\"message\":null}"
        );
        let (status, headers, body) = stored(Success::Created201);
        assert_eq!(status, 201);
        assert_eq!(headers[header::CONTENT_TYPE], "application/xml");
        assert_eq!(
            body,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<PostResponse><Bucket>b</Bucket>\
             <Location>http://h/b/k&amp;1</Location><Key>k&amp;1</Key>\
             <ETag>&quot;e1&quot;</ETag></PostResponse>"
        );
        let (status, headers, body) = stored(Success::NoContent204);
        assert_eq!((status, body.as_str()), (204, ""));
        assert!(!headers.contains_key(header::CONTENT_TYPE));
        for success in [Success::Ok200, Success::Created201, Success::NoContent204] {
            let (_, headers, _) = stored(success);
            assert_eq!(headers[header::ETAG], "\"e1\"");
            assert_eq!(headers[header::CACHE_CONTROL], "no-store");
            assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        }
    }
}
