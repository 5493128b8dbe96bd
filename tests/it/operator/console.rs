//! The console: its page, its calls, and the audit lines that they leave.

use std::net::SocketAddr;

use chatfiles::secret::hex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    OPERATOR,
    authentication::{GUARDED, log_in, operator_token},
};
use crate::support::{
    Answer, BASE, Connection, Form, TestServer,
    lanying::file_sign,
    photo,
    process::{Process, command, stdout},
};

const TENANT: &str = "easemob-demo/chatdemoui";
const MARKED: [(&str, &str); 3] = [
    ("Host", "127.0.0.1"),
    ("X-Chatfiles-Console", "1"),
    ("Content-Type", "application/json"),
];
/// The headers of every response of the console, byte for byte.
const SECURITY_HEADERS: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

fn ask(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    Connection::open(at).request(method, path, headers, body.as_bytes())
}

fn call(at: SocketAddr, name: &str, body: &Value) -> Answer {
    ask(
        at,
        "POST",
        &format!("/console/api/{name}"),
        &MARKED,
        &body.to_string(),
    )
}

fn find(at: SocketAddr, file: &str) -> Answer {
    call(at, "file", &json!({ "file": file }))
}

fn get(at: SocketAddr, path: &str) -> Answer {
    ask(
        at,
        "GET",
        path,
        &[("Host", "127.0.0.1"), ("Accept", "text/html")],
        "",
    )
}

fn upload_as(at: SocketAddr, query: &str, form: &Form) -> Answer {
    let content_type = form.content_type();
    let headers = [MARKED[0], MARKED[1], ("Content-Type", &*content_type)];
    let path = format!("/console/api/upload?{query}");
    Connection::open(at).request("POST", &path, &headers, &form.bytes())
}

#[test]
fn every_response_has_security_headers() {
    let server = TestServer::with(GUARDED);
    let at = server.operator.unwrap();
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let bearer = format!("Bearer {}", operator_token(&server.store));
    let with_token = [MARKED[0], ("Authorization", &*bearer)];
    let thumbnail = format!(
        "/console/api/thumbnail/chatfile.{}.{id}",
        server.clock.now().day()
    );
    let form = Form::new().file("b.txt", "text/plain", b"text");
    let upload = format!("/console/api/upload?tenant={TENANT}&user=alice");
    let content_type = form.content_type();
    let form_headers = [
        MARKED[0],
        MARKED[1],
        ("Content-Type", &*content_type),
        ("Authorization", &*bearer),
    ];
    let uploaded = Connection::open(at).request("POST", &upload, &form_headers, &form.bytes());
    for (answer, status, content_type) in [
        (get(at, "/"), 200, "text/html; charset=utf-8"),
        (
            get(at, "/console/console.css"),
            200,
            "text/css; charset=utf-8",
        ),
        (
            get(at, "/console/console.js"),
            200,
            "text/javascript; charset=utf-8",
        ),
        (get(at, "/console/icon.svg"), 200, "image/svg+xml"),
        (get(at, "/console/api/info"), 401, "application/json"),
        (find(at, &id), 401, "application/json"),
        (
            ask(at, "GET", "/console/api/info", &with_token, ""),
            200,
            "application/json",
        ),
        (
            ask(at, "GET", "/console/api/levels", &with_token, ""),
            200,
            "application/json",
        ),
        (
            ask(at, "GET", &thumbnail, &with_token, ""),
            200,
            "image/jpeg",
        ),
        (
            ask(at, "GET", "/console/api/file", &with_token, ""),
            405,
            "text/plain; charset=utf-8",
        ),
        (
            ask(
                at,
                "GET",
                "/",
                &[("Host", "a.test"), ("Accept", "text/html")],
                "",
            ),
            403,
            "application/json",
        ),
        (uploaded, 200, "application/json"),
    ] {
        assert_eq!(answer.status, status, "{}", answer.text());
        let kind = answer.header("content-type").unwrap_or_default();
        assert!(kind.starts_with(content_type), "{kind}");
        for (name, value) in SECURITY_HEADERS {
            let sent: Vec<_> = answer.headers.iter().filter(|(n, _)| n == name).collect();
            assert_eq!(
                sent,
                [&(name.to_owned(), value.to_owned())],
                "{}",
                answer.text()
            );
        }
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let logged_in = log_in(at, &operator_token(&server.store), &[]);
    for (name, value) in SECURITY_HEADERS {
        assert_eq!(logged_in.header(name), Some(value));
    }
}

#[test]
fn page_has_only_its_own_code() {
    let server = TestServer::with(OPERATOR);
    let page = get(server.operator.unwrap(), "/").text();
    let lower = page.to_lowercase();
    for inline in [
        "<style",
        "style=",
        " onclick",
        "javascript:",
        "http://",
        "https://",
        "<script>",
    ] {
        assert!(!lower.contains(inline), "{inline}");
    }
    assert_eq!(lower.matches("<script").count(), 1);
}

#[test]
fn page_is_for_browsers_only() {
    let server = TestServer::with(OPERATOR);
    let at = server.operator.unwrap();
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for (method, accept, status) in [
        ("GET", browser, 200),
        ("HEAD", browser, 200),
        ("GET", "*/*", 404),
        ("GET", "application/json", 404),
        ("GET", "text/plain", 404),
        ("POST", browser, 404),
        ("OPTIONS", browser, 404),
    ] {
        let answer = ask(at, method, "/", &[MARKED[0], ("Accept", accept)], "");
        assert_eq!(answer.status, status, "{method} {accept}");
        if status == 404 {
            assert_eq!(answer.text(), "not found\n");
        }
    }
    for path in [
        "/console",
        "/console/",
        "/console/x",
        "/console/api/thumbnail/x",
        "//",
        "/index.html",
    ] {
        let answer = get(at, path);
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (404, "not found\n"),
            "{path}"
        );
    }
    assert_eq!(
        server
            .get("/console/console.js", &[("Accept", browser)])
            .status,
        404
    );
}

