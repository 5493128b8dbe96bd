//! The operator listener: what it answers and counts, and who can reach it.

mod authentication;
mod certificates;
mod console;
mod counts;
mod dashboard;
mod probes;
mod refusals;
mod tenants;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use chatfiles::routes;

use crate::support::{
    BASE, Connection, Form, TestServer,
    certificates::{Certificate, configuration},
    lanying::APP_ID,
    photo,
};

/// An operator listener on a free port.
const OPERATOR: &str = "[operator]\nlisten = \"127.0.0.1:0\"\n";
const PATHS: [&str; 3] = ["/metrics", "/livez", "/readyz"];

/// The metric families of the document: type and labels by name.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let document = include_str!("../../docs/metrics.md");
    let rows = document
        .lines()
        .filter(|line| line.starts_with("| `chatfiles_"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let words = |cell: &str| {
            let words = cell.split(", ").filter(|word| !word.is_empty());
            words
                .map(|word| word.trim_matches('`').to_owned())
                .collect()
        };
        let name = cells[1].trim_matches('`').to_owned();
        (name, (cells[2].to_owned(), words(cells[3])))
    })
    .collect()
}

/// A server with everything that metrics can show, including a certificate.
fn showing_everything(directory: &Path) -> TestServer {
    let certificate = Certificate::write(directory, "files", &["files.test"]);
    TestServer::in_directory(directory, &configuration(&[&certificate], OPERATOR))
}

/// Uses everything once: both APIs, files, pictures, refusals.
fn use_everything(server: &TestServer) {
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    for headers in [&[][..], &[("thumbnail", "true")], &[("Range", "bytes=0-9")]] {
        assert!(server.download(&id, headers).status < 300);
    }
    let alice = server.lanying("alice");
    let url = alice.send("102", "bob", "a.jpg", &photo());
    assert_eq!(alice.open(&url, "&image_type=2").status, 200);
    assert_eq!(server.get("/healthz", &[]).status, 200);
    assert_eq!(
        server.get(&format!("{BASE}/chatfiles/{id}"), &[]).status,
        401
    );
}

#[test]
fn document_lists_every_metric_family() {
    let directory = tempfile::tempdir().unwrap();
    let server = showing_everything(directory.path());
    let documented = documented();
    assert!(documented.len() > 15, "the table is read");
    // From the start, with and without samples.
    for is_used in [false, true] {
        if is_used {
            use_everything(&server);
        }
        let scrape = server.scrape();
        let shown: BTreeMap<_, _> = documented
            .iter()
            .map(|(name, (kind, _))| (name.clone(), kind.clone()))
            .collect();
        assert_eq!(scrape.families, shown);
    }
    let scrape = server.scrape();
    let mut labels: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for series in scrape.samples.keys() {
        let (name, rest) = series.split_once('{').unwrap_or((series, ""));
        let family = ["_bucket", "_sum", "_count"]
            .into_iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|family| documented.contains_key(*family))
            .unwrap_or(name);
        let names = rest
            .split("\",")
            .filter_map(|label| label.split_once("=\""));
        let names = names.map(|(name, _)| name.to_owned());
        labels
            .entry(family)
            .or_default()
            .extend(names.filter(|name| name != "le"));
    }
    for (name, (_, expected)) in &documented {
        assert_eq!(labels.get(name.as_str()), Some(expected), "{name}");
    }
}

#[test]
fn document_names_every_route() {
    let document = include_str!("../../docs/metrics.md");
    for route in routes::labels() {
        assert!(document.contains(&format!("`{route}`")), "{route}");
    }
}

#[test]
fn requests_create_no_series() {
    let server = TestServer::with(OPERATOR);
    use_everything(&server);
    let bare = server.scrape();
    let garbage = |round: usize| {
        let mut connection = server.connect();
        for (method, path) in [
            ("GET", format!("/{round}")),
            ("GET", format!("/org{round}/app{round}/chatfiles/{round}")),
            ("GET", format!("{BASE}/chatfiles/{round}?a{round}=b")),
            ("BREW", format!("/{round}/x")),
            ("DELETE", format!("{BASE}/chatfiles/{round}")),
            ("GET", format!("/file/download/chat?file_sign={round}")),
            ("GET", format!("/file/upload/x{round}")),
            ("OPTIONS", format!("/{round}\"{{}},=")),
            ("GET", format!("/metrics?{round}")),
        ] {
            connection.request(method, &path, &[("X-A", &round.to_string())], b"");
        }
        // Not HTTP: counted only as a connection.
        let mut connection = server.connect();
        connection
            .send(format!("{round} \0\r\n\r\n").as_bytes())
            .unwrap();
        connection.rest();
    };
    garbage(1);
    let one = server.scrape();
    for round in 2..20 {
        garbage(round);
    }
    let many = server.scrape();
    let series = |scrape: &crate::support::Exposition| -> Vec<String> {
        scrape.samples.keys().cloned().collect()
    };
    assert_eq!(series(&one), series(&many));
    assert!(
        series(&one).len() > series(&bare).len(),
        "invalid requests are counted"
    );
    let refused = many.get(
        "chatfiles_http_requests_total",
        &[("route", "none"), ("status", "404")],
    );
    // `/1`, `BREW /1/x`, `/file/upload/x1` and `/metrics` in each round.
    assert_eq!(refused, 4 * 19);
    let routes: BTreeSet<&str> = routes::labels().collect();
    for series in many.samples.keys() {
        if let Some((_, rest)) = series.split_once("route=\"") {
            let route = rest.split('"').next().unwrap();
            assert!(routes.contains(route), "{series}");
        }
    }
}

