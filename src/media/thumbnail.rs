//! Makes a thumbnail: reads the header, plans, decodes, resizes, turns upright, encodes.
//!
//! Synchronous, on the caller's thread: a second of CPU in the worst case, so call it from a bounded queue.
//! [`Header::read_outline`] and [`Plan::new`] are cheap and say what the rest costs. The thumbnail has no metadata of its
//! source.

use fast_image_resize::{
    FilterType, IntoImageView, MulDiv, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};
use image::{
    DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage,
    codecs::{jpeg::JpegEncoder, png::PngEncoder},
    metadata::Orientation,
};

use super::{
    decode::{Pixels, decode},
    limits::{OWN_THUMBNAIL_PIXELS_MAX, REDUCED_SIDES, SOURCE_PIXELS_MIN},
};
use crate::derivative::BoundingBox;

pub use super::{
    cost::Plan,
    dimensions::Header,
    error::MediaError,
    limits::{OWN_THUMBNAIL_BYTES_MAX, PictureLimits},
    window::ReadAt,
};

/// JPEG quality, of 100. Below 75, blocks show in the sky; above 85, the size of a thumbnail doubles.
const JPEG_QUALITY: u8 = 80;

/// A thumbnail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumbnail {
    /// The encoded file.
    pub bytes: Vec<u8>,
    /// `image/jpeg`, or `image/png` where a pixel is not opaque.
    pub content_type: &'static str,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

/// The thumbnail of a picture that could be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A thumbnail that has fewer bytes than the original.
    Made(Thumbnail),
    /// The thumbnail would not have fewer bytes: send the original.
    OriginalIsSmaller,
}

/// A picture that was decoded and resized, but not turned upright yet.
pub struct Reduced {
    pixels: Pixels,
}

/// Makes a thumbnail of a file in memory, in one call.
///
/// # Errors
/// [`MediaError`]. A truncated picture is [`MediaError::Corrupt`], not half a thumbnail.
pub fn thumbnail(
    source: &[u8],
    fit: BoundingBox,
    limits: &PictureLimits,
    cancelled: &dyn Fn() -> bool,
) -> Result<Outcome, MediaError> {
    let header = Header::read(&source, limits)?;
    let plan = Plan::new(&header, fit, limits)?;
    let reduced = reduce(source, &plan, cancelled)?;
    Ok(outcome(finish(reduced, &header)?, &header))
}

/// Whether a file has few enough pixels to be sent as its own thumbnail: few bytes can hold very many pixels.
pub fn is_small_enough(header: &Header) -> bool {
    header.pixels() <= OWN_THUMBNAIL_PIXELS_MAX
}

/// Chooses the smaller of a thumbnail and its original.
pub fn outcome(made: Thumbnail, header: &Header) -> Outcome {
    match made.bytes.len() as u64 >= header.file_bytes && is_small_enough(header) {
        true => Outcome::OriginalIsSmaller,
        false => Outcome::Made(made),
    }
}

/// Decodes a picture and resizes it as planned.
///
/// `cancelled` is checked between the steps. A running decoder is not interrupted; the plan limits it.
///
/// # Errors
/// [`MediaError`].
pub fn reduce(
    source: &[u8],
    plan: &Plan,
    cancelled: &dyn Fn() -> bool,
) -> Result<Reduced, MediaError> {
    let check = || match cancelled() {
        true => Err(MediaError::Cancelled),
        false => Ok(()),
    };
    check()?;
    let pixels = decode(source, plan)?;
    check()?;
    Ok(Reduced {
        pixels: resize(pixels, plan.width, plan.height)?,
    })
}

/// Turns a picture upright and encodes it.
///
/// # Errors
/// [`MediaError::Corrupt`].
pub fn finish(reduced: Reduced, header: &Header) -> Result<Thumbnail, MediaError> {
    let mut picture = upright(reduced.pixels, header.orientation)?;
    let content_type = if is_opaque(&picture) {
        picture = without_alpha(picture);
        "image/jpeg"
    } else {
        "image/png"
    };
    let bytes = encode(&picture, content_type)?;
    Ok(Thumbnail {
        bytes,
        content_type,
        width: picture.width(),
        height: picture.height(),
    })
}

/// The box of the reduced picture from which a thumbnail is shrunk: the smallest of seven in which it has at least twice
/// the thumbnail's pixels in each direction, or the largest.
pub fn reduced_box(header: &Header, fit: BoundingBox) -> BoundingBox {
    let (width, height) = header.fitted(fit);
    let needed = width.max(height) * SOURCE_PIXELS_MIN;
    let side = REDUCED_SIDES
        .into_iter()
        .find(|side| u32::from(*side) >= needed);
    BoundingBox::square(side.unwrap_or(BoundingBox::SIDE_MAX))
}

