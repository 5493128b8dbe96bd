//! The landing page at `/`: who gets it, its headers, and the responses of everybody else, which know no such page.

use crate::support::{Answer, TestServer, assert_error};

const CHROMIUM: &str =
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

fn page(server: &TestServer, headers: &[(&str, &str)]) -> Answer {
    server.get("/", &[&[("Accept", CHROMIUM)], headers].concat())
}

/// Headers in the order of their names, without those that differ in every response.
fn lasting(answer: &Answer) -> Vec<(&str, &str)> {
    let headers = answer.headers.iter();
    let mut headers: Vec<_> = headers
        .map(|(name, value)| (&**name, &**value))
        .filter(|(name, _)| !["date", "x-request-id", "content-length"].contains(name))
        .collect();
    headers.sort_unstable();
    headers
}

#[test]
fn browsers_get_page_with_strict_headers() {
    let server = TestServer::start();
    let answer = page(&server, &[]);
    assert_eq!(answer.status, 200);
    let text = String::from_utf8(answer.body.clone()).unwrap();
    for part in [
        concat!("version ", env!("CARGO_PKG_VERSION"), "<"),
        "<code>http://files.test<wbr>/{org}<wbr>/{app}</code>",
        "<code>http://files.test<wbr>/file</code>",
        "docs/README.md",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Nothing from elsewhere, and no handler or style outside of what the policy names.
    let (markup, _) = text.split_once("<script>").unwrap();
    for part in ["src=", "style=", "@import", "url("] {
        assert!(!markup.contains(part), "{part}");
    }
    let is_handler = |word: &str| word.starts_with("on") && word.contains('=');
    assert!(!markup.split_whitespace().any(is_handler), "{markup}");
    let policy = answer.header("content-security-policy").unwrap();
    let hashes = policy.matches("'sha256-").count();
    assert_eq!(hashes, 2, "{policy}");
    assert!(
        !policy.contains("unsafe") && !policy.contains("http"),
        "{policy}"
    );
    let expected = [
        ("access-control-allow-origin", "*"),
        (
            "access-control-expose-headers",
            "Content-Range, Accept-Ranges, ETag, Content-Length, Retry-After, Content-Disposition, X-Request-Id",
        ),
        ("cache-control", "no-store"),
        ("content-security-policy", policy),
        ("content-type", "text/html; charset=utf-8"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
        ("vary", "Accept"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ];
    assert_eq!(lasting(&answer), expected);
    for part in [
        "default-src 'none'; ",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "connect-src 'self'; ",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    let head = server.request("HEAD", "/", &[("Accept", CHROMIUM)], b"");
    assert_eq!((head.status, lasting(&head)), (200, lasting(&answer)));
    let length = answer.body.len().to_string();
    assert_eq!(head.header("content-length"), Some(&*length));
    // The path decides, not the query.
    let with_query = server.get("/?from=mail", &[("Accept", CHROMIUM)]);
    assert_eq!(with_query.body, answer.body);
}

/// The bytes of a 404, as they were before there was a page.
#[track_caller]
fn assert_unknown(answer: &Answer, about: &str) {
    let json = assert_error(answer, 404, "service_resource_not_found");
    let (timestamp, duration) = (&json["timestamp"], &json["duration"]);
    let expected = format!(
        "{{\"duration\":{duration},\"error\":\"service_resource_not_found\",\
         \"error_description\":\"Service resource not found\",\
         \"exception\":\"org.apache.usergrid.services.exceptions.ServiceResourceNotFoundException\",\
         \"timestamp\":{timestamp}}}"
    );
    assert_eq!(answer.text(), expected, "{about}");
    let headers = [
        ("access-control-allow-origin", "*"),
        (
            "access-control-expose-headers",
            "Content-Range, Accept-Ranges, ETag, Content-Length, Retry-After, Content-Disposition, X-Request-Id",
        ),
        ("cache-control", "no-store"),
        ("content-type", "application/json;charset=UTF-8"),
        ("x-content-type-options", "nosniff"),
    ];
    assert_eq!(lasting(answer), headers, "{about}");
    let length = answer.body.len().to_string();
    assert_eq!(answer.header("content-length"), Some(&*length), "{about}");
}

#[test]
fn other_clients_get_404_as_before() {
    let server = TestServer::start();
    assert_unknown(&server.get("/", &[]), "no Accept");
    for accept in [
        "*/*",
        "application/json",
        "application/json, text/plain, */*",
        "application/json, text/html",
        "text/html;q=0.4, application/json;q=0.5",
        "text/html;q=0",
        "image/avif,image/webp,*/*;q=0.8",
    ] {
        assert_unknown(&server.get("/", &[("Accept", accept)]), accept);
    }
    let html = [("Accept", CHROMIUM)];
    for path in [
        "//",
        "/.",
        "/index.html",
        "/favicon.ico",
        "/style.css",
        "/o",
        "/?x",
    ] {
        let accept: &[_] = if path == "/?x" { &[] } else { &html };
        assert_unknown(&server.get(path, accept), path);
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "BREW"] {
        assert_unknown(&server.request(method, "/", &html, b""), method);
    }
    let preflight = server.request("OPTIONS", "/", &html, b"");
    assert_eq!(preflight.status, 204);
    let lanying = server.get("/file", &html);
    assert_eq!(
        (lanying.status, &lanying.json()["code"]),
        (404, &404.into())
    );
}

#[test]
fn page_can_be_turned_off() {
    let server = TestServer::with("server.landing_page = false");
    assert_unknown(&page(&server, &[]), "off");
}

#[test]
fn urls_come_from_public_url_or_host() {
    let shown = |answer: &Answer, url: &str| {
        let text = String::from_utf8(answer.body.clone()).unwrap();
        text.contains(&format!("<code>{url}<wbr>/file</code>"))
    };
    let server = TestServer::start();
    for (host, url) in [
        ("files.example.com:8080", "http://files.example.com:8080"),
        ("[::1]:8080", "http://[::1]:8080"),
    ] {
        assert!(shown(&page(&server, &[("Host", host)]), url), "{url}");
    }
    // What is no host is refused or not shown.
    for host in [
        "\"><script>alert(1)</script>",
        "a'b",
        "a&amp;b",
        "a b",
        "<b>",
        "${x}",
    ] {
        let answer = page(&server, &[("Host", host)]);
        let text = answer.text();
        assert!(matches!(answer.status, 200 | 400), "{host}: {text}");
        assert!(
            !String::from_utf8_lossy(&answer.body).contains(host),
            "{host}"
        );
    }
    // A public URL may contain what HTML must not.
    let server = TestServer::with("server.public_url = \"https://a'b&c.example:8443/\"");
    let answer = page(&server, &[("Host", "files.example.com")]);
    assert!(
        shown(&answer, "https://a&#39;b&#38;c.example:8443"),
        "{}",
        answer.text()
    );
}

#[test]
fn page_counts_for_rate_limit() {
    let limits = "limits.calls_per_second = 1\nlimits.calls_burst = 2";
    let server = TestServer::with(limits);
    // More than three only on a machine so slow that the bucket refills in between.
    let refused = (0..20)
        .map(|_| page(&server, &[]))
        .find(|answer| answer.status != 200);
    assert_error(&refused.expect("a refusal"), 503, "reach_limit");
}

#[test]
fn page_needs_cdn_secret() {
    let server = TestServer::with("[cdn]\nsecret = \"0123456789abcdef\"\n");
    assert_error(&page(&server, &[]), 403, "forbidden_op");
    let through_cdn = page(&server, &[("X-Cdn-Secret", "0123456789abcdef")]);
    assert_eq!(through_cdn.status, 200);
}
