//! A small picture of a large one: header, plan, decode, resize, turn, encode.
//!
//! Synchronous and on the caller's thread: a second of CPU in the worst case, so it belongs behind a bounded queue.
//! [`Header::read`] and [`Plan::new`] are cheap and come first: they say what the rest costs. No metadata of the source
//! survives.

use std::{fmt, io};

use fast_image_resize::{
    FilterType, IntoImageView, MulDiv, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};
use image::{
    DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage,
    codecs::{jpeg::JpegEncoder, png::PngEncoder},
    metadata::Orientation,
};

use super::decode::{Pixels, decode};

pub use super::{cost::Plan, dimensions::Header, window::ReadAt};

/// The longest side that a thumbnail may have, in pixels.
pub const SIDE_MAX: u32 = 2048;

/// Of 100. Below 75 blocks show in the sky, above 85 the size of a thumbnail doubles.
const JPEG_QUALITY: u8 = 80;

/// Pixels of the source in each direction that a pixel of the result is made from, at the least, where a decoder
/// can leave out the rest: below 2 edges and small text suffer (decision 0012).
pub(super) const SOURCE_PIXELS: u32 = 2;

/// Pixels of the largest thumbnail: an original with more is never sent in the place of one.
const OWN_THUMBNAIL_PIXELS_MAX: u64 = (SIDE_MAX as u64).pow(2);

/// Sides of the boxes that a picture is decoded to where any size may be asked for (decision 0017).
const STEPS: [u32; 6] = [256, 384, 512, 768, 1024, 1536];

type Source = Box<dyn std::error::Error + Send + Sync>;

/// The box that a thumbnail must fit, in pixels of the upright picture. Sides outside of 1..=[`SIDE_MAX`]
/// are taken for the nearest bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BoundingBox {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// What a source may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Pixels of the source, canvas or frame, whichever is larger. More than 2²⁸ are refused in any case.
    pub pixels_max: u64,
    /// Bytes that one decoder may use, the source's own among them.
    pub memory_bytes_max: u64,
}

/// A thumbnail that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumbnail {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// `image/jpeg`, or `image/png` where something of it is transparent.
    pub content_type: &'static str,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// What became of a picture that could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A thumbnail smaller in bytes than the original.
    Made(Thumbnail),
    /// The thumbnail would not be smaller in bytes: the original serves better.
    OriginalIsSmaller,
}

/// Why there is no thumbnail.
#[derive(Debug)]
pub enum MediaError {
    /// The bytes are no picture.
    NotAnImage,
    /// A picture, but of a kind or coding that is not decoded here.
    UnsupportedImage,
    /// The header claims more pixels than the limit.
    TooManyPixels {
        /// Claimed.
        pixels: u64,
        /// Allowed.
        pixels_max: u64,
    },
    /// The scans of a JPEG pass over more samples than the limit.
    TooManyScans {
        /// Of all scans together.
        samples: u64,
        /// Allowed.
        samples_max: u64,
    },
    /// Decoding it takes more memory than all decoders together may use.
    TooMuchMemory {
        /// Needed.
        bytes: u64,
        /// Allowed.
        bytes_max: u64,
    },
    /// Damaged or cut off.
    Corrupt(Source),
    /// The source could not be read.
    Unreadable(io::Error),
    /// The caller no longer wants it.
    Cancelled,
}

/// A picture that was decoded and made smaller, not turned yet.
pub struct Reduced {
    pixels: Pixels,
}

/// Makes a thumbnail of a file in memory, unless the original serves better.
///
/// # Errors
/// See [`MediaError`]. A truncated picture is [`MediaError::Corrupt`], not half a thumbnail.
pub fn thumbnail(
    source: &[u8],
    fit: BoundingBox,
    bounds: &Bounds,
    cancelled: &dyn Fn() -> bool,
) -> Result<Outcome, MediaError> {
    let header = Header::read(&source, bounds)?;
    let plan = Plan::new(&header, fit, bounds)?;
    let reduced = reduce(source, &plan, cancelled)?;
    Ok(outcome(finish(reduced, &header)?, &header))
}

/// Whether a file may be sent in the place of its own thumbnail: a few bytes may hold very many pixels.
pub fn is_small_enough(header: &Header) -> bool {
    header.pixels() <= OWN_THUMBNAIL_PIXELS_MAX
}

/// Chooses between a thumbnail and its original.
pub fn outcome(made: Thumbnail, header: &Header) -> Outcome {
    match made.bytes.len() as u64 >= header.file_bytes && is_small_enough(header) {
        true => Outcome::OriginalIsSmaller,
        false => Outcome::Made(made),
    }
}

/// Decodes a picture and makes it the size that was planned.
///
/// `cancelled` is asked between the steps; a decoder under way is not interrupted, the plan's bounds limit it.
///
/// # Errors
/// See [`MediaError`].
pub fn reduce(
    source: &[u8],
    plan: &Plan,
    cancelled: &dyn Fn() -> bool,
) -> Result<Reduced, MediaError> {
    let go_on = || match cancelled() {
        true => Err(MediaError::Cancelled),
        false => Ok(()),
    };
    go_on()?;
    let pixels = decode(source, plan)?;
    go_on()?;
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

/// The box of the picture that a thumbnail is shrunk from, one of few: it has at least twice the thumbnail's pixels in
/// each direction, or [`SIDE_MAX`] in the longer one.
pub fn step(header: &Header, fit: BoundingBox) -> BoundingBox {
    let (width, height) = fitted((header.width, header.height), fit, header.orientation);
    let needed = width.max(height) * SOURCE_PIXELS;
    let side = STEPS.into_iter().find(|side| *side >= needed);
    let side = side.unwrap_or(SIDE_MAX);
    BoundingBox {
        width: side,
        height: side,
    }
}

/// Makes a thumbnail of a picture that was reduced to its [`step`] before.
///
/// # Errors
/// [`MediaError::Corrupt`].
pub fn shrink(
    reduced: &Reduced,
    fit: BoundingBox,
    header: &Header,
) -> Result<Thumbnail, MediaError> {
    // From the original, whose proportions the reduced one has but for rounding.
    let (width, height) = fitted((header.width, header.height), fit, header.orientation);
    let pixels = resize_kept(&reduced.pixels, width, height)?;
    finish(Reduced { pixels }, header)
}

impl Reduced {
    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        self.pixels.bytes.len() as u64
    }
}

