//! `GET /file/download/chat` and `/avatar`: the file, something made of it, or where to have that made.

use std::sync::Arc;

use hyper::{Response, header::HeaderValue};

use super::{
    Context, HookAction,
    link::{Link, ToType},
    process, sdk_sign,
    store_token::Viewer,
};
use crate::{
    api::{
        Call, answer,
        body::Body,
        deliver::{Content, Keep, deliver},
        signed_url,
    },
    error::{Error, Kind, Result},
    files::OpenFile,
    media::voice::VoiceFormat,
    retention,
    store::{BoundingBox, Class, Dialect, Key},
    time::Timestamp,
};

/// The request headers that say who may have the body; what it is stands in the query.
const VARY: HeaderValue = HeaderValue::from_static("access-token, app_id, user_id");
/// Each side of a thumbnail at the most.
const SIDE_MAX: u16 = 2048;

/// What of a file is asked for.
#[derive(Debug, PartialEq, Eq)]
struct View {
    /// `image_type` 2 or 3, a thumbnail or a cover: which of them it is, the file decides.
    wants_picture: bool,
    /// `format`; `None`: as it is stored.
    format: Option<VoiceFormat>,
    /// `thumbnail_strategy` 1: somebody else may make it.
    may_be_made_elsewhere: bool,
    /// Not `source=miniprogram`: WeChat follows no redirect to a domain that it does not know.
    may_redirect: bool,
    /// `w` and `h`.
    fit: Option<BoundingBox>,
}

const CHAT: &str = "/file/download/chat";
const AVATAR: &str = "/file/download/avatar";

pub(super) async fn chat(context: &Context<'_>) -> Result<Response<Body>> {
    if let Some(end) = signed_url::verify(context.call, context.tenant)? {
        return send_signed(context, end).await;
    }
    let credential = context.credential()?;
    let file_sign = context.required("file_sign")?;
    let link = Link::verify(context.lanying, &file_sign)?;
    let view = View::of(context)?;
    let viewer = context.viewer(credential, link.key)?;
    if let Viewer::User(user) = &viewer {
        sdk_sign::check(context)?;
        check_rights(context, &link, user).await?;
    }
    let source = process::Source {
        key: link.key,
        path: CHAT,
        parameter: ("file_sign", &file_sign),
    };
    send(context, &source, &viewer, &view).await
}

pub(super) async fn avatar(context: &Context<'_>) -> Result<Response<Body>> {
    if let Some(end) = signed_url::verify(context.call, context.tenant)? {
        return send_signed(context, end).await;
    }
    let credential = context.credential()?;
    let object = context.required("object_name")?;
    let key = Key::parse(&object)
        .filter(|key| key.class == Class::Avatar)
        .ok_or(Kind::ObjectNotFound)?;
    let view = View::of(context)?;
    // Avatars are for every user of the application.
    let viewer = context.viewer(credential, key)?;
    if let Viewer::User(_) = &viewer {
        sdk_sign::check(context)?;
    }
    let source = process::Source {
        key,
        path: AVATAR,
        parameter: ("object_name", &object),
    };
    send(context, &source, &viewer, &view).await
}

/// Whether a user may open what a link leads to: with `strict_recipients`, a file for one user is for that
/// one and the sender alone; beyond that, the chat backend says, where it wants to be asked.
///
/// # Errors
/// `Forbidden`, `Denied`, `Unavailable`.
pub(super) async fn check_rights(context: &Context<'_>, link: &Link, user: &str) -> Result<()> {
    let is_party = user == link.from || user == link.to;
    if context.lanying.strict_recipients && link.to_type == ToType::User && !is_party {
        return Err(Error::new(Kind::Forbidden).public("the file was sent to somebody else"));
    }
    let (to, from) = ((link.to_type, &*link.to), Some(&*link.from));
    context
        .ask_backend(user, HookAction::Download, to, from)
        .await
}

/// Sends what a viewer may have, or the viewer to where it is.
async fn send(
    context: &Context<'_>,
    source: &process::Source<'_>,
    viewer: &Viewer,
    view: &View,
) -> Result<Response<Body>> {
    let Context {
        api, call, tenant, ..
    } = context;
    let (key, scope) = (source.key, context.scope());
    let file = api.files.open(scope, key, call.now).await?;
    if view.may_redirect
        && view.wants_picture
        && view.may_be_made_elsewhere
        && let Some(url) = process::url(context, source, &file, view.fit)
    {
        return answer::redirect(&url);
    }
    // Whoever makes pictures has a URL that opens already.
    if view.may_redirect && *viewer != Viewer::Server {
        let target = view.target(context, source.path, key);
        if let Some(redirect) = signed_url::redirect(api, call, tenant, key.id, &target) {
            return redirect;
        }
    }
    let content = view.make(context, key, file).await?;
    let (until, vary) = (expires_at(context, key), VARY);
    deliver(call, tenant, &content, Keep::Client { until, vary })
}

