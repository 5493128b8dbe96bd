//! Authentication: `app_id`, `access-token` and `user_id`, checked in this order in each of the six calls.

use super::apps::{
    PATHS, Stored, TWO_APPS, app, assert_success, backend, fields, get_of, token_of_other,
};
use crate::support::{
    TestServer,
    lanying::{APP_ID, Client, assert_code, file_sign, success, text},
};
use chatfiles::{auth::Subject, time::MS_PER_DAY};

#[test]
fn unknown_app_is_refused_first() {
    let server = TestServer::with(TWO_APPS);
    let good = server.token("alice");
    let apps: &[(Option<&str>, &str)] = &[
        (None, ""),
        (Some(""), ""),
        (Some(" "), ""),
        (Some("nobody"), ""),
        (Some("WELOVEMAXIM"), ""),
        (Some("easemob-demo"), ""),
        (Some("easemob-demo/chatdemoui"), ""),
        // A tenant that does not use this API.
        (Some("plain"), ""),
        (None, "app_id="),
        (None, "app_id"),
        (None, "app_id=nobody"),
        (Some(""), "app_id=nobody"),
        (None, "App_Id=welovemaxim"),
        (None, "app_id=nobody&app_id=welovemaxim"),
    ];
    for path in PATHS {
        for (header, query) in apps {
            for token in [None, Some("garbage"), Some(&*good)] {
                let mut headers = Vec::new();
                headers.extend(header.map(|app_id| ("app_id", app_id)));
                headers.extend(token.map(|token| ("access-token", token)));
                let answer = server.get(&format!("/file/{path}?{query}"), &headers);
                let message = assert_code(&answer, 40000);
                assert!(message.contains("app_id"), "{message}");
            }
        }
    }
}

#[test]
fn token_errors_have_own_codes() {
    let server = TestServer::with(TWO_APPS);
    let stored = Stored::at(&server);
    let old = server.token("alice");
    server.clock.advance(MS_PER_DAY + 1000);
    let other = token_of_other(&server, "alice");
    let other_app = server.token_of("acme", "chat", Subject::App);
    let revoked = server.token("mallory");
    let good = server.token("alice");
    let cut = &good[..good.len() - 1];
    let long = "a".repeat(6000);
    let tokens: &[(Option<&str>, u32)] = &[
        (None, 10003),
        (Some(""), 10003),
        (Some("  "), 10003),
        (Some("garbage"), 10008),
        (Some("Bearer x"), 10008),
        (Some(cut), 10008),
        (Some(&long), 10008),
        (Some(&other), 10008),
        (Some(&other_app), 10008),
        (Some(&old), 402),
        (Some(&revoked), 402),
    ];
    // With valid parameters and without any: the token is checked first.
    let bare = PATHS.map(|path| format!("{path}?image_type=x"));
    for call in stored.calls().iter().chain(&bare) {
        for (token, code) in tokens {
            let mut headers = vec![("app_id", APP_ID)];
            headers.extend(token.map(|token| ("access-token", token)));
            assert_code(&server.get(&format!("/file/{call}"), &headers), *code);
            if let Some(token) =
                token.filter(|token| !token.trim().is_empty() && token.len() < 5000)
            {
                let token = token.replace(' ', "%20");
                let path = format!("/file/{call}&app_id={APP_ID}&access-token={token}");
                assert_code(&server.get(&path, &[]), *code);
            }
        }
    }
    for call in stored.calls() {
        assert_success(&get_of(&server, APP_ID, &good, &call), &call);
    }
}

#[test]
fn revoked_tenant_must_log_in_again() {
    let server = TestServer::with(&app("tokens_not_before = 4102444800"));
    for path in PATHS {
        assert_code(&server.lanying("alice").get(path), 402);
        assert_code(&backend(&server).get(path), 402);
    }
}

