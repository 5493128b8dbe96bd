//! Tokens that the API accepts: signed and dynamic, of which app, until when.

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use chatfiles::{
    auth::Subject,
    time::{Clock, MS_PER_SECOND},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Answer, BASE, Form, TestServer, assert_error, process::id};

pub(super) const TENANTS: &str = r#"
    [[tenant]]
    org = "easemob-demo"
    app = "chatdemoui"
    client_id = "demo-id"
    client_secret = "secret-of-the-demo-client"
    [[tenant]]
    org = "other-org"
    app = "other-app"
    client_id = "other-id"
    client_secret = "secret-of-the-other-client"
    "#;

/// The contents of a token that a chat backend signs itself.
#[derive(Clone)]
struct Dynamic {
    client_id: &'static str,
    client_secret: &'static str,
    appkey: String,
    user: String,
    time: String,
    ttl: String,
}

impl Dynamic {
    fn new(now_secs: i64) -> Self {
        Self {
            client_id: "demo-id",
            client_secret: "secret-of-the-demo-client",
            appkey: "easemob-demo#chatdemoui".into(),
            user: "alice".into(),
            time: now_secs.to_string(),
            ttl: "600".into(),
        }
    }

    /// The contract: hex SHA-256 of clientId + appkey + userId + curTime + ttl + clientSecret.
    fn signature(&self) -> String {
        let Self {
            client_id,
            client_secret,
            appkey,
            user,
            time,
            ttl,
        } = self;
        let text = format!("{client_id}{appkey}{user}{time}{ttl}{client_secret}");
        let hash = Sha256::digest(text.as_bytes());
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn json(&self) -> Value {
        json!({
            "signature": self.signature(),
            "appkey": self.appkey,
            "userId": self.user,
            "curTime": self.time.parse::<u64>().unwrap(),
            "ttl": self.ttl.parse::<u64>().unwrap(),
        })
    }

    fn token(&self) -> String {
        encode(&self.json())
    }
}

/// base64url of `dt-` + JSON.
fn encode(json: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("dt-{json}"))
}

/// Downloads `id` with the token from the app of `base`.
pub(super) fn open(server: &TestServer, base: &str, id: &str, token: &str) -> Answer {
    let authorization = format!("Bearer {token}");
    server.get(
        &format!("{base}/chatfiles/{id}"),
        &[("Authorization", &authorization)],
    )
}

pub(super) fn stored(server: &TestServer) -> String {
    server.store_file("a.txt", "text/plain", b"hello")
}

#[track_caller]
fn assert_corrupt(answer: &Answer) {
    let error = assert_error(answer, 401, "auth_bad_access_token");
    let description = "Unable to authenticate due to corrupt access token";
    assert_eq!(error["error_description"], description);
}

#[track_caller]
pub(super) fn assert_expired(answer: &Answer) {
    let error = assert_error(answer, 401, "unauthorized");
    let description = "Unable to authenticate due to expired access token";
    assert_eq!(error["error_description"], description);
}

#[test]
fn dynamic_token_works_everywhere() {
    let server = TestServer::with(TENANTS);
    let dynamic = Dynamic::new(server.clock.now().secs());
    let token = dynamic.token();
    let form = Form::new().file("a.txt", "text/plain", b"hello");
    let authorization = format!("Bearer {token}");
    let headers = [("Authorization", authorization.as_str())];
    let answer = form.upload(server.address, &format!("{BASE}/chatfiles"), &authorization);
    let id = id(&answer);
    assert_eq!(open(&server, BASE, &id, &token).body, b"hello");
    let parts = format!("{BASE}/sdk/chatfiles/part-upload");
    assert_eq!(server.request("POST", &parts, &headers, b"").status, 200);
    // As a user, it cannot obtain tokens for others.
    let inherit = json!({ "grant_type": "inherit", "username": "bob" }).to_string();
    let path = format!("{BASE}/token");
    assert_corrupt(&server.request("POST", &path, &headers, inherit.as_bytes()));
    assert_corrupt(&open(&server, "/other-org/other-app", &id, &token));
}

