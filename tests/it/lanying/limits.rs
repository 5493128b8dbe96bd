//! The rate limit in this API's error format, and CORS headers.

use std::net::Ipv4Addr;

use super::apps::{OTHER_ID, Stored, TWO_APPS};
use crate::{
    limit::{ONE, burst, call},
    support::{
        Answer, TestServer,
        lanying::{APP_ID, envelope, success, ticket_form},
        open_from,
    },
};

const ORIGIN: (&str, &str) = ("Origin", "https://chat.example");

/// Whether the rate limit refused a call. A refusal must follow the contract.
#[track_caller]
fn is_refused(answer: &Answer, has_body: bool) -> bool {
    if answer.status != 503 {
        return false;
    }
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let exposed = answer.header("access-control-expose-headers").unwrap();
    assert!(exposed.contains("Retry-After"), "{exposed}");
    if has_body {
        let json = envelope(answer, 503);
        assert_eq!(json["code"], 503);
        assert!(
            json["data"].is_null() && json["message"].is_string(),
            "{json}"
        );
    }
    true
}

#[test]
fn every_call_is_rate_limited() {
    let server = TestServer::with("[limits]\ncalls_per_second = 1\ncalls_burst = 3\n");
    let path = |call: &str| format!("/file/{call}app_id={APP_ID}");
    for (client, target) in [
        path("upload/avatar/user?"),
        path("upload/avatar/group?"),
        path("upload/chat?"),
        path("upload/forward?"),
        path("download/avatar?"),
        path("download/chat?"),
        path("download/chat?image_type=2&"),
        path("download/avatar?image_type=3&"),
        path("download/chat?format=mp3&"),
        // Unknown applications and unknown calls.
        "/file/upload/chat".into(),
        "/file/download/chat?app_id=nobody".into(),
        "/file/nothing".into(),
        "/file/download/chat/x".into(),
    ]
    .iter()
    .enumerate()
    {
        let from = Ipv4Addr::new(127, 0, 1, client as u8);
        let mut connection = open_from(server.address, from, None);
        let (answers, seconds) = burst(&mut connection, &vec![call("GET", target, &[], b""); 4]);
        assert!(
            seconds < 0.9,
            "the machine is too slow for this test: {seconds} s"
        );
        let refused: Vec<_> = answers
            .iter()
            .map(|answer| is_refused(answer, true))
            .collect();
        assert_eq!(refused, [false, false, false, true], "{target}");
    }
}

#[test]
fn rate_classes_count_apart() {
    const DOWNLOAD: &str = "GET download/chat?app_id=welovemaxim";
    const PICTURE: &str = "GET download/chat?image_type=2&app_id=welovemaxim";
    const TICKET: &str = "GET upload/chat?app_id=welovemaxim";
    const FORM: &str = "POST oss/welovemaxim?";
    let server = TestServer::with(&format!("{ONE}{TWO_APPS}"));
    for (client, (first, second, share)) in [
        ("GET upload/avatar/user?app_id=welovemaxim", TICKET, true),
        (
            "GET upload/avatar/group?app_id=welovemaxim",
            "GET upload/forward?app_id=welovemaxim",
            true,
        ),
        (DOWNLOAD, "GET download/avatar?app_id=welovemaxim", true),
        (DOWNLOAD, "HEAD download/chat?app_id=welovemaxim", true),
        (
            DOWNLOAD,
            "GET download/chat?image_type=1&app_id=welovemaxim",
            true,
        ),
        (DOWNLOAD, "POST download/chat?app_id=welovemaxim", false),
        (
            PICTURE,
            "GET download/avatar?image_type=3&app_id=welovemaxim",
            true,
        ),
        (
            PICTURE,
            "GET download/chat?format=amr&app_id=welovemaxim",
            true,
        ),
        (FORM, FORM, true),
        (TICKET, DOWNLOAD, false),
        (TICKET, PICTURE, false),
        (TICKET, FORM, false),
        (DOWNLOAD, PICTURE, false),
        (PICTURE, DOWNLOAD, false),
        (FORM, TICKET, false),
        (TICKET, "GET upload/chat?app_id=acme-id", false),
        (DOWNLOAD, "GET download/chat?app_id=acme-id", false),
        (
            PICTURE,
            "GET download/chat?image_type=2&app_id=acme-id",
            false,
        ),
        (FORM, "POST oss/acme-id?", false),
        (
            "GET upload/chat?app_id=nobody",
            "GET upload/chat?app_id=nowhere",
            true,
        ),
        ("GET upload/chat?app_id=nobody", "GET upload/chat?", true),
        ("GET upload/chat?app_id=nobody", TICKET, false),
    ]
    .into_iter()
    .enumerate()
    {
        let from = Ipv4Addr::new(127, 0, 2, client as u8);
        let mut connection = open_from(server.address, from, None);
        let calls = [first, second].map(|text| {
            let (method, path) = text.split_once(' ').unwrap();
            call(method, &format!("/file/{path}"), &[], b"")
        });
        let (answers, seconds) = burst(&mut connection, &calls);
        assert!(
            seconds < 0.9,
            "the machine is too slow for this test: {seconds} s"
        );
        assert_ne!(answers[0].status, 503, "{first}");
        let is_ours = second.starts_with("GET");
        assert_eq!(
            is_refused(&answers[1], is_ours),
            share,
            "{first} · {second}"
        );
    }
    // The header and the query name the same application.
    let mut connection = open_from(server.address, Ipv4Addr::new(127, 0, 3, 1), None);
    let calls = [
        call("GET", "/file/upload/chat", &[("app_id", OTHER_ID)], b""),
        call("GET", "/file/upload/chat?app_id=acme-id", &[], b""),
    ];
    let (answers, seconds) = burst(&mut connection, &calls);
    assert!(
        seconds < 0.9,
        "the machine is too slow for this test: {seconds} s"
    );
    let refused: Vec<_> = answers
        .iter()
        .map(|answer| is_refused(answer, true))
        .collect();
    assert_eq!(refused, [false, true]);
}

