//! `GET /{org}/{app}/chatfiles/{uuid}`: who may download a file, and the responses for missing files.
//!
//! `http/` tests ranges, conditions and headers.

mod access;

use chatfiles::{auth::Subject, store::ObjectId};

use crate::support::{Answer, BASE, Form, TestServer, assert_error, configuration, photo};

const TENANTS: &str = r#"
    [[tenant]]
    org = "easemob-demo"
    app = "chatdemoui"
    [[tenant]]
    org = "acme"
    app = "chat"
"#;

const DAY_MS: i64 = 86_400_000;

/// A row of the contract's error table: status, `error`, `error_description`.
type Refusal = (u16, &'static str, &'static str);

const NO_TOKEN: Refusal = (401, "unauthorized", "Unable to authenticate (OAuth)");
const EXPIRED: Refusal = (
    401,
    "unauthorized",
    "Unable to authenticate due to expired access token",
);
const BAD_TOKEN: Refusal = (
    401,
    "auth_bad_access_token",
    "Unable to authenticate due to corrupt access token",
);
const NO_PERMISSION: Refusal = (403, "forbidden_op", "chatfile no permission");
const NO_FILE: Refusal = (404, "entity_not_found", "file may not exists");

#[track_caller]
fn check(answer: &Answer, expected: Option<Refusal>, about: &str) {
    match expected {
        None => {
            assert_eq!(answer.status, 200, "{about}: {}", answer.text());
            assert!(answer.body == photo(), "{about}: other bytes");
        }
        Some((status, error, description)) => {
            assert_eq!(answer.status, status, "{about}: {}", answer.text());
            let json = assert_error(answer, status, error);
            assert_eq!(json["error_description"], description, "{about}");
        }
    }
}

/// Uploads the photo with a secret; returns id and secret.
fn store_restricted(server: &TestServer) -> (String, String) {
    let form = Form::new().file("a.jpg", "image/jpeg", &photo());
    let answer = server.upload(&form, &[("restrict-access", "true")]);
    let json = answer.json();
    let entity = |field: &str| {
        json["entities"][0][field]
            .as_str()
            .expect("a field of an upload")
            .to_owned()
    };
    (entity("uuid"), entity("share-secret"))
}

#[test]
fn foreign_ids_are_not_found() {
    let server = TestServer::with(TENANTS);
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let fresh = ObjectId::new(server.clock.now(), &[7; 10]).to_string();
    let long = "a".repeat(4000);
    let no_file = [
        fresh.as_str(),
        "0c0f5f3a-e66b-11e3-8863-f1c202c2b3ae",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
        "..",
        ".",
        "%2e%2e",
        "..%2f..%2fkeys%2fkeys.json",
        "..%5c..%5ckeys",
        "%00",
        "undefined",
        "null",
        "*",
        "..;",
        &id.replace('-', ""),
        &format!("{id}.jpg"),
        &format!("{id}%00"),
        &format!("{id}%20"),
        &format!("{id}-t170x170"),
        &format!("%7B{id}%7D"),
        &format!("urn:uuid:{id}"),
        &format!("{}g", &id[..35]),
        &id[..35],
        &id.replacen('0', "%30", 1),
        &long,
    ];
    for name in no_file {
        for headers in [&[][..], &[("thumbnail", "true")]] {
            check(&server.download(name, headers), Some(NO_FILE), name);
        }
    }
    // Dots and slashes are not resolved: such a path does not belong to the API.
    for path in [
        format!("../chatfiles/{id}"),
        format!("./{id}"),
        format!("{id}/x"),
        "../../keys/keys.json".into(),
    ] {
        let answer = server.download(&path, &[]);
        let json = assert_error(&answer, 404, "service_resource_not_found");
        assert_eq!(
            json["error_description"], "Service resource not found",
            "{path}"
        );
    }
    // Upper case is the same id (RFC 9562 §4).
    check(
        &server.download(&id.to_uppercase(), &[]),
        None,
        "upper case",
    );
}

