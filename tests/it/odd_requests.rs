//! Requests that no API client sends, and headers that every response has: the responses still follow the API.

use std::collections::HashSet;

use crate::support::{BASE, TestServer, assert_error};

const NEVER: &str = "0190a5c4-5a7b-7000-8000-000000000000";

#[test]
fn head_answers_without_body() {
    let server = TestServer::start();
    for (path, status) in [
        (format!("{BASE}/chatfiles/{NEVER}"), 401),
        ("/nothing".into(), 404),
        (format!("{BASE}/token"), 405),
    ] {
        let mut connection = server.connect();
        let get = connection.request("GET", &path, &[], b"");
        for _ in 0..2 {
            // If the response had a body, the next response would start with it.
            let answer = connection.request("HEAD", &path, &[], b"");
            assert_eq!(answer.status, status);
            assert_eq!(answer.header("content-type"), get.header("content-type"));
            assert!(
                answer
                    .header("content-length")
                    .is_some_and(|length| length != "0")
            );
        }
    }
}

#[test]
fn every_answer_has_own_request_id() {
    let server = TestServer::start();
    let file = server.store_file("a.txt", "text/plain", b"hello");
    let mut connection = server.connect();
    let authorization = format!("Bearer {}", server.token("alice"));
    let mut seen = HashSet::new();
    let calls = [
        ("GET", "/healthz".to_owned()),
        ("GET", "/nothing".into()),
        ("GET", format!("{BASE}/chatfiles/{file}")),
        ("HEAD", format!("{BASE}/chatfiles/{file}")),
        ("GET", format!("{BASE}/chatfiles/{NEVER}")),
        ("OPTIONS", format!("{BASE}/chatfiles")),
        ("PUT", format!("{BASE}/chatfiles")),
        ("POST", format!("{BASE}/token")),
    ];
    for (method, path) in calls.iter().chain(&calls) {
        let headers = [
            ("Authorization", &*authorization),
            ("x-request-id", "the client's own"),
        ];
        let answer = connection.request(method, path, &headers, b"");
        let ids: Vec<_> = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "x-request-id")
            .collect();
        assert_eq!(ids.len(), 1, "{method} {path}");
        assert!(
            seen.insert(ids[0].1.clone()),
            "{method} {path}: {} again",
            ids[0].1
        );
    }
}

#[test]
fn odd_request_lines_get_api_errors() {
    let server = TestServer::start();
    for (line, host, status, error) in [
        (
            "GET http://other.test/nothing HTTP/1.1",
            "Host: other.test\r\n",
            404,
            "service_resource_not_found",
        ),
        (
            "POST http://other.test/easemob-demo/chatdemoui/chatfiles HTTP/1.1",
            "Host: other.test\r\n",
            401,
            "unauthorized",
        ),
        (
            "GET /nothing HTTP/1.0",
            "",
            404,
            "service_resource_not_found",
        ),
        (
            "CONNECT files.test:443 HTTP/1.1",
            "Host: files.test\r\n",
            404,
            "service_resource_not_found",
        ),
        (
            "M-SEARCH /nothing HTTP/1.1",
            "Host: files.test\r\n",
            404,
            "service_resource_not_found",
        ),
        (
            // `PRI` is a method of HTTP/1 unless its line says HTTP/2.0.
            "PRI /nothing HTTP/1.1",
            "Host: files.test\r\n",
            404,
            "service_resource_not_found",
        ),
        (
            "GET /nothing?{}|^`\\ HTTP/1.1",
            "Host: files.test\r\n",
            404,
            "service_resource_not_found",
        ),
    ] {
        let mut connection = server.connect();
        connection
            .send(format!("{line}\r\n{host}Connection: close\r\n\r\n").as_bytes())
            .unwrap();
        let answer = connection
            .answer("GET")
            .unwrap_or_else(|gone| panic!("{line}: {gone}"));
        assert_eq!(answer.status, status, "{line}");
        assert_error(&answer, status, error);
    }
    // A path of almost the maximum head length.
    let long = format!("/{}/b/chatfiles", "a".repeat(50_000));
    let answer = server.request("POST", &long, &[], b"");
    assert_error(&answer, 404, "organization_application_not_found");
    let answer = server.get(&format!("/{}", "a".repeat(50_000)), &[]);
    assert_error(&answer, 404, "service_resource_not_found");
}

#[test]
fn non_http_is_refused() {
    let server = TestServer::start();
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(70_000));
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "a: b\r\n".repeat(500)
    );
    for (bytes, statuses) in [
        (
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..],
            &["400"][..],
        ),
        (b"GET /\r\n\r\n", &["400"]),
        (b"GET / HTTP/3.0\r\n\r\n", &["400"]),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n", &["400"]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", &["400"]),
        (long.as_bytes(), &["414", "431"]),
        (many.as_bytes(), &["431"]),
    ] {
        let mut connection = server.connect();
        let _ = connection.send(bytes);
        let text = String::from_utf8_lossy(&connection.rest()).into_owned();
        let status = text.split(' ').nth(1).unwrap_or_default();
        assert!(
            statuses.contains(&status),
            "{}: {text}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(60)])
        );
    }
    assert_eq!(server.get("/healthz", &[]).status, 200);
}
