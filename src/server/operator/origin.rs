//! Tells requests of the console's own page from those that other pages make a browser send.
//!
//! A page of an attacker may send requests to an address in the operator's network, and may let its own name point to
//! that address (DNS rebinding). So the name in `Host` must be one that the attacker cannot register, and `Origin` and
//! `Sec-Fetch-Site` must name this page where a browser sends them. Clients that are not browsers send neither.

use std::net::IpAddr;

use hyper::{
    HeaderMap,
    header::{self, HeaderName},
    http::{request::Parts, uri::Authority},
};
use serde::{Deserialize, Deserializer};

use crate::settings::expected;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The header that calls with an effect must have. A page of another origin cannot send it without a preflight, which is
/// refused.
const CONSOLE: HeaderName = HeaderName::from_static("x-chatfiles-console");

/// Reads `operator.hosts`: names without scheme and port.
///
/// # Errors
/// If a text is not such a name, which would never match.
pub(super) fn hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let hosts = Vec::<String>::deserialize(deserializer)?;
    let is_name = |host: &str| {
        let authority = host.parse::<Authority>();
        authority.is_ok_and(|authority| authority.host() == host && !host.ends_with('.'))
    };
    match hosts.iter().find(|host| !is_name(host)) {
        None => Ok(hosts),
        Some(wrong) => Err(expected(
            "names without scheme and port, such as ops.example.com",
            format_args!("{wrong:?}"),
        )),
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// `Host` is missing, repeated, or a name that is not configured.
    Host,
    /// The browser sends the request for a page of another origin.
    Origin,
    /// A call with an effect has no `X-Chatfiles-Console`.
    Unmarked,
}

impl Foreign {
    /// Says what to do.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Host => {
                "the name in the Host header is not allowed: use an IP address or localhost, or add the name to \
                 operator.hosts"
            }
            Self::Origin => {
                "the request comes from a page of another origin; behind a proxy, add the name of the page to \
                 operator.hosts"
            }
            Self::Unmarked => "the header X-Chatfiles-Console: 1 is missing",
        }
    }
}

/// Checks the name by which a request reached this listener: an IP address, `localhost`, or one of `hosts`.
///
/// # Errors
/// [`Foreign::Host`].
pub(super) fn check_host(head: &Parts, hosts: &[String]) -> Result<(), Foreign> {
    let authority = authority(head).ok_or(Foreign::Host)?;
    match is_allowed(authority.host(), hosts) {
        true => Ok(()),
        false => Err(Foreign::Host),
    }
}

/// Checks that no page of another origin has made the browser send the request.
///
/// # Errors
/// [`Foreign::Origin`].
pub(super) fn check_page(head: &Parts, hosts: &[String]) -> Result<(), Foreign> {
    let is_own_site = |site: &[u8]| site == b"same-origin" || site == b"none";
    let mut sites = head.headers.get_all(SEC_FETCH_SITE).iter();
    if !sites.all(|site| is_own_site(site.as_bytes())) {
        return Err(Foreign::Origin);
    }
    let own = authority(head);
    let is_own = |origin: &str| {
        // `null` is the origin of a page in a sandbox.
        let (_, rest) = origin.split_once("://")?;
        let origin: Authority = rest.parse().ok()?;
        let is_same = own.as_ref().is_some_and(|own| *own == origin);
        Some(is_same || is_named(origin.host(), hosts))
    };
    let mut origins = head.headers.get_all(header::ORIGIN).iter();
    let is_own = |origin: &header::HeaderValue| origin.to_str().ok().and_then(is_own);
    match origins.all(|origin| is_own(origin) == Some(true)) {
        true => Ok(()),
        false => Err(Foreign::Origin),
    }
}

/// Checks the header that calls with an effect must have.
///
/// # Errors
/// [`Foreign::Unmarked`].
pub(super) fn check_marked(headers: &HeaderMap) -> Result<(), Foreign> {
    match headers.contains_key(CONSOLE) {
        true => Ok(()),
        false => Err(Foreign::Unmarked),
    }
}

/// The name and the port that the client has used: `:authority` of HTTP/2, or the only `Host`.
fn authority(head: &Parts) -> Option<Authority> {
    if let Some(authority) = head.uri.authority() {
        return Some(authority.clone());
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next()?.to_str().ok()?;
    let authority: Authority = host.parse().ok()?;
    // A user name before the host would be ignored by the comparison.
    (hosts.next().is_none() && !host.contains('@')).then_some(authority)
}

/// Whether a host is one that no attacker can point here: RFC 6761 §6.3 reserves `localhost` and the names below it.
fn is_allowed(host: &str, hosts: &[String]) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    bare.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || is_named(host, hosts)
}

fn is_named(host: &str, hosts: &[String]) -> bool {
    let host = host.trim_end_matches('.');
    hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn head(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::get("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn hosts() -> Vec<String> {
        vec!["ops.example.com".to_owned()]
    }

    #[test]
    fn host_must_be_unforgeable() {
        for (host, is_allowed) in [
            ("127.0.0.1:9090", true),
            ("127.0.0.1", true),
            ("10.0.0.5:9090", true),
            ("[::1]:9090", true),
            ("localhost:9090", true),
            ("LOCALHOST", true),
            ("localhost.", true),
            ("console.localhost:9090", true),
            ("ops.example.com", true),
            ("OPS.example.com:8443", true),
            ("evil.test:9090", false),
            ("127.0.0.1.evil.test:9090", false),
            ("localhost.evil.test", false),
            ("notlocalhost", false),
            ("ops.example.com.evil.test", false),
            ("127.0.0.1@evil.test", false),
            ("evil.test@127.0.0.1", false),
            ("", false),
        ] {
            let checked = check_host(&head(&[("host", host)]), &hosts());
            assert_eq!(checked.is_ok(), is_allowed, "{host}");
        }
        assert_eq!(check_host(&head(&[]), &hosts()), Err(Foreign::Host));
        let twice = head(&[("host", "127.0.0.1"), ("host", "127.0.0.1")]);
        assert_eq!(check_host(&twice, &hosts()), Err(Foreign::Host));
    }

    #[test]
    fn page_must_be_our_own() {
        let at = "127.0.0.1:9090";
        for (name, value, is_own) in [
            ("accept", "*/*", true),
            ("origin", "http://127.0.0.1:9090", true),
            ("origin", "https://ops.example.com", true),
            ("origin", "http://127.0.0.1:8080", false),
            ("origin", "http://localhost:9090", false),
            ("origin", "https://evil.test", false),
            ("origin", "null", false),
            ("origin", "", false),
            ("sec-fetch-site", "same-origin", true),
            ("sec-fetch-site", "none", true),
            ("sec-fetch-site", "same-site", false),
            ("sec-fetch-site", "cross-site", false),
        ] {
            let head = head(&[("host", at), (name, value)]);
            assert_eq!(
                check_page(&head, &hosts()).is_ok(),
                is_own,
                "{name}: {value}"
            );
        }
        let both = head(&[
            ("host", at),
            ("origin", "http://127.0.0.1:9090"),
            ("origin", "null"),
        ]);
        assert_eq!(check_page(&both, &hosts()), Err(Foreign::Origin));
    }
}
