//! Identities, expiry, revocation, and the cache.

use std::time::Duration;

use hyper::header::HeaderValue;

use super::*;
use crate::{auth::testing, tenant::Tenant};

const NOW: Timestamp = Timestamp::from_secs(1_795_305_599);
const TTL: Option<Duration> = Some(Duration::from_secs(60));

fn secs(count: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(count))
}

fn alice() -> Subject {
    Subject::User("alice".into())
}

fn caller(verdict: Verdict<'_>) -> Identity {
    match verdict {
        Verdict::Caller(identity) => identity,
        Verdict::Ask(_) => panic!("there is nobody to ask"),
    }
}

struct Setup {
    _dir: tempfile::TempDir,
    ring: Arc<KeyRing>,
    verifier: Verifier,
    tenant: Tenant,
}

fn setup() -> Setup {
    let (_dir, ring) = testing::ring(NOW);
    let verifier = Verifier::new(Arc::clone(&ring), Arc::default());
    Setup {
        _dir,
        ring,
        verifier,
        tenant: testing::tenant("org", "app"),
    }
}

impl Setup {
    fn issue(&self, subject: &Subject) -> String {
        token::issue(&self.ring, self.tenant.name(), subject, TTL, NOW).unwrap()
    }

    fn kind(&self, tenant: &Tenant, token: &str, now: Timestamp) -> Option<Kind> {
        self.verifier
            .verify(tenant, token, now)
            .err()
            .map(|error| error.kind())
    }
}

#[test]
fn identifies_caller_from_cache_too() {
    let setup = setup();
    for subject in [alice(), Subject::App] {
        let token = setup.issue(&subject);
        for _ in 0..2 {
            let verdict = setup.verifier.verify(&setup.tenant, &token, NOW).unwrap();
            assert_eq!(
                caller(verdict),
                Identity {
                    tenant: 0,
                    subject: subject.clone()
                }
            );
        }
    }
    assert_eq!(setup.verifier.cache.len(), 2);
}

#[test]
fn expiry_is_exact() {
    let setup = setup();
    let token = setup.issue(&alice());
    assert_eq!(
        setup.kind(&setup.tenant, &token, secs(60)),
        Some(Kind::TokenExpired)
    );
    assert_eq!(
        setup.kind(
            &setup.tenant,
            &token,
            NOW.plus(Duration::from_millis(59_999))
        ),
        None
    );
    assert_eq!(
        setup.kind(&setup.tenant, &token, secs(60)),
        Some(Kind::TokenExpired)
    );
}

#[test]
fn rejects_other_tenants_tokens() {
    let setup = setup();
    let token = setup.issue(&alice());
    let others = [
        ("org", "other"),
        ("other", "app"),
        ("org/app", ""),
        ("or", "g/app"),
        ("org", "ap"),
    ];
    for _ in 0..2 {
        for (org, app) in others {
            let other = testing::tenant(org, app);
            assert_eq!(
                setup.kind(&other, &token, NOW),
                Some(Kind::TokenInvalid),
                "{org} {app}"
            );
            assert_eq!(setup.kind(&other, &token, NOW), Some(Kind::TokenInvalid));
        }
        setup.verifier.verify(&setup.tenant, &token, NOW).unwrap();
    }
}

#[test]
fn revocation_applies_to_cached_tokens() {
    let mut setup = setup();
    let (user, app) = (setup.issue(&alice()), setup.issue(&Subject::App));
    let other = setup.issue(&Subject::User("bob".into()));
    let kinds = |setup: &Setup| {
        [&user, &app, &other].map(|token| setup.kind(&setup.tenant, token, secs(2)))
    };
    assert_eq!(kinds(&setup), [None, None, None]);
    setup
        .tenant
        .users_not_before
        .insert("alice".into(), secs(1));
    assert_eq!(kinds(&setup), [Some(Kind::TokenExpired), None, None]);
    setup.tenant.tokens_not_before = Some(NOW);
    assert_eq!(kinds(&setup), [Some(Kind::TokenExpired), None, None]);
    setup.tenant.tokens_not_before = Some(secs(1));
    assert_eq!(kinds(&setup), [Some(Kind::TokenExpired); 3]);
}

