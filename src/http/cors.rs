//! CORS headers (Fetch standard §3.2) of every response, including errors and preflights.
//!
//! CORS authorizes nobody here: requests carry tokens and no cookies, so credentials are not allowed and any origin is
//! safe. `Access-Control-Allow-Private-Network` is never sent: a public page must not reach a service in a private
//! network.

use hyper::{
    HeaderMap,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderValue, VARY,
    },
};

use serde::{Deserialize, Deserializer};

use crate::settings::expected;

/// The longest `Access-Control-Allow-Headers`. Requested names that do not fit are left out.
const ALLOWED_HEADERS_BYTES_MAX: usize = 1024;

const ANY: HeaderValue = HeaderValue::from_static("*");
const ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE");
/// One day. Browsers have their own limits (Chrome 2 h, Firefox 24 h).
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Content-Range, Accept-Ranges, ETag, Content-Length, Retry-After, Content-Disposition, X-Request-Id",
);
/// Names instead of `*`, which does not cover `Authorization` and which older web views do not support.
const ALLOWED: &str = "Authorization, Content-Type, restrict-access, share-secret, thumbnail, \
     thumbnail-width, thumbnail-height, X-Requested-With, Accept, Range, If-Range, If-None-Match, \
     If-Modified-Since, access-token, app_id, user_id";

/// The cross-origin policy: the origins whose pages may read responses, from `cors.allowed_origins`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Cors {
    /// Any origin.
    #[default]
    Any,
    /// These, as browsers write an origin: `https://chat.example`, without path or trailing slash.
    List(Vec<String>),
}

impl<'de> Deserialize<'de> for Cors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let origins = Vec::<String>::deserialize(deserializer)?;
        if origins.iter().any(|origin| origin == "*") {
            return Ok(Self::Any);
        }
        let is_origin = |origin: &&String| {
            origin.split_once("://").is_some_and(|(scheme, host)| {
                !scheme.is_empty() && !host.is_empty() && !host.contains('/') && host.is_ascii()
            })
        };
        match origins.iter().find(|origin| !is_origin(origin)) {
            Some(origin) => Err(expected(
                "origins such as https://chat.example.com, or *",
                format_args!("{origin:?}"),
            )),
            None => Ok(Self::List(origins)),
        }
    }
}

impl Cors {
    /// Adds the headers of an ordinary response; `origin` is the `Origin` of the request. Extends an existing `Vary`,
    /// and keeps an existing `Access-Control-Allow-Origin`.
    pub fn apply(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) || self.allow_origin(origin, headers) {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }

    /// Adds the headers of a preflight response; `requested_headers` is the `Access-Control-Request-Headers` of the
    /// request. Echoes valid names that are not on the list above, up to 1 KiB in total: a new header of an SDK must
    /// not break its uploads.
    pub fn preflight_headers(
        &self,
        origin: Option<&HeaderValue>,
        requested_headers: Option<&HeaderValue>,
        headers: &mut HeaderMap,
    ) {
        if self.allow_origin(origin, headers) {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(
                ACCESS_CONTROL_ALLOW_HEADERS,
                allowed_headers(requested_headers),
            );
            headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
    }

    /// Adds `Access-Control-Allow-Origin` if the origin is allowed, and returns whether it is.
    fn allow_origin(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) -> bool {
        let listed = match self {
            Self::Any => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
                return true;
            }
            Self::List(listed) => listed,
        };
        // Also for other origins and requests without one: a cache must not use that response for a listed origin.
        vary_on_origin(headers);
        match origin {
            Some(origin)
                if listed
                    .iter()
                    .any(|listed| listed.as_bytes() == origin.as_bytes()) =>
            {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                true
            }
            _ => false,
        }
    }
}

fn vary_on_origin(headers: &mut HeaderMap) {
    let said = headers.get_all(VARY).iter().any(|line| {
        line.as_bytes()
            .split(|&byte| byte == b',')
            .map(<[u8]>::trim_ascii)
            .any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
    });
    if !said {
        headers.append(VARY, ORIGIN);
    }
}

fn allowed_headers(requested: Option<&HeaderValue>) -> HeaderValue {
    let requested = requested.map_or(&b""[..], HeaderValue::as_bytes);
    let mut all: Option<Vec<u8>> = None;
    for name in requested
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
    {
        if !is_token(name)
            || ALLOWED
                .split(", ")
                .any(|known| known.as_bytes().eq_ignore_ascii_case(name))
        {
            continue;
        }
        let all = all.get_or_insert_with(|| ALLOWED.as_bytes().to_vec());
        if all.len() + 2 + name.len() <= ALLOWED_HEADERS_BYTES_MAX {
            all.extend_from_slice(b", ");
            all.extend_from_slice(name);
        }
    }
    match all {
        None => HeaderValue::from_static(ALLOWED),
        Some(all) => {
            HeaderValue::try_from(all).expect("tokens, commas and spaces are visible ASCII")
        }
    }
}

