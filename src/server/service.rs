//! The pipeline of a request on one page: route → admit → act → render.
//!
//! The actions are in `api/`. `connection.rs` enforces the timeouts of connections.

mod render;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::{
    HeaderMap, Request, Response, Version,
    body::{Body as _, Incoming},
    header,
    http::request::Parts,
};
use ipnet::IpNet;
use serde::Deserialize;

use super::{
    access::{self, Access, Sample, Watched},
    admission::Admission,
    cdn::{self, CdnSecret},
    connection::{ConnectionInfo, Handle},
    routing::Routed,
};
use crate::{
    api::{Api, Call, easemob, landing::LandingPage, lanying, ops},
    delivery::Body,
    error::{Error, Kind, Result},
    http::{
        accept,
        body::{Pace, RequestBody},
        cors::Cors,
        forwarded::{ClientAddress, ForwardedHeader, client_address},
        framing,
        target::Target,
    },
    limit::{Budget, Limiter, Rate, UploadPermit},
    metrics::{Answered, Refusal, Requests, RouteLabel, UploadLevels},
    routes::{self, Action},
    settings::{networks, size},
    tenant::{Limits, Tenant, Tenants},
    trace_parent::TraceParent,
};

/// Answers every request.
pub struct Service {
    api: Api,
    admission: Admission,
    requests: Arc<Requests>,
    cors: Cors,
    config: Config,
    /// The page for people who open the server's address; `None` if `server.landing_page` is off.
    landing_page: Option<LandingPage>,
    /// The warning about an unknown proxy was logged.
    warned: AtomicBool,
    /// The next request id. The first one of a run is random.
    request_ids: AtomicU64,
    /// The random name of this run, shown by the health check.
    server: String,
}

/// Settings of the pipeline, from `[limits]` and others.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Networks whose forwarding header is trusted.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// The forwarding header that they send.
    pub forwarded_header: ForwardedHeader,
    /// The rate limit of requests without a tenant.
    #[serde(skip)]
    pub default_rate: Rate,
    /// Upper limit of the bytes that uploads in flight may announce.
    #[serde(deserialize_with = "size::<1, { 1 << 40 }, _, _>")]
    pub upload_bytes_in_flight_max: u64,
    /// Networks without a share of that limit: proxies and the backend's own servers.
    #[serde(skip)]
    pub upload_share_exempt: Vec<IpNet>,
    /// The secret of the CDN in front. With it, only the health check is answered to others.
    #[serde(skip)]
    pub(crate) cdn_secret: Option<CdnSecret>,
    /// `server.landing_page`: whether `/` shows a page to browsers.
    #[serde(skip)]
    pub landing_page: bool,
    /// How fast request bodies must arrive.
    #[serde(skip)]
    pub body_pace: Pace,
    /// Which requests are in the access log.
    #[serde(skip)]
    pub access: Sample,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            forwarded_header: ForwardedHeader::default(),
            default_rate: Rate::from(&Limits::default()),
            upload_bytes_in_flight_max: 2 << 30,
            upload_share_exempt: Vec::new(),
            cdn_secret: None,
            landing_page: true,
            body_pace: Pace::default(),
            access: Sample::default(),
        }
    }
}

/// A response, and facts about it that are recorded after the rest of the request body was drained.
struct Answer {
    response: Response<Body>,
    /// The counted facts. The duration and the received bytes are known after the drain.
    answered: Answered,
    access: Option<Access>,
    /// Whether the client sends its body only after `100 Continue`.
    client_waits: bool,
}

/// The largest rest of a request body that is read in order to keep the connection.
const DRAIN_BYTES_MAX: u64 = 64 << 10;
/// Time limit for reading it.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

impl Service {
    /// A service of these parts. `seed` is random, so that the request ids of two runs differ.
    pub fn new(
        api: Api,
        limiter: Arc<Limiter>,
        cors: Cors,
        config: Config,
        server: String,
        seed: u64,
    ) -> Self {
        Self {
            api,
            admission: Admission {
                limiter,
                uploads: Arc::new(Budget::new(config.upload_bytes_in_flight_max)),
                default_rate: config.default_rate,
                exempt: config.upload_share_exempt.clone(),
            },
            requests: Arc::new(Requests::new(routes::labels())),
            cors,
            landing_page: config.landing_page.then(LandingPage::new),
            config,
            warned: AtomicBool::new(false),
            request_ids: AtomicU64::new(seed),
            server,
        }
    }

    /// The services that background tasks use too.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The counters of requests.
    pub fn requests(&self) -> Arc<Requests> {
        self.requests.clone()
    }

