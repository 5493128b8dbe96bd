//! Clients that lie, stall, flood and send invalid requests: each gets the right error, and nothing is left behind.

mod chunks;
mod connections;
mod forms;
mod per_address;
mod slow;
mod smuggling;

use std::{io::Write, net::Shutdown};

use chatfiles::time::Clock;

use crate::support::{
    BASE, Connection, Form, Random, TestServer, assert_error, chunk, chunked, head, process::poll,
};

/// The head of an upload, with these headers and a token.
fn upload_head(server: &TestServer, form: &Form, headers: &[(&str, &str)]) -> Vec<u8> {
    server.upload_head("mallory", form, headers)
}

/// Sends a body in `pieces` pieces, 20 ms apart, until the server stops reading.
fn trickle(connection: &mut Connection, body: &[u8], pieces: usize) {
    for piece in body.chunks(body.len().div_ceil(pieces)) {
        std::thread::sleep(std::time::Duration::from_millis(20));
        if connection.send(piece).is_err() {
            break;
        }
    }
}

#[track_caller]
fn assert_nothing_stays(server: &TestServer) {
    poll("tmp/ to be empty", || server.files_in("tmp").is_empty());
    assert!(server.files_in("objects").is_empty());
}

/// Checks that the server responds on a new connection.
#[track_caller]
fn assert_alive(server: &TestServer) {
    assert_eq!(server.get("/healthz", &[]).status, 200);
}

#[test]
fn accepts_limit_not_one_byte_more() {
    const LIMIT: usize = 10 << 20;
    let server = TestServer::start();
    let over = Form::new().file("f", "text/plain", &vec![b'x'; LIMIT + 1]);
    for length in ["announced", "chunked"] {
        let mut connection = server.connect();
        let body = over.bytes();
        let (headers, body) = match length {
            "announced" => (("Content-Length", body.len().to_string()), body),
            _ => (
                ("Transfer-Encoding", "chunked".to_owned()),
                chunked(&body, 64 << 10),
            ),
        };
        let head = upload_head(&server, &over, &[(headers.0, &headers.1)]);
        connection.send(&head).unwrap();
        // The server may close early; the response is read anyway.
        let _ = connection.send(&body);
        let answer = connection.answer("POST").unwrap();
        assert_error(&answer, 413, "file exceeding maximum limit");
        assert_nothing_stays(&server);
    }
    let exact = Form::new().file("f", "text/plain", &vec![b'x'; LIMIT]);
    assert_eq!(server.upload(&exact, &[]).status, 200);
}

#[test]
fn overlong_content_length_is_refused() {
    let server = TestServer::start();
    let form = Form::new().file("f", "text/plain", &vec![b'x'; 300_000]);
    let body = form.bytes();
    // Less than is sent: the form is truncated, and the rest is not a valid request.
    for less in [1, body.len() / 2, body.len() - 10] {
        let mut connection = server.connect();
        let length = (body.len() - less).to_string();
        let mut sent = upload_head(&server, &form, &[("Content-Length", &length)]);
        sent.extend_from_slice(&body);
        let _ = connection.send(&sent);
        let answer = connection.answer("POST").unwrap();
        // The last bytes are the line end after the closing boundary. Without them, the form is complete.
        if less == 1 {
            assert_eq!(answer.status, 200);
            // The rest is the beginning of a request that never ends.
            connection.stream().shutdown(Shutdown::Write).unwrap();
            assert!(connection.rest().is_empty());
            let json = answer.json();
            let id = json["entities"][0]["uuid"].as_str().unwrap();
            assert_eq!(server.download(id, &[]).body.len(), 300_000);
            std::fs::remove_dir_all(server.store.join("objects/chatfile")).unwrap();
        } else {
            assert_error(&answer, 400, "illegal_argument");
        }
        assert_nothing_stays(&server);
    }
    // Announces more bytes than it sends, then ends.
    for more in [1, 1_000_000] {
        let mut connection = server.connect();
        let length = (body.len() + more).to_string();
        connection
            .send(&upload_head(&server, &form, &[("Content-Length", &length)]))
            .unwrap();
        connection.send(&body).unwrap();
        connection.stream().shutdown(Shutdown::Write).unwrap();
        if let Ok(answer) = connection.answer("POST") {
            assert_error(&answer, 400, "illegal_argument");
        }
        assert_nothing_stays(&server);
    }
}

