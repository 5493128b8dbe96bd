//! One address opens as many connections as it can: others are still served.

use std::net::Ipv4Addr;

use crate::support::{Connection, TestServer, open_from, poll};

#[test]
fn connections_per_address_are_limited() {
    let server = TestServer::with("[server]\nconnections_per_address_max = 5\n");
    let mut crowd: Vec<Connection> = (0..20).map(|_| server.connect()).collect();
    // The first connections keep their permits; the kernel's queue decides which those are.
    let answered = crowd.iter_mut().filter_map(|one| {
        one.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
        one.answer("GET").ok()
    });
    assert_eq!(answered.count(), 5);
    let other = Ipv4Addr::new(127, 0, 0, 2);
    let answer = open_from(server.address, other, None).request("GET", "/healthz", &[], b"");
    assert_eq!(answer.status, 200);
    drop(crowd);
    poll("the permits are free again", || {
        let mut again = server.connect();
        let sent = again.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        sent.is_ok() && again.answer("GET").is_ok()
    });
}

#[test]
fn proxy_is_exempt() {
    let toml =
        "[server]\nconnections_per_address_max = 2\n[limits]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let server = TestServer::with(toml);
    let mut many: Vec<Connection> = (0..10).map(|_| server.connect()).collect();
    for one in &mut many {
        assert_eq!(one.request("GET", "/healthz", &[], b"").status, 200);
    }
}
