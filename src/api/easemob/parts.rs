//! Uploads in parts, as the web SDK 4.x makes them above 7.5 MiB.
//!
//! Begin, put the parts in any order and several at once, complete; or abort. The completed file is a file
//! like any other, with an id of its own, so that its life is counted from its completion.

use hyper::{Response, header};

use super::{
    Context,
    upload::{self, ThumbnailSize},
    wire,
};
use crate::{
    api::body::Body,
    error::{Error, Kind, Result},
    http::{
        body::RequestBody,
        multipart::{self, Form},
    },
    store::{
        Class, ObjectId,
        local::{PART_BYTES_MIN, PART_NUMBER_MAX, PartUpload, PartWriter, StoredPart},
    },
};

/// Bytes of a body that should be empty and is not looked at.
const EMPTY_BODY_BYTES_MAX: usize = 4096;
/// Bytes of the field `part_number`.
const FIELD_BYTES_MAX: usize = 64;

pub(super) async fn begin(context: &Context<'_>, body: &mut RequestBody) -> Result<Response<Body>> {
    let identity = context.authenticate()?;
    body.collect(EMPTY_BODY_BYTES_MAX).await?;
    let files = &context.api.files;
    let id = files.new_id()?;
    let owner = identity.user().unwrap_or_default().to_owned();
    files
        .parts()
        .begin(id, context.tenant.name(), owner)
        .await?;
    Ok(wire::parts_begun(
        context,
        id,
        PART_BYTES_MIN,
        context.tenant.limits.upload_bytes_max,
    ))
}

pub(super) async fn put(
    context: &Context<'_>,
    id: &str,
    body: &mut RequestBody,
) -> Result<Response<Body>> {
    let (parts, _) = find(context, id).await?;
    let bytes_max = context.tenant.limits.upload_bytes_max;
    let announced = multipart::bound(body, bytes_max)?;
    // A chunked part may become as large as a file may be.
    let part_bytes_max = announced.unwrap_or(bytes_max).min(bytes_max);
    let from_query = context
        .call
        .query("part_number")
        .map(|text| part_number(&text))
        .transpose()?;
    let is_form = context
        .call
        .header(header::CONTENT_TYPE.as_str())
        .is_some_and(|value| {
            value
                .trim_start()
                .to_ascii_lowercase()
                .starts_with("multipart/")
        });
    let (writer, number) = if is_form {
        let received = read_form(context, &parts, body, part_bytes_max).await?;
        multipart::finish(body).await?;
        received
    } else {
        (read_raw(&parts, body, part_bytes_max).await?, None)
    };
    let number = number
        .or(from_query)
        .ok_or_else(|| Error::invalid("part_number must be provided."))?;
    let part = finish(&parts, writer, number, bytes_max).await?;
    Ok(wire::parts(context, "put", &[part]))
}

/// A part counts with the others against the limit, a replaced one not. The others are counted now, not when
/// the part began: clients send several at once. What two that end at the same moment slip past here, the
/// completion refuses.
async fn finish(
    parts: &PartUpload,
    writer: PartWriter,
    number: u32,
    bytes_max: u64,
) -> Result<StoredPart> {
    if writer.bytes() == 0 {
        return Err(Error::invalid("the part is empty."));
    }
    let stored = parts.list().await?;
    let others = stored.iter().filter(|part| part.number != number);
    let others_bytes: u64 = others.map(|part| part.bytes).sum();
    if others_bytes.saturating_add(writer.bytes()) > bytes_max {
        return Err(Kind::TooLarge.into());
    }
    writer.finish(number).await
}

