//! Who may use the operator listener: the token, its file, sessions, and requests that other pages cause.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt, path::Path};

use super::OPERATOR;
use crate::support::{
    Answer, Connection, TestServer, configuration,
    process::{Launch, Process, poll, run},
};

/// An operator listener that needs the token.
pub(super) const GUARDED: &str =
    "[operator]\nlisten = \"127.0.0.1:0\"\nauthentication = \"token\"\n";
/// The name that a browser on this machine uses.
const HOST: (&str, &str) = ("Host", "127.0.0.1");
const MARK: (&str, &str) = ("X-Chatfiles-Console", "1");
const JSON: (&str, &str) = ("Content-Type", "application/json");
const OWN_PATHS: [&str; 5] = [
    "/metrics",
    "/log-level",
    "/console/api/info",
    "/console/api/levels",
    "/console/api/thumbnail/image.2026-11-30.01a22a77-f25c-793f-9e3e-aaf850cbdcf2",
];

/// The token of the operator, as the server has written it.
pub(super) fn operator_token(store: &Path) -> String {
    let text = std::fs::read_to_string(store.join("keys/operator-token")).unwrap();
    text.trim().to_owned()
}

/// A server's operator listener, as a client on this machine reaches it.
fn local(server: &TestServer) -> SocketAddr {
    (
        [127, 0, 0, 1],
        server.operator.expect("an operator listener").port(),
    )
        .into()
}

fn ask(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    Connection::open(at).request(method, path, headers, body.as_bytes())
}

fn get(at: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    ask(at, "GET", path, &[&[HOST], headers].concat(), "")
}

/// Sends the token as the page does.
pub(super) fn log_in(at: SocketAddr, token: &str, more: &[(&str, &str)]) -> Answer {
    let body = serde_json::json!({ "token": token }).to_string();
    let headers = [&[MARK, JSON], more].concat();
    let headers = match more.iter().any(|(name, _)| *name == "Host") {
        true => headers,
        false => [&[HOST], &headers[..]].concat(),
    };
    ask(at, "POST", "/console/api/session", &headers, &body)
}

/// The cookie of a login, as a browser sends it back.
fn cookie(answer: &Answer) -> String {
    let set = answer.header("set-cookie").expect("a cookie");
    set.split(';').next().unwrap().to_owned()
}

#[test]
fn metrics_need_token() {
    let server = TestServer::with(GUARDED);
    let at = local(&server);
    let token = operator_token(&server.store);
    assert!(token.len() >= 43, "32 random bytes");
    for path in ["/metrics", "/log-level"] {
        for wrong in [
            None,
            Some("Bearer".to_owned()),
            Some("Bearer x".to_owned()),
            Some(format!("Bearer {token}x")),
            Some(format!("Bearer {}", &token[1..])),
            Some(format!("Basic {token}")),
            Some(token.clone()),
            Some(format!("Bearer {}", server.token("alice"))),
        ] {
            let headers: Vec<_> = wrong
                .iter()
                .map(|text| ("Authorization", &**text))
                .collect();
            let answer = get(at, path, &headers);
            assert_eq!(answer.status, 401, "{path} {wrong:?}");
            let scheme = answer.header("www-authenticate");
            assert_eq!(scheme, Some("Bearer realm=\"chatfiles operator\""));
            assert!(!answer.text().contains("chatfiles_"), "{}", answer.text());
        }
        for scheme in ["Bearer", "bearer", "BEARER "] {
            let right = format!("{scheme} {token}");
            assert_eq!(get(at, path, &[("Authorization", &right)]).status, 200);
        }
    }
    let put = ask(at, "PUT", "/log-level", &[HOST], "debug");
    assert_eq!(put.status, 401);
    for path in ["/livez", "/readyz", "/readyz/reads"] {
        assert_eq!(get(at, path, &[]).status, 200, "probes need no token");
    }
}

