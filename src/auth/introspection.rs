//! Asks a tenant's introspection server (RFC 7662) who sent a token that this server cannot verify itself:
//! `[tenant.auth.introspection]`.
//!
//! Fails closed: only `"active": true` with valid claims lets a caller in, `"active": false` is an invalid token, and every
//! fault is [`Kind::Unavailable`]. Which tokens are asked about is decided in [`super::verifier`].

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    Identity, Subject,
    claims::{self, Claimed, Rules},
    exchange::{self, Exchanges, Failure},
};
use crate::{
    error::{Error, Kind, Result},
    fair_queue::Claimant,
    http_client::{self, HttpClient, RequestBody},
    metrics::{Introspected, IntrospectionCounts},
    settings::{number, seconds},
    tenant::{IntrospectionServer, Tenant},
    time::Clock,
};

/// `Retry-After` if there is no answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Maximum size of an answer's body. Servers list roles and groups in it.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Maximum time that a refusal is cached: a token may become valid, for example on a replica of the backend.
const REFUSAL_CACHE_MAX: Duration = Duration::from_secs(5);
/// Number of cached refusals, in a cache of their own: invalid tokens must not evict valid ones.
const REFUSALS_MAX: usize = 16_384;

/// The settings for all tenants: `[introspection]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Maximum time of a request, including the wait in the queue. At most a day.
    #[serde(rename = "timeout_seconds", deserialize_with = "seconds")]
    pub timeout: Duration,
    /// Maximum number of cached callers, of at most 512 bytes each: 32 MiB by default.
    #[serde(deserialize_with = "number::<1, 10_000_000, _, _>")]
    pub cache_entries_max: usize,
    /// Maximum number of concurrent requests of all tenants, each with a connection. One tenant has at most half of them,
    /// so a server that hangs leaves the rest to the others.
    #[serde(deserialize_with = "number::<1, 64, _, _>")]
    pub in_flight_max: usize,
    /// Maximum number of waiting requests. In a full queue, the client with the most waiting requests of the tenant with
    /// the most loses one. Callers that wait for another caller's answer about the same token do not count.
    #[serde(deserialize_with = "number::<0, 100_000, _, _>")]
    pub waiting_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(3),
            cache_entries_max: 65_536,
            in_flight_max: 32,
            waiting_max: 256,
        }
    }
}

/// A token of a tenant. The generation is part of it because another configuration may name another server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    tenant: u32,
    generation: u64,
    /// SHA-256 of the token: has a fixed size, and keeps no credential in memory.
    digest: [u8; 32],
}

/// A cached caller.
#[derive(Clone)]
struct Accepted {
    claimed: Arc<Claimed>,
    until: Instant,
}

/// A cached refusal: of which kind, and until when.
type Refused = (Kind, Instant);

/// Asks the tenants' introspection servers.
///
/// The caches, one for callers and one for refusals. Key: the tenant, the generation of its configuration, and the token.
/// Bounds: `cache_entries_max` and 16,384. Staleness: `cache_seconds` of the tenant after the answer, and never longer than
/// `exp`; refusals at most 5 s. Faults are not cached. Each use checks expiry and revocation. Of concurrent callers with the
/// same token, one asks. If that fails, the next one asks, within its own time-out.
pub struct Introspections {
    config: Config,
    clock: Clock,
    client: HttpClient,
    exchanges: Exchanges,
    accepted: Cache<Key, Accepted>,
    refused: Cache<Key, Refused>,
    counts: Arc<IntrospectionCounts>,
}

impl Introspections {
    /// Creates empty caches. Opens no connection.
    pub fn new(config: Config, clock: Clock) -> Self {
        Self {
            client: HttpClient::new(config.timeout),
            exchanges: Exchanges::new(config.in_flight_max, config.waiting_max),
            accepted: Cache::new(config.cache_entries_max),
            refused: Cache::new(REFUSALS_MAX),
            counts: Arc::default(),
            config,
            clock,
        }
    }

    /// The outcomes so far.
    pub fn counts(&self) -> Arc<IntrospectionCounts> {
        self.counts.clone()
    }

