//! `GET /{org}/{app}/chatfiles/{uuid}`: sends a file, its thumbnail or its voice as MP3, or redirects to a signed URL.

use hyper::{
    Response,
    header::{self, HeaderValue},
};

use super::Context;
use crate::{
    api::{Call, signed_url},
    delivery::{Body, CachePolicy, NotConvertible, View, deliver},
    derivative::VoiceFormat,
    error::{Error, Kind, Result},
    files::OpenFile,
    retention,
    store::{Class, Dialect, Key, ObjectId},
    tenant::{DownloadAuth, Tenant},
};

/// The request headers that authorize the request or choose the view.
const VARY: HeaderValue =
    HeaderValue::from_static("Authorization, share-secret, thumbnail, Accept");

/// The query parameter of a signed URL for [`View::Voice`], and its values.
const VOICE: &str = "voice";
const MP3: &str = "mp3";
const MP3_OR_STORED: &str = "mp3-or-stored";

/// Answers a download. `view` is what [`view`] found in the call.
pub(crate) async fn download(
    context: &Context<'_>,
    id: &str,
    view: View,
) -> Result<Response<Body>> {
    let Context { api, call, tenant } = context;
    let url_expires = signed_url::verify(call, tenant)?;
    if url_expires.is_none() && !matches!(tenant.download_auth, DownloadAuth::Secret) {
        context.authenticate().await?;
    }
    // An object whose name is not a valid id cannot exist.
    let id = ObjectId::parse(id).ok_or(Kind::ObjectNotFound)?;
    let key = Key::of(Class::Chatfile, id);
    let opened = api.files.open(context.scope(), key, call.now).await;
    let file = opened.map_err(|error| match error.kind() {
        Kind::ObjectExpired => {
            Error::new(Kind::ObjectExpired).public(format!("file {id} is expired"))
        }
        _ => error,
    })?;
    let expires = retention::expires_at(Dialect::Easemob, key, &tenant.limits.retention);
    let cache_policy = match url_expires {
        Some(url_expires) => CachePolicy::public(url_expires, expires),
        None => {
            check_secret(call, &file)?;
            let target = target(view.of(&file), tenant, id);
            if let Some(redirect) = signed_url::redirect(api, call, tenant, id, &target) {
                return redirect;
            }
            let vary = VARY;
            CachePolicy::Private { expires, vary }
        }
    };
    let request = call.delivery(tenant);
    let content = view.make(&api.files, file, request.claimant).await?;
    deliver(&request, &content, cache_policy)
}

/// Accepts the secret in the header or the query: SDKs fill the other one with `undefined`.
fn check_secret(call: &Call<'_>, file: &OpenFile) -> Result<()> {
    let from_query = call.query("share-secret");
    file.check_secret(call.header("share-secret"))
        .or_else(|_| file.check_secret(from_query.as_deref()))
}

/// What of the file a call asks for. A signed URL chooses by its query alone, any other call by headers and query.
pub(crate) fn view(call: &Call<'_>, tenant: Option<&Tenant>) -> View {
    match tenant.is_some_and(|tenant| signed_url::is_signed(call, tenant)) {
        true => view_of_url(call),
        false => view_of_request(call),
    }
}

fn view_of_request(call: &Call<'_>) -> View {
    if wants_thumbnail(call) {
        return View::Thumbnail(None);
    }
    accepts_mp3(call).map_or(View::Original, |or_else| {
        View::Voice(VoiceFormat::Mp3, or_else)
    })
}

/// Reads a query that [`target`] wrote.
fn view_of_url(call: &Call<'_>) -> View {
    if call.query("thumbnail").is_some() {
        return View::Thumbnail(None);
    }
    match call.query(VOICE).as_deref() {
        Some(MP3) => View::Voice(VoiceFormat::Mp3, NotConvertible::Refuse),
        Some(_) => View::Voice(VoiceFormat::Mp3, NotConvertible::SendOriginal),
        None => View::Original,
    }
}

/// Path and query of this view of a file.
fn target(view: View, tenant: &Tenant, id: ObjectId) -> String {
    let path = format!("/{}/{}/chatfiles/{id}", tenant.org, tenant.app);
    match view {
        View::Original => path,
        View::Thumbnail(_) => format!("{path}?thumbnail=true"),
        View::Voice(_, NotConvertible::Refuse) => format!("{path}?{VOICE}={MP3}"),
        View::Voice(_, NotConvertible::SendOriginal) => format!("{path}?{VOICE}={MP3_OR_STORED}"),
    }
}

/// Whether `Accept` names `audio/mp3`, the vendor's name for `audio/mpeg`, and whether it accepts the stored format
/// too. Other types mean nothing: SDKs send `*/*` or arbitrary types for any file.
fn accepts_mp3(call: &Call<'_>) -> Option<NotConvertible> {
    let types = || {
        let accepted = call.headers.get_all(header::ACCEPT).iter();
        accepted.flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
    };
    let is_any = |names: &[&[u8]], range: &[u8]| {
        let mut fields = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let essence = fields.next().unwrap_or_default();
        // RFC 9110 §12.4.2: a weight of 0 is "not acceptable".
        let is_refused = |field: &[u8]| {
            field
                .strip_prefix(b"q=")
                .is_some_and(|weight| weight.iter().all(|byte| matches!(byte, b'0' | b'.')))
        };
        names.iter().any(|name| essence.eq_ignore_ascii_case(name)) && !fields.any(is_refused)
    };
    if !types().any(|range| is_any(&[b"audio/mp3", b"audio/mpeg"], range)) {
        return None;
    }
    let stored: [&[u8]; 5] = [
        b"*/*",
        b"audio/*",
        b"audio/amr",
        b"audio/amr-wb",
        b"application/octet-stream",
    ];
    match types().any(|range| is_any(&stored, range)) {
        true => Some(NotConvertible::SendOriginal),
        false => Some(NotConvertible::Refuse),
    }
}

/// `thumbnail: true`, `?thumbnail=true`, or `?vframe=true`, the first frame of a video.
fn wants_thumbnail(call: &Call<'_>) -> bool {
    let is_true = |value: &str| value.trim().eq_ignore_ascii_case("true");
    call.header("thumbnail").is_some_and(is_true)
        || call.target.query().is_some()
            && ["thumbnail", "vframe"]
                .into_iter()
                .any(|name| call.query(name).is_some_and(|value| is_true(&value)))
}
