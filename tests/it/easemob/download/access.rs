//! Every way to send a token, combined with every way to send a secret, in both modes.

use chatfiles::auth::Subject;

use super::{
    BAD_TOKEN, DAY_MS, EXPIRED, NO_PERMISSION, NO_TOKEN, Refusal, TENANTS, check, store_restricted,
};
use crate::support::{BASE, Form, TestServer, photo};

/// Every way to send a token, with the expected refusal. Advances the clock by more than a day.
fn authorizations(server: &TestServer) -> Vec<(&'static str, Option<String>, Option<Refusal>)> {
    let expired = server.token("alice");
    server.clock.advance(DAY_MS + 2000);
    let good = server.token("alice");
    let mut flipped = good.clone().into_bytes();
    // Within the signature: some bits of its last character have no meaning.
    let at = flipped.len() - 10;
    flipped[at] = if flipped[at] == b'A' { b'B' } else { b'A' };
    let of =
        |org: &str, app: &str, subject| format!("Bearer {}", server.token_of(org, app, subject));
    let user = || Subject::User("alice".into());
    vec![
        ("none", None, Some(NO_TOKEN)),
        ("empty", Some(String::new()), Some(NO_TOKEN)),
        ("a bare scheme", Some("Bearer ".into()), Some(NO_TOKEN)),
        (
            "another scheme",
            Some("Basic YWxpY2U6YQ==".into()),
            Some(NO_TOKEN),
        ),
        ("expired", Some(format!("Bearer {expired}")), Some(EXPIRED)),
        (
            "undefined",
            Some("Bearer undefined".into()),
            Some(BAD_TOKEN),
        ),
        (
            "the vendor's",
            Some("Bearer YWMtz1hFWOZpEeOPpcmw1FB0".into()),
            Some(BAD_TOKEN),
        ),
        (
            "cut off",
            Some(format!("Bearer {}", &good[..good.len() - 3])),
            Some(BAD_TOKEN),
        ),
        (
            "flipped",
            Some(format!("Bearer {}", String::from_utf8(flipped).unwrap())),
            Some(BAD_TOKEN),
        ),
        (
            "another app's user",
            Some(of("acme", "chat", user())),
            Some(BAD_TOKEN),
        ),
        (
            "another app's own",
            Some(of("acme", "chat", Subject::App)),
            Some(BAD_TOKEN),
        ),
        (
            "the user's",
            Some(of("easemob-demo", "chatdemoui", user())),
            None,
        ),
        (
            "the app's own",
            Some(of("easemob-demo", "chatdemoui", Subject::App)),
            None,
        ),
        ("in another case", Some(format!("bearer   {good}")), None),
    ]
}

/// Every way to send a secret: a header, a query, and whether it opens the file.
fn secrets(secret: &str) -> Vec<(Option<String>, String, bool)> {
    let mut wrong = secret.to_owned();
    let last = if wrong.pop() == Some('A') { 'B' } else { 'A' };
    wrong.push(last);
    let encoded = format!("%{:02x}{}", secret.as_bytes()[0], &secret[1..]);
    let mut all = vec![
        (None, String::new(), false),
        (Some(secret.to_owned()), String::new(), true),
        (None, format!("?share-secret={secret}"), true),
        (None, format!("?share-secret={encoded}"), true),
        (
            None,
            format!("?em-redirect=true&share-secret={secret}&thumbnail=false"),
            true,
        ),
        (None, format!("?secret={secret}"), false),
        // SDKs also fill the place that they do not use.
        (
            Some("undefined".into()),
            format!("?share-secret={secret}"),
            true,
        ),
        (Some(secret.to_owned()), "?share-secret=null".into(), true),
        (Some("undefined".into()), "?share-secret=null".into(), false),
    ];
    for bad in [
        "",
        "undefined",
        "null",
        "true",
        &wrong,
        &secret[1..],
        &format!("{secret}A"),
        &secret.to_ascii_lowercase(),
    ] {
        all.push((Some(bad.to_owned()), String::new(), false));
        all.push((None, format!("?share-secret={bad}"), false));
    }
    all
}

/// Requests an open and a restricted file with every token and every secret. `expected` gets the refusal of the token and
/// whether the secret is missing. Returns the id of the open file.
fn check_all(
    server: &TestServer,
    expected: impl Fn(Option<Refusal>, bool) -> Option<Refusal>,
) -> String {
    let open = server.store_file("a.jpg", "image/jpeg", &photo());
    let (restricted, secret) = store_restricted(server);
    let mut connection = server.connect();
    for (token, authorization, refusal) in authorizations(server) {
        for (id, is_restricted) in [(&open, false), (&restricted, true)] {
            for (header, query, opens) in secrets(&secret) {
                let authorization = authorization.as_deref();
                let mut headers = Vec::new();
                headers.extend(authorization.map(|value| ("Authorization", value)));
                headers.extend(header.as_deref().map(|value| ("share-secret", value)));
                let path = format!("{BASE}/chatfiles/{id}{query}");
                let answer = connection.request("GET", &path, &headers, b"");
                check(
                    &answer,
                    expected(refusal, is_restricted && !opens),
                    &format!("token: {token}, secret: {header:?} {path}"),
                );
            }
        }
    }
    open
}

#[test]
fn opens_by_token_and_secret() {
    // The token is checked first: a secret does not replace it, and an app token does not replace a secret.
    check_all(&TestServer::with(TENANTS), |token, lacks_secret| {
        token.or(lacks_secret.then_some(NO_PERMISSION))
    });
}

#[test]
fn secret_mode_needs_no_token() {
    let server = TestServer::with(&TENANTS.replacen(
        "[[tenant]]",
        "[[tenant]]\ndownload_auth = \"secret\"",
        1,
    ));
    let open = check_all(&server, |_, lacks_secret| {
        lacks_secret.then_some(NO_PERMISSION)
    });
    // The setting applies to one tenant and to downloads only.
    let other = server.get(&format!("/acme/chat/chatfiles/{open}"), &[]);
    check(&other, Some(NO_TOKEN), "another tenant");
    let form = Form::new().file("a.jpg", "image/jpeg", &photo());
    let upload = server.request(
        "POST",
        &format!("{BASE}/chatfiles"),
        &[("Content-Type", &form.content_type())],
        &form.bytes(),
    );
    check(&upload, Some(NO_TOKEN), "an upload");
}

#[test]
fn secret_guards_thumbnail() {
    let server = TestServer::start();
    let (id, secret) = store_restricted(&server);
    for refused in [
        &[("thumbnail", "true")][..],
        &[("thumbnail", "true"), ("share-secret", "undefined")],
    ] {
        check(&server.download(&id, refused), Some(NO_PERMISSION), "cold");
    }
    let headers = [("thumbnail", "true"), ("share-secret", secret.as_str())];
    assert_eq!(server.download(&id, &headers).status, 200);
    check(
        &server.download(&id, &[("thumbnail", "true")]),
        Some(NO_PERMISSION),
        "made already",
    );
    let bare = server.get(&format!("{BASE}/chatfiles/{id}"), &headers);
    check(&bare, Some(NO_TOKEN), "no token");
}