#[test]
fn invalid_content_length_is_refused() {
    let server = TestServer::start();
    let form = Form::new().file("f", "text/plain", b"x");
    for (lengths, expected) in [
        (&["-1"][..], 400),
        (&["0x10"], 400),
        (&["99999999999999999999999999"], 400),
        (&["10", "11"], 400),
        (&["10485760000"], 413),
        (&["9223372036854775807"], 413),
        (&["18446744073709551613"], 413),
        // hyper reserves these two values.
        (&["18446744073709551614"], 431),
        (&["18446744073709551615"], 431),
    ] {
        let headers: Vec<_> = lengths
            .iter()
            .map(|length| ("Content-Length", *length))
            .collect();
        let mut connection = server.connect();
        connection
            .send(&upload_head(&server, &form, &headers))
            .unwrap();
        let answer = connection.answer("POST").unwrap();
        assert_eq!(answer.status, expected, "{lengths:?}");
        assert_nothing_stays(&server);
    }
    assert_alive(&server);
}

#[test]
fn cut_upload_leaves_nothing() {
    let server = TestServer::start();
    // A tenth is more than the server buffers before it creates a file.
    let form = Form::new().file("f", "text/plain", &vec![b'x'; 2 << 20]);
    let announced = form.bytes().len().to_string();
    let chunks = chunked(&form.bytes(), 64 << 10);
    for (header, body) in [
        (("Content-Length", announced.as_str()), form.bytes()),
        (("Transfer-Encoding", "chunked"), chunks),
    ] {
        for tenth in 0..10 {
            let mut connection = server.connect();
            connection
                .send(&upload_head(&server, &form, &[header]))
                .unwrap();
            connection.send(&body[..body.len() * tenth / 10]).unwrap();
            if tenth > 0 {
                poll("the upload to begin", || !server.files_in("tmp").is_empty());
            }
            drop(connection);
            assert_nothing_stays(&server);
        }
    }
}

#[test]
fn stalled_body_gets_408() {
    let server = TestServer::with("[server]\nbody_idle_timeout_seconds = 1");
    let form = Form::new().file("f", "text/plain", &vec![b'x'; 300_000]);
    let body = form.bytes();
    let length = body.len().to_string();
    for sent in [0, 10, 200_000, body.len() - 1] {
        let mut connection = server.connect();
        connection
            .send(&upload_head(&server, &form, &[("Content-Length", &length)]))
            .unwrap();
        connection.send(&body[..sent]).unwrap();
        let answer = connection.answer("POST").unwrap();
        assert_error(&answer, 408, "request_timeout");
        assert_eq!(answer.header("connection"), Some("close"), "{sent}");
        assert_nothing_stays(&server);
    }
}

/// A body that is just fast enough is accepted.
#[test]
fn trickling_body_gets_408() {
    let slow = "[server]\nbody_idle_timeout_seconds = 1\nbody_bytes_per_second_min = ";
    let form = Form::new().file("f", "text/plain", &vec![b'x'; 300_000]);
    let body = form.bytes();
    let length = body.len().to_string();
    for (rate, pieces, status) in [("1000000", 300, 408), ("1000", 60, 200), ("0", 60, 200)] {
        let server = TestServer::with(&format!("{slow}{rate}"));
        let mut connection = server.connect();
        connection
            .send(&upload_head(&server, &form, &[("Content-Length", &length)]))
            .unwrap();
        // No pause is too long by itself, but 60 pieces take more than a second, and 300 more than six.
        trickle(&mut connection, &body, pieces);
        let answer = connection.answer("POST").unwrap();
        assert_eq!(answer.status, status, "{rate}");
    }
}

