//! `POST /{org}/{app}/chatfiles`: requests and responses. `upload_bounds.rs` tests the limits.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Answer, BASE, Form, TestServer, assert_error, chunk, chunked, head, photo};

/// A form with one small file.
fn small() -> Form {
    Form::new().file("a.txt", "text/plain", b"hello")
}

/// The only entity of a successful response.
#[track_caller]
fn entity(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let json = answer.json();
    assert_eq!(json["entities"].as_array().unwrap().len(), 1, "{json}");
    json["entities"][0].clone()
}

#[track_caller]
fn id_of(answer: &Answer) -> String {
    entity(answer)["uuid"].as_str().unwrap().to_owned()
}

/// Width and height of an image.
fn size_of(bytes: &[u8]) -> (u32, u32) {
    let image = image::load_from_memory(bytes).unwrap();
    (image.width(), image.height())
}

#[test]
fn photo_comes_back_unchanged() {
    let server = TestServer::start();
    let answer = server.upload(&Form::new().file("a.jpg", "image/jpeg", &photo()), &[]);
    let id = id_of(&answer);
    let download = server.download(&id, &[]);
    assert_eq!(download.status, 200);
    assert!(download.body == photo());
    let thumbnail = server.download(&id, &[("thumbnail", "true")]);
    assert_eq!(
        (thumbnail.status, thumbnail.header("content-type")),
        (200, Some("image/jpeg"))
    );
    assert!(thumbnail.body.len() < 40_000);
}

#[test]
fn answer_has_all_vendor_fields() {
    let server = TestServer::start();
    let before = server.clock.now().ms();
    let answer = server.upload(&small(), &[("restrict-access", "true")]);
    let entity = entity(&answer);
    let json = answer.json();
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("application/json")
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let fields: BTreeSet<_> = json
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "action",
        "application",
        "applicationName",
        "duration",
        "entities",
        "organization",
        "path",
        "timestamp",
        "uri",
    ];
    assert_eq!(fields, BTreeSet::from(expected));
    assert_eq!(json["action"], "post");
    assert_eq!(json["path"], "/chatfiles");
    assert_eq!(json["organization"], "easemob-demo");
    assert_eq!(json["applicationName"], "chatdemoui");
    assert_eq!(
        json["uri"],
        "http://files.test/easemob-demo/chatdemoui/chatfiles"
    );
    uuid::Uuid::try_parse(json["application"].as_str().unwrap()).unwrap();
    let timestamp = json["timestamp"].as_i64().unwrap();
    assert!((before..=server.clock.now().ms()).contains(&timestamp));
    assert!(json["duration"].as_u64().unwrap() < 60_000);
    let fields: BTreeSet<_> = entity
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        fields,
        BTreeSet::from(["file-metadata", "share-secret", "type", "uuid"])
    );
    assert_eq!(entity["type"], "chatfile");
    let uuid = entity["uuid"].as_str().unwrap();
    assert_eq!(uuid::Uuid::try_parse(uuid).unwrap().to_string(), uuid);
    assert!(entity["share-secret"].as_str().unwrap().len() >= 32);
    assert_eq!(
        entity["file-metadata"],
        serde_json::json!({ "content-length": 5, "content-type": "text/plain" })
    );
    let again = server.upload(&small(), &[]).json();
    assert_eq!(again["application"], json["application"]);
    assert_ne!(again["entities"][0]["uuid"], uuid);
}

#[test]
fn uri_uses_public_url_or_host() {
    let uri = |server: &TestServer, host: &str| {
        let answer = server.upload(&small(), &[("Host", host)]);
        answer.json()["uri"].as_str().unwrap().to_owned()
    };
    let server = TestServer::start();
    for (host, expected) in [
        ("chat.example:8443", "http://chat.example:8443"),
        ("[::1]:8080", "http://[::1]:8080"),
        // Characters that are not allowed in a URL are not repeated.
        ("a!b'(c)", "http://localhost"),
        ("", "http://localhost"),
    ] {
        assert_eq!(uri(&server, host), format!("{expected}{BASE}/chatfiles"));
    }
    let server = TestServer::with("server.public_url = \"https://files.example/\"");
    assert_eq!(
        uri(&server, "10.0.0.1:8080"),
        format!("https://files.example{BASE}/chatfiles")
    );
}

