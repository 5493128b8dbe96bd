//! Reads a picture's header: its size, its orientation, and what decides how much memory a decoder takes.
//!
//! One pass over the structure of the file (segments, chunks, blocks), through a small buffer, before anything is
//! allocated. Pixel data is read only to find the markers of a JPEG. The result limits the decoders, so every size that
//! a decoder may take from the file counts: the canvas, the first frame, the bitstream inside a container, the passes
//! over them.

use image::metadata::Orientation;

use super::{
    error::MediaError,
    limits::{PIXELS_HARD_MAX, PictureLimits, SCANNED_PER_PIXEL_MAX},
    sniff::{SNIFF_BYTES_MAX, Sniffed, sniff},
    window::{ReadAt, Window},
};
use crate::derivative::BoundingBox;

mod bits;
mod jpeg;
mod vp8l;
mod webp;

pub(super) use jpeg::Jpeg;
use vp8l::Stream;

/// What the header of a picture says. It holds no reference to the file, so it can be cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub(super) kind: Sniffed,
    /// Width in pixels before the picture is turned upright.
    pub(super) width: u32,
    /// Height in pixels before the picture is turned upright.
    pub(super) height: u32,
    /// The most pixels that any part of the file makes a decoder allocate.
    pub(super) pixels: u64,
    /// Bytes of the file.
    pub(super) file_bytes: u64,
    /// Bytes of metadata that a decoder may keep in addition to the pixels.
    pub(super) metadata_bytes: u64,
    /// Bytes that a decoder at full size holds at its peak, its output included.
    pub(super) decoder_bytes: u64,
    /// Bytes of one decoded pixel.
    pub(super) pixel_bytes: u64,
    /// How to turn the picture upright.
    pub(super) orientation: Orientation,
    /// Set for a JPEG only.
    pub(super) jpeg: Option<Jpeg>,
    /// A lossless WebP bitstream whose prefix codes are not counted in `decoder_bytes` yet.
    unmeasured: Option<Stream>,
}

impl Header {
    /// A picture that has nothing but a canvas.
    fn new(
        kind: Sniffed,
        file: &Window<'_>,
        (width, height): (u32, u32),
        pixel_bytes: u64,
    ) -> Self {
        let pixels = u64::from(width) * u64::from(height);
        Self {
            kind,
            width,
            height,
            pixels,
            file_bytes: file.size(),
            metadata_bytes: 0,
            decoder_bytes: pixels.saturating_mul(pixel_bytes),
            pixel_bytes,
            orientation: Orientation::NoTransforms,
            jpeg: None,
            unmeasured: None,
        }
    }

    /// Bytes of memory that [`Header::measure`] takes: the window, one group of prefix codes, and the rounding of the
    /// allocator.
    pub const MEASURE_BYTES: u64 = 256 << 10;

    /// Reads the whole header of a file whose kind is not known. Blocking where the source is.
    ///
    /// # Errors
    /// As [`Header::read_outline`] and [`Header::measure`].
    pub fn read(source: &dyn ReadAt, limits: &PictureLimits) -> Result<Self, MediaError> {
        let mut start = vec![0; source.size().min(SNIFF_BYTES_MAX as u64) as usize];
        let read = source.read_exact_at(0, &mut start);
        read.map_err(MediaError::Unreadable)?;
        Self::read_outline(source, sniff(&start), limits)?.measure(source, limits)
    }

    /// Reads the part of the header that costs milliseconds of CPU at most. Before a plan is made,
    /// [`Header::measure`] reads the rest. Blocking where the source is.
    ///
    /// # Errors
    /// [`MediaError::NotAnImage`]; [`MediaError::UnsupportedImage`] for kinds and codings that are not decoded;
    /// [`MediaError::Corrupt`] where the structure ends before the size, or a side is zero;
    /// [`MediaError::TooManyPixels`] and [`MediaError::TooManyScans`]; [`MediaError::Unreadable`] where the disk fails.
    pub fn read_outline(
        source: &dyn ReadAt,
        kind: Sniffed,
        limits: &PictureLimits,
    ) -> Result<Self, MediaError> {
        let mut file = Window::new(source);
        let header = parse(&mut file, kind);
        if let Some(failure) = file.into_failure() {
            return Err(MediaError::Unreadable(failure));
        }
        let header = header?;
        header.check(limits)?;
        Ok(header)
    }