    /// Asks `server`, which is the tenant's, who sent `token`. `client` is the address of the request.
    ///
    /// # Errors
    /// [`Kind::TokenInvalid`] if the token is not active, or its claims are not those that the tenant expects.
    /// [`Kind::TokenExpired`] if it has expired or was revoked by `tokens_not_before`. [`Kind::Unavailable`] without a clear
    /// answer: no connection, no answer in time, a status other than 200, a body that is not a JSON object with a boolean
    /// `active`, or too many waiting requests.
    ///
    /// # Cancel safety
    /// As of `Hooks::ask`.
    pub async fn identify(
        &self,
        tenant: &Tenant,
        server: &IntrospectionServer,
        token: &str,
        client: IpAddr,
    ) -> Result<Identity> {
        let asked = self.clock.monotonic();
        let question = Question {
            tenant,
            server,
            token,
            claimant: Claimant::new(tenant.index, client),
            deadline: asked + self.config.timeout,
        };
        let has_asked = AtomicBool::new(false);
        // Also limits the wait for another caller's answer, as for hooks.
        let found = self.find(&question, asked, &has_asked);
        let found = tokio::time::timeout_at(question.deadline.into(), found).await;
        let found = found.unwrap_or_else(|_| Err(unavailable(server, "no answer in time")));
        self.count(&found, has_asked.into_inner());
        let claimed = found?;
        let expired = claimed.expires.is_some_and(|end| self.clock.now() >= end);
        if expired || tenant.is_revoked(Some(&claimed.user), claimed.issued) {
            return Err(Kind::TokenExpired.into());
        }
        Ok(Identity {
            tenant: tenant.index,
            subject: Subject::User(claimed.user.clone()),
        })
    }

    fn count(&self, found: &Result<Arc<Claimed>>, has_asked: bool) {
        self.counts
            .count(match found.as_ref().map_err(Error::kind) {
                Err(Kind::Unavailable(_)) => Introspected::Failed,
                _ if !has_asked => Introspected::Cached,
                Ok(_) => Introspected::Active,
                Err(_) => Introspected::Refused,
            });
    }

    /// The caller from a cache, or from the server. `has_asked` is set if this call asked the server.
    async fn find(
        &self,
        question: &Question<'_>,
        asked: Instant,
        has_asked: &AtomicBool,
    ) -> Result<Arc<Claimed>> {
        let key = Key {
            tenant: question.tenant.index,
            generation: question.tenant.generation,
            digest: Sha256::digest(question.token.as_bytes()).into(),
        };
        let cache = question.server.cache;
        let compute = || async {
            // Here, so that callers who waited for a refusal find it.
            if let Some((kind, _)) = self.refused.get(&key).filter(|(_, until)| asked < *until) {
                return Err(kind.into());
            }
            has_asked.store(true, Ordering::Relaxed);
            let result = self.ask(question).await;
            let answered = self.clock.monotonic();
            match result {
                Ok(claimed) => Ok(Accepted {
                    claimed: Arc::new(claimed),
                    until: answered + cache,
                }),
                Err(error) => {
                    if !matches!(error.kind(), Kind::Unavailable(_)) {
                        let until = answered + cache.min(REFUSAL_CACHE_MAX);
                        self.refused.insert(key.clone(), (error.kind(), until));
                    }
                    Err(error)
                }
            }
        };
        loop {
            // An error is not shared: the next caller asks again.
            let entry = self.accepted.get_or_insert_async(&key, compute()).await?;
            // Compared with the time of the question: an answer that came after it is never too old.
            if asked < entry.until {
                return Ok(entry.claimed);
            }
            self.accepted.remove_if(&key, |kept| kept.until <= asked);
        }
    }

    async fn ask(&self, question: &Question<'_>) -> Result<Claimed> {
        let Question { server, tenant, .. } = *question;
        let (client, deadline) = (self.client.clone(), question.deadline);
        let (moved, form) = (server.clone(), form(question.token));
        // Ends by the deadline.
        let exchange = async move {
            let sent = exchange::send(&client, || request(&moved, &form), BODY_BYTES_MAX);
            let sent = tokio::time::timeout_at(deadline.into(), sent).await;
            sent.map_err(|_| "no answer in time")?
        };
        let body = self.exchanges.run(question.claimant, exchange).await;
        let body = body.map_err(|failure| match failure {
            Failure::Refused => unavailable(server, "too many requests wait"),
            Failure::Failed(cause) => unavailable(server, &cause),
        })?;
        let claims = parse(&body).ok_or_else(|| {
            unavailable(
                server,
                "the answer is no JSON object with a boolean \"active\"",
            )
        })?;
        let inactive = || Error::new(Kind::TokenInvalid).source("the backend says: not active");
        let rules = Rules {
            issuer: None,
            audience: &server.audience,
            subject_claim: &server.subject_claim,
            app_claim: server.app_claim.as_deref(),
        };
        claims::check(
            &rules,
            tenant,
            &claims.ok_or_else(inactive)?,
            self.clock.now(),
        )
    }
}