/// Makes a thumbnail of a picture that was reduced to its [`reduced_box`].
///
/// # Errors
/// [`MediaError::Corrupt`].
pub fn shrink(
    reduced: &Reduced,
    fit: BoundingBox,
    header: &Header,
) -> Result<Thumbnail, MediaError> {
    // The proportions come from the original: those of the reduced picture are rounded.
    let (width, height) = header.fitted(fit);
    let pixels = resize_kept(&reduced.pixels, width, height)?;
    finish(Reduced { pixels }, header)
}

impl Reduced {
    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        self.pixels.bytes.len() as u64
    }
}

/// Resizes by Lanczos over all source pixels. Averaging blocks first saved no more than 3 % of a 12-megapixel JPEG.
/// Colours are multiplied by alpha in place and divided by it in the result, so that transparent pixels lend no colour to
/// their neighbours, without a copy.
pub(super) fn resize(pixels: Pixels, width: u32, height: u32) -> Result<Pixels, MediaError> {
    if (pixels.width, pixels.height) == (width, height) {
        return Ok(pixels);
    }
    let Pixels { layout, extent, .. } = pixels;
    let mut from = Image::from_vec_u8(pixels.width, pixels.height, pixels.bytes, layout)
        .map_err(MediaError::corrupt)?;
    if has_alpha(layout) {
        MulDiv::new()
            .multiply_alpha_inplace(&mut from)
            .map_err(MediaError::corrupt)?;
    }
    convolve(&from, layout, extent, (width, height))
}

/// Like [`resize`], for pixels that are kept. They are copied only where they have alpha.
fn resize_kept(pixels: &Pixels, width: u32, height: u32) -> Result<Pixels, MediaError> {
    let Pixels { layout, extent, .. } = *pixels;
    if has_alpha(layout) || (pixels.width, pixels.height) == (width, height) {
        return resize(pixels.clone(), width, height);
    }
    let from = ImageRef::new(pixels.width, pixels.height, &pixels.bytes, layout)
        .map_err(MediaError::corrupt)?;
    convolve(&from, layout, extent, (width, height))
}

fn has_alpha(layout: PixelType) -> bool {
    matches!(layout, PixelType::U8x2 | PixelType::U8x4)
}

/// The colours of `from` are multiplied by alpha; those of the result are not.
fn convolve(
    from: &impl IntoImageView,
    layout: PixelType,
    extent: (f64, f64),
    (width, height): (u32, u32),
) -> Result<Pixels, MediaError> {
    let mut to = Image::new(width, height, layout);
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
        .crop(0.0, 0.0, extent.0, extent.1)
        .use_alpha(false);
    Resizer::new()
        .resize(from, &mut to, &options)
        .map_err(MediaError::corrupt)?;
    if has_alpha(layout) {
        MulDiv::new()
            .divide_alpha_inplace(&mut to)
            .map_err(MediaError::corrupt)?;
    }
    Ok(Pixels {
        width,
        height,
        bytes: to.into_vec(),
        layout,
        extent: (width.into(), height.into()),
    })
}

fn upright(pixels: Pixels, orientation: Orientation) -> Result<DynamicImage, MediaError> {
    let Pixels {
        width,
        height,
        bytes,
        layout,
        ..
    } = pixels;
    let picture = match layout {
        PixelType::U8 => GrayImage::from_raw(width, height, bytes).map(DynamicImage::from),
        PixelType::U8x2 => GrayAlphaImage::from_raw(width, height, bytes).map(DynamicImage::from),
        PixelType::U8x3 => RgbImage::from_raw(width, height, bytes).map(DynamicImage::from),
        _ => RgbaImage::from_raw(width, height, bytes).map(DynamicImage::from),
    };
    let mut picture =
        picture.ok_or_else(|| MediaError::corrupt("the pixels do not fill the picture"))?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

fn is_opaque(picture: &DynamicImage) -> bool {
    match picture {
        DynamicImage::ImageLumaA8(picture) => picture.pixels().all(|pixel| pixel.0[1] == u8::MAX),
        DynamicImage::ImageRgba8(picture) => picture.pixels().all(|pixel| pixel.0[3] == u8::MAX),
        _ => true,
    }
}

fn without_alpha(picture: DynamicImage) -> DynamicImage {
    match picture {
        DynamicImage::ImageLumaA8(_) => DynamicImage::ImageLuma8(picture.into_luma8()),
        DynamicImage::ImageRgba8(_) => DynamicImage::ImageRgb8(picture.into_rgb8()),
        other => other,
    }
}

fn encode(picture: &DynamicImage, content_type: &str) -> Result<Vec<u8>, MediaError> {
    let mut bytes = Vec::with_capacity(16 << 10);
    if content_type == "image/png" {
        picture.write_with_encoder(PngEncoder::new(&mut bytes))
    } else {
        picture.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY))
    }
    .map_err(MediaError::corrupt)?;
    Ok(bytes)
}
