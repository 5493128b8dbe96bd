//! Rights to a file without a backend: everybody with the link, or only the two parties.

use super::apps::{Stored, app, backend, fields};
use crate::support::{
    TestServer,
    lanying::{Client, assert_code, file_sign, success, text},
    photo,
};

/// Opens and forwards a file in every way: all are allowed, or all are refused.
#[track_caller]
fn check(client: &Client<'_>, user_id: Option<&str>, url: &str, may: bool) {
    let sign = file_sign(url);
    let who = &fields(sign)[..2];
    let headers: Vec<_> = user_id.map(|user| ("user_id", user)).into_iter().collect();
    for more in ["", "&image_type=2", "&source=miniprogram", "&format=mp3"] {
        let answer = client.get_with(&format!("download/chat?file_sign={sign}{more}"), &headers);
        if may {
            assert_eq!(answer.status, 200, "{who:?}");
            assert_eq!(
                answer.header("content-type"),
                Some("image/jpeg"),
                "{who:?} {}",
                answer.text()
            );
            assert_eq!(answer.body == photo(), more != "&image_type=2");
        } else {
            assert_code(&answer, 20023);
        }
    }
    for to in ["alice", "bob", "carol", "g1"] {
        let call = format!("upload/forward?to_id={to}&to_type=1&file_sign={sign}");
        let answer = client.get_with(&call, &headers);
        if may {
            success(&answer);
        } else {
            assert_code(&answer, 20023);
        }
    }
}

#[test]
fn strict_app_limits_to_both_parties() {
    // (strict, to_type, user, allowed)
    let table = [
        (false, "1", "alice", true),
        (false, "1", "bob", true),
        (false, "1", "carol", true),
        (false, "2", "carol", true),
        (true, "1", "alice", true),
        (true, "1", "bob", true),
        (true, "1", "carol", false),
        (true, "1", "Bob", false),
        (true, "1", "bob2", false),
        (true, "1", "bo", false),
        // Only the backend knows group members.
        (true, "2", "alice", true),
        (true, "2", "carol", true),
        (true, "2", "bob", true),
    ];
    for strict in [false, true] {
        let server = TestServer::with(&app(&format!("strict_recipients = {strict}")));
        let alice = server.lanying("alice");
        for (_, to_type, user, may) in table.iter().filter(|row| row.0 == strict) {
            let ticket = alice.ticket("102", "bob", to_type);
            let url = alice.store(&ticket, "a.jpg", &photo());
            check(&server.lanying(user), None, &url, *may);
            // The backend acts for the user it names.
            check(&backend(&server), Some(user), &url, *may);
        }
    }
}

#[test]
fn forward_makes_only_recipient_a_party() {
    let server = TestServer::with(&app("strict_recipients = true"));
    let [alice, bob, carol, dave] =
        ["alice", "bob", "carol", "dave"].map(|user| server.lanying(user));
    let url = alice.send("102", "bob", "a.jpg", &photo());
    let sign = file_sign(&url);
    let to_carol = success(&bob.get(&format!("upload/forward?to_id=carol&file_sign={sign}")));
    let to_carol = text(&to_carol);
    check(&carol, None, &to_carol, true);
    check(&bob, None, &to_carol, true);
    // The sender of the first link has no right to the second one, and carol has none to the first one.
    check(&alice, None, &to_carol, false);
    check(&dave, None, &to_carol, false);
    check(&carol, None, &url, false);
    // Everybody may open a file sent to a group; the hook restricts that.
    let to_group = success(&bob.get(&format!(
        "upload/forward?to_id=g1&to_type=2&file_sign={sign}"
    )));
    check(&dave, None, &text(&to_group), true);
}

#[test]
fn file_to_self_stays_private() {
    let server = TestServer::with(&app("strict_recipients = true"));
    let alice = server.lanying("alice");
    let url = alice.send("102", "alice", "a.jpg", &photo());
    check(&alice, None, &url, true);
    check(&server.lanying("bob"), None, &url, false);
}

#[test]
fn avatars_are_open_in_strict_app() {
    let server = TestServer::with(&app("strict_recipients = true"));
    let Stored { avatar, .. } = Stored::at(&server);
    for user in ["alice", "bob", "zoe"] {
        let call = format!("download/avatar?object_name={avatar}");
        assert!(server.lanying(user).get(&call).body == photo());
        assert!(backend(&server).get_with(&call, &[("user_id", user)]).body == photo());
    }
}
