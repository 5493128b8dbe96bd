//! What hyper lets through and a server must not: heads that two parties read in two ways.
//!
//! A proxy that took another host, or another end of the body, than we do sends one client's bytes as another's
//! request. hyper refuses what no grammar allows; here is the rest that RFC 9112 forbids, or that only an attack
//! needs. A `Content-Length` beside a `Transfer-Encoding` is not seen here: hyper removes it, and ends the
//! connection after the answer, as §6.1 wants.

use hyper::{HeaderMap, Uri, Version, header};

use crate::error::{Error, Kind, Result};

/// Checks a head. The connection of one that is refused must be closed after the answer.
///
/// # Errors
/// `BadMessage`.
pub fn check(version: Version, target: &Uri, headers: &HeaderMap) -> Result<()> {
    let refuse = |why| Err(Error::new(Kind::BadMessage).public(why));
    // RFC 9112 §3.2: one Host in HTTP/1.1, and one that is a host.
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) if version != Version::HTTP_11 => None,
        (Some(host), None) => Some(host.as_bytes()),
        _ => return refuse("a request has one Host header."),
    };
    if host.is_some_and(|host| !is_host(host)) {
        return refuse("the Host header names no host.");
    }
    // §3.2.2, and RFC 9113 §8.3.1. Not for CONNECT, whose target has no scheme and no route.
    if let (Some(authority), Some(host), true) =
        (target.authority(), host, target.scheme().is_some())
        && !authority.as_str().as_bytes().eq_ignore_ascii_case(host)
    {
        return refuse("the target and the Host header name two hosts.");
    }
    // §6.1: no coding but `chunked` is known here, and it is applied once. hyper looks at the last one only.
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => refuse("the one Transfer-Encoding is chunked."),
    }
}

/// RFC 3986 §3.2.2 and §3.2.3; a name may be empty (`Host:`).
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else {
                return false;
            };
            let (address, rest) = (&rest[..end], &rest[end + 1..]);
            let is_of_address = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
            if address.is_empty() || !address.iter().all(is_of_address) {
                return false;
            }
            match rest {
                [] => return true,
                [b':', port @ ..] => return is_port(port),
                _ => return false,
            }
        }
        _ => match host.iter().position(|byte| *byte == b':') {
            Some(colon) => (&host[..colon], &host[colon + 1..]),
            None => (host, &b""[..]),
        },
    };
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(byte);
    name.iter().all(is_of_name) && is_port(port)
}

fn is_port(port: &[u8]) -> bool {
    port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::is_host;

    #[test]
    fn a_host_is_a_name_or_an_address_and_a_port() {
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
            "%61",
            "a!b",
            ":80",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            " ", "a b", "a/b", "u@a", "a?b", "a#b", "a\\b", "a:x", "a:-1", "a:80:80", "a:123456",
            "::1", "[::1", "[]", "[::1]a", "[::1]:x", "[a/b]", "\u{e9}", "a\tb", "<a>", "\"a\"",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}
