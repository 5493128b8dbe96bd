//! Token keys: rotation in a running server, restarts, and file permissions.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chatfiles::{
    app::App,
    auth::keyring,
    time::{Clock, MS_PER_SECOND},
};
use serde_json::{Value, json};

use super::token_accepted::{TENANTS, assert_expired, open, stored};
use crate::support::{BASE, TestServer, configuration};

/// The `kid` of a signed token.
fn kid(token: &str) -> String {
    let head = BASE64_URL_SAFE_NO_PAD
        .decode(token.split('.').next().unwrap())
        .unwrap();
    let head: Value = serde_json::from_slice(&head).unwrap();
    head["kid"].as_str().unwrap().to_owned()
}

fn granted(server: &TestServer) -> String {
    let request = json!({
        "grant_type": "client_credentials",
        "client_id": "demo-id",
        "client_secret": "secret-of-the-demo-client",
        "ttl": 0,
    });
    let path = format!("{BASE}/token");
    let answer = server.request("POST", &path, &[], request.to_string().as_bytes());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

#[test]
fn keys_rotate_with_overlap() {
    let server = TestServer::with(TENANTS);
    let id = stored(&server);
    let old = granted(&server);
    assert_eq!(open(&server, BASE, &id, &old).status, 200);
    let overlap = Duration::from_secs(3600);
    let named = keyring::rotate(&server.store.join("keys"), server.clock.now(), overlap).unwrap();
    assert_ne!(named, kid(&old));
    // Servers reload within a second.
    server.clock.advance(MS_PER_SECOND + 1);
    let new = granted(&server);
    assert_eq!(kid(&new), named);
    server.clock.advance((3600 - 30) * MS_PER_SECOND);
    for token in [&old, &new] {
        assert_eq!(open(&server, BASE, &id, token).status, 200);
    }
    server.clock.advance(30 * MS_PER_SECOND);
    // It has no end of its own; the retirement of its key ends it.
    assert_expired(&open(&server, BASE, &id, &old));
    assert_eq!(open(&server, BASE, &id, &new).status, 200);
}

#[test]
fn keys_outlive_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = TestServer::in_directory(directory.path(), TENANTS);
    let (id, token) = (stored(&server), granted(&server));
    server.stop();
    let server = TestServer::in_directory(directory.path(), TENANTS);
    assert_eq!(open(&server, BASE, &id, &token).status, 200);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn readable_key_files_stop_start() {
    let directory = tempfile::tempdir().unwrap();
    // No secret is configured: client secret, link key and upload key are generated and stored beside the keys.
    let mut server = TestServer::in_directory(directory.path(), "");
    let keys = server.store.join("keys");
    keyring::rotate(&keys, server.clock.now(), Duration::from_secs(60)).unwrap();
    server.stop();
    assert_eq!(mode(&keys), 0o700);
    let names = server.files_in("keys");
    let secrets: Vec<_> = names
        .iter()
        .filter(|name| name.extension().is_none_or(|kind| kind != "lock"))
        .collect();
    assert_eq!(secrets.len(), 4, "{names:?}");
    for name in &names {
        assert_eq!(mode(&keys.join(name)), 0o600, "{}", name.display());
    }
    let build = || App::build(configuration(directory.path(), ""), Clock::system(), None);
    for name in secrets {
        let path = keys.join(name);
        for open in [0o640, 0o604, 0o660, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
            let error = build()
                .err()
                .unwrap_or_else(|| panic!("started with {open:o}"));
            let text = error.to_string();
            assert!(text.contains(&path.display().to_string()), "{text}");
            assert!(text.contains("chmod 600"), "{text}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert!(build().is_ok());
}
