//! `GET /file/download/chat` and `/avatar`: the file, something made of it, or where to have that made.

use hyper::{Response, header::HeaderValue};

use super::{
    Context, HookAction,
    link::{Link, ToType},
    process, sdk_sign,
    store_token::Viewer,
    wire,
};
use crate::{
    api::{
        Call,
        body::Body,
        deliver::{Content, deliver},
    },
    error::{Error, Kind, Result},
    files::OpenFile,
    media::voice::VoiceFormat,
    retention,
    store::{BoundingBox, Class, Dialect, Key},
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
    /// `thumbnail_strategy` 1, and not `source=miniprogram`: WeChat follows no redirect to a domain that it
    /// does not know.
    may_redirect: bool,
    /// `w` and `h`.
    fit: Option<BoundingBox>,
}

pub(super) async fn chat(context: &Context<'_>) -> Result<Response<Body>> {
    let credential = context.credential()?;
    let file_sign = context.required("file_sign")?;
    let link = Link::verify(context.lanying, &file_sign)?;
    let view = View::of(context)?;
    if let Viewer::User(user) = context.viewer(credential, link.key)? {
        sdk_sign::check(context)?;
        check_rights(context, &link, &user).await?;
    }
    let source = process::Source {
        key: link.key,
        path: "/file/download/chat",
        parameter: ("file_sign", &file_sign),
    };
    send(context, &source, &view).await
}

pub(super) async fn avatar(context: &Context<'_>) -> Result<Response<Body>> {
    let credential = context.credential()?;
    let object = context.required("object_name")?;
    let key = Key::parse(&object)
        .filter(|key| key.class == Class::Avatar)
        .ok_or(Kind::ObjectNotFound)?;
    let view = View::of(context)?;
    // Avatars are for every user of the application.
    if let Viewer::User(_) = context.viewer(credential, key)? {
        sdk_sign::check(context)?;
    }
    let source = process::Source {
        key,
        path: "/file/download/avatar",
        parameter: ("object_name", &object),
    };
    send(context, &source, &view).await
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

async fn send(
    context: &Context<'_>,
    source: &process::Source<'_>,
    view: &View,
) -> Result<Response<Body>> {
    let (call, key) = (context.call, source.key);
    let files = &context.api.files;
    let file = files.open(context.scope(), key, call.now).await?;
    let content = if view.wants_picture {
        if view.may_redirect
            && let Some(url) = process::url(context, source, &file, view.fit)
        {
            return wire::redirect(&url);
        }
        let made = files.thumbnail(&file, view.fit).await?;
        Content::of(made, file)
    } else if let Some(format) = view.format.filter(|_| is_voice(key, &file)) {
        let made = files.voice(&file, format).await?;
        Content::of(made, file)
    } else {
        Content::Original(file)
    };
    let expires = retention::expires_at(Dialect::Lanying, key, &context.tenant.limits.days);
    deliver(call, &content, expires, VARY)
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
            may_redirect: third_party && !is_miniprogram,
            fit,
        })
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
