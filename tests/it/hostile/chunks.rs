//! Bodies in tiny pieces: each piece costs as much as a large one, so their number is limited in proportion to the
//! bytes.

use std::io::{self, Write};

use super::{assert_alive, assert_nothing_stays, upload_head};
use crate::{
    edge::frames::{Client, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, fields},
    support::{BASE, Form, TestServer, assert_error, chunked, process::poll, read_answer},
};

/// Sends a body in chunks of a given size until the server stops reading.
fn send(connection: &mut impl Write, body: &[u8], chunk_bytes: usize) -> io::Result<()> {
    connection.write_all(&chunked(body, chunk_bytes))
}

#[test]
fn refuses_tiny_chunks() {
    let server = TestServer::start();
    let form = Form::new().file("f", "text/plain", &[b'x'; 300_000]);
    let body = form.bytes();
    let head = upload_head(&server, &form, &[("Transfer-Encoding", "chunked")]);
    // 1,000 bytes and more are usual; a frame of an AMR voice has 32 bytes.
    for (chunk_bytes, is_taken) in [
        (1, false),
        (2, false),
        (16, false),
        (32, true),
        (100, true),
        (1000, true),
    ] {
        let mut connection = server.connect();
        connection.send(&head).unwrap();
        let _ = send(connection.stream(), &body, chunk_bytes);
        let answer = connection.answer("POST").unwrap();
        if is_taken {
            assert_eq!(answer.status, 200, "{chunk_bytes}: {}", answer.text());
        } else {
            let json = assert_error(&answer, 400, "illegal_argument");
            let description = json["error_description"].as_str().unwrap();
            assert!(description.contains("pieces"), "{description}");
            assert_eq!(answer.header("connection"), Some("close"), "{chunk_bytes}");
        }
    }
    assert_eq!(server.files_in("objects").len(), 3);
    poll("tmp/ to be empty", || server.files_in("tmp").is_empty());
    assert_alive(&server);
}

/// A recorder that sends each frame of 20 ms at once, and one that has a minute of frames to send.
#[test]
fn accepts_voice_frame_by_frame() {
    let server = TestServer::start();
    for (frame_bytes, frames) in [(32, 3000), (13, 2900)] {
        let voice = [&b"#!AMR\n"[..], &vec![0x3c; frame_bytes * frames]].concat();
        let form = Form::new().file("a.amr", "audio/amr", &voice);
        let head = upload_head(&server, &form, &[("Transfer-Encoding", "chunked")]);
        let mut connection = server.connect();
        connection.send(&head).unwrap();
        send(connection.stream(), &form.bytes(), frame_bytes).unwrap();
        let answer = connection.answer("POST").unwrap();
        assert_eq!(answer.status, 200, "{frame_bytes}: {}", answer.text());
    }
}

#[test]
fn refuses_tiny_chunks_everywhere() {
    let server = TestServer::start();
    let token = format!("Bearer {}", server.token("mallory"));
    for path in ["/token".to_owned(), "/sdk/chatfiles/part-upload".to_owned()] {
        let head = crate::support::head(
            "POST",
            &format!("{BASE}{path}"),
            &[("Authorization", &token), ("Transfer-Encoding", "chunked")],
            None,
        );
        let mut connection = server.connect();
        connection.send(&head).unwrap();
        let _ = send(connection.stream(), &vec![b' '; 1 << 20], 1);
        let status = connection.answer("POST").unwrap().status;
        assert!(matches!(status, 400 | 413), "{path}: {status}");
    }
    assert_alive(&server);
}

#[test]
fn refuses_tiny_http2_frames() {
    let server = TestServer::start();
    let form = Form::new().file("f", "text/plain", &[b'x'; 20_000]);
    let token = format!("Bearer {}", server.token("mallory"));
    let (path, content_type) = (format!("{BASE}/chatfiles"), form.content_type());
    let block = fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", &path),
        ("authorization", &token),
        ("content-type", &content_type),
    ]);
    for (frame_bytes, is_taken) in [(1, false), (4, false), (64, true)] {
        let mut client = Client::open(server.address);
        client.send(HEADERS, END_HEADERS, 1, &block).unwrap();
        let body = form.bytes();
        let (last, frames) = {
            let mut frames: Vec<_> = body.chunks(frame_bytes).collect();
            (frames.pop().unwrap(), frames)
        };
        let mut sent = Vec::new();
        for frame in frames {
            sent.extend(crate::edge::frames::frame(DATA, 0, 1, frame));
        }
        sent.extend(crate::edge::frames::frame(DATA, END_STREAM, 1, last));
        let _ = client.0.write_all(&sent);
        let end = client.until(|frame| {
            frame.kind == GOAWAY || frame.stream == 1 && matches!(frame.kind, HEADERS | RST_STREAM)
        });
        // 200 and 400 from the static table of HPACK; h2 may end the connection earlier.
        let is_answered = end.kind == HEADERS && end.payload[0] == 0x88;
        assert_eq!(is_answered, is_taken, "{frame_bytes}: {end:?}");
        if end.kind == HEADERS && !is_taken {
            assert_eq!(end.payload[0], 0x8c, "{frame_bytes}");
        }
    }
    assert_alive(&server);
    poll("tmp/ to be empty", || server.files_in("tmp").is_empty());
}

/// After a refusal, the rest is discarded in large pieces.
#[test]
fn refused_chunks_leave_nothing() {
    let server = TestServer::start();
    let form = Form::new().file("f", "text/plain", &[b'x'; 100_000]);
    let mut connection = server.connect();
    let head = upload_head(&server, &form, &[("Transfer-Encoding", "chunked")]);
    connection.send(&head).unwrap();
    let _ = send(connection.stream(), &form.bytes(), 1);
    let rest = connection.rest();
    let mut rest = &rest[..];
    assert_eq!(read_answer(&mut rest, "POST").unwrap().status, 400);
    assert!(rest.is_empty(), "a later request was answered");
    assert_nothing_stays(&server);
}
