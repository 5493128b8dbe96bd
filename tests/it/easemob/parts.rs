//! `/{org}/{app}/sdk/chatfiles/part-upload`: start, put, list, complete, abort. `parts_bounds.rs` tests refusals.

use serde_json::{Value, json};

use crate::support::{Answer, BASE, Form, TestServer, assert_error, photo};

pub(super) const PATH: &str = "/easemob-demo/chatdemoui/sdk/chatfiles/part-upload";

/// One request of a user with headers and a body.
pub(super) fn call_as(
    server: &TestServer,
    user: &str,
    (method, path): (&str, &str),
    content_type: Option<&str>,
    body: &[u8],
) -> Answer {
    let authorization = format!("Bearer {}", server.token(user));
    let mut headers = vec![("Authorization", &*authorization)];
    headers.extend(content_type.map(|value| ("Content-Type", value)));
    server.request(method, &format!("{PATH}{path}"), &headers, body)
}

/// One request of alice without a body.
pub(super) fn call(server: &TestServer, method: &str, path: &str) -> Answer {
    call_as(server, "alice", (method, path), None, b"")
}

#[track_caller]
pub(crate) fn ok(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[track_caller]
pub(crate) fn begin(server: &TestServer) -> String {
    let json = ok(&call(server, "POST", ""));
    json["entities"][0]["uuid"].as_str().unwrap().to_owned()
}

/// A part as the web SDK sends it: the bytes, then the number.
pub(crate) fn put(server: &TestServer, id: &str, number: &str, bytes: &[u8]) -> Answer {
    let form = Form::new()
        .part(
            "Content-Disposition: form-data; name=\"part_file\"; filename=\"blob\"\r\nContent-Type: application/octet-stream\r\n",
            bytes,
        )
        .field("part_number", number);
    let content_type = Some(form.content_type());
    call_as(
        server,
        "alice",
        ("PUT", &format!("/{id}")),
        content_type.as_deref(),
        &form.bytes(),
    )
}

/// A part as native clients send it.
pub(crate) fn put_raw(server: &TestServer, id: &str, number: &str, bytes: &[u8]) -> Answer {
    let path = format!("/{id}?part_number={number}");
    call_as(
        server,
        "alice",
        ("PUT", &path),
        Some("application/octet-stream"),
        bytes,
    )
}

#[track_caller]
pub(crate) fn listed(server: &TestServer, id: &str) -> Value {
    ok(&call(server, "GET", &format!("/{id}/parts")))["entities"].clone()
}

#[track_caller]
pub(crate) fn complete(server: &TestServer, id: &str, query: &str) -> Value {
    ok(&call(server, "POST", &format!("/{id}{query}")))["entities"][0].clone()
}

/// Unfinished uploads and parts on disk.
pub(super) fn left(server: &TestServer) -> usize {
    server.files_in("parts").len() + server.files_in("tmp").len()
}

#[test]
fn start_answers_id_and_limits() {
    let server = TestServer::with("limits.upload_bytes_max = 20000000");
    let json = ok(&call(&server, "POST", ""));
    let entity = &json["entities"][0];
    uuid::Uuid::try_parse(entity["uuid"].as_str().unwrap()).unwrap();
    assert_eq!(entity["part_lower_limit"], 5_242_880);
    assert_eq!(entity["file_upper_limit"], 20_000_000);
}

/// Parts come as raw bodies and as forms.
#[test]
fn completes_parts_of_any_order() {
    let server = TestServer::start();
    let photo = photo();
    let id = begin(&server);
    let (first, rest) = photo.split_at(100_000);
    let (second, third) = rest.split_at(1);
    assert_eq!(
        ok(&put(&server, &id, "3", third))["entities"],
        json!([{ "part_number": 3, "part_size": third.len() }])
    );
    assert_eq!(
        ok(&put_raw(&server, &id, "1", first))["entities"],
        json!([{ "part_number": 1, "part_size": 100_000 }])
    );
    // The number may also come before the bytes.
    let form = Form::new().field("part_number", "2").part(
        "content-disposition: form-data; name=\"part_file\"; filename=\"blob\"\r\n",
        second,
    );
    let content_type = form.content_type();
    ok(&call_as(
        &server,
        "alice",
        ("PUT", &format!("/{id}")),
        Some(&content_type),
        &form.bytes(),
    ));
    assert_eq!(
        listed(&server, &id),
        json!([
            { "part_number": 1, "part_size": 100_000 },
            { "part_number": 2, "part_size": 1 },
            { "part_number": 3, "part_size": third.len() },
        ])
    );
    let entity = complete(
        &server,
        &id,
        "?chat-type=singleChat&chat-target=bob&em-redirect=true",
    );
    assert!(entity.get("share-secret").is_none());
    let download = server.download(entity["uuid"].as_str().unwrap(), &[]);
    assert_eq!(download.status, 200);
    assert!(download.body == photo);
}

#[test]
fn completion_answers_like_upload() {
    let server = TestServer::start();
    let photo = photo();
    let id = begin(&server);
    ok(&put(&server, &id, "1", &photo));
    let answer = call(
        &server,
        "POST",
        &format!(
            "/{id}?restrict-access=true&chat-type=groupChat&chat-target=1&thumbnail-width=80&thumbnail-height=90"
        ),
    );
    let completed = ok(&answer);
    let uploaded = server.upload(
        &Form::new().file("a.jpg", "image/jpeg", &photo),
        &[("restrict-access", "true")],
    );
    let shape = |value: &Value| {
        let keys = |value: &Value| {
            value
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<Vec<_>>()
        };
        (keys(value), keys(&value["entities"][0]))
    };
    assert_eq!(shape(&completed), shape(&uploaded.json()));
    for field in [
        "action",
        "path",
        "uri",
        "organization",
        "applicationName",
        "application",
    ] {
        assert_eq!(completed[field], uploaded.json()[field], "{field}");
    }
    let entity = &completed["entities"][0];
    assert_eq!(
        entity["file-metadata"],
        json!({ "content-length": photo.len(), "content-type": "image/jpeg" })
    );
    let (file, secret) = (
        entity["uuid"].as_str().unwrap(),
        entity["share-secret"].as_str().unwrap(),
    );
    assert_error(&server.download(file, &[]), 403, "forbidden_op");
    let thumbnail = server.download(file, &[("share-secret", secret), ("thumbnail", "true")]);
    assert_eq!(thumbnail.status, 200, "{}", thumbnail.text());
    let image = image::load_from_memory(&thumbnail.body).unwrap();
    assert_eq!((image.width(), image.height()), (80, 60));
}

/// From the query or a header; a literal `false` does not restrict.
#[test]
fn completion_reads_restrict_access() {
    let server = TestServer::start();
    for (query, header, restricted) in [
        ("", None, false),
        ("?restrict-access=true", None, true),
        ("?restrict-access=", None, true),
        ("?restrict-access=false", None, false),
        ("", Some("true"), true),
        ("", Some("false"), false),
    ] {
        let id = begin(&server);
        ok(&put_raw(&server, &id, "1", b"hello"));
        let authorization = format!("Bearer {}", server.token("alice"));
        let mut headers = vec![("Authorization", &*authorization)];
        headers.extend(header.map(|value| ("restrict-access", value)));
        let answer = ok(&server.request("POST", &format!("{PATH}/{id}{query}"), &headers, b""));
        let secret = answer["entities"][0].get("share-secret");
        assert_eq!(secret.is_some(), restricted, "{query} {header:?}");
    }
}

#[test]
fn completion_and_abort_leave_no_parts() {
    let server = TestServer::start();
    let id = begin(&server);
    ok(&put(&server, &id, "1", b"hello"));
    assert!(left(&server) > 0);
    let file = complete(&server, &id, "")["uuid"].clone();
    assert_eq!(left(&server), 0);
    // A client that lost the response gets it again; other clients do not. The file is not stored twice.
    assert_eq!(complete(&server, &id, "")["uuid"], file);
    let path = format!("/{id}");
    let other = call_as(&server, "mallory", ("POST", &path), None, b"");
    assert_error(&other, 404, "entity_not_found");
    for (method, path) in [("DELETE", ""), ("GET", "/parts")] {
        let answer = call(&server, method, &format!("/{id}{path}"));
        assert_error(&answer, 404, "entity_not_found");
    }
    assert_eq!(server.files_in("objects").len(), 1);

    let id = begin(&server);
    ok(&put(&server, &id, "1", b"hello"));
    let aborted = ok(&call(&server, "DELETE", &format!("/{id}")));
    assert_eq!(aborted["entities"][0]["uuid"], *id);
    assert_eq!(left(&server), 0);
    for (method, path) in [("DELETE", ""), ("POST", ""), ("GET", "/parts")] {
        let answer = call(&server, method, &format!("/{id}{path}"));
        assert_error(&answer, 404, "entity_not_found");
    }
    assert_error(&put(&server, &id, "1", b"hello"), 404, "entity_not_found");
    assert_eq!((left(&server), server.files_in("objects").len()), (0, 1));
}

#[test]
fn accepts_parallel_parts() {
    let server = TestServer::start();
    let part = |number: usize| vec![number as u8; 300_000 + number];
    let id = begin(&server);
    std::thread::scope(|scope| {
        for lane in 0..4 {
            let (server, id, part) = (&server, &id, &part);
            scope.spawn(move || {
                for number in (1..=12).filter(|number| number % 4 == lane) {
                    let number_text = number.to_string();
                    ok(&put(server, id, &number_text, &part(number)));
                }
            });
        }
    });
    let entity = complete(&server, &id, "");
    let expected: Vec<u8> = (1..=12).flat_map(part).collect();
    let download = server.download(entity["uuid"].as_str().unwrap(), &[]);
    assert!(download.body == expected);
}

#[test]
fn parts_survive_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = TestServer::in_directory(directory.path(), "");
    let id = begin(&server);
    ok(&put(&server, &id, "1", b"before "));
    server.stop();
    drop(server);
    let server = TestServer::in_directory(directory.path(), "");
    assert_eq!(
        listed(&server, &id),
        json!([{ "part_number": 1, "part_size": 7 }])
    );
    ok(&put(&server, &id, "2", b"and after"));
    let entity = complete(&server, &id, "");
    let download = server.download(entity["uuid"].as_str().unwrap(), &[]);
    assert_eq!(download.body, b"before and after");
}

