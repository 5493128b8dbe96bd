//! The form POST that a ticket leads to: OSS's PostObject, on the embedded store.
//!
//! Everything is checked before the first byte of the file is written: policy, signature, expiry, key, size.
//! Headers and query are ignored: whoever has the policy may use it.

use hyper::Response;

use super::{
    Context, oss,
    policy::{self, Fields},
    upload::{TICKET, form_url},
};
use crate::{
    api::no_room,
    delivery::{Body, etag},
    derivative::BoundingBox,
    error::{Error, Kind, PolicyFault, Result},
    files::Attributes,
    http::{
        body::RequestBody,
        multipart::{self, FORM_OVERHEAD_BYTES, Form},
    },
    limit::UploadPermit,
    store::Key,
};

pub(crate) async fn post(
    context: &Context<'_>,
    body: &mut RequestBody,
    mut permit: Option<UploadPermit<'_>>,
) -> Result<Response<Body>> {
    let Context {
        api,
        call,
        tenant,
        lanying,
    } = context;
    let announced = multipart::bound(body, tenant.limits.upload_bytes_max)?;
    let mut form = Form::new(call.headers, body)?;
    let (fields, part) = fields_before_file(&mut form).await?;
    let accepted = policy::check(
        &fields,
        &lanying.app_id,
        &lanying.app_id,
        &lanying.upload_key,
        call.now,
    )?;
    // A policy of ours lives for as long as every ticket. One that somebody else signed names no user and no moment of
    // issue: it ends with the upload key.
    if let Some(owner) = &accepted.owner
        && tenant.is_revoked(Some(owner), accepted.expires.minus(TICKET))
    {
        return Err(policy::revoked());
    }
    let key = object(&accepted.object)?;
    let bytes_max = tenant.limits.upload_bytes_max.min(*accepted.bytes.end());
    if announced.is_some_and(|whole| whole > bytes_max.saturating_add(FORM_OVERHEAD_BYTES)) {
        return Err(Kind::TooLarge.into());
    }
    if api.files.is_taken(key).await? {
        return Err(Kind::AlreadyExists.into());
    }
    // From here on it is somebody's.
    if permit.as_mut().is_some_and(|permit| !permit.take_rest()) {
        return Err(no_room());
    }
    let owner = accepted.owner.as_deref().unwrap_or_default();
    let reserved = api.reserve(
        call,
        tenant,
        owner,
        announced.unwrap_or(bytes_max).min(bytes_max),
    )?;
    let declared = fields.get("content-type").map(str::to_owned);
    let declared = declared.or(part.content_type).filter(|kind| !is_json(kind));
    let received = api
        .files
        .receive(
            &mut form,
            key,
            bytes_max,
            announced,
            part.file_name,
            declared,
        )
        .await?;
    if received.bytes() < *accepted.bytes.start() {
        return Err(Kind::TooSmall.into());
    }
    while let Some(after) = form.next_part().await? {
        // The button of an HTML form, as the vendor's samples have it.
        if !after.name.eq_ignore_ascii_case("submit") {
            return Err(Error::invalid(
                "the file must be the last field of the form.",
            ));
        }
    }
    drop(form);
    multipart::finish(body).await?;
    let attributes = Attributes {
        scope: context.scope(),
        owner,
        restricted: false,
        thumbnail: BoundingBox::DEFAULT,
        recipient: accepted.recipient.as_deref(),
    };
    let stored = api.files.commit(received, attributes, reserved).await?;
    call.log_stored(&stored);
    let object = stored.key.to_string();
    let location = format!("{}/{object}", form_url(context));
    let etag = etag(stored.key.id);
    Ok(oss::stored(
        call,
        accepted.success,
        &lanying.app_id,
        &object,
        &location,
        &etag,
    ))
}

async fn fields_before_file(form: &mut Form<'_>) -> Result<(Fields, multipart::Part)> {
    let mut fields = Fields::default();
    while let Some(part) = form.next_part().await? {
        if part.name.eq_ignore_ascii_case("file") {
            return Ok((fields, part));
        }
        let value = form.text(fields.bytes_left()).await?;
        fields.insert(&part.name, value)?;
    }
    Err(Error::invalid("the form has no file."))
}

/// A key names an object of the day of its own id: forwarding alone gives it another.
fn object(name: &str) -> Result<Key> {
    Key::parse(name)
        .filter(|key| *key == Key::of(key.class, key.id))
        .ok_or_else(|| Kind::Policy(PolicyFault::ObjectName).into())
}

/// Clients tell a file from an error by this type.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}
