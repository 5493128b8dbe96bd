//! Finds the address of a client behind proxies: `Forwarded` (RFC 7239) or `X-Forwarded-For`.
//!
//! Any client can send these headers. So they count only from trusted proxies, and are read from the right, where those
//! proxies appended. Only the configured one of the two is read: a proxy that writes `X-Forwarded-For` passes on the
//! `Forwarded` of a client, who could choose an address that way. The PROXY protocol is in `server/proxy_protocol.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyper::{
    HeaderMap,
    header::{FORWARDED, HeaderName},
};
use ipnet::IpNet;

/// Entries that are read, from the right: more than any chain of proxies has.
const ENTRIES_MAX: usize = 32;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The header that trusted proxies write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, which most proxies append to.
    #[default]
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

/// The client of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress {
    /// The address. IPv4-mapped IPv6 addresses are converted to IPv4.
    pub address: IpAddr,
    /// An untrusted peer sent a forwarding header: a spoofed one, or the peer is a proxy that is missing in the
    /// configuration.
    pub ignored_header: bool,
}

/// Returns the right-most address that is not trusted, among the peer and the entries of `header` that trusted peers
/// forwarded. If all are trusted, returns the left-most. `None` as the peer is a proxy on a Unix socket, which is
/// always trusted. An entry that is not an address (`unknown`, `_hidden`, garbage) ends the search at the address
/// before it.
///
/// IPv4-mapped addresses are compared as IPv4, so `trusted` must contain IPv4 networks as such.
#[must_use]
pub fn client_address(
    peer: Option<IpAddr>,
    headers: &HeaderMap,
    trusted: &[IpNet],
    header: ForwardedHeader,
) -> ClientAddress {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    let is_trusted_peer = peer.is_none_or(|peer| is_trusted(&peer.to_canonical()));
    let peer = peer.map_or(Ipv4Addr::LOCALHOST.into(), |peer| peer.to_canonical());
    let address = match header {
        _ if !is_trusted_peer => peer,
        ForwardedHeader::Forwarded => {
            let lines = headers.get_all(FORWARDED).iter().rev();
            let elements = lines.flat_map(|line| FromTheRight(Some(line.as_bytes())));
            walk(peer, elements.map(forwarded_for), is_trusted)
        }
        ForwardedHeader::XForwardedFor => {
            let lines = headers.get_all(&X_FORWARDED_FOR).iter().rev();
            let entries = lines.flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b','));
            let addresses = entries.map(|entry| parse_node(entry.trim_ascii()));
            walk(peer, addresses, is_trusted)
        }
    };
    let has_header = || headers.contains_key(FORWARDED) || headers.contains_key(&X_FORWARDED_FOR);
    ClientAddress {
        address,
        ignored_header: !is_trusted_peer && has_header(),
    }
}

fn walk(
    peer: IpAddr,
    entries_from_the_right: impl Iterator<Item = Option<IpAddr>>,
    is_trusted: impl Fn(&IpAddr) -> bool,
) -> IpAddr {
    let mut last = peer;
    let addresses = entries_from_the_right.map_while(|entry| entry);
    for address in addresses.take(ENTRIES_MAX) {
        last = address;
        if !is_trusted(&address) {
            break;
        }
    }
    last
}

/// The elements of one `Forwarded` line, right-most first. Quotes are matched from the right too: from the left, an
/// unclosed quote of a client would hide what the proxies appended.
struct FromTheRight<'a>(Option<&'a [u8]>);

impl<'a> Iterator for FromTheRight<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.0?;
        let mut quoted = false;
        for (at, &byte) in text.iter().enumerate().rev() {
            if byte == b'"' && !(quoted && is_escaped(text, at)) {
                quoted = !quoted;
            } else if byte == b',' && !quoted {
                self.0 = Some(&text[..at]);
                return Some(&text[at + 1..]);
            }
        }
        self.0 = None;
        Some(text)
    }
}

/// Whether an odd number of backslashes precedes `at`. Linear over a whole line: each run of backslashes is counted
/// once, because a quote separates two runs.
fn is_escaped(text: &[u8], at: usize) -> bool {
    text[..at]
        .iter()
        .rev()
        .take_while(|&&byte| byte == b'\\')
        .count()
        % 2
        == 1
}

/// The `for` of a forwarded-element (RFC 7239 §4); `None` if the element is malformed or has two.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    let mut rest = element;
    loop {
        let equals = rest.iter().position(|&byte| byte == b'=')?;
        let name = rest[..equals].trim_ascii();
        let value = &rest[equals + 1..];
        let (value, after) = match value.strip_prefix(b"\"") {
            Some(quoted) => split_at_closing_quote(quoted)?,
            None => split_at_semicolon(value)?,
        };
        if name.eq_ignore_ascii_case(b"for") && found.replace(value.trim_ascii()).is_some() {
            return None;
        }
        match after.trim_ascii() {
            [] => return parse_node(found?),
            [b';', next @ ..] => rest = next,
            _ => return None,
        }
    }
}

