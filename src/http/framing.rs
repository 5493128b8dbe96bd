//! Refuses heads that two parties read in two ways, which hyper lets through.
//!
//! A proxy that took another host, another end of the body or another token than we do sends one client's bytes as
//! another's request. hyper refuses what no grammar allows; here is the rest that RFC 9112 forbids, or that only an
//! attack needs. A `Content-Length` beside a `Transfer-Encoding` is not seen here: hyper removes it, and ends the
//! connection after the answer, as §6.1 wants. A fragment (`/path#x`) is not seen either: hyper removes it.

use std::net::Ipv6Addr;

use hyper::{HeaderMap, Method, Uri, Version, header};

use crate::error::{Error, Kind, Result};

/// Fields that say who calls, what may be opened, and how the body is read: two lines of one of them are two
/// meanings, for us and for a proxy that looks at the other line. Identical lines are refused as well, as nginx does.
/// `Range` and the conditions of RFC 9110 §13 are not here: two lines of those count as none.
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

/// Checks a head. The connection of one that is refused must be closed after the answer.
///
/// # Errors
/// `BadMessage`.
pub fn check(method: &Method, version: Version, target: &Uri, headers: &HeaderMap) -> Result<()> {
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
    match form(method, target) {
        Form::Path => {}
        // RFC 9112 §3.2.2, and RFC 9113 §8.3.1.
        Form::Url(authority) => {
            if !is_host(authority) {
                return refuse("the target names no host.");
            }
            if host.is_some_and(|host| !authority.eq_ignore_ascii_case(host)) {
                return refuse("the target and the Host header name two hosts.");
            }
        }
        // Its target is a host and not a resource: no route has it.
        Form::Connect => {}
        Form::None => return refuse("the target is neither a path nor a URL of HTTP."),
    }
    // The two counts differ where any field has two lines, which is seldom.
    if headers.len() != headers.keys_len() {
        let is_repeated = |name: &&str| headers.get_all(*name).iter().nth(1).is_some();
        if let Some(name) = SINGLE_FIELDS.iter().find(|name| is_repeated(name)) {
            let why = format!("a request has one {name} header at the most.");
            return Err(Error::new(Kind::BadMessage).public(why));
        }
    }
    // §6.1: no coding but `chunked` is known here, and it is applied once. hyper looks at the last one only.
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => refuse("the one Transfer-Encoding is chunked."),
    }
}

/// The forms of a request's target (RFC 9112 §3.2).
enum Form<'a> {
    /// `/path`; of OPTIONS `*` too.
    Path,
    /// `http://authority/path`. HTTP/2 has its scheme, authority and path in fields of their own.
    Url(&'a [u8]),
    /// `authority`, of CONNECT alone.
    Connect,
    /// None of them: hyper takes `!` for an authority, whatever the method.
    None,
}

fn form<'a>(method: &Method, target: &'a Uri) -> Form<'a> {
    let is_path = match target.path() {
        "*" => method == Method::OPTIONS,
        path => path.starts_with('/'),
    };
    match (target.scheme_str(), target.authority()) {
        (None, None) if is_path => Form::Path,
        (Some("http" | "https"), Some(authority)) if is_path => {
            Form::Url(authority.as_str().as_bytes())
        }
        (None, Some(_)) if method == Method::CONNECT => Form::Connect,
        _ => Form::None,
    }
}

/// RFC 3986 §3.2.2 and §3.2.3; a name may be empty (`Host:`).
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

/// A registered name or an IPv4 address. No label of a name is empty, but for the root's after a last dot
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

/// Empty, or a number that a port can have.
fn is_port(port: &[u8]) -> bool {
    let number = || std::str::from_utf8(port).ok()?.parse::<u16>().ok();
    port.is_empty() || port.len() <= 5 && port.iter().all(u8::is_ascii_digit) && number().is_some()
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