/// Whether it is a token (RFC 9110 §5.6.2).
fn is_token(name: &[u8]) -> bool {
    !name.is_empty()
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> HeaderValue {
        HeaderValue::from_bytes(text.as_bytes()).unwrap()
    }

    fn listed() -> Cors {
        Cors::List(vec![
            "https://a.example".to_owned(),
            "https://b.example".to_owned(),
        ])
    }

    #[test]
    fn any_origin_gets_star_without_vary() {
        for origin in [None, Some(value("https://x.example")), Some(value("null"))] {
            let mut headers = HeaderMap::new();
            Cors::Any.apply(origin.as_ref(), &mut headers);
            assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
            assert_eq!(
                headers[ACCESS_CONTROL_EXPOSE_HEADERS],
                "Content-Range, Accept-Ranges, ETag, Content-Length, Retry-After, Content-Disposition, \
                 X-Request-Id"
            );
            assert_eq!(headers.len(), 2);
        }
    }

    #[test]
    fn echoes_listed_origins_only() {
        for (origin, echoed) in [
            (Some("https://b.example"), true),
            (Some("https://b.example.evil"), false),
            (Some("https://b.exampl"), false),
            (Some("http://b.example"), false),
            (Some("null"), false),
            (None, false),
        ] {
            let origin = origin.map(value);
            let mut headers = HeaderMap::new();
            listed().apply(origin.as_ref(), &mut headers);
            let allowed = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(allowed, origin.as_ref().filter(|_| echoed));
            assert_eq!(headers.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS), echoed);
            assert_eq!(headers[VARY], "Origin");
        }
    }

    #[test]
    fn extends_existing_vary_once() {
        for (before, after) in [
            (
                &["Authorization, Accept"][..],
                &["Authorization, Accept", "Origin"][..],
            ),
            (&["Accept, origin"], &["Accept, origin"]),
            (&["*"], &["*"]),
            (&["Accept", "Range"], &["Accept", "Range", "Origin"]),
        ] {
            let mut headers = HeaderMap::new();
            for line in before {
                headers.append(VARY, value(line));
            }
            listed().apply(None, &mut headers);
            listed().apply(None, &mut headers);
            let found: Vec<_> = headers.get_all(VARY).iter().collect();
            assert_eq!(found, after);
        }
    }

    #[test]
    fn preflight_lists_methods_and_headers() {
        for requested in [
            None,
            Some("restrict-access, Authorization"),
            Some("content-type,SHARE-SECRET"),
        ] {
            let mut headers = HeaderMap::new();
            let requested = requested.map(value);
            Cors::Any.preflight_headers(None, requested.as_ref(), &mut headers);
            assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
            assert_eq!(
                headers[ACCESS_CONTROL_ALLOW_METHODS],
                "GET, HEAD, POST, PUT, DELETE"
            );
            assert_eq!(headers[ACCESS_CONTROL_MAX_AGE], "86400");
            assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], ALLOWED);
            assert_eq!(headers.len(), 4);
        }
    }

    #[test]
    fn echoes_valid_requested_headers() {
        for (requested, echoed) in [
            ("x-new", ", x-new"),
            ("x-new, authorization ,,x-Two", ", x-new, x-Two"),
            ("bad name, x\"y, \u{e9}, x-new", ", x-new"),
            (&"x".repeat(2000), ""),
        ] {
            let found = allowed_headers(Some(&value(requested)));
            assert_eq!(found, format!("{ALLOWED}{echoed}").as_str());
        }
        let many: Vec<_> = (0..1000).map(|n| format!("x-{n}")).collect();
        let found = allowed_headers(Some(&value(&many.join(","))));
        assert!((1000..=ALLOWED_HEADERS_BYTES_MAX).contains(&found.len()));
    }

    #[test]
    fn preflight_of_other_origin_allows_nothing() {
        let mut headers = HeaderMap::new();
        listed().preflight_headers(Some(&value("https://x.example")), None, &mut headers);
        assert_eq!(headers.len(), 1);
        assert_eq!(headers[VARY], "Origin");
    }
}
