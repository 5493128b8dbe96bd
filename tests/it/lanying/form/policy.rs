//! Policies with a valid signature and invalid content.

use chatfiles::store::{Class, Key, ObjectId};
use serde_json::json;

use super::{
    file, form_of, post,
    recorded::Recorded,
    signed::{new_key, with_conditions, with_encoded, with_policy},
};

#[test]
fn signed_invalid_policy_is_refused() {
    let recorded = Recorded::start();
    let key = new_key(&recorded.server).to_string();
    let deep = |open: &str| open.repeat(12_000 / open.len());
    let long = format!(
        r#"{{"expiration":"2999-12-31T23:59:59Z","conditions":[["eq","$key","{}"]]}}"#,
        "k".repeat(15_000)
    );
    for (what, policy) in [
        ("nothing", &b""[..]),
        ("no JSON", b"hello"),
        (
            "half of it",
            br#"{"expiration":"2999-12-31T23:59:59Z","conditions":[["#,
        ),
        (
            "an array",
            br#"["2999-12-31T23:59:59Z",[["eq","$key","x"]]]"#,
        ),
        (
            "no expiration",
            br#"{"conditions":[["starts-with","$key",""]]}"#,
        ),
        ("no conditions", br#"{"expiration":"2999-12-31T23:59:59Z"}"#),
        (
            "none of them",
            br#"{"expiration":"2999-12-31T23:59:59Z","conditions":[]}"#,
        ),
        (
            "another kind",
            br#"{"expiration":"2999-12-31T23:59:59Z","conditions":[["ge","$key","x"]]}"#,
        ),
        ("no UTF-8", b"{\"expiration\":\"\xff\"}"),
        ("deep arrays", deep("[").as_bytes()),
        ("deep objects", deep("{\"a\":").as_bytes()),
        (
            "deep conditions",
            format!("{{\"conditions\":{}", deep("[")).as_bytes(),
        ),
        (
            "a deep member that nobody knows",
            format!("{{\"x\":{}", deep("[")).as_bytes(),
        ),
        ("too long", long.as_bytes()),
    ] {
        let fields = with_policy(&key, policy);
        let message = recorded.check_fields(what, &fields, 400, "InvalidPolicyDocument");
        assert!(message.starts_with("Invalid Policy: "), "{what}: {message}");
    }
    for encoded in ["{}", "=", "e30", "e30=\n", "蓝莺"] {
        let fields = with_encoded(&key, encoded);
        recorded.check_fields(encoded, &fields, 400, "InvalidPolicyDocument");
    }
}

#[test]
fn policy_key_must_be_new_object() {
    let recorded = Recorded::start();
    let key = new_key(&recorded.server);
    let text = key.to_string();
    let other_day = Key {
        day: recorded.server.clock.now().plus_days(1).day(),
        ..key
    };
    let created = key.id.created();
    let yesterday = Key {
        day: created.plus_days(0).day(),
        id: ObjectId::new(created.plus_days(3), &[7; 10]),
        class: Class::Image,
    };
    for name in [
        "",
        "x",
        "../../../../etc/passwd",
        "chat/2026/11/25/a.jpg",
        "/chatfile.2026-11-25.01a21037-7680-711d-92b1-561d1a151141",
        "chatfile.2026-11-25.0c0f5f3a-e66b-11e3-8863-f1c202c2b3ae",
        "chatfile.2026-13-25.01a21037-7680-711d-92b1-561d1a151141",
        &text.to_uppercase(),
        &text.replace("chatfile", "Chatfile"),
        &text.replace("chatfile", "other"),
        &text.replace('-', ""),
        &format!("{text} "),
        &format!("{text}\0"),
        &format!("{text}.jpg"),
        &other_day.to_string(),
        &yesterday.to_string(),
    ] {
        let fields = with_conditions(name, json!([["eq", "$key", name]]));
        recorded.check_fields(name, &fields, 400, "InvalidObjectName");
    }
    let fields = with_conditions(&text, json!([["eq", "$key", text]]));
    let answer = post(&recorded.server, &file(form_of(&fields)));
    assert_eq!(answer.status, 200, "{}", answer.text());
}
