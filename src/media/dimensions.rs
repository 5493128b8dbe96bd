//! What a picture's header claims, read before anything is allocated.
//!
//! One pass over the structure of the file (segments, chunks, blocks), through a small window. Pixel data is looked
//! at only to find the markers of a JPEG. What is read here bounds the decoders, so every size that a decoder may
//! take from the file counts: the canvas, the first frame, the bitstream inside a container, the passes over them.

use image::metadata::Orientation;

use super::{
    sniff::{SNIFF_BYTES_MAX, Sniffed, sniff},
    thumbnail::{Bounds, MediaError},
    window::{ReadAt, WINDOW_BYTES, Window},
};

mod bits;
mod jpeg;
mod vp8l;
mod webp;

pub(super) use jpeg::Jpeg;
use vp8l::Stream;

/// More pixels than this are refused whatever the configuration says: some decoders count bytes in 32 bits.
const PIXELS_HARD_MAX: u64 = 1 << 28;

/// How often a JPEG's scans may pass over as many samples as the largest picture has pixels. libjpeg's usual ten scans
/// read 8 samples per pixel where chroma is halved, and 14 where it is whole; of those, none with more than 45
/// megapixels fits the default memory budget. 32 scans of 8000 × 8000 pixels, in 380 KB, cost 4 s of CPU.
const SCANNED_PER_PIXEL_MAX: u64 = 10;

/// A picture by its header. Does not refer to the file, so it can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub(super) kind: Sniffed,
    /// Pixels across, as stored: orientation is not applied.
    pub(super) width: u32,
    /// Pixels down, as stored.
    pub(super) height: u32,
    /// The most pixels that any part of the file makes a decoder allocate.
    pub(super) pixels: u64,
    /// Bytes of the file.
    pub(super) file_bytes: u64,
    /// Bytes of metadata that a decoder may keep beside the pixels.
    pub(super) metadata_bytes: u64,
    /// Bytes that a decoder of the whole picture holds at its peak, its output included.
    pub(super) decoder_bytes: u64,
    /// Bytes of one decoded pixel.
    pub(super) pixel_bytes: u64,
    /// How to turn the picture upright.
    pub(super) orientation: Orientation,
    pub(super) jpeg: Option<Jpeg>,
    /// A lossless bitstream whose prefix codes are not among `decoder_bytes` yet.
    unmeasured: Option<Stream>,
}

impl Header {
    /// Bytes of memory that [`Header::measure`] takes: the window, one group of prefix codes, and what the allocator
    /// rounds up.
    pub const MEASURE_BYTES: u64 = 256 << 10;

    /// Reads the header of a picture of one of the five decodable formats. Blocking where the source is.
    ///
    /// # Errors
    /// As [`Header::read_outline`] and [`Header::measure`].
    pub fn read(source: &dyn ReadAt, bounds: &Bounds) -> Result<Self, MediaError> {
        Self::read_outline(source, bounds)?.measure(source, bounds)
    }

    /// Reads what costs little CPU, milliseconds at most. Before a plan is made, [`Header::measure`] reads the rest.
    ///
    /// # Errors
    /// [`MediaError::NotAnImage`], [`MediaError::UnsupportedImage`] for kinds and codings that are not decoded,
    /// [`MediaError::Corrupt`] where the structure breaks off before the size or a side is zero, [`MediaError::TooManyPixels`] and
    /// [`MediaError::TooManyScans`] by the bounds, [`MediaError::Unreadable`] where the disk fails.
    pub fn read_outline(source: &dyn ReadAt, bounds: &Bounds) -> Result<Self, MediaError> {
        let mut file = Window::new(source);
        let kind = sniff(file.get_some(0, SNIFF_BYTES_MAX).unwrap_or_default());
        let header = parse(&mut file, kind);
        if let Some(failure) = file.into_failure() {
            return Err(MediaError::Unreadable(failure));
        }
        let header = header?;
        header.check(bounds)?;
        Ok(header)
    }

    /// Whether the memory that the decoder takes is known.
    pub fn is_measured(&self) -> bool {
        self.unmeasured.is_none()
    }

    /// Reads what of the bitstream decides how much memory the decoder takes: the prefix codes of a lossless WebP.
    /// Half a second of CPU in the worst case, so it belongs behind a bounded queue, with [`Header::MEASURE_BYTES`].
    ///
    /// # Errors
    /// [`MediaError::Corrupt`] where the bitstream is damaged, [`MediaError::Unreadable`] where the disk fails.
    pub fn measure(&self, source: &dyn ReadAt, bounds: &Bounds) -> Result<Self, MediaError> {
        let Some(stream) = &self.unmeasured else {
            return Ok(*self);
        };
        let mut file = Window::new(source);
        let measured = webp::measure(&mut file, self, stream, bounds.memory_bytes_max);
        match file.into_failure() {
            Some(failure) => Err(MediaError::Unreadable(failure)),
            None => measured,
        }
    }

    /// Pixels of the picture as a client would see it.
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Refuses what is known to be cut off, and what was not measured, so that its cost is unknown.
    pub(super) fn check_whole(&self) -> Result<(), MediaError> {
        if self.jpeg.is_some_and(|jpeg| !jpeg.is_whole) {
            return Err(truncated("JPEG"));
        }
        match self.is_measured() {
            true => Ok(()),
            false => Err(MediaError::corrupt("a bitstream that was not measured")),
        }
    }

