//! Renders the responses to an upload form like OSS's PostObject: XML, and the JSON that the vendor's web SDK expects.
//!
//! `form.rs` and `policy.rs` decide whether a form is accepted.

use std::borrow::Cow;

use hyper::{
    Response,
    header::{self, HeaderName, HeaderValue},
};

use super::policy::Success;
use crate::{
    api::{Call, answer},
    delivery::Body,
    error::{Error, Kind, PolicyFault},
};

/// The web SDK expects `"Status":"OK"` or `"data":true`, other clients the status 200.
const STORED: &str = r#"{"code":200,"data":true,"Status":"OK","message":null}"#;
const XML: &str = "application/xml";
/// The header of OSS for the request id.
const OSS_REQUEST_ID: HeaderName = HeaderName::from_static("x-oss-request-id");

/// A stored object, as the response names it.
pub(super) struct StoredObject<'a> {
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
    pub(super) location: &'a str,
    /// With its quotes.
    pub(super) etag: &'a str,
}

/// The response to a form whose file is stored.
pub(super) fn stored(
    call: &Call<'_>,
    success: Success,
    object: &StoredObject<'_>,
) -> Response<Body> {
    let mut response = match success {
        Success::Ok200 => answer::text(200, "application/json", STORED),
        Success::Created201 => {
            let children = [
                ("Bucket", object.bucket),
                ("Location", object.location),
                ("Key", object.key),
                ("ETag", object.etag),
            ];
            answer::text(201, XML, xml("PostResponse", &children))
        }
        Success::NoContent204 => {
            let mut response = answer::text(204, XML, "");
            response.headers_mut().remove(header::CONTENT_TYPE);
            response
        }
    };
    let etag = HeaderValue::try_from(object.etag).expect("an id in quotes is a valid header value");
    response.headers_mut().insert(header::ETAG, etag);
    name_request(call, &mut response);
    response
}

/// Renders an error of a form.
pub fn error(call: &Call<'_>, error: &Error) -> Response<Body> {
    let (status, code, message) = error_body(error.kind());
    let children = [
        ("Code", code),
        ("Message", error.public_text().unwrap_or(message)),
        ("RequestId", &request_id(call)),
        ("HostId", call.host()),
    ];
    let mut response = answer::text(status, XML, xml("Error", &children));
    answer::error_headers(error.kind(), response.headers_mut());
    name_request(call, &mut response);
    response
}

/// An error in OSS: the status, `Code` and `Message`.
type ErrorBody = (u16, &'static str, &'static str);

/// The error table of OSS, with its own texts where it has some.
#[rustfmt::skip]
fn error_body(kind: Kind) -> ErrorBody {
    use Kind::*;
    match kind {
        InvalidArgument | BadMessage | UnsupportedMediaType | Disconnected =>
            (400, "MalformedPOSTRequest", "The body of your POST request is not well-formed multipart/form-data."),
        TooLarge => (400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size."),
        TooSmall => (400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size."),
        RequestTimeout =>
            (400, "RequestTimeout", "Your socket connection to the server was not read from or written to within the timeout period."),
        Policy(fault) => policy_error(fault),
        Forbidden | Denied(_) => (403, "AccessDenied", "Access denied."),
        TenantNotFound => (404, "NoSuchBucket", "The specified bucket does not exist."),
        RouteNotFound | ObjectNotFound | ObjectExpired => (404, "NoSuchKey", "The specified key does not exist."),
        MethodNotAllowed => (405, "MethodNotAllowed", "The specified method is not allowed against this resource."),
        AlreadyExists =>
            (409, "FileAlreadyExists", "The object you specified already exists and can not be overwritten."),
        Internal => (500, "InternalError", "We encountered an internal error. Please try again."),
        RateLimited(_) => (503, "QpsLimitExceeded", "Please reduce your request rate."),
        // OSS has neither a daily quota nor a code for it.
        QuotaReached(_) => (429, "QuotaExceeded", "The upload quota of today is used up."),
        Unavailable(_) => (503, "ServiceUnavailable", "Please try again in a moment."),
        // OSS is never full and has no code for it.
        StorageFull => (507, "InsufficientStorage", "There is not enough storage."),
        // A form has no token and reads no file.
        TokenMissing | TokenExpired | TokenInvalid | GrantPassword | GrantUser | GrantClient | UserMissing
        | NoThumbnail | NotConvertible | PreconditionFailed | RangeNotSatisfiable(_) =>
            (400, "InvalidRequest", "The request is invalid."),
    }
}

#[rustfmt::skip]
fn policy_error(fault: PolicyFault) -> ErrorBody {
    match fault {
        PolicyFault::Document => (400, "InvalidPolicyDocument", "Invalid Policy: Invalid JSON."),
        PolicyFault::ObjectName => (400, "InvalidObjectName", "The specified object is not valid."),
        PolicyFault::AccessKey =>
            (403, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist in our records."),
        PolicyFault::Signature =>
            (403, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided. Check your key and signing method."),
        PolicyFault::Denied => (403, "AccessDenied", "Invalid according to Policy."),
    }
}

fn name_request(call: &Call<'_>, response: &mut Response<Body>) {
    let id = HeaderValue::try_from(request_id(call)).expect("hexadecimal digits");
    response.headers_mut().insert(OSS_REQUEST_ID, id);
}

fn request_id(call: &Call<'_>) -> String {
    format!("{:016x}", call.id)
}

/// An XML document: one element with text children.
fn xml(name: &str, children: &[(&str, &str)]) -> String {
    let mut xml = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{name}>");
    for (child, text) in children {
        xml.push_str(&format!("<{child}>{}</{child}>", escaped(text)));
    }
    xml.push_str(&format!("</{name}>"));
    xml
}

/// Escapes text for XML 1.0 (§2.2, §2.4). A character that XML does not allow becomes U+FFFD.
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
    use hyper::{HeaderMap, Method, Uri};

    use super::*;
    use crate::{
        http::target::Target,
        time::{Clock, Timestamp},
    };

    /// Status, headers and text of the response to a call with this `Host`.
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
    fn renders_error_as_xml() {
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
    fn kinds_have_status_and_code() {
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
            let after = headers.get(header::RETRY_AFTER);
            assert_eq!(after.is_some(), matches!(status, 429 | 503));
            assert!(after.is_none_or(|after| after == "2"));
        }
    }

    #[test]
    fn hides_internal_errors() {
        let (_, _, body) = failed(Error::internal("/var/lib/chatfiles: input/output error"));
        assert!(!body.contains("/var/lib"), "{body}");
    }

    #[test]
    fn escapes_or_replaces_invalid_characters() {
        let text = "<a b=\"c\" d='e'>&\u{0}\u{b}\r\u{ffff}\tü🎉]]>";
        let (_, _, body) = failed(Error::invalid(text));
        let expected = "<Message>&lt;a b=&quot;c&quot; d=&apos;e&apos;&gt;&amp;\u{fffd}\u{fffd}\u{fffd}\
                        \u{fffd}\tü🎉]]&gt;</Message>";
        assert!(body.contains(expected), "{body}");
    }

    #[test]
    fn does_not_repeat_invalid_host() {
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
    fn success_has_requested_status() {
        let object = StoredObject {
            bucket: "b",
            key: "k&1",
            location: "http://h/b/k&1",
            etag: "\"e1\"",
        };
        let stored = |success| answer("h", |call| super::stored(call, success, &object));
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