    /// Bytes of uploads in flight.
    pub fn upload_levels(&self) -> UploadLevels {
        self.admission.upload_levels()
    }

    /// An id for a request that does not go through the pipeline.
    pub(super) fn next_request_id(&self) -> u64 {
        self.request_ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Marks a request that this process makes itself as one that came through the CDN, if that is required.
    pub(super) fn mark_trusted(&self, headers: &mut HeaderMap) {
        if let Some(secret) = &self.config.cdn_secret {
            secret.mark(headers);
        }
    }

    /// Runs the pipeline. The action reads as much of the request body as it needs.
    async fn respond(
        &self,
        connection: &ConnectionInfo,
        head: Parts,
        body: &mut RequestBody,
        started: Instant,
    ) -> Answer {
        let framing = framing::check(&head.method, head.version, &head.uri, &head.headers);
        if framing.is_err() {
            // The bytes that follow on this connection may be the body of this request.
            connection.set_linger();
        }
        let target = Target::new(head.uri);
        let call = Call {
            method: &head.method,
            target: &target,
            id: self.next_request_id(),
            client: self.client(connection, &head.headers),
            is_tls: connection.is_tls,
            headers: &head.headers,
            now: self.api.clock.now(),
            started,
        };
        // One version of the tenants for the whole request, also if they are reloaded meanwhile.
        let tenants = self.api.tenants.load();

        let routed = self.route(&call, framing, &tenants);
        let (tenant, label) = (routed.tenant, routed.label);
        let _in_flight = routed.is_upload().then(|| self.requests.uploads.enter());
        let admitted = self.admission.admit(&call, &routed, &tenants, body);
        let result = match admitted {
            Ok(permit) => self.act(&call, routed, permit, body).await,
            Err(refused) => Err(refused),
        };
        let refusal = result.as_ref().err().and_then(refusal);
        let response = self.render(&call, result);
        self.facts(&call, head.version, tenant, label, refusal, response)
    }

    /// Collects what is recorded about a response.
    fn facts(
        &self,
        call: &Call<'_>,
        version: Version,
        tenant: Option<&Arc<Tenant>>,
        route: RouteLabel,
        refusal: Option<Refusal>,
        response: Response<Body>,
    ) -> Answer {
        let answered = Answered {
            tenant: tenant.map(|tenant| tenant.index),
            route,
            status: response.status().as_u16(),
            took: Duration::ZERO,
            received_bytes: 0,
            sent_bytes: response.body().size_hint().lower(),
            refusal,
        };
        let is_logged = self.config.access.has(call.id, &answered);
        let access = is_logged.then(|| Access {
            id: call.id,
            client: call.client,
            tenant: tenant.cloned(),
            method: access::shown_method(call.method),
            path: call.target.to_string(),
            version,
            trace: TraceParent::of(call.headers),
            answered,
            started: call.started,
            clock: self.api.clock.clone(),
        });
        let expect = call.headers.get(header::EXPECT);
        Answer {
            response,
            answered,
            access,
            client_waits: expect
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")),
        }
    }

    /// Finds the route and the tenant of a request. With a CDN in front, only the health check is answered without it.
    fn route<'r>(
        &self,
        call: &'r Call<'_>,
        framing: Result<()>,
        tenants: &'r Tenants,
    ) -> Routed<'r> {
        let found = framing.and_then(|()| routes::find(call.method, call.target.path()));
        let found = match found {
            Ok(found) if found.action == Action::Health => Ok(found),
            found => cdn::check(self.config.cdn_secret.as_ref(), call.headers).and(found),
        };
        let found = match found {
            Ok(found) if found.action == Action::LandingPage && !self.shows_page(call) => {
                Err(Kind::RouteNotFound.into())
            }
            found => found,
        };
        match found {
            Ok(found) => Routed::new(found, call, tenants),
            Err(error) => Routed::without_route(error),
        }
    }

    /// Whether the client gets the landing page. For all others, `/` is a path without a route.
    fn shows_page(&self, call: &Call<'_>) -> bool {
        self.landing_page.is_some() && accept::prefers_html(call.headers)
    }

    /// Runs the action of a request.
    async fn act(
        &self,
        call: &Call<'_>,
        routed: Routed<'_>,
        permit: Option<UploadPermit<'_>>,
        body: &mut RequestBody,
    ) -> Result<Response<Body>> {
        use Action::*;
        let (action, params) = routed.action?;
        let view = routed.view;
        let easemob = || easemob::Context::new(&self.api, call, routed.tenant);
        let lanying = || lanying::Context::new(&self.api, call, routed.tenant);
        match action {
            Preflight => Ok(ops::preflight()),
            LandingPage => {
                let page = self.landing_page.as_ref().ok_or(Kind::RouteNotFound)?;
                Ok(page.answer(&self.api, call))
            }
            Health => Ok(ops::health(&self.server)),
            EasemobUpload => easemob::upload(&easemob()?, body).await,
            EasemobDownload => easemob::download(&easemob()?, params.id, view).await,
            EasemobToken => easemob::token(&easemob()?, body).await,
            EasemobBeginParts => easemob::parts::begin(&easemob()?, body).await,
            EasemobPutPart => easemob::parts::put(&easemob()?, params.id, body).await,
            EasemobListParts => easemob::parts::list(&easemob()?, params.id).await,
            EasemobCompleteParts => {
                // Every connection has room for its largest request, also while it is idle. This is a rare request, and
                // would be the largest by 1 KB.
                Box::pin(easemob::parts::complete(&easemob()?, params.id, body)).await
            }
            EasemobAbortParts => easemob::parts::abort(&easemob()?, params.id).await,
            LanyingUserAvatarTicket => lanying::upload::user_avatar(&lanying()?).await,
            LanyingGroupAvatarTicket => lanying::upload::group_avatar(&lanying()?).await,
            LanyingChatTicket => lanying::upload::chat(&lanying()?).await,
            LanyingForward => lanying::forward(&lanying()?).await,
            LanyingDownloadAvatar => lanying::download::avatar(&lanying()?, view).await,
            LanyingDownloadChat => lanying::download::chat(&lanying()?, view).await,
            LanyingPostForm => lanying::post_form(&lanying()?, body, permit).await,
        }
    }

    /// The client's address. Logs one warning about a proxy that is not configured.
    pub(super) fn client(&self, connection: &ConnectionInfo, headers: &HeaderMap) -> IpAddr {
        let Config {
            trusted_proxies,
            forwarded_header,
            ..
        } = &self.config;
        let ClientAddress {
            address,
            ignored_header,
        } = client_address(
            (!connection.is_local).then(|| connection.peer.ip()),
            headers,
            trusted_proxies,
            *forwarded_header,
        );
        if ignored_header && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                peer = %connection.peer.ip(),
                "ignoring a forwarding header of an untrusted peer; if this is your proxy, all its clients share one \
                 rate limit until it is listed in limits.trusted_proxies (logged once)"
            );
        }
        address
    }
}

