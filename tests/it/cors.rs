//! CORS headers on preflights, successes and every error.

use crate::support::{Answer, BASE, Form, TestServer};

const ORIGIN: (&str, &str) = ("Origin", "https://chat.example");
const PARTS: &str = "/easemob-demo/chatdemoui/sdk/chatfiles/part-upload";

/// The names of a comma-separated header, in lower case.
#[track_caller]
fn names(answer: &Answer, header: &str) -> Vec<String> {
    let value = answer
        .header(header)
        .unwrap_or_else(|| panic!("no {header}: {:?}", answer.headers));
    value
        .split(',')
        .map(|name| name.trim().to_ascii_lowercase())
        .collect()
}

fn preflight(server: &TestServer, path: &str, method: &str, headers: &str) -> Answer {
    let mut all = vec![ORIGIN, ("Access-Control-Request-Method", method)];
    if !headers.is_empty() {
        all.push(("Access-Control-Request-Headers", headers));
    }
    server.request("OPTIONS", path, &all, b"")
}

#[test]
fn preflight_needs_no_token() {
    let server = TestServer::start();
    let id = "0190a5c4-5a7b-7000-8000-000000000000";
    let upload = "restrict-access, Authorization, content-type";
    let download = "X-Requested-With, share-secret, Authorization, thumbnail, content-type";
    for (path, method, headers) in [
        (format!("{BASE}/chatfiles"), "POST", upload),
        (
            format!("{BASE}/chatfiles/"),
            "POST",
            "restrict-access,authorization",
        ),
        (format!("{BASE}/chatfiles/{id}"), "GET", download),
        (
            format!("{BASE}/chatfiles/{id}?thumbnail=true"),
            "HEAD",
            download,
        ),
        (
            format!("{BASE}/chatfiles/{id}"),
            "GET",
            "range, if-none-match",
        ),
        (format!("{BASE}/token"), "POST", "content-type"),
        (PARTS.to_owned(), "POST", "authorization"),
        (
            format!("{PARTS}/{id}"),
            "PUT",
            "authorization, content-type, x-new-of-an-sdk",
        ),
        (format!("{PARTS}/{id}"), "DELETE", "authorization"),
        (format!("{PARTS}/{id}/parts"), "GET", "authorization"),
    ] {
        let answer = preflight(&server, &path, method, headers);
        assert!(
            matches!(answer.status, 200 | 204),
            "{path}: {}",
            answer.status
        );
        assert!(answer.body.is_empty());
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        let methods = names(&answer, "access-control-allow-methods");
        for method in ["get", "head", "post", "put", "delete"] {
            assert!(
                methods.iter().any(|name| name == method),
                "{method}: {methods:?}"
            );
        }
        let allowed = names(&answer, "access-control-allow-headers");
        for header in headers.split(',') {
            let header = header.trim().to_ascii_lowercase();
            assert!(allowed.contains(&header), "{path}: {header}: {allowed:?}");
        }
        assert!(!allowed.iter().any(|name| name == "*"));
        assert!(answer.header("access-control-max-age").is_some());
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
}

#[test]
fn preflight_is_exempt_from_rate() {
    let server = TestServer::with("limits.calls_per_second = 1\nlimits.calls_burst = 1");
    let path = format!("{BASE}/chatfiles");
    for _ in 0..20 {
        assert_eq!(
            preflight(&server, &path, "POST", "authorization").status,
            204
        );
    }
    assert_eq!(server.request("POST", &path, &[], b"").status, 401);
}

/// One response of each status that a browser must be able to read.
fn answers(origin: (&str, &str), cors: &str) -> Vec<Answer> {
    let tenant = "[[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\n";
    let server = TestServer::with(&format!("{cors}limits.upload_bytes_max = 1000\n{tenant}"));
    let authorization = format!("Bearer {}", server.token("alice"));
    let upload = |bytes: usize| {
        let form = Form::new().file("a.txt", "text/plain", &vec![b'x'; bytes]);
        server.upload(&form, &[origin])
    };
    let uploaded = upload(100);
    let id = uploaded.json()["entities"][0]["uuid"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("{BASE}/chatfiles/{id}");
    let token = ("Authorization", &*authorization);
    let etag = server.download(&id, &[]).header("etag").unwrap().to_owned();
    let mut found = vec![
        uploaded,
        server.get(&path, &[origin, token]),
        server.request("HEAD", &path, &[origin, token], b""),
        server.get(&path, &[origin, token, ("Range", "bytes=0-1")]),
        server.get(&path, &[origin, token, ("If-None-Match", &etag)]),
        server.get(&path, &[origin, token, ("Range", "bytes=500-")]),
        server.get(&path, &[origin]),
        server.get(&format!("{BASE}/chatfiles/x"), &[origin, token]),
        server.get("/nothing", &[origin]),
        server.get("/no/tenant/chatfiles/x", &[origin]),
        server.request("DELETE", &path, &[origin, token], b""),
        upload(2000),
        server.request("POST", &format!("{BASE}/chatfiles"), &[origin, token], b"x"),
        server.get("/healthz", &[origin]),
    ];
    let limited = TestServer::with(&format!(
        "{cors}limits.calls_per_second = 1\nlimits.calls_burst = 1"
    ));
    let refused = (0..20)
        .map(|_| limited.get(&path, &[origin]))
        .find(|answer| answer.status == 503);
    found.extend(refused);
    let statuses: Vec<_> = found.iter().map(|answer| answer.status).collect();
    let expected = [
        200, 200, 200, 206, 304, 416, 401, 404, 404, 404, 405, 413, 415, 200, 503,
    ];
    assert_eq!(statuses, expected);
    found
}

#[test]
fn any_origin_reads_by_default() {
    for answer in answers(ORIGIN, "") {
        let status = answer.status;
        assert_eq!(
            answer.header("access-control-allow-origin"),
            Some("*"),
            "{status}"
        );
        let exposed = names(&answer, "access-control-expose-headers");
        for header in [
            "content-range",
            "accept-ranges",
            "etag",
            "content-length",
            "retry-after",
        ] {
            assert!(
                exposed.iter().any(|name| name == header),
                "{status}: {exposed:?}"
            );
        }
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
}

#[test]
fn only_listed_origin_is_named() {
    let setting = "cors.allowed_origins = [\"https://a.example\", \"https://chat.example\"]\n";
    for answer in answers(ORIGIN, setting) {
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!(allowed, Some("https://chat.example"), "{}", answer.status);
        let vary: Vec<_> = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "vary")
            .collect();
        let varies = vary
            .iter()
            .any(|(_, value)| value.to_ascii_lowercase().contains("origin"));
        assert!(varies, "{}: {vary:?}", answer.status);
    }
    for stranger in ["https://chat.example.evil", "http://chat.example", "null"] {
        for answer in answers(("Origin", stranger), setting) {
            let allowed = answer.header("access-control-allow-origin");
            assert_eq!(allowed, None, "{stranger}: {}", answer.status);
        }
    }
    let server = TestServer::with(setting);
    let path = format!("{BASE}/chatfiles");
    let answer = preflight(&server, &path, "POST", "authorization");
    assert_eq!(answer.header("access-control-allow-origin"), Some(ORIGIN.1));
    let headers = [
        ("Origin", "https://evil.example"),
        ("Access-Control-Request-Method", "POST"),
    ];
    let answer = server.request("OPTIONS", &path, &headers, b"");
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("access-control-allow-headers"), None);
}
