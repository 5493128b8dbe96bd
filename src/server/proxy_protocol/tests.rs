//! Headers as the specification has them, and with every field spoilt.

use proptest::prelude::*;

use super::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn binary(version_command: u8, family_protocol: u8, length: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([version_command, family_protocol]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(rest);
    bytes
}

const IPV4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x30, 0x39, 0, 80];

fn ipv6() -> Vec<u8> {
    let mut rest = vec![0; 36];
    rest[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    rest[15] = 7;
    rest[32..].copy_from_slice(&[0x30, 0x39, 0, 80]);
    rest
}

#[track_caller]
fn assert_header(bytes: &[u8], source: Option<&str>) {
    let source = source.map(|text| text.parse().unwrap());
    assert_eq!(parse(bytes), Ok(Parsed::Header(bytes.len(), source)));
    // What follows belongs to the client, and whatever comes before is a beginning.
    let more = [bytes, b"GET / HTTP/1.1\r\n\r\n"].concat();
    assert_eq!(parse(&more), Ok(Parsed::Header(bytes.len(), source)));
    for len in 1..bytes.len() {
        assert_eq!(parse(&bytes[..len]), Ok(Parsed::Incomplete), "{len}");
    }
}

#[test]
fn reads_every_kind_of_header() {
    for (line, source) in [
        (
            "PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n",
            Some("192.0.2.1:12345"),
        ),
        (
            "PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n",
            Some("0.0.0.0:0"),
        ),
        (
            "PROXY TCP6 2001:db8::7 ::1 12345 80\r\n",
            Some("[2001:db8::7]:12345"),
        ),
        ("PROXY UNKNOWN\r\n", None),
        (
            "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
            None,
        ),
    ] {
        assert_header(line.as_bytes(), source);
    }
    assert_header(&binary(0x21, 0x11, 12, &IPV4), Some("192.0.2.1:12345"));
    assert_header(
        &binary(0x21, 0x21, 36, &ipv6()),
        Some("[2001:db8::7]:12345"),
    );
    // With an extension: the type, two bytes of length, the value.
    let extended = [&IPV4[..], &[2, 0, 3, b'a', b'.', b'b']].concat();
    assert_header(&binary(0x21, 0x11, 18, &extended), Some("192.0.2.1:12345"));
    // A health check of the proxy itself; a family that is not said; the paths of a Unix socket.
    assert_header(&binary(0x20, 0x00, 0, b""), None);
    assert_header(&binary(0x20, 0x11, 12, &IPV4), None);
    assert_header(&binary(0x21, 0x00, 0, b""), None);
    assert_header(&binary(0x21, 0x31, 216, &[b'x'; 216]), None);
}

#[test]
fn refuses_malformed_lines() {
    for bad in [
        "GET / HTTP/1.1\r\n",
        "PROXY\r\n",
        "PROXY \r\n",
        "PROXX TCP4 192.0.2.1 10.0.0.1 12345 80\r\n",
        "proxy TCP4 192.0.2.1 10.0.0.1 12345 80\r\n",
        "PROXY  TCP4 192.0.2.1 10.0.0.1 12345 80\r\n",
        "PROXY\tTCP4 192.0.2.1 10.0.0.1 12345 80\r\n",
        "PROXY TCP5 192.0.2.1 10.0.0.1 12345 80\r\n",
        "PROXY tcp4 192.0.2.1 10.0.0.1 12345 80\r\n",
        "PROXY UDP4 192.0.2.1 10.0.0.1 12345 80\r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 192.0.2.1\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 12345\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 12345 80 9\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 12345 80 \r\n",
        "PROXY TCP4 192.0.2 10.0.0.1 12345 80\r\n",
        "PROXY TCP4 192.0.2.256 10.0.0.1 12345 80\r\n",
        "PROXY TCP4 192.0.2.01 10.0.0.1 12345 80\r\n",
        "PROXY TCP4 ::1 10.0.0.1 12345 80\r\n",
        "PROXY TCP4 192.0.2.1 x 12345 80\r\n",
        "PROXY TCP6 192.0.2.1 10.0.0.1 12345 80\r\n",
        "PROXY TCP6 [::1] ::1 12345 80\r\n",
        "PROXY TCP6 ::1%eth0 ::1 12345 80\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 65536 80\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 -1 80\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 012 80\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 12345 80x\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r \r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 12345 80 \n",
        "PROXY\rTCP4 192.0.2.1 10.0.0.1 12345 80\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 +12345 80\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 12345 +80\r\n",
        "PROXY UNKNOWN \n",
        "PROXY UNKNOWN\n",
    ] {
        assert!(
            parse(bad.as_bytes()).is_err(),
            "{bad:?}: {:?}",
            parse(bad.as_bytes())
        );
    }
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107));
    assert!(parse(long.as_bytes()).is_err());
    assert!(parse(b"PROXY TCP4 \xff\xfe 10.0.0.1 1 2\r\n").is_err());
}

#[test]
fn refuses_malformed_binary_headers() {
    for at in 0..SIGNATURE.len() {
        let mut bytes = binary(0x21, 0x11, 12, &IPV4);
        bytes[at] ^= 1;
        assert!(parse(&bytes).is_err(), "signature, byte {at}");
    }
    for (what, bytes) in [
        ("version 1", binary(0x11, 0x11, 12, &IPV4)),
        ("version 3", binary(0x31, 0x11, 12, &IPV4)),
        ("command", binary(0x22, 0x11, 12, &IPV4)),
        ("family", binary(0x21, 0x41, 12, &IPV4)),
        ("protocol", binary(0x21, 0x13, 12, &IPV4)),
        ("datagram", binary(0x21, 0x12, 12, &IPV4)),
        ("too short for IPv4", binary(0x21, 0x11, 11, &IPV4[..11])),
        ("too short for IPv6", binary(0x21, 0x21, 35, &ipv6()[..35])),
        ("too short for a path", binary(0x21, 0x31, 215, &[0; 215])),
        ("too long", binary(0x21, 0x11, 3000, &[0; 3000])),
        (
            "too long, cut",
            binary(0x21, 0x11, 65535, &[0; HEADER_BYTES_MAX]),
        ),
    ] {
        assert!(parse(&bytes).is_err(), "{what}");
    }
}

proptest! {
    #[test]
    fn any_input_is_parsed_safely(
        beginning in prop_oneof![
            Just(Vec::new()),
            Just(b"PROXY TCP4 ".to_vec()),
            Just(b"PROXY TCP6 ".to_vec()),
            Just(SIGNATURE.to_vec()),
            Just([SIGNATURE, &[0x21, 0x11, 0]].concat()),
        ],
        rest in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [beginning, rest].concat();
        if let Ok(Parsed::Header(len, _)) = parse(&bytes) {
            prop_assert!(len <= bytes.len());
        }
    }
}
