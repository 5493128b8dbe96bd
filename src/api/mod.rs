//! The dialects, Easemob's and Lanying's: each parses its requests, calls `files/`, and renders its answers. They never import each
//! other; what they share stands here and in `answer.rs`, `query.rs` and `signed_url.rs`. Files leave through
//! `delivery/`.

mod answer;
pub mod easemob;
pub mod lanying;
pub mod ops;
pub mod query;
mod signed_url;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hyper::{HeaderMap, Method, header};

use crate::{
    auth::{Grants, Verifier, hook::Hooks},
    delivery,
    error::{Error, Kind, Result},
    fair_queue::Claimant,
    files::{Files, Stored},
    http::target::Target,
    limit::{
        Quota, QuotaPermit, Quotas,
        quota::{Exceeded, QuotaOwner},
    },
    tenant::{Tenant, Tenants},
    time::{Clock, Timestamp},
};

/// What every dialect is made of, built once.
pub struct Api {
    /// The use cases.
    pub files: Files,
    /// Who is served.
    pub tenants: Arc<ArcSwap<Tenants>>,
    /// Tells who calls.
    pub verifier: Verifier,
    /// Makes tokens.
    pub grants: Grants,
    /// Asks the chat backends what their users may do.
    pub hooks: Hooks,
    /// Counts what is stored in a day.
    pub quotas: Quotas,
    /// Tells the time.
    pub clock: Clock,
    /// Settings.
    pub config: Config,
}

/// Settings of the dialects.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Scheme and host as clients see them, without a trailing slash; else from the request's `Host`.
    pub public_url: Option<String>,
    /// Where signed URLs lead, without a trailing slash; else here.
    pub cdn_url: Option<String>,
    /// How long they live, in seconds.
    pub url_ttl_secs: i64,
    /// A call over the rate is answered 429 and not the vendor's 503.
    pub limit_status_429: bool,
}

impl Api {
    /// Takes so many bytes out of what the tenant and the user may store today, before they come. The
    /// application itself, whose name is empty, is no user.
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

/// The answer to an upload for which there is no room beside those in flight.
pub fn no_room() -> Error {
    /// Uploads end all the time.
    const AFTER: Duration = Duration::from_secs(1);
    let text = "too much is being uploaded just now: try again in a moment.";
    Error::new(Kind::Unavailable(AFTER)).public(text)
}

/// One request, as far as all dialects look at it.
pub struct Call<'a> {
    /// The method.
    pub method: &'a Method,
    /// Path and query.
    pub target: &'a Target,
    /// Whom it comes from, as far as proxies can be believed.
    pub client: IpAddr,
    /// It came over TLS that ends here.
    pub is_tls: bool,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// Names it in the answer and in the log; shown as 16 hexadecimal digits.
    pub id: u64,
    /// When it came, wall time.
    pub now: Timestamp,
    /// When it came, for durations.
    pub started: Instant,
}

impl Call<'_> {
    /// A header as text; `None` where it is absent or not visible ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The first query parameter of this name, decoded.
    pub fn query(&self, name: &str) -> Option<std::borrow::Cow<'_, str>> {
        query::first(self.target.query().unwrap_or_default(), name)
    }

    /// Whose turn it is where this call needs dear work.
    fn claimant(&self, tenant: &Tenant) -> Claimant {
        Claimant::new(tenant.index, self.client)
    }

    /// The parts of this call that decide how a file is delivered.
    fn delivery(&self, tenant: &Tenant) -> delivery::Request<'_> {
        delivery::Request {
            method: self.method,
            headers: self.headers,
            now: self.now,
            claimant: self.claimant(tenant),
        }
    }

    /// Says in the log that a file was stored.
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
            Some(url) => url.clone(),
            None => {
                let scheme = if self.is_tls { "https" } else { "http" };
                format!("{scheme}://{}", self.host())
            }
        }
    }

    /// The host that the client asked, with its port; `localhost` where it named none, or nothing like one.
    fn host(&self) -> &str {
        /// RFC 1035 §2.3.4 and a port.
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