#[test]
fn restrict_access_except_literal_false() {
    fn check(server: &TestServer, cases: &[(Option<&str>, bool)]) {
        for (value, restricted) in cases {
            let headers: Vec<_> = value
                .map(|value| ("restrict-access", value))
                .into_iter()
                .collect();
            let entity = entity(&server.upload(&small(), &headers));
            let secret = entity
                .get("share-secret")
                .map(|secret| secret.as_str().unwrap());
            assert_eq!(secret.is_some(), *restricted, "{value:?}");
            let id = entity["uuid"].as_str().unwrap();
            let without = server.download(id, &[]).status;
            assert_eq!(without, if *restricted { 403 } else { 200 }, "{value:?}");
            if let Some(secret) = secret {
                assert_eq!(server.download(id, &[("share-secret", secret)]).status, 200);
            }
        }
    }
    check(
        &TestServer::start(),
        &[
            (None, false),
            (Some("true"), true),
            (Some("1"), true),
            (Some("0"), true),
            (Some("no"), true),
            (Some(""), true),
            (Some("false"), false),
            (Some("False"), false),
        ],
    );
    check(
        &TestServer::with(
            "[[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\nstrict_restrict_access = true",
        ),
        &[
            (None, false),
            (Some("true"), true),
            (Some("false"), true),
            (Some(""), true),
        ],
    );
}

#[test]
fn secrets_differ_per_file() {
    let server = TestServer::start();
    let [one, other] =
        [(); 2].map(|()| entity(&server.upload(&small(), &[("restrict-access", "true")])));
    assert_ne!(one["share-secret"], other["share-secret"]);
    let answer = server.download(
        one["uuid"].as_str().unwrap(),
        &[("share-secret", other["share-secret"].as_str().unwrap())],
    );
    assert_error(&answer, 403, "forbidden_op");
}

#[test]
fn ignores_parts_around_file() {
    let server = TestServer::start();
    let form = Form::new()
        .field("app", "chatdemoui")
        .field("id", "42")
        .field("filename", "other.png")
        .part("Content-Disposition: form-data; name=\"empty\"\r\n", b"")
        .part("Content-Disposition: form-data\r\n", b"no name")
        .file("a.txt", "text/plain", b"hello")
        .field("hack", "")
        .part(
            "Content-Disposition: form-data; name=\"x\"; filename=\"x.bin\"\r\n",
            &[0; 3000],
        );
    let id = id_of(&server.upload(&form, &[]));
    let download = server.download(&id, &[]);
    assert_eq!(download.body, b"hello");
    assert!(
        download
            .header("content-disposition")
            .unwrap()
            .contains("a.txt")
    );
}

#[test]
fn reads_part_headers_of_clients() {
    let server = TestServer::start();
    for (part_head, expected_name) in [
        (
            "content-disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\ncontent-type: text/plain\r\n",
            "filename=\"a.txt\"",
        ),
        (
            "CONTENT-DISPOSITION: form-data; name=\"file\"; filename=\"a.txt\"\r\nContent-Length: 5\r\n",
            "filename=\"a.txt\"",
        ),
        (
            "Content-Type: text/plain\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\nContent-Transfer-Encoding: binary\r\nExpires: 0\r\n",
            "filename=\"a.txt\"",
        ),
        (
            "Content-Disposition: form-data; name=\"file\"; filename=\"照片 1.txt\"\r\n",
            "filename*=UTF-8''%E7%85%A7%E7%89%87%201.txt",
        ),
        (
            "Content-Disposition: form-data; name=\"file\"; filename=\"C:\\\\dir\\\\..\\\\a.txt\"\r\n",
            "filename=\"a.txt\"",
        ),
        ("Content-Disposition: form-data; name=\"file\"\r\n", ""),
        (
            "Content-Disposition: form-data; name=file; filename=a.txt\r\n",
            "filename=\"a.txt\"",
        ),
        (
            "Content-Disposition: form-data; name=\"file\"; filename=\"\"\r\n",
            "",
        ),
        // Folded lines (RFC 5322 §2.2.3), as mail libraries write long names.
        (
            "Content-Disposition: form-data;\r\n name=\"file\";\r\n\tfilename=\"a.txt\"\r\n",
            "filename=\"a.txt\"",
        ),
        (
            "X-Long: 1\r\n 2\r\n  3\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\r\n b.txt\"\r\n",
            "filename=\"a b.txt\"",
        ),
    ] {
        let id = id_of(&server.upload(&Form::new().part(part_head, b"hello"), &[]));
        let download = server.download(&id, &[]);
        assert_eq!(download.body, b"hello", "{part_head}");
        let disposition = download.header("content-disposition").unwrap();
        assert!(
            disposition.contains(expected_name),
            "{part_head}: {disposition}"
        );
        assert_eq!(
            disposition.contains("filename"),
            !expected_name.is_empty(),
            "{disposition}"
        );
    }
}

