//! The console: a page for people at `/` of the operator listener, and the calls that it makes.
//!
//! The page is plain HTML, CSS and JavaScript in the binary. It has no data of its own; each call is authenticated.
//! Who may call is decided by `authenticator.rs`, and which pages may call, by `origin.rs`. Uploads of the try-out panel go to
//! the service of the public listener within this process, so that they work wherever the console does, without a
//! public address, CORS or a token in the browser.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Response, StatusCode, Uri,
    header::{self, HeaderName, HeaderValue},
    http::request::Parts,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    authenticator::{Authenticator, Caller},
    origin::{self, Foreign},
};
use crate::{
    api::{ops, query},
    delivery::{self, Body, CachePolicy, View},
    derivative::BoundingBox,
    error::{Error, Kind, Result},
    fair_queue::Claimant,
    files::{OpenFile, Reference},
    http::body::RequestBody,
    logging::{Actor, audit},
    retention,
    secret::Secret,
    server::{endpoint::Endpoint, service::Service},
    store::{Dialect, Key},
    tenant::Tenant,
    time::Timestamp,
};

const PAGE: &str = include_str!("console/index.html");
const STYLE: &str = include_str!("console/console.css");
const SCRIPT: &str = include_str!("console/console.js");
const ICON: &str = include_str!("console/icon.svg");

/// Only this page's own files, no inline code, no frames, no form that leaves the page. `blob:` shows a chosen picture
/// before its upload.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The headers of all responses of the console.
const SECURITY_HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// The longest JSON body of a call: a link, and room.
const JSON_BYTES_MAX: usize = 16 << 10;
/// The box of thumbnails in the page, in pixels.
const THUMBNAIL_SIDE: u16 = 320;
/// Paths below this one belong to the console.
const PREFIX: &str = "/console/";
/// The tenant whose turn it is if a file's tenant is not configured any more.
const NO_TENANT: u32 = u32::MAX;

/// What a request asks of the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// The page.
    Page,
    /// A file of the page: its type and its text.
    Asset(&'static str, &'static str),
    /// Begins a session with the token.
    LogIn,
    /// Ends the session.
    LogOut,
    /// Version, tenants and addresses.
    Info,
    /// The numbers of the charts.
    Levels,
    /// The metadata of a file.
    File,
    /// The thumbnail of a file.
    Thumbnail(Key),
    /// Takes a file down.
    TakeDown,
    /// Uploads a form as a user.
    Upload,
    /// A path of the console with another method; the allowed ones.
    WrongMethod(&'static str),
}

/// Answers the calls of the console.
pub struct Console {
    /// Who may call.
    pub authenticator: Arc<Authenticator>,
    /// The service of the public listener: its files, tenants and settings, and the uploads of the try-out panel.
    pub service: Arc<Service>,
    /// `operator.hosts`
    pub hosts: Vec<String>,
    /// The public listeners, for the commands that the page shows.
    pub endpoints: Vec<Endpoint>,
}

