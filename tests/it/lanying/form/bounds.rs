//! Size limits of a form, and that refused forms are not written, even while they are being sent.

use std::io::Read;

use serde_json::json;

use super::{
    FORM_PATH, assert_nothing_stays, assert_stored, assert_xml, fields_of, file, form_of, post,
    signed::{self, new_key, with_conditions},
    ticket, with,
};
use crate::support::{
    Answer, Form, TestServer, chunked, head,
    lanying::{success, ticket_form},
    process::poll,
};

const MIB: usize = 1 << 20;
/// The contract's 10 MB.
const LIMIT: usize = 10 * MIB;

/// How a form announces its length.
#[derive(Debug, Clone, Copy)]
enum Length {
    Announced,
    Chunked,
}
use Length::{Announced, Chunked};

/// A form as bytes on the wire.
fn request(form: &Form, length: Length, more: &[(&str, &str)]) -> Vec<u8> {
    let (content_type, body) = (form.content_type(), form.bytes());
    let mut headers = vec![("Content-Type", content_type.as_str())];
    headers.extend_from_slice(more);
    match length {
        Announced => [head("POST", FORM_PATH, &headers, Some(body.len())), body].concat(),
        Chunked => {
            headers.push(("Transfer-Encoding", "chunked"));
            let mut bytes = head("POST", FORM_PATH, &headers, None);
            bytes.extend(chunked(&body, 100_000));
            bytes
        }
    }
}

/// Sends a complete form before reading; fails if the connection closes early.
#[track_caller]
fn write_first(server: &TestServer, request: &[u8]) -> Answer {
    let mut connection = server.connect();
    let written = connection.send(request);
    assert!(written.is_ok(), "{written:?}");
    connection.answer("POST").unwrap()
}

#[test]
fn accepts_10_mib_not_more() {
    let server = TestServer::start();
    let bytes: Vec<u8> = (0..=LIMIT).map(|at| (at % 251) as u8).collect();
    for length in [Announced, Chunked] {
        let over = ticket_form(&ticket(&server)).file("a", "application/x-a", &bytes);
        let answer = write_first(&server, &request(&over, length, &[]));
        assert_xml(&answer, 400, "EntityTooLarge");
        assert_nothing_stays(&server);
    }
    for length in [Announced, Chunked] {
        let ticket = ticket(&server);
        let exact = ticket_form(&ticket).file("a", "application/x-a", &bytes[..LIMIT]);
        let answer = write_first(&server, &request(&exact, length, &[]));
        assert_stored(&server, &ticket, &answer, &bytes[..LIMIT]);
    }
}

#[test]
fn policy_range_and_empty_file() {
    let server = signed::server();
    let form = ticket_form(&ticket(&server)).file("a", "text/plain", b"");
    for length in [Announced, Chunked] {
        let answer = write_first(&server, &request(&form, length, &[]));
        assert_xml(&answer, 400, "EntityTooSmall");
        assert_nothing_stays(&server);
    }
    for (min, max, bytes, code) in [
        (10, 20, 9, "EntityTooSmall"),
        (10, 20, 21, "EntityTooLarge"),
        (0, 20, 0, "EntityTooSmall"),
        (0, 0, 1, "EntityTooLarge"),
        (10, 20, 200_000, "EntityTooLarge"),
        // A policy cannot allow more than the server.
        (0, u64::MAX, LIMIT + 1, "EntityTooLarge"),
        (20 << 20, 30 << 20, 1000, "EntityTooSmall"),
    ] {
        let key = new_key(&server).to_string();
        let conditions = json!([{ "key": key }, ["content-length-range", min, max]]);
        let form = form_of(&with_conditions(&key, conditions));
        let form = form.file("a", "application/x-a", &vec![3; bytes]);
        for length in [Announced, Chunked] {
            println!("{min}..={max}: {bytes}, {length:?}");
            let answer = write_first(&server, &request(&form, length, &[]));
            assert_xml(&answer, 400, code);
            assert_nothing_stays(&server);
        }
    }
    for bytes in [10, 20] {
        let key = new_key(&server).to_string();
        let conditions = json!([{ "key": key }, ["content-length-range", 10, 20]]);
        let form = form_of(&with_conditions(&key, conditions));
        let answer = post(&server, &form.file("a", "text/plain", &vec![3; bytes]));
        assert_eq!(answer.status, 200, "{bytes}: {}", answer.text());
    }
}

