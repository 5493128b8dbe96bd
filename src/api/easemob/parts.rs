//! The requests of uploads in parts, which the web SDK 4.x uses above 7.5 MiB.
//!
//! A client begins an upload, sends parts in any order and several at once, then completes or aborts it. The completed
//! file has an id of its own, so its retention is counted from its completion. Bounds, and that an upload is completed
//! once, belong to `files/parts.rs`.

use hyper::{Response, header};

use super::{
    Context,
    upload::{self, ThumbnailSize},
    wire,
};
use crate::{
    auth::Identity,
    delivery::Body,
    error::{Error, Kind, Result},
    files::{Completion, PartUpload, ReceivedPart},
    http::{
        body::RequestBody,
        multipart::{self, Form},
    },
    limit::Owner,
    store::{ObjectId, PART_BYTES_MIN, PART_NUMBER_MAX},
};

/// The largest body of a request that should have none. The body is ignored.
const EMPTY_BODY_BYTES_MAX: usize = 4096;
/// The largest size of the field `part_number`.
const FIELD_BYTES_MAX: usize = 64;

pub(crate) async fn begin(context: &Context<'_>, body: &mut RequestBody) -> Result<Response<Body>> {
    let identity = context.authenticate().await?;
    body.collect(EMPTY_BODY_BYTES_MAX).await?;
    let files = &context.api.files;
    let id = files.new_id()?;
    files.parts().begin(id, owner(context, &identity)).await?;
    Ok(wire::parts_begun(
        context,
        id,
        PART_BYTES_MIN,
        context.tenant.limits.upload_bytes_max,
    ))
}

pub(crate) async fn put(
    context: &Context<'_>,
    id: &str,
    body: &mut RequestBody,
) -> Result<Response<Body>> {
    let identity = context.authenticate().await?;
    let upload = find(context, &identity, id).await?;
    let upload_bytes_max = context.tenant.limits.upload_bytes_max;
    let announced = multipart::bound(body, upload_bytes_max)?;
    // A chunked part may be as large as a file.
    let bytes_max = announced.unwrap_or(u64::MAX).min(upload_bytes_max);
    let from_query = context
        .call
        .query("part_number")
        .map(|text| part_number(&text))
        .transpose()?;
    // Before the first byte of the body is read.
    let reserved = context.reserve(&identity, bytes_max)?;
    let part = upload.receive(bytes_max, upload_bytes_max, reserved);
    let (part, number) = if is_form(context) {
        let mut form = Form::new(context.call.headers, body)?;
        let received = read_form(&mut form, part.await?).await?;
        drop(form);
        multipart::finish(body).await?;
        received
    } else {
        (read_raw(body, part.await?).await?, None)
    };
    let number = number
        .or(from_query)
        .ok_or_else(|| Error::invalid("part_number must be provided."))?;
    let part = part.finish(number).await?;
    Ok(wire::parts(context, "put", &[part]))
}

fn is_form(context: &Context<'_>) -> bool {
    let content_type = context.call.header(header::CONTENT_TYPE.as_str());
    content_type.is_some_and(|value| {
        let value = value.trim_start().to_ascii_lowercase();
        value.starts_with("multipart/")
    })
}

/// Reads the form: `part_file`, and `part_number` before or after it.
async fn read_form(
    form: &mut Form<'_>,
    mut file: ReceivedPart,
) -> Result<(ReceivedPart, Option<u32>)> {
    let (mut has_file, mut number) = (false, None);
    while let Some(part) = form.next_part().await? {
        match part.name.as_str() {
            "part_file" | "file" if !has_file => {
                has_file = true;
                while let Some(chunk) = form.chunk().await? {
                    file.write(chunk).await?;
                }
            }
            "part_number" => number = Some(part_number(&form.text(FIELD_BYTES_MAX).await?)?),
            _ => {}
        }
    }
    if !has_file {
        return Err(Error::invalid("part_file must be provided."));
    }
    Ok((file, number))
}

/// Reads the body of a native client, which sends the bytes without a form.
async fn read_raw(body: &mut RequestBody, mut part: ReceivedPart) -> Result<ReceivedPart> {
    while let Some(chunk) = body.data().await {
        part.write(chunk?).await?;
    }
    Ok(part)
}

pub(crate) async fn list(context: &Context<'_>, id: &str) -> Result<Response<Body>> {
    let identity = context.authenticate().await?;
    let upload = find(context, &identity, id).await?;
    Ok(wire::parts(context, "get", &upload.list().await?))
}

pub(crate) async fn complete(
    context: &Context<'_>,
    id: &str,
    body: &mut RequestBody,
) -> Result<Response<Body>> {
    let identity = context.authenticate().await?;
    let id = ObjectId::parse(id).ok_or(Kind::ObjectNotFound)?;
    body.collect(EMPTY_BODY_BYTES_MAX).await?;
    let mut thumbnail = ThumbnailSize::from_headers(context);
    thumbnail.set_width(&context.call.query("thumbnail-width").unwrap_or_default());
    thumbnail.set_height(&context.call.query("thumbnail-height").unwrap_or_default());
    let restricted = upload::is_restricted(context);
    let Completion { stored, is_new } = context
        .api
        .files
        .complete(
            id,
            owner(context, &identity),
            context.call.claimant(context.tenant),
            upload::attributes(context, &identity, restricted, thumbnail),
            context.tenant.limits.upload_bytes_max,
        )
        .await?;
    if is_new {
        context.call.log_stored(&stored);
    }
    Ok(wire::uploaded(context, &stored))
}

pub(crate) async fn abort(context: &Context<'_>, id: &str) -> Result<Response<Body>> {
    let identity = context.authenticate().await?;
    let upload = find(context, &identity, id).await?;
    let id = upload.id();
    upload.abort().await?;
    Ok(wire::parts_aborted(context, id))
}

/// Finds an unfinished upload of the caller.
async fn find(context: &Context<'_>, identity: &Identity, id: &str) -> Result<PartUpload> {
    let id = ObjectId::parse(id).ok_or(Kind::ObjectNotFound)?;
    let parts = context.api.files.parts();
    parts.find(id, owner(context, identity)).await
}

/// The owner of uploads that the caller begins.
fn owner(context: &Context<'_>, identity: &Identity) -> Owner {
    Owner {
        tenant: context.tenant.name().into(),
        user: identity.user().unwrap_or_default().into(),
        client: Some(context.call.claimant(context.tenant)),
    }
}

fn part_number(text: &str) -> Result<u32> {
    match text.trim().parse() {
        Ok(number) if (1..=PART_NUMBER_MAX).contains(&number) => Ok(number),
        _ => Err(Error::invalid(format!(
            "part_number must be from 1 to {PART_NUMBER_MAX}."
        ))),
    }
}
