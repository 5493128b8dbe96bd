//! Tokens that only the introspection server of the chat backend knows.

use std::thread;

use chatfiles::{auth::Subject, time::MS_PER_SECOND};
use serde_json::json;

use super::{
    Outcome::{Expired, In, Invalid, Unavailable},
    jwt, outcome, owner,
    provider::{CLIENT_SECRET, Provider, Reply, setting},
    signer::{Signer, claims, encode, message, with},
    status, tenant, upload,
};
use crate::support::{BASE, TestServer, process::poll};

/// A server whose default tenant asks this provider, with further settings of the table.
fn server(provider: &Provider, more: &str) -> TestServer {
    TestServer::with(&format!(
        "[introspection]\ntimeout_seconds = 1\n{}",
        tenant(&provider.setting(more))
    ))
}

#[test]
fn answer_decides() {
    let provider = Provider::start();
    let server = server(&provider, "cache_seconds = 0");
    let now = server.clock.now().secs();
    let active =
        json!({ "active": true, "sub": "alice", "exp": now + 60, "iat": now, "scope": "files" });
    for (about, changes, expected) in [
        ("active", json!({}), In),
        (
            "active, and nothing else",
            json!({ "exp": null, "iat": null, "scope": null }),
            In,
        ),
        ("not active", json!({ "active": false }), Invalid),
        ("expired", json!({ "exp": now }), Expired),
        ("issued tomorrow", json!({ "iat": now + 86_400 }), Invalid),
        (
            "valid from tomorrow",
            json!({ "nbf": now + 86_400 }),
            Invalid,
        ),
        ("a text as expiry", json!({ "exp": "4102444800" }), Invalid),
        ("no user", json!({ "sub": null }), Invalid),
        (
            "no user, but a name",
            json!({ "sub": null, "username": "alice" }),
            Invalid,
        ),
        ("a path as user", json!({ "sub": "../alice" }), Invalid),
        ("a list as user", json!({ "sub": ["alice"] }), Invalid),
    ] {
        provider.know("opaque", with(active.clone(), changes));
        assert_eq!(outcome(&server, "opaque"), expected, "{about}");
        assert_eq!(provider.asked(), ["opaque", "opaque"], "{about}");
    }
    assert_eq!(outcome(&server, "unknown"), Invalid);
    assert_eq!(provider.asked(), ["unknown", "unknown"]);
    // Whatever a token has in it, it stays one field.
    for token in ["1|a+b/c=", "a&token=b", "a%26b", "ey.ey.x", "..."] {
        provider.know_alice(token);
        assert_eq!(outcome(&server, token), In);
        assert!(
            provider.asked().iter().all(|asked| asked == token),
            "{token}"
        );
    }
}

#[test]
fn answer_may_name_app() {
    let provider = Provider::start();
    let more = "cache_seconds = 0\naudience = [\"chatfiles\"]\nsubject_claim = \"username\"\napp_claim = \"app\"";
    let server = server(&provider, more);
    let active = json!({
        "active": true, "sub": "0b6c", "username": "alice", "aud": ["chatfiles"], "app": "welovemaxim",
    });
    for (changes, expected) in [
        (json!({}), In),
        (json!({ "aud": "mail" }), Invalid),
        (json!({ "aud": null }), Invalid),
        (json!({ "app": "acme/chat" }), Invalid),
        (json!({ "app": null }), Invalid),
        (json!({ "username": null }), Invalid),
    ] {
        provider.know("opaque", with(active.clone(), changes.clone()));
        assert_eq!(outcome(&server, "opaque"), expected, "{changes}");
    }
}

