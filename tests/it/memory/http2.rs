//! Memory that HTTP/2 clients without a token can make the program use.

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

/// Opens connections that start as many requests as allowed, with this response window; returns them with their number
/// of requests.
fn begin_requests(address: SocketAddr, window: u32, flags: u8, block: &[u8]) -> Vec<(Client, u32)> {
    let begin = |_| {
        let mut client = Client::with_settings(address, &[(4, window)]);
        let most = client.streams_max();
        for number in 0..most {
            // A closed connection accepts no more.
            if client.send(HEADERS, flags, 2 * number + 1, block).is_err() {
                break;
            }
        }
        (client, most)
    };
    (0..CONNECTIONS).map(begin).collect()
}

/// Waits until every request has its response head, was refused, or lost its connection.
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
    // 100 MB when each stream kept the memory of its handler's future.
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
        // A body short enough to be drained that never arrives.
        ("content-length", "60000"),
        ("x-a", &long),
        ("x-b", &long),
        ("x-c", &long),
    ]);
    let mut clients = begin_requests(server.address, 0, END_HEADERS, &block);
    read_heads(&mut clients);
    // 299 MB when the head was kept during the drain. Concurrent handling is limited as well: 80 MiB per address.
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
    // A window of one byte: one chunk is being sent, and the next one is ready.
    let mut clients = begin_requests(server.address, 1, END_STREAM | END_HEADERS, &request);
    read_heads(&mut clients);
    // 690 MB without a limit. The limit is 64 MiB per address, plus 4 KiB per stream.
    let grown_kb = grown_kb(&server, before_kb);
    assert!(grown_kb < 150 * 1024, "{grown_kb} kB");
    // A client that reads gets everything, from the same address too.
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
    // The first byte may have arrived with the heads.
    assert!(received.len() >= bytes.len() - 1 && bytes.ends_with(&received));
}

#[test]
fn header_tables_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(&directory.path().join("data"), &[]);
    let before_kb = server.status_kb("VmRSS");
    // A table entry that keeps the buffer of its frame: a path of one byte with indexing (RFC 7541 §6.2.1).
    let mut block = vec![0x82, 0x86, 0x41, 1, b'x', 0x44, 1, b'/'];
    block.extend(fields(&[("x-a", &"v".repeat(15_900))]));
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut client = Client::open(server.address);
            for number in 0..110 {
                let flags = END_STREAM | END_HEADERS;
                // A closed connection accepts no more.
                if client.send(HEADERS, flags, 2 * number + 1, &block).is_err() {
                    break;
                }
            }
            client
        })
        .collect();
    server.request("GET", "/healthz", &[], b"");
    // 180 MB without a limit. The limit is 64 MiB per address while no other needs it, and 64 KiB per connection.
    let grown_kb = grown_kb(&server, before_kb);
    assert!(grown_kb < 110 * 1024, "{grown_kb} kB");
    drop(clients);
    // A client with ordinary headers has no limit on its number of requests.
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
