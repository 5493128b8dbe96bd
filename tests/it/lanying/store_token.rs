//! `store_token`: opens one object for an hour without a user's token.

use chatfiles::time::MS_PER_SECOND;

use super::apps::{OTHER_ID, PATHS, Stored, app, get_of, object_of, with_each_bit_wrong};
use crate::support::{
    Answer, TestServer,
    lanying::{APP_ID, Client, assert_code, envelope, file_sign, success, text},
    photo,
    process::{run, stdout},
};

const TICKETS: [&str; 3] = [
    "upload/avatar/user",
    "upload/avatar/group?group_id=g1",
    "upload/chat?file_type=102&to_id=bob",
];

/// A file stored with a ticket: the path that opens it, and the ticket's store token.
fn stored(client: &Client<'_>, call: &str) -> (String, String) {
    let ticket = success(&client.get(call));
    let url = client.store(&ticket, "a.jpg", &photo());
    let path = url[url.find("/file/").unwrap()..].to_owned();
    (path, text(&ticket["store_token"]))
}

/// Opens with only a store token.
fn open(server: &TestServer, path: &str, token: &str) -> Answer {
    server.get(
        &format!("{path}&store_token={token}"),
        &[("app_id", APP_ID)],
    )
}

#[track_caller]
fn assert_photo(answer: &Answer) {
    assert!(answer.body == photo(), "{}", answer.text());
}

#[test]
fn opens_its_object_for_an_hour() {
    for call in TICKETS {
        let server = TestServer::start();
        let (path, token) = stored(&server.lanying("alice"), call);
        assert!(
            token
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
            "{token}"
        );
        assert_photo(&open(&server, &path, &token));
        assert_photo(&server.get(&format!("{path}&store_token={token}&app_id={APP_ID}"), &[]));
        // An empty header counts as absent.
        let headers = [("app_id", APP_ID), ("access-token", "")];
        assert_photo(&server.get(&format!("{path}&store_token={token}"), &headers));
        let thumbnail = open(&server, &format!("{path}&image_type=2"), &token);
        assert_eq!(
            (thumbnail.status, thumbnail.header("content-type")),
            (200, Some("image/jpeg"))
        );
        server.clock.advance(59 * 60 * MS_PER_SECOND);
        assert_photo(&open(&server, &path, &token));
        server.clock.advance(2 * 60 * MS_PER_SECOND);
        let message = assert_code(&open(&server, &path, &token), 10008);
        assert!(message.contains("store_token"), "{message}");
        assert_code(&server.get(&path, &[("app_id", APP_ID)]), 10003);
        assert_code(&open(&server, &path, ""), 10003);
    }
}

#[test]
fn opens_no_other_object() {
    let key = "upload_key = \"the same upload key for both\"";
    let server = TestServer::with(&format!(
        "{}[[tenant]]\norg = \"acme\"\napp = \"chat\"\napp_id = \"{OTHER_ID}\"\n{key}\n",
        app(key)
    ));
    let alice = server.lanying("alice");
    let files: Vec<_> = TICKETS
        .iter()
        .chain(&TICKETS)
        .map(|call| stored(&alice, call))
        .collect();
    for (at, (path, _)) in files.iter().enumerate() {
        for (other, (_, token)) in files.iter().enumerate() {
            let answer = open(&server, path, token);
            if at == other {
                assert_photo(&answer);
            } else {
                assert_code(&answer, 10008);
            }
        }
    }
    // The other app's file with this token, and the reverse: the same key does not help.
    let token = super::apps::token_of_other(&server, "alice");
    let ticket = success(&get_of(&server, OTHER_ID, &token, TICKETS[0]));
    let theirs = text(&ticket["store_token"]);
    let (path, ours) = &files[0];
    let at_theirs = |path: &str, token: &str| {
        server.get(
            &format!("{path}&store_token={token}"),
            &[("app_id", OTHER_ID)],
        )
    };
    assert_code(&at_theirs(path, ours), 10008);
    assert_code(&at_theirs(path, &theirs), 10008);
    assert_code(&open(&server, path, &theirs), 10008);
    assert_code(
        &server.get(&format!("{path}&store_token={ours}"), &[]),
        40000,
    );
}

