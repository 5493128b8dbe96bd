//! Tokens that must not let anyone in: forged, confused, late, early, and for others.

use chatfiles::{auth::TOKEN_BYTES_MAX, time::MS_PER_SECOND};
use serde_json::{Value, json};

use super::{
    Outcome::{self, Expired, In, Invalid},
    jwt, outcome, owner,
    signer::{Signer, claims, encode, hmac, message, set, with, write},
    tenant, upload,
};
use crate::support::TestServer;

/// A server that trusts an RSA key, by kid and as PEM, and nothing else.
struct Setup {
    server: TestServer,
    signer: Signer,
    _directory: tempfile::TempDir,
}

impl Setup {
    fn new(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let signer = Signer::rs256();
        signer.write_set(directory.path(), "keys.json");
        let settings = jwt(directory.path(), &["keys.json"], &["RS256"], more);
        Self {
            server: TestServer::with(&tenant(&settings)),
            signer,
            _directory: directory,
        }
    }

    #[track_caller]
    fn check(&self, about: &str, token: &str, expected: Outcome) {
        // Also when the same token comes again.
        for _ in 0..2 {
            assert_eq!(outcome(&self.server, token), expected, "{about}: {token}");
        }
    }

    fn header(&self, changes: Value) -> Value {
        with(
            json!({ "alg": "RS256", "kid": "RS256", "typ": "JWT" }),
            changes,
        )
    }
}