    fn check(&self, bounds: &Bounds) -> Result<(), MediaError> {
        let (pixels, pixels_max) = (self.pixels, bounds.pixels_max.min(PIXELS_HARD_MAX));
        if pixels > pixels_max {
            return Err(MediaError::TooManyPixels { pixels, pixels_max });
        }
        let Some(jpeg) = &self.jpeg else {
            return Ok(());
        };
        let (samples, samples_max) = (
            jpeg.scanned_samples,
            pixels_max.saturating_mul(SCANNED_PER_PIXEL_MAX),
        );
        if samples > samples_max {
            return Err(MediaError::TooManyScans {
                samples,
                samples_max,
            });
        }
        Ok(())
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
        return Err(MediaError::corrupt("a side of zero pixels"));
    }
    Ok(header)
}

fn truncated(format: &str) -> MediaError {
    MediaError::corrupt(format!(
        "the {format} is cut off or its structure is damaged"
    ))
}

/// The orientation in a TIFF structure; a larger one than the window is cut off, its first directory is not.
fn orientation(tiff: Option<&[u8]>) -> Orientation {
    tiff.and_then(Orientation::from_exif_chunk)
        .unwrap_or(Orientation::NoTransforms)
}

/// PNG (third edition) §5: IHDR first; then chunks up to the first of the data.
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
                let chunk = file.get_some(at + 8, usize::try_from(length).ok()?);
                turned = orientation(chunk);
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
    let pixels = u64::from(width) * u64::from(height);
    let pixel_bytes = channels * if depth == 16 { 2 } else { 1 };
    // Filtered rows beside the output, and those of an interlaced pass.
    let row_bytes = u64::from(width) * 8;
    Some(Header {
        kind: Sniffed::Png,
        width,
        height,
        pixels,
        file_bytes: file.size(),
        metadata_bytes: metadata_bytes.min(file.size()),
        decoder_bytes: pixels
            .saturating_mul(pixel_bytes)
            .saturating_add(8 * row_bytes),
        pixel_bytes,
        orientation: turned,
        jpeg: None,
        unmeasured: None,
    })
}

/// Copies of a GIF's extensions in memory while the buffer that holds them grows.
const EXTENSION_COPIES: u64 = 3;

/// GIF89a §18–20: the canvas, and the first frame, which may be larger than it.
fn gif(file: &mut Window<'_>) -> Option<Header> {
    let (width, height) = (u32::from(file.u16_le(6)?), u32::from(file.u16_le(8)?));
    let table_bytes = |flags: u8| match flags & 0x80 {
        0 => 0,
        _ => 3_u64 << ((flags & 7) + 1),
    };
    let mut at = 13 + table_bytes(file.byte(10)?);
    // Pixels of the frame, and whether its rows are whole rows of the canvas.
    let frame = |file: &mut Window<'_>, at: u64| {
        let (left, top) = (file.u16_le(at)?, u32::from(file.u16_le(at + 2)?));
        let (across, down) = (
            u32::from(file.u16_le(at + 4)?),
            u32::from(file.u16_le(at + 6)?),
        );
        let fills_rows = left == 0 && across == width && top + down <= height;
        Some((u64::from(across) * u64::from(down), fills_rows))
    };
    let mut extension_bytes = 0_u64;
    let (frame_pixels, fills_rows) = loop {
        match file.byte(at)? {
            0x2c => break frame(file, at + 1)?,
            0x21 => {
                at += 2;
                loop {
                    let length = u64::from(file.byte(at)?);
                    at += 1 + length;
                    extension_bytes += 1 + length;
                    if length == 0 {
                        break;
                    }
                }
            }
            // Padding between blocks occurs, and decoders pass over it.
            0 => at += 1,
            _ => return None,
        }
    };
    let canvas = u64::from(width) * u64::from(height);
    Some(Header {
        kind: Sniffed::Gif,
        width,
        height,
        pixels: canvas.max(frame_pixels),
        file_bytes: file.size(),
        metadata_bytes: 0,
        // The canvas and, where its rows are not the frame's, the frame, both RGBA; the frame's palette indices; what
        // extensions hold, in a buffer that doubles.
        decoder_bytes: 4 * canvas
            + frame_pixels * if fills_rows { 1 } else { 5 }
            + EXTENSION_COPIES * extension_bytes,
        pixel_bytes: 4,
        orientation: Orientation::NoTransforms,
        jpeg: None,
        unmeasured: None,
    })
}

/// The bitmap's second header: 16-bit sides in the oldest, signed 32-bit ones (a negative height is
/// top-down) in all others.
fn bmp(file: &mut Window<'_>) -> Option<Header> {
    let (width, height) = if file.u32_le(14)? == 12 {
        (u32::from(file.u16_le(18)?), u32::from(file.u16_le(20)?))
    } else {
        (
            file.u32_le(18)?,
            file.u32_le(22)?.cast_signed().unsigned_abs(),
        )
    };
    let pixels = u64::from(width) * u64::from(height);
    Some(Header {
        kind: Sniffed::Bmp,
        width,
        height,
        pixels,
        file_bytes: file.size(),
        metadata_bytes: 0,
        decoder_bytes: pixels.saturating_mul(4),
        pixel_bytes: 4,
        orientation: Orientation::NoTransforms,
        jpeg: None,
        unmeasured: None,
    })
}