/// Sends what a signed URL leads to, which [`View::target`] made.
async fn send_signed(context: &Context<'_>, url_end: Timestamp) -> Result<Response<Body>> {
    let object = context.required("object_name")?;
    let key = Key::parse(&object).ok_or(Kind::ObjectNotFound)?;
    let view = View::of(context)?;
    let call = context.call;
    let file = context
        .api
        .files
        .open(context.scope(), key, call.now)
        .await?;
    let content = view.make(context, key, file).await?;
    deliver(
        call,
        context.tenant,
        &content,
        Keep::everybody(url_end, expires_at(context, key)),
    )
}

fn expires_at(context: &Context<'_>, key: Key) -> Option<Timestamp> {
    retention::expires_at(Dialect::Lanying, key, &context.tenant.limits.retention)
}

/// A voice by its type, and one that can be converted by its bytes; another is sent as it is.
fn is_voice(key: Key, file: &OpenFile) -> bool {
    matches!(key.class, Class::Voice | Class::SharedVoice)
        && file.kind.is_some_and(|kind| kind.is_voice())
}

/// Whether a call counts as one for something that must be made.
pub(super) fn wants_derivative(call: &Call<'_>) -> bool {
    let picture = call.query("image_type");
    picture.is_some_and(|kind| matches!(&*kind, "2" | "3")) || call.query("format").is_some()
}

impl View {
    /// Duplicates occur, and the first wins; unknown parameters change nothing.
    fn of(context: &Context<'_>) -> Result<Self> {
        let wants_picture = match context.query("image_type").as_deref() {
            None | Some("1") => false,
            Some("2" | "3") => true,
            Some(_) => return Err(Error::invalid("image_type must be 1, 2 or 3")),
        };
        let format = match context.query("format").as_deref() {
            None => None,
            Some("amr") => Some(VoiceFormat::Amr),
            Some("mp3") => Some(VoiceFormat::Mp3),
            Some(_) => return Err(Error::invalid("format must be amr or mp3")),
        };
        let third_party = match context.query("thumbnail_strategy").as_deref() {
            None | Some("1") => true,
            Some("2") => false,
            Some(_) => return Err(Error::invalid("thumbnail_strategy must be 1 or 2")),
        };
        let is_miniprogram = context.query("source").as_deref() == Some("miniprogram");
        let fit = match (side(context, "w")?, side(context, "h")?) {
            (None, None) => None,
            (width, height) => Some(BoundingBox {
                width: width.unwrap_or(SIDE_MAX),
                height: height.unwrap_or(SIDE_MAX),
            }),
        };
        Ok(Self {
            wants_picture,
            format,
            may_be_made_elsewhere: third_party,
            may_redirect: !is_miniprogram,
            fit,
        })
    }

    /// Path and query of an object seen so: the object itself, not the link that led to it, so that all who may see
    /// it share one URL.
    fn target(&self, context: &Context<'_>, path: &str, key: Key) -> String {
        let mut target = format!("{path}?app_id={}&object_name={key}", context.lanying.app_id);
        if self.wants_picture {
            target.push_str("&image_type=2");
        }
        if let Some(BoundingBox { width, height }) = self.fit.filter(|_| self.wants_picture) {
            target.push_str(&format!("&w={width}&h={height}"));
        }
        match self.format.filter(|_| !self.wants_picture) {
            Some(VoiceFormat::Amr) => target.push_str("&format=amr"),
            Some(VoiceFormat::Mp3) => target.push_str("&format=mp3"),
            None => {}
        }
        target
    }

    async fn make(&self, context: &Context<'_>, key: Key, file: Arc<OpenFile>) -> Result<Content> {
        let files = &context.api.files;
        let claimant = context.call.claimant(context.tenant);
        if self.wants_picture {
            let made = files.thumbnail(&file, self.fit, claimant).await?;
            return Ok(Content::of(made, file));
        }
        match self.format.filter(|_| is_voice(key, &file)) {
            Some(format) => {
                let made = files.voice(&file, format, claimant).await?;
                Ok(Content::of(made, file))
            }
            None => Ok(Content::Original(file)),
        }
    }
}

fn side(context: &Context<'_>, name: &str) -> Result<Option<u16>> {
    let Some(text) = context.query(name) else {
        return Ok(None);
    };
    let pixels = text.parse().ok();
    pixels
        .filter(|pixels| (1..=SIDE_MAX).contains(pixels))
        .map(Some)
        .ok_or_else(|| Error::invalid(format!("{name} must be a number from 1 to {SIDE_MAX}")))
}