    /// Whether the memory that the decoder takes is known.
    pub fn is_measured(&self) -> bool {
        self.unmeasured.is_none()
    }

    /// Reads the prefix codes of a lossless WebP, which decide how much memory its decoder takes. This takes half a
    /// second of CPU in the worst case: call it from a bounded queue, with [`Header::MEASURE_BYTES`]. Blocking where the
    /// source is.
    ///
    /// # Errors
    /// [`MediaError::Corrupt`] where the bitstream is damaged, [`MediaError::Unreadable`] where the disk fails.
    pub fn measure(&self, source: &dyn ReadAt, limits: &PictureLimits) -> Result<Self, MediaError> {
        let Some(stream) = &self.unmeasured else {
            return Ok(*self);
        };
        let mut file = Window::new(source);
        let measured = webp::measure(&mut file, self, stream, limits.decode_bytes_max);
        match file.into_failure() {
            Some(failure) => Err(MediaError::Unreadable(failure)),
            None => measured,
        }
    }

    /// Pixels of the canvas, which is the picture that a client would see.
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// The largest size in which the picture fits the box after it is turned upright, and no larger than the picture.
    /// Width and height are those before it is turned: turning the box instead is cheaper.
    pub(super) fn fitted(&self, fit: BoundingBox) -> (u32, u32) {
        let (mut box_width, mut box_height) = (u32::from(fit.width()), u32::from(fit.height()));
        if swaps_sides(self.orientation) {
            (box_width, box_height) = (box_height, box_width);
        }
        let (width, height) = (self.width, self.height);
        if width <= box_width && height <= box_height {
            return (width, height);
        }
        // One side of the box limits the picture. The other side follows from the proportions, rounded.
        let scaled = |side: u32, bound: u32, by: u32| {
            let side = (u64::from(side) * u64::from(bound) + u64::from(by) / 2) / u64::from(by);
            u32::try_from(side)
                .unwrap_or(BoundingBox::SIDE_MAX.into())
                .max(1)
        };
        if u64::from(width) * u64::from(box_height) >= u64::from(height) * u64::from(box_width) {
            (box_width, scaled(height, box_width, width))
        } else {
            (scaled(width, box_height, height), box_height)
        }
    }

    /// Refuses a truncated JPEG, and a picture that was not measured, since its cost is unknown.
    pub(super) fn check_whole(&self) -> Result<(), MediaError> {
        if self.jpeg.is_some_and(|jpeg| !jpeg.is_whole) {
            return Err(truncated("JPEG"));
        }
        match self.is_measured() {
            true => Ok(()),
            false => Err(MediaError::corrupt("a bitstream that was not measured")),
        }
    }

