//! `GET /file/download/chat` and `/avatar`: sends a file or a derivative of it, or redirects to a signed URL or an
//! image service.

use std::{borrow::Cow, sync::Arc};

use hyper::{Response, header::HeaderValue};

use super::{
    Context, HookAction,
    link::{Link, ToType},
    process, sdk_sign,
    store_token::Viewer,
};
use crate::{
    api::{Call, answer, signed_url},
    delivery::{Body, CachePolicy, NotConvertible, View, deliver},
    derivative::{BoundingBox, VoiceFormat},
    error::{Error, Kind, Result},
    files::OpenFile,
    retention,
    store::{Class, Dialect, Key},
    time::Timestamp,
};

/// The request headers that authorize the request. The query alone chooses the view.
const VARY: HeaderValue = HeaderValue::from_static("access-token, app_id, user_id");

/// Where a viewer may be redirected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Redirects {
    /// `thumbnail_strategy` 1: an image service may make the picture.
    image_service: bool,
    /// Not `source=miniprogram`: WeChat follows no redirect to a domain that it does not know.
    any: bool,
}

const CHAT: &str = "/file/download/chat";
const AVATAR: &str = "/file/download/avatar";

/// Answers a download by link. `view` is what [`view`] found in the call; its error comes after those of the caller.
pub(crate) async fn chat(context: &Context<'_>, view: Result<View>) -> Result<Response<Body>> {
    if let Some(expires) = signed_url::verify(context.call, context.tenant)? {
        return send_signed(context, expires, view).await;
    }
    let credential = context.credential().await?;
    let file_sign = context.required("file_sign")?;
    let link = Link::verify(context.lanying, &file_sign)?;
    let (view, redirects) = (view?, Redirects::parse(context.call)?);
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
    send(context, &source, &viewer, view, redirects).await
}

/// Answers a download of an avatar. `view` is what [`view`] found in the call.
pub(crate) async fn avatar(context: &Context<'_>, view: Result<View>) -> Result<Response<Body>> {
    if let Some(expires) = signed_url::verify(context.call, context.tenant)? {
        return send_signed(context, expires, view).await;
    }
    let credential = context.credential().await?;
    let object = context.required("object_name")?;
    let key = Key::parse(&object)
        .filter(|key| key.class == Class::Avatar)
        .ok_or(Kind::ObjectNotFound)?;
    let (view, redirects) = (view?, Redirects::parse(context.call)?);
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
    send(context, &source, &viewer, view, redirects).await
}

/// Checks whether a user may open the file of a link. With `strict_recipients`, only the sender and the recipient may
/// open a file for one user. Then the chat backend is asked, if it has a hook.
///
/// # Errors
/// `Forbidden`, `Denied`, `Unavailable`.
pub(super) async fn check_rights(context: &Context<'_>, link: &Link, user: &str) -> Result<()> {
    let is_party = user == link.from || user == link.to;
    if context.lanying.strict_recipients && link.to_type == ToType::User && !is_party {
        return Err(Error::new(Kind::Forbidden).public("the file was sent to another user"));
    }
    let (to, from) = ((link.to_type, &*link.to), Some(&*link.from));
    context
        .ask_backend(user, HookAction::Download, to, from)
        .await
}

/// Sends the file, or redirects the viewer to where it is.
async fn send(
    context: &Context<'_>,
    source: &process::Source<'_>,
    viewer: &Viewer,
    view: View,
    redirects: Redirects,
) -> Result<Response<Body>> {
    let Context {
        api, call, tenant, ..
    } = context;
    let key = source.key;
    let file = api.files.open(context.scope(), key, call.now).await?;
    if redirects.any
        && redirects.image_service
        && let View::Thumbnail(fit) = view
        && let Some(url) = process::url(context, source, &file, fit)
    {
        return answer::redirect(&url);
    }
    // An image service has a URL already that opens the file.
    if redirects.any && *viewer != Viewer::Server {
        let target = target(context, source.path, key, view);
        if let Some(redirect) = signed_url::redirect(api, call, tenant, key.id, &target) {
            return redirect;
        }
    }
    let (expires, vary) = (expires_at(context, key), VARY);
    let cache_policy = CachePolicy::Private { expires, vary };
    render(context, view, file, cache_policy).await
}