#[test]
fn dynamic_token_accepts_all_forms() {
    let server = TestServer::with(TENANTS);
    let id = stored(&server);
    let mut dynamic = Dynamic::new(server.clock.now().secs());
    dynamic.user = "张三?>~".into();
    let mut texts = dynamic.json();
    texts["curTime"] = json!(dynamic.time);
    texts["ttl"] = json!(dynamic.ttl);
    let mut upper = dynamic.json();
    upper["signature"] = json!(dynamic.signature().to_uppercase());
    let mut more = dynamic.json();
    more["extra"] = json!({ "a": 1 });
    let standard = BASE64_STANDARD.encode(format!("dt-{}", dynamic.json()));
    for (form, token) in [
        ("numbers", dynamic.token()),
        ("texts", encode(&texts)),
        ("an upper-case signature", encode(&upper)),
        ("an unknown field", encode(&more)),
        ("the standard alphabet, padded", standard),
    ] {
        assert_eq!(open(&server, BASE, &id, &token).status, 200, "{form}");
    }
}

#[test]
fn tampered_dynamic_token_is_corrupt() {
    let server = TestServer::with(TENANTS);
    let id = stored(&server);
    let now = server.clock.now().secs();
    let honest = Dynamic::new(now).json();
    for (field, value) in [
        (
            "signature",
            json!(
                honest["signature"]
                    .as_str()
                    .unwrap()
                    .replace(['a', '1'], "0")
            ),
        ),
        ("signature", json!("")),
        ("signature", json!("0".repeat(64))),
        ("signature", json!(null)),
        ("appkey", json!("other-org#other-app")),
        ("appkey", json!("easemob-demo#chatdemou")),
        ("appkey", json!("")),
        ("userId", json!("bob")),
        ("userId", json!("")),
        ("userId", json!("alice ")),
        ("curTime", json!(now + 1)),
        ("curTime", json!(now - 1)),
        ("curTime", json!(-1)),
        ("curTime", json!("now")),
        ("curTime", json!(format!("0{now}"))),
        ("ttl", json!(601)),
        ("ttl", json!("0600")),
        ("ttl", json!(600.5)),
        ("ttl", json!(u64::MAX)),
    ] {
        let mut claims = honest.clone();
        claims[field] = value.clone();
        assert_ne!(claims, honest, "the case changes something");
        let answer = open(&server, BASE, &id, &encode(&claims));
        assert_eq!(answer.status, 401, "{field} = {value}");
        assert_corrupt(&answer);
    }
    for field in ["signature", "appkey", "userId", "curTime", "ttl"] {
        let mut claims = honest.clone();
        claims.as_object_mut().unwrap().remove(field);
        assert_corrupt(&open(&server, BASE, &id, &encode(&claims)));
    }
    let token = encode(&honest);
    for broken in [&token[..token.len() / 2], &token[..8], "ZHQt", "ZHQt!!!!"] {
        assert_corrupt(&open(&server, BASE, &id, broken));
    }
    assert_eq!(open(&server, BASE, &id, &token).status, 200);
}

