//! Clients that disconnect, stall and send slowly in the middle of a form.

use std::net::Shutdown;

use super::{FORM_PATH, assert_nothing_stays, assert_stored, assert_xml, post, ticket};
use crate::support::{Connection, Form, TestServer, head, lanying::ticket_form, process::poll};

/// A connection that has sent the head of a form with this length.
fn begin(server: &TestServer, form: &Form, length: usize) -> Connection {
    let content_type = form.content_type();
    let headers = [("Content-Type", content_type.as_str())];
    let mut connection = server.connect();
    connection
        .send(&head("POST", FORM_PATH, &headers, Some(length)))
        .unwrap();
    connection
}

/// A form that consists mostly of its file.
fn large(server: &TestServer) -> Form {
    ticket_form(&ticket(server)).file("a.bin", "application/x-own", &[b'x'; 400_000])
}

#[test]
fn truncated_form_leaves_nothing() {
    let server = TestServer::start();
    let form = large(&server);
    let body = form.bytes();
    let tenths = (0..10).map(|tenth| body.len() * tenth / 10);
    for length in tenths.chain([100, 500, body.len() - 3, body.len() - 50]) {
        let mut connection = begin(&server, &form, length);
        connection.send(&body[..length]).unwrap();
        let answer = connection.answer("POST").unwrap();
        assert_xml(&answer, 400, "MalformedPOSTRequest");
        assert_nothing_stays(&server);
    }
    // A form does not need the line end after its last boundary.
    let mut connection = begin(&server, &form, body.len() - 2);
    connection.send(&body[..body.len() - 2]).unwrap();
    assert_eq!(connection.answer("POST").unwrap().status, 200);
}

#[test]
fn disconnect_leaves_nothing() {
    let server = TestServer::start();
    let form = large(&server);
    let body = form.bytes();
    for says_so in [false, true] {
        for tenth in 0..10 {
            let mut connection = begin(&server, &form, body.len());
            connection.send(&body[..body.len() * tenth / 10]).unwrap();
            if tenth > 0 {
                poll("the file to begin", || !server.files_in("tmp").is_empty());
            }
            if says_so {
                connection.stream().shutdown(Shutdown::Write).unwrap();
                let rest = String::from_utf8_lossy(&connection.rest()).into_owned();
                assert!(!rest.starts_with("HTTP/1.1 2"), "{rest}");
            }
            drop(connection);
            assert_nothing_stays(&server);
        }
    }
    assert_eq!(post(&server, &form).status, 200);
}

#[test]
fn accepts_form_byte_by_byte() {
    let server = TestServer::start();
    let ticket = ticket(&server);
    let form = ticket_form(&ticket).file("a.bin", "text/plain", b"slow but honest");
    let body = form.bytes();
    let mut connection = begin(&server, &form, body.len());
    for byte in &body {
        connection.send(&[*byte]).unwrap();
    }
    let answer = connection.answer("POST").unwrap();
    assert_stored(&server, &ticket, &answer, b"slow but honest");
}

#[test]
fn stalled_form_is_closed() {
    let server = TestServer::with("server.body_idle_timeout_seconds = 1");
    let form = large(&server);
    let body = form.bytes();
    // Before the fields, within them, within the file, and just before the end.
    for sent in [0, 300, 200_000, body.len() - 1] {
        let mut connection = begin(&server, &form, body.len());
        connection.send(&body[..sent]).unwrap();
        let answer = connection.answer("POST").unwrap();
        let message = assert_xml(&answer, 400, "RequestTimeout");
        assert!(message.starts_with("Your socket connection"), "{message}");
        assert_eq!(answer.header("connection"), Some("close"), "{sent}");
        assert!(connection.rest().is_empty());
        assert_nothing_stays(&server);
    }
    assert_eq!(post(&server, &form).status, 200);
}

#[test]
fn bad_chunks_are_refused() {
    let server = TestServer::start();
    let form = large(&server);
    let content_type = form.content_type();
    let headers = [
        ("Content-Type", content_type.as_str()),
        ("Transfer-Encoding", "chunked"),
    ];
    // More than the server buffers before it creates a file.
    let first = &form.bytes()[..200_000];
    let mut bytes = head("POST", FORM_PATH, &headers, None);
    bytes.extend_from_slice(format!("{:x}\r\n", first.len()).as_bytes());
    bytes.extend_from_slice(first);
    for bad in ["\r\nnonsense\r\n", "no line end", "\r\n-1\r\n"] {
        let mut connection = server.connect();
        connection.send(&bytes).unwrap();
        poll("the file to begin", || !server.files_in("tmp").is_empty());
        connection.send(bad.as_bytes()).unwrap();
        let answer = connection.answer("POST").unwrap();
        assert_xml(&answer, 400, "MalformedPOSTRequest");
        assert_nothing_stays(&server);
    }
}