#[test]
fn unfinished_upload_expires_after_day() {
    const HOUR_MS: i64 = 3_600_000;
    let server = TestServer::start();
    let id = begin(&server);
    ok(&put(&server, &id, "1", b"hello"));
    server.clock.advance(24 * HOUR_MS - 60_000);
    assert_eq!(listed(&server, &id).as_array().unwrap().len(), 1);
    server.clock.advance(120_000);
    for (method, path) in [("GET", "/parts"), ("POST", ""), ("DELETE", "")] {
        let answer = call(&server, method, &format!("/{id}{path}"));
        assert_error(&answer, 404, "entity_not_found");
    }
    assert_error(&put(&server, &id, "2", b"hello"), 404, "entity_not_found");
    assert_eq!(server.files_in("objects").len(), 0);
    let swept = crate::support::expire_parts(&server.store, server.clock.now());
    assert_eq!((swept, left(&server)), (1, 0));
}

#[test]
fn damaged_completion_asks_for_part() {
    let server = TestServer::start();
    let id = begin(&server);
    ok(&put(&server, &id, "1", b"hello"));
    let part = server
        .files_in("parts")
        .into_iter()
        .find(|path| !path.ends_with("upload"))
        .unwrap();
    std::fs::write(server.store.join("parts").join(part), b"jello").unwrap();
    let answer = call(&server, "POST", &format!("/{id}"));
    assert_error(&answer, 400, "illegal_argument");
    assert_eq!(server.files_in("objects").len(), 0);
    ok(&put(&server, &id, "1", b"hello"));
    let entity = complete(&server, &id, "");
    assert_eq!(
        server.download(entity["uuid"].as_str().unwrap(), &[]).body,
        b"hello"
    );
}
