//! Checks the claims of a chat backend's token: a JWT's (RFC 7519 §4.1), or those in the answer of an introspection server
//! (RFC 7662 §2.2).
//!
//! Pure. Whether the claims can be trusted, that is a signature or an `active`, is checked by the callers.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::is_user_name;
use crate::{
    error::{Error, Kind, Result},
    tenant::Tenant,
    time::Timestamp,
};

/// How far `nbf` and `iat` may be in the future, since the backend's clock may differ. `exp` has no such leeway.
const LEEWAY: Duration = Duration::from_secs(30);

/// What the claims must be.
pub(super) struct Rules<'a> {
    /// If set, `iss` must be equal.
    pub(super) issuer: Option<&'a str>,
    /// If not empty, `aud` must contain one of these.
    pub(super) audience: &'a [String],
    /// The claim with the user's name.
    pub(super) subject_claim: &'a str,
    /// If set, the claim that must name the tenant.
    pub(super) app_claim: Option<&'a str>,
}

/// What valid claims say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claimed {
    /// The user.
    pub(super) user: Arc<str>,
    /// `iat`. Without one, the beginning of time: whether a revocation is older is unknown, so it applies.
    pub(super) issued: Timestamp,
    /// `exp`, if there is one.
    pub(super) expires: Option<Timestamp>,
}

/// Checks the claims of a token for `tenant`.
///
/// A token without a user is refused, so a backend's token never acts for the application itself.
///
/// # Errors
/// [`Kind::TokenExpired`] if `exp` has passed, and nothing else is wrong. [`Kind::TokenInvalid`] otherwise, with the
/// claim in the source.
pub(super) fn check(
    rules: &Rules<'_>,
    tenant: &Tenant,
    claims: &Map<String, Value>,
    now: Timestamp,
) -> Result<Claimed> {
    if let Some(issuer) = rules.issuer
        && claims.get("iss").and_then(Value::as_str) != Some(issuer)
    {
        return Err(wrong("iss"));
    }
    if !rules.audience.is_empty() && !is_for(rules.audience, claims.get("aud")) {
        return Err(wrong("aud"));
    }
    if let Some(name) = rules.app_claim
        && !claims
            .get(name)
            .and_then(Value::as_str)
            .is_some_and(|app| is_name_of(tenant, app))
    {
        return Err(wrong(name));
    }
    let user = claims.get(rules.subject_claim).and_then(user);
    let user = user.ok_or_else(|| wrong(rules.subject_claim))?;
    let issued = moment(claims, "iat")?;
    let not_before = moment(claims, "nbf")?;
    let latest = now.plus(LEEWAY);
    if issued.is_some_and(|issued| issued > latest) {
        return Err(wrong("iat"));
    }
    if not_before.is_some_and(|start| start > latest) {
        return Err(wrong("nbf"));
    }
    let expires = moment(claims, "exp")?;
    if expires.is_some_and(|end| now >= end) {
        return Err(Kind::TokenExpired.into());
    }
    Ok(Claimed {
        user,
        issued: issued.unwrap_or(Timestamp::from_ms(i64::MIN)),
        expires,
    })
}

/// The error for the log. It names the claim, and not its value.
pub(super) fn wrong(claim: &str) -> Error {
    let cause = format!("a token of the backend: the claim {claim:?} is missing or wrong");
    Error::new(Kind::TokenInvalid).source(cause)
}

/// Whether `aud`, a text or a list of texts, contains one of the expected texts.
fn is_for(expected: &[String], audience: Option<&Value>) -> bool {
    let is_expected = |value: &Value| {
        let text = value.as_str();
        text.is_some_and(|text| expected.iter().any(|one| one == text))
    };
    match audience {
        Some(Value::Array(list)) => list.iter().any(is_expected),
        Some(value) => is_expected(value),
        None => false,
    }
}

/// Whether a text names the tenant: `org/app`, Easemob's app key `org#app`, or the `app_id`. None of these names can
/// contain `/` or `#`, so no text names two tenants.
fn is_name_of(tenant: &Tenant, text: &str) -> bool {
    match text.split_once(['/', '#']) {
        Some((org, app)) => org == tenant.org && app == tenant.app,
        None => tenant
            .lanying
            .as_ref()
            .is_some_and(|lanying| lanying.app_id == text),
    }
}