#[test]
fn other_tenant_cannot_download() {
    let server = TestServer::with(TENANTS);
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    check(&server.download(&id, &[]), None, "its own tenant");
    for subject in [Subject::User("alice".into()), Subject::App] {
        let authorization = format!("Bearer {}", server.token_of("acme", "chat", subject));
        for headers in [&[][..], &[("thumbnail", "true")], &[("If-None-Match", "*")]] {
            let mut all = vec![("Authorization", authorization.as_str())];
            all.extend_from_slice(headers);
            check(
                &server.get(&format!("/acme/chat/chatfiles/{id}"), &all),
                Some(NO_FILE),
                "another tenant",
            );
        }
    }
    for (org, app) in [
        ("easemob-demo", "chat"),
        ("acme", "chatdemoui"),
        ("EASEMOB-DEMO", "chatdemoui"),
    ] {
        let path = format!("/{org}/{app}/chatfiles/{id}");
        let json = assert_error(
            &server.get(&path, &[]),
            404,
            "organization_application_not_found",
        );
        let expected = format!("Could not find application for {org}/{app} from URI: {path}");
        assert_eq!(json["error_description"], expected.as_str());
    }
}

#[test]
fn swept_file_still_answers_expired() {
    let toml = "[retention]\nchatfile_days = 7";
    let directory = tempfile::tempdir().unwrap();
    let mut server = TestServer::in_directory(directory.path(), toml);
    let now = server.clock.now();
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let expired = |server: &TestServer, id: &str, about: &str| {
        for headers in [
            &[][..],
            &[("thumbnail", "true")],
            &[("Range", "bytes=0-1")],
            &[("If-None-Match", "*")],
        ] {
            let json = assert_error(&server.download(id, headers), 404, "file_expired");
            assert_eq!(
                json["error_description"],
                format!("file {id} is expired").as_str(),
                "{about}"
            );
        }
    };
    server.clock.advance(7 * DAY_MS - 60_000);
    check(&server.download(&id, &[]), None, "in its last minute");
    assert_eq!(server.download(&id, &[("thumbnail", "true")]).status, 200);
    server.clock.advance(60_000);
    expired(&server, &id, "open and in the caches");
    // An unknown id that is old enough may have been a file.
    let old = ObjectId::new(now, &[7; 10]).to_string();
    expired(&server, &old, "unknown and old");
    let young = ObjectId::new(server.clock.now(), &[7; 10]).to_string();
    check(
        &server.download(&young, &[]),
        Some(NO_FILE),
        "unknown and young",
    );
    // Two days later its bytes are removed.
    let policy = configuration(directory.path(), toml).retention();
    let later = now.plus_days(10);
    let report = crate::support::sweep(
        &server.store,
        &policy,
        later,
        chatfiles::retention::SweepMode::RemoveConfirmed,
    );
    assert_eq!(report.days.len(), 1, "{report:?}");
    assert_eq!(server.files_in("objects"), Vec::<std::path::PathBuf>::new());
    expired(&server, &id, "swept");
    server.stop();
    let server = TestServer::in_directory(directory.path(), toml);
    server.clock.advance(9 * DAY_MS);
    expired(&server, &id, "swept, and the server started anew");
    // The setting decides, not the file.
    let longer = TestServer::in_directory(
        &directory.path().join("longer"),
        "[retention]\nchatfile_days = 30",
    );
    longer.clock.advance(9 * DAY_MS);
    check(
        &longer.download(&id, &[]),
        Some(NO_FILE),
        "unknown where files live longer",
    );
}

