//! The access log: one line per request when its response has ended, with the actual result.

use std::{io::Read, net::Ipv4Addr};

use serde_json::{Value, json};

use super::{Logged, access_lines};
use crate::support::{BASE, Connection, Form, head, open_from, photo, poll, process::Process};

const ALL: &[&str] = &["--log-format", "json", "--log-access-sample", "1"];

fn token(server: &Logged) -> String {
    format!("Bearer {}", server.process.token())
}

/// Uploads as `alice` and returns the id.
fn upload(server: &Logged, token: &str, name: &str, kind: &str, bytes: &[u8]) -> String {
    let form = Form::new().file(name, kind, bytes);
    let content_type = form.content_type();
    let headers = [("Authorization", token), ("Content-Type", &content_type)];
    let path = format!("{BASE}/chatfiles");
    let answer = server.request("POST", &path, &headers, &form.bytes());
    crate::support::process::id(&answer)
}

#[test]
fn line_describes_request() {
    let server = Logged::start(ALL);
    let token = token(&server);
    let large = vec![7; 3 << 20];
    let form_bytes = Form::new()
        .file("a.bin", "application/octet-stream", &large)
        .bytes()
        .len();
    let id = upload(&server, &token, "a.bin", "application/octet-stream", &large);
    let picture = upload(&server, &token, "a.jpg", "image/jpeg", &photo());
    let file = format!("{BASE}/chatfiles/{id}");
    let small = format!("{BASE}/chatfiles/{picture}");
    let signed = [("Authorization", &*token)];
    let with = |name, value| [("Authorization", &*token), (name, value)];

    let mut expected = vec![
        // For both uploads.
        (json!("easemob_upload"), json!(200), None),
        (json!("easemob_upload"), json!(200), None),
    ];
    let mut ids = Vec::new();
    let mut call = |method: &str, path: &str, headers: &[(&str, &str)], route: &str| {
        let answer = server.request(method, path, headers, b"");
        ids.push(answer.header("x-request-id").unwrap().to_owned());
        let sent = answer.body.len();
        expected.push((json!(route), json!(answer.status), Some(sent)));
        answer
    };
    let etag = call("GET", &file, &signed, "easemob_download");
    assert_eq!(etag.body.len(), large.len());
    let etag = etag.header("etag").unwrap().to_owned();
    let ranges = with("Range", "bytes=5-9,100-2000000");
    assert!(call("GET", &file, &ranges, "easemob_download").body.len() > 1_999_000);
    let range = with("Range", "bytes=0-9");
    assert_eq!(call("GET", &file, &range, "easemob_download").status, 206);
    call("HEAD", &file, &signed, "easemob_download");
    let known = with("If-None-Match", &etag);
    assert_eq!(call("GET", &file, &known, "easemob_download").status, 304);
    let beyond = with("Range", "bytes=99999999-");
    assert_eq!(call("GET", &file, &beyond, "easemob_download").status, 416);
    let thumbnail = with("thumbnail", "true");
    assert_eq!(
        call("GET", &small, &thumbnail, "easemob_derivative").status,
        200
    );
    assert_eq!(call("GET", &file, &[], "easemob_download").status, 401);
    assert_eq!(call("GET", "/nowhere?token=x", &[], "none").status, 404);
    assert_eq!(call("GET", "/healthz", &[], "health").status, 200);
    let origin = [("Origin", "https://chat.example.com")];
    assert_eq!(call("OPTIONS", &file, &origin, "preflight").status, 204);
    assert_eq!(call("BREW", &file, &[], "none").status, 405);

    let log = server.end();
    let lines = access_lines(&log);
    assert_eq!(lines.len(), expected.len(), "{log}");
    for (line, (route, status, sent)) in lines.iter().zip(&expected) {
        assert_eq!((&line["route"], &line["status"]), (route, status), "{line}");
        if let Some(sent) = sent {
            assert_eq!(line["sent_bytes"], *sent, "{line}");
        }
        assert_eq!(line["cut"], false, "{line}");
        assert_eq!(line["client"], "127.0.0.1");
        assert_eq!(line["version"], "HTTP/1.1");
        let (head, end) = (line["head_us"].as_u64(), line["end_us"].as_u64());
        assert!(head.unwrap() <= end.unwrap(), "{line}");
        let known = route.as_str().unwrap().starts_with("easemob");
        let tenant = known.then(|| json!("easemob-demo/chatdemoui"));
        assert_eq!(line.get("tenant"), tenant.as_ref(), "{line}");
    }
    assert_eq!(lines[0]["received_bytes"], form_bytes);
    assert_eq!(
        (&lines[0]["method"], &lines[5]["method"]),
        (&json!("POST"), &json!("HEAD"))
    );
    assert_eq!(lines[2]["path"], file);
    assert_eq!(lines[10]["path"], "/nowhere");
    let logged: Vec<&Value> = lines[2..].iter().map(|line| &line["request"]).collect();
    assert_eq!(logged, Vec::from_iter(&ids));
}