#[test]
fn overlong_body_time_gets_408() {
    // Neither the pauses nor the rate are too low: 15 KB/s.
    let server = TestServer::with("[server]\nrequest_timeout_seconds = 2");
    let form = Form::new().file("f", "text/plain", &vec![b'x'; 300_000]);
    let body = form.bytes();
    let length = body.len().to_string();
    for (pieces, status) in [(1000, 408), (30, 200)] {
        let clock = Clock::system();
        let started = clock.monotonic();
        let mut connection = server.connect();
        connection
            .send(&upload_head(&server, &form, &[("Content-Length", &length)]))
            .unwrap();
        trickle(&mut connection, &body, pieces);
        let answer = connection.answer("POST").unwrap();
        if status == 408 {
            assert_error(&answer, 408, "request_timeout");
            assert!(clock.monotonic() - started >= std::time::Duration::from_secs(2));
        }
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    assert_eq!(server.files_in("objects").len(), 1);
}

/// Repeats `piece` until the server closes, up to 1 GB; returns the number of bytes accepted.
fn send_until_closed(connection: &mut Connection, first: &[u8], piece: &[u8]) -> usize {
    let pieces = piece.repeat((256 << 10) / piece.len() + 1);
    let stream = connection.stream();
    let mut sent = first.len();
    if stream.write_all(first).is_err() {
        return sent;
    }
    while sent < 1 << 30 && stream.write_all(&pieces).is_ok() {
        sent += pieces.len();
    }
    sent
}

#[test]
fn huge_epilogue_is_refused_early() {
    let server = TestServer::start();
    let form = Form::new().file("f", "text/plain", b"small");
    let mut connection = server.connect();
    let mut first = upload_head(&server, &form, &[("Transfer-Encoding", "chunked")]);
    let body = form.bytes();
    first.extend(chunk(&body));
    let mut chunk = b"10000\r\n".to_vec();
    chunk.resize(chunk.len() + 0x10000, b'e');
    chunk.extend_from_slice(b"\r\n");
    let sent = send_until_closed(&mut connection, &first, &chunk);
    // After a refusal, the server reads at most 64 MiB; the rest is in the socket buffers.
    assert!(sent < 100 << 20, "{sent} bytes were taken");
    assert_nothing_stays(&server);
    assert_alive(&server);
}

#[test]
fn random_requests_never_end_server() {
    let server = TestServer::with("[server]\nheader_timeout_seconds = 1");
    let mut random = Random::new();
    let form = Form::new().file("f", "image/png", b"\x89PNG");
    let mut valid = upload_head(&server, &form, &[("Content-Length", "9")]);
    valid.extend_from_slice(&form.bytes());
    for round in 0..400 {
        let bytes = match round % 4 {
            0 => {
                let len = random.below(3000);
                random.bytes(len)
            }
            1 => damaged(&valid, &mut random),
            2 => valid[..random.below(valid.len())].to_vec(),
            _ => {
                let length = form.bytes().len().to_string();
                let mut whole = upload_head(&server, &form, &[("Content-Length", &length)]);
                whole.extend_from_slice(&damaged(&form.bytes(), &mut random));
                whole
            }
        };
        let mut connection = server.connect();
        // The server may refuse and close at any byte.
        let _ = connection.send(&bytes);
        let _ = connection.stream().shutdown(Shutdown::Write);
        let answer = String::from_utf8_lossy(&connection.rest()).into_owned();
        assert!(
            !answer.starts_with("HTTP/1.1 500"),
            "round {round}: {answer}"
        );
    }
    assert_alive(&server);
    poll("tmp/ to be empty", || server.files_in("tmp").is_empty());
}

fn damaged(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + random.below(8) {
        let at = random.below(bytes.len());
        match random.below(3) {
            0 => bytes[at] = random.next() as u8,
            1 => drop(bytes.remove(at)),
            _ => bytes.insert(at, *b"\r\n\0;=\"-: "[..].get(random.below(9)).unwrap()),
        }
    }
    bytes
}

#[test]
fn byte_by_byte_client_is_served() {
    let server = TestServer::start();
    let form = Form::new().file("f", "text/plain", b"slow but honest");
    let body = form.bytes();
    let length = body.len().to_string();
    let mut sent = upload_head(&server, &form, &[("Content-Length", &length)]);
    sent.extend_from_slice(&body);
    let mut connection = server.connect();
    for byte in sent {
        connection.send(&[byte]).unwrap();
    }
    assert_eq!(connection.answer("POST").unwrap().status, 200);
}
