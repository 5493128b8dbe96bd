//! Tokens of a chat backend, through both APIs: JWTs that it signs, and tokens that its introspection server knows.

mod attacks;
mod introspection;
mod provider;
mod rotation;
mod settings;
mod signer;

use std::path::Path;

use self::signer::Signer;
use crate::support::{
    Answer, BASE, Form, TestServer, assert_error,
    lanying::{APP_ID, assert_code, envelope},
    process::id,
};

/// The issuer and the audience of the tests.
const ISSUER: &str = "https://chat.example";
const AUDIENCE: &str = "chatfiles";

/// The default tenant with these tables below it.
fn tenant(tables: &str) -> String {
    format!(
        "[[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\napp_id = \"{APP_ID}\"\n{tables}\n"
    )
}

/// `[tenant.auth.jwt]` with key files in `directory`, and further settings.
fn jwt(directory: &Path, files: &[&str], algorithms: &[&str], more: &str) -> String {
    let keys: Vec<_> = files.iter().map(|file| directory.join(file)).collect();
    format!(
        "[tenant.auth.jwt]\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\nkeys = {keys:?}\n\
         algorithms = {algorithms:?}\n{more}\n"
    )
}

/// What both APIs say to a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It is alice's.
    In,
    Invalid,
    Expired,
    Unavailable,
}

/// Asks both APIs, and checks that they agree.
#[track_caller]
fn outcome(server: &TestServer, token: &str) -> Outcome {
    let authorization = format!("Bearer {token}");
    let easemob = upload(server, &authorization);
    let lanying = server.get(
        "/file/upload/avatar/user",
        &[("access-token", token), ("app_id", APP_ID)],
    );
    let found = match (easemob.status, envelope_code(&lanying)) {
        (200, 200) => Outcome::In,
        (401, 402) => Outcome::Expired,
        (401, 10008) => Outcome::Invalid,
        (503, 503) => Outcome::Unavailable,
        other => panic!("{other:?}: {} {}", easemob.text(), lanying.text()),
    };
    match found {
        Outcome::In => assert_eq!(owner(server, &easemob), "alice"),
        Outcome::Expired => drop(assert_error(&easemob, 401, "unauthorized")),
        Outcome::Invalid => drop(assert_error(&easemob, 401, "auth_bad_access_token")),
        Outcome::Unavailable => {
            assert_error(&easemob, 503, "service_unavailable");
            for answer in [&easemob, &lanying] {
                assert_eq!(answer.header("retry-after"), Some("1"), "{}", answer.text());
            }
        }
    }
    if easemob.status == 401 {
        let challenge = easemob.header("www-authenticate");
        assert_eq!(challenge, Some("Bearer realm=\"chatfiles\""));
    }
    found
}

fn envelope_code(answer: &Answer) -> u64 {
    let json = envelope(answer, if answer.status == 503 { 503 } else { 200 });
    json["code"].as_u64().unwrap()
}

/// Uploads a file.
fn upload(server: &TestServer, authorization: &str) -> Answer {
    let form = Form::new().file("a", "text/plain", b"x");
    let content_type = form.content_type();
    let headers = [
        ("Authorization", authorization),
        ("Content-Type", &content_type),
    ];
    server.request(
        "POST",
        &format!("{BASE}/chatfiles"),
        &headers,
        &form.bytes(),
    )
}

/// The status of an upload. While something changes, the two APIs may disagree.
fn status(server: &TestServer, token: &str) -> u16 {
    upload(server, &format!("Bearer {token}")).status
}

/// The owner of an uploaded file, as the store has it.
#[track_caller]
fn owner(server: &TestServer, uploaded: &Answer) -> &'static str {
    let id = id(uploaded);
    let mut files = server.files_in("objects").into_iter();
    let file = files
        .find(|path| path.to_string_lossy().contains(&id))
        .expect("the stored file");
    let bytes = std::fs::read(server.store.join("objects").join(file)).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let mut names = ["alice", "bob", "4242424242", "张三"].into_iter();
    names
        .find(|name| text.contains(name))
        .expect("a known owner")
}