#[test]
fn flipped_bit_opens_nothing() {
    let server = TestServer::start();
    let (path, token) = stored(&server.lanying("alice"), TICKETS[2]);
    assert_photo(&open(&server, &path, &token));
    let sign = file_sign(&path);
    let parts = [
        "/file/download/chat?store_token=",
        &*token,
        &format!("&file_sign={sign}"),
    ];
    let mut refused = 0;
    with_each_bit_wrong(&server, parts, &[("app_id", APP_ID)], |answer, sent| {
        let code = envelope(answer, 200)["code"].as_u64().unwrap();
        let expected = if sent.starts_with(['&', '#']) {
            10003
        } else if sent.contains('#') {
            // The rest of the query is not sent.
            10002
        } else {
            10008
        };
        assert_eq!(code, expected, "{sent}");
        refused += 1;
    });
    assert!(refused > 8 * token.len() / 2, "{refused}");
    for wrong in [
        &token[1..],
        &token[..token.len() - 1],
        &format!("{token}A"),
        &format!("{token}="),
        "x",
        &"a".repeat(5000),
    ] {
        assert_code(&open(&server, &path, wrong), 10008);
    }
}

/// The error is the access token's.
#[test]
fn one_good_token_is_enough() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    let expired = server.token("alice");
    // A day and a second; test tokens are valid for a day.
    server.clock.advance(86_401_000);
    let alice = Client {
        token: server.token("alice"),
        ..alice
    };
    for call in TICKETS {
        let (path, token) = stored(&alice, call);
        for (access, store, code) in [
            (&*alice.token, "garbage", None),
            (&*alice.token, &*token, None),
            // Headers kept by a client that follows a redirect.
            ("garbage", &*token, None),
            (&*expired, &*token, None),
            (&*expired, "garbage", Some(402)),
        ] {
            let in_header = server.get(
                &format!("{path}&store_token={store}"),
                &[("app_id", APP_ID), ("access-token", access)],
            );
            let in_query = server.get(
                &format!("{path}&store_token={store}&access-token={access}&app_id={APP_ID}"),
                &[],
            );
            for answer in [in_header, in_query] {
                match code {
                    None => assert_photo(&answer),
                    Some(code) => drop(assert_code(&answer, code)),
                }
            }
        }
    }
}

#[test]
fn uploads_and_forwards_refuse_store_token() {
    let server = TestServer::start();
    let (path, token) = stored(&server.lanying("alice"), TICKETS[2]);
    let sign = file_sign(&path);
    for path in &PATHS[..4] {
        let query =
            format!("file_sign={sign}&file_type=100&to_id=carol&group_id=g1&store_token={token}");
        let answer = server.get(&format!("/file/{path}?{query}"), &[("app_id", APP_ID)]);
        assert_code(&answer, 10003);
        // Nor as an access token.
        let headers = [("app_id", APP_ID), ("access-token", &*token)];
        assert_code(
            &server.get(&format!("/file/{path}?{query}"), &headers),
            10008,
        );
    }
}

#[test]
fn command_line_token_acts_for_user() {
    let directory = tempfile::tempdir().unwrap();
    let toml = "strict_recipients = true";
    let server = TestServer::in_directory(directory.path(), &app(toml));
    let Stored { sign, avatar } = Stored::at(&server);
    let store = server.store.to_str().unwrap();
    let config = directory.path().join("chatfiles.toml");
    std::fs::write(&config, app(toml)).unwrap();
    let issue = |arguments: &[&str]| {
        let common = ["--store-path", store, "--config", config.to_str().unwrap()];
        run(&[&["store-token"], arguments, &common].concat(), "")
    };
    let object = object_of(&sign);
    let path = format!("/file/download/chat?file_sign={sign}");
    for (user, may) in [("alice", true), ("bob", true), ("carol", false)] {
        let token = stdout(&issue(&[&object, "--user", user]));
        let answer = open(&server, &path, &token);
        if may {
            assert_photo(&answer);
        } else {
            assert_code(&answer, 20023);
        }
    }
    let token = stdout(&issue(&[
        &avatar,
        "--user",
        "zoe",
        "--tenant",
        "easemob-demo/chatdemoui",
    ]));
    let avatar_path = format!("/file/download/avatar?object_name={avatar}");
    assert_photo(&open(&server, &avatar_path, &token));
    assert_code(&open(&server, &path, &token), 10008);
    for bad in [
        &[&*object][..],
        &["--user", "bob"],
        &["x", "--user", "bob"],
        &[super::apps::id_of(&object), "--user", "bob"],
        &[&object, "--user", "a b"],
        &[&object, "--user", ""],
        &[&object, "--user", "bob", "--tenant", "no/such"],
    ] {
        let output = issue(bad);
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
    // The sender's token, from the ticket.
    let alice = server.lanying("alice");
    let (path, token) = stored(&alice, TICKETS[2]);
    assert_photo(&open(&server, &path, &token));
}
