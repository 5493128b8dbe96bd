//! `GET /{org}/{app}/chatfiles/{uuid}`: the file, or its thumbnail.

use hyper::{Response, header::HeaderValue};

use super::Context;
use crate::{
    api::{
        Call,
        body::Body,
        deliver::{Content, deliver},
    },
    error::{Error, Kind, Result},
    files::Thumbnail,
    retention,
    store::{Class, ObjectId},
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
    let files = &context.api.files;
    let file = files
        .open(context.scope(), Class::Chatfile, id, call.now)
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
        match files.thumbnail(&file).await? {
            Thumbnail::Derived(derived) => Content::Derived(derived, file),
            Thumbnail::Original => Content::Original(file),
        }
    } else {
        Content::Original(file)
    };
    let expires = retention::expires_at(id.created(), context.tenant.limits.chatfile_days);
    deliver(call, &content, expires, VARY)
}

/// `thumbnail: true`, `?thumbnail=true`, and `?vframe=true`: of a video, which is not decoded yet, a 404.
pub(super) fn wants_thumbnail(call: &Call<'_>) -> bool {
    let is_true = |value: &str| value.trim().eq_ignore_ascii_case("true");
    call.header("thumbnail").is_some_and(is_true)
        || call.uri.query().is_some()
            && ["thumbnail", "vframe"]
                .into_iter()
                .any(|name| call.query(name).is_some_and(|value| is_true(&value)))
}