/// The signature covers the app and the borders between fields.
#[test]
fn dynamic_token_fields_cannot_shift() {
    let server = TestServer::with(TENANTS);
    let id = stored(&server);
    let honest = Dynamic::new(server.clock.now().secs());
    let signed_by_the_other = Dynamic {
        client_id: "other-id",
        client_secret: "secret-of-the-other-client",
        ..honest.clone()
    };
    let of_the_other = Dynamic {
        appkey: "other-org#other-app".into(),
        ..signed_by_the_other.clone()
    };
    let wrong_secret = Dynamic {
        client_secret: "secret-of-the-demo-cliens",
        ..honest.clone()
    };
    for token in [signed_by_the_other, of_the_other, wrong_secret] {
        assert_corrupt(&open(&server, BASE, &id, &token.token()));
    }
    // The signed text is the same, but split differently: a user name that ends in digits can be read as a shorter name
    // with an earlier time and a longer lifetime.
    let now = server.clock.now().secs();
    let time = (now / 10_000 * 10_000 - 1).to_string();
    let digits = (time[..4].parse::<u32>().unwrap() - 1).to_string();
    let long_name = Dynamic {
        user: format!("bob{digits}"),
        time: time.clone(),
        ..honest.clone()
    };
    let moved = Dynamic {
        user: "bob".into(),
        time: format!("{digits}{}", &time[..6]),
        ttl: format!("{}600", &time[6..]),
        ..honest
    };
    assert_eq!(moved.signature(), long_name.signature());
    assert_corrupt(&open(&server, BASE, &id, &moved.token()));
}

#[test]
fn dynamic_token_ends_after_ttl() {
    let server = TestServer::with(TENANTS);
    let id = stored(&server);
    let now = server.clock.now().secs();
    let at = |time: i64, ttl: &str| Dynamic {
        time: time.to_string(),
        ttl: ttl.into(),
        ..Dynamic::new(now)
    };
    // Clocks may differ by minutes, not hours. Milliseconds are not accepted as seconds.
    assert_eq!(
        open(&server, BASE, &id, &at(now + 300, "600").token()).status,
        200
    );
    assert_corrupt(&open(&server, BASE, &id, &at(now + 3600, "600").token()));
    assert_corrupt(&open(&server, BASE, &id, &at(now * 1000, "600").token()));
    assert_expired(&open(&server, BASE, &id, &at(now - 601, "600").token()));
    assert_expired(&open(&server, BASE, &id, &at(now, "0").token()));
    let token = at(now, "600").token();
    server.clock.advance(570 * MS_PER_SECOND);
    assert_eq!(open(&server, BASE, &id, &token).status, 200);
    server.clock.advance(31 * MS_PER_SECOND);
    assert_expired(&open(&server, BASE, &id, &token));
}

#[test]
fn other_apps_tokens_are_corrupt() {
    let server = TestServer::with(TENANTS);
    let id = stored(&server);
    for subject in [Subject::App, Subject::User("alice".into())] {
        let other = server.token_of("other-org", "other-app", subject);
        assert_corrupt(&open(&server, BASE, &id, &other));
        // It is valid in its own app, which has no such file, and stays corrupt here after it was seen there.
        assert_error(
            &open(&server, "/other-org/other-app", &id, &other),
            404,
            "entity_not_found",
        );
        assert_corrupt(&open(&server, BASE, &id, &other));
    }
}

#[test]
fn bad_bearer_is_missing_or_corrupt() {
    let server = TestServer::with(TENANTS);
    let path = format!("{BASE}/chatfiles/{}", stored(&server));
    let good = server.token("alice");
    let (head, rest) = good.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    // Unsigned, as a forger would send it.
    let none = format!(
        "{}.{claims}.",
        BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#)
    );
    let mut forged = signature.to_owned();
    forged.replace_range(..1, if signature.starts_with('A') { "B" } else { "A" });
    for (value, error) in [
        ("".to_owned(), "unauthorized"),
        ("Bearer".to_owned(), "unauthorized"),
        ("Bearer ".to_owned(), "unauthorized"),
        ("Basic YWxpY2U6eA==".to_owned(), "unauthorized"),
        (good.clone(), "unauthorized"),
        ("Bearer x".to_owned(), "auth_bad_access_token"),
        (
            format!("Bearer {head}.{claims}.{forged}"),
            "auth_bad_access_token",
        ),
        (format!("Bearer {head}.{claims}"), "auth_bad_access_token"),
        (format!("Bearer {head}.{claims}."), "auth_bad_access_token"),
        (format!("Bearer {none}"), "auth_bad_access_token"),
        (
            format!("Bearer {}", "x".repeat(5000)),
            "auth_bad_access_token",
        ),
    ] {
        let answer = server.get(&path, &[("Authorization", &value)]);
        assert_error(&answer, 401, error);
        assert!(answer.header("www-authenticate").is_some(), "{value}");
    }
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let value = format!("{scheme} {good}");
        assert_eq!(
            server.get(&path, &[("Authorization", &value)]).status,
            200,
            "{scheme}"
        );
    }
}

