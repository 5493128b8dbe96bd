//! `sdk_sign`: required if the app has a key, ignored otherwise.

use super::apps::{PATHS, Stored, app, assert_success};
use crate::support::{
    Answer, TestServer, hmac_sha256,
    lanying::{APP_ID, assert_code, success, text},
    photo,
};

const KEY: &str = "a key that the SDK has";

/// As documented: over the path, `?`, and the sorted other parameters.
fn sign(key: &str, path: &str, query: &str) -> String {
    let mut pairs: Vec<_> = query.split('&').collect();
    pairs.sort_unstable();
    let text = format!("/file/{path}?{}", pairs.join("&"));
    hmac_sha256(key, &text)
}

#[track_caller]
fn check(answer: &Answer, may: bool, about: &str) {
    if may {
        assert!(answer.body == photo(), "{about}: {}", answer.text());
    } else {
        let message = assert_code(answer, 20023);
        assert!(message.contains("sdk_sign"), "{about}: {message}");
    }
}

#[test]
fn key_requires_signed_downloads() {
    let server = TestServer::with(&app(&format!("sdk_sign_key = \"{KEY}\"")));
    let Stored { sign: link, avatar } = Stored::at(&server);
    let bob = server.lanying("bob");
    for (path, target) in [
        ("download/chat", format!("file_sign={link}")),
        ("download/avatar", format!("object_name={avatar}")),
    ] {
        let other = if path == "download/chat" {
            "download/avatar"
        } else {
            "download/chat"
        };
        let query = format!("{target}&image_type=1&a=%2F%20b&_t=17");
        let good = sign(KEY, path, &query);
        let flipped = format!(
            "{}{}",
            &good[..63],
            if good.ends_with('0') { '1' } else { '0' }
        );
        let reversed: Vec<_> = query.rsplit('&').collect();
        let reversed = reversed.join("&");
        for (about, query, may) in [
            ("at the end", format!("{query}&sdk_sign={good}"), true),
            ("at the start", format!("sdk_sign={good}&{query}"), true),
            (
                "in another order",
                format!("{reversed}&sdk_sign={good}"),
                true,
            ),
            (
                "in the middle",
                query.replacen('&', &format!("&sdk_sign={good}&"), 1),
                true,
            ),
            (
                "alone",
                format!("{target}&sdk_sign={}", sign(KEY, path, &target)),
                true,
            ),
            ("twice", format!("{query}&sdk_sign={good}&sdk_sign=x"), true),
            (
                "twice, the wrong one first",
                format!("{query}&sdk_sign=x&sdk_sign={good}"),
                false,
            ),
            ("missing", query.clone(), false),
            ("empty", format!("{query}&sdk_sign="), false),
            ("garbage", format!("{query}&sdk_sign=x"), false),
            ("cut", format!("{query}&sdk_sign={}", &good[..63]), false),
            ("longer", format!("{query}&sdk_sign={good}0"), false),
            (
                "one digit wrong",
                format!("{query}&sdk_sign={flipped}"),
                false,
            ),
            (
                "upper case",
                format!("{query}&sdk_sign={}", good.to_uppercase()),
                false,
            ),
            ("another name", format!("{query}&SDK_SIGN={good}"), false),
            (
                "another key",
                format!("{query}&sdk_sign={}", sign("x", path, &query)),
                false,
            ),
            (
                "another path",
                format!("{query}&sdk_sign={}", sign(KEY, other, &query)),
                false,
            ),
            (
                "a parameter more",
                format!("{query}&image_type=1&sdk_sign={good}"),
                false,
            ),
            (
                "a parameter less",
                format!("{target}&image_type=1&a=%2F%20b&sdk_sign={good}"),
                false,
            ),
            (
                "another value",
                format!("{target}&image_type=2&a=%2F%20b&_t=17&sdk_sign={good}"),
                false,
            ),
            (
                "otherwise encoded",
                format!("{target}&image_type=1&a=%2f%20b&_t=17&sdk_sign={good}"),
                false,
            ),
        ] {
            check(&bob.get(&format!("{path}?{query}")), may, about);
        }
        // The token is checked first, and is signed if it is in the query.
        let query = format!("{target}&access-token={}&app_id={APP_ID}", bob.token);
        let signed = format!("/file/{path}?{query}&sdk_sign={}", sign(KEY, path, &query));
        check(&server.get(&signed, &[]), true, "token in the query");
        check(
            &server.get(&format!("/file/{path}?{query}"), &[]),
            false,
            "token in the query",
        );
        let no_token = format!("/file/{path}?{target}&sdk_sign=x");
        assert_code(&server.get(&no_token, &[("app_id", APP_ID)]), 10003);
    }
    // Uploads are not signed.
    for call in &[
        "upload/avatar/user".to_owned(),
        "upload/chat?file_type=100&to_id=bob".into(),
        format!("upload/forward?to_id=carol&file_sign={link}"),
    ] {
        success(&bob.get(call));
    }
}

#[test]
fn store_token_does_not_bypass_signature() {
    let server = TestServer::with(&app(&format!("sdk_sign_key = \"{KEY}\"")));
    let alice = server.lanying("alice");
    let ticket = success(&alice.get("upload/avatar/user"));
    let url = alice.store(&ticket, "a.jpg", &photo());
    let query = format!(
        "{}&store_token={}",
        url.split_once('?').unwrap().1,
        text(&ticket["store_token"])
    );
    let path = format!("/file/download/avatar?{query}");
    check(&server.get(&path, &[("app_id", APP_ID)]), false, "unsigned");
    let path = format!("{path}&sdk_sign={}", sign(KEY, "download/avatar", &query));
    check(&server.get(&path, &[("app_id", APP_ID)]), true, "signed");
}

#[test]
fn without_key_anything_is_accepted() {
    let server = TestServer::start();
    let stored = Stored::at(&server);
    let bob = server.lanying("bob");
    for (call, path) in stored.calls().iter().zip(PATHS) {
        assert!(call.starts_with(path));
        for value in ["", "x", "%ff", "0000", &"a".repeat(64), "x&sdk_sign=y"] {
            assert_success(&bob.get(&format!("{call}&sdk_sign={value}")), call);
        }
    }
}