#[test]
fn credentials_in_header_or_query() {
    let server = TestServer::with(TWO_APPS);
    let stored = Stored::at(&server);
    let token = server.token("alice");
    for call in stored.calls() {
        for (token_in_header, app_in_header) in
            [(true, true), (true, false), (false, true), (false, false)]
        {
            // Before and after the others, because a link is the last parameter of its URL.
            for first in [true, false] {
                let mut headers = Vec::new();
                let mut query = String::new();
                for (name, value, in_header) in [
                    ("access-token", token.as_str(), token_in_header),
                    ("app_id", APP_ID, app_in_header),
                ] {
                    if in_header {
                        headers.push((name, value));
                    } else {
                        query.push_str(&format!("&{name}={value}"));
                    }
                }
                let (path, parameters) = call.split_once('?').unwrap();
                let path = if first {
                    format!("/file/{path}?{query}&{parameters}")
                } else {
                    format!("/file/{path}?{parameters}{query}")
                };
                assert_success(&server.get(&path, &headers), &call);
            }
        }
        // An empty header counts as absent.
        let path = format!("/file/{call}&app_id={APP_ID}&access-token={token}");
        let empty = [("app_id", ""), ("access-token", "")];
        assert_success(&server.get(&path, &empty), &call);
    }
}

#[test]
fn backend_names_its_user() {
    let server = TestServer::with(TWO_APPS);
    let stored = Stored::at(&server);
    let backend = backend(&server);
    for call in stored.calls() {
        let (path, _) = call.split_once('?').unwrap();
        for call in [&*call, path] {
            let message = assert_code(&backend.get(call), 10000);
            assert!(message.contains("user_id"), "{message}");
            assert_code(&backend.get_with(call, &[("user_id", "")]), 10000);
            for bad in ["a b", "a|b", "a/b", "a~b", "a?b", &"a".repeat(65)] {
                let message = assert_code(&backend.get_with(call, &[("user_id", bad)]), 10002);
                assert!(message.contains("user_id"), "{message}");
            }
        }
        let answer = backend.get_with(&call, &[("user_id", "dave")]);
        assert_success(&answer, &call);
    }
    // The request is for that user.
    let dave = [("user_id", "dave")];
    let ticket = success(&backend.get_with("upload/chat?file_type=100&to_id=bob", &dave));
    let url = text(&ticket["download_url"]);
    assert_eq!(fields(file_sign(&url))[..2], ["dave", "bob"]);
    let forward = format!("upload/forward?to_id=carol&file_sign={}", stored.sign);
    let url = text(&success(&backend.get_with(&forward, &dave)));
    assert_eq!(fields(file_sign(&url))[..2], ["dave", "carol"]);
    // Ignored for a user's own token.
    let alice = server.lanying("alice");
    let url = text(&success(&alice.get_with(&forward, &dave)));
    assert_eq!(fields(file_sign(&url))[..2], ["alice", "carol"]);
}

#[test]
fn unlinkable_user_name_is_refused() {
    let server = TestServer::with(TWO_APPS);
    let stored = Stored::at(&server);
    for name in ["a|b", "日本", "a~b", "a?b", "a:b", &"a".repeat(65)] {
        let client = server.lanying(name);
        for call in stored.calls() {
            let message = assert_code(&client.get(&call), 10002);
            assert!(message.contains("user_id"), "{message}");
        }
    }
    let longest = "aZ09._@-".repeat(8);
    for name in ["a", "-", ".", &longest] {
        let client = server.lanying(name);
        for call in stored.calls() {
            assert_success(&client.get(&call), &call);
        }
    }
}

#[test]
fn app_sees_nothing_of_other_app() {
    let server = TestServer::with(TWO_APPS);
    let stored = Stored::at(&server);
    let token = token_of_other(&server, "bob");
    let [.., forward, avatar, chat] = stored.calls();
    for (call, code) in [(forward, 20023), (chat, 20023), (avatar, 20022)] {
        assert_code(&get_of(&server, super::apps::OTHER_ID, &token, &call), code);
    }
    let bob = Client {
        server: &server,
        token,
    };
    for call in stored.calls() {
        assert_code(&bob.get(&call), 10008);
    }
}
