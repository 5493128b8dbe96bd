//! Limits over many HTTP/2 connections: one client address cannot use everything, and others are served.

use std::net::Ipv4Addr;

use super::frames::{
    ACK, Client, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE, code_of,
    fields, get,
};
use crate::support::{BASE, TestServer, open_from, poll};

/// RFC 9113 §7
const REFUSED_STREAM: u32 = 7;
/// For one address, with the smallest configurable number of connections.
const REQUEST_BYTES_MAX: u64 = 16 << 20;
const OPERATOR: &str = "[operator]\nlisten = \"127.0.0.1:0\"\n[server]\nconnections_max = 100\n";

fn memory(server: &TestServer, of: &str) -> u64 {
    let scrape = server.scrape();
    scrape.get("chatfiles_client_memory_bytes", &[("of", of)])
}

fn refused(server: &TestServer) -> u64 {
    let labels = [("of", "http2_requests")];
    let scrape = server.scrape();
    scrape.get("chatfiles_client_memory_refusals_total", &labels)
}

/// A form of the Lanying API without its fields: its handler waits.
fn waiting_form() -> Vec<u8> {
    fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", "/file/oss/welovemaxim"),
        ("content-type", "multipart/form-data; boundary=x"),
        ("content-length", "1000000"),
    ])
}

#[test]
fn requests_per_address_are_bounded() {
    let server = TestServer::with(OPERATOR);
    let block = waiting_form();
    let mut clients: Vec<(Client, u32)> = Vec::new();
    let mut begun = 0;
    // More than the limit: each connection starts as many as it may.
    while begun < 2500 {
        let mut client = Client::open(server.address);
        let most = client.streams_max();
        client.send(SETTINGS, ACK, 0, &[]).unwrap();
        for number in 0..most {
            let stream = 2 * number + 1;
            client.send(HEADERS, END_HEADERS, stream, &block).unwrap();
        }
        begun += most;
        clients.push((client, most));
    }
    assert_eq!(clients[0].1, 100);
    let (last, most) = clients.last_mut().unwrap();
    assert!((16..100).contains(most), "{most} requests on the last one");
    let reset = last.until(|frame| frame.kind == RST_STREAM);
    assert_eq!(code_of(&reset.payload), REFUSED_STREAM);
    let held = memory(&server, "http2_requests");
    assert!(
        (REQUEST_BYTES_MAX * 9 / 10..=REQUEST_BYTES_MAX).contains(&held),
        "{held} bytes"
    );
    assert!(refused(&server) > 0);
    // HTTP/1 still works for this address, and HTTP/2 for others.
    assert_eq!(server.get("/healthz", &[]).status, 200);
    let mut other = open_from(server.address, Ipv4Addr::new(127, 0, 0, 2), None);
    let mut other = Client::over_socket(other.stream().try_clone().unwrap(), &[]);
    assert_eq!(other.streams_max(), 100);
    let health = get("/healthz", &[]);
    other
        .send(HEADERS, END_STREAM | END_HEADERS, 1, &health)
        .unwrap();
    // Status 200 from the static table of HPACK.
    let head = other.until(|frame| frame.kind == HEADERS);
    assert_eq!(head.payload[0], 0x88);
    drop((clients, other));
    poll("nothing is reserved", || {
        memory(&server, "http2_requests") == 0
    });
}

#[test]
fn unsent_answer_is_held_after_handler() {
    let server = TestServer::with(OPERATOR);
    let request = get(&format!("{BASE}/chatfiles/x"), &[]);
    // A window of one byte: hyper passes the whole short response on, and h2 keeps it.
    let mut client = Client::with_settings(server.address, &[(4, 1)]);
    for number in 0..10 {
        client
            .send(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &request)
            .unwrap();
    }
    for _ in 0..10 {
        client.until(|frame| frame.kind == HEADERS);
    }
    poll("handlers have ended, responses are held", || {
        memory(&server, "http2_requests") == 10 * 3 * 1024
    });
    drop(client);
    poll("nothing is reserved", || {
        memory(&server, "http2_requests") == 0
    });
}

#[test]
fn windows_shrink_with_many_connections() {
    let server = TestServer::with(OPERATOR);
    // The first window update of a connection extends the default of 65,535 bytes.
    let window = |client: &mut Client| {
        let health = get("/healthz", &[]);
        client
            .send(HEADERS, END_STREAM | END_HEADERS, 1, &health)
            .unwrap();
        let mut window = 65_535;
        loop {
            let frame = client.frame().unwrap();
            match frame.kind {
                HEADERS => return window,
                WINDOW_UPDATE => window += code_of(&frame.payload),
                _ => {}
            }
        }
    };
    let mut clients: Vec<Client> = (0..40).map(|_| Client::open(server.address)).collect();
    let windows: Vec<u32> = clients.iter_mut().map(window).collect();
    let count = |bytes: u32| windows.iter().filter(|window| **window == bytes).count();
    // 32 MiB per address.
    assert_eq!((count(1 << 20), count(65_535)), (34, 6), "{windows:?}");
    drop(clients);
    poll("nothing is reserved", || {
        memory(&server, "http2_windows") == 0
    });
}
