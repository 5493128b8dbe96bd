//! Requests observed from real clients (last section of the contract), one test each.

use crate::support::{Answer, BASE, Form, TestServer, assert_error, head, photo};

#[track_caller]
fn uploaded(answer: &Answer) -> (String, Option<String>) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let entity = answer.json()["entities"][0].clone();
    let text = |field: &str| {
        entity
            .get(field)
            .map(|value| value.as_str().unwrap().to_owned())
    };
    (text("uuid").unwrap(), text("share-secret"))
}

/// Java sends `restrict-access: false`.
#[test]
fn java_downloads_without_accept_and_secret() {
    let server = TestServer::start();
    let form = Form::new()
        .file("a.jpg", "image/jpeg", &photo())
        .field("filename", "a.jpg");
    let (id, secret) = uploaded(&server.upload(&form, &[("restrict-access", "false")]));
    assert_eq!(secret, None);
    let download = server.download(&id, &[]);
    assert_eq!(download.status, 200);
    assert!(download.body == photo());
}

/// And the fields `app_id` and `file`.
#[test]
fn android_sends_non_ascii_filename_header() {
    let server = TestServer::start();
    let form = Form::new()
        .field("app", "easemob-demo#chatdemoui")
        .field("id", "u1")
        .part(
            "Content-Disposition: form-data; name=\"file\"; filename=\"语音.amr\"\r\nContent-Type: audio/amr\r\nContent-Transfer-Encoding: binary\r\n",
            b"#!AMR\n\x3c\x00\x00",
        );
    let answer = server.upload(
        &form,
        &[("filename", "语音.amr"), ("restrict-access", "true")],
    );
    let (id, secret) = uploaded(&answer);
    let download = server.download(&id, &[("share-secret", &secret.unwrap())]);
    // These clients accept only 200.
    assert_eq!(download.status, 200);
    assert_eq!(download.body, b"#!AMR\n\x3c\x00\x00");
}

/// WeChat sends no `restrict-access`.
#[test]
fn wechat_gets_no_secret() {
    let server = TestServer::start();
    let form = Form::new().file("tmp_1a2b.o6zAJs.jpg", "image/jpeg", &photo());
    let (id, secret) = uploaded(&server.upload(&form, &[("content-encoding", "identity")]));
    assert_eq!(secret, None);
    assert_eq!(server.download(&id, &[]).status, 200);
}

#[test]
fn php_sends_no_file_name() {
    let server = TestServer::start();
    let form = Form::new().part(
        "Content-Disposition: form-data; name=\"file\"\r\n",
        &photo(),
    );
    let (id, secret) = uploaded(&server.upload(&form, &[("restrict-access", "true")]));
    let download = server.download(
        &id,
        &[
            ("share-secret", &secret.unwrap()),
            ("Accept", "application/octet-stream"),
        ],
    );
    assert_eq!(
        (download.status, download.header("content-type")),
        (200, Some("image/jpeg"))
    );
    assert!(download.body == photo());
}

#[test]
fn python_sends_spreadsheet_as_image() {
    let server = TestServer::start();
    let sheet = [&b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"[..], &[0; 20_000]].concat();
    let answer = server.upload(&Form::new().file("a.xls", "image/jpeg", &sheet), &[]);
    let (id, _) = uploaded(&answer);
    let download = server.download(&id, &[]);
    assert!(download.body == sheet);
    assert!(
        !download
            .header("content-type")
            .unwrap()
            .starts_with("image/")
    );
    let disposition = download.header("content-disposition").unwrap();
    assert!(
        disposition.starts_with("attachment") && disposition.contains("a.xls"),
        "{disposition}"
    );
    let thumbnail = server.download(&id, &[("thumbnail", "true")]);
    let json = assert_error(&thumbnail, 404, "entity_not_found");
    assert_eq!(json["error_description"], "no thumbnail for this file");
}

#[test]
fn node_sends_content_type_with_get() {
    let server = TestServer::start();
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let download = server.download(&id, &[("Content-Type", "application/json")]);
    assert_eq!(
        (download.status, download.header("content-type")),
        (200, Some("image/jpeg"))
    );
    assert!(download.body == photo());
    // With an empty body too.
    let headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", "0"),
    ];
    assert_eq!(server.download(&id, &headers).status, 200);
}

#[test]
fn space_after_header_name_is_handled() {
    let server = TestServer::start();
    let form = Form::new().file("a.txt", "text/plain", b"hello");
    let authorization = format!("Bearer {}", server.token("alice"));
    let headers = [
        ("Authorization", &*authorization),
        ("Content-Type", &form.content_type()),
        ("restrict-access ", "true"),
    ];
    let mut bytes = head(
        "POST",
        &format!("{BASE}/chatfiles"),
        &headers,
        Some(form.bytes().len()),
    );
    bytes.extend_from_slice(&form.bytes());
    let mut connection = server.connect();
    connection.send(&bytes).unwrap();
    let text = String::from_utf8(connection.rest()).unwrap();
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    assert_eq!(
        text.matches("HTTP/1.1").count(),
        1,
        "the rest was parsed as a request: {text}"
    );
    assert!(server.files_in("objects").is_empty());
    uploaded(&server.upload(&form, &[]));
}

#[test]
fn ignores_sdk_parameters_and_slashes() {
    let server = TestServer::start();
    let authorization = format!("Bearer {}", server.token("alice"));
    let form = Form::new().file("a.txt", "text/plain", b"hello");
    let headers = [
        ("Authorization", &*authorization),
        ("Content-Type", &form.content_type()),
    ];
    for path in [
        "/easemob-demo/chatdemoui/chatfiles/",
        "//easemob-demo//chatdemoui//chatfiles",
        "/easemob-demo/chatdemoui/chatfiles?chat-type=singleChat&chat-target=bob&&=x&%zz",
    ] {
        let (id, _) = uploaded(&server.request("POST", path, &headers, &form.bytes()));
        for path in [
            format!("{BASE}/chatfiles/{id}/"),
            format!("/{BASE}//chatfiles//{id}"),
            format!(
                "{BASE}/chatfiles/{id}?em-redirect=true&origin-file=true&share-secret=undefined"
            ),
        ] {
            let download = server.get(&path, &headers[..1]);
            assert_eq!(
                (download.status, &*download.body),
                (200, &b"hello"[..]),
                "{path}"
            );
        }
    }
}
