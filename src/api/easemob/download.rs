//! `GET /{org}/{app}/chatfiles/{uuid}`: the file, or its thumbnail.

use hyper::{
    Response,
    header::{self, HeaderValue},
};

use super::Context;
use crate::{
    api::{
        Call,
        body::Body,
        deliver::{Content, deliver},
    },
    error::{Error, Kind, Result},
    media::{sniff::Sniffed, voice::VoiceFormat},
    retention,
    store::{Class, Dialect, Key, ObjectId},
    tenant::DownloadAuth,
};

/// The request headers that choose the body, and who may have it.
const VARY: HeaderValue =
    HeaderValue::from_static("Authorization, share-secret, thumbnail, Accept");

pub(super) async fn download(context: &Context<'_>, id: &str) -> Result<Response<Body>> {
    let call = context.call;
    if context.tenant.download_auth == DownloadAuth::Token {
        context.authenticate()?;
    }
    // A name that cannot be an id is an object that cannot be there.
    let id = ObjectId::parse(id).ok_or(Kind::ObjectNotFound)?;
    let key = Key::of(Class::Chatfile, id);
    let files = &context.api.files;
    let file = files
        .open(context.scope(), key, call.now)
        .await
        .map_err(|error| match error.kind() {
            Kind::ObjectExpired => {
                Error::new(Kind::ObjectExpired).public(format!("file {id} is expired"))
            }
            _ => error,
        })?;
    // Either place will do: SDKs fill the other one with `undefined`.
    let from_query = call.query("share-secret");
    file.check_secret(call.header("share-secret"))
        .or_else(|_| file.check_secret(from_query.as_deref()))?;
    let content = if wants_thumbnail(call) {
        let made = files.thumbnail(&file, None).await?;
        Content::of(made, file)
    } else if matches!(file.kind, Some(Sniffed::AmrNb | Sniffed::AmrWb))
        && let Some(wish) = mp3_wish(call)
    {
        match files.voice(&file, VoiceFormat::Mp3).await {
            // It said that anything else will do, too.
            Err(error) if error.kind() == Kind::NotConvertible && wish == Mp3Wish::Rather => {
                Content::Original(file)
            }
            made => Content::of(made?, file),
        }
    } else {
        Content::Original(file)
    };
    let expires = retention::expires_at(Dialect::Easemob, key, &context.tenant.limits.days);
    deliver(call, &content, expires, VARY)
}

/// How much a client wants MP3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mp3Wish {
    /// Nothing else will do.
    Only,
    /// Rather than what there is, which will do.
    Rather,
}

/// `Accept: audio/mp3`, the vendor's name for `audio/mpeg`. Others say nothing: SDKs send `*/*` or what they
/// like for any file.
pub(super) fn mp3_wish(call: &Call<'_>) -> Option<Mp3Wish> {
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
        true => Some(Mp3Wish::Rather),
        false => Some(Mp3Wish::Only),
    }
}

/// `thumbnail: true`, `?thumbnail=true`, and `?vframe=true`, a video's first frame.
pub(super) fn wants_thumbnail(call: &Call<'_>) -> bool {
    let is_true = |value: &str| value.trim().eq_ignore_ascii_case("true");
    call.header("thumbnail").is_some_and(is_true)
        || call.target.query().is_some()
            && ["thumbnail", "vframe"]
                .into_iter()
                .any(|name| call.query(name).is_some_and(|value| is_true(&value)))
}
