//! `POST /{org}/{app}/token`: the three grants, their requests and their refusals.

use chatfiles::{
    auth::{Subject, password},
    time::{Clock, MS_PER_SECOND},
};
use serde_json::{Value, json};

use crate::support::{Answer, BASE, Form, TestServer, assert_error, process::id};

const OTHER: &str = "/other-org/other-app";
const DAYS_60_SECS: u64 = 60 * 86_400;
const TEN_YEARS_SECS: u64 = 3650 * 86_400;

/// Two tenants; the first one has an account `u1` with the password `correct horse`.
fn server() -> TestServer {
    let hash = password::hash("correct horse").unwrap();
    TestServer::with(&format!(
        r#"
        [[tenant]]
        org = "easemob-demo"
        app = "chatdemoui"
        client_id = "demo-id"
        client_secret = "secret-of-the-demo-client"
        [[tenant.account]]
        name = "u1"
        password_hash = "{hash}"
        [[tenant]]
        org = "other-org"
        app = "other-app"
        client_id = "other-id"
        client_secret = "secret-of-the-other-client"
        "#
    ))
}

fn ask(server: &TestServer, app: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    server.request("POST", &format!("{app}/token"), headers, body.as_bytes())
}

fn ask_json(server: &TestServer, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut all = vec![("Content-Type", "application/json")];
    all.extend_from_slice(headers);
    ask(server, BASE, &all, &body.to_string())
}

#[track_caller]
fn granted(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let json = answer.json();
    assert!(
        json["access_token"]
            .as_str()
            .is_some_and(|token| !token.is_empty())
    );
    assert!(json["expires_in"].is_u64(), "{json}");
    json
}

fn client_credentials() -> Value {
    json!({ "grant_type": "client_credentials", "client_id": "demo-id", "client_secret": "secret-of-the-demo-client" })
}

fn bearer(server: &TestServer, org: &str, app: &str, subject: Subject) -> String {
    format!("Bearer {}", server.token_of(org, app, subject))
}

/// Checks that the token can upload and download a file.
#[track_caller]
fn assert_opens(server: &TestServer, token: &str) {
    let authorization = format!("Bearer {token}");
    let form = Form::new().file("a.txt", "text/plain", b"hello");
    let answer = form.upload(server.address, &format!("{BASE}/chatfiles"), &authorization);
    let path = format!("{BASE}/chatfiles/{}", id(&answer));
    let download = server.get(&path, &[("Authorization", &authorization)]);
    assert_eq!((download.status, &download.body[..]), (200, &b"hello"[..]));
}

/// Checks for the 401 of another app.
#[track_caller]
fn assert_opens_nothing_of(server: &TestServer, app: &str, token: &str) {
    let authorization = format!("Bearer {token}");
    let path = format!("{app}/chatfiles/019aa000-0000-7000-8000-000000000000");
    let answer = server.get(&path, &[("Authorization", &authorization)]);
    let error = assert_error(&answer, 401, "auth_bad_access_token");
    assert_eq!(
        error["error_description"],
        "Unable to authenticate due to corrupt access token"
    );
}

#[test]
fn client_credentials_open_own_app() {
    let server = server();
    let answer = granted(&ask_json(&server, &[], &client_credentials()));
    assert_eq!(answer["expires_in"], DAYS_60_SECS);
    let application = answer["application"].as_str().unwrap();
    assert!(uuid::Uuid::try_parse(application).is_ok(), "{application}");
    assert!(answer.get("user").is_none());
    let token = answer["access_token"].as_str().unwrap();
    assert_opens(&server, token);
    assert_opens_nothing_of(&server, OTHER, token);
}

#[test]
fn application_matches_uploads() {
    let server = server();
    let answer = granted(&ask_json(&server, &[], &client_credentials()));
    let upload = server.upload(&Form::new().file("a", "text/plain", b"x"), &[]);
    assert_eq!(answer["application"], upload.json()["application"]);
}