#[test]
fn metrics_show_no_client_data() {
    let server = TestServer::with(OPERATOR);
    let token = server.token("alice");
    let form = Form::new().file("confidential.jpg", "image/jpeg", &photo());
    let stored = server.upload(&form, &[("restrict-access", "true")]).json()["entities"][0].clone();
    let (id, secret) = (
        stored["uuid"].as_str().unwrap(),
        stored["share-secret"].as_str().unwrap(),
    );
    let path = format!("{BASE}/chatfiles/{id}?share-secret={secret}&access_token={token}");
    let bearer = format!("Bearer {token}");
    assert_eq!(server.get(&path, &[("Authorization", &bearer)]).status, 200);
    assert_eq!(
        server.get(&path, &[("Authorization", "Bearer x")]).status,
        401
    );
    let alice = server.lanying("alice");
    let url = alice.send("102", "bob", "a.jpg", &photo());
    assert_eq!(alice.open(&url, "").status, 200);
    for path in PATHS {
        let body = server.operator("GET", path).body;
        let text = String::from_utf8(body).unwrap().to_lowercase();
        let store = server.store.display().to_string();
        // Only the counters by tenant name one, by its name in the Easemob API.
        let text = text.replace("tenant=\"easemob-demo/chatdemoui\"", "");
        for hidden in [
            &token,
            id,
            secret,
            "alice",
            "confidential",
            "easemob-demo",
            "chatdemoui",
            APP_ID,
            "127.0.0.1",
            &store,
            &server.client_secret("easemob-demo", "chatdemoui"),
        ] {
            assert!(!text.contains(&hidden.to_lowercase()), "{hidden} in {text}");
        }
    }
}

#[test]
fn listeners_have_separate_paths() {
    let server = TestServer::with(OPERATOR);
    let id = server.store_file("a.txt", "text/plain", b"text");
    for path in PATHS {
        assert_eq!(server.get(path, &[]).status, 404, "{path}");
    }
    let token = format!("Bearer {}", server.token("alice"));
    let mut operator = Connection::open(server.operator.unwrap());
    for path in [
        "/",
        "/healthz",
        "/metrics/",
        "//metrics",
        "/metrics/x",
        "/METRICS",
        &format!("{BASE}/chatfiles/{id}"),
        "/file/upload/chat",
    ] {
        for method in ["GET", "POST", "OPTIONS"] {
            let answer = operator.request(method, path, &[("Authorization", &token)], b"");
            assert_eq!(answer.status, 404, "{method} {path}");
            assert_eq!(answer.text(), "not found\n");
        }
    }
    let shown = server.scrape();
    let none = shown.get(
        "chatfiles_http_requests_total",
        &[("route", "none"), ("status", "404")],
    );
    assert_eq!(none, 3, "operator requests are not counted");
}

#[test]
fn operator_paths_are_read_only() {
    let server = TestServer::with(OPERATOR);
    let mut operator = Connection::open(server.operator.unwrap());
    for (path, content_type) in [
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/livez", "text/plain; charset=utf-8"),
        ("/readyz", "text/plain; charset=utf-8"),
        ("/readyz/reads", "text/plain; charset=utf-8"),
        ("/livez?verbose", "text/plain; charset=utf-8"),
    ] {
        let read = operator.request("GET", path, &[], b"");
        assert_eq!(
            (read.status, read.header("content-type")),
            (200, Some(content_type))
        );
        assert_eq!(read.header("cache-control"), Some("no-store"));
        assert!(read.body.len() > 1, "{path}");
        let head = operator.request("HEAD", path, &[], b"");
        assert_eq!(
            (head.status, head.header("content-type")),
            (200, Some(content_type))
        );
        for method in ["PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
            let refused = operator.request(method, path, &[], b"");
            assert_eq!(refused.status, 405, "{method} {path}");
            assert_eq!(
                refused.header("allow"),
                Some("GET, HEAD"),
                "{method} {path}"
            );
        }
    }
    // The body is not read, and the sender still gets the response.
    for method in ["GET", "POST"] {
        let body = vec![b'x'; 1 << 20];
        let mut connection = Connection::open(server.operator.unwrap());
        let answer = connection.request(method, "/metrics", &[], &body);
        assert_eq!(answer.status, if method == "GET" { 200 } else { 405 });
        assert_eq!(answer.header("connection"), Some("close"));
    }
}

#[test]
fn operator_listener_is_off_by_default() {
    for toml in ["", "[operator]\nlisten = \"\"\n"] {
        let server = TestServer::with(toml);
        assert_eq!(server.operator, None);
        for path in PATHS {
            assert_eq!(server.get(path, &[]).status, 404, "{path}");
        }
    }
}
