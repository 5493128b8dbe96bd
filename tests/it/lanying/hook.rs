//! The authorisation hook: the question to the backend, and that only a clear yes grants access.

mod backend;
mod pictures;

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use self::backend::{Backend, Reply};
use super::apps::{Stored, app, assert_success, backend as app_client};
use crate::support::{
    Answer, TestServer,
    lanying::{APP_ID, assert_code, envelope, success, text},
    photo,
};

/// A server whose default tenant asks this backend, with further settings.
fn server(backend: &Backend, hook: &str, settings: &str) -> TestServer {
    TestServer::with(&format!(
        "[hook]\n{hook}\n{}",
        app(&format!("{}\n{settings}", backend.setting()))
    ))
}

/// A backend whose reply the test can change.
fn changeable(reply: Reply) -> (Backend, Arc<Mutex<Reply>>) {
    let shared = Arc::new(Mutex::new(reply));
    let moved = shared.clone();
    (
        Backend::start(move |_| moved.lock().unwrap().clone()),
        shared,
    )
}

fn question(user: &str, action: &str, to_type: u8, to_id: &str) -> Value {
    json!({ "app_id": APP_ID, "user": user, "action": action, "to_type": to_type, "to_id": to_id })
}

/// The question about a file that alice sent.
fn download(user: &str, to_type: u8, to_id: &str) -> Value {
    let mut question = question(user, "download", to_type, to_id);
    question["from"] = "alice".into();
    question
}

#[test]
fn trace_of_caller_is_passed_on() {
    let backend = Backend::start(|_| Reply::allow());
    let server = server(&backend, "cache_seconds = 0", "");
    let token = server.lanying("alice").token;
    let path = "/file/upload/chat?file_type=102&to_id=bob";
    let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    for (sent, expected) in [(header, true), ("00-x", false)] {
        let headers = [
            ("access-token", &*token),
            ("app_id", APP_ID),
            ("traceparent", sent),
        ];
        success(&server.get(path, &headers));
        let (head, question) = backend.take().remove(0);
        assert_eq!(question, self::question("alice", "upload", 1, "bob"));
        let is_passed_on = head
            .to_lowercase()
            .contains(&format!("traceparent: {header}\r\n"));
        assert_eq!(is_passed_on, expected, "{head}");
        assert_eq!(
            head.to_lowercase().contains("traceparent"),
            expected,
            "{head}"
        );
    }
}

#[test]
fn question_has_exactly_this_form() {
    let backend = Backend::start(|_| Reply::allow());
    let server = server(&backend, "cache_seconds = 0", "");
    let Stored { sign, avatar } = Stored::at(&server);
    let alice = server.lanying("alice");
    let url = alice.store(&alice.ticket("102", "g1", "2"), "a.jpg", &photo());
    let in_group = crate::support::lanying::file_sign(&url).to_owned();
    // The tickets caused questions, the form posts and the user's avatar did not.
    let asked = backend.questions();
    assert_eq!(
        asked,
        [
            question("alice", "upload", 1, "bob"),
            question("alice", "upload", 2, "g1")
        ]
    );
    let bob = server.lanying("bob");
    let table = [
        ("upload/avatar/user".to_owned(), vec![]),
        (
            "upload/avatar/group?group_id=g7".into(),
            vec![question("bob", "group_avatar", 2, "g7")],
        ),
        (
            "upload/chat?file_type=101&to_id=carol".into(),
            vec![question("bob", "upload", 1, "carol")],
        ),
        (
            "upload/chat?file_type=200&to_id=g2&to_type=2".into(),
            vec![question("bob", "upload", 2, "g2")],
        ),
        (
            format!("download/chat?file_sign={sign}"),
            vec![download("bob", 1, "bob")],
        ),
        (
            format!("download/chat?file_sign={sign}&image_type=2"),
            vec![download("bob", 1, "bob")],
        ),
        (
            format!("download/chat?file_sign={in_group}&format=mp3"),
            vec![download("bob", 2, "g1")],
        ),
        (format!("download/avatar?object_name={avatar}"), vec![]),
        (
            format!("download/avatar?object_name={avatar}&image_type=2"),
            vec![],
        ),
        (
            format!("upload/forward?file_sign={in_group}&to_id=carol"),
            vec![
                download("bob", 2, "g1"),
                question("bob", "forward", 1, "carol"),
            ],
        ),
        (
            format!("upload/forward?file_sign={sign}&to_id=g2&to_type=2"),
            vec![
                download("bob", 1, "bob"),
                question("bob", "forward", 2, "g2"),
            ],
        ),
        // A request that is refused earlier causes no question.
        ("upload/chat?file_type=99&to_id=carol".into(), vec![]),
        ("upload/chat?file_type=100&to_id=a%20b".into(), vec![]),
        ("upload/avatar/group".into(), vec![]),
        ("download/chat?file_sign=x".into(), vec![]),
        (format!("download/chat?file_sign={sign}&w=0"), vec![]),
        (format!("upload/forward?file_sign={sign}"), vec![]),
    ];
    for (call, expected) in table {
        assert_eq!(bob.get(&call).status, 200, "{call}");
        assert_eq!(backend.questions(), expected, "{call}");
    }
    // HEAD needs the same right as GET.
    let headers = [("access-token", &*bob.token), ("app_id", APP_ID)];
    server.request(
        "HEAD",
        &format!("/file/download/chat?file_sign={sign}"),
        &headers,
        b"",
    );
    assert_eq!(backend.questions(), [download("bob", 1, "bob")]);
    // For the backend's own call, the named user counts; for a store token, the user it acts for.
    let call = format!("download/chat?file_sign={sign}");
    assert_success(
        &app_client(&server).get_with(&call, &[("user_id", "dave")]),
        &call,
    );
    assert_eq!(backend.questions(), [download("dave", 1, "bob")]);
    let ticket = alice.ticket("102", "bob", "1");
    let url = alice.store(&ticket, "a.jpg", &photo());
    backend.questions();
    let path = &url[url.find("/file/").unwrap()..];
    let store_token = text(&ticket["store_token"]);
    let answer = server.get(
        &format!("{path}&app_id={APP_ID}&store_token={store_token}"),
        &[],
    );
    assert!(answer.body == photo(), "{}", answer.text());
    assert_eq!(backend.questions(), [download("alice", 1, "bob")]);
}

