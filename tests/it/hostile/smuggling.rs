//! Request smuggling: requests that a proxy and a server could read in two ways are refused, and nothing after them is
//! answered.
//!
//! Each vector is followed by a second request, once bare and once behind an empty chunk of five bytes, so that it is
//! found by a reader that takes either end of the first request.

use std::net::Shutdown;

use super::assert_alive;
use crate::support::{BASE, Form, TestServer, assert_error, head, read_answer};

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
const EMPTY_CHUNK: &str = "0\r\n\r\n";

/// Heads that are refused: 400, and the connection is closed. `\x7f` and above stand for that byte.
const REFUSED: &[&str] = &[
    // Two lengths, or an invalid one.
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 40\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 40\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5x\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: \"5\"\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length\t: 5\r\n\r\n",
    // A transfer coding that is not `chunked`, or not exactly once, or not last.
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: , chunked\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunkedx\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\x0c\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\0\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\r\n : chunked\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n",
    "POST /healthz HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
    // Folded lines, or invalid ones.
    "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n",
    "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
    "GET /healthz HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n",
    "GET /healthz HTTP/1.1\r\n\tX: y\r\nHost: a\r\n\r\n",
    "POST /healthz HTTP/1.1\r\n Transfer-Encoding: chunked\r\nHost: a\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\n: nameless\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\r\n\r\n",
    // Bytes that some parsers take for the end of a line or text.
    "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nX\x01: a\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nX\u{ff}: a\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nX Y: a\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nX(: a\r\n\r\n",
    // Ambiguous hosts.
    "GET /healthz HTTP/1.1\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "GET /healthz HTTP/1.0\r\nHost: a\r\nHost: b\r\nConnection: keep-alive\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a b\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a?b\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a:x\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: [::1::]\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: [127.0.0.1]\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: .\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: ..\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: .a\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a..b\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a:98777\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a:65536\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a%\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a%zz\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: \u{ff}\r\n\r\n",
    "GET http://b/healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://a:81/healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://u@a/healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://a/healthz HTTP/1.1\r\n\r\n",
    "GET http://a/healthz HTTP/1.1\r\nHost:\r\n\r\n",
    "GET http://./healthz HTTP/1.1\r\nHost: .\r\n\r\n",
    "GET http://a:98777/healthz HTTP/1.1\r\nHost: a:98777\r\n\r\n",
    // A token, a secret or a representation given twice.
    "GET /healthz HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nauthorization: Bearer a\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\naccess-token: a\r\naccess-token: b\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\napp_id: a\r\napp_id: b\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nuser_id: a\r\nuser_id: b\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nshare-secret: a\r\nshare-secret: b\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nrestrict-access: true\r\nrestrict-access: false\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nthumbnail: true\r\nthumbnail: false\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nthumbnail-width: 1\r\nthumbnail-width: 2\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nthumbnail-height: 1\r\nthumbnail-height: 2\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\nContent-Type: a/c\r\n\r\n",
    // Ambiguous targets.
    "GET /healthz x HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /healthz\tx HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /healthz\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /healthz\rx HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET  /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /healthz  HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /healthz HTTP/1.1 \r\nHost: a\r\n\r\n",
    "GET\t/healthz\tHTTP/1.1\r\nHost: a\r\n\r\n",
    " GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "G(T /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "/healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    // RFC 9112 §3.2: a path, an HTTP URL, or, only for OPTIONS, an asterisk.
    "GET ! HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS a HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET ftp://a/healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET a://a/healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    // Invalid versions.
    "GET /healthz\r\n\r\n",
    "GET /healthz\r\nHost: a\r\n\r\n",
    "GET /healthz \r\nHost: a\r\n\r\n",
    "GET /healthz http/1.1\r\nHost: a\r\n\r\n",
    "GET /healthz Http/1.1\r\nHost: a\r\n\r\n",
    "GET /healthz HTTP/0.9\r\nHost: a\r\n\r\n",
    "GET /healthz HTTP/1.2\r\nHost: a\r\n\r\n",
    "GET /healthz HTTP/2.0\r\nHost: a\r\n\r\n",
    "GET /healthz HTTP/1.\r\nHost: a\r\n\r\n",
    "GET /healthz HTTP/1.10\r\nHost: a\r\n\r\n",
    "GET /healthz HTTP/01.1\r\nHost: a\r\n\r\n",
    "GET /healthz HTTP/1.1x\r\nHost: a\r\n\r\n",
];

/// RFC 9112 §6.1: a message with a length and a coding is read by its coding, and the connection ends after it.
const LAST: &[&str] = &[
    "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n0\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\
     Connection: keep-alive\r\n\r\n0\r\n\r\n",
    // A trailer: hyper and a proxy may see its end in different places.
    "GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 30\r\n\r\n",
];

/// Unusual but unambiguous (RFC 9112 §2.2, §6.3): answered, and so is the next request.
const TAKEN: &[&str] = &[
    "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    // A lone line feed may end a line, and the headers after it count.
    "GET /healthz HTTP/1.1\nHost: a\n\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 5\r\n\r\n01234",
    "GET http://a/healthz HTTP/1.1\r\nHost: A\r\n\r\n",
    "GET HTTPS://a/healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a.\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a_b%61:65535\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: [::ffff:127.0.0.1]:80\r\n\r\n",
    // Lists may span several lines, and headers without effect may be repeated.
    "GET /healthz HTTP/1.1\r\nHost: a\r\nAccept: a/b\r\nAccept: */*\r\nX: y\r\nX: z\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost:\r\n\r\n",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n01234",
    "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 005\r\n\r\n01234",
];

/// One byte per character, as in Latin-1.
fn bytes(text: &str) -> Vec<u8> {
    let byte = |c: char| u8::try_from(u32::from(c)).expect("a byte");
    text.chars().map(byte).collect()
}

/// The statuses of all responses until the server closes.
fn statuses(server: &TestServer, sent: &str, then_ends: bool) -> Vec<u16> {
    let mut connection = server.connect();
    // The server may close before everything is written.
    let _ = connection.send(&bytes(sent));
    if then_ends {
        let _ = connection.stream().shutdown(Shutdown::Write);
    }
    let answers = connection.rest();
    let (mut rest, mut statuses) = (&answers[..], Vec::new());
    while let Ok(answer) = read_answer(&mut rest, "GET") {
        statuses.push(answer.status);
    }
    statuses
}

#[test]
fn ambiguous_head_is_refused_and_closed() {
    let server = TestServer::start();
    for vector in REFUSED {
        for between in ["", EMPTY_CHUNK] {
            // The server closes the connection, not the client.
            let found = statuses(&server, &format!("{vector}{between}{HIDDEN}"), false);
            assert_eq!(found, [400], "{vector:?} {between:?}");
        }
    }
    assert_alive(&server);
}

#[test]
fn connection_ends_after_lengths_or_trailer() {
    let server = TestServer::start();
    for vector in LAST {
        let found = statuses(&server, &format!("{vector}{HIDDEN}"), false);
        assert_eq!(found, [200], "{vector:?}");
    }
}

#[test]
fn accepts_odd_but_unambiguous_heads() {
    let server = TestServer::start();
    for vector in TAKEN {
        let found = statuses(&server, &format!("{vector}{HIDDEN}"), true);
        let first = if vector.starts_with("OPTIONS") {
            204
        } else {
            200
        };
        assert_eq!(found, [first, 404], "{vector:?}");
    }
}

#[test]
fn refusal_uses_error_format_of_api() {
    let server = TestServer::start();
    for host in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a b\r\n",
        "Host: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n",
    ] {
        let mut connection = server.connect();
        let request = format!("GET /nothing HTTP/1.1\r\n{host}\r\n");
        connection.send(request.as_bytes()).unwrap();
        let answer = connection.answer("GET").unwrap();
        assert_error(&answer, 400, "illegal_argument");
        assert_eq!(answer.header("connection"), Some("close"), "{request}");
    }
    // HTTP/1.0 has no Host.
    assert_eq!(
        statuses(&server, "GET /nothing HTTP/1.0\r\n\r\n", false),
        [404]
    );
}