#[test]
fn lookup_shows_no_secret() {
    let server = TestServer::with(OPERATOR);
    let at = server.operator.unwrap();
    let form = Form::new().file("private.jpg", "image/jpeg", &photo());
    let stored = server.upload(&form, &[("restrict-access", "true")]).json()["entities"][0].clone();
    let (id, secret) = (
        stored["uuid"].as_str().unwrap(),
        stored["share-secret"].as_str().unwrap(),
    );
    let link = format!("http://files.test{BASE}/chatfiles/{id}?share-secret={secret}");
    for reference in [id, &link, &id.to_uppercase()] {
        let answer = find(at, reference);
        let file = answer.json();
        assert_eq!(file["id"], id, "{reference}");
        assert_eq!(file["is_restricted"], true);
        assert_eq!(file["owner"], "alice");
        assert_eq!(file["tenant"], TENANT);
        assert_eq!(file["api"], "easemob");
        assert_eq!(file["file_name"], "private.jpg");
        assert_eq!(file["size_bytes"], photo().len());
        assert_eq!(file["content_type"], "image/jpeg");
        assert_eq!(file["expires_ms"], Value::Null);
        let text = answer.text().to_lowercase();
        let hash = hex(&Sha256::digest(secret.as_bytes()));
        for hidden in [&secret.to_lowercase(), &hash, "share-secret", "secret"] {
            assert!(!text.contains(hidden), "{hidden} in {text}");
        }
        // The thumbnail needs no secret either.
        let thumbnail = ask(
            at,
            "GET",
            file["thumbnail"].as_str().unwrap(),
            &MARKED[..1],
            "",
        );
        assert_eq!(
            (thumbnail.status, thumbnail.header("content-type")),
            (200, Some("image/jpeg"))
        );
        assert!(thumbnail.body.starts_with(&[0xff, 0xd8]));
    }
}

