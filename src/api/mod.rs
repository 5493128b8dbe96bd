//! The vendors' APIs, Easemob's and Lanying's. Each parses its requests, calls `files/` and renders its responses.
//!
//! They never import each other; shared code is here, in `answer.rs`, `query.rs` and `signed_url.rs`. Files are sent by
//! `delivery/`.

mod answer;
pub mod easemob;
pub mod landing;
pub mod lanying;
pub mod ops;
pub mod query;
mod signed_url;

use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hyper::{HeaderMap, Method, header};
use serde::{Deserialize, Deserializer};

use crate::{
    auth::{Grants, Identity, Introspections, Verdict, Verifier, hook::Hooks},
    delivery,
    error::{Error, Kind, Result},
    fair_queue::Claimant,
    files::{Files, Stored},
    http::target::Target,
    limit::{
        Quota, QuotaPermit, Quotas,
        quota::{Exceeded, QuotaOwner},
    },
    settings::{expected, seconds_in},
    tenant::{Tenant, Tenants},
    time::{Clock, Timestamp},
};

/// The services that both APIs use, built once.
pub struct Api {
    /// The file layer.
    pub files: Files,
    /// The tenants.
    pub tenants: Arc<ArcSwap<Tenants>>,
    /// Verifies tokens.
    pub verifier: Verifier,
    /// Asks the introspection servers of the tenants about tokens.
    pub introspections: Introspections,
    /// Grants tokens.
    pub grants: Grants,
    /// Asks the chat backends whether a user may do something.
    pub hooks: Hooks,
    /// Counts the daily quotas.
    pub quotas: Quotas,
    /// The clock.
    pub clock: Clock,
    /// Settings.
    pub config: Config,
}

/// Settings of the APIs, from `[cdn]` and others.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `server.public_url`: scheme and host as clients see them; by default from the request's `Host`.
    #[serde(skip)]
    pub(crate) public_url: Option<BaseUrl>,
    /// Base of signed URLs; by default this server.
    #[serde(rename = "url")]
    pub(crate) cdn_url: Option<BaseUrl>,
    /// Lifetime of signed URLs in seconds.
    #[serde(
        rename = "url_ttl_seconds",
        deserialize_with = "seconds_in::<60, 604_800, _, _>"
    )]
    pub url_ttl_secs: i64,
    /// `limits.status`: whether the rate limit answers 429 instead of the vendors' 503.
    #[serde(skip)]
    pub limit_status_429: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            public_url: None,
            cdn_url: None,
            url_ttl_secs: 3600,
            limit_status_429: false,
        }
    }
}

/// Scheme and host of URLs, without a trailing slash, so that paths can be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseUrl(String);

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for BaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let url = String::deserialize(deserializer)?;
        let is_base = url.parse().is_ok_and(|uri: hyper::Uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri
                    .authority()
                    .is_some_and(|host| !host.as_str().contains('@'))
                && matches!(uri.path(), "" | "/")
                && uri.query().is_none()
        });
        let allowed = "http://host[:port] or https://host[:port], without a path";
        match is_base {
            true => Ok(Self(url.trim_end_matches('/').to_owned())),
            false => Err(expected(allowed, format_args!("{url:?}"))),
        }
    }
}

/// Reads `limits.status`: whether the rate limit answers 429.
///
/// # Errors
/// If the value is neither 429 nor 503.
pub fn limit_status_429<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match u64::deserialize(deserializer)? {
        503 => Ok(false),
        429 => Ok(true),
        other => Err(expected("503 or 429", other)),
    }
}

impl Api {
    /// Identifies the caller by a token.
    async fn identify(&self, call: &Call<'_>, tenant: &Tenant, token: &str) -> Result<Identity> {
        match self.verifier.verify(tenant, token, call.now)? {
            Verdict::Caller(identity) => Ok(identity),
            Verdict::Ask(server) => {
                let asking = self
                    .introspections
                    .identify(tenant, server, token, call.client);
                // On the heap, so that requests with other tokens need no memory for it.
                Box::pin(asking).await
            }
        }
    }