#[test]
fn backend_inherits_user_token() {
    let server = server();
    let app = granted(&ask_json(&server, &[], &client_credentials()));
    let authorization = format!("Bearer {}", app["access_token"].as_str().unwrap());
    let name_of_128 = "n".repeat(128);
    for name in ["alice", "never.seen-before_1", "张三", name_of_128.as_str()] {
        let request = json!({ "grant_type": "inherit", "username": name, "autoCreateUser": true });
        let answer = granted(&ask_json(
            &server,
            &[("Authorization", &authorization)],
            &request,
        ));
        assert_eq!(answer["expires_in"], DAYS_60_SECS);
        assert_eq!(answer["user"]["username"], name);
        let token = answer["access_token"].as_str().unwrap();
        assert_opens(&server, token);
        assert_opens_nothing_of(&server, OTHER, token);
    }
    for name in ["", "a/b", "a b", "a\nb", &"n".repeat(129)] {
        let request = json!({ "grant_type": "inherit", "username": name });
        let answer = ask_json(&server, &[("Authorization", &authorization)], &request);
        assert_error(&answer, 400, "illegal_argument");
    }
}

#[test]
fn only_own_backend_inherits() {
    let server = server();
    let demo = |subject| bearer(&server, "easemob-demo", "chatdemoui", subject);
    let other = bearer(&server, "other-org", "other-app", Subject::App);
    let bad = "auth_bad_access_token";
    let corrupt = "Unable to authenticate due to corrupt access token";
    let inherit = json!({ "grant_type": "inherit", "username": "alice" });
    for (authorization, error, description) in [
        (None, "unauthorized", "Unable to authenticate (OAuth)"),
        (
            Some(String::new()),
            "unauthorized",
            "Unable to authenticate (OAuth)",
        ),
        (Some(demo(Subject::User("eve".into()))), bad, corrupt),
        (Some(demo(Subject::User("alice".into()))), bad, corrupt),
        (Some(other), bad, corrupt),
        (Some("Bearer nonsense".into()), bad, corrupt),
    ] {
        let headers: Vec<_> = authorization
            .iter()
            .map(|value| ("Authorization", value.as_str()))
            .collect();
        let answer = ask_json(&server, &headers, &inherit);
        let error = assert_error(&answer, 401, error);
        assert_eq!(error["error_description"], description, "{authorization:?}");
    }
}

#[test]
fn password_gives_user_token() {
    let server = server();
    let request =
        json!({ "grant_type": "password", "username": "u1", "password": "correct horse" });
    let before = server.clock.now().ms();
    let answer = granted(&ask_json(&server, &[], &request));
    assert_eq!(answer["expires_in"], DAYS_60_SECS);
    let user = &answer["user"];
    assert!(uuid::Uuid::try_parse(user["uuid"].as_str().unwrap()).is_ok());
    assert_eq!(
        (&user["type"], &user["username"]),
        (&json!("user"), &json!("u1"))
    );
    assert_eq!(user["activated"], true);
    for field in ["created", "modified"] {
        let ms = user[field].as_i64().unwrap();
        assert!(
            (before..=server.clock.now().ms()).contains(&ms),
            "{field}: {ms}"
        );
    }
    // The same user keeps its id.
    let again = granted(&ask_json(&server, &[], &request));
    assert_eq!(again["user"]["uuid"], user["uuid"]);
    let token = answer["access_token"].as_str().unwrap();
    assert_opens(&server, token);
    assert_opens_nothing_of(&server, OTHER, token);
}

