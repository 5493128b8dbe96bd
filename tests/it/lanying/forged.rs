//! Forged links: none opens a file, and none causes an internal error.

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD},
};
use chatfiles::auth::Subject;

use super::apps::{
    Stored, app, assert_success, fields, id_of, object_of, signed, with_each_bit_wrong,
};
use crate::support::{
    BASE, TestServer, assert_error,
    lanying::{APP_ID, assert_code, envelope, file_sign},
    photo,
};

const KEY: &str = "a link key that the test knows";

/// The default tenant with [`KEY`], and another one with a different key.
fn server() -> TestServer {
    let other = "[[tenant]]\norg = \"acme\"\napp = \"chat\"\napp_id = \"acme-id\"\n";
    TestServer::with(&format!(
        "{}{other}link_key = \"another link key of the tests\"\n[[tenant]]\norg = \"same\"\napp = \"key\"\napp_id = \"same-key\"\nlink_key = \"{KEY}\"\n",
        app(&format!("link_key = \"{KEY}\""))
    ))
}

#[test]
fn flipped_bit_opens_nothing() {
    let server = TestServer::start();
    let Stored { sign, .. } = Stored::at(&server);
    let token = server.token("bob");
    let headers = [("access-token", &*token), ("app_id", APP_ID)];
    // The file is open in the caches; the refusal must come from the link.
    let call = format!("download/chat?file_sign={sign}");
    assert_success(&server.lanying("bob").get(&call), &call);
    let mut refused = 0;
    for [before, after] in [
        ["/file/download/chat?file_sign=", ""],
        ["/file/download/chat?file_sign=", "&image_type=2"],
        ["/file/upload/forward?to_id=carol&to_type=1&file_sign=", ""],
    ] {
        with_each_bit_wrong(&server, [before, &sign, after], &headers, |answer, sent| {
            let code = envelope(answer, 200)["code"].as_u64();
            // A link whose first byte became a separator counts as missing.
            let is_missing = sent.starts_with(['&', '#']);
            assert_eq!(
                code,
                Some(if is_missing { 10002 } else { 20023 }),
                "{before}{sent}"
            );
            refused += 1;
        });
    }
    // Most are still valid URLs, so the test saw refusals of this API.
    assert!(refused > 3 * 8 * sign.len() / 2, "{refused}");
}

#[test]
fn changed_length_opens_nothing() {
    let server = TestServer::start();
    let Stored { sign, .. } = Stored::at(&server);
    let bob = server.lanying("bob");
    let mut wrong: Vec<String> = (1..sign.len()).map(|len| sign[..len].to_owned()).collect();
    wrong.extend((1..sign.len()).map(|start| sign[start..].to_owned()));
    for more in [
        "A", "AA", "AAAA", "=", "==", "%3D", "%00", "%20", "%0A", "+", "/", ".", "|", &sign,
    ] {
        wrong.extend([format!("{sign}{more}"), format!("{more}{sign}")]);
    }
    let tuple = BASE64_STANDARD.decode(&sign).unwrap();
    let mut spaced = tuple.clone();
    spaced.push(b' ');
    wrong.push(BASE64_STANDARD_NO_PAD.encode(&spaced));
    wrong.push(BASE64_STANDARD.encode(String::from_utf8(tuple).unwrap().to_uppercase()));
    wrong.extend([
        sign.to_lowercase(),
        "null".into(),
        "undefined".into(),
        "a".repeat(6000),
        "%ff%fe".into(),
    ]);
    for wrong in wrong {
        for call in ["download/chat?", "upload/forward?to_id=carol&"] {
            assert_code(&bob.get(&format!("{call}file_sign={wrong}")), 20023);
        }
    }
}

/// Checks that a link opens the file, or fails with this code.
#[track_caller]
fn check(server: &TestServer, sign: &str, code: Option<u32>, about: &str) {
    let answer = server
        .lanying("bob")
        .get(&format!("download/chat?file_sign={sign}"));
    match code {
        None => assert!(answer.body == photo(), "{about}: {}", answer.text()),
        Some(code) => {
            assert_eq!(envelope(&answer, 200)["code"], code, "{about}");
        }
    }
}