/// Every algorithm, as `openssl` makes its keys.
#[test]
fn accepts_each_algorithm() {
    let directory = tempfile::tempdir().unwrap();
    let signers = Signer::all();
    for signer in &signers {
        signer.write(directory.path(), signer.name);
        signer.write_set(directory.path(), &format!("{}.json", signer.name));
    }
    for signer in &signers {
        for file in [signer.name.to_owned(), format!("{}.json", signer.name)] {
            let settings = tenant(&jwt(directory.path(), &[&file], &[signer.name], ""));
            let server = TestServer::with(&settings);
            for kid in [None, Some(signer.name)] {
                let token = signer.token(kid, &signer::claims(&server));
                assert_eq!(outcome(&server, &token), Outcome::In, "{file} {kid:?}");
                // From the cache.
                assert_eq!(outcome(&server, &token), Outcome::In, "{file} {kid:?}");
            }
        }
    }
    // All at once: each kid selects its key.
    let files: Vec<_> = signers
        .iter()
        .map(|signer| format!("{}.json", signer.name))
        .collect();
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    let names: Vec<_> = signers.iter().map(|signer| signer.name).collect();
    let server = TestServer::with(&tenant(&jwt(directory.path(), &files, &names, "")));
    for signer in &signers {
        let token = signer.token(Some(signer.name), &signer::claims(&server));
        assert_eq!(outcome(&server, &token), Outcome::In, "{}", signer.name);
        let others = names.iter().filter(|name| **name != signer.name);
        for other in others {
            let token = signer.token(Some(other), &signer::claims(&server));
            assert_eq!(outcome(&server, &token), Outcome::Invalid, "{other}");
        }
    }
}

/// Our own tokens, dynamic tokens and the token call work as before.
#[test]
fn own_tokens_work_beside() {
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer::hs256();
    signer.write_set(directory.path(), "keys.json");
    let settings = tenant(&format!(
        "client_secret = \"q7Jm2ZxV0pYc9TnR4sKdW6uEaHbL1fGi\"\n{}",
        jwt(directory.path(), &["keys.json"], &["HS256"], "")
    ));
    let server = TestServer::with(&settings);
    assert_eq!(outcome(&server, &server.token("alice")), Outcome::In);
    let granted = |body: &str, headers: &[(&str, &str)]| {
        server.request("POST", &format!("{BASE}/token"), headers, body.as_bytes())
    };
    let app = granted(
        r#"{"grant_type":"client_credentials","client_id":"easemob-demo.chatdemoui",
            "client_secret":"q7Jm2ZxV0pYc9TnR4sKdW6uEaHbL1fGi"}"#,
        &[],
    );
    let app = format!("Bearer {}", app.json()["access_token"].as_str().unwrap());
    let inherit = r#"{"grant_type":"inherit","username":"alice"}"#;
    let user = granted(inherit, &[("Authorization", &app)]);
    let user = user.json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(outcome(&server, &user), Outcome::In);
    // A user's JWT does not stand for the backend.
    let token = signer.token(Some("HS256"), &signer::claims(&server));
    let authorization = format!("Bearer {token}");
    let refused = granted(inherit, &[("Authorization", &authorization)]);
    assert_error(&refused, 401, "auth_bad_access_token");
    // Files of both kinds of tokens belong to the same user.
    let stored = server.store_file("a", "text/plain", b"x");
    let path = format!("{BASE}/chatfiles/{stored}");
    let answer = server.get(&path, &[("Authorization", &authorization)]);
    assert_eq!((answer.status, &*answer.body), (200, &b"x"[..]));
    // With the header of the other API, and as a query parameter, as `<img>` needs it.
    let url = format!("/file/upload/avatar/user?access-token={token}&app_id={APP_ID}");
    assert_eq!(envelope_code(&server.get(&url, &[])), 200);
}

/// The commands and the settings of `docs/configuration.md`, with another directory and another tenant.
#[test]
fn documented_commands_work() {
    let document = include_str!("../../../docs/configuration.md");
    let section = document.split("### JWTs").nth(1).unwrap();
    let section = section.split("### Introspection").next().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let here = |text: &str| text.replace("/etc/chatfiles", directory.path().to_str().unwrap());
    let blocks = |language: &str| {
        let mark = format!("```{language}\n");
        let blocks = section.split(&*mark).skip(1);
        blocks
            .map(|block| here(block.split("```").next().unwrap()))
            .collect::<Vec<_>>()
    };
    let [toml] = &blocks("toml")[..] else {
        panic!("one example of settings")
    };
    let settings = toml.split("[tenant.auth.jwt]").nth(1).unwrap();
    let mut printed = String::new();
    for command in blocks("sh") {
        let mut bash = std::process::Command::new("bash");
        let bash = bash
            .args(["-euo", "pipefail", "-c", &command])
            .current_dir(&directory);
        let output = bash.output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        printed.push_str(&String::from_utf8(output.stdout).unwrap());
    }
    let server = TestServer::with(&tenant(&format!("[tenant.auth.jwt]{settings}")));
    assert_eq!(outcome(&server, printed.trim()), Outcome::In);
    // The public key of the other commands.
    let settings = settings
        .replace("backend.json", "backend.pem")
        .replace("HS256", "EdDSA");
    TestServer::with(&tenant(&format!("[tenant.auth.jwt]{settings}")));
}
