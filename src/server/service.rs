//! The way of a request, on one page: route → admit → act → render.
//!
//! What a call does is the dialect's (`api/`); when a connection is cut is `connection.rs`'s.

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
    HeaderMap, Request, Response,
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
    api::{Api, Call, easemob, lanying, ops},
    delivery::Body,
    error::{Error, Kind, Result},
    http::{
        body::{Pace, RequestBody},
        cors::Cors,
        forwarded::{ForwardedHeader, client_address},
        framing,
        target::Target,
    },
    limit::{Limiter, Rate, UploadPermit},
    metrics::{Answered, Refusal, Requests, UploadLevels},
    routes::{self, Action},
    settings::{networks, number},
    tenant::{Limits, Tenants},
};

/// Answers every request.
pub struct Service {
    api: Api,
    admission: Admission,
    requests: Arc<Requests>,
    cors: Cors,
    config: Config,
    /// The proxy warning was given.
    warned: AtomicBool,
    /// Request ids: a random start for this run, then counted.
    request_ids: AtomicU64,
    /// Names this run in the health check.
    server: String,
}

/// Settings of the pipeline, from `[limits]` and others.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Networks whose forwarding header is believed.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// The header they write.
    pub forwarded_header: ForwardedHeader,
    /// The rate of calls that belong to no tenant.
    #[serde(skip)]
    pub default_rate: Rate,
    /// Bytes that uploads in flight may announce together.
    #[serde(deserialize_with = "number::<1, { 1 << 40 }, _, _>")]
    pub upload_bytes_in_flight_max: u64,
    /// Networks without a share of them to keep to: proxies, the backend's own servers.
    #[serde(skip)]
    pub upload_share_exempt: Vec<IpNet>,
    /// Of the CDN in front; then nothing but the health check is answered without it.
    #[serde(skip)]
    pub cdn_secret: Option<CdnSecret>,
    /// How fast bodies have to come.
    #[serde(skip)]
    pub body_pace: Pace,
    /// Which requests stand in the access log.
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
            body_pace: Pace::default(),
            access: Sample::default(),
        }
    }
}

/// An answer, decided before the rest of the request's body is drained.
struct Answer {
    response: Response<Body>,
    /// What is counted; how long it took and what was received is known after the drain.
    answered: Answered,
    access: Option<Access>,
    /// The client sends its body only after `100 Continue`.
    client_waits: bool,
}

/// A rest of a body that is worth reading for the sake of the connection.
const DRAIN_BYTES_MAX: u64 = 64 << 10;
/// And no longer than this.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

impl Service {
    /// Puts the parts together. `seed` is random: request ids of two runs must not meet.
    pub fn new(
        api: Api,
        limiter: Arc<Limiter>,
        cors: Cors,
        config: Config,
        server: String,
        seed: u64,
    ) -> Self {
        let bytes_max = config.upload_bytes_in_flight_max;
        let exempt = config.upload_share_exempt.clone();
        let admission = Admission::new(limiter, config.default_rate, bytes_max, exempt);
        let (warned, request_ids) = (AtomicBool::new(false), AtomicU64::new(seed));
        Self {
            api,
            admission,
            requests: Arc::new(Requests::new(routes::labels())),
            cors,
            config,
            warned,
            request_ids,
            server,
        }
    }

    /// The parts that background work shares.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// What is counted here.
    pub fn requests(&self) -> Arc<Requests> {
        self.requests.clone()
    }

    /// Bytes of uploads in flight.
    pub fn upload_levels(&self) -> UploadLevels {
        self.admission.upload_levels()
    }

    async fn answer(
        &self,
        connection: &ConnectionInfo,
        request: Request<Incoming>,
    ) -> Response<Watched<Body>> {
        let (head, incoming) = request.into_parts();
        let mut body = RequestBody::new(incoming, self.config.body_pace);
        let started = self.api.clock.monotonic();
        // The head ends with this call: while the rest of the body is drained, and while the client takes its time
        // over the answer, a request costs no more than these.
        let mut answer = self.respond(connection, head, &mut body, started).await;
        settle(connection, answer.client_waits, &mut body).await;
        let answered = &mut answer.answered;
        answered.took = self.api.clock.monotonic() - started;
        answered.received_bytes = body.received_bytes();
        self.requests.record(answered);
        let access = answer.access.map(|mut access| {
            access.answered = answer.answered;
            access
        });
        answer.response.map(|body| Watched::new(body, access))
    }