#[test]
fn revocation_by_app_and_user() {
    // One hour ahead, so that tokens issued now are older and later ones are not.
    let moment = Clock::system().now().secs() + 3600;
    for (setting, revoked) in [
        (
            format!("tokens_not_before = {moment}"),
            ["alice", "bob", ""].as_slice(),
        ),
        (
            format!("users_not_before = {{ alice = {moment} }}"),
            ["alice"].as_slice(),
        ),
    ] {
        let tenants = TENANTS.replacen("[[tenant]]", &format!("[[tenant]]\n{setting}"), 1);
        let server = TestServer::with(&tenants);
        let dynamic = Dynamic::new(server.clock.now().secs());
        let token = |name: &str| match name {
            "" => server.token_of("easemob-demo", "chatdemoui", Subject::App),
            name => server.token(name),
        };
        let old = ["alice", "bob", ""].map(|name| (name, token(name)));
        let other = server.token_of("other-org", "other-app", Subject::User("alice".into()));
        let check = |id: &str, when: &str| {
            for (name, token) in &old {
                let answer = open(&server, BASE, id, token);
                let is_expired = answer.status == 401;
                assert_eq!(
                    is_expired,
                    revoked.contains(name),
                    "{setting} {name:?} {when}"
                );
                if is_expired {
                    assert_expired(&answer);
                }
            }
            // The same name in another app is a different user.
            let elsewhere = open(&server, "/other-org/other-app", id, &other);
            assert_eq!(elsewhere.status, 404, "{setting} {when}");
        };
        assert_expired(&open(&server, BASE, "x", &dynamic.token()));
        server.clock.advance(2 * 3600 * MS_PER_SECOND);
        let id = stored(&server);
        check(&id, "later");
        for (name, _) in &old {
            assert_eq!(
                open(&server, BASE, &id, &token(name)).status,
                200,
                "{setting} {name:?}"
            );
        }
    }
}

#[test]
fn reread_dynamic_token_opens_nothing() {
    // bob requests a token in a second in which its digits can be read as those of bob179, 40 days later.
    let (minted, forged) = ((1_791_795_305, "604800"), (1_795_305_604, "800"));
    for named in ["", "dynamic_token_ttl_seconds = [604800]"] {
        let server =
            TestServer::with(&TENANTS.replacen("[[tenant]]", &format!("[[tenant]]\n{named}"), 1));
        let set_clock = |secs: i64| {
            let now_ms = server.clock.now().ms();
            server.clock.advance(secs * MS_PER_SECOND - now_ms);
        };
        set_clock(minted.0);
        let id = stored(&server);
        let token = |user: &str, (time, ttl): (i64, &str)| {
            let dynamic = Dynamic {
                user: user.into(),
                ttl: ttl.into(),
                ..Dynamic::new(time)
            };
            (dynamic.signature(), dynamic.token())
        };
        let (signature, bobs) = token("bob", minted);
        let (forged_signature, forged) = token("bob179", forged);
        assert_eq!(
            signature, forged_signature,
            "the known weakness of the format"
        );
        assert_eq!(open(&server, BASE, &id, &bobs).status, 200, "{named}");
        set_clock(1_795_305_604);
        assert_corrupt(&open(&server, BASE, &id, &forged));
        // The backend accepts a user of that name like any other.
        set_clock(1_795_305_700);
        let (_, honest) = token("bob179", (1_795_305_700, "604800"));
        assert_eq!(open(&server, BASE, &id, &honest).status, 200, "{named}");
    }
}
