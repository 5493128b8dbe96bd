//! `users_not_before` and `tokens_not_before` revoke every kind of credential.

use std::path::Path;

use chatfiles::time::MS_PER_SECOND;
use percent_encoding::percent_decode_str;

use super::apps::app;
use crate::support::{
    Answer, TestServer, configuration,
    lanying::{APP_ID, assert_code, success, text, ticket_form},
    photo,
};

const IMAGE: &str = "image_process_url = \"http://img.test/{w}?src={source}\"";

fn open(server: &TestServer, path: &str) -> Answer {
    server.get(path, &[("app_id", APP_ID)])
}

#[track_caller]
fn assert_photo(answer: &Answer) {
    assert!(answer.body == photo(), "{}", answer.text());
}

/// Reloads with a setting of the default tenant.
fn reload(server: &TestServer, setting: &str) {
    let config = configuration(Path::new("/nowhere"), &app(&format!("{IMAGE}\n{setting}")));
    server.reloader().reload(&config).unwrap();
}

fn path_of(url: &str) -> &str {
    &url[url.find("/file/").expect("a URL of this API")..]
}

#[test]
fn store_tokens_end_with_users_revocation() {
    let server = TestServer::with(&app(IMAGE));
    let (alice, bob) = (server.lanying("alice"), server.lanying("bob"));
    let stored = [&alice, &bob].map(|client| {
        let ticket = client.ticket("102", "carol", "1");
        let url = client.store(&ticket, "a.jpg", &photo());
        let store_token = text(&ticket["store_token"]);
        format!("{}&store_token={store_token}", path_of(&url))
    });
    for path in &stored {
        assert_photo(&open(&server, path));
    }
    server.clock.advance(2 * MS_PER_SECOND);
    let now = server.clock.now().secs();
    reload(&server, &format!("users_not_before = {{ alice = {now} }}"));
    let message = assert_code(&open(&server, &stored[0]), 10008);
    assert!(message.contains("store_token"), "{message}");
    assert_photo(&open(&server, &stored[1]));
    // A new one works again.
    let again = server.lanying("alice").ticket("102", "carol", "1");
    let url = server.lanying("alice").store(&again, "a.jpg", &photo());
    let store_token = text(&again["store_token"]);
    assert_photo(&open(
        &server,
        &format!("{}&store_token={store_token}", path_of(&url)),
    ));

    server.clock.advance(2 * MS_PER_SECOND);
    let now = server.clock.now().secs();
    reload(&server, &format!("tokens_not_before = {now}"));
    for path in &stored {
        assert_code(&open(&server, path), 10008);
    }
}

#[test]
fn tickets_end_with_users_revocation() {
    let server = TestServer::with(&app(""));
    let (alice, bob) = (server.lanying("alice"), server.lanying("bob"));
    let tickets = [&alice, &bob].map(|client| client.ticket("102", "carol", "1"));
    server.clock.advance(2 * MS_PER_SECOND);
    let now = server.clock.now().secs();
    reload(&server, &format!("users_not_before = {{ alice = {now} }}"));
    let form = |at: usize| ticket_form(&tickets[at]).file("a.jpg", "image/jpeg", &photo());
    let refused = alice.post(&tickets[0], &form(0));
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(
        refused.text().contains("<Code>AccessDenied</Code>") && refused.text().contains("revoked"),
        "{}",
        refused.text()
    );
    assert_eq!(bob.post(&tickets[1], &form(1)).status, 200);
    // For the whole application.
    let ticket = bob.ticket("102", "carol", "1");
    server.clock.advance(2 * MS_PER_SECOND);
    let now = server.clock.now().secs();
    reload(&server, &format!("tokens_not_before = {now}"));
    let form = ticket_form(&ticket).file("a.jpg", "image/jpeg", &photo());
    assert_eq!(bob.post(&ticket, &form).status, 403);
    let ticket = server.lanying("bob").ticket("102", "carol", "1");
    let form = ticket_form(&ticket).file("a.jpg", "image/jpeg", &photo());
    assert_eq!(bob.post(&ticket, &form).status, 200);
}

#[test]
fn picture_tokens_end_with_application() {
    let server = TestServer::with(&app(IMAGE));
    let url = server
        .lanying("alice")
        .send("102", "bob", "a.jpg", &photo());
    let source = || {
        let answer = server.lanying("bob").open(&url, "&image_type=2");
        assert_eq!(answer.status, 302, "{}", answer.text());
        let location = answer.header("location").unwrap().to_owned();
        let (_, encoded) = location.split_once("src=").unwrap();
        let source = percent_decode_str(encoded).decode_utf8().unwrap();
        path_of(&source).to_owned()
    };
    let before = source();
    assert_photo(&server.get(&before, &[]));
    server.clock.advance(2 * MS_PER_SECOND);
    let now = server.clock.now().secs();
    reload(&server, &format!("tokens_not_before = {now}"));
    assert_code(&server.get(&before, &[]), 10008);
    // A new one works at once, not only from the next half-hour, and stays the same.
    let after = source();
    assert_ne!(after, before);
    assert_photo(&server.get(&after, &[]));
    server.clock.advance(60 * MS_PER_SECOND);
    assert_eq!(source(), after);
    assert!(success(&server.lanying("bob").get("upload/avatar/user")).is_object());
}