#[test]
fn any_failure_is_503() {
    let provider = Provider::start();
    let server = server(&provider, "cache_seconds = 60");
    let active = r#"{"active":true,"sub":"alice"}"#;
    let huge = format!(
        r#"{{"active":true,"sub":"alice","x":"{}"}}"#,
        "x".repeat(70_000)
    );
    for (about, reply) in [
        ("500", Reply::Body(500, active.into())),
        ("401", Reply::Body(401, active.into())),
        ("404", Reply::Body(404, active.into())),
        ("201", Reply::Body(201, active.into())),
        ("302", Reply::Body(302, active.into())),
        ("empty", Reply::Body(200, String::new())),
        ("HTML", Reply::Body(200, format!("<html>{active}</html>"))),
        ("an array", Reply::Body(200, format!("[{active}]"))),
        (
            "a text",
            Reply::Body(200, r#"{"active":"true","sub":"alice"}"#.into()),
        ),
        (
            "a number",
            Reply::Body(200, r#"{"active":1,"sub":"alice"}"#.into()),
        ),
        (
            "null",
            Reply::Body(200, r#"{"active":null,"sub":"alice"}"#.into()),
        ),
        ("no member", Reply::Body(200, r#"{"sub":"alice"}"#.into())),
        (
            "twice",
            Reply::Body(
                200,
                r#"{"active":false,"active":true,"sub":"alice"}"#.into(),
            ),
        ),
        ("huge", Reply::Body(200, huge)),
        ("closed", Reply::Close),
        ("cut", Reply::Cut(active[..10].into())),
        ("complete and not ended", Reply::Cut(active.into())),
        ("no answer", Reply::Never),
    ] {
        provider.reply(reply);
        assert_eq!(outcome(&server, "opaque"), Unavailable, "{about}");
    }
    // Failures are not cached.
    provider.reply(Reply::Body(200, active.into()));
    assert_eq!(outcome(&server, "opaque"), In);
}

#[test]
fn dead_server_is_503() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let settings = tenant(&setting(&format!("http://{port}/introspect"), ""));
    let server = TestServer::with(&settings);
    assert_eq!(outcome(&server, "opaque"), Unavailable);
    // Our own tokens need no other server.
    assert_eq!(outcome(&server, &server.token("alice")), In);
    // The response tells nothing about it.
    let answer = upload(&server, "Bearer opaque");
    for secret in ["127.0.0.1", "introspect", CLIENT_SECRET] {
        assert!(!answer.text().contains(secret), "{}", answer.text());
    }
}

/// Neither valid nor invalid ones, nor anything that cannot be a token.
#[test]
fn own_tokens_are_never_sent() {
    let provider = Provider::start();
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer::es256();
    signer.write_set(directory.path(), "keys.json");
    let both = [
        provider.setting(""),
        jwt(directory.path(), &["keys.json"], &["ES256"], ""),
    ]
    .concat();
    let server = TestServer::with(&tenant(&both));
    provider.reply(Reply::Body(200, r#"{"active":true,"sub":"alice"}"#.into()));
    let own = server.token("alice");
    let parts: Vec<&str> = own.split('.').collect();
    let other_tenant = {
        let other = TestServer::with("[[tenant]]\norg = \"acme\"\napp = \"chat\"\n");
        other.token_of("acme", "chat", Subject::User("alice".into()))
    };
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    let claims_of_ours =
        json!({ "iss": "chatfiles", "t": "easemob-demo/chatdemoui", "sub": "alice", "app": false });
    let forged = message(&header, &claims_of_ours);
    let long = "x".repeat(4097);
    let signed = |changes| signer.token(Some("ES256"), &with(claims(&server), changes));
    for (about, token, expected) in [
        ("valid", own.clone(), In),
        (
            "a wrong signature",
            format!("{}.{}.{}", parts[0], parts[1], "A".repeat(43)),
            Invalid,
        ),
        (
            "no signature",
            format!("{}.{}.", parts[0], parts[1]),
            Invalid,
        ),
        (
            "other claims",
            format!("{}.{}.{}", parts[0], encode("{}"), parts[2]),
            Invalid,
        ),
        ("of another server", other_tenant, Invalid),
        ("our issuer, any key", format!("{forged}.AAAA"), Invalid),
        (
            "a dynamic token",
            format!("ZHQt{}", encode("{\"signature\":\"x\"}")),
            Invalid,
        ),
        ("too long", long, Invalid),
        ("the backend's JWT", signed(json!({})), In),
        (
            "the backend's JWT, expired",
            signed(json!({ "exp": 1 })),
            Expired,
        ),
        (
            "the backend's JWT, for others",
            signed(json!({ "aud": "mail" })),
            Invalid,
        ),
        (
            "the backend's JWT, unsigned",
            format!("{}.", message(&header, &claims(&server))),
            Invalid,
        ),
    ] {
        assert_eq!(outcome(&server, &token), expected, "{about}");
        assert_eq!(provider.asked(), Vec::<String>::new(), "{about}");
    }
    // A token in a query may have any characters.
    for token in ["a%20b", "a%0d%0ab", "%e5%bc%a0", "a%00"] {
        let url = format!("/file/upload/avatar/user?app_id=welovemaxim&access-token={token}");
        assert_eq!(server.get(&url, &[]).json()["code"], 10008, "{token}");
    }
    assert_eq!(provider.asked(), Vec::<String>::new());
    // A JWT of another issuer is for the introspection server.
    let foreign = signed(json!({ "iss": "https://sso.example" }));
    assert_eq!(outcome(&server, &foreign), In);
    assert_eq!(provider.asked(), [foreign]);
}

#[test]
fn answers_are_cached() {
    let provider = Provider::start();
    let server = server(&provider, "cache_seconds = 3600");
    let now = server.clock.now().secs();
    provider.know("long", json!({ "active": true, "sub": "alice" }));
    provider.know(
        "short",
        json!({ "active": true, "sub": "alice", "exp": now + 60 }),
    );
    for _ in 0..3 {
        assert_eq!(
            ["long", "short", "none"].map(|token| outcome(&server, token)),
            [In, In, Invalid]
        );
    }
    assert_eq!(provider.asked(), ["long", "short", "none"]);
    // Never longer than the token itself.
    server.clock.advance(60 * MS_PER_SECOND);
    assert_eq!(outcome(&server, "short"), Expired);
    assert_eq!(outcome(&server, "long"), In);
    assert_eq!(provider.asked(), Vec::<String>::new());
}

#[test]
fn cached_answers_end() {
    let provider = Provider::start();
    let server = server(&provider, "cache_seconds = 1");
    provider.know_alice("opaque");
    assert_eq!(outcome(&server, "opaque"), In);
    provider.know("opaque", json!({ "active": false }));
    poll("the end of the session", || {
        status(&server, "opaque") == 401
    });
    provider.know_alice("opaque");
    poll("the end of the refusal", || {
        status(&server, "opaque") == 200
    });
}

#[test]
fn revocation_applies_to_introspected_tokens() {
    let provider = Provider::start();
    let settings = format!(
        "users_not_before = {{ alice = 4000000000 }}\n{}",
        provider.setting("cache_seconds = 60")
    );
    let server = TestServer::with(&tenant(&settings));
    let now = server.clock.now().secs();
    provider.know(
        "dated",
        json!({ "active": true, "sub": "alice", "iat": now }),
    );
    provider.know_alice("undated");
    provider.know("bobs", json!({ "active": true, "sub": "bob", "iat": now }));
    for _ in 0..2 {
        assert_eq!(
            ["dated", "undated"].map(|token| outcome(&server, token)),
            [Expired; 2]
        );
        assert_eq!(owner(&server, &upload(&server, "Bearer bobs")), "bob");
    }
}

/// Many requests with one token cause one question.
#[test]
fn concurrent_questions_are_one() {
    const CLIENTS: usize = 16;
    let provider = Provider::start();
    // Nothing is cached beyond the concurrent requests.
    let server = TestServer::with(&format!(
        "operator.listen = \"127.0.0.1:0\"\n[introspection]\ntimeout_seconds = 60\n{}",
        tenant(&provider.setting("cache_seconds = 0"))
    ));
    for (token, expected) in [("opaque", In), ("unknown", Invalid)] {
        provider.know_alice("opaque");
        provider.open(false);
        thread::scope(|scope| {
            let asks: Vec<_> = (0..CLIENTS)
                .map(|_| scope.spawn(|| upload(&server, &format!("Bearer {token}")).status))
                .collect();
            poll("all requests", || in_flight(&server) == CLIENTS);
            provider.open(true);
            for ask in asks {
                assert_eq!(ask.join().unwrap() == 200, expected == In);
            }
        });
        // A request that was counted may ask after the answer to the others.
        let asked = provider.asked().len();
        assert!((1..CLIENTS / 2).contains(&asked), "{asked}");
    }
}

/// Uploads that the server has accepted and not answered.
fn in_flight(server: &TestServer) -> usize {
    let count = server.scrape().get("chatfiles_uploads_in_flight", &[]);
    usize::try_from(count).unwrap()
}

/// One tenant's server hangs. The others are answered.
#[test]
fn hanging_server_leaves_room() {
    let (hanging, healthy) = (Provider::start(), Provider::start());
    let settings = format!(
        "[introspection]\ntimeout_seconds = 60\nin_flight_max = 4\nwaiting_max = 8\n{}\
         [[tenant]]\norg = \"acme\"\napp = \"chat\"\n{}",
        tenant(&healthy.setting("cache_seconds = 0")),
        hanging.setting("cache_seconds = 0")
    );
    let server = TestServer::with(&settings);
    hanging.open(false);
    healthy.know_alice("opaque");
    thread::scope(|scope| {
        for number in 0..40 {
            let server = &server;
            scope.spawn(move || {
                let authorization = format!("Bearer token-{number}");
                let path = format!("/acme/chat/chatfiles/{number}");
                let answer = server.get(&path, &[("Authorization", &authorization)]);
                // What finds no place in the queue is told to come again.
                assert!([401, 503].contains(&answer.status), "{}", answer.text());
            });
        }
        poll("half of the places", || hanging.count() == 2);
        for _ in 0..20 {
            assert_eq!(outcome(&server, "opaque"), In);
        }
        assert_eq!(hanging.count(), 2, "no more than half");
        hanging.open(true);
    });
}

/// The same token of two tenants is two tokens.
#[test]
fn tenants_share_no_answers() {
    let (ours, theirs) = (Provider::start(), Provider::start());
    let settings = format!(
        "{}[[tenant]]\norg = \"acme\"\napp = \"chat\"\n{}",
        tenant(&ours.setting("cache_seconds = 3600")),
        theirs.setting("cache_seconds = 3600")
    );
    let server = TestServer::with(&settings);
    ours.know_alice("1");
    theirs.know_alice("2");
    let status = |org: &str, token: &str| {
        let authorization = format!("Bearer {token}");
        let path = format!("/{org}/chatfiles/00000000-0000-0000-0000-000000000000");
        server
            .get(&path, &[("Authorization", &authorization)])
            .status
    };
    for _ in 0..2 {
        for (org, accepted, refused) in [
            ("easemob-demo/chatdemoui", "1", "2"),
            ("acme/chat", "2", "1"),
        ] {
            assert_eq!(status(org, accepted), 404);
            assert_eq!(status(org, refused), 401);
        }
    }
}

/// A store token opens its file without the introspection server, and a wrong one tells of the server.
#[test]
fn store_token_needs_no_answer() {
    let provider = Provider::start();
    let server = server(&provider, "");
    let alice = server.lanying("alice");
    let ticket = alice.ticket("102", "bob", "1");
    let url = alice.store(&ticket, "a.jpg", &crate::support::photo());
    provider.reply(Reply::Body(500, String::new()));
    let path = &url[url.find("/file/").unwrap()..];
    let store_token = ticket["store_token"].as_str().unwrap();
    let headers = [("access-token", "opaque"), ("app_id", "welovemaxim")];
    let answer = server.get(&format!("{path}&store_token={store_token}"), &headers);
    assert!(answer.body == crate::support::photo(), "{}", answer.text());
    let answer = server.get(&format!("{path}&store_token=x"), &headers);
    assert_eq!(answer.status, 503, "{}", answer.text());
}

#[test]
fn results_are_counted() {
    let provider = Provider::start();
    let server = TestServer::with(&format!(
        "operator.listen = \"127.0.0.1:0\"\n{}",
        tenant(&provider.setting("cache_seconds = 3600"))
    ));
    provider.know_alice("opaque");
    for token in ["opaque", "opaque", "opaque", "unknown", "unknown"] {
        upload(&server, &format!("Bearer {token}"));
    }
    provider.reply(Reply::Close);
    upload(&server, "Bearer other");
    upload(&server, &format!("Bearer {}", server.token("alice")));
    let scrape = server.scrape();
    for (result, count) in [("active", 1), ("refused", 1), ("cached", 3), ("failed", 1)] {
        let found = scrape.get("chatfiles_introspections_total", &[("result", result)]);
        assert_eq!(found, count, "{result}");
    }
}