    /// Reserves bytes of the daily quotas of a tenant and a user before an upload. An empty user is the application itself,
    /// which has no user quota.
    fn reserve(
        &self,
        call: &Call<'_>,
        tenant: &Tenant,
        user: &str,
        bytes: u64,
    ) -> Result<QuotaPermit> {
        let user = Some(user).filter(|name| !name.is_empty());
        let quota = Quota::from(&tenant.limits);
        let reserved = self
            .quotas
            .reserve(tenant.index, user, quota, bytes, call.now);
        reserved.map_err(|exceeded| {
            let Exceeded {
                owner,
                bytes_a_day,
                retry_after,
            } = exceeded;
            let whose = match owner {
                QuotaOwner::Tenant => "application",
                QuotaOwner::User => "user",
            };
            let text = format!(
                "the {whose} may upload {bytes_a_day} bytes a day, and has fewer left today than this call needs."
            );
            Error::new(Kind::QuotaReached(retry_after)).public(text)
        })
    }
}

/// The error for an upload that finds no room besides the uploads in flight.
pub fn no_room() -> Error {
    /// Uploads end all the time, so a retry soon makes sense.
    const AFTER: Duration = Duration::from_secs(1);
    let text = "too much is being uploaded just now: try again in a moment.";
    Error::new(Kind::Unavailable(AFTER)).public(text)
}

/// A request, as far as it is common to both APIs.
pub struct Call<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path and query.
    pub target: &'a Target,
    /// The client's address, as reported by trusted proxies.
    pub client: IpAddr,
    /// Whether the client's TLS ends at this server.
    pub is_tls: bool,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// Identifies the request in the response and in the log; shown as 16 hexadecimal digits.
    pub id: u64,
    /// Arrival in wall time.
    pub now: Timestamp,
    /// Arrival in monotonic time.
    pub started: Instant,
}

impl Call<'_> {
    /// A header as text; `None` if it is absent or not visible ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The first query parameter of this name, decoded.
    pub fn query(&self, name: &str) -> Option<std::borrow::Cow<'_, str>> {
        query::first(self.target.query().unwrap_or_default(), name)
    }

    /// Identifies the tenant and client of this request in fair queues.
    fn claimant(&self, tenant: &Tenant) -> Claimant {
        Claimant::new(tenant.index, self.client)
    }

    /// The parts of this request that decide how a file is delivered.
    fn delivery(&self, tenant: &Tenant) -> delivery::Request<'_> {
        delivery::Request {
            method: self.method,
            headers: self.headers,
            now: self.now,
            claimant: self.claimant(tenant),
        }
    }

    /// Logs a stored file.
    fn log_stored(&self, stored: &Stored) {
        tracing::info!(
            request = format_args!("{:016x}", self.id),
            id = %stored.key.id,
            bytes = stored.meta.len,
            tenant = stored.meta.tenant,
            user = stored.meta.owner,
            "stored"
        );
    }

    /// Scheme and host as the client sees them.
    fn public_url(&self, api: &Api) -> String {
        match &api.config.public_url {
            Some(url) => url.to_string(),
            None => {
                let scheme = if self.is_tls { "https" } else { "http" };
                format!("{scheme}://{}", self.host())
            }
        }
    }

    /// The host that the client requested, with its port; `localhost` if there is none or it is invalid.
    fn host(&self) -> &str {
        /// RFC 1035 §2.3.4, and a port.
        const HOST_BYTES_MAX: usize = 255 + 6;
        let from_uri = self
            .target
            .authority()
            .map(hyper::http::uri::Authority::as_str);
        let host = from_uri.or_else(|| self.headers.get(header::HOST)?.to_str().ok());
        let is_host = |host: &&str| {
            !host.is_empty()
                && host.len() <= HOST_BYTES_MAX
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
        };
        host.filter(is_host).unwrap_or("localhost")
    }
}