#[test]
fn verifies_and_revokes_dynamic_tokens() {
    let mut setup = setup();
    // The signature is the one of dynamic/tests.rs.
    let token = {
        use base64::{Engine, engine::general_purpose::URL_SAFE};
        use sha2::{Digest, Sha256};
        let signed = Sha256::digest("id-apporg#appalice1795305599600client-secret-of-app");
        let hex: String = signed.iter().map(|byte| format!("{byte:02x}")).collect();
        URL_SAFE.encode(format!(
            r#"dt-{{"signature":"{hex}","appkey":"org#app","userId":"alice","curTime":1795305599,"ttl":600}}"#
        ))
    };
    for _ in 0..2 {
        let verdict = setup.verifier.verify(&setup.tenant, &token, NOW).unwrap();
        assert_eq!(caller(verdict).user(), Some("alice"));
        let other = testing::tenant("org", "other");
        assert_eq!(setup.kind(&other, &token, NOW), Some(Kind::TokenInvalid));
        assert_eq!(
            setup.kind(&setup.tenant, &token, secs(600)),
            Some(Kind::TokenExpired)
        );
    }
    setup
        .tenant
        .users_not_before
        .insert("alice".into(), secs(1));
    assert_eq!(
        setup.kind(&setup.tenant, &token, secs(1)),
        Some(Kind::TokenExpired)
    );
}

#[test]
fn rejects_foreign_tokens_uncached() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let setup = setup();
    let token = setup.issue(&alice());
    let parts: Vec<&str> = token.split('.').collect();
    let (_dir, stranger) = testing::ring(NOW);
    let foreign = token::issue(&stranger, setup.tenant.name(), &alice(), TTL, NOW).unwrap();
    let claims = URL_SAFE_NO_PAD.encode(r#"{"iss":"chatfiles","t":"org/app","app":true,"iat":1}"#);
    let unsigned = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let kid = setup.ring.current(NOW).signing().kid.clone();
    let other_alg = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS512","kid":"{kid}"}}"#));
    let no_kid = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    for bad in [
        String::new(),
        ".".into(),
        "..".into(),
        "undefined".into(),
        "YWMtrR6ECkz8Eeyx6Y9j1eX9kbs".into(),
        foreign,
        format!("{}.{}", parts[0], parts[1]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{claims}.{}", parts[0], parts[2]),
        format!("{unsigned}.{claims}."),
        format!("{other_alg}.{}.{}", parts[1], parts[2]),
        format!("{no_kid}.{}.{}", parts[1], parts[2]),
        format!("{token}A"),
        format!("{token}="),
        format!("{token}.x"),
        token.to_uppercase(),
        "a".repeat(TOKEN_BYTES_MAX + 1),
    ] {
        assert_eq!(
            setup.kind(&setup.tenant, &bad, NOW),
            Some(Kind::TokenInvalid),
            "{bad}"
        );
    }
    assert_eq!(setup.verifier.cache.len(), 0);
}

#[test]
fn cache_is_bounded_in_bytes() {
    let setup = setup();
    let entry = || {
        Arc::new(Entry {
            tenant: "org/app".into(),
            subject: Subject::App,
            issued: NOW,
            expires: None,
            generation: 0,
            tenants: 1,
            backend_keys: None,
        })
    };
    for number in 0..20_000 {
        setup
            .verifier
            .cache
            .insert(format!("{number:04000}").into(), entry());
    }
    assert!(setup.verifier.cache.weight() <= CACHE_BYTES_MAX);
    assert!(setup.verifier.cache.len() < 8_000);
}

#[test]
fn reads_bearer_header() {
    for (value, expected) in [
        ("Bearer abc", Some("abc")),
        ("bearer abc", Some("abc")),
        ("BEARER    abc ", Some("abc")),
        ("Bearer\tabc", Some("abc")),
        ("Bearer", None),
        ("Bearer ", None),
        ("abc", None),
        ("Basic abc", None),
        ("Bearerabc", None),
        ("", None),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        assert_eq!(bearer(&headers), expected, "{value:?}");
    }
    assert_eq!(bearer(&HeaderMap::new()), None);
}

#[test]
#[ignore = "a measurement: run with --release --nocapture"]
fn cached_token_takes_300_ns() {
    let setup = setup();
    let token = setup.issue(&alice());
    let clock = crate::time::Clock::system();
    setup.verifier.verify(&setup.tenant, &token, NOW).unwrap();
    let start = clock.monotonic();
    for _ in 0..1_000_000 {
        std::hint::black_box(setup.verifier.verify(&setup.tenant, &token, NOW)).unwrap();
    }
    let each = clock.monotonic().duration_since(start) / 1_000_000;
    assert!(
        each < Duration::from_nanos(300),
        "{each:?} for {} bytes",
        token.len()
    );
}