/// `part_file`, and `part_number` before or after it.
async fn read_form(
    context: &Context<'_>,
    parts: &PartUpload,
    body: &mut RequestBody,
    bytes_max: u64,
) -> Result<(PartWriter, Option<u32>)> {
    let mut form = Form::new(context.call.headers, body)?;
    let (mut file, mut number) = (None, None);
    while let Some(part) = form.next_part().await? {
        match part.name.as_str() {
            "part_file" | "file" if file.is_none() => {
                let mut writer = parts.begin_part(bytes_max).await?;
                while let Some(chunk) = form.chunk().await? {
                    writer.write(chunk).await?;
                    check_bytes(&writer, bytes_max)?;
                }
                file = Some(writer);
            }
            "part_number" => number = Some(part_number(&form.text(FIELD_BYTES_MAX).await?)?),
            _ => {}
        }
    }
    Ok((
        file.ok_or_else(|| Error::invalid("part_file must be provided."))?,
        number,
    ))
}

/// Native clients send the bytes bare.
async fn read_raw(
    parts: &PartUpload,
    body: &mut RequestBody,
    bytes_max: u64,
) -> Result<PartWriter> {
    let mut writer = parts.begin_part(bytes_max).await?;
    while let Some(chunk) = body.data().await {
        writer.write(chunk?).await?;
        check_bytes(&writer, bytes_max)?;
    }
    Ok(writer)
}

fn check_bytes(writer: &PartWriter, bytes_max: u64) -> Result<()> {
    if writer.bytes() > bytes_max {
        Err(Kind::TooLarge.into())
    } else {
        Ok(())
    }
}

pub(super) async fn list(context: &Context<'_>, id: &str) -> Result<Response<Body>> {
    let (parts, _) = find(context, id).await?;
    Ok(wire::parts(context, "get", &parts.list().await?))
}

pub(super) async fn complete(
    context: &Context<'_>,
    id: &str,
    body: &mut RequestBody,
) -> Result<Response<Body>> {
    let identity = context.authenticate()?;
    let (parts, id) = find(context, id).await?;
    body.collect(EMPTY_BODY_BYTES_MAX).await?;
    let bytes_max = context.tenant.limits.upload_bytes_max;
    let there: u64 = parts.list().await?.iter().map(|part| part.bytes).sum();
    let reserved = context.reserve(&identity, there.min(bytes_max))?;
    // Under a quota, parts that come meanwhile are too much.
    let bytes_max = reserved.bytes_max(bytes_max);
    let file = context
        .api
        .files
        .join(&parts, Class::Chatfile, bytes_max)
        .await?;
    let mut thumbnail = ThumbnailSize::from_headers(context);
    thumbnail.set_width(&context.call.query("thumbnail-width").unwrap_or_default());
    thumbnail.set_height(&context.call.query("thumbnail-height").unwrap_or_default());
    let restricted = upload::is_restricted(context);
    let answer = upload::store(context, &identity, file, reserved, restricted, thumbnail).await?;
    if let Err(error) = parts.remove().await {
        // The file is stored; what stays of its parts expires by itself.
        tracing::warn!(%id, %error, "the parts of a completed upload could not be removed");
    }
    Ok(answer)
}

pub(super) async fn abort(context: &Context<'_>, id: &str) -> Result<Response<Body>> {
    let (parts, id) = find(context, id).await?;
    parts.remove().await?;
    Ok(wire::parts_aborted(context, id))
}

/// The caller's own unfinished upload.
async fn find(context: &Context<'_>, id: &str) -> Result<(PartUpload, ObjectId)> {
    let identity = context.authenticate()?;
    let id = ObjectId::parse(id).ok_or(Kind::ObjectNotFound)?;
    let owner = identity.user().unwrap_or_default().to_owned();
    let parts = context
        .api
        .files
        .parts()
        .find(id, context.tenant.name(), owner, context.call.now)
        .await?;
    Ok((parts, id))
}

fn part_number(text: &str) -> Result<u32> {
    let number = text
        .trim()
        .parse()
        .ok()
        .filter(|number| (1..=PART_NUMBER_MAX).contains(number));
    number
        .ok_or_else(|| Error::invalid(format!("part_number must be from 1 to {PART_NUMBER_MAX}.")))
}
