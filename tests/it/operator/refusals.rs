//! Connections that end before HTTP, counted by reason.

use super::OPERATOR;
use crate::support::{
    Connection, TestServer,
    certificates::{Certificate, configuration, connect, healthy},
    open_from, poll,
};

/// Refusals so far: by address, by PROXY header, by handshake.
fn refused(server: &TestServer) -> [u64; 3] {
    let scrape = server.scrape();
    ["address", "proxy", "tls"]
        .map(|reason| scrape.get("chatfiles_connections_refused_total", &[("reason", reason)]))
}

/// Checks that a connection that sends these bytes is closed without a response.
#[track_caller]
fn is_closed(mut connection: Connection, said: &[u8]) {
    // If the server closes at once, the write may fail.
    let _ = connection.send(said);
    let answer = connection.rest();
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
}

#[test]
fn counts_connections_over_the_limit() {
    let server = TestServer::with(&format!(
        "{OPERATOR}[server]\nlisten = [\"127.0.0.1:0\", \"proxy:127.0.0.1:0\"]\n\
         proxy_protocol_from = [\"127.0.0.1\"]\nconnections_per_address_max = 2\n"
    ));
    let mut kept = [server.connect(), server.connect()];
    for one in &mut kept {
        assert_eq!(one.request("GET", "/healthz", &[], b"").status, 200);
    }
    for times in 1..=3 {
        is_closed(server.connect(), b"");
        assert_eq!(refused(&server), [times, 0, 0]);
    }
    // Behind a proxy, the address in the PROXY header counts.
    let behind = || Connection::open(server.endpoints[1].address().unwrap());
    let named = |client: &str| format!("PROXY TCP4 {client} 10.0.0.1 1234 80\r\n");
    let request = named("127.0.0.1") + "GET / HTTP/1.1\r\n\r\n";
    is_closed(behind(), request.as_bytes());
    assert_eq!(refused(&server), [4, 0, 0]);
    let mut other = behind();
    other.send(named("192.0.2.1").as_bytes()).unwrap();
    assert_eq!(other.request("GET", "/healthz", &[], b"").status, 200);
    assert_eq!(refused(&server), [4, 0, 0]);
}

#[test]
fn counts_bad_proxy_headers() {
    let server = TestServer::with(&format!(
        "{OPERATOR}[server]\nlisten = [\"127.0.0.1:0\", \"proxy:127.0.0.1:0\"]\n\
         proxy_protocol_from = [\"127.0.0.1\"]\nheader_timeout_seconds = 1\n"
    ));
    let address = server.endpoints[1].address().unwrap();
    let good = b"PROXY TCP4 192.0.2.1 10.0.0.1 1234 80\r\n";
    // No header, an invalid address, a valid header from an untrusted peer, and one that does not end in time.
    is_closed(Connection::open(address), b"GET / HTTP/1.1\r\n\r\n");
    is_closed(
        Connection::open(address),
        b"PROXY TCP4 192.0.2.256 10.0.0.1 1 2\r\n",
    );
    is_closed(open_from(address, "127.0.0.2".parse().unwrap(), None), good);
    is_closed(Connection::open(address), &good[..20]);
    // A header that its sender aborts.
    Connection::open(address).send(&good[..20]).unwrap();
    poll("each is counted", || refused(&server) == [0, 5, 0]);
    // A probe that opens and closes is not a refusal, and neither is a served client.
    drop(Connection::open(address));
    let mut served = Connection::open(address);
    served.send(good).unwrap();
    assert_eq!(served.request("GET", "/healthz", &[], b"").status, 200);
    // Invalid HTTP after a valid header does not count here.
    let mut bad = Connection::open(address);
    bad.send(&[&good[..], b"\0\r\n\r\n"].concat()).unwrap();
    assert!(bad.rest().starts_with(b"HTTP/1.1 400"));
    assert_eq!(refused(&server), [0, 5, 0]);
}

#[test]
fn counts_failed_handshakes() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str| Certificate::write(directory.path(), name, &["files.test"]);
    let (shown, other) = (write("shown"), write("other"));
    let server = TestServer::with(&configuration(&[&shown], OPERATOR));
    let address = server.endpoints[1].address().unwrap();
    // Not TLS; an untrusted certificate; no common protocol; a client that falls silent.
    is_closed(Connection::open(address), b"GET / HTTP/1.1\r\n\r\n");
    assert!(connect(address, "files.test", &other, &[]).is_err());
    assert!(connect(address, "files.test", &shown, &["x"]).is_err());
    is_closed(Connection::open(address), &[0x16, 3, 1]);
    poll("each is counted", || refused(&server) == [0, 0, 4]);
    let mut served = connect(address, "files.test", &shown, &[]).unwrap();
    assert!(healthy(&mut served));
    // Invalid HTTP without TLS does not count here.
    let mut plain = server.connect();
    plain.send(b"\0\r\n\r\n").unwrap();
    assert!(plain.rest().starts_with(b"HTTP/1.1 400"));
    assert_eq!(refused(&server), [0, 0, 4]);
}

#[test]
fn counts_cut_connections_by_reason() {
    let server = TestServer::with(&format!(
        "{OPERATOR}[server]\nheader_timeout_seconds = 1\nidle_timeout_seconds = 2\n"
    ));
    let cuts = || {
        let scrape = server.scrape();
        ["header", "idle", "write_stall"]
            .map(|reason| scrape.get("chatfiles_connections_cut_total", &[("reason", reason)]))
    };
    assert_eq!(cuts(), [0, 0, 0]);
    is_closed(server.connect(), b"GET /healthz HTT");
    assert_eq!(cuts(), [1, 0, 0]);
    // Idle before the first request, and after one.
    is_closed(server.connect(), b"");
    assert_eq!(cuts(), [1, 1, 0]);
    let mut kept = server.connect();
    assert_eq!(kept.request("GET", "/healthz", &[], b"").status, 200);
    assert!(kept.rest().is_empty());
    poll("it is counted", || cuts() == [1, 2, 0]);
}
