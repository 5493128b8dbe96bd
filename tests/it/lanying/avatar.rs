//! Avatars: a new name for each, open to every user of the app and to no one else.

use super::apps::{
    OTHER_ID, Stored, TWO_APPS, backend, get_of, id_of, object_name, object_of, store_avatar,
    token_of_other,
};
use crate::support::{
    TestServer,
    lanying::{APP_ID, assert_code, success, text},
    photo,
};

fn call(object: &str) -> String {
    format!("download/avatar?object_name={object}")
}

#[test]
fn new_avatar_has_new_name() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    for ticket in ["upload/avatar/user", "upload/avatar/group?group_id=g1"] {
        let mut names = Vec::new();
        for bytes in [&b"one"[..], b"two", &photo()] {
            let ticket = success(&alice.get(ticket));
            let url = alice.store(&ticket, "a.jpg", bytes);
            let name = object_name(&url);
            assert!(!names.iter().any(|(old, _)| *old == name));
            assert!(alice.open(&url, "").body == bytes);
            names.push((name, bytes.to_vec()));
            for (name, bytes) in &names {
                assert!(server.lanying("bob").get(&call(name)).body == *bytes);
            }
        }
    }
    let files = server.files_in("objects");
    assert!(
        files.len() == 6 && files.iter().all(|path| path.starts_with("avatar")),
        "{files:?}"
    );
}

#[test]
fn app_users_open_avatar_with_token() {
    let server = TestServer::with(TWO_APPS);
    let Stored { avatar, .. } = Stored::at(&server);
    for user in ["alice", "bob", "zoe"] {
        for more in [
            "",
            "&image_type=1",
            "&thumbnail_strategy=2",
            "&source=miniprogram",
        ] {
            let answer = server
                .lanying(user)
                .get(&format!("{}{more}", call(&avatar)));
            assert!(answer.body == photo(), "{user}{more}: {}", answer.text());
        }
    }
    assert!(
        backend(&server)
            .get_with(&call(&avatar), &[("user_id", "x")])
            .body
            == photo()
    );
    let path = format!("/file/{}", call(&avatar));
    assert_code(&server.get(&path, &[("app_id", APP_ID)]), 10003);
    let other = token_of_other(&server, "alice");
    assert_code(&get_of(&server, APP_ID, &other, &call(&avatar)), 10008);
    assert_code(&get_of(&server, OTHER_ID, &other, &call(&avatar)), 20022);
}

#[test]
fn bad_avatar_name_is_not_found() {
    let server = TestServer::start();
    let Stored { avatar, sign } = Stored::at(&server);
    let alice = server.lanying("alice");
    // Requested first, so that it is cached. The cache must not answer for another name.
    assert!(alice.get(&call(&avatar)).body == photo());
    let chat = object_of(&sign);
    let (id, day) = (id_of(&avatar), avatar.split('.').nth(1).unwrap());
    let pending = text(&success(&alice.get("upload/avatar/user"))["oss_body_param"]["key"]);
    let long = "a".repeat(5000);
    for name in [
        &*chat,
        &chat.replacen("image", "avatar", 1),
        &avatar.replacen("avatar", "image", 1),
        &avatar.replacen("avatar", "chatfile", 1),
        &avatar.replacen("avatar", "shared", 1),
        &format!("avatar.2020-01-01.{id}"),
        &format!("avatar.2999-01-01.{id}"),
        &format!("avatar.{day}.{}", id.to_uppercase()),
        &format!("avatar.{day}.{}", id.replace('-', "")),
        &format!("avatar.{day}.{id}x"),
        &format!("avatar.{day}.{id}."),
        &format!("avatar.{day}.{{{id}}}"),
        &format!(" {avatar}").replace(' ', "%20"),
        &format!("{avatar}%00"),
        &format!("avatar/{day}/{id}"),
        &format!("avatar%2F{day}%2F{id}"),
        &avatar.replace('-', "%2D%2D"),
        &avatar.to_uppercase(),
        &pending,
        id,
        "avatar",
        "avatar..",
        "..",
        "../../keys/keys.json",
        "%2e%2e%2fkeys",
        "null",
        "undefined",
        "%ff",
        &long,
    ] {
        for more in ["", "&image_type=2"] {
            assert_code(&alice.get(&format!("{}{more}", call(name))), 20022);
        }
    }
    // The encoded name is the same name.
    let encoded = avatar.replace('-', "%2D").replace('.', "%2e");
    assert!(alice.get(&call(&encoded)).body == photo());
}

#[test]
fn avatar_ticket_fixes_its_name() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    let name = store_avatar(&alice, &photo());
    let ticket = success(&alice.get("upload/avatar/user"));
    let mut other = ticket.clone();
    other["oss_body_param"]["key"] = name.clone().into();
    let form = crate::support::lanying::ticket_form(&other).file("a.jpg", "image/jpeg", b"evil");
    assert_eq!(alice.post(&other, &form).status, 403);
    assert!(alice.get(&call(&name)).body == photo());
}
