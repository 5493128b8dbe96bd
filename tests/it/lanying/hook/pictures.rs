//! External picture servers with a hook: the viewer is checked, and the picture server causes no further question and
//! gets nothing else.

use percent_encoding::percent_decode_str;

use super::{
    backend::{Backend, Reply},
    server,
};
use crate::support::{
    hmac_sha256,
    lanying::{APP_ID, assert_code, text},
    photo,
};

#[test]
fn picture_server_needs_no_question() {
    // The sender has left the group; the viewer is a member.
    let backend = Backend::start(|question| match question["user"].as_str() {
        Some("alice") if question["action"] == "download" => {
            Reply::json(r#"{"allow":false,"code":20002}"#)
        }
        _ => Reply::allow(),
    });
    let key = "an-sdk-key-of-the-tests";
    let settings = format!(
        "sdk_sign_key = {key:?}\nstrict_recipients = true\nimage_process_url = \"http://img.test/{{w}}?src={{source}}\""
    );
    let server = server(&backend, "", &settings);
    let alice = server.lanying("alice");
    let url = alice.store(&alice.ticket("102", "g1", "2"), "a.jpg", &photo());
    let path = &url[url.find("/file/").unwrap()..];
    let asked = format!("{path}&image_type=2");
    let signed = |path: &str| {
        let (path, query) = path.split_once('?').unwrap();
        let mut pairs: Vec<&str> = query.split('&').collect();
        pairs.sort_unstable();
        let text = format!("{path}?{}", pairs.join("&"));
        format!("{path}?{query}&sdk_sign={}", hmac_sha256(key, &text))
    };
    let token = server.token("bob");
    let headers = [("access-token", &*token), ("app_id", APP_ID)];
    let answer = server.get(&signed(&asked), &headers);
    assert_eq!(answer.status, 302, "{}", answer.text());
    let location = answer.header("location").unwrap();
    let (_, source) = location.split_once("src=").unwrap();
    let source = percent_decode_str(source).decode_utf8().unwrap();
    let source = &source[source.find("/file/").unwrap()..];
    backend.questions();
    let original = server.get(source, &[]);
    assert!(original.body == photo(), "{}", original.text());
    assert_eq!(backend.questions(), [] as [serde_json::Value; 0]);

    // The token opens only this object, and forwards nothing.
    let other = alice.store(&alice.ticket("102", "g1", "2"), "b.jpg", &photo());
    let (before, _) = source.split_once("file_sign=").unwrap();
    let (_, other) = other.split_once("file_sign=").unwrap();
    assert_code(
        &server.get(&format!("{before}file_sign={other}"), &[]),
        10008,
    );
    let forward = source.replace("download/chat", "upload/forward");
    assert_code(&server.get(&format!("{forward}&to_id=eve"), &[]), 10003);
    // Users' own requests still cause questions.
    let refused = server.get(
        &signed(path),
        &[("access-token", &alice.token), ("app_id", APP_ID)],
    );
    let message = assert_code(&refused, 20002);
    assert!(!message.is_empty() && text(&refused.json()["message"]) == message);
}
