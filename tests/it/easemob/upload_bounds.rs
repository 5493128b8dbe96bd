//! `POST /{org}/{app}/chatfiles`: limits and invalid forms. A refused upload leaves nothing.

use std::{io::Read, path::PathBuf, time::Duration};

use crate::support::{Answer, BASE, Connection, Form, TestServer, assert_error, head, photo};

const MIB: usize = 1 << 20;
/// The contract's 10 MB.
const LIMIT: usize = 10 * MIB;

fn stored(server: &TestServer) -> Vec<PathBuf> {
    [server.files_in("tmp"), server.files_in("objects")].concat()
}

/// Waits until `tmp/` is empty: a dropped upload is removed in the background.
#[track_caller]
fn assert_nothing_is_left(server: &TestServer) {
    let deadline = server.clock.monotonic() + Duration::from_secs(10);
    while !stored(server).is_empty() {
        assert!(server.clock.monotonic() < deadline, "{:?}", stored(server));
        std::thread::yield_now();
    }
}

/// The head of an upload by `alice`.
fn upload_head(
    server: &TestServer,
    form: &Form,
    more: &[(&str, &str)],
    length: Option<usize>,
) -> Vec<u8> {
    let authorization = format!("Bearer {}", server.token("alice"));
    let content_type = form.content_type();
    let mut headers = vec![
        ("Authorization", &*authorization),
        ("Content-Type", &*content_type),
    ];
    headers.extend_from_slice(more);
    head("POST", &format!("{BASE}/chatfiles"), &headers, length)
}

#[track_caller]
fn assert_too_large(answer: &Answer) {
    let json = assert_error(answer, 413, "file exceeding maximum limit");
    assert_eq!(
        json["error_description"],
        "the file size exceeds the maximum limit."
    );
}

#[test]
fn accepts_10_mib_not_more() {
    let server = TestServer::start();
    let mut bytes: Vec<u8> = (0..LIMIT).map(|at| (at % 251) as u8).collect();
    bytes.push(7);
    let over = server.upload(&Form::new().file("a.bin", "application/x-a", &bytes), &[]);
    assert_too_large(&over);
    assert_nothing_is_left(&server);
    let id = server.store_file("a.bin", "application/x-a", &bytes[..LIMIT]);
    assert!(server.download(&id, &[]).body == bytes[..LIMIT]);
}

#[test]
fn limit_is_configurable_per_tenant() {
    let server = TestServer::with(
        "limits.upload_bytes_max = 100\n\
         [[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\n\
         [[tenant]]\norg = \"big\"\napp = \"chat\"\nupload_bytes_max = 1000",
    );
    for (org, app, bytes, status) in [
        ("easemob-demo", "chatdemoui", 100, 200),
        ("easemob-demo", "chatdemoui", 101, 413),
        ("big", "chat", 1000, 200),
        ("big", "chat", 1001, 413),
    ] {
        let subject = chatfiles::auth::Subject::User("alice".into());
        let authorization = format!("Bearer {}", server.token_of(org, app, subject));
        let form = Form::new().file("a", "application/x-a", &vec![1; bytes]);
        let answer = form.upload(
            server.address,
            &format!("/{org}/{app}/chatfiles"),
            &authorization,
        );
        assert_eq!(answer.status, status, "{org} {bytes}: {}", answer.text());
    }
}

#[test]
fn expect_continue_gets_early_refusal() {
    let server = TestServer::start();
    let form = Form::new();
    let expect = ("Expect", "100-continue");
    for (headers, length, status) in [
        (vec![expect], 20 * MIB, "413"),
        (
            vec![expect, ("Content-Type", "application/json")],
            1000,
            "415",
        ),
    ] {
        let head = match status {
            "415" => {
                let authorization = format!("Bearer {}", server.token("alice"));
                let mut headers = headers.clone();
                headers.push(("Authorization", &authorization));
                head("POST", &format!("{BASE}/chatfiles"), &headers, Some(length))
            }
            _ => upload_head(&server, &form, &headers, Some(length)),
        };
        let mut connection = server.connect();
        connection.send(&head).unwrap();
        // The server cannot know whether the body will come, so it closes after the response.
        let text = String::from_utf8(connection.rest()).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        assert!(
            text.to_ascii_lowercase()
                .contains("\r\nconnection: close\r\n"),
            "{text}"
        );
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{text}");
    }
    assert_eq!(stored(&server), [""; 0].map(PathBuf::from));
}