/// A call of the console that may be answered.
pub(super) struct Call {
    pub(super) head: Parts,
    pub(super) caller: Caller,
    pub(super) client: IpAddr,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogInBody {
    token: Secret,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileBody {
    /// An id, a key or a link.
    file: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TakeDownBody {
    /// The id of the file.
    id: String,
    /// The id again, or its end, as the operator has typed it.
    confirm: String,
}

impl Route {
    /// The route of a request; `None` if the path is not one of the console. `/` is the console's for browsers only:
    /// to all other clients it is an unknown path.
    pub(super) fn find(head: &Parts) -> Option<Self> {
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        let read = |route| match is_read {
            true => route,
            false => Self::WrongMethod("GET, HEAD"),
        };
        let posted = |route| match head.method == Method::POST {
            true => route,
            false => Self::WrongMethod("POST"),
        };
        Some(match head.uri.path() {
            "/" if is_read && accepts_html(&head.headers) => Self::Page,
            path => match path.strip_prefix(PREFIX)? {
                "console.css" => read(Self::Asset("text/css; charset=utf-8", STYLE)),
                "console.js" => read(Self::Asset("text/javascript; charset=utf-8", SCRIPT)),
                "icon.svg" => read(Self::Asset("image/svg+xml", ICON)),
                "api/session" if head.method == Method::POST => Self::LogIn,
                "api/session" if head.method == Method::DELETE => Self::LogOut,
                "api/session" => Self::WrongMethod("POST, DELETE"),
                "api/info" => read(Self::Info),
                "api/levels" => read(Self::Levels),
                "api/file" => posted(Self::File),
                "api/take-down" => posted(Self::TakeDown),
                "api/upload" => posted(Self::Upload),
                path => read(Self::Thumbnail(Key::parse(
                    path.strip_prefix("api/thumbnail/")?,
                )?)),
            },
        })
    }

    /// Whether everybody who reaches the listener gets it: the page without its data, and the login.
    const fn is_open(&self) -> bool {
        matches!(
            self,
            Self::Page | Self::Asset(..) | Self::LogIn | Self::WrongMethod(_)
        )
    }

    /// Whether a call needs the header that only the page sends. The lookup has no effect, but its body is as easy to
    /// send.
    const fn is_marked(&self) -> bool {
        matches!(
            self,
            Self::LogIn | Self::LogOut | Self::File | Self::TakeDown | Self::Upload
        )
    }
}

impl Console {
    /// Checks where a request comes from and who has sent it.
    ///
    /// # Errors
    /// The response to a request that is refused.
    pub(super) fn admit(
        &self,
        route: &Route,
        head: &Parts,
        client: IpAddr,
    ) -> Result<Caller, Box<Response<Body>>> {
        let foreign = || -> Result<(), Foreign> {
            origin::check_host(head, &self.hosts)?;
            // A link on another site may lead to the page, and reads nothing.
            if !matches!(route, Route::Page) {
                origin::check_page(head, &self.hosts)?;
            }
            if route.is_marked() {
                origin::check_marked(&head.headers)?;
            }
            Ok(())
        };
        if let Err(foreign) = foreign() {
            let body = json!({ "error": foreign.text() });
            return Err(Box::new(json(StatusCode::FORBIDDEN, &body)));
        }
        if route.is_open() {
            return Ok(Caller::Anyone);
        }
        let checked = self.authenticator.check(&head.headers, client);
        checked.map_err(|error| Box::new(refused(&error)))
    }

    /// Why a request that a browser has sent may come from another page; `None` if it does not. Checks less than
    /// [`Console::admit`]: programs may use any name for this listener.
    pub(super) fn foreign_page(&self, head: &Parts) -> Option<&'static str> {
        if !head.headers.contains_key(header::ORIGIN) {
            return None;
        }
        let checked = origin::check_host(head, &self.hosts)
            .and_then(|()| origin::check_page(head, &self.hosts));
        checked.err().map(Foreign::text)
    }

    /// Answers a call, except those that the parent answers.
    pub(super) async fn answer(
        &self,
        route: Route,
        call: &Call,
        body: &mut RequestBody,
    ) -> Response<Body> {
        let answered = match route {
            Route::Page => Ok(text("text/html; charset=utf-8", PAGE)),
            Route::Asset(content_type, asset) => Ok(text(content_type, asset)),
            Route::LogIn => self.log_in(call, body).await,
            Route::LogOut => self.log_out(call),
            Route::Info => Ok(json(StatusCode::OK, &self.info())),
            Route::File => self.file(call, body).await,
            Route::Thumbnail(key) => self.thumbnail(key, call).await,
            Route::TakeDown => self.take_down(call, body).await,
            Route::WrongMethod(allowed) => Ok(ops::only(allowed)),
            // The parent answers these: they need its other parts.
            Route::Levels | Route::Upload => Err(Kind::RouteNotFound.into()),
        };
        answered.unwrap_or_else(|error| refused(&error))
    }

    async fn log_in(&self, call: &Call, body: &mut RequestBody) -> Result<Response<Body>> {
        let LogInBody { token } = read(&call.head.headers, body).await?;
        let origin = call.head.headers.get(header::ORIGIN);
        let is_secure = origin.is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
        let trimmed = Secret::new(token.expose().trim());
        let cookie = self
            .authenticator
            .log_in(&trimmed, call.client, is_secure)?;
        self.audit("log-in", "console", "", call, "begun");
        Ok(with_cookie(cookie))
    }

    fn log_out(&self, call: &Call) -> Result<Response<Body>> {
        let cookie = self.authenticator.log_out(&call.head.headers)?;
        Ok(with_cookie(cookie))
    }

    /// What the page shows besides numbers.
    fn info(&self) -> Value {
        let api = self.service.api();
        let tenants = api.tenants.load();
        let tenants = tenants.iter().map(|tenant| {
            json!({
                "name": tenant.name(),
                "lanying_app_id": tenant.lanying.as_ref().map(|lanying| &lanying.app_id),
                "upload_bytes_max": tenant.limits.upload_bytes_max,
            })
        });
        let tenants: Vec<Value> = tenants.collect();
        let mut reachable = self
            .endpoints
            .iter()
            .filter(|endpoint| !endpoint.is_proxied);
        let listener = reachable.find_map(|endpoint| {
            let address = endpoint.address()?;
            let host = (!address.ip().is_unspecified()).then(|| match address.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            });
            let scheme = if endpoint.is_tls { "https" } else { "http" };
            Some(json!({ "scheme": scheme, "host": host, "port": address.port() }))
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "authentication": if self.authenticator.has_token() { "token" } else { "none" },
            "public_url": api.config.public_url.as_ref().map(ToString::to_string),
            "public_listener": listener,
            "tenants": tenants,
        })
    }

    async fn file(&self, call: &Call, body: &mut RequestBody) -> Result<Response<Body>> {
        let FileBody { file } = read(&call.head.headers, body).await?;
        let reference = Reference::parse(file.trim()).ok_or_else(|| {
            Error::invalid("the text has no id of a file: expected an id, a key or a link")
        })?;
        let api = self.service.api();
        let now = api.clock.now();
        let file = api.files.find(reference, now).await?;
        Ok(json(StatusCode::OK, &self.described(&file, now)))
    }

    /// The metadata of a file, without its secret, not even as a hash.
    fn described(&self, file: &OpenFile, now: Timestamp) -> Value {
        let (key, meta) = (file.object.key, &file.object.meta);
        let tenant = self.tenant(&meta.tenant);
        let expires = tenant
            .as_ref()
            .and_then(|tenant| retention::expires_at(meta.dialect, key, &tenant.limits.retention));
        let recognised = meta.sniffed_type.as_deref().unwrap_or_default();
        let may_have_thumbnail = ["image/", "video/"]
            .iter()
            .any(|family| recognised.starts_with(family));
        json!({
            "id": key.id.to_string(),
            "key": key.to_string(),
            "api": match meta.dialect {
                Dialect::Easemob => "easemob",
                Dialect::Lanying => "lanying",
            },
            "class": key.class.name(),
            "tenant": meta.tenant,
            "is_tenant_configured": tenant.is_some(),
            "owner": meta.owner,
            "recipient": meta.recipient,
            "file_name": meta.file_name,
            "content_type": meta.content_type,
            "recognised_type": meta.sniffed_type,
            "size_bytes": meta.len,
            "crc32": format!("{:08x}", meta.crc),
            "created_ms": meta.created.ms(),
            "expires_ms": expires.map(Timestamp::ms),
            "is_expired": expires.is_some_and(|end| end <= now),
            "is_restricted": meta.secret_hash.is_some(),
            "thumbnail": may_have_thumbnail.then(|| format!("{PREFIX}api/thumbnail/{key}")),
        })
    }

    fn tenant(&self, name: &str) -> Option<Arc<Tenant>> {
        let (org, app) = name.split_once('/')?;
        self.service.api().tenants.load().find(org, app).cloned()
    }

    async fn thumbnail(&self, key: Key, call: &Call) -> Result<Response<Body>> {
        let api = self.service.api();
        let now = api.clock.now();
        let file = api.files.find(Reference::from(key), now).await?;
        let tenant = self.tenant(&file.object.meta.tenant);
        let tenant = tenant.map_or(NO_TENANT, |tenant| tenant.index);
        let claimant = Claimant::new(tenant, call.client);
        let view = View::Thumbnail(Some(BoundingBox::square(THUMBNAIL_SIDE)));
        let content = view.make(&api.files, file, claimant).await?;
        let request = delivery::Request {
            method: &call.head.method,
            headers: &HeaderMap::new(),
            now,
            claimant,
        };
        let policy = CachePolicy::Private {
            expires: Some(now),
            vary: HeaderValue::from_static("cookie"),
        };
        let response = delivery::deliver(&request, &content, policy)?;
        // A file that serves as its own thumbnail may be of any kind of image; never show something else in this origin.
        let content_type = response.headers().get(header::CONTENT_TYPE);
        match content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"image/")) {
            true => Ok(response),
            false => Err(Kind::NoThumbnail.into()),
        }
    }

    async fn take_down(&self, call: &Call, body: &mut RequestBody) -> Result<Response<Body>> {
        let TakeDownBody { id, confirm } = read(&call.head.headers, body).await?;
        let reference = Reference::parse(id.trim());
        let id = reference
            .ok_or_else(|| Error::invalid("id: expected the id of a file"))?
            .id;
        if confirm.trim() != id.to_string() {
            return Err(Error::invalid("confirm: expected the id of the file again"));
        }
        let by = by(call);
        let actor = Actor {
            by: &by,
            request: Some(self.service.next_request_id()),
        };
        match self.service.api().files.remove(id, actor).await? {
            true => Ok(json(StatusCode::OK, &json!({ "removed": id.to_string() }))),
            false => Err(Kind::ObjectNotFound.into()),
        }
    }

    /// Turns a call into an upload of a user to the Easemob API: the query names tenant and user, the body is the form.
    ///
    /// # Errors
    /// `InvalidArgument`: the tenant is not configured, or the name of the user is not valid.
    pub(super) fn upload(&self, call: Call) -> Result<Parts> {
        let (caller_query, api) = (
            call.head.uri.query().unwrap_or_default(),
            self.service.api(),
        );
        let parameter = |name: &str| query::first(caller_query, name).unwrap_or_default();
        let (name, user) = (parameter("tenant"), parameter("user"));
        let tenant = self
            .tenant(&name)
            .ok_or_else(|| Error::invalid(format!("tenant: \"{name}\" is not configured")))?;
        let token = api.grants.operator(&tenant, &user, api.clock.now())?;
        self.audit("upload-as", &user, &tenant.name(), &call, "begun");
        let path = format!("/{}/chatfiles", tenant.name());
        let uri = Uri::try_from(path).map_err(Error::internal)?;
        let mut head = call.head;
        // Nothing but the body, and what says whose it is.
        let mut headers = HeaderMap::new();
        for name in [
            header::CONTENT_TYPE,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::EXPECT,
            header::HOST,
            header::FORWARDED,
            HeaderName::from_static("x-forwarded-for"),
        ] {
            for value in head.headers.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
        let bearer = format!("Bearer {}", token.expose());
        let mut bearer = HeaderValue::try_from(bearer).map_err(Error::internal)?;
        bearer.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, bearer);
        self.service.mark_trusted(&mut headers);
        (head.headers, head.uri) = (headers, uri);
        Ok(head)
    }

    fn audit(
        &self,
        action: &'static str,
        object: &str,
        tenant: &str,
        call: &Call,
        outcome: &'static str,
    ) {
        let by = by(call);
        let actor = Actor {
            by: &by,
            request: Some(self.service.next_request_id()),
        };
        audit(action, object, tenant, actor, outcome);
    }
}

