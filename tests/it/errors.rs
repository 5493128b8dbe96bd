//! The error table of the Easemob API, one check per row. `odd_requests.rs` tests other requests.

use std::collections::HashSet;

use chatfiles::auth::Subject;

use crate::support::{Answer, BASE, Form, TestServer, assert_error, head, photo};

const NEVER: &str = "0190a5c4-5a7b-7000-8000-000000000000";

/// Checks one row: status, `error`, `error_description`, and the fields that every error has.
#[track_caller]
fn check(answer: &Answer, status: u16, error: &str, description: &str) {
    let json = assert_error(answer, status, error);
    assert_eq!(json["error_description"], description);
    let exception = json["exception"].as_str().unwrap();
    let parts: Vec<_> = exception.split('.').collect();
    let is_name =
        |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    assert!(parts.len() >= 3 && parts.iter().all(is_name), "{exception}");
    assert!(
        parts.last().unwrap().starts_with(char::is_uppercase),
        "{exception}"
    );
    assert!(answer.header("x-request-id").is_some());
}

/// A valid id of no file.
fn fresh_id(server: &TestServer) -> String {
    chatfiles::store::ObjectId::new(server.clock.now(), &[7; 10]).to_string()
}

fn authorization(server: &TestServer) -> String {
    format!("Bearer {}", server.token("alice"))
}

fn two_tenants() -> TestServer {
    TestServer::with(
        "[[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\n[[tenant]]\norg = \"o\"\napp = \"a\"",
    )
}

const NO_FILE: &str =
    "file must be provided. The part of the form with the file must be named `file`.";

#[test]
fn row_400_form_without_file() {
    let server = TestServer::start();
    let answer = server.upload(&Form::new().field("x", "y"), &[]);
    check(&answer, 400, "illegal_argument", NO_FILE);
}

#[test]
fn row_401_missing_expired_corrupt_token() {
    const MISSING: (&str, &str) = ("unauthorized", "Unable to authenticate (OAuth)");
    const EXPIRED: (&str, &str) = (
        "unauthorized",
        "Unable to authenticate due to expired access token",
    );
    const CORRUPT: (&str, &str) = (
        "auth_bad_access_token",
        "Unable to authenticate due to corrupt access token",
    );
    let server = two_tenants();
    let old = authorization(&server);
    server.clock.advance(25 * 3_600_000);
    let good = server.token("alice");
    let flipped = format!("Bearer {}", {
        let at = good.len() - 5;
        let other = if good.as_bytes()[at] == b'A' {
            "B"
        } else {
            "A"
        };
        format!("{}{other}{}", &good[..at], &good[at + 1..])
    });
    let other_tenants = format!(
        "Bearer {}",
        server.token_of("o", "a", Subject::User("alice".into()))
    );
    let upload = format!("{BASE}/chatfiles");
    let download = format!("{BASE}/chatfiles/{NEVER}");
    for (value, (error, description)) in [
        (None, MISSING),
        (Some(""), MISSING),
        (Some("Bearer"), MISSING),
        (Some("Bearer "), MISSING),
        (Some("Basic dTpw"), MISSING),
        (Some(&*old), EXPIRED),
        (Some("Bearer nonsense"), CORRUPT),
        (Some("Bearer a.b.c"), CORRUPT),
        (Some("Bearer ZHQtbm9uc2Vuc2U"), CORRUPT),
        (Some(&*flipped), CORRUPT),
        (Some(&*other_tenants), CORRUPT),
    ] {
        let headers: Vec<_> = value
            .map(|value| ("Authorization", value))
            .into_iter()
            .collect();
        for answer in [
            server.get(&download, &headers),
            server.request("POST", &upload, &headers, b"x"),
        ] {
            check(&answer, 401, error, description);
            assert!(
                answer
                    .header("www-authenticate")
                    .unwrap()
                    .starts_with("Bearer")
            );
        }
    }
    let lower = format!("bearer {good}");
    assert_eq!(
        server.get(&download, &[("authorization", &lower)]).status,
        404
    );
}

