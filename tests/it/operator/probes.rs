//! Liveness and readiness with reasons, and the operator listener until the server's end.

use std::{io::Read, net::TcpStream};

use super::OPERATOR;
use crate::support::{
    BASE, Connection, Exposition, TestServer, head, poll,
    process::{Process, run},
    strace::Strace,
};

#[test]
fn disk_with_room_is_ready() {
    let server = TestServer::with(OPERATOR);
    let ready = server.operator("GET", "/readyz");
    assert_eq!((ready.status, ready.text().as_str()), (200, "ready\n"));
    let alive = server.operator("GET", "/livez");
    assert_eq!((alive.status, alive.text().as_str()), (200, "alive\n"));
}

#[test]
fn disk_below_floor_is_not_ready() {
    const FLOOR: u64 = 1 << 60;
    let toml = format!("{OPERATOR}[store]\nfree_space_min_bytes = {FLOOR}\n");
    let server = TestServer::with(&toml);
    let answer = server.operator("GET", "/readyz");
    assert_eq!(answer.status, 503);
    let scrape = server.scrape();
    let free = scrape.get("chatfiles_disk_free_bytes", &[]);
    assert!(free > 0 && free < FLOOR);
    assert_eq!(scrape.get("chatfiles_disk_free_min_bytes", &[]), FLOOR);
    let text = answer.text();
    assert!(text.starts_with("disk: "), "{text}");
    assert!(text.ends_with(&format!("the floor is {FLOOR}\n")), "{text}");
    // The server is alive and still serves files.
    assert_eq!(server.operator("GET", "/livez").status, 200);
    assert_eq!(server.get("/healthz", &[]).status, 200);
}

#[test]
fn failing_disk_is_not_ready() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::in_directory(directory.path(), OPERATOR);
    assert_eq!(server.operator("GET", "/readyz").status, 200);
    std::fs::rename(&server.store, directory.path().join("away")).unwrap();
    let answer = server.operator("GET", "/readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.text().starts_with("disk: "), "{}", answer.text());
    let scrape = server.scrape();
    assert!(!scrape.samples.contains_key("chatfiles_disk_free_bytes"));
    assert!(scrape.families.contains_key("chatfiles_disk_free_bytes"));
    std::fs::rename(directory.path().join("away"), &server.store).unwrap();
    assert_eq!(server.operator("GET", "/readyz").status, 200);
}

/// Further probes do not wait for it.
#[test]
fn hanging_disk_is_probed_once() {
    const PROBES: usize = 4;
    // No other test uses this loopback address.
    let address = "127.77.0.1:9090";
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &["--operator-listen", address]);
    let address = address.parse().unwrap();
    let ask = |path: &str| Connection::open(address).request("GET", path, &[], b"");
    assert_eq!(ask("/readyz").status, 200);
    let strace = Strace::attach(&server, "statfs:delay_enter=60000000");
    for _ in 0..PROBES {
        let answer = ask("/readyz");
        assert_eq!(answer.status, 503);
        assert!(answer.text().starts_with("disk: "), "{}", answer.text());
    }
    assert_eq!(ask("/livez").status, 200);
    let body = String::from_utf8(ask("/metrics").body).unwrap();
    let scrape = Exposition::parse(&body).unwrap();
    assert!(!scrape.samples.contains_key("chatfiles_disk_free_bytes"));
    let log = strace.detach();
    assert_eq!(log.matches("statfs(").count(), 1, "{log}");
    poll("the disk answers again", || ask("/readyz").status == 200);
}

#[test]
fn stopping_server_reports_draining() {
    let server = TestServer::with(OPERATOR);
    // More than the sockets of both sides hold.
    let large = vec![7; 10 << 20];
    let id = server.store_file("large.bin", "application/octet-stream", &large);
    let mut download = crate::support::open_from(
        server.address,
        std::net::Ipv4Addr::LOCALHOST,
        Some(16 << 10),
    );
    let token = format!("Bearer {}", server.token("alice"));
    let path = format!("{BASE}/chatfiles/{id}");
    let request = head("GET", &path, &[("Authorization", &token)], None);
    download.send(&request).unwrap();
    download.stream().read_exact(&mut [0; 15]).unwrap();
    let mut kept = Connection::open(server.operator.unwrap());
    assert_eq!(kept.request("GET", "/readyz", &[], b"").status, 200);

    server.shutdown().trigger();
    poll("new clients are refused", || {
        TcpStream::connect(server.address).is_err()
    });
    for _ in 0..2 {
        let answer = kept.request("GET", "/readyz", &[], b"");
        assert_eq!(answer.status, 503);
        assert!(answer.text().starts_with("draining: "), "{}", answer.text());
        assert_eq!(server.operator("GET", "/livez").status, 200);
    }
    let scrape = server.scrape();
    assert_eq!(scrape.get("chatfiles_connections_open", &[]), 1);
    assert!(!server.has_ended());

    assert!(download.rest().len() > large.len());
    poll("the server ends", || server.has_ended());
    assert!(kept.rest().is_empty(), "closed without a response");
    assert!(TcpStream::connect(server.operator.unwrap()).is_err());
}

#[test]
fn flag_and_variable_set_printed_address() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &["--operator-listen", "127.0.0.1:0"]);
    let mut lines = server.welcome.lines();
    assert!(lines.next().unwrap().starts_with("listening on http://"));
    let line = lines.next().unwrap();
    let address = line
        .strip_prefix("metrics and probes on http://")
        .and_then(|rest| rest.strip_suffix(": /metrics /livez /readyz /log-level"))
        .unwrap_or_else(|| panic!("{line}"));
    let address = address.parse().unwrap();
    assert_ne!(address, server.address);
    let answer = Connection::open(address).request("GET", "/readyz", &[], b"");
    assert_eq!(answer.status, 200);
    let output = run(&["check-config", "--operator-listen", "127.0.0.1:9090"], "");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("127.0.0.1:9090, without authentication"),
        "{text}"
    );
}

#[test]
fn taken_address_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let output = crate::support::process::chatfiles(&[
        "--listen",
        "127.0.0.1:0",
        "--store-path",
        store.to_str().unwrap(),
    ])
    .env("CHATFILES_OPERATOR_LISTEN", &address)
    .output()
    .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    // Not 2: systemd would not restart it, but the other process may end.
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains(&address) && error.contains("in use"),
        "{error}"
    );
}