#[test]
fn lookup_finds_files_of_both_apis() {
    let toml = format!("{OPERATOR}[retention]\nimage_days = 7\n");
    let server = TestServer::with(&toml);
    let at = server.operator.unwrap();
    let text = server.store_file("notes.txt", "text/plain", b"text");
    let file = find(at, &format!("{BASE}/chatfiles/{text}")).json();
    assert_eq!(
        (&file["id"], &file["thumbnail"]),
        (&json!(text), &Value::Null)
    );
    let url = server
        .lanying("alice")
        .send("102", "bob", "a.jpg", &photo());
    let by_link = find(at, &url).json();
    assert_eq!(by_link["api"], "lanying");
    assert_eq!(by_link["class"], "image");
    assert_eq!(by_link["owner"], "alice");
    let (created, expires) = (
        by_link["created_ms"].as_i64(),
        by_link["expires_ms"].as_i64(),
    );
    assert!(expires.unwrap() > created.unwrap() + 7 * 86_400_000);
    for reference in [
        by_link["id"].as_str().unwrap(),
        by_link["key"].as_str().unwrap(),
        file_sign(&url),
    ] {
        assert_eq!(
            find(at, reference).json()["key"],
            by_link["key"],
            "{reference}"
        );
    }
    // Forwarded to a later day, of which only the new link knows.
    server.clock.advance(2 * 86_400_000);
    let call = format!(
        "upload/forward?to_id=carol&to_type=1&file_sign={}",
        file_sign(&url)
    );
    let forwarded = server.lanying("bob").get(&call).json();
    let forwarded = find(at, &forwarded["data"].to_string()).json();
    assert_eq!(forwarded["id"], by_link["id"]);
    assert_ne!(forwarded["key"], by_link["key"]);
    let unknown = find(at, "01a22a77-f25c-793f-9e3e-aaf850cbdcf2");
    assert_eq!(
        (unknown.status, unknown.json()),
        (404, json!({ "error": "there is no such file" }))
    );
    for nothing in ["", "alice", "https://example.com/"] {
        assert_eq!(find(at, nothing).status, 400, "{nothing}");
    }
}

#[test]
fn take_down_needs_confirmation() {
    let server = TestServer::with(OPERATOR);
    let at = server.operator.unwrap();
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    assert_eq!(server.download(&id, &[("thumbnail", "true")]).status, 200);
    for body in [
        json!({ "id": id }),
        json!({ "id": id, "confirm": "" }),
        json!({ "id": id, "confirm": "yes" }),
        json!({ "id": id, "confirm": &id[..35] }),
        json!({ "id": "", "confirm": "" }),
        json!({ "id": id, "confirm": id, "more": 1 }),
    ] {
        assert_eq!(call(at, "take-down", &body).status, 400, "{body}");
        assert_eq!(server.download(&id, &[]).status, 200);
    }
    let confirmed = json!({ "id": id, "confirm": id });
    let answer = call(at, "take-down", &confirmed);
    assert_eq!(
        (answer.status, answer.json()),
        (200, json!({ "removed": id }))
    );
    assert_eq!(server.download(&id, &[]).status, 404);
    assert_eq!(server.download(&id, &[("thumbnail", "true")]).status, 404);
    assert_eq!(find(at, &id).status, 404);
    assert_eq!(call(at, "take-down", &confirmed).status, 404);
}

/// The audit lines of a log in JSON.
fn audit_lines(log: &str) -> Vec<Value> {
    let lines = log.lines().filter(|line| line.starts_with('{'));
    let fields = lines.map(|line| serde_json::from_str::<Value>(line).unwrap()["fields"].clone());
    fields
        .filter(|fields| fields["message"] == "audit")
        .collect()
}