/// The head and one valid chunk of an upload, followed by `rest`.
fn upload_in_chunks(server: &TestServer, rest: &str) -> Vec<u16> {
    let form = Form::new().file("f", "text/plain", b"hello");
    let authorization = format!("Bearer {}", server.token("mallory"));
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", &*form.content_type()),
        ("Transfer-Encoding", "chunked"),
    ];
    let mut sent = head("POST", &format!("{BASE}/chatfiles"), &headers, None);
    let body = form.bytes();
    sent.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
    sent.extend_from_slice(&body);
    let sent = String::from_utf8(sent).unwrap();
    statuses(server, &format!("{sent}{rest}{HIDDEN}"), true)
}

#[test]
fn bad_chunk_ends_upload_and_connection() {
    let server = TestServer::start();
    // Leading zeros and an extension are valid (RFC 9112 §7.1).
    for rest in ["\r\n0\r\n\r\n", "\r\n0001\r\n\n\r\n000;a=b\r\n\r\n"] {
        assert_eq!(upload_in_chunks(&server, rest), [200, 404], "{rest:?}");
    }
    let long_extension = format!("\r\n1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(20_000));
    for rest in [
        "\r\n-1\r\n\r\n",
        "\r\n+0\r\n\r\n",
        "\r\n0x0\r\n\r\n",
        "\r\n 0\r\n\r\n",
        "\r\n\r\n\r\n",
        "\r\nzz\r\n\r\n",
        "\r\n5 5\r\nhello\r\n0\r\n\r\n",
        "\r\n1_0\r\n\r\n",
        "\r\n10000000000000000\r\n\r\n",
        "\r\nffffffffffffffff0\r\n\r\n",
        "\r\nffffffffffffffffff\r\n\r\n",
        "\r\n0\n\r\n",
        "\r\n0;a\n\r\n",
        "\r\n0;a\rb\r\n\r\n",
        "\r\n0\r\r\n\r\n",
        // The data is not followed by a line end.
        "0\r\n\r\n",
        "\n0\r\n\r\n",
        "\r0\r\n\r\n",
        "\r\n1\r\nx\n0\r\n\r\n",
        "\r\n1\r\nxy\r\n0\r\n\r\n",
        // An invalid trailer.
        "\r\n0\r\nno colon\r\n\r\n",
        "\r\n0\r\nX : y\r\n\r\n",
        "\r\n0\r\nX: y\r\n z\r\n\r\n",
        &long_extension,
    ] {
        assert_eq!(upload_in_chunks(&server, rest), [400], "{rest:?}");
    }
    // The form was complete before, but the end of the body is uncertain, so nothing after it is a request.
    for rest in [
        "\r\n0\r\n\n",
        "\r\n0\r\nX: y\n\r\n",
        "\r\n0\r\nX: y\n\n",
        "\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let found = upload_in_chunks(&server, rest);
        assert!(matches!(found[..], [200 | 400]), "{rest:?}: {found:?}");
    }
    assert_alive(&server);
}