#[test]
fn preflight_is_exempt_from_rate() {
    let server = TestServer::with(ONE);
    for (path, method, headers) in [
        (
            "/file/oss/welovemaxim",
            "POST",
            "access-token, app_id, content-type",
        ),
        ("/file/oss/welovemaxim", "POST", "access-token,app_id"),
        (
            "/file/upload/chat?file_type=100&to_id=bob",
            "GET",
            "access-token, app_id, user_id",
        ),
        ("/file/upload/forward", "GET", "Access-Token, App_Id"),
        (
            "/file/download/chat?file_sign=x&image_type=2",
            "GET",
            "access-token, app_id, range",
        ),
        (
            "/file/download/avatar?object_name=x",
            "GET",
            "access-token, app_id",
        ),
    ] {
        for _ in 0..10 {
            let asked = [
                ORIGIN,
                ("Access-Control-Request-Method", method),
                ("Access-Control-Request-Headers", headers),
            ];
            let answer = server.request("OPTIONS", path, &asked, b"");
            assert_eq!((answer.status, answer.body.len()), (204, 0), "{path}");
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
            let names = |name: &str| -> Vec<String> {
                let all = answer.header(name).expect(name).to_ascii_lowercase();
                all.split(',').map(|name| name.trim().to_owned()).collect()
            };
            assert!(names("access-control-allow-methods").contains(&method.to_ascii_lowercase()));
            let allowed = names("access-control-allow-headers");
            for header in headers.split(',') {
                let header = header.trim().to_ascii_lowercase();
                assert!(allowed.contains(&header), "{path}: {header}: {allowed:?}");
            }
        }
    }
    // The single request of this second is still available.
    let path = format!("/file/upload/chat?app_id={APP_ID}");
    assert_ne!(server.get(&path, &[]).status, 503);
}

#[test]
fn browser_may_read_every_answer() {
    let server = TestServer::with(TWO_APPS);
    let Stored { sign, avatar } = Stored::at(&server);
    let alice = server.lanying("alice");
    let chat = format!("download/chat?file_sign={sign}");
    let ticket = success(&alice.get("upload/chat?file_type=100&to_id=bob"));
    let form = ticket_form(&ticket).file("a.txt", "text/plain", b"hello");
    let posted = |form: &crate::support::Form| {
        let headers = [ORIGIN, ("Content-Type", &form.content_type())];
        server.request("POST", "/file/oss/welovemaxim", &headers, &form.bytes())
    };
    let answers = [
        (
            200,
            alice.get_with("upload/chat?file_type=100&to_id=bob", &[ORIGIN]),
        ),
        (200, alice.get_with("upload/chat?file_type=99", &[ORIGIN])),
        (200, server.get("/file/upload/chat", &[ORIGIN])),
        (
            200,
            server.get(&format!("/file/upload/chat?app_id={APP_ID}"), &[ORIGIN]),
        ),
        (200, alice.get_with(&chat, &[ORIGIN])),
        (
            200,
            alice.get_with(&format!("{chat}&image_type=2"), &[ORIGIN]),
        ),
        (
            200,
            alice.get_with(&format!("download/avatar?object_name={avatar}"), &[ORIGIN]),
        ),
        (
            206,
            alice.get_with(&chat, &[ORIGIN, ("Range", "bytes=0-1")]),
        ),
        (
            304,
            alice.get_with(&chat, &[ORIGIN, ("If-None-Match", "*")]),
        ),
        (404, server.get("/file/nothing", &[ORIGIN])),
        (
            405,
            server.request("DELETE", "/file/upload/chat", &[ORIGIN], b""),
        ),
        (412, alice.get_with(&chat, &[ORIGIN, ("If-Match", "\"a\"")])),
        (
            416,
            alice.get_with(&chat, &[ORIGIN, ("Range", "bytes=900000-")]),
        ),
        (200, posted(&form)),
        (409, posted(&form)),
    ];
    for (status, answer) in answers {
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(
            answer.header("access-control-allow-origin"),
            Some("*"),
            "{status}"
        );
        let exposed = answer.header("access-control-expose-headers").unwrap();
        assert!(
            exposed.contains("Content-Range") && exposed.contains("ETag"),
            "{exposed}"
        );
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
}