    fn check(&self, limits: &PictureLimits) -> Result<(), MediaError> {
        let (pixels, pixels_max) = (self.pixels, limits.pixels_max.min(PIXELS_HARD_MAX));
        if pixels > pixels_max {
            return Err(MediaError::TooManyPixels { pixels, pixels_max });
        }
        let samples_max = pixels_max.saturating_mul(SCANNED_PER_PIXEL_MAX);
        match self.jpeg.map_or(0, |jpeg| jpeg.scanned_samples) {
            samples if samples > samples_max => Err(MediaError::TooManyScans {
                samples,
                samples_max,
            }),
            _ => Ok(()),
        }
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

fn parse(file: &mut Window<'_>, kind: Sniffed) -> Result<Header, MediaError> {
    let header = match kind {
        Sniffed::Jpeg => jpeg::header(file)?,
        Sniffed::Png => png(file).ok_or_else(|| truncated("PNG"))?,
        Sniffed::Gif => gif(file).ok_or_else(|| truncated("GIF"))?,
        Sniffed::Webp => webp::header(file).ok_or_else(|| truncated("WebP"))?,
        Sniffed::Bmp => bmp(file).ok_or_else(|| truncated("BMP"))?,
        other if other.is_image() => return Err(MediaError::UnsupportedImage),
        _ => return Err(MediaError::NotAnImage),
    };
    if header.width == 0 || header.height == 0 {
        return Err(MediaError::corrupt("the width or the height is 0"));
    }
    Ok(header)
}

fn truncated(format: &str) -> MediaError {
    MediaError::corrupt(format!("the {format} is truncated or damaged"))
}

/// The orientation in a TIFF structure. One that is larger than the window is cut off, but its first directory is not.
fn orientation(tiff: Option<&[u8]>) -> Orientation {
    tiff.and_then(Orientation::from_exif_chunk)
        .unwrap_or(Orientation::NoTransforms)
}

/// PNG (third edition) §5: IHDR comes first. Reads the chunks before the first one with pixel data.
fn png(file: &mut Window<'_>) -> Option<Header> {
    if file.get(12, 4)? != b"IHDR" {
        return None;
    }
    let (width, height) = (file.u32_be(16)?, file.u32_be(20)?);
    let [depth, color] = file.array(24)?;
    let mut turned = Orientation::NoTransforms;
    let (mut has_trns, mut metadata_bytes) = (false, 0_u64);
    let mut at = 8;
    while let (Some(length), Some(kind)) = (file.u32_be(at), file.array(at + 4)) {
        let length = u64::from(length);
        match &kind {
            b"IDAT" => break,
            b"IHDR" => {}
            b"tRNS" => has_trns = true,
            b"eXIf" => {
                turned = orientation(file.get_some(at + 8, usize::try_from(length).ok()?));
                metadata_bytes += length;
            }
            _ => metadata_bytes += length,
        }
        at = at.checked_add(length)?.checked_add(12)?;
    }
    let channels = match color {
        0 => 1,
        2 | 3 => 3,
        4 => 2,
        _ => 4,
    } + u64::from(has_trns);
    let pixel_bytes = channels * if depth == 16 { 2 } else { 1 };
    let header = Header::new(Sniffed::Png, file, (width, height), pixel_bytes);
    // Filtered rows beside the output, and those of an interlaced pass.
    let row_bytes = u64::from(width) * 8;
    Some(Header {
        metadata_bytes: metadata_bytes.min(file.size()),
        decoder_bytes: header.decoder_bytes.saturating_add(8 * row_bytes),
        orientation: turned,
        ..header
    })
}

/// Copies of a GIF's extensions in memory while the buffer that holds them grows.
const EXTENSION_COPIES: u64 = 3;

/// GIF89a §18–20: the canvas, and the first frame, which may be larger.
fn gif(file: &mut Window<'_>) -> Option<Header> {
    let (width, height) = (u32::from(file.u16_le(6)?), u32::from(file.u16_le(8)?));
    let table_bytes = match file.byte(10)? {
        flags if flags & 0x80 == 0 => 0,
        flags => 3_u64 << ((flags & 7) + 1),
    };
    let mut at = 13 + table_bytes;
    let mut extension_bytes = 0;
    loop {
        match file.byte(at)? {
            0x2c => break,
            0x21 => {
                let end = gif_extension_end(file, at + 2)?;
                extension_bytes += end - (at + 2);
                at = end;
            }
            // Padding between blocks occurs, and decoders skip it.
            0 => at += 1,
            _ => return None,
        }
    }
    let (left, top) = (file.u16_le(at + 1)?, u32::from(file.u16_le(at + 3)?));
    let across = u32::from(file.u16_le(at + 5)?);
    let down = u32::from(file.u16_le(at + 7)?);
    let frame_pixels = u64::from(across) * u64::from(down);
    // Whether the rows of the frame are whole rows of the canvas.
    let fills_rows = left == 0 && across == width && top + down <= height;
    let header = Header::new(Sniffed::Gif, file, (width, height), 4);
    Some(Header {
        pixels: header.pixels.max(frame_pixels),
        // The canvas as RGBA; the palette indices of the frame; the frame as RGBA where its rows are not the canvas's;
        // the extensions, in a buffer that doubles.
        decoder_bytes: header.decoder_bytes
            + frame_pixels * if fills_rows { 1 } else { 5 }
            + EXTENSION_COPIES * extension_bytes,
        ..header
    })
}

/// The end of the sub-blocks that begin at `at`.
fn gif_extension_end(file: &mut Window<'_>, mut at: u64) -> Option<u64> {
    loop {
        let length = u64::from(file.byte(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
}

/// The second header of a bitmap: the oldest has 16-bit sides, all others signed 32-bit ones (a negative height means
/// that the rows begin at the top).
fn bmp(file: &mut Window<'_>) -> Option<Header> {
    let size = if file.u32_le(14)? == 12 {
        (u32::from(file.u16_le(18)?), u32::from(file.u16_le(20)?))
    } else {
        (
            file.u32_le(18)?,
            file.u32_le(22)?.cast_signed().unsigned_abs(),
        )
    };
    Some(Header::new(Sniffed::Bmp, file, size, 4))
}