/// Reads or discards the rest of a request body, so that the client sees the response.
///
/// A small rest is read, so that the connection can be kept. A large rest is discarded after the response (`set_linger`).
/// A client that waits for `100 Continue` and did not get it sends no body. A connection is not kept after trailers: hyper
/// accepts a bare line feed there as part of a line, so the trailers may end elsewhere for a proxy.
async fn settle(connection: &ConnectionInfo, client_waits: bool, body: &mut RequestBody) {
    if body.is_ended() {
        if body.had_trailers() {
            connection.set_linger();
        }
        return;
    }
    let waits = client_waits && !body.is_started();
    let is_small = body.announced().is_some_and(|rest| rest <= DRAIN_BYTES_MAX);
    if waits
        || body.is_failed()
        || !is_small
        || !body.drain(DRAIN_BYTES_MAX, DRAIN_TIME_MAX).await
        || body.had_trailers()
    {
        connection.set_linger();
    }
}

/// The limit that refused a request, if that is counted.
fn refusal(error: &Error) -> Option<Refusal> {
    match error.kind() {
        Kind::RateLimited(_) => Some(Refusal::Rate),
        Kind::QuotaReached(_) => Some(Refusal::Quota),
        _ => None,
    }
}

impl Handle for Service {
    type Body = Watched<Body>;

    async fn handle(
        &self,
        connection: &Arc<ConnectionInfo>,
        request: Request<Incoming>,
    ) -> Response<Watched<Body>> {
        let (head, incoming) = request.into_parts();
        let mut body = RequestBody::new(incoming, self.config.body_pace);
        let started = self.api.clock.monotonic();
        // `respond` drops the head, so that a request needs no more memory than these variables while the rest of its
        // body is drained and while the client reads the response.
        let mut answer = self.respond(connection, head, &mut body, started).await;
        settle(connection, answer.client_waits, &mut body).await;
        let answered = &mut answer.answered;
        answered.took = self.api.clock.monotonic() - started;
        answered.received_bytes = body.received_bytes();
        self.requests.record(answered);
        if let Some(access) = &mut answer.access {
            access.answered = answer.answered;
        }
        answer
            .response
            .map(|body| Watched::new(body, answer.access))
    }
}
