//! `GET /file/upload/forward`: makes a link for another recipient to the same file. No bytes are copied.

use hyper::Response;

use super::{
    Context, HookAction, download,
    link::Link,
    upload::{chat_url, recipient},
    wire,
};
use crate::{delivery::Body, error::Result};

/// Requires the right to open the file: otherwise a user could forward the files of others to themselves.
pub(crate) async fn forward(context: &Context<'_>) -> Result<Response<Body>> {
    let user = context.authenticate().await?;
    let source = Link::verify(context.lanying, &context.required("file_sign")?)?;
    let (to_type, to) = recipient(context)?;
    download::check_rights(context, &source, &user).await?;
    context
        .ask_backend(&user, HookAction::Forward, (to_type, &to), None)
        .await?;
    let files = &context.api.files;
    let now = context.call.now;
    let file = files.open(context.scope(), source.key, now).await?;
    let link = Link {
        from: user,
        to,
        to_type,
        key: files.forward(&file, now).await?,
    };
    Ok(wire::data(&chat_url(context, &link)))
}