#[test]
fn tenant_limit_is_in_policy() {
    let toml = signed::configuration("limits.upload_bytes_max = 100", "upload_bytes_max = 1000");
    let other = "[[tenant]]\norg = \"o\"\napp = \"a\"\napp_id = \"small\"";
    let server = TestServer::with(&(toml + other));
    let token = server.token_of("o", "a", chatfiles::auth::Subject::User("alice".into()));
    let headers = [("access-token", token.as_str()), ("app_id", "small")];
    let tickets = || {
        let call = "/file/upload/chat?file_type=100&to_id=bob";
        [
            (1000, FORM_PATH, ticket(&server)),
            (100, "/file/oss/small", success(&server.get(call, &headers))),
        ]
    };
    for over in [1, 0] {
        for (limit, path, ticket) in tickets() {
            assert_eq!(ticket["max_size"], limit);
            let policy = signed::policy_of(&ticket);
            let range = &policy["conditions"][2];
            assert_eq!(*range, json!(["content-length-range", 1, limit]));
            let form = ticket_form(&ticket).file("a", "text/plain", &vec![b'x'; limit + over]);
            let content_type = form.content_type();
            let headers = [("Content-Type", content_type.as_str())];
            let answer = server.request("POST", path, &headers, &form.bytes());
            match over {
                0 => assert_eq!(answer.status, 200, "{}", answer.text()),
                _ => {
                    assert_xml(&answer, 400, "EntityTooLarge");
                    assert_nothing_stays(&server);
                }
            }
        }
    }
}

#[test]
fn write_first_clients_see_refusal() {
    let server = TestServer::with("limits.upload_bytes_max = 1048576");
    let ticket = ticket(&server);
    // More than the socket buffers hold, so that the client is still writing when it is refused.
    let large = vec![3; 12 * MIB];
    let form = ticket_form(&ticket).file("a", "application/x-a", &large);
    for length in [Announced, Chunked] {
        let request = request(&form, length, &[]);
        for _ in 0..50 {
            assert_xml(&write_first(&server, &request), 400, "EntityTooLarge");
        }
    }
    assert_nothing_stays(&server);
}

#[test]
fn refusals_reach_write_first_clients() {
    let server = TestServer::with("limits.upload_bytes_max = 20000000");
    let fields = fields_of(&ticket(&server));
    let large = vec![3; 12 * MIB];
    for (what, fields, status, code) in [
        (
            "signature",
            with(&fields, "signature", "x"),
            403,
            "SignatureDoesNotMatch",
        ),
        (
            "id",
            with(&fields, "OSSAccessKeyId", "x"),
            403,
            "InvalidAccessKeyId",
        ),
        ("key", with(&fields, "key", "x"), 403, "AccessDenied"),
        (
            "twice",
            [fields.clone(), vec![("key".into(), "x".into())]].concat(),
            400,
            "MalformedPOSTRequest",
        ),
    ] {
        println!("{what}");
        let form = form_of(&fields).file("a", "application/x-a", &large);
        for length in [Announced, Chunked] {
            let request = request(&form, length, &[]);
            for _ in 0..5 {
                let answer = write_first(&server, &request);
                assert_xml(&answer, status, code);
                assert_eq!(answer.header("connection"), Some("close"));
            }
        }
    }
    assert_nothing_stays(&server);
}