/// Splits off a value without quotes. RFC 7239 requires a token, but proxies also send `for=1.2.3.4:80` and
/// `for=[::1]`, so everything is accepted except quotes and backslashes: these come from the inside of a quoted string
/// that a forged separator cut.
fn split_at_semicolon(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = value
        .iter()
        .position(|&byte| byte == b';')
        .unwrap_or(value.len());
    let (value, after) = value.split_at(end);
    (!value.iter().any(|byte| matches!(byte, b'"' | b'\\'))).then_some((value, after))
}

fn split_at_closing_quote(quoted: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    loop {
        match quoted.get(at)? {
            b'"' => return Some((&quoted[..at], &quoted[at + 1..])),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Parses `IPv4`, `IPv4:port`, `IPv6`, `[IPv6]` or `[IPv6]:port`. `None` for everything else, such as `unknown` and
/// obfuscated identifiers (RFC 7239 §6).
fn parse_node(node: &[u8]) -> Option<IpAddr> {
    let node = str::from_utf8(node).ok()?;
    let address = if let Some(bracketed) = node.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        if !(port.is_empty() || port.strip_prefix(':').is_some_and(is_port)) {
            return None;
        }
        IpAddr::V6(address.parse::<Ipv6Addr>().ok()?)
    } else if let Ok(address) = node.parse::<IpAddr>() {
        address
    } else {
        let (address, port) = node.split_once(':')?;
        IpAddr::V4(address.parse::<Ipv4Addr>().ok().filter(|_| is_port(port))?)
    };
    Some(address.to_canonical())
}

/// Whether it is a port or an obfuscated port (RFC 7239 §6.3).
fn is_port(port: &str) -> bool {
    match port.strip_prefix('_') {
        Some(hidden) => {
            !hidden.is_empty()
                && hidden
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        }
        None => (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn resolve(peer: &str, lines: &[(&'static str, &str)]) -> ClientAddress {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        // Each case sends one of the two headers; that one is configured.
        let is_rfc_7239 = lines
            .first()
            .is_some_and(|(name, _)| name.eq_ignore_ascii_case("forwarded"));
        let header = if is_rfc_7239 {
            ForwardedHeader::Forwarded
        } else {
            ForwardedHeader::XForwardedFor
        };
        client_address(Some(peer.parse().unwrap()), &headers, &trusted, header)
    }

    fn check(name: &'static str, cases: &[(&[&str], &str)]) {
        for (values, expected) in cases {
            let lines: Vec<_> = values.iter().map(|value| (name, *value)).collect();
            let found = resolve(PROXY, &lines);
            assert_eq!(found.address.to_string(), *expected, "{name}: {values:?}");
            assert!(!found.ignored_header);
        }
    }

    #[test]
    fn untrusted_peer_is_the_client() {
        for (peer, lines, address, ignored_header) in [
            ("9.9.9.9", &[][..], "9.9.9.9", false),
            ("::ffff:9.9.9.9", &[], "9.9.9.9", false),
            (
                "9.9.9.9",
                &[("x-forwarded-for", "1.1.1.1")],
                "9.9.9.9",
                true,
            ),
            (
                "2001:db8::1",
                &[("forwarded", "for=1.1.1.1")],
                "2001:db8::1",
                true,
            ),
            ("10.0.0.1", &[], "10.0.0.1", false),
            (
                "::ffff:10.0.0.1",
                &[("x-forwarded-for", "1.1.1.1")],
                "1.1.1.1",
                false,
            ),
            (
                "fd00::1",
                &[("x-forwarded-for", "1.1.1.1")],
                "1.1.1.1",
                false,
            ),
        ] {
            let found = resolve(peer, lines);
            assert_eq!(
                (found.address.to_string().as_str(), found.ignored_header),
                (address, ignored_header)
            );
        }
    }

    #[test]
    fn right_most_untrusted_entry_counts() {
        check(
            "x-forwarded-for",
            &[
                (&["1.1.1.1"], "1.1.1.1"),
                (&["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
                (&["6.6.6.6,1.1.1.1 ,\t10.0.0.2,10.0.0.3"], "1.1.1.1"),
                (&["6.6.6.6", "1.1.1.1", "10.0.0.2, 10.0.0.3"], "1.1.1.1"),
                (&["1.1.1.1:8080"], "1.1.1.1"),
                (&["2001:db8::1"], "2001:db8::1"),
                (&["[2001:db8::1]"], "2001:db8::1"),
                (&["[2001:db8::1]:443"], "2001:db8::1"),
                (&["1.1.1.1, ::ffff:10.0.0.2"], "1.1.1.1"),
                (&["[::ffff:1.1.1.1]:80"], "1.1.1.1"),
            ],
        );
    }

    #[test]
    fn left_most_entry_if_all_trusted() {
        check(
            "x-forwarded-for",
            &[
                (&["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
                (&["fd00::9", "10.0.0.2"], "fd00::9"),
            ],
        );
        check(
            "forwarded",
            &[(&["for=10.0.0.9, for=10.0.0.2"], "10.0.0.9")],
        );
    }

    #[test]
    fn invalid_entry_stops_search() {
        for bad in [
            "",
            "unknown",
            "_hidden",
            "1.1.1",
            "1.1.1.1:",
            "1.1.1.1:x",
            "1.1.1.1:123456",
            "[1.1.1.1]",
            "[2001:db8::1",
            "[::1]x",
            "::1%eth0",
            "é",
            "a:b:c",
            "01.1.1.1",
        ] {
            check(
                "x-forwarded-for",
                &[
                    (&[bad], PROXY),
                    (&[&format!("6.6.6.6, {bad}, 10.0.0.2")], "10.0.0.2"),
                ],
            );
        }
    }

    #[test]
    fn parses_for_of_forwarded() {
        check(
            "forwarded",
            &[
                (&["for=1.1.1.1"], "1.1.1.1"),
                (&["For=\"1.1.1.1:4711\""], "1.1.1.1"),
                (&["for=1.1.1.1:80;by=x", "for=[fd00::2]:80"], "1.1.1.1"),
                (&["for=\"[2001:db8::1]\""], "2001:db8::1"),
                (
                    &["for=\"[2001:db8::1]:4711\";proto=http;by=10.0.0.1"],
                    "2001:db8::1",
                ),
                (&["for=\"1.1.1.1:_port\""], "1.1.1.1"),
                (
                    &["proto=https;host=\"a,b;for=6.6.6.6\";for=1.1.1.1, for=10.0.0.2"],
                    "1.1.1.1",
                ),
                (&["for=6.6.6.6, for=1.1.1.1", "for=10.0.0.2"], "1.1.1.1"),
                (&["host=\"a\\\", for=6.6.6.6\"; for=1.1.1.1"], "1.1.1.1"),
            ],
        );
    }

    #[test]
    fn malformed_forwarded_element_stops_search() {
        for bad in [
            "",
            "for=unknown",
            "for=_hidden",
            "for=\"_a:80\"",
            "proto=https",
            "for",
            "for=",
            "for=\"1.1.1.1",
            "for=1.1.1.1\"",
            "for=1.1.1.1;for=2.2.2.2",
            "for=1.1.1.1;x",
            "for=\"1.1.1.1\"x",
            "for=[2001:db8::1",
            "for=1.1.1.1;a=\\\"b\"\"",
        ] {
            check(
                "forwarded",
                &[
                    (&[bad], PROXY),
                    (&["for=6.6.6.6", bad, "for=10.0.0.2"], "10.0.0.2"),
                ],
            );
        }
    }

    #[test]
    fn unclosed_quote_hides_no_proxy() {
        check(
            "forwarded",
            &[
                (&["for=\"6.6.6.6, for=1.1.1.1"], "1.1.1.1"),
                (
                    &["for=6.6.6.6;a=\", for=1.1.1.1;by=\"[fd00::1]\""],
                    "1.1.1.1",
                ),
            ],
        );
    }

    #[test]
    fn reads_only_configured_header() {
        let both = &[("x-forwarded-for", "2.2.2.2"), ("forwarded", "for=1.1.1.1")];
        assert_eq!(resolve(PROXY, both).address.to_string(), "2.2.2.2");
        let both = &[("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "2.2.2.2")];
        assert_eq!(resolve(PROXY, both).address.to_string(), "1.1.1.1");
    }

    #[test]
    fn reads_at_most_32_entries() {
        let proxies = |count: usize| {
            let entries: Vec<_> = (0..count).rev().map(|n| format!("10.1.0.{n}")).collect();
            format!("1.1.1.1, {}", entries.join(", "))
        };
        check(
            "x-forwarded-for",
            &[
                (&[&proxies(ENTRIES_MAX - 1)], "1.1.1.1"),
                (&[&proxies(ENTRIES_MAX)], "10.1.0.31"),
            ],
        );
    }
}
