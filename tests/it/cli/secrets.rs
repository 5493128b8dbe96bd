//! Nothing that opens a door is in the log, at any level; key files are ours alone.

use std::os::unix::fs::PermissionsExt;

use crate::support::{
    BASE, Connection, Form,
    command::{Served, run, stdout},
    photo,
};

#[test]
fn no_secret_is_in_the_log_at_the_finest_level() {
    let directory = tempfile::tempdir().unwrap();
    let (store, log) = (directory.path().join("data"), directory.path().join("log"));
    let server = Served::start(
        &store,
        &log,
        &["--log-level", "trace", "--calls-per-second", "0"],
    );
    let token = stdout(&run(
        &[
            "token",
            "--user",
            "alice",
            "--store-path",
            store.to_str().unwrap(),
        ],
        "",
    ));
    let client_secret =
        std::fs::read_to_string(store.join("keys/client-secret.easemob-demo.chatdemoui")).unwrap();
    let keys = std::fs::read_to_string(store.join("keys/token-keys.toml")).unwrap();
    let key = keys
        .lines()
        .find_map(|line| line.strip_prefix("secret = "))
        .unwrap()
        .trim_matches('"')
        .to_owned();
    let call = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        Connection::open(server.address).request(method, &format!("{BASE}{path}"), headers, body)
    };

    let bearer = format!("Bearer {token}");
    let form = Form::new().file("a.jpg", "image/jpeg", &photo());
    let content_type = form.content_type();
    let headers = [
        ("Authorization", &*bearer),
        ("Content-Type", &*content_type),
        ("restrict-access", "true"),
    ];
    let entity = call("POST", "/chatfiles", &headers, &form.bytes()).json()["entities"][0].clone();
    let (id, share_secret) = (
        entity["uuid"].as_str().unwrap(),
        entity["share-secret"].as_str().unwrap(),
    );
    let credentials = format!(
        r#"{{"grant_type":"client_credentials","client_id":"easemob-demo.chatdemoui","client_secret":"{}"}}"#,
        client_secret.trim()
    );
    let app_token = call("POST", "/token", &[], credentials.as_bytes()).json()["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    let good = format!("/chatfiles/{id}?share-secret={share_secret}");
    assert_eq!(
        call("GET", &good, &[("Authorization", &bearer)], b"").status,
        200
    );
    // Failures are what gets logged: of each kind of credential, one that is nearly right.
    let wrong_bearer = format!("{bearer}x");
    assert_eq!(
        call("GET", &good, &[("Authorization", &wrong_bearer)], b"").status,
        401
    );
    let wrong_secret = format!("/chatfiles/{id}?share-secret={share_secret}x");
    assert_eq!(
        call("GET", &wrong_secret, &[("Authorization", &bearer)], b"").status,
        403
    );
    let wrong = credentials.replace("chatdemoui\"", "chatdemoui2\"");
    assert_eq!(call("POST", "/token", &[], wrong.as_bytes()).status, 400);
    assert_eq!(
        call(
            "POST",
            "/token",
            &[],
            credentials.trim_end_matches('}').as_bytes()
        )
        .status,
        400
    );
    let password = r#"{"grant_type":"password","username":"u1","password":"hunter2-hunter2"}"#;
    assert_eq!(call("POST", "/token", &[], password.as_bytes()).status, 404);
    drop(server);

    let log = std::fs::read_to_string(log).unwrap();
    assert!(
        log.contains("answered") && log.contains(id),
        "the log says too little to test anything: {log}"
    );
    let signature = token.rsplit('.').next().unwrap();
    for secret in [
        &*token,
        signature,
        &*app_token,
        share_secret,
        client_secret.trim(),
        &*key,
        "hunter2-hunter2",
    ] {
        assert!(
            secret.len() > 10 && !log.contains(secret),
            "{secret} stands in the log"
        );
    }
}

#[test]
fn keys_and_generated_secrets_are_readable_by_their_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let _server = Served::start(&store, &directory.path().join("log"), &[]);
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&store), 0o700);
    assert_eq!(mode(&store.join("keys")), 0o700);
    assert_eq!(mode(&store.join("control.sock")), 0o600);
    let files = crate::support::files_below(&store.join("keys"));
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        assert_eq!(
            mode(&store.join("keys").join(&file)),
            0o600,
            "{}",
            file.display()
        );
    }
}