/// For any split of the body: a line end may be separated from the space that makes it a fold.
#[test]
fn reads_folded_headers_at_any_cut() {
    let server = TestServer::start();
    let form = Form::new()
        .part("Content-Disposition: form-data;\r\n\tname=\"id\"\r\n", b"1")
        .part(
            "Content-Disposition: form-data; name=\"file\";\r\n filename=\"a.txt\"\r\nContent-Type:\r\n text/plain\r\n",
            b"hello\r\n \r\n\tworld",
        );
    let body = form.bytes();
    let head = server.upload_head("alice", &form, &[("Transfer-Encoding", "chunked")]);
    for cut in 1..body.len() {
        let mut sent = head.clone();
        sent.extend([chunk(&body[..cut]), chunked(&body[cut..], body.len())].concat());
        let mut connection = server.connect();
        connection.send(&sent).unwrap();
        let download = server.download(&id_of(&connection.answer("POST").unwrap()), &[]);
        assert_eq!(download.body, b"hello\r\n \r\n\tworld", "{cut}");
        assert_eq!(download.header("content-type"), Some("text/plain"), "{cut}");
        let disposition = download.header("content-disposition");
        assert_eq!(disposition, Some("attachment; filename=\"a.txt\""), "{cut}");
    }
    // A leading space on the first line continues nothing, so the form is malformed.
    let answer = server.upload(
        &Form::new().part(
            " X: y\r\nContent-Disposition: form-data; name=\"file\"\r\n",
            b"x",
        ),
        &[],
    );
    assert_eq!(answer.status, 400, "{}", answer.text());
}

#[test]
fn accepts_quoted_and_long_boundary() {
    let server = TestServer::start();
    let authorization = format!("Bearer {}", server.token("alice"));
    for (boundary, quoted) in [
        ("b".repeat(70), false),
        ("a 'b'(c)+_,-./:=?d".to_owned(), true),
    ] {
        let mut form = Form::new();
        form.boundary.clone_from(&boundary);
        let form = form.file("a.txt", "text/plain", b"hello\r\n--");
        let content_type = match quoted {
            true => format!("Multipart/Form-Data; charset=utf-8; Boundary=\"{boundary}\""),
            false => form.content_type(),
        };
        let headers = [
            ("Authorization", &*authorization),
            ("Content-Type", &content_type),
        ];
        let answer = server.request(
            "POST",
            &format!("{BASE}/chatfiles"),
            &headers,
            &form.bytes(),
        );
        assert_eq!(entity(&answer)["file-metadata"]["content-length"], 9);
    }
}

