//! The form POST of an upload ticket: OSS's PostObject.
//!
//! Policy, signature, expiry, key and size are checked before the first byte of the file is written. Headers and query
//! are ignored: anyone who has the policy may use it.

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

const NO_FILE: &str = "the form has no file: the part with the file must be named `file`.";

/// Stores the file of a form. `permit` holds its share of the budget of uploads in flight.
pub(crate) async fn post(
    context: &Context<'_>,
    body: &mut RequestBody,
    mut permit: Option<UploadPermit<'_>>,
) -> Result<Response<Body>> {
    let (api, call, tenant) = (context.api, context.call, context.tenant);
    let announced = multipart::bound(body, tenant.limits.upload_bytes_max)?;
    let mut form = Form::new(call.headers, body)?;
    let (fields, part) = fields_before_file(&mut form).await?;
    let (policy, key, bytes_max) = authorize(context, &fields, announced).await?;
    // The policy is valid; reserve the rest of the upload budget.
    if permit.as_mut().is_some_and(|permit| !permit.take_rest()) {
        return Err(no_room());
    }
    let owner = policy.owner.as_deref().unwrap_or_default();
    let bytes = announced.unwrap_or(bytes_max).min(bytes_max);
    let reserved = api.reserve(call, tenant, owner, bytes)?;
    let (files, name, declared) = (
        &api.files,
        part.file_name,
        declared_type(&fields, part.content_type),
    );
    let received = files.receive(&mut form, key, bytes_max, announced, name, declared);
    let received = received.await?;
    if received.bytes() < *policy.bytes.start() {
        return Err(Kind::TooSmall.into());
    }
    end_of_form(form).await?;
    multipart::finish(body).await?;
    let attributes = Attributes {
        scope: context.scope(),
        owner,
        restricted: false,
        thumbnail: BoundingBox::DEFAULT,
        recipient: policy.recipient.as_deref(),
    };
    let stored = files.commit(received, attributes, reserved).await?;
    call.log_stored(&stored);
    Ok(answer(context, policy.success, stored.key))
}

fn answer(context: &Context<'_>, success: policy::Success, key: Key) -> Response<Body> {
    let object = oss::StoredObject {
        bucket: &context.lanying.app_id,
        key: &key.to_string(),
        location: &format!("{}/{key}", form_url(context)),
        etag: &etag(key.id),
    };
    oss::stored(context.call, success, &object)
}

/// Checks the policy, and the object that it allows. Returns the largest allowed size, too.
async fn authorize(
    context: &Context<'_>,
    fields: &Fields,
    announced: Option<u64>,
) -> Result<(policy::Accepted, Key, u64)> {
    let (tenant, lanying) = (context.tenant, context.lanying);
    let (app_id, upload_key) = (&*lanying.app_id, &lanying.upload_key);
    let policy = policy::check(fields, app_id, app_id, upload_key, context.call.now)?;
    // Policies that we issue expire with their ticket, so the expiry gives the time of issue. A policy signed elsewhere
    // has no owner and no time of issue; only a new upload key revokes it.
    if let Some(owner) = &policy.owner
        && tenant.is_revoked(Some(owner), policy.expires.minus(TICKET))
    {
        return Err(policy::revoked());
    }
    let key = object(&policy.object)?;
    let bytes_max = tenant.limits.upload_bytes_max.min(*policy.bytes.end());
    if announced.is_some_and(|whole| whole > bytes_max.saturating_add(FORM_OVERHEAD_BYTES)) {
        return Err(Kind::TooLarge.into());
    }
    match context.api.files.is_taken(key).await? {
        true => Err(Kind::AlreadyExists.into()),
        false => Ok((policy, key, bytes_max)),
    }
}

/// Only the button of an HTML form may follow the file, as in the vendor's samples.
async fn end_of_form(mut form: Form<'_>) -> Result<()> {
    while let Some(part) = form.next_part().await? {
        if !part.name.eq_ignore_ascii_case("submit") {
            return Err(Error::invalid(
                "the file must be the last field of the form.",
            ));
        }
    }
    Ok(())
}

async fn fields_before_file(form: &mut Form<'_>) -> Result<(Fields, multipart::Part)> {
    let mut fields = Fields::default();
    while let Some(part) = form.next_part().await? {
        if part.name.eq_ignore_ascii_case("file") {
            return Ok((fields, part));
        }
        let value = form.text(fields.bytes_left()).await;
        // A file under another name is no text, or too long for a field.
        let value = value.map_err(|error| match part.file_name {
            Some(_) if error.kind() == Kind::InvalidArgument => Error::invalid(NO_FILE),
            _ => error,
        })?;
        fields.insert(&part.name, value)?;
    }
    Err(Error::invalid(NO_FILE))
}

/// The key of an object. Its day must be that of its id: only forwarding creates other keys.
fn object(name: &str) -> Result<Key> {
    Key::parse(name)
        .filter(|key| *key == Key::of(key.class, key.id))
        .ok_or_else(|| Kind::Policy(PolicyFault::ObjectName).into())
}

/// The declared type: the field of the form, else the header of the part. Files of the type `application/json` are
/// stored without it, because clients recognize errors by it.
fn declared_type(fields: &Fields, of_part: Option<String>) -> Option<String> {
    let declared = fields.get("content-type").map(str::to_owned).or(of_part)?;
    let essence = declared.split(';').next().unwrap_or_default();
    let is_json = essence.trim().eq_ignore_ascii_case("application/json");
    (!is_json).then_some(declared)
}
