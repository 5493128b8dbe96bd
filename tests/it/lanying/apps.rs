//! Shared by these tests: applications, the six calls with valid parameters, links made by a test, and values with
//! single wrong bits.

use base64::{Engine, prelude::BASE64_STANDARD};
use chatfiles::{auth::Subject, time::MS_PER_DAY};

use crate::support::{
    Answer, Connection, TestServer, head, hmac_sha256,
    lanying::{APP_ID, Client, file_sign, success},
    photo,
};

/// The `app_id` of the second tenant of [`TWO_APPS`].
pub(super) const OTHER_ID: &str = "acme-id";

/// Two applications of this API, and a tenant without an `app_id`.
pub(super) const TWO_APPS: &str = r#"
    [[tenant]]
    org = "easemob-demo"
    app = "chatdemoui"
    app_id = "welovemaxim"
    users_not_before = { mallory = 4102444800 }
    [[tenant]]
    org = "acme"
    app = "chat"
    app_id = "acme-id"
    [[tenant]]
    org = "plain"
    app = "plain"
    "#;

/// The default tenant with further settings.
pub(super) fn app(settings: &str) -> String {
    format!(
        "[[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\napp_id = \"{APP_ID}\"\n{settings}\n"
    )
}

/// Noon of today, so that the day does not end while a test counts days.
pub(super) fn at_noon(server: &TestServer) {
    let now = server.clock.now();
    let noon_ms = now.day().start().ms() + MS_PER_DAY / 2;
    server.clock.advance(noon_ms - now.ms());
}

/// A token for a user of the second tenant.
pub(super) fn token_of_other(server: &TestServer, user: &str) -> String {
    server.token_of("acme", "chat", Subject::User(user.into()))
}

/// The backend of the default tenant; the test adds `user_id`.
pub(super) fn backend(server: &TestServer) -> Client<'_> {
    Client {
        server,
        token: server.token_of("easemob-demo", "chatdemoui", Subject::App),
    }
}

/// A request of any tenant.
pub(super) fn get_of(server: &TestServer, app_id: &str, token: &str, call: &str) -> Answer {
    let headers = [("access-token", token), ("app_id", app_id)];
    server.get(&format!("/file/{call}"), &headers)
}

/// Stored files: the `file_sign` of a photo that alice sent to bob, and alice's avatar.
pub(super) struct Stored {
    pub(super) sign: String,
    pub(super) avatar: String,
}

impl Stored {
    pub(super) fn at(server: &TestServer) -> Self {
        let alice = server.lanying("alice");
        let url = alice.send("102", "bob", "a.jpg", &photo());
        Self {
            sign: file_sign(&url).to_owned(),
            avatar: store_avatar(&alice, &photo()),
        }
    }

    /// The six calls, which succeed for alice.
    pub(super) fn calls(&self) -> [String; 6] {
        let Self { sign, avatar } = self;
        [
            "upload/avatar/user?".into(),
            "upload/avatar/group?group_id=g1".into(),
            "upload/chat?file_type=100&to_id=bob&to_type=1".into(),
            format!("upload/forward?to_id=carol&file_sign={sign}"),
            format!("download/avatar?object_name={avatar}"),
            format!("download/chat?file_sign={sign}"),
        ]
    }
}

/// The paths of the six calls.
pub(super) const PATHS: [&str; 6] = [
    "upload/avatar/user",
    "upload/avatar/group",
    "upload/chat",
    "upload/forward",
    "download/avatar",
    "download/chat",
];

/// Uploads an avatar and returns its `object_name`.
#[track_caller]
pub(super) fn store_avatar(client: &Client<'_>, bytes: &[u8]) -> String {
    let ticket = success(&client.get("upload/avatar/user"));
    object_name(&client.store(&ticket, "a.jpg", bytes))
}

/// The `object_name` of an avatar's URL.
pub(super) fn object_name(url: &str) -> String {
    let name = url.split("object_name=").nth(1);
    name.expect("the URL of an avatar").to_owned()
}

/// Checks that a call succeeded, with a file or with an envelope.
#[track_caller]
pub(super) fn assert_success(answer: &Answer, call: &str) {
    if call.starts_with("upload") {
        success(answer);
    } else {
        assert_eq!(answer.status, 200, "{call}: {}", answer.text());
        assert!(answer.body == photo(), "{call}: {}", answer.text());
    }
}

/// The fields of a `file_sign`.
#[track_caller]
pub(super) fn fields(sign: &str) -> Vec<String> {
    let tuple = BASE64_STANDARD.decode(sign).expect("base64");
    let tuple = String::from_utf8(tuple).expect("text");
    tuple.split('|').map(str::to_owned).collect()
}

/// The object of a `file_sign`: `class.day.uuid`.
pub(super) fn object_of(sign: &str) -> String {
    fields(sign).swap_remove(2)
}

/// The uuid of `class.day.uuid`.
pub(super) fn id_of(object: &str) -> &str {
    object.splitn(3, '.').nth(2).expect("three fields")
}

/// A `file_sign` over `tuple` as the contract describes it, with the given key.
pub(super) fn signed(link_key: &str, app_id: &str, dialect: &str, tuple: &str) -> String {
    let text = ["file_sign", dialect, app_id, tuple].join("\0");
    let mut digits = hmac_sha256(link_key, &text);
    digits.truncate((tuple.len() + 33).next_multiple_of(3) - tuple.len() - 1);
    BASE64_STANDARD.encode(format!("{tuple}|{digits}"))
}

/// Sends `GET {before}{value}{after}` once for each bit of `value`, with that bit flipped. `check` gets every response
/// and what was sent. A request that is no longer valid HTTP gets 400.
pub(super) fn with_each_bit_wrong(
    server: &TestServer,
    [before, value, after]: [&str; 3],
    headers: &[(&str, &str)],
    mut check: impl FnMut(&Answer, &str),
) {
    let text = String::from_utf8(head("GET", "/", headers, None)).expect("ASCII");
    let rest = text.strip_prefix("GET /").expect("the request line");
    let mut connection: Option<Connection> = None;
    for at in 0..value.len() * 8 {
        let mut wrong = value.as_bytes().to_vec();
        wrong[at / 8] ^= 1 << (at % 8);
        let request = [
            format!("GET {before}").as_bytes(),
            &wrong,
            after.as_bytes(),
            rest.as_bytes(),
        ]
        .concat();
        let open = connection.get_or_insert_with(|| server.connect());
        open.send(&request).expect("an open connection");
        let answer = open.answer("GET").expect("an answer");
        let shown = String::from_utf8_lossy(&wrong);
        if answer.status == 400 {
            connection = None;
        } else {
            check(&answer, &shown);
        }
    }
}
