//! Downloads: ranges, conditions, HEAD, and headers that prevent harm.

use super::apps::Stored;
use crate::support::{
    Answer, TestServer,
    lanying::{APP_ID, Client, envelope, success, text, ticket_form},
    photo,
};

/// Downloads through both calls, with further headers.
fn both(client: &Client<'_>, stored: &Stored, more: &str, headers: &[(&str, &str)]) -> [Answer; 2] {
    let Stored { sign, avatar } = stored;
    [
        format!("download/chat?file_sign={sign}{more}"),
        format!("download/avatar?object_name={avatar}{more}"),
    ]
    .map(|call| client.get_with(&call, headers))
}

/// The headers without those that differ in every response.
fn lasting(answer: &Answer) -> Vec<(String, String)> {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| !matches!(name.as_str(), "date" | "x-request-id"));
    headers.sort();
    headers
}

#[test]
fn download_has_exactly_these_headers() {
    let server = TestServer::start();
    let stored = Stored::at(&server);
    let bob = server.lanying("bob");
    let photo = photo();
    for more in ["", "&image_type=2"] {
        for (answer, object) in both(&bob, &stored, more, &[])
            .iter()
            .zip([super::apps::object_of(&stored.sign), stored.avatar.clone()])
        {
            let is_original = more.is_empty();
            assert_eq!(answer.body == photo, is_original);
            let etag = answer.header("etag").unwrap();
            if is_original {
                assert_eq!(etag, format!("\"{}\"", super::apps::id_of(&object)));
            }
            let len = answer.body.len().to_string();
            let disposition = if is_original {
                "inline; filename=\"a.jpg\""
            } else {
                "inline"
            };
            let expected = [
                ("accept-ranges", "bytes"),
                ("access-control-allow-origin", "*"),
                (
                    "access-control-expose-headers",
                    answer.header("access-control-expose-headers").unwrap(),
                ),
                ("cache-control", "private, max-age=31536000, immutable"),
                ("content-disposition", disposition),
                ("content-length", &len),
                ("content-security-policy", "sandbox; default-src 'none'"),
                ("content-type", "image/jpeg"),
                ("cross-origin-resource-policy", "cross-origin"),
                ("etag", etag),
                ("last-modified", answer.header("last-modified").unwrap()),
                ("vary", "access-token, app_id, user_id"),
                ("x-content-type-options", "nosniff"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(lasting(answer), expected);
        }
    }
}

#[test]
fn serves_ranges_and_416() {
    let server = TestServer::start();
    let stored = Stored::at(&server);
    let bob = server.lanying("bob");
    for more in ["", "&image_type=2"] {
        for (at, whole) in both(&bob, &stored, more, &[]).iter().enumerate() {
            let whole = &whole.body;
            let len = whole.len();
            let get = |range: &str| {
                let [chat, avatar] = both(&bob, &stored, more, &[("Range", range)]);
                if at == 0 { chat } else { avatar }
            };
            let last = len - 1;
            for (range, start, end) in [
                ("bytes=0-9", 0, 9),
                ("bytes=100-", 100, last),
                ("bytes=-5", len - 5, last),
                ("bytes=0-99999999", 0, last),
            ] {
                let answer = get(range);
                assert_eq!(answer.status, 206, "{range}");
                assert!(answer.body == whole[start..=end], "{range}");
                let content_range = format!("bytes {start}-{end}/{len}");
                assert_eq!(answer.header("content-range"), Some(&*content_range));
                assert_eq!(answer.header("content-type"), Some("image/jpeg"));
            }
            let several = get("bytes=0-3,100-103");
            assert_eq!(several.status, 206);
            let kind = several.header("content-type").unwrap();
            let boundary = kind
                .strip_prefix("multipart/byteranges; boundary=")
                .expect(kind);
            let mut expected = Vec::new();
            for start in [0, 100] {
                expected.extend(format!("\r\n--{boundary}\r\nContent-Type: image/jpeg\r\nContent-Range: bytes {start}-{}/{len}\r\n\r\n", start + 3).bytes());
                expected.extend(&whole[start..=start + 3]);
            }
            expected.extend(format!("\r\n--{boundary}--\r\n").bytes());
            let body = several.text();
            assert!(
                several.body == expected || several.body == expected[2..],
                "{body}"
            );
            for range in [format!("bytes={len}-"), "bytes=99999999-".into()] {
                let answer = get(&range);
                assert_eq!(envelope(&answer, 416)["code"], 416);
                assert_eq!(
                    answer.header("content-range"),
                    Some(&*format!("bytes */{len}"))
                );
                assert_eq!(answer.header("etag"), None);
            }
        }
    }
}

#[test]
fn rights_come_before_conditions() {
    let server = TestServer::start();
    let stored = Stored::at(&server);
    let bob = server.lanying("bob");
    for more in ["", "&image_type=2"] {
        let etags =
            both(&bob, &stored, more, &[]).map(|answer| answer.header("etag").unwrap().to_owned());
        for (at, etag) in etags.iter().enumerate() {
            let get = |headers: &[(&str, &str)]| both(&bob, &stored, more, headers)[at].clone();
            for value in [&**etag, "*", &format!("\"x\", W/{etag}")] {
                let answer = get(&[("If-None-Match", value)]);
                assert_eq!((answer.status, answer.body.len()), (304, 0));
                assert_eq!(answer.header("etag"), Some(&**etag));
                assert_eq!(answer.header("vary"), Some("access-token, app_id, user_id"));
                assert!(
                    answer
                        .header("cache-control")
                        .unwrap()
                        .starts_with("private, max-age=")
                );
            }
            assert_eq!(get(&[("If-None-Match", "\"x\"")]).status, 200);
            assert_eq!(get(&[("If-Match", etag)]).status, 200);
            assert_eq!(envelope(&get(&[("If-Match", "\"x\"")]), 412)["code"], 412);
            assert_eq!(
                get(&[("Range", "bytes=0-1"), ("If-Range", etag)]).status,
                206
            );
            assert_eq!(
                get(&[("Range", "bytes=0-1"), ("If-Range", "\"x\"")]).status,
                200
            );
        }
    }
    let stranger = Client {
        server: &server,
        token: "garbage".into(),
    };
    for headers in [
        [("If-None-Match", "*")],
        [("Range", "bytes=0-1")],
        [("If-Match", "\"x\"")],
    ] {
        for answer in both(&stranger, &stored, "", &headers) {
            crate::support::lanying::assert_code(&answer, 10008);
        }
    }
}

#[test]
fn head_has_headers_of_get() {
    let server = TestServer::start();
    let Stored { sign, avatar } = Stored::at(&server);
    let token = server.token("bob");
    let mut connection = server.connect();
    let good = [("access-token", &*token), ("app_id", APP_ID)];
    for (call, more, status) in [
        (format!("download/chat?file_sign={sign}"), &[][..], 200),
        (
            format!("download/chat?file_sign={sign}&image_type=2"),
            &[],
            200,
        ),
        (format!("download/avatar?object_name={avatar}"), &[], 200),
        (
            format!("download/avatar?object_name={avatar}&image_type=3&w=50"),
            &[],
            200,
        ),
        (
            format!("download/chat?file_sign={sign}"),
            &[("Origin", "https://chat.example")],
            200,
        ),
        (
            format!("download/chat?file_sign={sign}"),
            &[("If-None-Match", "*")],
            304,
        ),
        (
            format!("download/chat?file_sign={sign}"),
            &[("If-Match", "\"x\"")],
            412,
        ),
        ("download/chat?file_sign=x".into(), &[], 200),
        ("download/chat".into(), &[], 200),
        ("download/avatar?object_name=x".into(), &[], 200),
    ] {
        let headers = [&good[..], more].concat();
        let [get, head] = ["GET", "HEAD"]
            .map(|method| connection.request(method, &format!("/file/{call}"), &headers, b""));
        assert_eq!((get.status, head.status), (status, status), "{call}");
        assert_eq!(lasting(&get), lasting(&head), "{call}");
        assert!(head.body.is_empty());
    }
}

/// Sends bytes as a file with this name and type; returns the responses to a download and to a range.
fn sent_as(
    client: &Client<'_>,
    name: &str,
    kind: &str,
    field: Option<&str>,
    bytes: &[u8],
) -> [Answer; 2] {
    let ticket = client.ticket("100", "bob", "1");
    let mut form = ticket_form(&ticket);
    if let Some(kind) = field {
        form = form.field("Content-Type", kind);
    }
    let answer = client.post(&ticket, &form.file(name, kind, bytes));
    assert_eq!(answer.status, 200, "{kind}: {}", answer.text());
    let url = text(&ticket["download_url"]);
    let path = &url[url.find("download/").unwrap()..];
    [&[][..], &[("Range", "bytes=0-0,2-2")]].map(|headers| client.get_with(path, headers))
}

#[test]
fn file_is_never_mistaken_for_envelope() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    let envelope = br#"{"code":402,"message":"x","data":null}"#;
    for kind in [
        "application/json",
        "application/json;charset=UTF-8",
        "application/json ; charset=utf-8",
        "Application/JSON",
        "APPLICATION/JSON;x=y",
        " application/json",
        "application/json\t",
        "application/json, text/plain",
        "application/octet-stream",
        "text/plain",
        "",
    ] {
        for (field, declared) in [
            (None, kind),
            (Some(kind), "text/plain"),
            (Some("application/json"), kind),
        ] {
            let [whole, ranges] = sent_as(&alice, "a.json", declared, field, envelope);
            assert_eq!(whole.body, envelope);
            let kind = whole.header("content-type").unwrap().to_ascii_lowercase();
            assert!(!kind.contains("json"), "{declared} {field:?}: {kind}");
            assert!(
                whole
                    .header("content-disposition")
                    .unwrap()
                    .starts_with("attachment")
            );
            assert_eq!(ranges.status, 206);
            let parts = ranges.text().to_ascii_lowercase();
            assert!(!parts.contains("application/json"), "{parts}");
        }
    }
}

#[test]
fn active_types_are_attachments() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    let html = b"<!DOCTYPE html><script>alert(1)</script>";
    let svg = b"<svg xmlns=\"http://www.w3.org/2000/svg\"><script>alert(1)</script></svg>";
    let photo = photo();
    for (bytes, kind, shown) in [
        (&html[..], "text/html", false),
        (html, "image/png", false),
        (html, "application/octet-stream", false),
        (svg, "image/svg+xml", false),
        (svg, "image/jpeg", false),
        (b"alert(1)", "text/javascript", false),
        (b"%PDF-1.7\n", "application/pdf", false),
        (&photo, "image/jpeg", true),
        (&photo, "text/html", true),
    ] {
        let [answer, _] = sent_as(&alice, "x.bin", kind, None, bytes);
        assert!(answer.body == bytes, "{kind}: {}", answer.text());
        let disposition = answer.header("content-disposition").unwrap();
        let expected = if shown {
            "inline; filename=\"x.bin\""
        } else {
            "attachment; filename=\"x.bin\""
        };
        assert_eq!(disposition, expected, "{kind}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(
            answer.header("content-security-policy"),
            Some("sandbox; default-src 'none'")
        );
    }
}

#[test]
fn both_parties_get_same_file() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    let ticket = success(&alice.get("upload/chat?file_type=100&to_id=bob"));
    let url = alice.store(&ticket, "报告 2026.txt", b"hello");
    let [one, two] = ["alice", "bob"].map(|user| server.lanying(user).open(&url, ""));
    assert_eq!(lasting(&one), lasting(&two));
    let disposition = one.header("content-disposition").unwrap();
    assert!(
        disposition.contains("filename*=UTF-8''%E6%8A%A5%E5%91%8A%202026.txt"),
        "{disposition}"
    );
}
