//! Settings of `[tenant.auth]` that are refused, and what their messages say.

use chatfiles::config::{Config, Source};

use super::{provider, tenant};
use crate::support::configuration;

const JWT: &str = r#"issuer = "i"
audience = "a"
keys = "k.pem"
algorithms = ["RS256"]
"#;

/// The error of a configuration.
fn error(toml: &str) -> String {
    let read = Config::read(&[Source::text(toml)]);
    read.expect_err(toml).to_string()
}

#[test]
fn refuses_wrong_settings() {
    let table = |name: &str, text: &str| tenant(&format!("[tenant.auth.{name}]\n{text}"));
    let jwt = |from: &str, to: &str| {
        assert!(JWT.contains(from));
        table("jwt", &JWT.replace(from, to))
    };
    let server = |from: &str, to: &str| {
        let text = provider::setting("https://sso.example/introspect", "cache_seconds = 5");
        assert!(text.contains(from));
        tenant(&text.replace(from, to))
    };
    for (toml, about) in [
        (jwt("issuer = \"i\"\n", ""), "missing field `issuer`"),
        (jwt("audience = \"a\"\n", ""), "missing field `audience`"),
        (jwt("keys = \"k.pem\"\n", ""), "missing field `keys`"),
        (
            jwt("algorithms = [\"RS256\"]\n", ""),
            "missing field `algorithms`",
        ),
        (jwt("\"i\"", "\" \""), "auth: jwt.issuer: expected a text"),
        (
            jwt("\"i\"", "\"chatfiles\""),
            "auth: jwt.issuer: \"chatfiles\" is the issuer",
        ),
        (jwt("\"a\"", "[]"), "a list of at least one text"),
        (
            jwt("\"a\"", "[\"a\", \"\"]"),
            "auth: jwt.audience: expected a text",
        ),
        (jwt("\"k.pem\"", "[]"), "a list of at least one text"),
        (
            jwt("\"k.pem\"", "[\"1\",\"2\",\"3\",\"4\",\"5\"]"),
            "auth: jwt.keys: expected at most 4 files",
        ),
        (
            jwt("[\"RS256\"]", "[]"),
            "auth: jwt.algorithms: expected at least one of HS256",
        ),
        (jwt("RS256", "none"), "unknown variant `none`"),
        (jwt("RS256", "RS512"), "unknown variant `RS512`"),
        (
            table("jwt", &format!("{JWT}subject_claim = \"\"\n")),
            "auth: jwt.subject_claim: expected a text",
        ),
        (
            table("jwt", &format!("{JWT}app_claim = \"\"\n")),
            "auth: jwt.app_claim: expected a text",
        ),
        (
            table("jwt", &format!("{JWT}audiense = \"a\"\n")),
            "unknown field `audiense`",
        ),
        (table("jwks", JWT), "unknown field `jwks`"),
        (
            server("https:", "ftp:"),
            "auth: introspection.url: expected a URL that begins with http://",
        ),
        (
            server("https://", ""),
            "auth: introspection.url: expected a URL",
        ),
        (
            server("https://", "https://user:word@"),
            "auth: introspection.url: expected a URL without a user",
        ),
        (
            server(provider::CLIENT_SECRET, ""),
            "a secret must have at least 16 bytes",
        ),
        (
            server(provider::CLIENT_ID, ""),
            "auth: introspection.client_id: expected a text",
        ),
        (
            server("cache_seconds = 5", "cache_seconds = 3601"),
            "expected a time from 0s to 1h",
        ),
        (
            server("cache_seconds = 5", "audience = []"),
            "a list of at least one text",
        ),
        (
            "[introspection]\ntimeout_seconds = 0".to_owned(),
            "introspection.timeout_seconds",
        ),
        (
            "[introspection]\nin_flight_max = 65".to_owned(),
            "introspection.in_flight_max",
        ),
        (
            "[introspection]\nin_flight = 1".to_owned(),
            "introspection.in_flight: unknown key",
        ),
    ] {
        let error = error(&toml);
        assert!(error.contains(about), "{about}: {error}");
        if toml.contains("[[tenant]]") {
            assert!(
                error.contains("tenant easemob-demo/chatdemoui: auth"),
                "{error}"
            );
        }
        for secret in [provider::CLIENT_SECRET, "user:word"] {
            assert!(!error.contains(secret), "{error}");
        }
    }
}

/// Tenants whose tokens could be confused.
#[test]
fn refuses_shared_keys_without_app_claim() {
    let two = |first: &str, second: &str| {
        let other = "[[tenant]]\norg = \"acme\"\napp = \"chat\"\n[tenant.auth.jwt]\n";
        tenant(&format!("[tenant.auth.jwt]\n{first}\n{other}{second}"))
    };
    let with = |from: &str, to: &str| JWT.replace(from, to);
    let claim = format!("{JWT}app_claim = \"app\"\n");
    for (first, second) in [
        (JWT.to_owned(), JWT.to_owned()),
        (claim.clone(), JWT.to_owned()),
        (JWT.to_owned(), claim.clone()),
        (with("\"a\"", "[\"b\", \"a\"]"), JWT.to_owned()),
        (with("\"k.pem\"", "[\"l.pem\", \"k.pem\"]"), JWT.to_owned()),
    ] {
        let error = error(&two(&first, &second));
        assert!(
            error.contains("tenants easemob-demo/chatdemoui and acme/chat share"),
            "{error}"
        );
        assert!(error.contains("app_claim"), "{error}");
    }
    let directory = tempfile::tempdir().unwrap();
    for (first, second) in [
        (claim.clone(), claim),
        (with("\"a\"", "\"b\""), JWT.to_owned()),
        (with("\"i\"", "\"j\""), JWT.to_owned()),
        (with("k.pem", "l.pem"), JWT.to_owned()),
    ] {
        configuration(directory.path(), &two(&first, &second));
    }
}