#[test]
fn trace_ids_are_logged() {
    let server = Logged::start(ALL);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let forged = format!("{}\"}}", &trace[..53]);
    for headers in [
        &[("traceparent", trace)][..],
        &[("traceparent", trace), ("traceparent", trace)],
        &[("traceparent", &*forged)],
        &[("traceparent", &*"0".repeat(4000))],
        &[],
    ] {
        let answer = server.request("GET", "/healthz", headers, b"");
        assert_eq!(answer.status, 200);
        // The caller's ids do not replace our own.
        assert_eq!(answer.header("x-request-id").unwrap().len(), 16);
        assert_eq!(answer.header("traceparent"), None);
    }
    let lines = access_lines(&server.end());
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[0]["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(lines[0]["parent_id"], "00f067aa0ba902b7");
    for line in &lines[1..] {
        assert_eq!(
            (line.get("trace_id"), line.get("parent_id")),
            (None, None),
            "{line}"
        );
    }
}

#[test]
fn unfinished_answer_is_cut_short() {
    let server = Logged::start(ALL);
    let token = token(&server);
    // More than the sockets of both sides hold.
    let large = vec![7; 10 << 20];
    let id = upload(&server, &token, "a.bin", "application/octet-stream", &large);
    let path = format!("{BASE}/chatfiles/{id}");
    let request = head("GET", &path, &[("Authorization", &token)], None);
    let mut client = open_from(server.process.address, Ipv4Addr::LOCALHOST, Some(16 << 10));
    client.send(&request).unwrap();
    client.stream().read_exact(&mut [0; 1000]).unwrap();
    poll("the upload's line", || {
        !access_lines(&server.process.log()).is_empty()
    });
    assert_eq!(
        access_lines(&server.process.log()).len(),
        1,
        "it has not ended"
    );
    drop(client);
    poll("its line", || {
        access_lines(&server.process.log()).len() == 2
    });
    let line = access_lines(&server.end()).remove(1);
    assert_eq!((&line["status"], &line["cut"]), (&json!(200), &json!(true)));
    let sent = line["sent_bytes"].as_u64().unwrap();
    assert!((1..10 << 20).contains(&sent), "{line}");
}

#[test]
fn sample_logs_one_in_n() {
    let server = Logged::start(&["--log-format", "json", "--log-access-sample", "5"]);
    let mut connection = Connection::open(server.process.address);
    for _ in 0..50 {
        assert_eq!(connection.request("GET", "/healthz", &[], b"").status, 200);
    }
    assert_eq!(access_lines(&server.end()).len(), 10);
}

#[test]
fn access_log_is_off_by_default() {
    let server = Logged::start(&["--log-format", "json"]);
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(access_lines(&server.end()), Vec::<Value>::new());
}

#[test]
fn server_errors_are_always_logged() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    // No disk satisfies this floor, so the response is 507.
    let flags = [
        "--log-format",
        "json",
        "--log-access-sample",
        "1000000",
        "--free-space-min-bytes",
        "1000000000000000000",
    ];
    let server = Process::start(&store, &flags);
    for _ in 0..3 {
        assert_eq!(server.try_upload(b"bytes").unwrap().status, 507);
        assert_eq!(server.request("GET", "/healthz", &[], b"").status, 200);
    }
    let log = || std::fs::read_to_string(store.with_extension("log")).unwrap();
    poll("three lines", || access_lines(&log()).len() >= 3);
    let lines = access_lines(&log());
    let failures = lines.iter().filter(|line| line["status"] == 507);
    assert_eq!(failures.count(), 3);
    assert!(
        lines.len() <= 4,
        "of the others one in a million: {lines:?}"
    );
}

#[test]
fn paths_cannot_forge_lines() {
    for format in ["text", "json"] {
        let server = Logged::start(&[
            "--log-access-sample",
            "1",
            "--log-level",
            "debug",
            "--log-format",
            format,
        ]);
        for path in [
            "/a\"\u{85}FORGED\u{2028}FORGED",
            "/a%0aFORGED%0D",
            "/a\"FORGED:\"b\",{}",
            "/a/status\"=FORGED\\n",
            "/x/y/chatfiles/\"\u{9b}31mFORGED",
        ] {
            let mut connection = Connection::open(server.process.address);
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            connection.send(request.as_bytes()).unwrap();
            assert!(connection.answer("GET").unwrap().status >= 400, "{path}");
        }
        // Requests that hyper refuses appear in no log line.
        for path in ["/a\u{1b}[31mFORGED", "/a\u{0}FORGED", "/a\rFORGED"] {
            let mut connection = Connection::open(server.process.address);
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            connection.send(request.as_bytes()).unwrap();
            connection.rest();
        }
        let log = server.end();
        assert!(log.matches("FORGED").count() >= 5, "{log}");
        for line in log.lines() {
            assert!(
                !line.contains(|c: char| c.is_control() || c == '\u{2028}'),
                "{line:?}"
            );
            if format == "json" {
                serde_json::from_str::<Value>(line).expect(line);
                continue;
            }
            assert!(
                line.starts_with("20"),
                "a line starts with its time: {line}"
            );
            assert!(
                !line.contains("status\"") && !line.contains(" FORGED"),
                "{line}"
            );
        }
        let count = log.lines().filter(|line| line.contains("end_us")).count();
        assert_eq!(count, 5, "{log}");
    }
}