/// What one caller asks.
struct Question<'a> {
    tenant: &'a Tenant,
    server: &'a IntrospectionServer,
    token: &'a str,
    claimant: Claimant,
    deadline: Instant,
}

/// The form of RFC 7662 §2.1.
fn form(token: &str) -> Zeroizing<String> {
    let token = utf8_percent_encode(token, NON_ALPHANUMERIC);
    Zeroizing::new(format!("token={token}&token_type_hint=access_token"))
}

fn request(
    server: &IntrospectionServer,
    form: &str,
) -> Result<Request<RequestBody>, http_client::Error> {
    // RFC 6749 §2.3.1: id and secret are form-encoded, then sent by HTTP Basic.
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let id = encoded(&server.client_id);
    let credentials = format!("{id}:{}", encoded(server.client_secret.expose()));
    let basic = format!(
        "Basic {}",
        BASE64_STANDARD.encode(Zeroizing::new(credentials).as_bytes())
    );
    let mut basic = HeaderValue::try_from(basic).map_err(|_| http_client::Error::Url)?;
    basic.set_sensitive(true);
    let body = Full::from(form.to_owned()).map_err(|never| match never {});
    Request::post(&server.url)
        .header(AUTHORIZATION, basic)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, exchange::USER_AGENT)
        .body(body.boxed_unsync())
        // Only the URL may be malformed.
        .map_err(|_| http_client::Error::Url)
}

/// The claims of an active token, `Some(None)` for another one, and `None` if the answer is not clear.
fn parse(body: &[u8]) -> Option<Option<Map<String, Value>>> {
    // A duplicate member `active` is an error.
    #[derive(Deserialize)]
    struct Answer {
        active: bool,
    }
    // Serde also reads a struct from an array.
    let claims: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let Answer { active } = serde_json::from_slice(body).ok()?;
    Some(active.then_some(claims))
}

/// An error for the log. It names only the host, since the rest of the URL may contain a credential.
fn unavailable(server: &IntrospectionServer, cause: &str) -> Error {
    let host = exchange::host(&server.url);
    let source = format!("the introspection server at {host}: {cause}");
    Error::new(Kind::Unavailable(RETRY_AFTER)).source(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_only_clear_answers() {
        for (body, active) in [
            (r#"{"active":true}"#, Some(true)),
            ("\n{\"active\" : true, \"sub\": \"alice\"} ", Some(true)),
            (r#"{"active":false,"sub":"alice"}"#, Some(false)),
            ("", None),
            ("true", None),
            ("[true]", None),
            ("{}", None),
            (r#"{"active":"true"}"#, None),
            (r#"{"active":1}"#, None),
            (r#"{"active":null}"#, None),
            (r#"{"Active":true}"#, None),
            (r#"{"active":false,"active":true}"#, None),
            (r#"{"active":true}}"#, None),
            (r#"{"active":true"#, None),
            ("\u{feff}{\"active\":true}", None),
        ] {
            let parsed = parse(body.as_bytes()).map(|claims| claims.is_some());
            assert_eq!(parsed, active, "{body}");
        }
        assert!(parse(b"{\"active\":true,\"x\":\"\xff\"}").is_none());
    }

    #[test]
    fn encodes_form_and_credentials() {
        assert_eq!(
            *form("1|a+b/c=&token=x"),
            "token=1%7Ca%2Bb%2Fc%3D%26token%3Dx&token_type_hint=access_token"
        );
        let server: IntrospectionServer = toml::from_str(
            "url = \"https://sso.example/introspect\"\nclient_id = \"a:b\"\nclient_secret = \"s3cret of chatfiles\"",
        )
        .unwrap();
        let request = request(&server, "").unwrap();
        // printf %s 'a%3Ab:s3cret%20of%20chatfiles' | base64
        let expected = "Basic YSUzQWI6czNjcmV0JTIwb2YlMjBjaGF0ZmlsZXM=";
        assert_eq!(request.headers()[AUTHORIZATION], expected);
    }
}