/// The actor of a call in the audit log.
fn by(call: &Call) -> String {
    let client = call.client;
    match &call.caller {
        Caller::Anyone => format!("console {client}"),
        Caller::Token => format!("console {client}, with the token"),
        Caller::Session(name) => format!("console {client}, session {name}"),
    }
}

/// Whether the client prefers a page to a text: browsers name the type, other clients accept anything.
fn accepts_html(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    accepted.any(|value| {
        value
            .split(',')
            .any(|range| range.trim_start().starts_with("text/html"))
    })
}

/// Reads a JSON body whose type is declared: a form of another page cannot declare it without a preflight.
async fn read<T: DeserializeOwned>(headers: &HeaderMap, body: &mut RequestBody) -> Result<T> {
    let declared = headers.get(header::CONTENT_TYPE);
    let declared = declared.and_then(|value| value.to_str().ok());
    let media_type = declared.and_then(|value| value.split(';').next());
    if !media_type.is_some_and(|name| name.trim().eq_ignore_ascii_case("application/json")) {
        return Err(Kind::UnsupportedMediaType.into());
    }
    // Zeroed when dropped, because it may hold the token.
    let text = String::from_utf8(body.collect(JSON_BYTES_MAX).await?).map(Secret::new);
    let text = text.map_err(|_| Error::invalid("the body is not UTF-8"))?;
    // The error of serde may quote the body.
    serde_json::from_str(text.expose())
        .map_err(|_| Error::invalid("the body is not the JSON that this call expects"))
}