#[test]
fn every_take_down_is_audited() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    // No other line of this level is written.
    let config = directory.path().join("chatfiles.toml");
    std::fs::write(&config, "[log]\nlevel = \"error\"\nformat = \"json\"\n").unwrap();
    let config = ["--config", config.to_str().unwrap()];
    let flags = [&config[..], &["--operator-listen", "127.0.0.1:0"]].concat();
    let mut server = Process::start(&store, &flags);
    let at = server.operator();
    let ids: Vec<_> = (0..3).map(|n| server.upload(&[n; 100])).collect();
    let confirmed = json!({ "id": ids[0], "confirm": ids[0] });
    assert_eq!(call(at, "take-down", &confirmed).status, 200);
    assert_eq!(call(at, "take-down", &confirmed).status, 404);
    let rm = |id: &str| command(&store, &[&config[..], &["rm", id]].concat());
    assert!(stdout(&rm(&ids[1])).starts_with("removed"));
    server.stop();
    let log = server.log();
    // Without a server, the line is on standard error.
    let offline = rm(&ids[2]);
    assert!(stdout(&offline).starts_with("removed"));
    let offline = String::from_utf8(offline.stderr).unwrap();
    let lines = [audit_lines(&log), audit_lines(&offline)].concat();
    let expected = [
        (&ids[0], TENANT, "console 127.0.0.1", "removed"),
        (&ids[0], "", "console 127.0.0.1", "not found"),
        (
            &ids[1],
            TENANT,
            "command line, through the server",
            "removed",
        ),
        (&ids[2], TENANT, "command line", "removed"),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, (id, tenant, by, outcome)) in lines.iter().zip(expected) {
        assert_eq!(line["action"], "take-down");
        assert_eq!(line["object"], id.as_str());
        assert_eq!(line["tenant"], tenant);
        assert_eq!(line["by"], by);
        assert_eq!(line["outcome"], outcome);
    }
    let request = lines[0]["request"].as_str().unwrap();
    assert!(request.len() == 16 && lines[1]["request"] != request);
}

#[test]
fn login_and_upload_are_audited() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let config = directory.path().join("chatfiles.toml");
    let text = "[operator]\nauthentication = \"token\"\n[log]\nformat = \"json\"\n";
    std::fs::write(&config, text).unwrap();
    let flags = [
        "--config",
        config.to_str().unwrap(),
        "--operator-listen",
        "127.0.0.1:0",
    ];
    let mut server = Process::start(&store, &flags);
    let at = server.operator();
    let token = operator_token(&store);
    assert_eq!(log_in(at, "a wrong token", &[]).status, 401);
    let set = log_in(at, &token, &[])
        .header("set-cookie")
        .unwrap()
        .to_owned();
    let cookie = set.split(';').next().unwrap();
    let form = Form::new().file("a.jpg", "image/jpeg", &photo());
    let content_type = form.content_type();
    let headers = [
        MARKED[0],
        MARKED[1],
        ("Content-Type", &*content_type),
        ("Cookie", cookie),
    ];
    let path = format!("/console/api/upload?tenant={TENANT}&user=bob");
    let answer = Connection::open(at).request("POST", &path, &headers, &form.bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    server.stop();
    let log = server.log();
    let lines = audit_lines(&log);
    let actions: Vec<_> = lines.iter().map(|line| line["action"].clone()).collect();
    assert_eq!(actions, ["log-in", "upload-as"]);
    assert_eq!(lines[1]["object"], "bob");
    assert_eq!(lines[1]["tenant"], TENANT);
    let by = lines[1]["by"].as_str().unwrap();
    assert!(by.starts_with("console 127.0.0.1, session "), "{by}");
    let secret = cookie.split_once('=').unwrap().1;
    for hidden in [&*token, secret, "a wrong token"] {
        assert!(!log.contains(hidden));
    }
}

