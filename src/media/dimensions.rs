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

mod jpeg;

pub(super) use jpeg::Jpeg;

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
}

impl Header {
    /// Reads the header of a picture of one of the five decodable formats. Blocking where the source is.
    ///
    /// # Errors
    /// [`MediaError::NotAnImage`], [`MediaError::UnsupportedImage`] for kinds and codings that are not decoded,
    /// [`MediaError::Corrupt`] where the structure breaks off before the size or a side is zero, [`MediaError::TooManyPixels`] and
    /// [`MediaError::TooManyScans`] by the bounds, [`MediaError::Unreadable`] where the disk fails.
    pub fn read(source: &dyn ReadAt, bounds: &Bounds) -> Result<Self, MediaError> {
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

    /// Pixels of the picture as a client would see it.
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// What is known to be cut off.
    pub(super) fn check_whole(&self) -> Result<(), MediaError> {
        match self.jpeg.is_none_or(|jpeg| jpeg.is_whole) {
            true => Ok(()),
            false => Err(truncated("JPEG")),
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
        Sniffed::Webp => webp(file).ok_or_else(|| truncated("WebP"))?,
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
    })
}

/// GIF89a §18–20: the canvas, and the first frame, which may be larger than it.
fn gif(file: &mut Window<'_>) -> Option<Header> {
    let (width, height) = (u32::from(file.u16_le(6)?), u32::from(file.u16_le(8)?));
    let table_bytes = |flags: u8| match flags & 0x80 {
        0 => 0,
        _ => 3_u64 << ((flags & 7) + 1),
    };
    let mut at = 13 + table_bytes(file.byte(10)?);
    let frame_pixels = loop {
        match file.byte(at)? {
            0x2c => break u64::from(file.u16_le(at + 5)?) * u64::from(file.u16_le(at + 7)?),
            0x21 => {
                at += 2;
                loop {
                    let length = u64::from(file.byte(at)?);
                    at += 1 + length;
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
        // The canvas and, where the frame does not fill it, the frame; both RGBA.
        decoder_bytes: 4 * (canvas + frame_pixels),
        pixel_bytes: 4,
        orientation: Orientation::NoTransforms,
        jpeg: None,
    })
}

/// What the chunks of a WebP file hold.
#[derive(Default)]
struct Webp {
    width: u32,
    height: u32,
    pixels: u64,
    metadata_bytes: u64,
    turned: Option<Orientation>,
    has_alpha: bool,
    is_lossless: bool,
    is_animated: bool,
}

/// RIFF chunks (RFC 9649 §2.3–2.7). The bitstreams inside name sizes of their own, which the decoder
/// allocates before it compares them with the canvas: the largest counts.
fn webp(file: &mut Window<'_>) -> Option<Header> {
    let mut found = Webp::default();
    found.walk(file, 12, file.size(), false)?;
    // Measured peaks of `image-webp`, output included, rounded up: planes of YUV, RGBA of a lossless picture, the alpha
    // channel's own lossless picture, the frame and the canvas of an animation.
    let per_pixel = match (found.is_animated, found.is_lossless, found.has_alpha) {
        (true, ..) => 16,
        (false, true, _) => 9,
        (false, false, true) => 12,
        (false, false, false) => 6,
    };
    Some(Header {
        kind: Sniffed::Webp,
        width: found.width,
        height: found.height,
        pixels: found.pixels,
        file_bytes: file.size(),
        metadata_bytes: found.metadata_bytes.min(file.size()),
        decoder_bytes: found.pixels.saturating_mul(per_pixel),
        pixel_bytes: if found.has_alpha { 4 } else { 3 },
        orientation: found.turned.unwrap_or(Orientation::NoTransforms),
        jpeg: None,
    })
}

impl Webp {
    /// `in_frame`: these are a frame's own chunks, which hold no further frames, so that this goes one level deep.
    fn walk(&mut self, file: &mut Window<'_>, mut at: u64, end: u64, in_frame: bool) -> Option<()> {
        while let (true, Some(kind), Some(length)) =
            (at < end, file.array::<4>(at), file.u32_le(at + 4))
        {
            let body = at + 8;
            let length = u64::from(length);
            let next = body + length + (length & 1);
            let size = match &kind {
                b"VP8X" => {
                    let flags = file.byte(body)?;
                    self.has_alpha |= flags & 0x10 != 0;
                    self.is_animated |= flags & 0x02 != 0;
                    Some((file.u24_le(body + 4)? + 1, file.u24_le(body + 7)? + 1))
                }
                b"VP8 " => Some((
                    u32::from(file.u16_le(body + 6)? & 0x3fff),
                    u32::from(file.u16_le(body + 8)? & 0x3fff),
                )),
                b"VP8L" => {
                    let bits = file.u32_le(body + 1)?;
                    self.is_lossless = true;
                    self.has_alpha |= bits >> 28 & 1 != 0;
                    Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
                }
                b"ANMF" if !in_frame => {
                    self.is_animated = true;
                    let frame = (file.u24_le(body + 6)? + 1, file.u24_le(body + 9)? + 1);
                    self.pixels = self.pixels.max(u64::from(frame.0) * u64::from(frame.1));
                    self.walk(file, body + 16, next, true)?;
                    None
                }
                b"EXIF" => {
                    let chunk = file.get_some(body, usize::try_from(length).ok()?);
                    // Some writers put the JPEG prefix before the TIFF structure.
                    let tiff = chunk.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
                    self.turned = Some(orientation(tiff));
                    None
                }
                b"ALPH" => {
                    self.has_alpha = true;
                    None
                }
                _ => None,
            };
            if let Some((width, height)) = size {
                if self.width == 0 {
                    (self.width, self.height) = (width, height);
                }
                self.pixels = self.pixels.max(u64::from(width) * u64::from(height));
            }
            at = next;
        }
        (self.width > 0).then_some(())
    }
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
    })
}