#[test]
fn refused_form_is_never_written() {
    let server = TestServer::with("limits.upload_bytes_max = 100000");
    let fields = fields_of(&ticket(&server));
    let large = vec![3; 90_000];
    for (what, fields, status, code) in [
        (
            "signature",
            with(&fields, "signature", "x"),
            403,
            "SignatureDoesNotMatch",
        ),
        ("key", with(&fields, "key", "x"), 403, "AccessDenied"),
        (
            "id",
            with(&fields, "OSSAccessKeyId", "x"),
            403,
            "InvalidAccessKeyId",
        ),
    ] {
        println!("{what}");
        let form = form_of(&fields).file("a", "application/x-a", &large);
        let request = request(&form, Announced, &[]);
        let (most, rest) = request.split_at(request.len() - 20_000);
        let mut connection = server.connect();
        connection.send(most).unwrap();
        // The response comes before the end of the refused form.
        assert_xml(&connection.answer("POST").unwrap(), status, code);
        assert!(server.files_in("tmp").is_empty() && server.files_in("objects").is_empty());
        let _ = connection.send(rest);
        assert_nothing_stays(&server);
    }
}

#[test]
fn file_is_cut_at_limit() {
    let server = TestServer::with("limits.upload_bytes_max = 100000");
    let form = ticket_form(&ticket(&server)).file("a", "application/x-a", &[3; 100_001]);
    // Everything but the closing boundary: the server cannot wait for the end.
    for length in [Announced, Chunked] {
        let whole = request(&form, length, &[]);
        let last_chunk = if let Chunked = length { 7 } else { 0 };
        let end = form.boundary.len() + 8 + last_chunk;
        let mut connection = server.connect();
        connection.send(&whole[..whole.len() - end]).unwrap();
        assert_xml(&connection.answer("POST").unwrap(), 400, "EntityTooLarge");
        assert_nothing_stays(&server);
    }
}

#[test]
fn expect_continue_unless_refused_by_head() {
    let server = TestServer::start();
    let fields = fields_of(&ticket(&server));
    let expect = ("Expect", "100-continue");
    for (path, content_type, length, status, code) in [
        (
            FORM_PATH,
            "multipart/form-data; boundary=a",
            20 * MIB,
            400,
            "EntityTooLarge",
        ),
        (
            FORM_PATH,
            "application/json",
            1000,
            400,
            "MalformedPOSTRequest",
        ),
        (
            FORM_PATH,
            "multipart/form-data",
            1000,
            400,
            "MalformedPOSTRequest",
        ),
        (
            "/file/oss/nobody",
            "multipart/form-data; boundary=a",
            1000,
            404,
            "NoSuchBucket",
        ),
    ] {
        let headers = [expect, ("Content-Type", content_type)];
        let mut connection = server.connect();
        connection
            .send(&head("POST", path, &headers, Some(length)))
            .unwrap();
        let text = String::from_utf8(connection.rest()).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        assert!(text.contains(&format!("<Code>{code}</Code>")), "{text}");
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{text}");
        assert_nothing_stays(&server);
    }
    // The policy is in the body: with a bad one, the body is requested and then refused.
    for (fields, status) in [(with(&fields, "signature", "x"), 403), (fields, 200)] {
        let form = file(form_of(&fields));
        let whole = request(&form, Announced, &[expect]);
        let body = form.bytes().len();
        let mut connection = server.connect();
        connection.send(&whole[..whole.len() - body]).unwrap();
        let mut interim = [0; 25];
        connection.stream().read_exact(&mut interim).unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        connection.send(&whole[whole.len() - body..]).unwrap();
        let answer = connection.answer("POST").unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
    }
}

#[test]
fn connection_survives_small_refused_form() {
    let server = TestServer::start();
    let fields = fields_of(&ticket(&server));
    let mut connection = server.connect();
    for (fields, status) in [
        (with(&fields, "signature", "x"), 403),
        (with(&fields, "key", "x"), 403),
        (fields.clone(), 200),
        (fields, 409),
    ] {
        let form = file(form_of(&fields));
        connection.send(&request(&form, Announced, &[])).unwrap();
        assert_eq!(connection.answer("POST").unwrap().status, status);
    }
    poll("tmp/ to be empty", || server.files_in("tmp").is_empty());
}
