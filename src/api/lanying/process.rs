//! Thumbnails and covers made by an external image service: the URL to redirect a client to, from a configured
//! template.
//!
//! ```text
//! https://img.example.com/{object}?x-oss-process=image/resize,m_lfit,w_{w},h_{h}
//!   {object}  class.YYYY-MM-DD.uuid     {w} {h}  the size in pixels
//!   {app_id}  the tenant                {source} this server's URL of the original, percent-encoded; it needs no
//!                                                token for at least half an hour
//! ```
//! The URL is the same for half an hour, so that the service and caches can reuse their copy.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Context, store_token};
use crate::{derivative::BoundingBox, files::OpenFile, store::Key};

/// The original for the image service to fetch.
pub(super) struct Source<'a> {
    pub(super) key: Key,
    pub(super) path: &'static str,
    /// The parameter that names the file, and its value.
    pub(super) parameter: (&'static str, &'a str),
}

/// The URL of a thumbnail or cover of this file; `None` if no service is configured for it.
pub(super) fn url(
    context: &Context<'_>,
    source: &Source<'_>,
    file: &OpenFile,
    fit: Option<BoundingBox>,
) -> Option<String> {
    let processing = &context.lanying.processing;
    let template = if file.kind.is_image() {
        processing.image_url.as_ref()?
    } else if file.kind.is_video() {
        processing.video_url.as_ref()?
    } else {
        return None;
    };
    let fit = fit.unwrap_or(file.object.meta.thumbnail);
    Some(
        template
            .replace("{object}", &source.key.to_string())
            .replace("{app_id}", &context.lanying.app_id)
            .replace("{w}", &fit.width().to_string())
            .replace("{h}", &fit.height().to_string())
            .replace("{source}", &encoded_source(context, source)),
    )
}

fn encoded_source(context: &Context<'_>, source: &Source<'_>) -> String {
    let (tenant, lanying, now) = (context.tenant, context.lanying, context.call.now);
    let token = store_token::issue_to_server(tenant, lanying, source.key, now);
    let base = context.call.public_url(context.api);
    let (name, value) = source.parameter;
    let url = format!(
        "{base}{}?app_id={}&store_token={token}&{name}={value}",
        source.path, lanying.app_id
    );
    utf8_percent_encode(&url, NON_ALPHANUMERIC).to_string()
}
