//! The memory that HTTP/2 clients without a token can make the program hold.

use std::net::SocketAddr;

use crate::{
    edge::frames::{Client, END_HEADERS, END_STREAM, HEADERS, fields, get},
    support::{BASE, process::Process},
};

const CONNECTIONS: usize = 100;
const STREAMS: u32 = 100;

/// Connections that each begin all their requests and give the answers no window: their bodies cannot leave.
fn begin_requests(address: SocketAddr, flags: u8, block: &[u8]) -> Vec<Client> {
    let begin = |_| {
        let mut client = Client::with_settings(address, &[(4, 0)]);
        for number in 0..STREAMS {
            let _ = client.send(HEADERS, flags, 2 * number + 1, block);
        }
        client
    };
    (0..CONNECTIONS).map(begin).collect()
}

/// Waits until every request has the head of its answer.
fn read_heads(clients: &mut [Client]) {
    for client in clients {
        for _ in 0..STREAMS {
            client.until(|frame| frame.kind == HEADERS);
        }
    }
}

fn grown_kb(server: &Process, before_kb: u64) -> u64 {
    let grown_kb = server.status_kb("VmHWM").saturating_sub(before_kb);
    println!("{CONNECTIONS} connections of {STREAMS} requests: {grown_kb} kB");
    grown_kb
}

#[test]
fn unread_http2_answers_cost_little() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(&directory.path().join("data"), &[]);
    let before_kb = server.status_kb("VmRSS");
    let refused = get(&format!("{BASE}/chatfiles/x"), &[]);
    let mut clients = begin_requests(server.address, END_STREAM | END_HEADERS, &refused);
    read_heads(&mut clients);
    // 116 MB when each of them kept the place of its handler's future.
    assert!(grown_kb(&server, before_kb) < 45 * 1024);
}

#[test]
fn request_heads_are_freed_before_draining() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(&directory.path().join("data"), &[]);
    let before_kb = server.status_kb("VmRSS");
    let (long, path) = ("v".repeat(3900), format!("{BASE}/chatfiles"));
    let block = fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", &path),
        // A body that is short enough to be drained, and does not come.
        ("content-length", "60000"),
        ("x-a", &long),
        ("x-b", &long),
        ("x-c", &long),
    ]);
    let mut clients = begin_requests(server.address, END_HEADERS, &block);
    read_heads(&mut clients);
    // 299 MB when the head lived as long as the drain.
    assert!(grown_kb(&server, before_kb) < 190 * 1024);
}
