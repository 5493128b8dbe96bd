//! The headers of a response with a file, byte by byte, and the handling of connections.

use super::{Random, Reader, new_seed};
use crate::support::{
    Answer, BASE, Connection, Form, TestServer, faulty_server, head, photo, read_answer,
};

/// The headers by name, without those that differ in every response.
fn lasting(answer: &Answer) -> Vec<(&str, &str)> {
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "date" | "x-request-id"))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    headers.sort_unstable();
    headers
}

/// Uploads one part with the given header lines and returns the id.
fn store_part(server: &TestServer, part_head: &str, bytes: &[u8]) -> String {
    let answer = server.upload(&Form::new().part(part_head, bytes), &[]);
    assert_eq!(answer.status, 200, "{part_head}: {}", answer.text());
    answer.json()["entities"][0]["uuid"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn download_has_exactly_these_headers() {
    let server = TestServer::start();
    let photo = photo();
    let id = server.store_file("a.jpg", "image/jpeg", &photo);
    let answer = server.download(&id, &[]);
    let (etag, len) = (format!("\"{id}\""), photo.len().to_string());
    let created = answer.header("last-modified").unwrap().to_owned();
    let expected = |etag: &str, len: &str, disposition: &str| {
        [
            ("accept-ranges", "bytes"),
            ("access-control-allow-origin", "*"),
            (
                "access-control-expose-headers",
                answer.header("access-control-expose-headers").unwrap(),
            ),
            ("cache-control", "private, max-age=31536000, immutable"),
            ("content-disposition", disposition),
            ("content-length", len),
            ("content-security-policy", "sandbox; default-src 'none'"),
            ("content-type", "image/jpeg"),
            ("cross-origin-resource-policy", "cross-origin"),
            ("etag", etag),
            ("last-modified", &created),
            ("vary", "Authorization, share-secret, thumbnail, Accept"),
            ("x-content-type-options", "nosniff"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let found = |answer: &Answer| -> Vec<_> {
        lasting(answer)
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    };
    assert_eq!(
        found(&answer),
        expected(&etag, &len, "inline; filename=\"a.jpg\"")
    );
    for name in ["date", "x-request-id"] {
        assert!(answer.header(name).is_some(), "{name}");
    }
    // The thumbnail differs in its own headers.
    let thumbnail = server.download(&id, &[("thumbnail", "true")]);
    let own_etag = thumbnail.header("etag").unwrap().to_owned();
    assert_ne!(own_etag, etag);
    let len = thumbnail.body.len().to_string();
    assert_eq!(found(&thumbnail), expected(&own_etag, &len, "inline"));
    // Validators stay the same on a new connection and after a restart.
    assert_eq!(found(&server.download(&id, &[])), found(&answer));
    assert_eq!(
        found(&server.download(&id, &[("thumbnail", "true")])),
        found(&thumbnail)
    );
}

#[test]
fn validators_survive_restart() {
    let directory = tempfile::tempdir().unwrap();
    let validators = |server: &TestServer, id: &str| {
        [&[][..], &[("thumbnail", "true")]].map(|headers| {
            let answer = server.download(id, headers);
            let etag = answer.header("etag").unwrap().to_owned();
            assert!(
                etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"'),
                "{etag}"
            );
            (etag, answer.header("last-modified").unwrap().to_owned())
        })
    };
    let mut server = TestServer::in_directory(directory.path(), "");
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let before = validators(&server, &id);
    server.stop();
    let server = TestServer::in_directory(directory.path(), "");
    assert_eq!(validators(&server, &id), before);
}

#[test]
fn only_harmless_types_are_inline() {
    let server = TestServer::start();
    let photo = photo();
    let svg = b"<svg xmlns=\"http://www.w3.org/2000/svg\"><script>alert(1)</script></svg>";
    let html = b"<!DOCTYPE html><script>alert(1)</script>";
    let png = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/images/rgb.png"
    ))
    .unwrap();
    let mp4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom";
    // (bytes, declared type, disposition, returned type)
    let table: &[(&[u8], &str, &str, &str)] = &[
        (&photo, "image/jpeg", "inline", "image/jpeg"),
        (&photo, "text/html", "inline", "image/jpeg"),
        (&photo, "image/svg+xml", "inline", "image/jpeg"),
        (&png, "image/png", "inline", "image/png"),
        (
            b"#!AMR\n\x3c\x91\x17\x16",
            "audio/amr",
            "inline",
            "audio/amr",
        ),
        (mp4, "video/mp4", "inline", "video/mp4"),
        // A viewable image and an executable script: the bytes decide the type.
        (
            b"GIF89a\x01\0\x01\0/*<script>alert(1)</script>*/",
            "text/html",
            "inline",
            "image/gif",
        ),
        (html, "text/html", "attachment", "application/octet-stream"),
        (html, "image/png", "attachment", "application/octet-stream"),
        (
            b"\xef\xbb\xbf \n<SCRIPT>alert(1)</SCRIPT>",
            "image/jpeg",
            "attachment",
            "application/octet-stream",
        ),
        // Pages show it with `<img>`, where it runs nothing; opened directly, it is a sandboxed attachment.
        (svg, "image/svg+xml", "attachment", "image/svg+xml"),
        (svg, "image/png", "attachment", "image/svg+xml"),
        (b"alert(1)", "image/svg+xml", "attachment", "text/plain"),
        (
            b"<?xml version=\"1.0\"?><x/>",
            "image/png",
            "attachment",
            "application/octet-stream",
        ),
        (b"%PDF-1.7\n", "image/png", "attachment", "application/pdf"),
        (
            b"%PDF-1.7\n",
            "application/pdf",
            "attachment",
            "application/pdf",
        ),
        (
            b"alert(1)",
            "application/javascript",
            "attachment",
            "application/octet-stream",
        ),
        (b"alert(1)", "image/png", "attachment", "text/plain"),
        (b"PK\x03\x04", "image/jpeg", "attachment", "application/zip"),
        // Unknown bytes: the declared type stays, but does not decide the disposition.
        (b"\x01\x02\x03\x00", "image/png", "attachment", "image/png"),
        (b"\x01\x02\x03\x00", "video/mp4", "attachment", "video/mp4"),
        (
            b"\x01\x02\x03\x00",
            "nonsense",
            "attachment",
            "application/octet-stream",
        ),
        (
            b"\x01\x02\x03\x00",
            "multipart/form-data",
            "attachment",
            "application/octet-stream",
        ),
    ];
    for (bytes, declared, how, content_type) in table {
        let id = server.store_file("x", declared, bytes);
        let answer = server.download(&id, &[]);
        let about = format!(
            "{:?} as {declared}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(20)])
        );
        assert_eq!(answer.status, 200, "{about}");
        for (name, value) in [
            (
                "content-disposition",
                format!("{how}; filename=\"x\"").as_str(),
            ),
            ("content-type", content_type),
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "sandbox; default-src 'none'"),
            ("cross-origin-resource-policy", "cross-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{about}: {name}");
        }
        assert!(answer.body == *bytes, "{about}");
    }
}

/// Content that a page of any origin could load as code, style or page if it had that type.
#[test]
fn active_types_become_octet_stream() {
    const ACTIVE: &[&str] = &[
        "text/javascript",
        "Text/JavaScript; charset=utf-8",
        "text/javascript1.5",
        "text/x-javascript",
        "application/javascript",
        "application/x-javascript",
        "application/ecmascript",
        "text/jscript",
        "text/livescript",
        "text/vbscript",
        "text/css",
        "text/css;charset=utf-8",
        "text/xsl",
        "application/wasm",
        "text/cache-manifest",
        "application/manifest+json",
        "application/speculationrules+json",
        "application/importmap+json",
        "text/html",
        "application/xhtml+xml",
        "text/xml",
        "application/xml",
        "application/xslt+xml",
        "application/rss+xml",
        "application/vnd.google-earth.kml+xml",
        "application/x-shockwave-flash",
        "application/x-java-applet",
        "application/x-java-jnlp-file",
        "application/hta",
        "message/rfc822",
        "application/x-mimearchive",
        "application/signed-exchange;v=b3",
        "application/webbundle",
        "application/x-xpinstall",
        "application/x-chrome-extension",
        "application/x-x509-ca-cert",
        "application/x-apple-aspen-config",
    ];
    let server = TestServer::start();
    for declared in ACTIVE {
        for bytes in [
            &b"CACHE MANIFEST\n/* alert(1) */"[..],
            b"\0asm\x01\0\0\0",
            b"<!doctype html><script>alert(1)</script>",
        ] {
            let answer = server.upload(&Form::new().file("x", declared, bytes), &[]);
            let entity = &answer.json()["entities"][0];
            let metadata = &entity["file-metadata"]["content-type"];
            assert_eq!(*metadata, "application/octet-stream", "{declared}");
            let id = entity["uuid"].as_str().unwrap();
            for headers in [
                &[][..],
                &[("Range", "bytes=0-1")],
                &[("Range", "bytes=0-0,3-4")],
            ] {
                let answer = server.download(id, headers);
                let about = format!("{declared}, {headers:?}");
                let content_type = answer.header("content-type").unwrap();
                if content_type.starts_with("multipart/byteranges") {
                    let text = answer.text();
                    assert_eq!(
                        text.matches("application/octet-stream").count(),
                        2,
                        "{text}"
                    );
                } else {
                    assert_eq!(content_type, "application/octet-stream", "{about}");
                }
                let disposition = answer.header("content-disposition");
                assert_eq!(disposition, Some("attachment; filename=\"x\""), "{about}");
                assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            }
        }
        // The bytes of a picture are a picture, whatever the declared type.
        let id = server.store_file("x", declared, &photo());
        assert_eq!(
            server.download(&id, &[]).header("content-type"),
            Some("image/jpeg")
        );
    }
    // Harmless types of the same families keep the declared type.
    for declared in [
        "text/plain",
        "text/csv",
        "text/vtt",
        "text/markdown",
        "application/json",
        "application/ld+json",
        "application/postscript",
        "application/x-thing",
        "model/obj",
    ] {
        let id = server.store_file("x", declared, b"a,b\n1,2\n");
        let answer = server.download(&id, &[]);
        assert_eq!(answer.header("content-type"), Some(declared));
        assert_eq!(
            answer.header("content-disposition"),
            Some("attachment; filename=\"x\"")
        );
    }
}

#[test]
fn old_active_types_become_octet_stream() {
    let directory = tempfile::tempdir().unwrap();
    let (server, faults) = faulty_server(directory.path());
    for (stored, answered) in [
        ("text/javascript", "application/octet-stream"),
        ("Text/CSS; charset=utf-8", "application/octet-stream"),
        ("text/html", "application/octet-stream"),
        ("application/x-thing", "application/x-thing"),
        ("image/svg+xml", "image/svg+xml"),
    ] {
        faults.store_as(stored);
        let id = server.store_file("x", "application/octet-stream", b"\0\x01");
        let answer = server.download(&id, &[]);
        assert_eq!(answer.header("content-type"), Some(answered), "{stored}");
    }
}

#[test]
fn file_name_is_returned_safely() {
    let server = TestServer::start();
    let long = "x".repeat(300);
    let cut = format!("inline; filename=\"{}\"", "x".repeat(255));
    let long = format!("; filename=\"{long}\"");
    let table = [
        ("; filename=\"a.jpg\"", "inline; filename=\"a.jpg\""),
        ("; filename=a.jpg", "inline; filename=\"a.jpg\""),
        ("; filename=\"a b;c.jpg\"", "inline; filename=\"a b;c.jpg\""),
        (
            "; filename=\"照片.jpg\"",
            "inline; filename=\"__.jpg\"; filename*=UTF-8''%E7%85%A7%E7%89%87.jpg",
        ),
        (
            "; filename=\"x.jpg\"; filename*=UTF-8''%e2%82%ac.jpg",
            "inline; filename=\"_.jpg\"; filename*=UTF-8''%E2%82%AC.jpg",
        ),
        (
            "; filename=\"a\\\"b.jpg\"",
            "inline; filename=\"a_b.jpg\"; filename*=UTF-8''a%22b.jpg",
        ),
        (
            "; filename=\"100%.jpg\"",
            "inline; filename=\"100_.jpg\"; filename*=UTF-8''100%25.jpg",
        ),
        // Names cannot break lines or leave folders.
        (
            "; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x.jpg",
            "inline; filename=\"aSet-Cookie: x.jpg\"",
        ),
        (
            "; filename*=UTF-8''a%00b%7f.jpg",
            "inline; filename=\"ab.jpg\"",
        ),
        (
            "; filename=\"../../etc/passwd\"",
            "inline; filename=\"passwd\"",
        ),
        (
            "; filename=\"C:\\dir\\x.jpg\"",
            "inline; filename=\"x.jpg\"",
        ),
        (
            "; filename*=UTF-8''..%2f..%5cx.jpg",
            "inline; filename=\"x.jpg\"",
        ),
        ("; filename=\"..\"", "inline"),
        ("; filename=\"\"", "inline"),
        ("", "inline"),
        (&long, &cut),
    ];
    for (parameter, expected) in table {
        let part_head = format!(
            "Content-Disposition: form-data; name=\"file\"{parameter}\r\nContent-Type: image/jpeg\r\n"
        );
        let id = store_part(&server, &part_head, &photo());
        let answer = server.download(&id, &[]);
        assert_eq!(
            answer.header("content-disposition"),
            Some(expected),
            "{parameter}"
        );
        assert_eq!(answer.header("set-cookie"), None, "{parameter}");
    }
}

#[test]
fn max_age_ends_with_file() {
    const HOUR_MS: i64 = 3_600_000;
    // (days of retention, hours passed, seconds left)
    for (days, hours, left) in [
        (1, 0, 86_400),
        (1, 23, 3_600),
        (400, 0, 31_536_000),
        (400, 24 * 399, 86_400),
    ] {
        let server = TestServer::with(&format!("[retention]\nchatfile_days = {days}"));
        let id = server.store_file("a.jpg", "image/jpeg", &photo());
        server.clock.advance(hours * HOUR_MS);
        let etag = format!("\"{id}\"");
        for headers in [
            &[][..],
            &[("thumbnail", "true")],
            &[("If-None-Match", etag.as_str())],
        ] {
            let answer = server.download(&id, headers);
            let value = answer.header("cache-control").unwrap();
            let max_age = value
                .strip_prefix("private, max-age=")
                .and_then(|rest| rest.strip_suffix(", immutable"));
            let max_age: i64 = max_age.expect(value).parse().unwrap();
            // The test itself takes time.
            assert!(
                (left - 30..=left).contains(&max_age),
                "{days} days, {hours} hours: {value}"
            );
        }
    }
}

#[test]
fn connection_carries_many_requests() {
    let server = TestServer::start();
    let seed = new_seed();
    let whole = Random::from_seed(seed).bytes(70_000);
    let id = server.store_file("noise.bin", "application/x-noise", &whole);
    let mut reader = Reader::of(&server, &id);
    for turn in 0..150 {
        let range = format!("bytes={turn}-");
        let answer = reader.get(&[("Range", &range)]);
        assert!(
            answer.status == 206 && answer.body == whole[turn..],
            "turn {turn}, seed {seed:#x}"
        );
        assert_eq!(answer.header("connection"), None);
    }
    // Refusals and responses without a body also keep the framing intact.
    for (method, headers, status) in [
        ("GET", &[("Range", "bytes=99999999-")][..], 416),
        ("HEAD", &[], 200),
        ("GET", &[("If-None-Match", "*")], 304),
        ("DELETE", &[], 405),
        ("GET", &[], 200),
    ] {
        assert_eq!(
            reader.ask(method, headers).status,
            status,
            "{method} {headers:?}"
        );
    }
}

#[test]
fn pipelined_requests_keep_order() {
    let server = TestServer::start();
    let seed = new_seed();
    let whole = Random::from_seed(seed).bytes(600_000);
    let id = server.store_file("noise.bin", "application/x-noise", &whole);
    let mut reader = Reader::of(&server, &id);
    let mut requests = Vec::new();
    for at in 0..24 {
        let range = format!("bytes={}-{}", at * 100, at * 100 + 49 + at * 5000);
        let headers = [
            ("Authorization", reader.authorization.as_str()),
            ("Range", &range),
        ];
        requests.extend(head("GET", &reader.path, &headers, None));
    }
    reader.connection.send(&requests).unwrap();
    for at in 0..24 {
        let answer = reader.connection.answer("GET").unwrap();
        assert_eq!(answer.status, 206);
        assert!(
            answer.body == whole[at * 100..at * 100 + 50 + at * 5000],
            "{at}, seed {seed:#x}"
        );
    }
}

#[test]
fn http_1_0_connection_is_closed() {
    let server = TestServer::start();
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let token = server.token("alice");
    let request = |method: &str, more: &str| {
        format!(
            "{method} {BASE}/chatfiles/{id} HTTP/1.0\r\nAuthorization: Bearer {token}\r\n{more}\r\n"
        )
    };
    for (method, more) in [
        ("GET", ""),
        ("GET", "thumbnail: true\r\n"),
        ("HEAD", ""),
        ("GET", "Range: bytes=0-9,20-29\r\n"),
    ] {
        let mut connection = server.connect();
        connection.send(request(method, more).as_bytes()).unwrap();
        let mut rest = connection.rest();
        let answer = read_answer(&mut rest.as_slice(), method).unwrap();
        let end = rest.len() - answer.body.len();
        assert!(
            rest.split_off(end) == answer.body,
            "{method} {more}: something after the body"
        );
        assert!(
            matches!(answer.status, 200 | 206),
            "{method} {more}: {}",
            answer.status
        );
        assert_eq!(answer.header("transfer-encoding"), None, "{method} {more}");
        assert!(answer.header("content-length").is_some(), "{method} {more}");
    }
    // A client that asks to keep the connection keeps it.
    let mut connection: Connection = server.connect();
    for _ in 0..3 {
        connection
            .send(request("GET", "Connection: keep-alive\r\n").as_bytes())
            .unwrap();
        let answer = connection.answer("GET").unwrap();
        assert_eq!(answer.header("connection"), Some("keep-alive"));
        assert!(answer.body == photo());
    }
}