/// Answers a signed URL that [`target`] wrote.
async fn send_signed(
    context: &Context<'_>,
    url_expires: Timestamp,
    view: Result<View>,
) -> Result<Response<Body>> {
    let object = context.required("object_name")?;
    let key = Key::parse(&object).ok_or(Kind::ObjectNotFound)?;
    let view = view?;
    let files = &context.api.files;
    let file = files.open(context.scope(), key, context.call.now).await?;
    let cache_policy = CachePolicy::public(url_expires, expires_at(context, key));
    render(context, view, file, cache_policy).await
}

/// Only files that were uploaded as voices are converted; others are sent as they are.
async fn render(
    context: &Context<'_>,
    view: View,
    file: Arc<OpenFile>,
    cache_policy: CachePolicy,
) -> Result<Response<Body>> {
    let view = match (view, file.object.key.class) {
        (View::Voice(..), Class::Voice | Class::SharedVoice) => view,
        (View::Voice(..), _) => View::Original,
        _ => view,
    };
    let request = context.call.delivery(context.tenant);
    let content = view
        .make(&context.api.files, file, request.claimant)
        .await?;
    deliver(&request, &content, cache_policy)
}

fn expires_at(context: &Context<'_>, key: Key) -> Option<Timestamp> {
    retention::expires_at(Dialect::Lanying, key, &context.tenant.limits.retention)
}

/// What of the file a call asks for: `image_type` 2 or 3 (a thumbnail or a cover, which the file decides) with `w` and
/// `h`, else `format`. If a parameter is repeated, the first one counts. Unknown parameters are ignored.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn view(call: &Call<'_>) -> Result<View> {
    let wants_picture = match parameter(call, "image_type").as_deref() {
        None | Some("1") => false,
        Some("2" | "3") => true,
        Some(_) => return Err(Error::invalid("image_type must be 1, 2 or 3")),
    };
    let format = match parameter(call, "format").as_deref() {
        None => None,
        Some("amr") => Some(VoiceFormat::Amr),
        Some("mp3") => Some(VoiceFormat::Mp3),
        Some(_) => return Err(Error::invalid("format must be amr or mp3")),
    };
    let fit = match (side(call, "w")?, side(call, "h")?) {
        (None, None) => None,
        (width, height) => Some(BoundingBox::new(
            width.unwrap_or(BoundingBox::SIDE_MAX),
            height.unwrap_or(BoundingBox::SIDE_MAX),
        )),
    };
    Ok(match format {
        _ if wants_picture => View::Thumbnail(fit),
        Some(format) => View::Voice(format, NotConvertible::Refuse),
        None => View::Original,
    })
}

impl Redirects {
    fn parse(call: &Call<'_>) -> Result<Self> {
        let image_service = match parameter(call, "thumbnail_strategy").as_deref() {
            None | Some("1") => true,
            Some("2") => false,
            Some(_) => return Err(Error::invalid("thumbnail_strategy must be 1 or 2")),
        };
        let any = parameter(call, "source").as_deref() != Some("miniprogram");
        Ok(Self { image_service, any })
    }
}

/// Path and query of this view of an object. It names the object and not the link that led to it, so that everyone who
/// may see it uses the same URL.
fn target(context: &Context<'_>, path: &str, key: Key, view: View) -> String {
    let mut target = format!("{path}?app_id={}&object_name={key}", context.lanying.app_id);
    target.push_str(match view {
        View::Original => "",
        View::Thumbnail(_) => "&image_type=2",
        View::Voice(VoiceFormat::Amr, _) => "&format=amr",
        View::Voice(VoiceFormat::Mp3, _) => "&format=mp3",
    });
    if let View::Thumbnail(Some(fit)) = view {
        target.push_str(&format!("&w={}&h={}", fit.width(), fit.height()));
    }
    target
}

fn side(call: &Call<'_>, name: &str) -> Result<Option<u16>> {
    let Some(text) = parameter(call, name) else {
        return Ok(None);
    };
    let side_max = BoundingBox::SIDE_MAX;
    let pixels = text.parse().ok();
    pixels
        .filter(|pixels| (1..=side_max).contains(pixels))
        .map(Some)
        .ok_or_else(|| Error::invalid(format!("{name} must be a number from 1 to {side_max}")))
}

/// A query parameter; an empty one counts as absent.
fn parameter<'c>(call: &'c Call<'_>, name: &str) -> Option<Cow<'c, str>> {
    call.query(name).filter(|value| !value.is_empty())
}