    /// Decides the whole answer; of the request's body, the handler reads what it needs.
    async fn respond(
        &self,
        connection: &ConnectionInfo,
        head: Parts,
        body: &mut RequestBody,
        started: Instant,
    ) -> Answer {
        let framing = framing::check(&head.method, head.version, &head.uri, &head.headers);
        if framing.is_err() {
            // What follows on this connection may be meant as this request's body.
            connection.set_linger();
        }
        let target = Target::new(head.uri);
        let call = Call {
            method: &head.method,
            target: &target,
            id: self.request_ids.fetch_add(1, Ordering::Relaxed),
            client: self.client(connection, &head.headers),
            is_tls: connection.is_tls,
            headers: &head.headers,
            now: self.api.clock.now(),
            started,
        };
        // A reload does not change the tenants of a request under way.
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

        let answered = Answered {
            route: label,
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
            path: target.to_string(),
            version: head.version,
            answered,
            started,
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
        match found {
            Ok(found) => Routed::new(found, call, tenants),
            Err(error) => Routed::without_route(error),
        }
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
        let easemob = || easemob::Context::new(&self.api, call, routed.tenant);
        let lanying = || lanying::Context::new(&self.api, call, routed.tenant);
        match action {
            Preflight => Ok(ops::preflight()),
            Health => Ok(ops::health(&self.server)),
            EasemobUpload => easemob::upload(&easemob()?, body).await,
            EasemobDownload => easemob::download(&easemob()?, params.id, routed.view?).await,
            EasemobToken => easemob::token(&easemob()?, body).await,
            EasemobBeginParts => easemob::parts::begin(&easemob()?, body).await,
            EasemobPutPart => easemob::parts::put(&easemob()?, params.id, body).await,
            EasemobListParts => easemob::parts::list(&easemob()?, params.id).await,
            EasemobCompleteParts => easemob::parts::complete(&easemob()?, params.id, body).await,
            EasemobAbortParts => easemob::parts::abort(&easemob()?, params.id).await,
            LanyingUserAvatarTicket => lanying::upload::user_avatar(&lanying()?),
            LanyingGroupAvatarTicket => lanying::upload::group_avatar(&lanying()?).await,
            LanyingChatTicket => lanying::upload::chat(&lanying()?).await,
            LanyingForward => lanying::forward(&lanying()?).await,
            LanyingDownloadAvatar => lanying::download::avatar(&lanying()?, routed.view).await,
            LanyingDownloadChat => lanying::download::chat(&lanying()?, routed.view).await,
            LanyingPostForm => lanying::post_form(&lanying()?, body, permit).await,
        }
    }

    /// Whom the call comes from. Warns once of a proxy that the configuration does not know.
    fn client(&self, connection: &ConnectionInfo, headers: &HeaderMap) -> IpAddr {
        let Config {
            trusted_proxies,
            forwarded_header,
            ..
        } = &self.config;
        let found = client_address(
            (!connection.is_local).then(|| connection.peer.ip()),
            headers,
            trusted_proxies,
            *forwarded_header,
        );
        if found.ignored_header && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                peer = %connection.peer.ip(),
                "a forwarding header of an untrusted peer is ignored: if this is your proxy, all its clients \
                 share one rate until it is listed in limits.trusted_proxies (said once)"
            );
        }
        found.address
    }
}

/// Reads or gives up what is left of a request's body, so that its client sees the answer.
///
/// A small rest is read, so that the connection can go on; a large one is discarded after the answer
/// (`set_linger`). A client that waits for `100 Continue`, and was not asked for its body, sends nothing. After a
/// trailer nothing is read as a request: hyper takes a bare line feed there as part of a line, so that it may end
/// elsewhere for a proxy.
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
        self.answer(connection, request).await
    }
}
