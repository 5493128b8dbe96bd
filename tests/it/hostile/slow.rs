//! Crowds of silent clients and of clients that send or read one byte at a time: an ordinary client still gets its
//! responses. No test asserts on time; a test ends because no request waits for the crowd.

use std::io::Read;

use super::{assert_alive, upload_head};
use crate::support::{BASE, Connection, Form, TestServer, head};

const CROWD: usize = 100;

#[test]
fn slow_clients_do_not_delay_others() {
    const BYTES: usize = 9_000_000;
    let server = TestServer::start();
    let id = server.store_file("f", "video/mp4", &vec![7; BYTES]);
    let form = Form::new().file("f", "text/plain", &vec![b'x'; 300_000]);
    let authorization = format!("Bearer {}", server.token("mallory"));
    let download = head(
        "GET",
        &format!("{BASE}/chatfiles/{id}"),
        &[("Authorization", &authorization)],
        None,
    );
    let length = form.bytes().len().to_string();
    let upload = upload_head(&server, &form, &[("Content-Length", &length)]);

    let crowd = |first: &[u8]| -> Vec<Connection> {
        let begin = |_| {
            let mut connection = server.connect();
            connection.send(first).unwrap();
            connection
        };
        (0..CROWD).map(begin).collect()
    };
    let mut silent = crowd(b"");
    let mut in_heads = crowd(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: ");
    let mut in_bodies = crowd(&[&upload[..], &form.bytes()[..1000]].concat());
    let mut readers = crowd(&download);
    // Each response has started and waits for its reader.
    for reader in &mut readers {
        reader.stream().read_exact(&mut [0; 1]).unwrap();
    }

    for round in 0..20_usize {
        // One byte each, and an ordinary request in between.
        for connection in in_heads.iter_mut().chain(&mut in_bodies) {
            connection.send(b"x").unwrap();
        }
        for reader in &mut readers {
            reader.stream().read_exact(&mut [0; 1]).unwrap();
        }
        let stored = server.store_file("g", "text/plain", &vec![b'y'; 1000 + round]);
        assert_eq!(server.download(&stored, &[]).body.len(), 1000 + round);
        assert_eq!(server.download(&id, &[]).body.len(), BYTES);
        let last = server.download(&id, &[("Range", "bytes=-5")]);
        assert_eq!((last.status, &last.body[..]), (206, &[7; 5][..]));
        assert_alive(&server);
    }

    // The crowd is not harmed: a client that continues is served.
    let mut speaks = silent.swap_remove(CROWD / 2);
    assert_eq!(speaks.request("GET", "/healthz", &[], b"").status, 200);
    let mut head = in_heads.swap_remove(CROWD / 2);
    head.send(b"\r\n\r\n").unwrap();
    assert_eq!(head.answer("GET").unwrap().status, 200);
    let mut reader = readers.swap_remove(CROWD / 2);
    let mut taken = 0;
    while taken < BYTES / 2 {
        taken += reader.stream().read(&mut [0; 65_536]).unwrap();
    }
}