/// The response to a call that failed.
pub(super) fn refused(error: &Error) -> Response<Body> {
    let (status, text) = match error.kind() {
        Kind::InvalidArgument => {
            let text = error.public_text().unwrap_or("the request is not valid");
            (StatusCode::BAD_REQUEST, text)
        }
        Kind::TokenMissing => (StatusCode::UNAUTHORIZED, "log in with the operator's token"),
        Kind::TokenInvalid => (StatusCode::UNAUTHORIZED, "this is not the operator's token"),
        Kind::RateLimited(_) => (
            StatusCode::TOO_MANY_REQUESTS,
            "too many wrong tokens from this address",
        ),
        Kind::ObjectNotFound => (StatusCode::NOT_FOUND, "there is no such file"),
        Kind::NoThumbnail => (StatusCode::NOT_FOUND, "the file has no thumbnail"),
        Kind::UnsupportedMediaType => (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "expected Content-Type: application/json",
        ),
        Kind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
        Kind::RequestTimeout | Kind::Disconnected => (
            StatusCode::REQUEST_TIMEOUT,
            "the body did not come to its end in time",
        ),
        Kind::Unavailable(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the server cannot do this now; try again",
        ),
        _ => {
            tracing::error!(%error, "a call of the console failed");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "the server failed; its log says why",
            )
        }
    };
    let mut response = json(status, &json!({ "error": text }));
    let headers = response.headers_mut();
    if let Kind::RateLimited(wait) | Kind::Unavailable(wait) = error.kind() {
        let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
    }
    response
}

/// A JSON response.
pub(super) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = text("application/json", &value.to_string());
    *response.status_mut() = status;
    response
}

fn text(content_type: &'static str, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(text.to_owned())));
    let content_type = HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

fn with_cookie(cookie: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}

/// Headers with which the public listener lets pages of other origins read a response.
const CROSS_ORIGIN_HEADERS: [HeaderName; 2] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
];

/// Adds the security headers of the console to a response, and removes those of the public listener.
pub(super) fn secured<B>(mut response: Response<B>) -> Response<B> {
    for name in CROSS_ORIGIN_HEADERS {
        response.headers_mut().remove(name);
    }
    for (name, value) in SECURITY_HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
