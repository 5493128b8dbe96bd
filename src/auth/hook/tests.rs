//! Tests of the hook against a backend that sends raw bytes over real sockets.

mod toy;

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures_util::future::join_all;
use hmac::{Hmac, KeyInit, Mac};

use self::toy::{Reply, Toy, json, response, tenant};
use super::*;
use crate::{
    secret::{Secret, SecretKey},
    trace_parent,
};

const ALLOW: &str = r#"{"allow":true}"#;
/// For tests in which it expires. No answer takes as long as `TIMEOUT_LONG`.
const TIMEOUT_SHORT: Duration = Duration::from_millis(200);
const TIMEOUT_LONG: Duration = Duration::from_secs(30);

fn config() -> Config {
    Config {
        timeout: TIMEOUT_LONG,
        ..Config::default()
    }
}

fn hooks(config: Config) -> Hooks {
    Hooks::new(config, Clock::system())
}

/// Alice wants to download what bob sent to the group g1.
fn question() -> Question<'static> {
    Question {
        user: "alice",
        action: Action::Download,
        to_type: 2,
        to_id: "g1",
        from: Some("bob"),
        trace: None,
    }
}

fn upload_by(user: &str) -> Question<'_> {
    Question {
        user,
        action: Action::Upload,
        to_type: 1,
        to_id: "bob",
        from: None,
        trace: None,
    }
}

/// Polls a future once.
fn poll<F: Future>(future: &mut Pin<Box<F>>) -> Option<F::Output> {
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Checks that the result is [`Kind::Unavailable`], with a cause that shows the host and no more of the URL.
#[track_caller]
fn assert_unavailable(result: Result<()>, cause: &str) {
    let error = result.expect_err("nobody is let in");
    assert_eq!(error.kind(), Kind::Unavailable(RETRY_AFTER), "{error}");
    let shown = format!("{error:?} {error} {}", error.causes());
    for part in ["the hook at ", cause] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    for hidden in ["s3cret", "/hook", "hook secret"] {
        assert!(!shown.contains(hidden), "{shown}");
    }
    assert_eq!(error.public_text(), None);
}

/// Asks one question of a backend that answers with `respond`.
async fn ask_once(
    config: Config,
    respond: impl Fn(&toy::Asked) -> Reply + Send + Sync + 'static,
) -> (Result<()>, Toy) {
    let toy = Toy::start(respond);
    let hooks = hooks(config);
    let result = hooks.ask(&toy.tenant(), &question()).await;
    (result, toy)
}

#[tokio::test]
async fn tenant_without_hook_allows_all() {
    let tenant = crate::auth::testing::tenant("org", "app");
    hooks(config()).ask(&tenant, &question()).await.unwrap();
}

#[tokio::test]
async fn question_is_a_json_post() {
    let mut toy = Toy::start(|_| json(ALLOW));
    let mut tenant = toy.tenant();
    let hooks = hooks(config());
    for (action, from, app_id, body) in [
        (
            Action::Download,
            Some("bob"),
            Some("app-id"),
            r#"{"app_id":"app-id","user":"alice","action":"download","to_type":2,"to_id":"g1","from":"bob"}"#,
        ),
        (
            Action::Upload,
            None,
            Some("app-id"),
            r#"{"app_id":"app-id","user":"alice","action":"upload","to_type":2,"to_id":"g1"}"#,
        ),
        (
            Action::Forward,
            Some("\"bob\""),
            None,
            r#"{"app_id":"org/app","user":"alice","action":"forward","to_type":2,"to_id":"g1","from":"\"bob\""}"#,
        ),
        (
            Action::GroupAvatar,
            None,
            None,
            r#"{"app_id":"org/app","user":"alice","action":"group_avatar","to_type":2,"to_id":"g1"}"#,
        ),
    ] {
        tenant.lanying = app_id.map(crate::auth::testing::lanying);
        let question = Question {
            action,
            from,
            ..question()
        };
        hooks.ask(&tenant, &question).await.unwrap();
        let asked = toy.next().await;
        assert_eq!(asked.body, body);
        assert!(
            asked.head.starts_with("POST /hook?key=s3cret HTTP/1.1\r\n"),
            "{}",
            asked.head
        );
        for (name, value) in [
            ("content-type", Some("application/json")),
            ("accept", Some("application/json")),
            (
                "user-agent",
                Some(concat!("chatfiles/", env!("CARGO_PKG_VERSION"))),
            ),
            ("accept-encoding", None),
            ("x-chatfiles-timestamp", None),
            ("x-chatfiles-signature", None),
        ] {
            assert_eq!(asked.header(name), value, "{name}");
        }
    }
}

#[tokio::test]
async fn trace_is_no_part_of_question() {
    let mut toy = Toy::start(|_| json(ALLOW));
    let (tenant, hooks) = (toy.tenant(), hooks(config()));
    let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [(
        trace_parent::HEADER.parse().unwrap(),
        header.parse().unwrap(),
    )];
    let trace = TraceParent::of(&headers.into_iter().collect());
    assert!(trace.is_some());
    let traced = Question {
        trace,
        ..question()
    };
    hooks.ask(&tenant, &traced).await.unwrap();
    let asked = toy.next().await;
    assert_eq!(asked.header("traceparent"), Some(header));
    assert!(!asked.body.contains("trace"), "{}", asked.body);
    // The cached answer serves callers of other traces.
    hooks.ask(&tenant, &question()).await.unwrap();
    assert_eq!(toy.count(), 0);
    hooks.ask(&tenant, &upload_by("alice")).await.unwrap();
    assert_eq!(toy.next().await.header("traceparent"), None);
}

#[tokio::test]
async fn signs_time_and_body() {
    let mut toy = Toy::start(|_| json(ALLOW));
    let mut tenant = toy.tenant();
    tenant.hook.as_mut().unwrap().secret =
        SecretKey::new(Secret::new("hook secret of the tests")).ok();
    let clock = Clock::adjustable();
    let hooks = Hooks::new(config(), clock.clone());
    let before = clock.now().secs();
    hooks.ask(&tenant, &question()).await.unwrap();
    let asked = toy.next().await;
    let timestamp = asked.header("X-Chatfiles-Timestamp").unwrap();
    assert!((before..=clock.now().secs()).contains(&timestamp.parse().unwrap()));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"hook secret of the tests").unwrap();
    mac.update(format!("{timestamp}.{}", asked.body).as_bytes());
    let expected: String = mac
        .finalize()
        .into_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(asked.header("X-Chatfiles-Signature"), Some(&*expected));
}