#[test]
fn console_needs_token() {
    let server = TestServer::with(GUARDED);
    let at = local(&server);
    for path in OWN_PATHS {
        assert_eq!(get(at, path, &[]).status, 401, "{path}");
    }
    for call in [
        "file",
        "take-down",
        "upload?tenant=easemob-demo/chatdemoui&user=alice",
    ] {
        let path = format!("/console/api/{call}");
        let answer = ask(at, "POST", &path, &[HOST, MARK, JSON], "{}");
        assert_eq!(answer.status, 401, "{path}");
    }
    // A token of the public API is no token of the operator.
    let user = format!("Bearer {}", server.token("alice"));
    let answer = get(at, "/console/api/info", &[("Authorization", &user)]);
    assert_eq!(answer.status, 401);
    assert!(answer.json()["error"].is_string());
    let bearer = format!("Bearer {}", operator_token(&server.store));
    let answer = get(at, "/console/api/info", &[("Authorization", &bearer)]);
    assert_eq!(answer.status, 200);
}

#[test]
fn other_addresses_need_token_by_default() {
    for (toml, status) in [
        ("listen = \"127.0.0.1:0\"", 200),
        ("listen = \"0.0.0.0:0\"", 401),
        ("listen = \"[::]:0\"", 401),
        ("listen = \"127.0.0.1:0\"\nauthentication = \"token\"", 401),
        ("listen = \"0.0.0.0:0\"\nauthentication = \"none\"", 200),
    ] {
        let server = TestServer::with(&format!("[operator]\n{toml}\n"));
        for path in ["/metrics", "/log-level", "/console/api/info"] {
            assert_eq!(
                get(local(&server), path, &[]).status,
                status,
                "{toml} {path}"
            );
        }
        let has_token = server.store.join("keys/operator-token").exists();
        assert_eq!(has_token, status == 401, "{toml}");
    }
}

#[test]
fn explicit_none_is_warned_about() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let config = directory.path().join("chatfiles.toml");
    let write = |authentication: &str| {
        std::fs::write(&config, format!("[operator]\n{authentication}\n")).unwrap();
    };
    let flags = [
        "--config",
        config.to_str().unwrap(),
        "--operator-listen",
        "0.0.0.0:0",
    ];
    write("authentication = \"none\"");
    let mut server = Process::start(&store, &flags);
    poll("the warning", || {
        server
            .log()
            .contains("operator.authentication = \\\"none\\\"")
            || server.log().contains("operator.authentication = \"none\"")
    });
    assert!(server.welcome.contains("without authentication"));
    server.stop();
    write("");
    let server = Process::start(&store, &flags);
    let file = store.join("keys/operator-token");
    assert!(
        server.welcome.contains(file.to_str().unwrap()),
        "{}",
        server.welcome
    );
    assert!(!server.welcome.contains(&operator_token(&store)));
    write("authentication = \"maybe\"");
    let refused = run(&["--config", config.to_str().unwrap(), "check-config"], "");
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("operator.authentication"), "{error}");
}

#[test]
fn token_file_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let file = directory.path().join("secrets/console.token");
    let config = directory.path().join("chatfiles.toml");
    let text = format!("[operator]\nauthentication = \"token\"\ntoken_file = {file:?}\n");
    std::fs::write(&config, text).unwrap();
    let flags = [
        "--config",
        config.to_str().unwrap(),
        "--operator-listen",
        "127.0.0.1:0",
    ];
    let mut server = Process::start(&store, &flags);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    let token = std::fs::read_to_string(&file).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let status =
        |server: &Process| get(server.operator(), "/metrics", &[("Authorization", &bearer)]).status;
    assert_eq!(status(&server), 200);
    server.stop();
    assert!(!server.log().contains(token.trim()));
    // The same token after a restart.
    let mut server = Process::start(&store, &flags);
    assert_eq!(status(&server), 200);
    server.stop();
    for (mode, text, why) in [
        (0o644, &*token, "gives access to others"),
        (0o600, "short", "at least 16 bytes"),
    ] {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let output = Launch::new(&store)
            .flags(&flags)
            .command()
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(
            error.contains(why) && error.contains("console.token"),
            "{error}"
        );
        assert!(!error.contains(token.trim()));
    }
}

