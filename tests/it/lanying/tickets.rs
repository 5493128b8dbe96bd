//! The tickets of the three upload calls: contents, validity, and that they store nothing.

use std::path::PathBuf;

use base64::{Engine, prelude::BASE64_STANDARD};
use chatfiles::time::MS_PER_SECOND;
use serde_json::Value;

use super::apps::{TWO_APPS, app, backend, fields, get_of, object_name, object_of, token_of_other};
use crate::support::{
    Form, TestServer,
    lanying::{APP_ID, assert_code, file_sign, success, text, ticket_form},
};

const TICKETS: [&str; 3] = [
    "upload/avatar/user",
    "upload/avatar/group?group_id=g1",
    "upload/chat?file_type=100&to_id=bob",
];

/// The names of an object's members.
#[track_caller]
fn members(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn ticket_has_documented_members() {
    let server = TestServer::with(&app("upload_bytes_max = 12345"));
    for call in TICKETS {
        let before = server.clock.now().secs();
        let ticket = success(&server.lanying("alice").get(call));
        let after = server.clock.now().secs();
        let expected = [
            "download_url",
            "expires",
            "max_size",
            "oss_body_param",
            "store_token",
            "upload_method",
            "upload_url",
        ];
        assert_eq!(members(&ticket), expected, "{call}");
        let fields = &ticket["oss_body_param"];
        let expected = ["OSSAccessKeyId", "callback", "key", "policy", "signature"];
        assert_eq!(members(fields), expected, "{call}");
        assert!(
            fields.as_object().unwrap().values().all(Value::is_string),
            "{fields}"
        );
        assert_eq!(
            (text(&fields["callback"]), text(&fields["OSSAccessKeyId"])),
            (String::new(), APP_ID.into())
        );
        assert_eq!(
            (&ticket["upload_method"], &ticket["max_size"]),
            (&"POST".into(), &12345.into())
        );
        let expires = ticket["expires"].as_i64().expect("epoch seconds");
        assert!(
            (before + 1200..=after + 1200).contains(&expires),
            "{expires} {before}"
        );
        assert_eq!(
            text(&ticket["upload_url"]),
            format!("http://files.test/file/oss/{APP_ID}")
        );
        // The policy allows only this key, this time and this size.
        let policy = BASE64_STANDARD
            .decode(text(&fields["policy"]))
            .expect("base64");
        let policy: Value = serde_json::from_slice(&policy).expect("JSON");
        let expiration = text(&policy["expiration"])
            .parse::<jiff::Timestamp>()
            .unwrap();
        assert_eq!(expiration.as_second(), expires);
        let conditions = policy["conditions"].to_string();
        let key = text(&fields["key"]);
        assert!(
            conditions.contains(&format!(r#"["eq","$key","{key}"]"#)),
            "{conditions}"
        );
        assert!(
            conditions.contains(r#"["content-length-range",1,12345]"#),
            "{conditions}"
        );
        // No value can break a URL or a form.
        for name in ["key", "policy", "signature"] {
            assert!(
                text(&fields[name]).is_ascii()
                    && !text(&fields[name]).contains(['\r', '\n', '"', ' '])
            );
        }
    }
}

#[test]
fn download_url_leads_to_form_key() {
    let server = TestServer::start();
    for call in TICKETS {
        let ticket = success(&server.lanying("alice").get(call));
        let (url, key) = (
            text(&ticket["download_url"]),
            text(&ticket["oss_body_param"]["key"]),
        );
        let (path, query) = url.split_once('?').unwrap();
        assert!(!query.contains(['&', '#', '%', '?', '+']), "{url}");
        if call.starts_with("upload/chat") {
            assert_eq!(path, "http://files.test/file/download/chat");
            assert_eq!(query, format!("file_sign={}", file_sign(&url)));
            // Extracted as clients do.
            assert_eq!(url.split("sign=").count(), 2);
            assert_eq!(object_of(file_sign(&url)), key);
        } else {
            assert_eq!(path, "http://files.test/file/download/avatar");
            assert_eq!(query, format!("object_name={key}"));
            assert_eq!(object_name(&url), key);
            assert!(key.starts_with("avatar."), "{key}");
        }
    }
}

#[test]
fn urls_use_public_url_or_host() {
    let bases = [
        ("", "files.test", "http://files.test"),
        ("", "10.0.0.1:8080", "http://10.0.0.1:8080"),
        (
            "server.public_url = \"https://files.example\"",
            "files.test",
            "https://files.example",
        ),
        (
            "server.public_url = \"https://files.example:8443\"",
            "a",
            "https://files.example:8443",
        ),
    ];
    for (setting, host, base) in bases {
        let server = TestServer::with(setting);
        let alice = server.lanying("alice");
        let url = alice.send("100", "bob", "a.txt", b"hello");
        let forward = format!("upload/forward?file_sign={}&to_id=carol", file_sign(&url));
        for call in TICKETS {
            let ticket = success(&alice.get_with(call, &[("Host", host)]));
            for name in ["upload_url", "download_url"] {
                let url = text(&ticket[name]);
                assert!(url.starts_with(&format!("{base}/file/")), "{name}: {url}");
            }
        }
        let url = text(&success(&alice.get_with(&forward, &[("Host", host)])));
        assert!(
            url.starts_with(&format!("{base}/file/download/chat?file_sign=")),
            "{url}"
        );
    }
}

#[test]
fn ticket_stores_nothing() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    let mut keys = std::collections::HashSet::new();
    for _ in 0..30 {
        for call in TICKETS {
            let ticket = success(&alice.get(call));
            assert!(
                keys.insert(text(&ticket["oss_body_param"]["key"])),
                "a key comes once"
            );
            assert_code(&alice.open(&text(&ticket["download_url"]), ""), 20022);
        }
    }
    for directory in ["objects", "derived", "parts"] {
        assert_eq!(
            server.files_in(directory),
            Vec::<PathBuf>::new(),
            "{directory}"
        );
    }
}

#[test]
fn file_type_names_storage_class() {
    for (file_type, class) in [
        ("100", "chatfile"),
        ("101", "voice"),
        ("102", "image"),
        ("103", "video"),
        ("104", "voice"),
        ("200", "shared"),
        ("201", "shared-voice"),
        ("202", "shared-image"),
        ("203", "shared-video"),
    ] {
        let server = TestServer::start();
        let alice = server.lanying("alice");
        let url = alice.send(file_type, "bob", "a.bin", b"whatever it is");
        let object = object_of(file_sign(&url));
        let parts: Vec<_> = object.splitn(3, '.').collect();
        assert_eq!(parts[0], class);
        let files = server.files_in("objects");
        let [file] = &files[..] else {
            panic!("{files:?}")
        };
        assert!(
            file.starts_with(format!("{class}/{}", parts[1])) && file.ends_with(parts[2]),
            "{file:?}"
        );
        // The declared type does not have to be true.
        assert_eq!(server.lanying("bob").open(&url, "").body, b"whatever it is");
    }
}

/// The ticket after twenty minutes, its link with the file.
#[test]
fn ticket_and_link_expire_apart() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    for (after_secs, is_good) in [
        (0, true),
        (19 * 60, true),
        (1195, true),
        (1200, false),
        (7200, false),
    ] {
        let ticket = alice.ticket("100", "bob", "1");
        server.clock.advance(after_secs * MS_PER_SECOND);
        let form = ticket_form(&ticket).file("a.txt", "text/plain", b"hello");
        let answer = alice.post(&ticket, &form);
        let url = text(&ticket["download_url"]);
        if is_good {
            assert_eq!(answer.status, 200, "{after_secs}: {}", answer.text());
            server.clock.advance(3600 * MS_PER_SECOND);
            assert_eq!(alice.open(&url, "").body, b"hello");
        } else {
            assert_eq!(answer.status, 403, "{after_secs}");
            let error = answer.text();
            assert!(
                error.contains("AccessDenied") && error.contains("Policy expired."),
                "{error}"
            );
            assert_code(&alice.open(&url, ""), 20022);
        }
    }
    assert_eq!(server.files_in("objects").len(), 3);
}

#[test]
fn ticket_opens_no_other_apps_form() {
    let server = TestServer::with(TWO_APPS);
    let token = token_of_other(&server, "alice");
    for call in TICKETS {
        let ticket = success(&get_of(&server, "acme-id", &token, call));
        let url = text(&ticket["upload_url"]);
        assert!(url.ends_with("/file/oss/acme-id"), "{url}");
        let form = ticket_form(&ticket).file("a.txt", "text/plain", b"hello");
        let headers = [("Content-Type", &*form.content_type())];
        let post = |app_id: &str| {
            server.request(
                "POST",
                &format!("/file/oss/{app_id}"),
                &headers,
                &form.bytes(),
            )
        };
        assert_eq!(post(APP_ID).status, 403);
        assert_eq!(post("acme-id").status, 200);
    }
}

#[test]
fn backend_uploads_for_its_user() {
    let server = TestServer::start();
    let backend = backend(&server);
    let ticket = success(&backend.get_with(TICKETS[2], &[("user_id", "dave")]));
    let url = backend.store(&ticket, "a.txt", b"hello");
    assert_eq!(fields(file_sign(&url))[0], "dave");
    assert_eq!(server.lanying("bob").open(&url, "").body, b"hello");
}

/// Even if both apps have the same keys.
#[test]
fn ticket_is_bound_to_its_app() {
    let server = TestServer::with(
        r#"
        [[tenant]]
        org = "easemob-demo"
        app = "chatdemoui"
        app_id = "welovemaxim"
        upload_key = "the same upload key"
        [[tenant]]
        org = "other"
        app = "chat"
        app_id = "other"
        upload_key = "the same upload key"
        "#,
    );
    let ticket = server.lanying("alice").ticket("100", "bob", "1");
    let field = |name: &str| text(&ticket["oss_body_param"][name]);
    let form = |id: &str| {
        Form::new()
            .field("OSSAccessKeyId", id)
            .field("policy", &field("policy"))
            .field("signature", &field("signature"))
            .field("key", &field("key"))
            .file("a.txt", "text/plain", b"hello")
    };
    let post = |path: &str, form: &Form| {
        let content_type = form.content_type();
        let headers = [("Content-Type", content_type.as_str())];
        server.request("POST", path, &headers, &form.bytes())
    };
    let refused = post("/file/oss/other", &form("other"));
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(
        refused.text().contains("<Code>AccessDenied</Code>"),
        "{}",
        refused.text()
    );
    assert!(server.files_in("objects").is_empty());
    assert_eq!(
        post("/file/oss/welovemaxim", &form("welovemaxim")).status,
        200
    );
}
