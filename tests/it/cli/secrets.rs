//! No credential appears in the log at any level, and only the owner can read key files.

use std::os::unix::fs::PermissionsExt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chatfiles::time::Clock;
use sha2::{Digest, Sha256};

use crate::support::{
    BASE, Connection, Form, lanying, photo,
    process::{Process, run, stdout},
};

/// Logs everything.
const FINEST: &[&str] = &["--log-level", "trace", "--log-access-sample", "1"];

#[test]
fn log_has_no_secret_at_trace() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let mut server = Process::start(&store, FINEST);
    let token = server.token().to_owned();
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
    // Failures are logged: one almost valid credential of each kind.
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
    // A token signed by a backend, in a header and where a query may be; the second one is almost valid.
    let dynamic = dynamic_token(client_secret.trim());
    let by_dynamic = format!("Bearer {dynamic}");
    let plain = format!("/chatfiles/{id}?share-secret={share_secret}");
    assert_eq!(
        call("GET", &plain, &[("Authorization", &by_dynamic)], b"").status,
        200
    );
    let corrupt = format!("{by_dynamic}x");
    assert_eq!(
        call("GET", &plain, &[("Authorization", &corrupt)], b"").status,
        401
    );
    // These do not start a query: the path is shown up to them.
    for mark in ["%3F", "%3f", "&", ";"] {
        let meant = format!(
            "/chatfiles/{id}{mark}share-secret={share_secret}&access_token={token}&dt={dynamic}"
        );
        assert!(call("GET", &meant, &[("Authorization", &bearer)], b"").status >= 400);
        let nowhere = format!("/x/y{mark}token={token}/chatfiles/{share_secret}{mark}{dynamic}");
        let mut connection = Connection::open(server.address);
        assert!(connection.request("GET", &nowhere, &[], b"").status >= 400);
    }
    // A complete URL with credentials as the target.
    let whole = format!("http://alice:{share_secret}@files.test{BASE}{plain}&access_token={token}");
    let mut connection = Connection::open(server.address);
    connection.request("GET", &whole, &[("Authorization", &bearer)], b"");
    server.stop();

    let log = server.log();
    assert!(
        log.contains("answered") && log.contains(id) && log.contains("end_us"),
        "the log contains too little for this test: {log}"
    );
    let signature = token.rsplit('.').next().unwrap();
    for secret in [
        &*token,
        signature,
        &*app_token,
        &*dynamic,
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

/// A token as a chat backend signs it: base64url of `dt-` and JSON.
fn dynamic_token(client_secret: &str) -> String {
    let (client_id, appkey) = ("easemob-demo.chatdemoui", "easemob-demo#chatdemoui");
    let now = Clock::system().now().secs();
    let signed = format!("{client_id}{appkey}alice{now}600{client_secret}");
    let signature: String = Sha256::digest(signed.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let json = serde_json::json!({
        "signature": signature, "appkey": appkey, "userId": "alice", "curTime": now, "ttl": 600,
    });
    BASE64_URL_SAFE_NO_PAD.encode(format!("dt-{json}"))
}

#[test]
fn key_files_are_private() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let _server = Process::start(&store, &[]);
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

#[test]
fn log_has_no_lanying_credential() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let config = directory.path().join("chatfiles.toml");
    let toml = r#"
        [[tenant]]
        org = "easemob-demo"
        app = "chatdemoui"
        app_id = "welovemaxim"
        link_key = "a-link-key-of-ours"
        upload_key = "an-upload-key-of-ours"

        [[tenant]]
        org = "acme"
        app = "chat"
        app_id = "asked"
        hook_url = "http://backend:hunter2-in-the-url@127.0.0.1:1/may?key=hunter2-in-the-query"
        hook_secret = "a-hook-secret-of-ours"
        sdk_sign_key = "an-sdk-key-of-ours"
    "#;
    std::fs::write(&config, toml).unwrap();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (config, path) = (text(&config), text(&store));
    let flags = ["--config", &config];
    let mut server = Process::start(&store, &[&flags[..], FINEST].concat());
    let token = |tenant: &str| {
        let arguments = ["token", "--user", "alice", "--tenant", tenant];
        stdout(&run(
            &[
                &arguments[..],
                &["--config", &config, "--store-path", &path],
            ]
            .concat(),
            "",
        ))
    };
    let (token, asked) = (token("easemob-demo/chatdemoui"), token("acme/chat"));
    let get = |path: &str, headers: &[(&str, &str)]| {
        Connection::open(server.address).request("GET", path, headers, b"")
    };
    let headers = [("access-token", &*token), ("app_id", lanying::APP_ID)];

    let ticket = get("/file/upload/chat?file_type=102&to_id=bob", &headers).json()["data"].clone();
    let field = |name: &str| lanying::text(&ticket["oss_body_param"][name]);
    let post = |form: Form| {
        let content_type = form.content_type();
        let headers = [("Content-Type", content_type.as_str())];
        Connection::open(server.address).request(
            "POST",
            "/file/oss/welovemaxim",
            &headers,
            &form.bytes(),
        )
    };
    let form = lanying::ticket_form(&ticket).file("a.jpg", "image/jpeg", &photo());
    assert_eq!(post(form.clone()).status, 200);
    let url = lanying::text(&ticket["download_url"]);
    let sign = lanying::file_sign(&url);
    let store_token = lanying::text(&ticket["store_token"]);
    let by_sign = format!("/file/download/chat?file_sign={sign}");
    assert!(get(&by_sign, &headers).body == photo());
    // Failures are logged: one almost valid credential of each kind.
    for (path, code) in [
        (
            format!("{by_sign}x&access-token={token}&app_id=welovemaxim"),
            20023,
        ),
        (
            format!("{by_sign}&access-token={token}x&app_id=welovemaxim"),
            10008,
        ),
        (
            format!("{by_sign}&store_token={store_token}x&app_id=welovemaxim"),
            10008,
        ),
        (
            format!("{by_sign}&sdk_sign=hunter2-as-a-sign&access-token={asked}&app_id=asked"),
            20023,
        ),
        (
            format!("/file/upload/chat?file_type=102&to_id=bob&access-token={asked}&app_id=asked"),
            503,
        ),
    ] {
        assert_eq!(get(&path, &[]).json()["code"], code, "{path}");
    }
    assert_eq!(post(form).status, 409);
    let wrong = Form::new()
        .field("OSSAccessKeyId", "welovemaxim")
        .field("policy", &field("policy"))
        .field("signature", &format!("{}x", field("signature")))
        .field("key", &field("key"))
        .file("a.jpg", "image/jpeg", b"x");
    assert_eq!(post(wrong).status, 403);
    for mark in ["%3F", "&", ";"] {
        let meant = format!("/file/download/chat{mark}file_sign={sign}&access-token={token}");
        assert!(get(&meant, &headers).status >= 400);
    }
    server.stop();

    let log = server.log();
    let id = field("key")[field("key").len() - 36..].to_owned();
    assert!(
        log.contains(&id)
            && log.contains("refused")
            && log.contains("127.0.0.1")
            && log.contains("route=lanying_download_chat"),
        "the log contains too little for this test: {log}"
    );
    for secret in [
        &*token,
        &*asked,
        sign,
        &*store_token,
        &*field("policy"),
        &*field("signature"),
        "a-link-key-of-ours",
        "an-upload-key-of-ours",
        "a-hook-secret-of-ours",
        "an-sdk-key-of-ours",
        "hunter2",
    ] {
        assert!(
            secret.len() > 6 && !log.contains(secret),
            "{secret} stands in the log: {log}"
        );
    }
}
