//! A small picture of a large one: header, decode, turn, resize, encode.
//!
//! Synchronous and on the caller's thread: seconds of CPU in the worst case, so it belongs on a pool with a
//! bounded queue, whose memory budget [`decode_cost_bytes`] serves. No metadata of the source survives.

use std::fmt;

use fast_image_resize::{
    FilterType, MulDiv, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image,
};
use image::{
    DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage,
    codecs::{jpeg::JpegEncoder, png::PngEncoder},
    metadata::Orientation,
};

use super::{
    decode::{Pixels, decode},
    dimensions::{Header, header},
    sniff::sniff,
};

/// The longest side that a thumbnail may have, in pixels.
pub const SIDE_MAX: u32 = 2048;

/// Of 100. Below 75 blocks show in the sky, above 85 the size of a thumbnail doubles.
const JPEG_QUALITY: u8 = 80;

/// Pixels of the source in each direction that a pixel of the result is made from, at the least, where a decoder
/// can leave out the rest: below 2 edges and small text suffer (decision 0012).
pub(super) const SOURCE_PIXELS: u32 = 2;

/// What a thumbnail costs beside the picture itself: the small picture twice, encoder, tables.
const BASE_COST_BYTES: u64 = 1 << 20;

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
    /// Damaged or cut off.
    Corrupt(Source),
    /// The caller no longer wants it.
    Cancelled,
}

/// Estimates the peak of memory in bytes that [`thumbnail`] takes beside `source`, from the header alone.
/// It errs upwards: the largest box is assumed, and whole coefficients where a JPEG has several scans.
///
/// # Errors
/// All of [`MediaError`] but `Cancelled`: what is refused here need not wait for memory.
pub fn decode_cost_bytes(source: &[u8], bounds: &Bounds) -> Result<u64, MediaError> {
    let header = header(source, sniff(source))?;
    header.check(bounds.pixels_max)?;
    // The resizer goes across first: rows of the thumbnail's width, as many as the source has.
    let across = u64::from(header.width.min(SIDE_MAX)) * u64::from(header.height) * 4;
    let pixels = header.pixels.saturating_mul(header.bytes_per_pixel);
    Ok(pixels
        .saturating_add(across)
        .saturating_add(BASE_COST_BYTES))
}

/// Makes a thumbnail as [`reduced`] does, unless the original serves better.
///
/// # Errors
/// As [`reduced`].
pub fn thumbnail(
    source: &[u8],
    fit: BoundingBox,
    bounds: &Bounds,
    cancelled: &dyn Fn() -> bool,
) -> Result<Outcome, MediaError> {
    let made = reduced(source, fit, bounds, cancelled)?;
    if made.bytes.len() >= source.len() {
        return Ok(Outcome::OriginalIsSmaller);
    }
    Ok(Outcome::Made(made))
}

/// Makes a picture of `source` that fits `fit` once upright; never enlarged, each side at least one pixel.
///
/// `cancelled` is asked between the steps; a decoder under way is not interrupted, `bounds` limits it.
///
/// # Errors
/// See [`MediaError`]. A truncated picture is [`MediaError::Corrupt`], not half a thumbnail.
pub fn reduced(
    source: &[u8],
    fit: BoundingBox,
    bounds: &Bounds,
    cancelled: &dyn Fn() -> bool,
) -> Result<Thumbnail, MediaError> {
    let go_on = || {
        if cancelled() {
            Err(MediaError::Cancelled)
        } else {
            Ok(())
        }
    };
    let kind = sniff(source);
    let header = header(source, kind)?;
    header.check(bounds.pixels_max)?;
    go_on()?;
    let orientation = orientation(&header);
    let (width, height) = fitted((header.width, header.height), fit, orientation);
    let least = (width * SOURCE_PIXELS, height * SOURCE_PIXELS);
    let pixels = decode(source, kind, &header, least)?;
    go_on()?;
    let small = resize(pixels, width, height)?;
    go_on()?;
    let mut picture = upright(small, orientation)?;
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

fn orientation(header: &Header<'_>) -> Orientation {
    header
        .exif
        .and_then(Orientation::from_exif_chunk)
        .unwrap_or(Orientation::NoTransforms)
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
fn fitted(stored: (u32, u32), fit: BoundingBox, orientation: Orientation) -> (u32, u32) {
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
    let Pixels {
        width: from_width,
        height: from_height,
        bytes,
        layout,
        reach,
    } = pixels;
    if (from_width, from_height) == (width, height) {
        return Ok(Pixels {
            width,
            height,
            bytes,
            layout,
            reach,
        });
    }
    let has_alpha = matches!(layout, PixelType::U8x2 | PixelType::U8x4);
    let mut from =
        Image::from_vec_u8(from_width, from_height, bytes, layout).map_err(MediaError::corrupt)?;
    let mut to = Image::new(width, height, layout);
    let alpha = MulDiv::new();
    if has_alpha {
        alpha
            .multiply_alpha_inplace(&mut from)
            .map_err(MediaError::corrupt)?;
    }
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
        .crop(0.0, 0.0, reach.0, reach.1)
        .use_alpha(false);
    Resizer::new()
        .resize(&from, &mut to, &options)
        .map_err(MediaError::corrupt)?;
    if has_alpha {
        alpha
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
                write!(f, "{pixels} pixels, more than {pixels_max}")
            }
            Self::Corrupt(_) => f.write_str("a damaged picture"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for MediaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Corrupt(source) => Some(&**source),
            _ => None,
        }
    }
}
