//! Rejects ambiguous request heads that hyper accepts (request smuggling).
//!
//! If a proxy and this server disagree on the host, the end of the body or the token, the bytes of one client can
//! become the request of another. hyper rejects invalid syntax. This file rejects the rest that RFC 9112 forbids or
//! that only an attack needs. Not seen here: a `Content-Length` beside a `Transfer-Encoding`, which hyper removes
//! before it closes the connection after the response (§6.1); and a fragment (`/path#x`), which hyper removes.

use std::net::Ipv6Addr;

use hyper::{HeaderMap, Method, Uri, Version, header};

use crate::error::{Error, Kind, Result};

/// Fields for credentials, rights and the format of the body. If one of them has two lines, a proxy may read the other
/// one. Identical lines are rejected too, as nginx does. Two lines of `Range` or of a condition (RFC 9110 §13) are
/// ignored, so they are not here.
const SINGLE_FIELDS: [&str; 10] = [
    "authorization",
    "content-type",
    "access-token",
    "app_id",
    "user_id",
    "share-secret",
    "restrict-access",
    "thumbnail",
    "thumbnail-width",
    "thumbnail-height",
];

/// Checks a head. After an error, the connection must be closed behind the response.
///
/// # Errors
/// `BadMessage`.
pub fn check(method: &Method, version: Version, target: &Uri, headers: &HeaderMap) -> Result<()> {
    check_host(method, version, target, headers)?;
    // The two counts differ only if a field has two lines, which is rare.
    if headers.len() != headers.keys_len() {
        let is_repeated = |name: &&str| headers.get_all(*name).iter().nth(1).is_some();
        if let Some(name) = SINGLE_FIELDS.iter().find(|name| is_repeated(name)) {
            return refuse(format!("a request must have at most one {name} header."));
        }
    }
    // RFC 9112 §6.1: `chunked` is the only supported coding, and applies once. hyper checks the last coding alone.
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => refuse("the only supported Transfer-Encoding is chunked."),
    }
}

/// RFC 9112 §3.2: an HTTP/1.1 request has exactly one valid Host. A URL as the target must name the same host.
fn check_host(method: &Method, version: Version, target: &Uri, headers: &HeaderMap) -> Result<()> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) if version != Version::HTTP_11 => None,
        (Some(host), None) => Some(host.as_bytes()),
        _ => return refuse("a request must have exactly one Host header."),
    };
    if host.is_some_and(|host| !is_host(host)) {
        return refuse("the Host header is not a valid host.");
    }
    let is_path = match target.path() {
        "*" => method == Method::OPTIONS,
        path => path.starts_with('/'),
    };
    // The forms of a request target (RFC 9112 §3.2).
    match (target.scheme_str(), target.authority()) {
        (None, None) if is_path => Ok(()),
        // HTTP/2 has fields of their own for scheme, authority and path (RFC 9113 §8.3.1).
        (Some("http" | "https"), Some(authority)) if is_path => {
            let authority = authority.as_str().as_bytes();
            if !is_host(authority) {
                return refuse("the target has no valid host.");
            }
            match host.is_some_and(|host| !authority.eq_ignore_ascii_case(host)) {
                true => refuse("the target and the Host header name different hosts."),
                false => Ok(()),
            }
        }
        // CONNECT has a host as its target, for which there is no route.
        (None, Some(_)) if method == Method::CONNECT => Ok(()),
        // hyper parses `!` as an authority, whatever the method.
        _ => refuse("the target must be a path or an HTTP URL."),
    }
}

fn refuse(why: impl Into<String>) -> Result<()> {
    Err(Error::new(Kind::BadMessage).public(why.into()))
}

/// Whether it is a host with an optional port (RFC 3986 §3.2.2, §3.2.3). The name may be empty (`Host:`).
fn is_host(host: &[u8]) -> bool {
    if let [b'[', rest @ ..] = host {
        let Some(end) = rest.iter().position(|byte| *byte == b']') else {
            return false;
        };
        let (address, after) = (std::str::from_utf8(&rest[..end]), &rest[end + 1..]);
        let is_address = address.is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok());
        return is_address
            && match after {
                [] => true,
                [b':', port @ ..] => is_port(port),
                _ => false,
            };
    }
    match host.iter().position(|byte| *byte == b':') {
        Some(colon) => is_name(&host[..colon]) && is_port(&host[colon + 1..]),
        None => is_name(host),
    }
}

/// Whether it is a registered name or an IPv4 address. Only the label of the root, after a final dot, may be empty
/// (RFC 1034 §3.1).
fn is_name(name: &[u8]) -> bool {
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(byte);
    let is_encoded =
        |rest: &[u8]| matches!(rest, [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    let labels = name.strip_suffix(b".").unwrap_or(name);
    let has_empty_label =
        !name.is_empty() && labels.split(|byte| *byte == b'.').any(<[u8]>::is_empty);
    !has_empty_label
        && name.iter().all(is_of_name)
        && (name.iter().enumerate()).all(|(at, byte)| *byte != b'%' || is_encoded(&name[at + 1..]))
}

/// Whether it is empty or a valid port number.
fn is_port(port: &[u8]) -> bool {
    let number = || std::str::from_utf8(port).ok()?.parse::<u16>().ok();
    port.is_empty() || port.len() <= 5 && port.iter().all(u8::is_ascii_digit) && number().is_some()
}

#[cfg(test)]
mod tests {
    use super::is_host;

    #[test]
    fn accepts_host_with_port() {
        for host in [
            "",
            "a",
            "a.example",
            "A_b-c~",
            "a:",
            "a:80",
            "127.0.0.1:65535",
            "[::1]",
            "[::1]:8080",
            "[::ffff:127.0.0.1]",
            "%61",
            "a!b",
            ":80",
            "a.example.",
            "a:00080",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            " ",
            "a b",
            "a/b",
            "u@a",
            "a?b",
            "a#b",
            "a\\b",
            "a:x",
            "a:-1",
            "a:80:80",
            "a:123456",
            "::1",
            "[::1",
            "[]",
            "[::1]a",
            "[::1]:x",
            "[a/b]",
            "\u{e9}",
            "a\tb",
            "<a>",
            "\"a\"",
            ".",
            "..",
            ".a",
            "a..b",
            "a..",
            "a:65536",
            "a:98777",
            "a:+80",
            "a%",
            "a%6",
            "a%6g",
            "[::1::]",
            "[127.0.0.1]",
            "[1]",
            "[fe80::1%25lo]",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}