#[test]
fn row_403_wrong_or_missing_secret() {
    let server = TestServer::start();
    let answer = server.upload(
        &Form::new().file("a.txt", "text/plain", b"hello"),
        &[("restrict-access", "true")],
    );
    let id = answer.json()["entities"][0]["uuid"]
        .as_str()
        .unwrap()
        .to_owned();
    for headers in [
        &[][..],
        &[("share-secret", "wrong")],
        &[("share-secret", "")],
    ] {
        check(
            &server.download(&id, headers),
            403,
            "forbidden_op",
            "chatfile no permission",
        );
    }
}

#[test]
fn row_404_unknown_or_expired_file() {
    let server = TestServer::with("retention.chatfile_days = 1");
    let id = server.store_file("a.txt", "text/plain", b"hello");
    let fresh = fresh_id(&server);
    for never in [&*fresh, "x", "%2e%2e", "..%2f..%2fetc%2fpasswd"] {
        let answer = server.download(never, &[]);
        check(&answer, 404, "entity_not_found", "file may not exists");
    }
    server.clock.advance(2 * 86_400_000);
    for _ in 0..2 {
        let answer = server.download(&id, &[]);
        check(
            &answer,
            404,
            "file_expired",
            &format!("file {id} is expired"),
        );
    }
}

#[test]
fn row_404_unknown_tenant() {
    let server = TestServer::start();
    for (org, app) in [
        ("no", "body"),
        ("easemob-demo", "other"),
        ("other", "chatdemoui"),
        ("Easemob-Demo", "chatdemoui"),
    ] {
        for (method, rest) in [
            ("POST", "chatfiles".to_owned()),
            ("GET", format!("chatfiles/{NEVER}")),
            ("POST", "token".into()),
        ] {
            let path = format!("/{org}/{app}/{rest}");
            let answer = server.request(method, &format!("{path}?token=secret"), &[], b"");
            let description =
                format!("Could not find application for {org}/{app} from URI: {path}");
            check(
                &answer,
                404,
                "organization_application_not_found",
                &description,
            );
        }
    }
}

#[test]
fn row_404_unknown_path() {
    let server = TestServer::start();
    for path in [
        "/",
        "//",
        "/index.html",
        "/easemob-demo/chatdemoui",
        "/easemob-demo/chatdemoui/",
        "/easemob-demo/chatdemoui/chatfile",
        "/easemob-demo/chatdemoui/chatfiles/a/b",
        "/easemob-demo/chatdemoui/chatfil%65s/x",
        "/easemob-demo/chatdemoui/sdk/chatfiles",
        "/a/b/c/d/e/f/g/h/i/j/k",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/图片/聊天",
        "/?x=/easemob-demo/chatdemoui/chatfiles",
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "BREW"] {
            let answer = server.request(method, path, &[], b"");
            check(
                &answer,
                404,
                "service_resource_not_found",
                "Service resource not found",
            );
        }
    }
}

#[test]
fn row_405_names_allowed_methods() {
    let server = TestServer::start();
    let parts = format!("{BASE}/sdk/chatfiles/part-upload");
    for (path, allowed) in [
        (format!("{BASE}/chatfiles"), &["POST", "OPTIONS"][..]),
        (
            format!("{BASE}/chatfiles/{NEVER}"),
            &["GET", "HEAD", "OPTIONS"],
        ),
        (format!("{BASE}/token"), &["POST", "OPTIONS"]),
        (parts.clone(), &["POST", "OPTIONS"]),
        (
            format!("{parts}/{NEVER}"),
            &["PUT", "POST", "DELETE", "OPTIONS"],
        ),
        (format!("{parts}/{NEVER}/parts"), &["GET", "OPTIONS"]),
        ("/healthz".into(), &["GET", "HEAD"]),
    ] {
        for method in [
            "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW", "get",
        ] {
            let answer = server.request(method, &path, &[], b"");
            if allowed.contains(&method) {
                assert_ne!(answer.status, 405, "{method} {path}");
                continue;
            }
            if method == "HEAD" {
                assert_eq!((answer.status, answer.body.len()), (405, 0), "{path}");
            } else {
                let json = assert_error(&answer, 405, "unsupported_service_operation");
                let description = json["error_description"].as_str().unwrap().to_owned();
                check(&answer, 405, "unsupported_service_operation", &description);
            }
            let named: HashSet<_> = answer.header("allow").unwrap().split(", ").collect();
            assert_eq!(named, allowed.iter().copied().collect(), "{method} {path}");
        }
    }
}

