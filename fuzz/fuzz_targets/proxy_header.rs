//! Arbitrary bytes as the start of a connection behind a proxy: the PROXY header, versions 1 and 2.
//!
//! The parser is compiled from its source file, because it needs only its dependency. So nothing has to be public for
//! this, and the server is not rebuilt with coverage.
#![no_main]

// Formatted in its own place.
#[rustfmt::skip]
#[path = "../../src/server/proxy_protocol.rs"]
mod proxy_protocol;

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;

use self::proxy_protocol::{HEADER_BYTES_MAX, Parsed, parse};

fuzz_target!(|bytes: &[u8]| check(bytes));

fn check(bytes: &[u8]) {
    // Byte by byte: incomplete for a while, and then always the same result.
    let mut settled = None;
    for len in 0..=bytes.len() {
        // A settled result is not checked after every further byte, which would take nearly all of the time.
        if settled.is_some_and(|(since, _)| len > since + 16) && len < bytes.len() {
            continue;
        }
        let parsed = parse(&bytes[..len]).map_err(drop);
        if let Some((since, verdict)) = settled {
            assert_eq!(
                parsed, verdict,
                "after {len} bytes it is not what it was after {since}"
            );
            continue;
        }
        match parsed {
            Ok(Parsed::Incomplete) => {
                assert!(len < HEADER_BYTES_MAX, "it waits for more than it reads")
            }
            Ok(Parsed::Header(taken, client)) => {
                // A truncated header is not a header, and a header does not include the bytes after it.
                assert_eq!(
                    taken, len,
                    "a header is one as soon as it is whole, and not before"
                );
                assert!(taken <= HEADER_BYTES_MAX, "it takes more than its bound");
                check_client(&bytes[..taken], client);
                settled = Some((len, parsed));
            }
            Err(()) => settled = Some((len, parsed)),
        }
    }
}

/// The client is the one in the header, according to a second parser.
fn check_client(header: &[u8], client: Option<SocketAddr>) {
    let expected = match header.strip_prefix(b"PROXY ") {
        Some(line) => in_text(line),
        None => in_binary(header),
    };
    assert_eq!(client, expected);
}

/// `TCP4 source destination port port` and the line end.
fn in_text(line: &[u8]) -> Option<SocketAddr> {
    let line = std::str::from_utf8(line).expect("a line of ASCII");
    let line = line.strip_suffix("\r\n").expect("the end of the line");
    assert!(!line.contains('\r'), "two ends of the line");
    let fields: Vec<&str> = line.split(' ').collect();
    if fields[0] == "UNKNOWN" {
        return None;
    }
    assert_eq!(fields.len(), 5);
    let address: IpAddr = fields[1].parse().expect("an address");
    assert_eq!(fields[0], if address.is_ipv4() { "TCP4" } else { "TCP6" });
    let ports: [u16; 2] = [3, 4].map(|at| fields[at].parse().expect("a port"));
    assert_eq!(ports.map(|port| port.to_string()), fields[3..]);
    Some((address, ports[0]).into())
}

/// Signature, command, family, length; then both addresses and both ports.
fn in_binary(header: &[u8]) -> Option<SocketAddr> {
    let is_local = header[12] & 0xf == 0;
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    match header[13] >> 4 {
        _ if is_local => None,
        1 => {
            let address: [u8; 4] = header[16..20].try_into().expect("four bytes");
            Some((address, port(24)).into())
        }
        2 => {
            let address: [u8; 16] = header[16..32].try_into().expect("sixteen bytes");
            Some((address, port(48)).into())
        }
        _ => None,
    }
}