#[test]
fn algorithm_cannot_be_confused() {
    let setup = Setup::new("");
    let claims = claims(&setup.server);
    let own = setup.signer.token(Some("RS256"), &claims);
    setup.check("the valid token", &own, In);
    let parts: Vec<&str> = own.split('.').collect();
    let headed = |changes| message(&setup.header(changes), &claims);
    let public = &setup.signer.public;
    let der = super::signer::openssl(&["pkey", "-pubin", "-outform", "DER"], public.as_bytes());
    // What a public key may look like to the one who takes it for a secret.
    for secret in [
        public.as_bytes(),
        public.trim_end().as_bytes(),
        &der,
        setup.signer.jwk("RS256")["n"].as_str().unwrap().as_bytes(),
        b"",
    ] {
        for changes in [
            json!({ "alg": "HS256" }),
            json!({ "alg": "HS256", "kid": null }),
        ] {
            let message = headed(changes);
            let signature = hmac(secret, &message);
            setup.check(
                "the public key as a secret",
                &format!("{message}.{signature}"),
                Invalid,
            );
        }
    }
    for alg in [
        "none", "None", "NONE", "", "HS256", "ES256", "RS384", "PS256", "EdDSA", "rs256",
    ] {
        let swapped = headed(json!({ "alg": alg }));
        for signature in ["", parts[2]] {
            setup.check(alg, &format!("{swapped}.{signature}"), Invalid);
        }
        // Signed as it is: only the algorithm differs.
        let signed = format!("{swapped}.{}", setup.signer.sign(&swapped));
        setup.check(alg, &signed, Invalid);
    }
    for (about, header) in [
        ("no algorithm", json!({ "alg": null })),
        ("a list", json!({ "alg": ["RS256"] })),
        ("a critical extension", json!({ "crit": ["exp"], "exp": 1 })),
        ("no critical extension", json!({ "crit": [] })),
        (
            "unencoded payload",
            json!({ "crit": ["b64"], "b64": false }),
        ),
        ("a kid of nobody", json!({ "kid": "RS257" })),
        ("an empty kid", json!({ "kid": "" })),
        ("a path as kid", json!({ "kid": "../../../../dev/null" })),
        ("SQL as kid", json!({ "kid": "x' UNION SELECT 'a" })),
        ("a number as kid", json!({ "kid": 1 })),
    ] {
        let token = setup.signer.token_with(&setup.header(header), &claims);
        setup.check(about, &token, Invalid);
    }
    // Two algorithms in one header.
    let twice = encode(r#"{"alg":"none","alg":"RS256","kid":"RS256"}"#);
    let twice = format!("{twice}.{}", parts[1]);
    setup.check(
        "twice",
        &format!("{twice}.{}", setup.signer.sign(&twice)),
        Invalid,
    );
}

/// The token brings its own key.
#[test]
fn keys_in_tokens_are_ignored() {
    let setup = Setup::new("");
    let claims = claims(&setup.server);
    let mallory = Signer::es256();
    let jwk = mallory.jwk("mallory");
    for header in [
        json!({ "alg": "ES256", "jwk": jwk }),
        json!({ "alg": "ES256", "jwk": jwk, "kid": "mallory" }),
        json!({ "alg": "ES256", "jku": "http://127.0.0.1:1/keys.json", "kid": "mallory" }),
        json!({ "alg": "ES256", "x5u": "http://127.0.0.1:1/key.pem" }),
        json!({ "alg": "ES256", "x5c": ["AAAA"], "kid": "RS256" }),
    ] {
        setup.check("own key", &mallory.token_with(&header, &claims), Invalid);
    }
    // They do no harm to a valid token.
    let header = setup.header(json!({ "jku": "http://127.0.0.1:1/keys.json" }));
    setup.check("ignored", &setup.signer.token_with(&header, &claims), In);
}

#[test]
fn altered_tokens_are_refused() {
    let setup = Setup::new("");
    let own = setup.signer.token(Some("RS256"), &claims(&setup.server));
    let parts: Vec<&str> = own.split('.').collect();
    let other = with(claims(&setup.server), json!({ "sub": "bob" }));
    let [header, payload, signature] = parts[..] else {
        panic!("three parts")
    };
    for token in [
        format!("{header}.{}.{signature}", encode(other.to_string())),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{header}.{payload}.{}", &signature[1..]),
        format!("{header}.{payload}.{signature}AAAA"),
        format!("{header}.{payload}.{signature}="),
        format!("{header}.{payload}.{signature}.{signature}"),
        format!("{header}.{payload}.{}", "A".repeat(signature.len())),
        format!(".{payload}.{signature}"),
        format!("{header}..{signature}"),
        "..".to_owned(),
        own.to_uppercase(),
    ] {
        setup.check("altered", &token, Invalid);
    }
    setup.check("the original", &own, In);
}

#[test]
fn claims_are_checked() {
    let setup = Setup::new("");
    let now = setup.server.clock.now().secs();
    for (about, changes, expected) in [
        (
            "another issuer",
            json!({ "iss": "https://evil.example" }),
            Invalid,
        ),
        (
            "nearly the issuer",
            json!({ "iss": "https://chat.example/" }),
            Invalid,
        ),
        ("no issuer", json!({ "iss": null }), Invalid),
        (
            "a list of issuers",
            json!({ "iss": ["https://chat.example"] }),
            Invalid,
        ),
        ("our issuer", json!({ "iss": "chatfiles" }), Invalid),
        ("another audience", json!({ "aud": "mail" }), Invalid),
        ("no audience", json!({ "aud": null }), Invalid),
        (
            "other audiences",
            json!({ "aud": ["mail", "web"] }),
            Invalid,
        ),
        (
            "one of two audiences",
            json!({ "aud": ["mail", "chatfiles"] }),
            In,
        ),
        ("expired", json!({ "exp": now }), Expired),
        ("expired long ago", json!({ "exp": 1, "iat": 0 }), Expired),
        ("no expiry", json!({ "exp": null }), Invalid),
        ("a text as expiry", json!({ "exp": "4102444800" }), Invalid),
        ("issued tomorrow", json!({ "iat": now + 86_400 }), Invalid),
        ("issued by a clock ahead", json!({ "iat": now + 20 }), In),
        (
            "valid from tomorrow",
            json!({ "nbf": now + 86_400 }),
            Invalid,
        ),
        ("valid by a clock ahead", json!({ "nbf": now + 20 }), In),
        ("a text as start", json!({ "nbf": "0" }), Invalid),
        ("no user", json!({ "sub": null }), Invalid),
        (
            "no user, but an app",
            json!({ "sub": null, "app": true }),
            Invalid,
        ),
        ("an empty user", json!({ "sub": "" }), Invalid),
        ("a path as user", json!({ "sub": "../bob" }), Invalid),
        ("white space", json!({ "sub": "alice bob" }), Invalid),
        ("a line feed", json!({ "sub": "alice\nbob" }), Invalid),
        ("NUL", json!({ "sub": "alice\u{0}" }), Invalid),
        ("a long user", json!({ "sub": "a".repeat(129) }), Invalid),
        (
            "an object as user",
            json!({ "sub": { "name": "alice" } }),
            Invalid,
        ),
        ("no time of issue", json!({ "iat": null }), In),
        (
            "the fields of our tokens",
            json!({ "t": "acme/chat", "app": true }),
            In,
        ),
    ] {
        let token = setup
            .signer
            .token(Some("RS256"), &with(claims(&setup.server), changes));
        setup.check(about, &token, expected);
    }
    let long = with(
        claims(&setup.server),
        json!({ "x": "x".repeat(TOKEN_BYTES_MAX) }),
    );
    setup.check(
        "too long",
        &setup.signer.token(Some("RS256"), &long),
        Invalid,
    );
}

#[test]
fn expiry_ends_cached_token() {
    let setup = Setup::new("");
    let token = setup.signer.token(Some("RS256"), &claims(&setup.server));
    setup.check("valid", &token, In);
    setup.server.clock.advance(3590 * MS_PER_SECOND);
    setup.check("still valid", &token, In);
    setup.server.clock.advance(10 * MS_PER_SECOND);
    setup.check("expired", &token, Expired);
}

#[test]
fn app_claim_names_tenant() {
    let setup = Setup::new("app_claim = \"app\"\nsubject_claim = \"uid\"");
    for (app, expected) in [
        (json!("easemob-demo/chatdemoui"), In),
        (json!("easemob-demo#chatdemoui"), In),
        (json!("welovemaxim"), In),
        (json!("acme/chat"), Invalid),
        (json!("easemob-demo"), Invalid),
        (json!("easemob-demo/chatdemoui2"), Invalid),
        (json!(["easemob-demo/chatdemoui"]), Invalid),
        (json!(true), Invalid),
        (Value::Null, Invalid),
    ] {
        let changes = json!({ "app": app, "uid": "alice", "sub": "bob" });
        let token = setup
            .signer
            .token(Some("RS256"), &with(claims(&setup.server), changes));
        setup.check("app", &token, expected);
    }
}

/// Two tenants trust one key, and a claim tells them apart.
#[test]
fn tokens_of_tenants_do_not_mix() {
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer::rs256();
    write(directory.path(), "keys.json", &set(&[signer.jwk("RS256")]));
    let settings = jwt(
        directory.path(),
        &["keys.json"],
        &["RS256"],
        "app_claim = \"app\"",
    );
    let other = "[[tenant]]\norg = \"acme\"\napp = \"chat\"\n";
    let server = TestServer::with(&format!("{}{other}{settings}", tenant(&settings)));
    let token = |app: &str| {
        let changes = json!({ "app": app });
        signer.token(Some("RS256"), &with(claims(&server), changes))
    };
    let (ours, theirs) = (token("easemob-demo/chatdemoui"), token("acme/chat"));
    let status = |org: &str, token: &str| {
        let authorization = format!("Bearer {token}");
        let path = format!("/{org}/chatfiles/00000000-0000-0000-0000-000000000000");
        server
            .get(&path, &[("Authorization", &authorization)])
            .status
    };
    // In turns, so that each token is in the cache when the other tenant sees it.
    for _ in 0..3 {
        assert_eq!(status("easemob-demo/chatdemoui", &ours), 404);
        assert_eq!(status("easemob-demo/chatdemoui", &theirs), 401);
        assert_eq!(status("acme/chat", &theirs), 404);
        assert_eq!(status("acme/chat", &ours), 401);
    }
}

#[test]
fn revocation_applies_to_jwts() {
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer::rs256();
    signer.write(directory.path(), "key.pem");
    let revoked = "users_not_before = { alice = 4000000000 }\n";
    let settings = jwt(directory.path(), &["key.pem"], &["RS256"], "");
    let server = TestServer::with(&tenant(&format!("{revoked}{settings}")));
    let token = |changes| signer.token(None, &with(claims(&server), changes));
    assert_eq!(outcome(&server, &token(json!({}))), Expired);
    // Without a time of issue, a token may be older than the revocation.
    assert_eq!(outcome(&server, &token(json!({ "iat": null }))), Expired);
    let authorization = format!("Bearer {}", token(json!({ "sub": "bob" })));
    assert_eq!(owner(&server, &upload(&server, &authorization)), "bob");
}

#[test]
fn accepts_odd_user_names() {
    let setup = Setup::new("");
    for (subject, expected) in [
        (json!("张三"), "张三"),
        (json!(4_242_424_242_u64), "4242424242"),
    ] {
        let changes = json!({ "sub": subject });
        let token = setup
            .signer
            .token(Some("RS256"), &with(claims(&setup.server), changes));
        let authorization = format!("Bearer {token}");
        let uploaded = upload(&setup.server, &authorization);
        assert_eq!(owner(&setup.server, &uploaded), expected);
    }
}