#[test]
fn rows_413_and_415() {
    let server = TestServer::with("limits.upload_bytes_max = 10");
    let answer = server.upload(&Form::new().file("a", "text/plain", &[b'x'; 11]), &[]);
    let description = "the file size exceeds the maximum limit.";
    check(&answer, 413, "file exceeding maximum limit", description);
    let authorization = authorization(&server);
    let headers = [
        ("Authorization", &*authorization),
        ("Content-Type", "application/json"),
    ];
    let answer = server.request("POST", &format!("{BASE}/chatfiles"), &headers, b"{}");
    check(&answer, 415, "web_application", "Unsupported Media Type");
}

#[test]
fn row_503_or_429_rate_limit() {
    for (setting, status) in [("", 503), ("limits.status = 429\n", 429)] {
        let server = TestServer::with(&format!(
            "{setting}limits.calls_per_second = 1\nlimits.calls_burst = 2"
        ));
        for path in [
            format!("{BASE}/chatfiles/{NEVER}"),
            "/no/such/path/at/all".into(),
        ] {
            // More than three only on a machine so slow that the bucket refills in between.
            let answer = (0..20)
                .map(|_| server.get(&path, &[]))
                .find(|answer| answer.status == status);
            let answer = answer.unwrap();
            check(
                &answer,
                status,
                "reach_limit",
                "This request has reached api limit",
            );
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
        assert_eq!(server.get("/healthz", &[]).status, 200);
    }
}

#[test]
fn row_503_unavailable() {
    let server = TestServer::start();
    let authorization = authorization(&server);
    let path = format!("{BASE}/sdk/chatfiles/part-upload");
    let begin = || server.request("POST", &path, &[("Authorization", &authorization)], b"");
    // The maximum number of unfinished uploads in parts per user.
    for _ in 0..16 {
        assert_eq!(begin().status, 200);
    }
    let answer = begin();
    check(
        &answer,
        503,
        "service_unavailable",
        "this user has too many unfinished uploads in parts: complete or abort one, or try again in a minute.",
    );
    assert!(
        answer
            .header("retry-after")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );
}

/// Downloads go on.
#[test]
fn row_507_free_space_floor() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::in_directory(directory.path(), "");
    let id = server.store_file("a.txt", "text/plain", b"hello");
    drop(server);
    let floor = "store.free_space_min_bytes = 1152921504606846976";
    let server = TestServer::in_directory(directory.path(), floor);
    let answer = server.upload(&Form::new().file("a.txt", "text/plain", b"hello"), &[]);
    check(&answer, 507, "insufficient_storage", "not enough storage");
    assert_eq!(server.download(&id, &[]).body, b"hello");
}

#[test]
fn row_500_shows_no_details() {
    let server = TestServer::start();
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let object = server
        .store
        .join("objects")
        .join(&server.files_in("objects")[0]);
    std::fs::write(object, b"no object any more").unwrap();
    let answer = server.download(&id, &[]);
    check(&answer, 500, "internal_error", "an internal error occurred");
    let text = answer.text();
    let root = server.store.to_string_lossy();
    for inside in [&*root, "objects", "trailer", "src/", ".rs", "os error"] {
        assert!(!text.contains(inside), "{inside}: {text}");
    }
    let id = server.store_file("a.txt", "text/plain", b"the server continues");
    assert_eq!(server.download(&id, &[]).status, 200);
}