fn swaps_sides(orientation: Orientation) -> bool {
    use Orientation::{
        FlipHorizontal, FlipVertical, NoTransforms, Rotate90, Rotate90FlipH, Rotate180, Rotate270,
        Rotate270FlipH,
    };
    match orientation {
        Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => true,
        NoTransforms | Rotate180 | FlipHorizontal | FlipVertical => false,
    }
}

/// The size to resize to, still as stored: the box is turned instead of the picture, which is turned when
/// it is small.
pub(super) fn fitted(stored: (u32, u32), fit: BoundingBox, orientation: Orientation) -> (u32, u32) {
    let (mut box_width, mut box_height) =
        (fit.width.clamp(1, SIDE_MAX), fit.height.clamp(1, SIDE_MAX));
    if swaps_sides(orientation) {
        (box_width, box_height) = (box_height, box_width);
    }
    let (width, height) = stored;
    if width <= box_width && height <= box_height {
        return (width, height);
    }
    // The other side, rounded, from the side that the box binds; at most the box's since that one binds.
    let scaled = |side: u32, bound: u32, by: u32| {
        let side = (u64::from(side) * u64::from(bound) + u64::from(by) / 2) / u64::from(by);
        u32::try_from(side).unwrap_or(SIDE_MAX).max(1)
    };
    if u64::from(width) * u64::from(box_height) >= u64::from(height) * u64::from(box_width) {
        (box_width, scaled(height, box_width, width))
    } else {
        (scaled(width, box_height, height), box_height)
    }
}

/// Lanczos over all source pixels; averaging blocks first saved no more than 3 % of a 12-megapixel JPEG.
/// Alpha is multiplied into the source in place and divided out of the result, so that what is transparent
/// lends no colour to its neighbours, and no copy is made for it.
pub(super) fn resize(pixels: Pixels, width: u32, height: u32) -> Result<Pixels, MediaError> {
    if (pixels.width, pixels.height) == (width, height) {
        return Ok(pixels);
    }
    let Pixels { layout, reach, .. } = pixels;
    let mut from = Image::from_vec_u8(pixels.width, pixels.height, pixels.bytes, layout)
        .map_err(MediaError::corrupt)?;
    if has_alpha(layout) {
        MulDiv::new()
            .multiply_alpha_inplace(&mut from)
            .map_err(MediaError::corrupt)?;
    }
    convolve(&from, layout, reach, (width, height))
}

/// Does the same to pixels that are kept. They are copied only where alpha is multiplied into them.
fn resize_kept(pixels: &Pixels, width: u32, height: u32) -> Result<Pixels, MediaError> {
    let Pixels { layout, reach, .. } = *pixels;
    if has_alpha(layout) || (pixels.width, pixels.height) == (width, height) {
        return resize(pixels.clone(), width, height);
    }
    let from = ImageRef::new(pixels.width, pixels.height, &pixels.bytes, layout)
        .map_err(MediaError::corrupt)?;
    convolve(&from, layout, reach, (width, height))
}

fn has_alpha(layout: PixelType) -> bool {
    matches!(layout, PixelType::U8x2 | PixelType::U8x4)
}

/// `from` has alpha multiplied in; the result has not.
fn convolve(
    from: &impl IntoImageView,
    layout: PixelType,
    reach: (f64, f64),
    (width, height): (u32, u32),
) -> Result<Pixels, MediaError> {
    let mut to = Image::new(width, height, layout);
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
        .crop(0.0, 0.0, reach.0, reach.1)
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
        reach: (width.into(), height.into()),
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
        picture.ok_or_else(|| MediaError::corrupt("pixels that do not fill their picture"))?;
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

impl MediaError {
    pub(super) fn corrupt(source: impl Into<Source>) -> Self {
        Self::Corrupt(source.into())
    }
}

impl fmt::Display for MediaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnImage => f.write_str("no picture"),
            Self::UnsupportedImage => f.write_str("a picture of a kind that is not decoded"),
            Self::TooManyPixels { pixels, pixels_max } => {
                write!(
                    f,
                    "{pixels} pixels, more than thumbnails.pixels_max, {pixels_max}"
                )
            }
            Self::TooManyScans {
                samples,
                samples_max,
            } => write!(
                f,
                "the scans of a JPEG read {samples} samples, more than {samples_max} (ten times thumbnails.pixels_max)"
            ),
            Self::TooMuchMemory { bytes, bytes_max } => write!(
                f,
                "decoding needs {bytes} bytes of memory, more than thumbnails.decode_bytes_max, {bytes_max}"
            ),
            Self::Corrupt(_) => f.write_str("a damaged picture"),
            Self::Unreadable(_) => f.write_str("the picture could not be read"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for MediaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Corrupt(source) => Some(&**source),
            Self::Unreadable(source) => Some(source),
            _ => None,
        }
    }
}