#[test]
fn question_is_signed_with_secret() {
    let backend = Backend::start(|_| Reply::allow());
    let server = server(&backend, "", "hook_secret = \"s3cret-of-the-tests\"");
    server.lanying("alice").ticket("100", "bob", "1");
    let (head, _) = backend.take().remove(0);
    assert!(head.starts_with("POST /may HTTP/1.1"), "{head}");
    let head = head.to_ascii_lowercase();
    for header in [
        "x-chatfiles-timestamp: ",
        "x-chatfiles-signature: ",
        "content-type: application/json",
    ] {
        assert!(head.contains(header), "{head}");
    }
    assert!(!head.contains("s3cret-of-the-tests"));
}

#[test]
fn refusal_uses_backends_code() {
    let (backend, reply) = changeable(Reply::allow());
    let server = server(&backend, "cache_seconds = 0", "");
    let Stored { sign, .. } = Stored::at(&server);
    let alice = server.lanying("alice");
    let url = alice.store(&alice.ticket("102", "g1", "2"), "a.jpg", &photo());
    let in_group = crate::support::lanying::file_sign(&url).to_owned();
    let calls = [
        ("upload/chat?file_type=100&to_id=bob".to_owned(), 10010),
        ("upload/chat?file_type=100&to_id=g1&to_type=2".into(), 20002),
        ("upload/avatar/group?group_id=g1".into(), 20012),
        (format!("download/chat?file_sign={sign}"), 10010),
        (
            format!("download/chat?file_sign={sign}&image_type=2"),
            10010,
        ),
        (format!("download/chat?file_sign={in_group}"), 20002),
        (
            format!("upload/forward?file_sign={sign}&to_id=carol"),
            10010,
        ),
        (
            format!("upload/forward?file_sign={in_group}&to_id=carol"),
            20002,
        ),
    ];
    for (text, own) in [
        (r#"{"allow":false}"#, None),
        (r#"{"allow":false,"code":null}"#, None),
        (r#"{"allow":false,"code":200}"#, None),
        (r#"{"allow":false,"code":0}"#, None),
        (r#"{"allow":false,"code":"20001"}"#, None),
        (r#"{"allow":false,"code":20001}"#, Some(20001)),
        (
            r#"{"allow":false,"code":20023,"message":"no"}"#,
            Some(20023),
        ),
        (r#"{"allow":false,"code":10010}"#, Some(10010)),
        (r#"{"code":20012,"allow":false}"#, Some(20012)),
        (r#"{"allow":false,"code":99999}"#, Some(99999)),
    ] {
        *reply.lock().unwrap() = Reply::json(text);
        for (call, code) in &calls {
            assert_code(&alice.get(call), own.unwrap_or(*code));
        }
    }
}

/// To the file and to the recipient.
#[test]
fn forward_needs_two_rights() {
    let refused = Arc::new(Mutex::new(""));
    let moved = refused.clone();
    let backend = Backend::start(move |question| {
        let is_refused = question["action"] == *moved.lock().unwrap();
        Reply::json(&json!({ "allow": !is_refused }).to_string())
    });
    let server = server(&backend, "cache_seconds = 0", "");
    let Stored { sign, .. } = Stored::at(&server);
    let bob = server.lanying("bob");
    for (action, to_type, code) in [
        ("download", "1", Some(10010)),
        ("download", "2", Some(10010)),
        ("forward", "1", Some(10010)),
        ("forward", "2", Some(20002)),
        ("upload", "1", None),
    ] {
        *refused.lock().unwrap() = action;
        let call = format!("upload/forward?file_sign={sign}&to_id=x&to_type={to_type}");
        match code {
            Some(code) => drop(assert_code(&bob.get(&call), code)),
            None => drop(success(&bob.get(&call))),
        }
    }
}

/// Checks that access was denied and that the client may retry.
#[track_caller]
fn assert_unavailable(answer: &Answer, about: &str) {
    let json = envelope(answer, 503);
    assert_eq!(
        (&json["code"], &json["data"]),
        (&503.into(), &Value::Null),
        "{about}"
    );
    assert_eq!(answer.header("retry-after"), Some("1"), "{about}");
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let text = answer.text();
    assert!(
        !text.contains("127.0.0.1") && !text.contains("may\""),
        "{text}"
    );
}

#[test]
fn any_failure_is_503() {
    let (backend, reply) = changeable(Reply::allow());
    let server = server(&backend, "timeout_seconds = 1", "");
    let Stored { sign, .. } = Stored::at(&server);
    let bob = server.lanying("bob");
    let calls = [
        "upload/chat?file_type=100&to_id=carol".to_owned(),
        "upload/avatar/group?group_id=g1".into(),
        format!("download/chat?file_sign={sign}"),
        format!("upload/forward?file_sign={sign}&to_id=carol"),
    ];
    let replies = [
        ("500", Reply::Body(500, r#"{"allow":true}"#.into())),
        ("404", Reply::Body(404, r#"{"allow":true}"#.into())),
        ("201", Reply::Body(201, r#"{"allow":true}"#.into())),
        ("302", Reply::Body(302, r#"{"allow":true}"#.into())),
        ("empty", Reply::json("")),
        ("no JSON", Reply::json("yes")),
        ("HTML", Reply::json("<html>{\"allow\":true}</html>")),
        ("no member", Reply::json("{}")),
        ("a text", Reply::json(r#"{"allow":"true"}"#)),
        ("a number", Reply::json(r#"{"allow":1}"#)),
        ("an array", Reply::json("[true]")),
        ("null", Reply::json(r#"{"allow":null}"#)),
        ("another case", Reply::json(r#"{"Allow":true}"#)),
        ("cut", Reply::json(r#"{"allow":true"#)),
        ("twice", Reply::json(r#"{"allow":false,"allow":true}"#)),
        (
            "large",
            Reply::json(&format!(r#"{{"allow":true,"x":"{}"}}"#, "x".repeat(20_000))),
        ),
        ("closed", Reply::Close),
        ("no answer", Reply::Never),
    ];
    for (about, bad) in replies {
        *reply.lock().unwrap() = bad;
        for call in &calls {
            assert_unavailable(&bob.get(call), about);
        }
    }
    // Failures are not cached.
    *reply.lock().unwrap() = Reply::allow();
    for call in &calls {
        assert_success(&bob.get(call), call);
    }
}

#[test]
fn absent_backend_is_503() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let server = TestServer::with(&app(&format!("hook_url = \"http://{port}/may\"")));
    for call in [
        "upload/chat?file_type=100&to_id=carol",
        "upload/avatar/group?group_id=g1",
    ] {
        assert_unavailable(&server.lanying("bob").get(call), call);
    }
    success(&server.lanying("bob").get("upload/avatar/user"));
}

#[test]
fn answer_is_cached_per_question() {
    let (backend, reply) = changeable(Reply::allow());
    let server = server(&backend, "cache_seconds = 3600", "");
    let Stored { sign, .. } = Stored::at(&server);
    backend.questions();
    let [bob, carol] = ["bob", "carol"].map(|user| server.lanying(user));
    let chat = format!("download/chat?file_sign={sign}");
    for _ in 0..3 {
        assert_success(&bob.get(&chat), &chat);
        assert_success(&bob.get(&format!("{chat}&source=miniprogram")), &chat);
    }
    assert_eq!(backend.questions().len(), 1, "asked once");
    // A cached yes stays valid although the backend now says no. Another user, action or target is another question.
    *reply.lock().unwrap() = Reply::json(r#"{"allow":false,"code":20023}"#);
    assert_success(&bob.get(&chat), &chat);
    assert_eq!(backend.questions().len(), 0);
    for _ in 0..2 {
        assert_code(&carol.get(&chat), 20023);
        assert_code(
            &bob.get(&format!("upload/forward?to_id=carol&file_sign={sign}")),
            20023,
        );
        assert_code(&bob.get("upload/chat?file_type=100&to_id=carol"), 20023);
        assert_code(
            &bob.get("upload/chat?file_type=100&to_id=carol&to_type=2"),
            20023,
        );
    }
    assert_eq!(backend.questions().len(), 4, "a no is cached too");
}

#[test]
fn strict_recipients_come_first() {
    let backend = Backend::start(|_| Reply::allow());
    let server = server(&backend, "cache_seconds = 0", "strict_recipients = true");
    let Stored { sign, .. } = Stored::at(&server);
    backend.questions();
    let chat = format!("download/chat?file_sign={sign}");
    assert_code(&server.lanying("carol").get(&chat), 20023);
    assert_eq!(backend.questions(), Vec::<Value>::new());
    assert_success(&server.lanying("bob").get(&chat), &chat);
    assert_eq!(backend.questions(), [download("bob", 1, "bob")]);
}