#[test]
fn bad_grant_is_refused_as_documented() {
    let server = server();
    let client = |id: &str, secret: &str| json!({ "grant_type": "client_credentials", "client_id": id, "client_secret": secret });
    let login = |name: &str, password: &str| json!({ "grant_type": "password", "username": name, "password": password });
    let mismatch = "client_id does not match";
    for (app, request, status, description) in [
        (
            BASE,
            client("demo-id", "secret-of-the-demo-cliens"),
            400,
            mismatch,
        ),
        (
            BASE,
            client("demo-ie", "secret-of-the-demo-client"),
            400,
            mismatch,
        ),
        (BASE, client("demo-id", ""), 400, mismatch),
        (BASE, client("", ""), 400, mismatch),
        (
            BASE,
            client("secret-of-the-demo-client", "demo-id"),
            400,
            mismatch,
        ),
        (
            BASE,
            client("other-id", "secret-of-the-other-client"),
            400,
            mismatch,
        ),
        (BASE, login("u1", "correct hors"), 400, "invalid password"),
        (BASE, login("u1", ""), 400, "invalid password"),
        (
            BASE,
            login("u1", &"x".repeat(2000)),
            400,
            "invalid password",
        ),
        (BASE, login("u2", "correct horse"), 404, "user not found"),
        (BASE, login("U1", "correct horse"), 404, "user not found"),
        // Accounts belong to one app.
        (OTHER, login("u1", "correct horse"), 404, "user not found"),
    ] {
        let answer = ask(&server, app, &[], &request.to_string());
        let error = assert_error(&answer, status, "invalid_grant");
        assert_eq!(error["error_description"], description, "{request}");
    }
}

#[test]
fn body_is_json_despite_content_type() {
    let server = server();
    let body = client_credentials().to_string();
    for content_type in [
        None,
        Some("application/json"),
        Some("application/json; charset=utf-8"),
        Some("text/plain;charset=UTF-8"),
        Some("application/x-www-form-urlencoded"),
        Some("multipart/form-data; boundary=x"),
        Some(";;nonsense"),
    ] {
        let headers: Vec<_> = content_type
            .iter()
            .map(|value| ("Content-Type", *value))
            .collect();
        granted(&ask(&server, BASE, &headers, &body));
    }
    // Chunked, without a length.
    let mut connection = server.connect();
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let headers = [("Transfer-Encoding", "chunked")];
    let path = format!("{BASE}/token");
    granted(&connection.request("POST", &path, &headers, chunked.as_bytes()));
}

/// Zero means unlimited.
#[test]
fn accepts_lifetime_number_or_string() {
    let server = server();
    for (ttl, expires_in) in [
        (None, DAYS_60_SECS),
        (Some(json!(null)), DAYS_60_SECS),
        (Some(json!("")), DAYS_60_SECS),
        (Some(json!(1)), 1),
        (Some(json!(3600)), 3600),
        (Some(json!("3600")), 3600),
        (Some(json!(0)), 0),
        (Some(json!("0")), 0),
        (Some(json!(u64::MAX)), TEN_YEARS_SECS),
        (Some(json!("18446744073709551615")), TEN_YEARS_SECS),
    ] {
        let mut request = client_credentials();
        if let Some(ttl) = &ttl {
            request["ttl"] = ttl.clone();
        }
        let answer = granted(&ask_json(&server, &[], &request));
        assert_eq!(answer["expires_in"], expires_in, "{ttl:?}");
    }
}

#[test]
fn rejects_bad_lifetime() {
    let server = server();
    for ttl in [
        json!(-1),
        json!(1.5),
        json!("-1"),
        json!("1.5"),
        json!("soon"),
        json!("18446744073709551616"),
        json!(true),
        json!([60]),
        json!({}),
    ] {
        let mut request = client_credentials();
        request["ttl"] = ttl.clone();
        assert_error(&ask_json(&server, &[], &request), 400, "illegal_argument");
    }
}

#[test]
fn ignores_unknown_fields() {
    let server = server();
    let mut request = client_credentials();
    request["timestamp"] = json!(1_795_305_599_999_u64);
    request["nested"] = json!({ "a": [1, 2, { "b": null }] });
    granted(&ask_json(&server, &[], &request));
}