#[test]
fn any_accept_is_good() {
    let server = TestServer::start();
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    for accept in [
        "application/octet-stream",
        "*/*",
        "image/png",
        "text/html",
        "*/*;q=0",
        "image/jpeg;q=0",
        "audio/mp3",
        "a/b/c",
        "",
        "😀",
    ] {
        let answer = server.download(&id, &[("Accept", accept)]);
        check(&answer, None, accept);
        assert_eq!(
            answer.header("content-type"),
            Some("image/jpeg"),
            "{accept}"
        );
    }
    // As Node's client sends it.
    check(
        &server.download(&id, &[("Content-Type", "application/json")]),
        None,
        "a type of no body",
    );
}

#[test]
fn head_has_headers_of_get() {
    let server = TestServer::start();
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let (restricted, _) = store_restricted(&server);
    let authorization = format!("Bearer {}", server.token("alice"));
    let mut connection = server.connect();
    for (path, headers, status) in [
        (&id, &[][..], 200),
        (&id, &[("thumbnail", "true")], 200),
        (&id, &[("Origin", "https://chat.example")], 200),
        (&id, &[("If-None-Match", "*")], 304),
        (&id, &[("If-Match", "\"a\"")], 412),
        (&restricted, &[], 403),
        (&"unknown".to_owned(), &[], 404),
    ] {
        let path = format!("{BASE}/chatfiles/{path}");
        let mut all = vec![("Authorization", authorization.as_str())];
        all.extend_from_slice(headers);
        let [get, head] = ["GET", "HEAD"].map(|method| {
            let mut answer = connection.request(method, &path, &all, b"");
            assert_eq!(answer.status, status, "{method} {path} {headers:?}");
            answer
                .headers
                .retain(|(name, _)| !matches!(name.as_str(), "date" | "x-request-id"));
            answer.headers.sort();
            // The length of the duration in an error may differ.
            answer
                .headers
                .retain(|(name, _)| status < 400 || name != "content-length");
            answer
        });
        assert_eq!(get.headers, head.headers, "{path} {headers:?}");
        assert!(head.body.is_empty());
    }
}

#[test]
fn thumbnail_needs_value_true() {
    let server = TestServer::start();
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let original = photo();
    for (header, query, is_thumbnail) in [
        (None, "", false),
        (Some("true"), "", true),
        (Some("True"), "", true),
        (Some("false"), "", false),
        (Some(""), "", false),
        (Some("1"), "", false),
        (Some("undefined"), "", false),
        (None, "?thumbnail=true", true),
        (None, "?thumbnail=TRUE", true),
        (None, "?a=b&thumbnail=true&c=d", true),
        (None, "?thumbnail=false", false),
        (None, "?thumbnail", false),
        (None, "?thumbnail=", false),
        (None, "?vframe=true", true),
        (None, "?vframe=false", false),
        (Some("true"), "?thumbnail=true", true),
    ] {
        let mut headers = Vec::new();
        headers.extend(header.map(|value| ("thumbnail", value)));
        let answer = server.download(&format!("{id}{query}"), &headers);
        assert_eq!(answer.status, 200, "{header:?} {query}");
        assert_eq!(answer.body != original, is_thumbnail, "{header:?} {query}");
    }
}

#[test]
fn ignores_slashes_and_unknown_parameters() {
    let server = TestServer::start();
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let authorization = format!("Bearer {}", server.token("alice"));
    for path in [
        format!("{BASE}/chatfiles/{id}/"),
        format!("{BASE}/chatfiles/{id}//"),
        format!("/{BASE}/chatfiles//{id}"),
        format!("//easemob-demo//chatdemoui//chatfiles//{id}//"),
        format!("{BASE}/chatfiles/{id}?"),
        format!("{BASE}/chatfiles/{id}/?em-redirect=true"),
        format!(
            "{BASE}/chatfiles/{id}?chat-type=chat&chat-target=bob&em-redirect=true&origin-file=true"
        ),
        format!("{BASE}/chatfiles/{id}?share-secret=undefined&%zz&=&&a=%ff"),
        format!("http://files.test{BASE}/chatfiles/{id}"),
    ] {
        let answer = server.get(&path, &[("Authorization", &authorization)]);
        check(&answer, None, &path);
    }
}