/// The name of a user: a text, or a whole number, which backends with numeric user ids write.
fn user(value: &Value) -> Option<Arc<str>> {
    let name: Arc<str> = match value {
        Value::String(name) => name.as_str().into(),
        Value::Number(number) => number.as_u64()?.to_string().into(),
        _ => return None,
    };
    is_user_name(&name).then_some(name)
}

/// A NumericDate (RFC 7519 §2), in seconds since 1970; fractions are dropped.
fn moment(claims: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    // The conversion of a float saturates.
    let secs = value
        .as_i64()
        .or_else(|| value.as_f64().map(|secs| secs.floor() as i64));
    secs.map(|secs| Some(Timestamp::from_secs(secs)))
        .ok_or_else(|| wrong(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::testing;

    const NOW: Timestamp = Timestamp::from_secs(1_795_305_599);

    fn kind(changes: &[(&str, Value)]) -> Option<Kind> {
        let mut tenant = testing::tenant("acme", "chat");
        tenant.lanying = Some(testing::lanying("acme-id"));
        let audience = ["files".to_owned(), "media".to_owned()];
        let rules = Rules {
            issuer: Some("https://chat.example"),
            audience: &audience,
            subject_claim: "uid",
            app_claim: Some("app"),
        };
        let now = NOW.secs();
        let mut claims = json!({
            "iss": "https://chat.example", "aud": "files", "uid": "alice", "app": "acme/chat",
            "iat": now, "exp": now + 60,
        });
        for (name, value) in changes {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(*name)),
                value => claims[*name] = value.clone(),
            }
        }
        let checked = check(&rules, &tenant, claims.as_object().unwrap(), NOW);
        checked.err().map(|error| error.kind())
    }

    #[test]
    fn checks_each_claim() {
        let now = NOW.secs();
        let (invalid, expired) = (Some(Kind::TokenInvalid), Some(Kind::TokenExpired));
        for (name, value, expected) in [
            ("x", json!(1), None),
            ("iss", Value::Null, invalid),
            ("iss", json!("https://chat.example/"), invalid),
            ("iss", json!(["https://chat.example"]), invalid),
            ("aud", Value::Null, invalid),
            ("aud", json!("other"), invalid),
            ("aud", json!([]), invalid),
            ("aud", json!([["files"]]), invalid),
            ("aud", json!(["other", "media"]), None),
            ("app", Value::Null, invalid),
            ("app", json!("acme#chat"), None),
            ("app", json!("acme-id"), None),
            ("app", json!("acme"), invalid),
            ("app", json!("acme/chat2"), invalid),
            ("app", json!("acme/chat/"), invalid),
            ("app", json!("ACME/chat"), invalid),
            ("app", json!(["acme/chat"]), invalid),
            ("uid", Value::Null, invalid),
            ("uid", json!(""), invalid),
            ("uid", json!("a/b"), invalid),
            ("uid", json!("a b"), invalid),
            ("uid", json!("a\u{0}"), invalid),
            ("uid", json!("a".repeat(129)), invalid),
            ("uid", json!(["alice"]), invalid),
            ("uid", json!(42), None),
            ("uid", json!(-42), invalid),
            ("uid", json!(4.5), invalid),
            ("uid", json!(true), invalid),
            ("iat", Value::Null, None),
            ("iat", json!(now + 30), None),
            ("iat", json!(now + 31), invalid),
            ("iat", json!("now"), invalid),
            ("nbf", json!(now + 30), None),
            ("nbf", json!(now + 31), invalid),
            ("nbf", json!(1e300), invalid),
            ("exp", Value::Null, None),
            ("exp", json!(now + 1), None),
            ("exp", json!(now as f64 + 0.9), expired),
            ("exp", json!(now), expired),
            ("exp", json!(-1e300), expired),
            ("exp", json!(u64::MAX), None),
            ("exp", json!((now + 60).to_string()), invalid),
        ] {
            assert_eq!(kind(&[(name, value.clone())]), expected, "{name} {value}");
        }
        // What is wrong comes before what is late.
        assert_eq!(kind(&[("exp", json!(1)), ("aud", json!("x"))]), invalid);
    }
}
