//! PROXY headers through the socket: which peers are trusted, and how others are treated.
//! `src/server/proxy_protocol/tests.rs` tests every invalid field.

use std::io::{ErrorKind, Read};

use crate::support::{
    BASE, Connection, TestServer, certificates::Certificate, head, open_from, poll,
};

const TRUSTED: &str = "[server]\nlisten = [\"127.0.0.1:0\", \"proxy:127.0.0.1:0\"]\n\
    proxy_protocol_from = [\"127.0.0.1\"]\nheader_timeout_seconds = 2\n\
    [limits]\ncalls_per_second = 1\ncalls_burst = 2\n";

fn behind(server: &TestServer) -> std::net::SocketAddr {
    server.endpoints[1].address().unwrap()
}

/// Opens a connection that starts with `first` and makes one request: the status, or `None` if it is closed.
fn call(server: &TestServer, first: &[u8], headers: &[(&str, &str)]) -> Option<u16> {
    let token = format!("Bearer {}", server.token("alice"));
    let path = format!("{BASE}/chatfiles/00000000-0000-7000-8000-000000000000");
    let mut all = vec![("Authorization", token.as_str())];
    all.extend_from_slice(headers);
    let mut connection = Connection::open(behind(server));
    let bytes = [first, &head("GET", &path, &all, None)].concat();
    // If the server closes at once, the write may fail.
    let _ = connection.send(&bytes);
    connection.answer("GET").ok().map(|answer| answer.status)
}

fn v2(source: [u8; 4]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend(source);
    bytes.extend([10, 0, 0, 1, 0x30, 0x39, 0, 80]);
    bytes
}

#[test]
fn proxied_clients_have_own_rates() {
    let server = TestServer::with(TRUSTED);
    let text = b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n";
    assert_eq!(call(&server, text, &[]), Some(404));
    // The same client in another notation.
    assert_eq!(call(&server, &v2([192, 0, 2, 1]), &[]), Some(404));
    assert_eq!(call(&server, text, &[]), Some(503));
    // The client is not a trusted proxy, so its own header is ignored.
    assert_eq!(
        call(&server, text, &[("X-Forwarded-For", "192.0.2.9")]),
        Some(503)
    );
    assert_eq!(call(&server, &v2([192, 0, 2, 2]), &[]), Some(404));
    // The proxy itself, as an ordinary client.
    assert_eq!(call(&server, b"PROXY UNKNOWN\r\n", &[]), Some(404));
}

#[test]
fn bad_header_closes_without_answer() {
    let server = TestServer::with(TRUSTED);
    for first in [
        &b""[..],
        b"PROXY TCP4 192.0.2.256 10.0.0.1 12345 80\r\n",
        b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c012345678901",
        b"\x16\x03\x01",
    ] {
        assert_eq!(call(&server, first, &[]), None, "{first:?}");
    }
    // A header that does not end in time.
    let mut slow = Connection::open(behind(&server));
    slow.send(b"PROXY TCP4 192.0").unwrap();
    assert!(slow.rest().is_empty());
    assert_eq!(server.request("GET", "/healthz", &[], b"").status, 200);
}

#[test]
fn untrusted_peer_cannot_name_client() {
    let server = TestServer::with(TRUSTED);
    let mut other = open_from(behind(&server), "127.0.0.2".parse().unwrap(), None);
    let _ = other.send(
        b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    );
    assert!(other.rest().is_empty());
    // On a listener without PROXY protocol, it is invalid HTTP.
    let mut plain = server.connect();
    plain
        .send(b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n\r\n")
        .unwrap();
    assert!(plain.rest().starts_with(b"HTTP/1.1 400"));
}

#[test]
fn reads_header_byte_by_byte() {
    let server = TestServer::with(TRUSTED);
    for first in [
        b"PROXY TCP6 2001:db8::7 ::1 12345 80\r\n".to_vec(),
        v2([192, 0, 2, 3]),
    ] {
        let mut connection = Connection::open(behind(&server));
        for byte in first {
            connection.send(&[byte]).unwrap();
        }
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" {
            connection.send(&[*byte]).unwrap();
        }
        assert_eq!(connection.answer("GET").unwrap().status, 200);
        assert_eq!(connection.request("GET", "/healthz", &[], b"").status, 200);
    }
}

/// Whether the server closes a connection on which nothing more is sent.
fn is_closed(mut connection: Connection) -> bool {
    // The test's timeout is shorter than the idle timeout, which would also close the connection.
    match connection.stream().read(&mut [0; 64]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn silent_stranger_is_closed_at_once() {
    // A proxy may be silent for the idle timeout, and its connections are not counted.
    let server = TestServer::with(TRUSTED);
    let stranger = open_from(behind(&server), "127.0.0.2".parse().unwrap(), None);
    assert!(is_closed(stranger));
}

#[test]
fn silent_connections_count_for_their_client() {
    for listener in ["proxy:127.0.0.1:0", "proxy:tls:127.0.0.1:0"] {
        let directory = tempfile::tempdir().unwrap();
        let shown = Certificate::write(directory.path(), "shown", &["files.test"]);
        let tls = shown.toml();
        let server = TestServer::with(&format!(
            "[server]\nlisten = [\"127.0.0.1:0\", \"{listener}\"]\n\
             proxy_protocol_from = [\"127.0.0.1\"]\nconnections_per_address_max = 2\nheader_timeout_seconds = 120\n\
             [tls]\ncertificates = [{tls}]\n"
        ));
        let named = |client: &str| {
            let mut connection = Connection::open(behind(&server));
            let header = format!("PROXY TCP4 {client} 10.0.0.1 12345 80\r\n");
            connection.send(header.as_bytes()).unwrap();
            connection
        };
        // Closed without a word from the client: two others use its permits.
        let mut three = [(); 3].map(|()| named("192.0.2.1"));
        for connection in &mut three {
            connection.stream().set_nonblocking(true).unwrap();
        }
        poll("one of three is closed", || {
            let closed = three.iter_mut().filter_map(|connection| {
                let read = connection.stream().read(&mut [0; 64]);
                read.ok().filter(|read| *read == 0)
            });
            closed.count() == 1
        });
        if !listener.contains("tls") {
            let other = named("192.0.2.2").request("GET", "/healthz", &[], b"");
            assert_eq!(other.status, 200);
        }
    }
}

#[test]
fn proxied_client_may_be_slow() {
    let server = TestServer::with(TRUSTED);
    let mut early = Connection::open(behind(&server));
    early
        .send(b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n")
        .unwrap();
    // When this one is closed, the header timeout has passed for the other one too, which has sent nothing.
    let mut slow = Connection::open(behind(&server));
    slow.send(b"PROXY TCP4 192.0").unwrap();
    assert!(slow.rest().is_empty());
    assert_eq!(early.request("GET", "/healthz", &[], b"").status, 200);
}