#[test]
fn bad_token_is_refused_before_body() {
    let server = TestServer::start();
    let headers = [
        ("Authorization", "Bearer nonsense"),
        ("Content-Type", "multipart/form-data; boundary=a"),
        ("Expect", "100-continue"),
    ];
    let mut connection = server.connect();
    let head = head(
        "POST",
        &format!("{BASE}/chatfiles"),
        &headers,
        Some(5 * MIB),
    );
    connection.send(&head).unwrap();
    let text = String::from_utf8(connection.rest()).unwrap();
    assert!(text.starts_with("HTTP/1.1 401 "), "{text}");
}

#[test]
fn expect_continue_gets_100() {
    let server = TestServer::start();
    let form = Form::new().file("a.txt", "text/plain", b"hello");
    let body = form.bytes();
    let mut connection = server.connect();
    for _ in 0..2 {
        let head = upload_head(
            &server,
            &form,
            &[("Expect", "100-continue")],
            Some(body.len()),
        );
        connection.send(&head).unwrap();
        let mut interim = [0; 25];
        connection.stream().read_exact(&mut interim).unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        connection.send(&body).unwrap();
        let answer = connection.answer("POST").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[test]
fn write_first_clients_see_413() {
    let server = TestServer::with("limits.upload_bytes_max = 1048576");
    // More than the socket buffers hold, so that the client is still writing when it is refused.
    let form = Form::new().file("a.bin", "application/x-a", &vec![3; 12 * MIB]);
    let body = form.bytes();
    let announced = upload_head(&server, &form, &[], Some(body.len()));
    let mut chunked = upload_head(&server, &form, &[("Transfer-Encoding", "chunked")], None);
    chunked.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
    for (name, head, end) in [
        ("announced", announced, &b""[..]),
        ("chunked", chunked, b"\r\n0\r\n\r\n"),
    ] {
        for round in 0..50 {
            let mut connection = server.connect();
            let written = [&head[..], &body, end]
                .into_iter()
                .try_for_each(|bytes| connection.send(bytes));
            assert!(written.is_ok(), "{name} {round}: {written:?}");
            assert_too_large(&connection.answer("POST").unwrap());
        }
    }
    assert_nothing_is_left(&server);
}

#[test]
fn body_is_cut_at_limit() {
    let server = TestServer::with("limits.upload_bytes_max = 100000");
    let form = Form::new().file("a.bin", "application/x-a", &[3; 100_001]);
    let whole = form.bytes();
    // Everything but the closing boundary: the server cannot wait for the end.
    let coming = &whole[..whole.len() - form.boundary.len() - 8];
    let chunked = [
        upload_head(&server, &form, &[("Transfer-Encoding", "chunked")], None),
        format!("{:x}\r\n", coming.len()).into_bytes(),
        coming.to_vec(),
        b"\r\n".to_vec(),
    ]
    .concat();
    // An announced length that is within the form's overhead, but whose end never comes.
    let announced = [
        upload_head(&server, &form, &[], Some(100_000 + 60_000)),
        coming.to_vec(),
        b"xxxxx".repeat(20),
    ]
    .concat();
    for bytes in [chunked, announced] {
        let mut connection = server.connect();
        connection.send(&bytes).unwrap();
        assert_too_large(&connection.answer("POST").unwrap());
        assert_nothing_is_left(&server);
    }
}

#[test]
fn bad_forms_are_refused_with_reason() {
    let server = TestServer::start();
    let file = |form: Form| form.file("a.txt", "text/plain", b"hello");
    let many = (0..64).fold(file(Form::new()), |form, _| form.field("x", "y"));
    let long_head = format!(
        "Content-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\n",
        "n".repeat(20_000)
    );
    for (form, expected) in [
        (Form::new(), "file must be provided."),
        (Form::new().field("other", "x"), "file must be provided."),
        (Form::new().field("File", "x"), "file must be provided."),
        // Whatever its size.
        (
            Form::new().part(
                "Content-Disposition: form-data; name=\"photo\"; filename=\"a.jpg\"\r\n",
                &photo(),
            ),
            "the part of the form with the file must be named `file`",
        ),
        (
            Form::new().part(
                "Content-Disposition: form-data; name=\"photo\"; filename=\"a.jpg\"\r\n",
                b"small",
            ),
            "file must be provided. The part of the form with the file must be named `file`.",
        ),
        (
            Form::new().file("a.txt", "text/plain", b""),
            "the file is empty.",
        ),
        (
            file(file(Form::new())),
            "only one file can be uploaded at once.",
        ),
        (many, "a form may have at most 64 parts."),
        (
            Form::new().part(&long_head, b"x"),
            "the headers of a part, or the bytes before the first boundary, may have at most",
        ),
        (
            file(Form::new().field("thumbnail-width", &"1".repeat(2000))),
            "a form field may have at most",
        ),
    ] {
        let json = assert_error(&server.upload(&form, &[]), 400, "illegal_argument");
        let description = json["error_description"].as_str().unwrap();
        assert!(description.starts_with(expected), "{description}");
    }
    assert_nothing_is_left(&server);
}

#[test]
fn large_field_counts_towards_limit() {
    let server = TestServer::with("limits.upload_bytes_max = 1000");
    let form = Form::new()
        .field("app", &"x".repeat(200_000))
        .file("a", "text/plain", b"x");
    assert_too_large(&server.upload(&form, &[]));
    let mut bytes = upload_head(&server, &form, &[("Transfer-Encoding", "chunked")], None);
    bytes.extend_from_slice(format!("{:x}\r\n", form.bytes().len()).as_bytes());
    bytes.extend_from_slice(&form.bytes());
    let mut connection = server.connect();
    connection.send(&bytes).unwrap();
    assert_too_large(&connection.answer("POST").unwrap());
    assert_nothing_is_left(&server);
}

#[test]
fn bad_content_type_is_refused() {
    let server = TestServer::start();
    let authorization = format!("Bearer {}", server.token("alice"));
    let long = format!("multipart/form-data; boundary={}", "b".repeat(71));
    for (content_type, status, error) in [
        (None, 415, "web_application"),
        (Some("application/json"), 415, "web_application"),
        (
            Some("application/x-www-form-urlencoded"),
            415,
            "web_application",
        ),
        (Some("multipart/mixed; boundary=a"), 415, "web_application"),
        (Some(""), 415, "web_application"),
        (Some("multipart/form-data"), 400, "illegal_argument"),
        (
            Some("multipart/form-data; boundary="),
            400,
            "illegal_argument",
        ),
        (
            Some("multipart/form-data; boundary=a; boundary=a"),
            400,
            "illegal_argument",
        ),
        (
            Some("multipart/form-data; boundary=\"a\"; Boundary=b"),
            400,
            "illegal_argument",
        ),
        (Some(&*long), 400, "illegal_argument"),
    ] {
        let mut headers = vec![("Authorization", &*authorization)];
        headers.extend(content_type.map(|value| ("Content-Type", value)));
        let mut connection: Connection = server.connect();
        // Twice: refusing a small body keeps the connection usable.
        for _ in 0..2 {
            let answer =
                connection.request("POST", &format!("{BASE}/chatfiles"), &headers, b"--a--\r\n");
            let json = assert_error(&answer, status, error);
            if status == 415 {
                assert_eq!(json["error_description"], "Unsupported Media Type");
            }
        }
    }
}

#[test]
fn truncated_form_is_refused() {
    let server = TestServer::start();
    let form = Form::new().file("a.txt", "text/plain", b"hello");
    let whole = form.bytes();
    for length in [
        0,
        10,
        whole.len() / 2,
        whole.len() - form.boundary.len() - 8,
    ] {
        // The body ends at Content-Length, before the form ends.
        let mut bytes = upload_head(&server, &form, &[], Some(length));
        bytes.extend_from_slice(&whole[..length]);
        let mut connection = server.connect();
        connection.send(&bytes).unwrap();
        assert_error(&connection.answer("POST").unwrap(), 400, "illegal_argument");
    }
    assert_nothing_is_left(&server);
}

#[test]
fn refusals_reach_write_first_clients() {
    let server = TestServer::with("limits.calls_per_second = 1\nlimits.calls_burst = 1");
    let authorization = format!("Bearer {}", server.token("alice"));
    let body = vec![3; 12 * MIB];
    let upload = format!("{BASE}/chatfiles");
    for (method, path, token, status) in [
        ("POST", "/no/tenant/chatfiles", &*authorization, 404),
        ("PUT", &*upload, &authorization, 405),
        ("POST", &upload, "Bearer nonsense", 401),
        ("POST", &upload, &authorization, 503),
    ] {
        let headers = [
            ("Authorization", token),
            ("Content-Type", "multipart/form-data; boundary=a"),
        ];
        let head = head(method, path, &headers, Some(body.len()));
        let refused = || {
            let mut connection = server.connect();
            let written = connection.send(&head).and_then(|()| connection.send(&body));
            assert!(written.is_ok(), "{method} {path}: {written:?}");
            connection.answer(method).unwrap()
        };
        // On a slow machine, the bucket may have refilled since the previous request.
        let answer = (0..20)
            .map(|_| refused())
            .find(|answer| answer.status == status);
        let answer = answer.unwrap_or_else(|| panic!("{method} {path}: never {status}"));
        assert_eq!(answer.header("connection"), Some("close"));
        answer.json();
    }
}