#[test]
fn uploads_as_chosen_user() {
    // Behind a CDN, the public listener refuses whoever does not know the secret.
    let toml = format!("{OPERATOR}[cdn]\nsecret = \"0123456789abcdefghij\"\n");
    let server = TestServer::with(&toml);
    let at = server.operator.unwrap();
    let form = Form::new().file("a.jpg", "image/jpeg", &photo());
    let answer = upload_as(
        at,
        &format!("tenant={TENANT}&user=%E5%BC%A0%E4%B8%89"),
        &form,
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    let stored = answer.json();
    let id = stored["entities"][0]["uuid"].as_str().unwrap();
    let file = find(at, id).json();
    assert_eq!(
        (&file["owner"], &file["tenant"]),
        (&json!("张三"), &json!(TENANT))
    );
    assert!(!answer.text().contains("Bearer") && !answer.text().contains("eyJ"));
    assert!(!answer.text().contains("0123456789abcdefghij"));
    for (query, status) in [
        ("", 400),
        ("tenant=no/such&user=alice", 400),
        (&*format!("tenant={TENANT}"), 400),
        (&format!("tenant={TENANT}&user=a%2Fb"), 400),
        (&format!("tenant={TENANT}&user=a%0Ab"), 400),
        (&format!("tenant={TENANT}/chatfiles&user=alice"), 400),
    ] {
        assert_eq!(upload_as(at, query, &form).status, status, "{query}");
    }
    // It is a request like every other one: the limits and the metrics of the public listener apply.
    let bearer = [
        MARKED[0],
        MARKED[1],
        ("Authorization", "Bearer forged"),
        ("Content-Type", "text/plain"),
    ];
    let path = format!("/console/api/upload?tenant={TENANT}&user=alice");
    assert!(ask(at, "POST", &path, &bearer, "text").status >= 400);
    let count = server.scrape().get(
        "chatfiles_http_requests_total",
        &[("route", "easemob_upload"), ("status", "200")],
    );
    assert_eq!(count, 1);
}

#[test]
fn levels_agree_with_metrics() {
    let server = TestServer::with(OPERATOR);
    let at = server.operator.unwrap();
    super::use_everything(&server);
    let levels = get(at, "/console/api/levels").json();
    let scrape = server.scrape();
    let routes = levels["routes"].as_array().unwrap();
    assert!(routes.len() > 3);
    for route in routes {
        let name = route["route"].as_str().unwrap();
        let mut answered = 0;
        for (status, count) in route["statuses"].as_object().unwrap() {
            let labels = [("route", name), ("status", status.as_str())];
            let shown = scrape.get("chatfiles_http_requests_total", &labels);
            assert_eq!(count.as_u64(), Some(shown), "{name} {status}");
            answered += shown;
        }
        let buckets = route["buckets"].as_array().unwrap();
        assert_eq!(
            buckets.len(),
            levels["bucket_bounds_seconds"].as_array().unwrap().len() + 1
        );
        assert_eq!(
            buckets.iter().filter_map(Value::as_u64).sum::<u64>(),
            answered
        );
        let sent = scrape.get(
            "chatfiles_http_response_body_bytes_total",
            &[("route", name)],
        );
        assert_eq!(route["sent_bytes"].as_u64(), Some(sent));
    }
    let hits = scrape.get("chatfiles_open_object_lookups_total", &[("result", "hit")]);
    assert_eq!(levels["open_objects"]["hit"].as_u64(), Some(hits));
    let made = scrape.get(
        "chatfiles_derivative_lookups_total",
        &[("kind", "thumbnail"), ("source", "made")],
    );
    assert_eq!(levels["derivatives"]["made"].as_u64(), Some(made));
    assert!(levels["disk"]["free_bytes"].as_u64().unwrap() > 0);
    assert_eq!(levels["uploads"]["in_flight"], 0);
}

#[test]
fn call_bodies_are_bounded() {
    let server = TestServer::with(OPERATOR);
    let at = server.operator.unwrap();
    let long = json!({ "file": "x".repeat(20_000) }).to_string();
    assert_eq!(
        ask(at, "POST", "/console/api/file", &MARKED, &long).status,
        413
    );
    for (body, status) in [
        ("", 400),
        ("{", 400),
        ("[]", 400),
        ("{\"file\":1}", 400),
        ("{\"file\":\"\"}", 400),
    ] {
        let answer = ask(at, "POST", "/console/api/file", &MARKED, body);
        assert_eq!(answer.status, status, "{body}");
        assert!(answer.json()["error"].is_string());
    }
    let mut connection = Connection::open(at);
    let answer = connection.request("POST", "/console/api/file", &MARKED, b"\"\xff\"");
    assert_eq!(answer.status, 400);
}
