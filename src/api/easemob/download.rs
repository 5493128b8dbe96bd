//! `GET /{org}/{app}/chatfiles/{uuid}`: the file, its thumbnail, or where to have them.

use std::sync::Arc;

use hyper::{
    Response,
    header::{self, HeaderValue},
};

use super::Context;
use crate::{
    api::{
        Call,
        body::Body,
        deliver::{Content, Keep, deliver},
        signed_url,
    },
    error::{Error, Kind, Result},
    files::OpenFile,
    media::{sniff::Sniffed, voice::VoiceFormat},
    retention,
    store::{Class, Dialect, Key, ObjectId},
    tenant::{DownloadAuth, Tenant},
};

/// The request headers that choose the body, and who may have it.
const VARY: HeaderValue =
    HeaderValue::from_static("Authorization, share-secret, thumbnail, Accept");

/// In the query of a signed URL: a voice's format, and what it may be.
const VOICE: &str = "voice";
const MP3: &str = "mp3";
const MP3_OR_STORED: &str = "mp3-or-stored";

pub(super) async fn download(context: &Context<'_>, id: &str) -> Result<Response<Body>> {
    let Context { api, call, tenant } = context;
    let url_end = signed_url::verify(call, tenant)?;
    if url_end.is_none() && !matches!(tenant.download_auth, DownloadAuth::Secret) {
        context.authenticate()?;
    }
    // A name that cannot be an id is an object that cannot be there.
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
    let (view, keep) = match url_end {
        Some(end) => (View::of_url(call), Keep::everybody(end, expires)),
        None => {
            check_secret(call, &file)?;
            let view = View::wanted(call, &file);
            let target = view.target(tenant, id);
            if let Some(redirect) = signed_url::redirect(api, call, tenant, id, &target) {
                return redirect;
            }
            let (until, vary) = (expires, VARY);
            (view, Keep::Client { until, vary })
        }
    };
    let content = view.make(context, file).await?;
    deliver(call, tenant, &content, keep)
}

/// Either place will do: SDKs fill the other one with `undefined`.
fn check_secret(call: &Call<'_>, file: &OpenFile) -> Result<()> {
    let from_query = call.query("share-secret");
    file.check_secret(call.header("share-secret"))
        .or_else(|_| file.check_secret(from_query.as_deref()))
}

/// In what form a file is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    Stored,
    Thumbnail,
    Mp3(Mp3Wish),
}

impl View {
    /// As headers and query of a call say it.
    fn wanted(call: &Call<'_>, file: &OpenFile) -> Self {
        if wants_thumbnail(call) {
            return Self::Thumbnail;
        }
        match mp3_wish(call) {
            Some(wish) if matches!(file.kind, Some(Sniffed::AmrNb | Sniffed::AmrWb)) => {
                Self::Mp3(wish)
            }
            _ => Self::Stored,
        }
    }

    /// As a URL says it that [`View::target`] made.
    fn of_url(call: &Call<'_>) -> Self {
        if call.query("thumbnail").is_some() {
            return Self::Thumbnail;
        }
        match call.query(VOICE).as_deref() {
            Some(MP3) => Self::Mp3(Mp3Wish::Only),
            Some(_) => Self::Mp3(Mp3Wish::Rather),
            None => Self::Stored,
        }
    }

    /// Path and query of this form of a file.
    fn target(self, tenant: &Tenant, id: ObjectId) -> String {
        let path = format!("/{}/{}/chatfiles/{id}", tenant.org, tenant.app);
        match self {
            Self::Stored => path,
            Self::Thumbnail => format!("{path}?thumbnail=true"),
            Self::Mp3(Mp3Wish::Only) => format!("{path}?{VOICE}={MP3}"),
            Self::Mp3(Mp3Wish::Rather) => format!("{path}?{VOICE}={MP3_OR_STORED}"),
        }
    }

    async fn make(self, context: &Context<'_>, file: Arc<OpenFile>) -> Result<Content> {
        let files = &context.api.files;
        let claimant = context.call.claimant(context.tenant);
        match self {
            Self::Stored => Ok(Content::Original(file)),
            Self::Thumbnail => {
                let made = files.thumbnail(&file, None, claimant).await?;
                Ok(Content::of(made, file))
            }
            Self::Mp3(wish) => match files.voice(&file, VoiceFormat::Mp3, claimant).await {
                // It said that anything else will do, too.
                Err(error) if error.kind() == Kind::NotConvertible && wish == Mp3Wish::Rather => {
                    Ok(Content::Original(file))
                }
                made => Ok(Content::of(made?, file)),
            },
        }
    }
}

/// How much a client wants MP3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mp3Wish {
    /// Nothing else will do.
    Only,
    /// Rather than what there is, which will do.
    Rather,
}

/// `Accept: audio/mp3`, the vendor's name for `audio/mpeg`. Others say nothing: SDKs send `*/*` or what they
/// like for any file.
fn mp3_wish(call: &Call<'_>) -> Option<Mp3Wish> {
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

/// Whether a call counts as one for something that must be made.
pub(super) fn wants_derivative(call: &Call<'_>) -> bool {
    wants_thumbnail(call) || mp3_wish(call).is_some() || call.query(VOICE).is_some()
}

/// `thumbnail: true`, `?thumbnail=true`, and `?vframe=true`, a video's first frame.
fn wants_thumbnail(call: &Call<'_>) -> bool {
    let is_true = |value: &str| value.trim().eq_ignore_ascii_case("true");
    call.header("thumbnail").is_some_and(is_true)
        || call.target.query().is_some()
            && ["thumbnail", "vframe"]
                .into_iter()
                .any(|name| call.query(name).is_some_and(|value| is_true(&value)))
}
