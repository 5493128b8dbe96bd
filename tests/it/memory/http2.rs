//! The memory that HTTP/2 clients without a token can make the program hold.

use std::net::SocketAddr;

use crate::{
    edge::frames::{
        Client, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, WINDOW_UPDATE, fields, get,
    },
    support::{
        BASE, Random,
        process::{Process, id},
    },
};

const CONNECTIONS: usize = 100;

/// Connections that each begin as many requests as they may, and give the answers so little window; with the number of
/// requests of each.
fn begin_requests(address: SocketAddr, window: u32, flags: u8, block: &[u8]) -> Vec<(Client, u32)> {
    let begin = |_| {
        let mut client = Client::with_settings(address, &[(4, window)]);
        let most = client.streams_max();
        for number in 0..most {
            // A connection that is cut takes no more.
            if client.send(HEADERS, flags, 2 * number + 1, block).is_err() {
                break;
            }
        }
        (client, most)
    };
    (0..CONNECTIONS).map(begin).collect()
}

/// Waits until every request has the head of its answer, or was refused, or its connection was cut.
fn read_heads(clients: &mut [(Client, u32)]) {
    for (client, requests) in clients {
        let mut left = *requests;
        while left > 0
            && let Ok(frame) = client.frame()
        {
            left -= u32::from([HEADERS, RST_STREAM].contains(&frame.kind));
        }
    }
}

fn grown_kb(server: &Process, before_kb: u64) -> u64 {
    let grown_kb = server.status_kb("VmHWM").saturating_sub(before_kb);
    println!("{CONNECTIONS} connections full of requests: {grown_kb} kB");
    grown_kb
}

#[test]
fn unread_http2_answers_cost_little() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(&directory.path().join("data"), &[]);
    let before_kb = server.status_kb("VmRSS");
    let refused = get(&format!("{BASE}/chatfiles/x"), &[]);
    let mut clients = begin_requests(server.address, 0, END_STREAM | END_HEADERS, &refused);
    read_heads(&mut clients);
    // 100 MB when each of them kept the place of its handler's future.
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
    let mut clients = begin_requests(server.address, 0, END_HEADERS, &block);
    read_heads(&mut clients);
    // 299 MB when the head lived as long as the drain. What is handled at a time is bounded too: 80 MiB for one address.
    assert!(grown_kb(&server, before_kb) < 120 * 1024);
}

#[test]
fn queued_file_bytes_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(&directory.path().join("data"), &[]);
    let bytes = Random::new().bytes(1_000_000);
    let path = format!(
        "{BASE}/chatfiles/{}",
        id(&server.try_upload(&bytes).unwrap())
    );
    let before_kb = server.status_kb("VmRSS");
    let token = format!("Bearer {}", server.token());
    let request = get(&path, &[("authorization", &token)]);
    // One byte of window: a chunk is on its way, and the next one is in hand.
    let mut clients = begin_requests(server.address, 1, END_STREAM | END_HEADERS, &request);
    read_heads(&mut clients);
    // 690 MB without a bound. It is 64 MiB for one address, and 4 KiB for each of the others.
    let grown_kb = grown_kb(&server, before_kb);
    assert!(grown_kb < 150 * 1024, "{grown_kb} kB");
    // Whoever takes what is sent gets all of it, from the same address too.
    let window = (2u32 << 20).to_be_bytes();
    let (reader, _) = &mut clients[99];
    for stream in [0, 1] {
        reader.send(WINDOW_UPDATE, 0, stream, &window).unwrap();
    }
    let mut received = Vec::new();
    loop {
        let data = reader.until(|frame| frame.kind == DATA && frame.stream == 1);
        received.extend(data.payload);
        if data.flags & END_STREAM != 0 {
            break;
        }
    }
    // The first byte may have come with the heads.
    assert!(received.len() >= bytes.len() - 1 && bytes.ends_with(&received));
}

#[test]
fn header_tables_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(&directory.path().join("data"), &[]);
    let before_kb = server.status_kb("VmRSS");
    // An entry of the table that keeps the buffer of its frame: a path of one byte, to be remembered (RFC 7541 §6.2.1).
    let mut block = vec![0x82, 0x86, 0x41, 1, b'x', 0x44, 1, b'/'];
    block.extend(fields(&[("x-a", &"v".repeat(15_900))]));
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut client = Client::open(server.address);
            for number in 0..110 {
                let flags = END_STREAM | END_HEADERS;
                // A connection that is cut takes no more.
                if client.send(HEADERS, flags, 2 * number + 1, &block).is_err() {
                    break;
                }
            }
            client
        })
        .collect();
    server.request("GET", "/healthz", &[], b"");
    // 180 MB without a bound. It is 64 MiB for one address while nobody else wants it, and 64 KiB for each connection.
    let grown_kb = grown_kb(&server, before_kb);
    assert!(grown_kb < 110 * 1024, "{grown_kb} kB");
    drop(clients);
    // Who sends what is usual has as many requests as it wants.
    let mut client = Client::open(server.address);
    let mut usual = fields(&[
        (":method", "HEAD"),
        (":scheme", "http"),
        (":path", "/healthz"),
    ]);
    usual.extend(fields(&[
        ("user-agent", "a test"),
        ("x-a", &"v".repeat(100)),
    ]));
    for number in 0..2000 {
        let stream = 2 * number + 1;
        client
            .send(HEADERS, END_STREAM | END_HEADERS, stream, &usual)
            .unwrap();
        client.until(|frame| frame.kind == HEADERS && frame.stream == stream);
    }
}