#[test]
fn accepts_any_chunking() {
    let server = TestServer::start();
    let authorization = format!("Bearer {}", server.token("alice"));
    let form = Form::new().file("a.jpg", "image/jpeg", &photo()[..5000]);
    // More one-byte chunks than this are refused (hostile/chunks.rs).
    let small = Form::new().file("a.jpg", "image/jpeg", &photo()[..1000]);
    for (chunk_bytes, form, len) in [
        (1, &small, 1000),
        (7, &form, 5000),
        (1000, &form, 5000),
        (1 << 20, &form, 5000),
    ] {
        let head = head(
            "POST",
            &format!("{BASE}/chatfiles"),
            &[
                ("Authorization", &authorization),
                ("Content-Type", &form.content_type()),
                ("Transfer-Encoding", "chunked"),
            ],
            None,
        );
        let mut bytes = head;
        bytes.extend(chunked(&form.bytes(), chunk_bytes));
        let mut connection = server.connect();
        connection.send(&bytes).unwrap();
        let id = id_of(&connection.answer("POST").unwrap());
        assert!(
            server.download(&id, &[]).body == photo()[..len],
            "{chunk_bytes}"
        );
    }
}

#[test]
fn thumbnail_size_from_header_or_field() {
    let server = TestServer::start();
    let file = |form: Form| form.file("a.jpg", "image/jpeg", &photo());
    let fields = |form: Form| {
        form.field("thumbnail-width", "80")
            .field("thumbnail-height", "90")
    };
    type Headers = &'static [(&'static str, &'static str)];
    // The photo has 1600 × 1200 pixels.
    let cases: [(Form, Headers, (u32, u32)); 7] = [
        (file(Form::new()), &[], (170, 128)),
        (
            file(Form::new()),
            &[("thumbnail-width", "100"), ("thumbnail-height", "200")],
            (100, 75),
        ),
        (file(Form::new()), &[("thumbnail-height", "60")], (80, 60)),
        (fields(file(Form::new())), &[], (80, 60)),
        (file(fields(Form::new())), &[], (80, 60)),
        (
            file(fields(Form::new())),
            &[("thumbnail-width", "300"), ("thumbnail-height", "300")],
            (80, 60),
        ),
        (
            file(Form::new()),
            &[("thumbnail-width", "undefined"), ("thumbnail-height", "-5")],
            (170, 128),
        ),
    ];
    for (form, headers, expected) in cases {
        let id = id_of(&server.upload(&form, headers));
        let thumbnail = server.download(&id, &[("thumbnail", "true")]);
        assert_eq!(thumbnail.status, 200, "{}", thumbnail.text());
        assert_eq!(size_of(&thumbnail.body), expected, "{headers:?}");
    }
}

#[test]
fn keeps_declared_type_unless_contradicted() {
    let server = TestServer::start();
    let ole = [&b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"[..], &[0; 600]].concat();
    let zip = [&b"PK\x03\x04\x14\0"[..], &[0; 100]].concat();
    let photo = photo();
    let docx = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
    for (declared, bytes, expected) in [
        ("image/png", &photo[..], "image/jpeg"),
        ("text/html", &photo[..], "image/jpeg"),
        (
            "text/html",
            b"<script>alert(1)</script>",
            "application/octet-stream",
        ),
        (
            "image/jpeg",
            b"<script>alert(1)</script>",
            "application/octet-stream",
        ),
        ("text/css", b"a { color: red }", "application/octet-stream"),
        ("text/plain", b"<script>alert(1)</script>", "text/plain"),
        (
            "application/vnd.ms-excel",
            &ole[..],
            "application/vnd.ms-excel",
        ),
        (docx, &zip[..], docx),
        ("image/jpeg", &zip[..], "application/zip"),
        (
            "application/x-own",
            b"\x01\x02\x03\x00\xfe",
            "application/x-own",
        ),
        (
            "no type at all",
            b"\x01\x02\x03\x00\xfe",
            "application/octet-stream",
        ),
    ] {
        let answer = server.upload(&Form::new().file("a", declared, bytes), &[]);
        let entity = entity(&answer);
        let stored = entity["file-metadata"]["content-type"].as_str().unwrap();
        assert!(stored.starts_with(expected), "{declared}: {stored}");
        let download = server.download(entity["uuid"].as_str().unwrap(), &[]);
        assert_eq!(download.header("content-type"), Some(stored));
        assert_eq!(download.header("x-content-type-options"), Some("nosniff"));
        let disposition = download.header("content-disposition").unwrap();
        let is_inline = disposition.starts_with("inline");
        assert_eq!(is_inline, bytes == &photo[..], "{declared}: {disposition}");
    }
}