#[test]
fn bad_request_repeats_no_input() {
    let server = server();
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    for body in [
        "",
        "{",
        "null",
        "\"hunter2\"",
        "grant_type=client_credentials&client_id=hunter2",
        "{}",
        r#"{"grant_type":"hunter2"}"#,
        r#"{"grant_type":null}"#,
        r#"{"grant_type":"client_credentials","client_id":"demo-id"}"#,
        r#"{"grant_type":"client_credentials","client_id":"demo-id","client_secret":2}"#,
        r#"{"grant_type":"client_credentials","client_id":["hunter2"],"client_secret":"x"}"#,
        r#"{"grant_type":"password","username":"u1"}"#,
        r#"{"grant_type":"password","username":"u1","password":{"hunter2":1}}"#,
        r#"{"grant_type":"password","username":"a/b","password":"hunter2"}"#,
        r#"{"grant_type":"client_credentials","client_id":"demo-id","client_secret":"secret-of-the-demo-client"} hunter2"#,
        "\u{0}\u{1}",
        &deep,
    ] {
        let answer = ask(&server, BASE, &[], body);
        assert_error(&answer, 400, "illegal_argument");
        assert!(!answer.text().contains("hunter2"), "{}", answer.text());
    }
}

/// The client must see the response.
#[test]
fn rejects_body_over_16_kib() {
    let server = server();
    for padding_bytes in [17 << 10, 1 << 20] {
        let mut request = client_credentials();
        request["padding"] = json!("x".repeat(padding_bytes));
        let answer = ask(&server, BASE, &[], &request.to_string());
        assert_error(&answer, 413, "file exceeding maximum limit");
    }
    let mut request = client_credentials();
    request["padding"] = json!("x".repeat(15 << 10));
    granted(&ask(&server, BASE, &[], &request.to_string()));
}

#[test]
fn only_post_for_known_apps() {
    let server = server();
    for method in ["GET", "PUT", "DELETE"] {
        let answer = server.request(method, &format!("{BASE}/token"), &[], b"");
        assert_error(&answer, 405, "unsupported_service_operation");
        assert_eq!(answer.header("allow"), Some("POST, OPTIONS"), "{method}");
    }
    for app in ["/easemob-demo/nobody", "/nobody/chatdemoui"] {
        let answer = ask(&server, app, &[], &client_credentials().to_string());
        let error = assert_error(&answer, 404, "organization_application_not_found");
        let name = app.trim_start_matches('/');
        assert_eq!(
            error["error_description"],
            format!("Could not find application for {name} from URI: {app}/token")
        );
    }
}

/// A lifetime of zero has no end.
#[test]
fn token_ends_at_announced_time() {
    let server = server();
    let token = |ttl: u64| {
        let mut request = client_credentials();
        request["ttl"] = json!(ttl);
        let answer = granted(&ask_json(&server, &[], &request));
        answer["access_token"].as_str().unwrap().to_owned()
    };
    let (hour, endless) = (token(3600), token(0));
    let id = server.store_file("a.txt", "text/plain", b"x");
    let status = |token: &str| {
        let authorization = format!("Bearer {token}");
        let path = format!("{BASE}/chatfiles/{id}");
        server.get(&path, &[("Authorization", &authorization)])
    };
    // Half a minute of tolerance for a slow machine.
    server.clock.advance(3570 * MS_PER_SECOND);
    assert_eq!(status(&hour).status, 200);
    server.clock.advance(31 * MS_PER_SECOND);
    let error = assert_error(&status(&hour), 401, "unauthorized");
    assert_eq!(
        error["error_description"],
        "Unable to authenticate due to expired access token"
    );
    server.clock.advance(50 * 365 * 86_400 * MS_PER_SECOND);
    assert_eq!(status(&endless).status, 200);
    assert!(server.clock.now() > Clock::system().now());
}
