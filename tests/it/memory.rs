//! Peak resident memory of the real program under the most expensive requests.

mod http2;
mod sizing;

use std::sync::Barrier;

use crate::support::{
    BASE, Connection, Form, assert_error, files_below, head,
    process::{Process, id},
};

/// The limit for all tests here.
const PEAK_KB_MAX: u64 = 150 * 1024;
const UPLOADS: usize = 200;
const CLIENTS: usize = 4;
const FILE_BYTES: usize = 10 << 20;
const PIECE_BYTES: usize = 64 * 1024;

/// Two hundred of 10 MB at the same time.
#[test]
fn uploads_stay_under_150_mb() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    // One address may use half of the upload budget, which is less than these uploads need.
    let flags = ["--durability", "none", "--exempt", "127.0.0.1/32"];
    let server = Process::start(&store, &flags);
    let idle_kb = server.status_kb("VmHWM");
    let bytes: Vec<u8> = (0..FILE_BYTES).map(|at| (at / 251) as u8).collect();
    let form = Form::new().file("f.bin", "application/octet-stream", &bytes);
    let (content_type, body) = (form.content_type(), form.bytes());
    let authorization = format!("Bearer {}", server.token());
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", &content_type),
    ];
    let head = head(
        "POST",
        &format!("{BASE}/chatfiles"),
        &headers,
        Some(body.len()),
    );
    let halfway = Barrier::new(CLIENTS);
    let half = body.len() / 2 / PIECE_BYTES;
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (server, body, head, halfway) = (&server, &body, &head, &halfway);
            scope.spawn(move || {
                let mut connections: Vec<Connection> = (0..UPLOADS / CLIENTS)
                    .map(|_| Connection::open(server.address))
                    .collect();
                for connection in &mut connections {
                    connection.send(head).unwrap();
                }
                // Piece by piece, so that all uploads are in progress all the time.
                for (number, piece) in body.chunks(PIECE_BYTES).enumerate() {
                    if number == half {
                        halfway.wait();
                        if client == 0 {
                            let begun = files_below(&server.store.join("tmp")).len();
                            assert_eq!(begun, UPLOADS, "are in progress");
                        }
                        halfway.wait();
                    }
                    for connection in &mut connections {
                        connection.send(piece).unwrap();
                    }
                }
                for connection in &mut connections {
                    id(&connection.answer("POST").unwrap());
                }
            });
        }
    });
    let peak_kb = server.status_kb("VmHWM");
    println!("peak of resident memory: {peak_kb} kB, idle {idle_kb} kB");
    assert!(peak_kb < PEAK_KB_MAX, "{peak_kb} kB");
    assert_eq!(files_below(&store.join("objects")).len(), UPLOADS);
}

#[test]
fn bombs_are_refused_by_header() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &["--durability", "none"]);
    for (name, content_type) in [("bomb.png", "image/png"), ("bomb.jpg", "image/jpeg")] {
        let path = format!("{}/tests/data/images/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut bytes = std::fs::read(path).unwrap();
        // More than 10 KB; otherwise the file would be its own thumbnail.
        bytes.resize(11 * 1024, 0);
        let form = Form::new().file(name, content_type, &bytes);
        let uploaded = server.request(
            "POST",
            &format!("{BASE}/chatfiles"),
            &[("Content-Type", &form.content_type())],
            &form.bytes(),
        );
        let id = id(&uploaded);
        let refused = server.download(&id, &[("thumbnail", "true")]);
        let json = assert_error(&refused, 404, "entity_not_found");
        assert_eq!(json["error_description"], "no thumbnail for this file");
    }
    let peak_kb = server.status_kb("VmHWM");
    println!("peak of resident memory: {peak_kb} kB");
    assert!(peak_kb < PEAK_KB_MAX, "{peak_kb} kB");
}

#[test]
fn silent_connections_cost_little() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &[]);
    let before_kb = server.status_kb("VmRSS");
    // A different address than below, because one address may have at most a thousand connections.
    let crowd = std::net::Ipv4Addr::new(127, 0, 0, 2);
    let mut connections: Vec<Connection> = (0..1000)
        .map(|_| crate::support::open_from(server.address, crowd, None))
        .collect();
    // The backlog is served in order: once a later connection is answered, all of these are accepted.
    assert_eq!(server.request("GET", "/healthz", &[], b"").status, 200);
    let silent_kb = server.status_kb("VmHWM").saturating_sub(before_kb);
    println!("1,000 connections that never spoke: {silent_kb} kB");
    assert!(silent_kb < 6 * 1024, "{silent_kb} kB");
    for connection in connections.iter_mut().step_by(2) {
        connection
            .send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Half: ")
            .unwrap();
    }
    assert_eq!(server.request("GET", "/healthz", &[], b"").status, 200);
    let grown_kb = server.status_kb("VmHWM").saturating_sub(before_kb);
    println!("1,000 connections: {grown_kb} kB");
    assert!(grown_kb < 30 * 1024, "{grown_kb} kB");
    drop(connections);
}