#[test]
fn link_needs_key_and_five_fields() {
    let server = server();
    let Stored { sign, avatar } = Stored::at(&server);
    let tuple = fields(&sign)[..4].join("|");
    let object = object_of(&sign);
    let here = |tuple: &str| signed(KEY, APP_ID, "lanying", tuple);
    assert_eq!(here(&tuple), sign, "the test signs as the server does");
    check(&server, &here(&tuple), None, "as issued");
    check(
        &server,
        &here(&format!("carol|dave|{object}|2")),
        None,
        "another tuple with the key",
    );
    for (about, sign) in [
        (
            "another link key of the tests",
            signed("another link key of the tests", APP_ID, "lanying", &tuple),
        ),
        ("no key", signed("", APP_ID, "lanying", &tuple)),
        (
            "another app's name",
            signed(KEY, "acme-id", "lanying", &tuple),
        ),
        (
            "the same key, another app",
            signed(KEY, "same-key", "lanying", &tuple),
        ),
        ("another dialect", signed(KEY, APP_ID, "easemob", &tuple)),
        ("three fields", here(&format!("alice|bob|{object}"))),
        ("five fields", here(&format!("{tuple}|"))),
        ("six fields", here(&format!("{tuple}|x|y"))),
        ("to_type 3", here(&format!("alice|bob|{object}|3"))),
        ("to_type empty", here(&format!("alice|bob|{object}|"))),
        ("no sender", here(&format!("|bob|{object}|1"))),
        ("no recipient", here(&format!("alice||{object}|1"))),
        (
            "a long sender",
            here(&format!("{}|bob|{object}|1", "a".repeat(65))),
        ),
        (
            "a sender of other letters",
            here(&format!("a b|bob|{object}|1")),
        ),
        (
            "an object in upper case",
            here(&format!("alice|bob|{}|1", object.to_uppercase())),
        ),
        (
            "an object that is a path",
            here("alice|bob|image/2026-01-01/00|1"),
        ),
        ("no object", here("alice|bob||1")),
        ("nothing", here("")),
    ] {
        check(&server, &sign, Some(20023), about);
    }
    // Missing objects with valid links.
    let id = id_of(&object);
    let day = object.split('.').nth(1).unwrap();
    for object in [
        format!("voice.{day}.{id}"),
        format!("chatfile.{day}.{id}"),
        format!("image.2020-01-01.{id}"),
        format!("image.2999-01-01.{id}"),
        format!("image.{day}.{}", id_of(&avatar)),
    ] {
        check(
            &server,
            &here(&format!("alice|bob|{object}|1")),
            Some(20022),
            &object,
        );
    }
}

/// Even if both apps have the same key.
#[test]
fn link_of_other_app_opens_nothing() {
    let server = server();
    let Stored { sign, .. } = Stored::at(&server);
    for (org, app_name, app_id, key) in [
        ("acme", "chat", "acme-id", "another link key of the tests"),
        ("same", "key", "same-key", KEY),
    ] {
        let token = server.token_of(org, app_name, Subject::User("bob".into()));
        let open = |sign: &str| {
            super::apps::get_of(
                &server,
                app_id,
                &token,
                &format!("download/chat?file_sign={sign}"),
            )
        };
        assert_code(&open(&sign), 20023);
        // Also with its own valid link, to a file of another app.
        let tuple = fields(&sign)[..4].join("|");
        assert_code(&open(&signed(key, app_id, "lanying", &tuple)), 20022);
    }
    check(&server, &sign, None, "its own app");
}

#[test]
fn apis_do_not_share_files() {
    let server = server();
    let alice = server.lanying("alice");
    let authorization = format!("Bearer {}", server.token("alice"));
    let authorization = [("Authorization", &*authorization), ("thumbnail", "true")];
    // Under the class of the other API's files, in the same tenant.
    for file_type in ["100", "102"] {
        let url = alice.send(file_type, "bob", "a.jpg", &photo());
        assert!(alice.open(&url, "").body == photo());
        let object = object_of(file_sign(&url));
        for name in [id_of(&object), &object] {
            let path = format!("{BASE}/chatfiles/{name}");
            for headers in [&authorization[..1], &authorization[..]] {
                assert_error(&server.get(&path, headers), 404, "entity_not_found");
            }
        }
    }
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    assert!(server.download(&id, &[]).body == photo());
    let day = server.files_in("objects");
    let day = day.iter().find(|path| path.ends_with(&id)).unwrap();
    let day = day.iter().nth(1).unwrap().to_str().unwrap();
    for class in ["chatfile", "image"] {
        let object = format!("{class}.{day}.{id}");
        let link = signed(KEY, APP_ID, "lanying", &format!("alice|bob|{object}|1"));
        check(&server, &link, Some(20022), &object);
        let forward = format!("upload/forward?to_id=carol&file_sign={link}");
        assert_code(&alice.get(&forward), 20022);
        assert_code(
            &alice.get(&format!("download/avatar?object_name={object}")),
            20022,
        );
    }
    assert_code(
        &alice.get(&format!("download/avatar?object_name=avatar.{day}.{id}")),
        20022,
    );
}
