//! Key files that change while the server runs: new keys, withdrawn keys, broken files, SIGHUP.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use super::{
    Outcome::{In, Invalid},
    jwt, outcome,
    signer::{Signer, claims, set, with, write},
    status, tenant,
};
use crate::support::{
    BASE, Connection, Exposition, TestServer,
    process::{Process, poll},
};

/// Nothing but the file changes; the server notices within a second or two.
#[test]
fn changed_file_rotates_keys() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (Signer::es256(), Signer::es256());
    let keys = |keys: &[(&Signer, &str)]| {
        let keys: Vec<_> = keys.iter().map(|(signer, kid)| signer.jwk(kid)).collect();
        write(directory.path(), "keys.json", &set(&keys));
    };
    keys(&[(&old, "1")]);
    let server = TestServer::with(&tenant(&jwt(
        directory.path(),
        &["keys.json"],
        &["ES256"],
        "",
    )));
    let first = old.token(Some("1"), &claims(&server));
    let second = new.token(Some("2"), &claims(&server));
    assert_eq!(
        [&first, &second].map(|token| outcome(&server, token)),
        [In, Invalid]
    );
    keys(&[(&old, "1"), (&new, "2")]);
    poll("the new key", || status(&server, &second) == 200);
    assert_eq!(outcome(&server, &first), In);
    // The old key is withdrawn: cached tokens end too.
    keys(&[(&new, "2")]);
    poll("the end of the old key", || status(&server, &first) == 401);
    assert_eq!(outcome(&server, &second), In);
    // Another key under the same kid.
    let third = Signer::es256();
    keys(&[(&third, "2")]);
    poll("the end of the second key", || {
        status(&server, &second) == 401
    });
    let token = third.token(Some("2"), &claims(&server));
    assert_eq!(outcome(&server, &token), In);
    // All keys are withdrawn.
    keys(&[]);
    poll("the end of all keys", || status(&server, &token) == 401);
}

#[test]
fn broken_file_keeps_old_keys() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let signer = Signer::es256();
    signer.write_set(directory.path(), "keys.json");
    let config = directory.path().join("chatfiles.toml");
    let settings = |more: &str| {
        let jwt = jwt(directory.path(), &["keys.json"], &["ES256"], "");
        fs::write(&config, tenant(&format!("{more}{jwt}"))).unwrap();
    };
    settings("");
    let flags = [
        "--config",
        config.to_str().unwrap(),
        "--operator-listen",
        "127.0.0.1:0",
    ];
    let server = Process::start(&store, &flags);
    let claims = || {
        let now = chatfiles::time::Clock::system().now().secs();
        json!({ "iss": super::ISSUER, "aud": super::AUDIENCE, "sub": "alice", "exp": now + 3600, "iat": now })
    };
    let status = |token: &str| {
        let authorization = format!("Bearer {token}");
        let path = format!("{BASE}/chatfiles/00000000-0000-0000-0000-000000000000");
        let headers = [("Authorization", &*authorization)];
        Connection::open(server.address)
            .request("GET", &path, &headers, b"")
            .status
    };
    let stale = |count: u64| {
        let text = String::from_utf8(server.ask_operator("/metrics").body).unwrap();
        let scrape = Exposition::parse(&text).unwrap();
        scrape.get("chatfiles_stale_key_files", &[]) == count
    };
    let token = signer.token(Some("ES256"), &claims());
    assert_eq!(status(&token), 404);
    assert!(stale(0));
    for broken in ["", "{\"keys\":[", "-----BEGIN PUBLIC KEY-----\nAAAA\n"] {
        write(directory.path(), "keys.json", broken);
        poll("the broken file", || stale(1));
        assert_eq!(status(&token), 404);
        assert_eq!(
            status(&signer.token(Some("ES256"), &with(claims(), json!({ "jti": broken })))),
            404
        );
        // Neither does SIGHUP apply it, nor what else has changed.
        settings("tokens_not_before = 2100-01-01T00:00:00Z\n");
        let refusals = || server.log().matches("jwt.keys").count();
        let before = refusals();
        server.signal(Signal::HUP);
        poll("the refusal", || refusals() > before);
        assert_eq!(status(&token), 404);
        settings("");
        signer.write_set(directory.path(), "keys.json");
        poll("the repaired file", || stale(0));
    }
    fs::remove_file(directory.path().join("keys.json")).unwrap();
    poll("the missing file", || stale(1));
    assert_eq!(status(&token), 404);
    let log = server.log();
    assert!(
        log.contains("cannot reload the keys of a chat backend"),
        "{log}"
    );
    assert!(!log.contains(&token), "{log}");
    // SIGHUP with other keys.
    let other = Signer::rs256();
    other.write(directory.path(), "other.pem");
    let jwt = jwt(directory.path(), &["other.pem"], &["RS256"], "");
    fs::write(&config, tenant(&jwt)).unwrap();
    server.signal(Signal::HUP);
    poll("the other keys", || status(&token) == 401);
    assert_eq!(status(&other.token(None, &claims())), 404);
    assert!(stale(0));
}

#[test]
fn unusable_keys_stop_start() {
    let directory = tempfile::tempdir().unwrap();
    let start = |text: &str, algorithm: &str| {
        write(directory.path(), "keys", text);
        let settings = tenant(&jwt(directory.path(), &["keys"], &[algorithm], ""));
        let config = crate::support::configuration(directory.path(), &settings);
        let built = chatfiles::app::App::build(config, chatfiles::time::Clock::system(), None);
        built.err().map(|error| error.to_string())
    };
    let public = Signer::es256().public;
    let short = |bytes: u8| {
        let secret: Vec<u8> = (0..bytes).collect();
        set(&[json!({ "kty": "oct", "k": super::signer::encode(secret) })])
    };
    let bits_1024 = include_str!("../../data/keys/rsa1024.pem");
    for (text, algorithm, about) in [
        (&*short(31), "HS256", Some("at least 32")),
        (&short(32), "HS256", None),
        (bits_1024, "RS256", Some("1024 bits")),
        (&public, "HS256", Some("no key for any of jwt.algorithms")),
        (&public, "RS256", Some("no key for any of jwt.algorithms")),
        (&public, "ES256", None),
        ("", "ES256", Some("neither PEM")),
        (
            "{\"keys\":[]}",
            "ES256",
            Some("no key for any of jwt.algorithms"),
        ),
    ] {
        let error = start(text, algorithm);
        match about {
            None => assert_eq!(error, None),
            Some(about) => {
                let error = error.expect(about);
                let path = directory.path().join("keys").display().to_string();
                assert!(error.contains(about) && error.contains(&path), "{error}");
            }
        }
    }
}
