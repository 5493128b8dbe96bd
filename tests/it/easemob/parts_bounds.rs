//! `/{org}/{app}/sdk/chatfiles/part-upload`: ownership, missing parts, and limits.

use std::io::Read;

use chatfiles::auth::Subject;
use serde_json::json;

use super::parts::{PATH, begin, call, call_as, complete, listed, ok, put, put_raw};
use crate::support::{Form, TestServer, assert_error, head};

#[test]
fn others_find_no_upload() {
    let server = TestServer::with(
        "[[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\n[[tenant]]\norg = \"o\"\napp = \"a\"",
    );
    let id = begin(&server);
    ok(&put_raw(&server, &id, "1", b"hello"));
    let calls = [
        ("PUT", "?part_number=1"),
        ("GET", "/parts"),
        ("POST", ""),
        ("DELETE", ""),
    ];
    for (method, path) in calls {
        let body: &[u8] = if method == "PUT" { b"stolen" } else { b"" };
        let path = format!("/{id}{path}");
        let answer = call_as(&server, "mallory", (method, &path), None, body);
        assert_error(&answer, 404, "entity_not_found");
        // A valid token of the other tenant on its own path, then alice's id with that token on hers.
        let other = server.token_of("o", "a", Subject::User("alice".into()));
        let authorization = format!("Bearer {other}");
        let headers = [("Authorization", &*authorization)];
        let own_path = format!("/o/a/sdk/chatfiles/part-upload{path}");
        assert_error(
            &server.request(method, &own_path, &headers, body),
            404,
            "entity_not_found",
        );
        let answer = server.request(method, &format!("{PATH}{path}"), &headers, body);
        assert_error(&answer, 401, "auth_bad_access_token");
        let answer = server.request(method, &format!("{PATH}{path}"), &[], body);
        assert_error(&answer, 401, "unauthorized");
    }
    assert_error(&server.request("POST", PATH, &[], b""), 401, "unauthorized");
    let entity = complete(&server, &id, "");
    assert_eq!(
        server.download(entity["uuid"].as_str().unwrap(), &[]).body,
        b"hello"
    );
}

#[test]
fn missing_part_is_named() {
    let server = TestServer::start();
    let id = begin(&server);
    let path = format!("/{id}");
    assert_error(&call(&server, "POST", &path), 400, "illegal_argument");
    ok(&put(&server, &id, "1", b"one "));
    ok(&put(&server, &id, "3", b"three"));
    let json = assert_error(&call(&server, "POST", &path), 400, "illegal_argument");
    assert_eq!(json["error_description"], "part 2 is missing.");
    ok(&put(&server, &id, "2", b"two "));
    let entity = complete(&server, &id, "");
    assert_eq!(
        server.download(entity["uuid"].as_str().unwrap(), &[]).body,
        b"one two three"
    );
}

#[test]
fn resent_part_replaces_old() {
    let server = TestServer::with("limits.upload_bytes_max = 1000");
    let id = begin(&server);
    for bytes in [&[1_u8; 900][..], &[2; 800], &[3; 1000], &[3; 1000], b"last"] {
        ok(&put(&server, &id, "1", bytes));
        let expected = json!([{ "part_number": 1, "part_size": bytes.len() }]);
        assert_eq!(listed(&server, &id), expected);
    }
    let entity = complete(&server, &id, "");
    assert_eq!(
        server.download(entity["uuid"].as_str().unwrap(), &[]).body,
        b"last"
    );
}

#[test]
fn sum_of_parts_is_limited() {
    let server = TestServer::with("limits.upload_bytes_max = 1000");
    let id = begin(&server);
    for (number, bytes, status) in [
        ("1", 1001, 413),
        ("1", 600, 200),
        ("2", 401, 413),
        ("2", 400, 200),
        ("3", 1, 413),
        ("1", 100_000, 413),
    ] {
        for put in [put, put_raw] {
            let answer = put(&server, &id, number, &vec![7; bytes]);
            assert_eq!(answer.status, status, "{number} {bytes}: {}", answer.text());
            if status == 413 {
                assert_error(&answer, 413, "file exceeding maximum limit");
            }
        }
    }
    assert_eq!(listed(&server, &id).as_array().unwrap().len(), 2);
    let entity = complete(&server, &id, "");
    assert_eq!(entity["file-metadata"]["content-length"], 1000);
}

#[test]
fn concurrent_parts_count_towards_limit() {
    let server = TestServer::with("limits.upload_bytes_max = 1000");
    let id = begin(&server);
    let authorization = format!("Bearer {}", server.token("alice"));
    let path = format!("{PATH}/{id}?part_number=1");
    let mut slow = server.connect();
    let head = head(
        "PUT",
        &path,
        &[
            ("Authorization", &authorization),
            ("Expect", "100-continue"),
        ],
        Some(600),
    );
    slow.send(&head).unwrap();
    // After the interim response, the slow part is being received.
    slow.stream().read_exact(&mut [0; 25]).unwrap();
    ok(&put_raw(&server, &id, "2", &[2; 600]));
    slow.send(&[1; 600]).unwrap();
    assert_error(
        &slow.answer("PUT").unwrap(),
        413,
        "file exceeding maximum limit",
    );
    assert_eq!(
        listed(&server, &id),
        json!([{ "part_number": 2, "part_size": 600 }])
    );
}

#[test]
fn rejects_bad_part_number_or_empty() {
    let server = TestServer::start();
    let id = begin(&server);
    for number in ["0", "10001", "-1", "1.5", "x", "", "99999999999999999999"] {
        for put in [put, put_raw] {
            let answer = put(&server, &id, number, b"hello");
            assert_error(&answer, 400, "illegal_argument");
        }
    }
    let path = format!("/{id}");
    let answer = call_as(&server, "alice", ("PUT", &path), None, b"hello");
    let json = assert_error(&answer, 400, "illegal_argument");
    assert_eq!(json["error_description"], "part_number must be provided.");
    let form = Form::new().field("part_number", "1");
    let content_type = form.content_type();
    let answer = call_as(
        &server,
        "alice",
        ("PUT", &path),
        Some(&content_type),
        &form.bytes(),
    );
    let json = assert_error(&answer, 400, "illegal_argument");
    assert_eq!(json["error_description"], "part_file must be provided.");
    for put in [put, put_raw] {
        assert_error(&put(&server, &id, "1", b""), 400, "illegal_argument");
    }
    assert_eq!(listed(&server, &id), json!([]));
    ok(&put(&server, &id, "10000", b"the last that there may be"));
}

#[test]
fn unknown_upload_is_not_found() {
    let server = TestServer::start();
    let id = server.store_file("a.txt", "text/plain", b"a file is no upload in parts");
    let never = "0190a5c4-5a7b-7000-8000-000000000000";
    for id in [&*id, never, "x", "..", "%2e%2e", "C0FFEE"] {
        for (method, path) in [("GET", "/parts"), ("POST", ""), ("DELETE", "")] {
            let answer = call(&server, method, &format!("/{id}{path}"));
            assert_error(&answer, 404, "entity_not_found");
        }
        assert_error(
            &put_raw(&server, id, "1", b"hello"),
            404,
            "entity_not_found",
        );
    }
    assert_eq!(server.files_in("objects").len(), 1);
}
