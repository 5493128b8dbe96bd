//! `POST /{org}/{app}/chatfiles`: uploads one file in a form.
//!
//! Type and length are checked before the body is polled, so that a client that waits for `100 Continue` does not send
//! a body that will be rejected.

use hyper::{Response, header::HeaderValue};

use super::{Context, wire};
use crate::{
    auth::Identity,
    delivery::Body,
    derivative::BoundingBox,
    error::{Error, Result},
    files::{Attributes, Received},
    http::{
        body::RequestBody,
        multipart::{self, Form},
    },
    store::Class,
};

/// The vendor's text, and what to do.
const NO_FILE: &str =
    "file must be provided. The part of the form with the file must be named `file`.";
/// The longest form field that is read.
const FIELD_BYTES_MAX: usize = 1024;

/// The requested size of thumbnails. A form field overrides a header.
#[derive(Default)]
pub(super) struct ThumbnailSize {
    width: Option<u16>,
    height: Option<u16>,
}

pub(crate) async fn upload(
    context: &Context<'_>,
    body: &mut RequestBody,
) -> Result<Response<Body>> {
    let identity = context.authenticate().await?;
    let bytes_max = context.tenant.limits.upload_bytes_max;
    let announced = multipart::bound(body, bytes_max)?;
    let form = Form::new(context.call.headers, body)?;
    let reserved = context.reserve(&identity, announced.unwrap_or(bytes_max).min(bytes_max))?;
    let (file, thumbnail) = read(context, form, bytes_max, announced).await?;
    multipart::finish(body).await?;
    let file = file.ok_or_else(|| Error::invalid(NO_FILE))?;
    let attributes = attributes(context, &identity, is_restricted(context), thumbnail);
    let stored = context.api.files.commit(file, attributes, reserved).await?;
    context.call.log_stored(&stored);
    Ok(wire::uploaded(context, &stored))
}

/// The attributes of a file that the caller uploads.
pub(super) fn attributes<'c>(
    context: &'c Context<'_>,
    identity: &'c Identity,
    restricted: bool,
    thumbnail: ThumbnailSize,
) -> Attributes<'c> {
    Attributes {
        scope: context.scope(),
        owner: identity.user().unwrap_or_default(),
        restricted,
        thumbnail: thumbnail.bounding_box(),
        recipient: None,
    }
}

/// Reads the whole form: its file, if there is one, and the size of thumbnails.
async fn read(
    context: &Context<'_>,
    mut form: Form<'_>,
    bytes_max: u64,
    announced: Option<u64>,
) -> Result<(Option<Received>, ThumbnailSize)> {
    let (mut file, mut thumbnail) = (None, ThumbnailSize::from_headers(context));
    while let Some(part) = form.next_part().await? {
        match part.name.as_str() {
            "file" if file.is_some() => {
                return Err(Error::invalid("only one file can be uploaded at once."));
            }
            "file" => {
                let files = &context.api.files;
                let received = files.receive(
                    &mut form,
                    files.new_key(Class::Chatfile)?,
                    bytes_max,
                    announced,
                    part.file_name,
                    part.content_type,
                );
                file = Some(received.await?);
            }
            "thumbnail-width" => thumbnail.set_width(&form.text(FIELD_BYTES_MAX).await?),
            "thumbnail-height" => thumbnail.set_height(&form.text(FIELD_BYTES_MAX).await?),
            // The clients of the vendor send `app`, `id`, `filename` and `hack`. They have no meaning.
            _ => {}
        }
    }
    Ok((file, thumbnail))
}

/// Whether the file needs a share-secret: `restrict-access`, a header, or a query parameter of an upload in parts. In
/// the vendor's oldest document, its presence restricts; in later documents and the Java SDK, the value `false` does
/// not.
pub(super) fn is_restricted(context: &Context<'_>) -> bool {
    const NAME: &str = "restrict-access";
    let from_header = context.call.headers.get(NAME).map(HeaderValue::as_bytes);
    let from_query = context.call.query(NAME);
    match from_header.or(from_query.as_ref().map(|value| value.as_bytes())) {
        None => false,
        Some(_) if context.tenant.strict_restrict_access => true,
        Some(value) => !value.trim_ascii().eq_ignore_ascii_case(b"false"),
    }
}

impl ThumbnailSize {
    /// Reads the headers of the request.
    pub(super) fn from_headers(context: &Context<'_>) -> Self {
        let mut size = Self::default();
        size.set_width(context.call.header("thumbnail-width").unwrap_or_default());
        size.set_height(context.call.header("thumbnail-height").unwrap_or_default());
        size
    }

    /// Ignores a value that is not a number (SDKs send `undefined`), and clamps numbers.
    pub(super) fn set_width(&mut self, text: &str) {
        self.width = side(text).or(self.width);
    }

    pub(super) fn set_height(&mut self, text: &str) {
        self.height = side(text).or(self.height);
    }

    fn bounding_box(&self) -> BoundingBox {
        BoundingBox::new(
            self.width.unwrap_or(BoundingBox::DEFAULT.width()),
            self.height.unwrap_or(BoundingBox::DEFAULT.height()),
        )
    }
}

fn side(text: &str) -> Option<u16> {
    let number: u64 = text.trim().parse().ok()?;
    u16::try_from(number.clamp(1, u64::from(BoundingBox::SIDE_MAX))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clamps_thumbnail_side() {
        for (text, expected) in [
            ("170", Some(170)),
            (" 90 ", Some(90)),
            ("0", Some(1)),
            ("1000000", Some(2048)),
            ("18446744073709551616", None),
            ("-1", None),
            ("undefined", None),
            ("", None),
        ] {
            assert_eq!(side(text), expected, "{text}");
        }
    }
}