#[tokio::test]
async fn refusal_has_a_code() {
    let cases = [
        (
            r#"{"allow":false,"code":20001}"#,
            Action::Download,
            2,
            20001,
        ),
        (r#"{"allow":false,"code":99999}"#, Action::Upload, 1, 99_999),
        (r#"{"allow":false}"#, Action::Download, 2, 20002),
        (r#"{"allow":false}"#, Action::Forward, 1, 10010),
        (r#"{"allow":false}"#, Action::GroupAvatar, 2, 20012),
        (r#"{"allow":false,"code":200}"#, Action::Upload, 1, 10010),
        (r#"{"allow":false,"code":0}"#, Action::Upload, 2, 20002),
        (r#"{"allow":false,"code":-1}"#, Action::Upload, 1, 10010),
        (
            r#"{"allow":false,"code":"x"}"#,
            Action::GroupAvatar,
            2,
            20012,
        ),
    ];
    for (body, action, to_type, code) in cases {
        let toy = Toy::start(move |_| json(body));
        let question = Question {
            action,
            to_type,
            ..question()
        };
        let hooks = hooks(config());
        // The second answer comes from the cache.
        for _ in 0..2 {
            let refused = hooks.ask(&toy.tenant(), &question).await.unwrap_err();
            assert_eq!(refused.kind(), Kind::Denied(code), "{body}");
        }
    }
}

#[tokio::test]
async fn unclear_answers_are_unavailable() {
    let ok = move |body: &str| response("200 OK", "", body);
    let big = move |bytes: usize| ok(&format!("{ALLOW}{}", " ".repeat(bytes - ALLOW.len())));
    let with = |status: &str| response(status, "", ALLOW);
    for (bytes, cause) in [
        (with("201 Created"), "status 201"),
        (with("204 No Content"), "status 204"),
        (with("400 Bad Request"), "status 400"),
        (with("401 Unauthorized"), "status 401"),
        (with("404 Not Found"), "status 404"),
        (with("500 Internal Server Error"), "status 500"),
        (with("503 Service Unavailable"), "status 503"),
        (ok(""), "boolean"),
        (ok("yes"), "boolean"),
        (ok("[true]"), "boolean"),
        (ok(r#"{"allow":"true"}"#), "boolean"),
        (big(17 * 1024), "16384 bytes"),
        (big(16 * 1024 + 1), "16384 bytes"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"allow\":true}".to_vec(),
            "disconnected",
        ),
        (
            response("200 OK", &format!("X: {}\r\n", "x".repeat(9000)), ALLOW),
            "header",
        ),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec(), "http"),
        (b"HTTP/1.1 200 OK\r\nContent-".to_vec(), "disconnected"),
        (Vec::new(), "disconnected"),
    ] {
        let respond = move |_: &toy::Asked| Reply::BytesThenClose(bytes.clone());
        let (result, _toy) = ask_once(config(), respond).await;
        assert_unavailable(result, cause);
    }
    let (result, _toy) = ask_once(config(), move |_| Reply::Bytes(big(16 * 1024))).await;
    result.unwrap();
}

#[tokio::test]
async fn follows_no_redirects() {
    for status in ["301 x", "302 x", "303 x", "307 x", "308 x"] {
        let location = "Location: /elsewhere\r\n";
        let respond = move |asked: &toy::Asked| match asked.head.contains("/elsewhere") {
            true => json(ALLOW),
            false => Reply::Bytes(response(status, location, "")),
        };
        let (result, mut toy) = ask_once(config(), respond).await;
        assert_unavailable(result, &format!("status {}", &status[..3]));
        assert_eq!(toy.count(), 1);
    }
}

#[tokio::test]
async fn unreachable_backend_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let toy = Toy::start(|_| json(ALLOW));
    for (url, cause) in [
        (format!("http://{address}/hook?key=s3cret"), "127.0.0.1: io"),
        (
            format!("https://{}/hook?key=s3cret", toy.address),
            "127.0.0.1: ",
        ),
        ("http://user:s3cret@[::1/hook".into(), "unreadable address"),
        ("127.0.0.1/hook?key=s3cret".into(), "address"),
        ("/hook?key=s3cret".into(), "unreadable address"),
        ("ftp://127.0.0.1/hook?key=s3cret".into(), "127.0.0.1: "),
        (String::new(), "unreadable address"),
    ] {
        let result = hooks(config()).ask(&tenant(&url), &question()).await;
        assert_unavailable(result, cause);
    }
}

#[tokio::test]
async fn timeout_covers_whole_answer() {
    let slow = || Config {
        timeout: TIMEOUT_SHORT,
        ..Config::default()
    };
    let whole = response("200 OK", "", ALLOW);
    let (head, body) = whole.split_at(whole.len() - ALLOW.len());
    // The single bytes come in time, the whole answer does not.
    for (at_once, slowly) in [(&b""[..], &b""[..]), (b"", &whole), (head, body)] {
        let (at_once, slowly) = (at_once.to_vec(), slowly.to_vec());
        let respond = move |_: &toy::Asked| match slowly.is_empty() {
            true => Reply::Never,
            false => Reply::Drip(at_once.clone(), slowly.clone()),
        };
        let (result, toy) = ask_once(slow(), respond).await;
        assert_unavailable(result, "127.0.0.1: ");
        // The question itself ends too, not only its caller.
        let clock = Clock::system();
        let deadline = clock.monotonic() + TIMEOUT_SHORT;
        let hook = toy.tenant().hook.unwrap();
        let backend = Backend::new(TIMEOUT_LONG, clock);
        let exchanged = backend.exchange(&hook, "{}", None, deadline).await;
        assert_eq!(exchanged.unwrap_err(), "no answer in time");
    }
}

#[tokio::test]
async fn reuses_connections() {
    let mut toy = Toy::start(|_| json(ALLOW));
    let (tenant, hooks) = (toy.tenant(), hooks(config()));
    for (nth, user) in ["a", "b", "c"].into_iter().enumerate() {
        hooks.ask(&tenant, &upload_by(user)).await.unwrap();
        let asked = toy.next().await;
        assert_eq!((asked.connection, asked.nth), (0, nth));
    }
}

#[tokio::test]
async fn retries_on_closed_kept_connection() {
    // The backend reads the second question of a connection and closes it.
    let mut toy = Toy::start(|asked| match asked.nth {
        0 => json(ALLOW),
        _ => Reply::BytesThenClose(Vec::new()),
    });
    let (tenant, hooks) = (toy.tenant(), hooks(config()));
    for user in ["a", "b", "c"] {
        hooks.ask(&tenant, &upload_by(user)).await.unwrap();
    }
    let mut came = Vec::new();
    for _ in 0..4 {
        let asked = toy.next().await;
        came.push((asked.connection, asked.nth));
    }
    // The connection of the second try is not kept.
    assert_eq!(came, [(0, 0), (0, 1), (1, 0), (2, 0)]);
    // The backend answers and closes, with and without a header that says so.
    for headers in ["", "Connection: close\r\n"] {
        let toy = Toy::start(|_| Reply::BytesThenClose(response("200 OK", headers, ALLOW)));
        for user in ["a", "b", "c"] {
            let question = upload_by(user);
            let result = self::hooks(config()).ask(&toy.tenant(), &question).await;
            result.unwrap();
        }
    }
}

#[tokio::test]
async fn tries_twice_at_most() {
    let (result, mut toy) = ask_once(config(), |_| Reply::BytesThenClose(Vec::new())).await;
    assert_unavailable(result, "127.0.0.1: io");
    assert_eq!(toy.count(), 2);
}

#[tokio::test]
async fn concurrent_callers_share_a_question() {
    let (mut toy, gate) = Toy::gated(|_| json(ALLOW));
    let (tenant, hooks, question) = (toy.tenant(), hooks(config()), question());
    let mut asks: Vec<_> = (0..100)
        .map(|_| Box::pin(hooks.ask(&tenant, &question)))
        .collect();
    for ask in &mut asks {
        assert!(poll(ask).is_none());
    }
    gate.open();
    for result in join_all(asks).await {
        result.unwrap();
    }
    toy.next().await;
    assert_eq!(toy.count(), 0);
}

#[tokio::test]
async fn failures_are_not_cached() {
    let (mut toy, gate) = Toy::gated(|asked| match (asked.connection, asked.nth) {
        (0, 0) => Reply::BytesThenClose(response("500 x", "", ALLOW)),
        _ => json(ALLOW),
    });
    let (tenant, hooks, question) = (toy.tenant(), hooks(config()), question());
    let mut asks: Vec<_> = (0..3)
        .map(|_| Box::pin(hooks.ask(&tenant, &question)))
        .collect();
    for ask in &mut asks {
        assert!(poll(ask).is_none());
    }
    gate.open();
    gate.open();
    let mut results = join_all(asks).await.into_iter();
    assert_unavailable(results.next().unwrap(), "status 500");
    assert!(results.all(|result| result.is_ok()));
    assert_eq!(toy.count(), 2);
}

#[tokio::test]
async fn dead_backend_costs_one_timeout() {
    let toy = Toy::start(|_| Reply::Never);
    let config = Config {
        timeout: TIMEOUT_SHORT,
        ..config()
    };
    let (tenant, hooks, question) = (toy.tenant(), hooks(config), question());
    let started = hooks.clock.monotonic();
    let asks = (0..50).map(|_| hooks.ask(&tenant, &question));
    for result in join_all(asks).await {
        assert_unavailable(result, "127.0.0.1: ");
    }
    let passed = hooks.clock.monotonic() - started;
    assert!(passed < TIMEOUT_SHORT * 25, "{passed:?}");
}

#[tokio::test]
async fn cached_answer_expires() {
    let mut toy = Toy::start(|asked| match asked.nth {
        0 => json(ALLOW),
        _ => json(r#"{"allow":false}"#),
    });
    let config = config();
    let cache = config.cache;
    let (tenant, hooks, question) = (toy.tenant(), hooks(config), question());
    let before = hooks.clock.monotonic();
    hooks.ask(&tenant, &question).await.unwrap();
    let after = hooks.clock.monotonic();
    hooks
        .ask_at(&tenant, &question, before + cache)
        .await
        .unwrap();
    assert_eq!(toy.count(), 1);
    let refused = hooks.ask_at(&tenant, &question, after + cache).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Denied(20002));
    assert_eq!(toy.count(), 1);
}

#[tokio::test]
async fn cache_key_is_whole_question() {
    let mut toy = Toy::start(|_| json(ALLOW));
    let hooks = hooks(config());
    let mut tenants = [toy.tenant(), toy.tenant()];
    tenants[1].index = 1;
    let base = question();
    let questions = [
        base,
        Question {
            user: "carol",
            ..base
        },
        Question {
            action: Action::Forward,
            ..base
        },
        Question { to_type: 1, ..base },
        Question {
            to_id: "g2",
            ..base
        },
        Question {
            from: Some("carol"),
            ..base
        },
        Question { from: None, ..base },
        Question {
            from: Some(""),
            ..base
        },
    ];
    for _ in 0..2 {
        for tenant in &tenants {
            for question in &questions {
                hooks.ask(tenant, question).await.unwrap();
            }
        }
    }
    assert_eq!(toy.count(), 2 * questions.len());
}

#[tokio::test]
async fn zero_cache_asks_each_time() {
    let mut toy = Toy::start(|_| json(ALLOW));
    for (cache, cache_entries_max) in [(Duration::ZERO, 100), (TIMEOUT_LONG, 0)] {
        let (tenant, hooks) = (
            toy.tenant(),
            hooks(Config {
                cache,
                cache_entries_max,
                ..config()
            }),
        );
        for _ in 0..3 {
            hooks.ask(&tenant, &question()).await.unwrap();
        }
        assert_eq!(toy.count(), 3);
    }
}

#[tokio::test]
async fn cache_is_bounded() {
    let toy = Toy::start(|_| json(ALLOW));
    let config = Config {
        cache_entries_max: 8,
        ..config()
    };
    let (tenant, hooks) = (toy.tenant(), hooks(config));
    for user in 0..40 {
        let user = user.to_string();
        hooks.ask(&tenant, &upload_by(&user)).await.unwrap();
        assert!(hooks.answers.len() <= 8);
    }
    let long = "x".repeat(64);
    let weight = |user: &str| {
        let question = Question {
            user,
            to_id: &long,
            from: Some(&long),
            ..question()
        };
        let entry = Entry {
            verdict: Verdict::Allowed,
            until: hooks.clock.monotonic(),
        };
        Weight.weight(&Key::new(&tenant, &question), &entry)
    };
    assert_eq!(weight(""), 1);
    assert_eq!(weight(&long), 1);
    assert_eq!(weight(&"x".repeat(64 * 1024)), 129);
}

#[tokio::test]
async fn full_queue_refuses_at_once() {
    let (mut toy, gate) = Toy::gated(|_| json(ALLOW));
    let config = Config {
        in_flight_max: 1,
        waiting_max: 2,
        ..config()
    };
    let (tenant, hooks) = (toy.tenant(), hooks(config));
    let questions = ["a", "b", "c", "d"].map(upload_by);
    let mut asks: Vec<_> = questions[..3]
        .iter()
        .map(|question| Box::pin(hooks.ask(&tenant, question)))
        .collect();
    for ask in &mut asks {
        assert!(poll(ask).is_none());
    }
    toy.next().await;
    let mut refused = Box::pin(hooks.ask(&tenant, &questions[3]));
    assert_unavailable(poll(&mut refused).expect("at once"), "too many");
    // A caller that gives up leaves the queue.
    asks.pop();
    let mut waits = Box::pin(hooks.ask(&tenant, &questions[3]));
    assert!(poll(&mut waits).is_none());
    asks.push(waits);
    for _ in 0..3 {
        gate.open();
    }
    for result in join_all(asks).await {
        result.unwrap();
    }
    assert_eq!(hooks.exchanges.levels().waiting, 0);
    assert_eq!(toy.count(), 2);
}

#[tokio::test]
async fn abandoned_questions_count() {
    let (mut toy, gate) = Toy::gated(|_| json(ALLOW));
    let config = Config {
        in_flight_max: 1,
        ..config()
    };
    let (tenant, hooks) = (toy.tenant(), hooks(config));
    for user in ["a", "b", "c"] {
        let question = upload_by(user);
        let mut ask = Box::pin(hooks.ask(&tenant, &question));
        assert!(poll(&mut ask).is_none());
    }
    assert_eq!(toy.next().await.body.matches("\"a\"").count(), 1);
    assert_eq!(hooks.exchanges.levels().running, 1);
    assert_eq!(hooks.exchanges.levels().waiting, 0);
    // The next question starts when the abandoned one ends.
    let last = upload_by("d");
    let mut ask = Box::pin(hooks.ask(&tenant, &last));
    assert!(poll(&mut ask).is_none());
    gate.open();
    gate.open();
    ask.await.unwrap();
    assert_eq!(toy.next().await.body.matches("\"d\"").count(), 1);
    assert_eq!(toy.count(), 0);
}

#[tokio::test]
async fn timeout_includes_waiting() {
    let toy = Toy::start(|_| Reply::Never);
    let config = Config {
        timeout: TIMEOUT_SHORT,
        in_flight_max: 1,
        ..config()
    };
    let (tenant, hooks) = (toy.tenant(), hooks(config));
    let users: Vec<_> = (0..20).map(|user| user.to_string()).collect();
    let started = hooks.clock.monotonic();
    let asks = users.iter().map(|user| {
        let (hooks, tenant) = (&hooks, &tenant);
        async move { hooks.ask(tenant, &upload_by(user)).await }
    });
    for result in join_all(asks).await {
        assert_unavailable(result, "127.0.0.1: ");
    }
    let passed = hooks.clock.monotonic() - started;
    assert!(passed < TIMEOUT_SHORT * 10, "{passed:?}");
    assert_eq!(hooks.exchanges.levels().waiting, 0);
}

#[tokio::test]
async fn hanging_tenants_leave_room() {
    let hangs = Toy::start(|_| Reply::Never);
    let mut toy = Toy::start(|_| json(ALLOW));
    let config = Config {
        timeout: TIMEOUT_SHORT * 5,
        in_flight_max: 2,
        waiting_max: 8,
        ..config()
    };
    let hooks = hooks(config);
    let (mut first, mut second, mut third) = (hangs.tenant(), hangs.tenant(), toy.tenant());
    (first.index, second.index, third.index) = (0, 1, 2);
    let users: Vec<_> = (0..5).map(|user| user.to_string()).collect();
    let mut asks = Vec::new();
    for tenant in [&first, &second] {
        for user in &users {
            let hooks = &hooks;
            asks.push(Box::pin(async move {
                hooks.ask(tenant, &upload_by(user)).await
            }));
        }
    }
    for ask in &mut asks {
        assert!(poll(ask).is_none(), "the question runs or waits");
    }
    // Two tenants use all of in_flight_max and waiting_max.
    let mut ask = Box::pin(async {
        tokio::time::sleep(TIMEOUT_SHORT).await;
        hooks.ask(&third, &question()).await
    });
    assert!(poll(&mut ask).is_none());
    let (refused, allowed) = tokio::join!(join_all(asks), ask);
    allowed.expect("a tenant that has no question waiting gets a place in the queue");
    assert!(refused.iter().all(|result| result.is_err()));
    assert_eq!(toy.count(), 1);
}
