//! `GET /{org}/{app}/chatfiles/{uuid}`: sends a file, its thumbnail or its voice in another format, or redirects to a signed URL.

use hyper::{Response, header::HeaderValue};

use super::Context;
use crate::{
    api::{Call, signed_url},
    delivery::{Body, CachePolicy, NotConvertible, View, deliver},
    derivative::VoiceFormat,
    error::{Error, Kind, Result},
    files::OpenFile,
    http::accept::media_ranges,
    retention,
    store::{Class, Dialect, Key, ObjectId},
    tenant::{DownloadAuth, Tenant},
};

/// The request headers that authorize the request or choose the view.
const VARY: HeaderValue =
    HeaderValue::from_static("Authorization, share-secret, thumbnail, Accept");

/// The query parameter for a voice in another format: an element of a page, such as `<audio>`, cannot send `Accept`.
const VOICE: &str = "voice";
/// Its values. `Accept` has the same choices, except AMR.
const VOICES: [(&str, View); 3] = [
    ("mp3", View::Voice(VoiceFormat::Mp3, NotConvertible::Refuse)),
    (
        "mp3-or-stored",
        View::Voice(VoiceFormat::Mp3, NotConvertible::SendOriginal),
    ),
    ("amr", View::Voice(VoiceFormat::Amr, NotConvertible::Refuse)),
];

/// Answers a download. `view` is what [`view`] found in the call; its error comes after those of the caller.
pub(crate) async fn download(
    context: &Context<'_>,
    id: &str,
    view: Result<View>,
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
    if url_expires.is_none() {
        check_secret(call, &file)?;
    }
    let view = view?;
    let cache_policy = match url_expires {
        Some(url_expires) => CachePolicy::public(url_expires, expires),
        None => {
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
///
/// # Errors
/// `InvalidArgument`: `?voice=` has an unknown value.
pub(crate) fn view(call: &Call<'_>, tenant: Option<&Tenant>) -> Result<View> {
    match tenant.is_some_and(|tenant| signed_url::is_signed(call, tenant)) {
        true => view_of_url(call),
        false => view_of_request(call),
    }
}

/// A thumbnail, if the query or the header asks for one; else the voice of the query; else that of `Accept`.
fn view_of_request(call: &Call<'_>) -> Result<View> {
    if wants_thumbnail(call) {
        return Ok(View::Thumbnail(None));
    }
    if let Some(voice) = voice_of_query(call)? {
        return Ok(voice);
    }
    Ok(accepts_mp3(call).map_or(View::Original, |or_else| {
        View::Voice(VoiceFormat::Mp3, or_else)
    }))
}

/// Reads a query that [`target`] wrote.
fn view_of_url(call: &Call<'_>) -> Result<View> {
    if call.query("thumbnail").is_some() {
        return Ok(View::Thumbnail(None));
    }
    Ok(voice_of_query(call)?.unwrap_or(View::Original))
}

/// The voice that `?voice=` asks for. An empty value counts as absent.
///
/// # Errors
/// `InvalidArgument`.
fn voice_of_query(call: &Call<'_>) -> Result<Option<View>> {
    if call.target.query().is_none() {
        return Ok(None);
    }
    let Some(sent) = call.query(VOICE).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let mut voices = VOICES.iter();
    match voices.find(|(value, _)| *value == sent) {
        Some((_, view)) => Ok(Some(*view)),
        None => Err(Error::invalid("voice must be mp3, mp3-or-stored or amr")),
    }
}

/// Path and query of this view of a file.
fn target(view: View, tenant: &Tenant, id: ObjectId) -> String {
    let path = format!("/{}/{}/chatfiles/{id}", tenant.org, tenant.app);
    if let View::Thumbnail(_) = view {
        return format!("{path}?thumbnail=true");
    }
    let mut voices = VOICES.iter();
    match voices.find(|(_, voice)| *voice == view) {
        Some((value, _)) => format!("{path}?{VOICE}={value}"),
        None => path,
    }
}

/// Whether `Accept` names `audio/mp3`, the vendor's name for `audio/mpeg`, and whether it accepts the stored format
/// too. Other types mean nothing: SDKs send `*/*` or arbitrary types for any file.
fn accepts_mp3(call: &Call<'_>) -> Option<NotConvertible> {
    const MP3: &[&str] = &["audio/mp3", "audio/mpeg"];
    const STORED: &[&str] = &[
        "*/*",
        "audio/*",
        "audio/amr",
        "audio/amr-wb",
        "application/octet-stream",
    ];
    let accepts = |names: &[&str]| {
        media_ranges(call.headers)
            .any(|range| names.iter().any(|name| range.is(name)) && range.weight() > 0.0)
    };
    if !accepts(MP3) {
        return None;
    }
    match accepts(STORED) {
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