#[test]
fn guesses_are_slowed_down() {
    let server = TestServer::with(GUARDED);
    let at = local(&server);
    let token = operator_token(&server.store);
    let bearer = format!("Bearer {token}");
    for guess in 0..5 {
        let wrong = format!("Bearer wrong-{guess}");
        assert_eq!(
            get(at, "/metrics", &[("Authorization", &wrong)]).status,
            401
        );
        assert_eq!(log_in(at, &format!("guess {guess}"), &[]).status, 401);
    }
    // Now the right one is refused, too: otherwise the response would tell that it is right.
    for answer in [
        get(at, "/metrics", &[("Authorization", &bearer)]),
        log_in(at, &token, &[]),
        log_in(at, "wrong", &[]),
    ] {
        assert_eq!(answer.status, 429, "{}", answer.text());
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=5).contains(&wait), "{wait}");
    }
    assert_eq!(get(at, "/livez", &[]).status, 200);
}

#[test]
fn session_has_safe_cookie() {
    let toml = format!("{GUARDED}hosts = [\"ops.example.com\"]\n");
    let server = TestServer::with(&toml);
    let at = local(&server);
    let token = operator_token(&server.store);
    let own = format!("http://127.0.0.1:{}", at.port());
    let host = format!("127.0.0.1:{}", at.port());
    let plain = log_in(at, &token, &[("Host", &host), ("Origin", &own)]);
    assert_eq!(plain.status, 204, "{}", plain.text());
    let over_tls = [
        ("Host", "ops.example.com"),
        ("Origin", "https://ops.example.com"),
    ];
    let secure = log_in(at, &token, &over_tls);
    for (answer, end) in [(&plain, ""), (&secure, "; Secure")] {
        let set = answer.header("set-cookie").unwrap();
        let (pair, rest) = set.split_once(';').unwrap();
        let attributes = format!(" Path=/; Max-Age=43200; HttpOnly; SameSite=Strict{end}");
        assert_eq!(rest, attributes);
        let secret = pair.strip_prefix("chatfiles_console=").unwrap();
        assert!(secret.len() == 43 && secret != token);
    }
    assert_ne!(cookie(&plain), cookie(&secure));
    assert_eq!(
        log_in(at, "wrong wrong wrong", &[]).header("set-cookie"),
        None
    );
}

#[test]
fn session_opens_until_logout() {
    let server = TestServer::with(GUARDED);
    let at = local(&server);
    let token = operator_token(&server.store);
    let session = cookie(&log_in(at, &format!(" {token}\n"), &[]));
    let other = cookie(&log_in(at, &token, &[]));
    let status = |path: &str, cookie: &str| get(at, path, &[("Cookie", cookie)]).status;
    for path in [
        "/metrics",
        "/log-level",
        "/console/api/info",
        "/console/api/levels",
    ] {
        assert_eq!(status(path, &session), 200, "{path}");
        assert_eq!(status(path, &format!("a=b; {session}; c=d")), 200, "{path}");
        for wrong in [
            "chatfiles_console=",
            &format!("{session}x"),
            &format!("x{session}"),
        ] {
            assert_eq!(status(path, wrong), 401, "{path} {wrong}");
        }
    }
    let headers = [HOST, MARK, ("Cookie", &*session)];
    let ended = ask(at, "DELETE", "/console/api/session", &headers, "");
    assert_eq!(ended.status, 204);
    assert!(ended.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(status("/metrics", &session), 401);
    assert_eq!(status("/metrics", &other), 200);
}

#[test]
fn sessions_are_bounded() {
    let server = TestServer::with(GUARDED);
    let at = local(&server);
    let token = operator_token(&server.store);
    let sessions: Vec<_> = (0..33).map(|_| cookie(&log_in(at, &token, &[]))).collect();
    let status = |cookie: &str| get(at, "/metrics", &[("Cookie", cookie)]).status;
    assert_eq!(status(&sessions[0]), 401, "the oldest one made room");
    assert_eq!(status(&sessions[1]), 200);
    assert_eq!(status(&sessions[32]), 200);
}

#[test]
fn new_token_ends_sessions() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::in_directory(directory.path(), GUARDED);
    let config = configuration(directory.path(), GUARDED);
    let at = local(&server);
    let old = operator_token(&server.store);
    let session = cookie(&log_in(at, &old, &[]));
    let status = |name: &str, value: &str| get(at, "/metrics", &[(name, value)]).status;
    server.reloader().reload(&config).unwrap();
    assert_eq!(status("Cookie", &session), 200, "nothing has changed");
    let file = server.store.join("keys/operator-token");
    let new = "a-new-token-that-is-long-enough-0123456789";
    std::fs::write(&file, new).unwrap();
    assert_eq!(status("Cookie", &session), 200, "not before the reload");
    server.reloader().reload(&config).unwrap();
    assert_eq!(status("Cookie", &session), 401);
    assert_eq!(status("Authorization", &format!("Bearer {old}")), 401);
    assert_eq!(status("Authorization", &format!("Bearer {new}")), 200);
    // A file that cannot be used changes nothing.
    std::fs::write(&file, "short").unwrap();
    server.reloader().reload(&config).unwrap_err();
    assert_eq!(status("Authorization", &format!("Bearer {new}")), 200);
}

#[test]
fn other_pages_are_refused() {
    // Without a token, nothing else protects these calls.
    let server = TestServer::with(OPERATOR);
    let at = local(&server);
    let host = format!("127.0.0.1:{}", at.port());
    let own = format!("http://{host}");
    let host = ("Host", &*host);
    let find = r#"{"file":"01a22a77-f25c-793f-9e3e-aaf850cbdcf2"}"#;
    let post = |headers: &[(&str, &str)]| ask(at, "POST", "/console/api/file", headers, find);
    assert_eq!(post(&[host, MARK, JSON, ("Origin", &own)]).status, 404);
    assert_eq!(
        post(&[host, MARK, JSON, ("Sec-Fetch-Site", "same-origin")]).status,
        404
    );
    for (headers, status) in [
        (&[host, JSON][..], 403),
        (&[host, MARK], 415),
        (&[host, MARK, ("Content-Type", "text/plain")], 415),
        (&[host, MARK, JSON, ("Origin", "http://evil.test")], 403),
        (&[host, MARK, JSON, ("Origin", "null")], 403),
        (&[host, MARK, JSON, ("Origin", "http://127.0.0.1:1")], 403),
        (&[host, MARK, JSON, ("Sec-Fetch-Site", "cross-site")], 403),
        (&[host, MARK, JSON, ("Sec-Fetch-Site", "same-site")], 403),
        // DNS rebinding: the page's own name points to this machine.
        (
            &[
                ("Host", "evil.test"),
                MARK,
                JSON,
                ("Origin", "http://evil.test"),
            ],
            403,
        ),
        (&[("Host", "evil.test"), MARK, JSON], 403),
    ] {
        let answer = post(headers);
        assert_eq!(answer.status, status, "{headers:?}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    for path in ["/console/api/levels", "/console/api/info"] {
        let status = |headers: &[(&str, &str)]| ask(at, "GET", path, headers, "").status;
        assert_eq!(status(&[host]), 200, "{path}");
        assert_eq!(status(&[("Host", "evil.test")]), 403, "{path}");
        assert_eq!(
            status(&[host, ("Sec-Fetch-Site", "cross-site")]),
            403,
            "{path}"
        );
    }
    // A browser asks before it sends the header of the page to another origin.
    let preflight = ask(
        at,
        "OPTIONS",
        "/console/api/file",
        &[host, ("Origin", "http://evil.test")],
        "",
    );
    assert!(preflight.status == 403 || preflight.status == 405);
    assert_eq!(preflight.header("access-control-allow-headers"), None);
    let page = ask(
        at,
        "GET",
        "/",
        &[("Host", "evil.test"), ("Accept", "text/html")],
        "",
    );
    assert_eq!(page.status, 403);
}

#[test]
fn other_pages_cannot_change_log_level() {
    let server = TestServer::with(OPERATOR);
    let at = local(&server);
    let own = format!("127.0.0.1:{}", at.port());
    let put = |headers: &[(&str, &str)]| ask(at, "PUT", "/log-level", headers, "nonsense").status;
    let origin = format!("http://{own}");
    assert_eq!(
        put(&[("Host", &own), ("Origin", &origin)]),
        400,
        "it is read"
    );
    // Programs use any name, and send no origin.
    assert_eq!(put(&[("Host", "chatfiles.internal")]), 400);
    assert_eq!(
        put(&[("Host", "evil.test"), ("Origin", "http://evil.test")]),
        403
    );
    assert_eq!(put(&[("Host", &own), ("Origin", "http://evil.test")]), 403);
}
