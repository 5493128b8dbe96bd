//! What a picture's header claims, read before anything is allocated.
//!
//! One pass over the structure of the file (segments, chunks, blocks), no pixel data looked at but for the
//! end mark of a JPEG. What is read here bounds the decoders, so every size a decoder may believe is taken
//! into account: the canvas, the first frame, the bitstream inside a container. Nothing is allocated.

use super::{sniff::Sniffed, thumbnail::MediaError};

/// More pixels than this are refused whatever the configuration says: some decoders count bytes in 32 bits.
const PIXELS_HARD_MAX: u64 = 1 << 28;

/// Scans of one JPEG. Encoders make 10 or so; each is a pass over the whole picture for a few bytes of file.
const JPEG_SCANS_MAX: u32 = 32;

/// A picture by its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header<'a> {
    /// Pixels across, as stored: orientation is not applied.
    pub(super) width: u32,
    /// Pixels down, as stored.
    pub(super) height: u32,
    /// The most pixels that any part of the file makes a decoder allocate.
    pub(super) pixels: u64,
    /// Bytes a decoder holds for one of these pixels at its peak, its output included.
    pub(super) bytes_per_pixel: u64,
    /// The TIFF structure of the Exif block, where one was found.
    pub(super) exif: Option<&'a [u8]>,
    /// JPEG: one component alone. Decoded as grey, a third of the memory.
    pub(super) is_grey: bool,
    /// JPEG: the walk came to the end mark. Where not, this is still what the header claims.
    pub(super) is_whole: bool,
}

impl Header<'_> {
    /// Refuses more than `pixels_max` pixels, and what no decoder here could count; after that, what is
    /// known to be cut off: a bomb that is truncated too is still a bomb.
    pub(super) fn check(&self, pixels_max: u64) -> Result<(), MediaError> {
        let pixels_max = pixels_max.min(PIXELS_HARD_MAX);
        let pixels = self.pixels;
        if pixels > pixels_max {
            Err(MediaError::TooManyPixels { pixels, pixels_max })
        } else if !self.is_whole {
            Err(truncated("JPEG"))
        } else {
            Ok(())
        }
    }
}

/// Reads the header of one of the five decodable formats.
///
/// # Errors
/// [`MediaError::NotAnImage`], [`MediaError::UnsupportedImage`] for kinds and codings that are not decoded,
/// [`MediaError::Corrupt`] where the structure breaks off or a side is zero.
pub(super) fn header(source: &[u8], kind: Sniffed) -> Result<Header<'_>, MediaError> {
    let header = match kind {
        Sniffed::Jpeg => jpeg(source)?,
        Sniffed::Png => png(source).ok_or_else(|| truncated("PNG"))?,
        Sniffed::Gif => gif(source).ok_or_else(|| truncated("GIF"))?,
        Sniffed::Webp => webp(source).ok_or_else(|| truncated("WebP"))?,
        Sniffed::Bmp => bmp(source).ok_or_else(|| truncated("BMP"))?,
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

/// What a walk over the segments of a JPEG found, as far as it came.
#[derive(Default)]
struct Segments<'a> {
    frame: Option<Header<'a>>,
    exif: Option<&'a [u8]>,
    scans: u32,
    progressive: bool,
}

/// A file without its end mark is truncated: the decoder would fill the rest with grey, and a thumbnail
/// would be kept of half a picture.
fn jpeg(source: &[u8]) -> Result<Header<'_>, MediaError> {
    let mut segments = Segments::default();
    let end = segments.walk(source);
    let (Some(frame), false) = (
        segments.frame,
        matches!(end, Err(MediaError::UnsupportedImage)),
    ) else {
        return Err(end.err().unwrap_or_else(|| truncated("JPEG")));
    };
    let is_whole = end.is_ok() && segments.scans > 0;
    // Several scans are gathered as 16-bit coefficients of the whole picture before any pixel is made.
    let is_gathered = segments.progressive || segments.scans > 1;
    let gathered = if is_gathered {
        2 * frame.bytes_per_pixel
    } else {
        0
    };
    let output = if frame.is_grey { 1 } else { 3 };
    Ok(Header {
        exif: segments.exif,
        bytes_per_pixel: output + gathered,
        is_whole,
        ..frame
    })
}

impl<'a> Segments<'a> {
    /// Walks the segments up to the end mark (ITU-T T.81 annex B); an error where it is not reached.
    fn walk(&mut self, source: &'a [u8]) -> Result<(), MediaError> {
        let broken = || truncated("JPEG");
        let mut at = 2;
        loop {
            // Between segments and in scans: to the next 0xff and what follows it.
            let from = source.get(at..).ok_or_else(broken)?;
            at += from
                .iter()
                .position(|byte| *byte == 0xff)
                .ok_or_else(broken)?
                + 1;
            let marker = *source.get(at).ok_or_else(broken)?;
            match marker {
                // 0xff fills; stuffing, restart marks and stand-alone marks have no length.
                0xff => continue,
                0x00 | 0x01 | 0xd0..=0xd8 => {
                    at += 1;
                    continue;
                }
                0xd9 => return Ok(()),
                _ => at += 1,
            }
            let length = usize::from(u16_be(source, at).ok_or_else(broken)?).max(2);
            let body = source.get(at + 2..at + length).ok_or_else(broken)?;
            match marker {
                0xc0..=0xc2 if self.frame.is_none() => {
                    self.progressive = marker == 0xc2;
                    self.frame = Some(start_of_frame(body)?);
                }
                0xc0..=0xc2 => return Err(MediaError::corrupt("two frames in one JPEG")),
                // Lossless, hierarchical and arithmetic coding; 0xc4 is a table, 0xc8 reserved.
                0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                    return Err(MediaError::UnsupportedImage);
                }
                0xe1 if self.exif.is_none() => self.exif = body.strip_prefix(b"Exif\0\0"),
                0xda => self.scans += 1,
                _ => {}
            }
            if self.scans > JPEG_SCANS_MAX {
                return Err(MediaError::corrupt("too many scans in a JPEG"));
            }
            at += length;
        }
    }
}

/// `bytes_per_pixel` is the samples per pixel here, rounded up; [`jpeg`] makes the cost of it.
fn start_of_frame(body: &[u8]) -> Result<Header<'_>, MediaError> {
    let broken = || truncated("JPEG");
    let &[precision, h1, h0, w1, w0, count, ref components @ ..] = body else {
        return Err(broken());
    };
    let components = components.as_chunks::<3>().0;
    if precision != 8 || !matches!(count, 1 | 3 | 4) {
        return Err(MediaError::UnsupportedImage);
    }
    if components.len() != usize::from(count) {
        return Err(broken());
    }
    let factors = components
        .iter()
        .map(|[_, factors, _]| (u32::from(factors >> 4), u32::from(factors & 15)));
    let (h_max, v_max) = factors
        .clone()
        .fold((1, 1), |(h, v), (h2, v2)| (h.max(h2), v.max(v2)));
    // T.81 allows factors of 3 and ratios like 3:2 too. No camera makes them, and the sampler was not
    // written for them: all but powers of two are refused before it sees them.
    if factors
        .clone()
        .any(|(h, v)| !matches!(h, 1 | 2 | 4) || !matches!(v, 1 | 2 | 4))
    {
        return Err(MediaError::UnsupportedImage);
    }
    let samples: u32 = factors.map(|(h, v)| h * v).sum();
    let (width, height) = (
        u32::from(u16::from_be_bytes([w1, w0])),
        u32::from(u16::from_be_bytes([h1, h0])),
    );
    // Decoders round up to whole blocks.
    let (block_w, block_h) = (8 * h_max, 8 * v_max);
    let padded =
        u64::from(width.next_multiple_of(block_w)) * u64::from(height.next_multiple_of(block_h));
    let pixels = u64::from(width) * u64::from(height);
    let is_thin = padded > 2 * pixels;
    let per_pixel = u64::from(samples.div_ceil(h_max * v_max))
        * if is_thin {
            padded / pixels.max(1) + 1
        } else {
            1
        };
    Ok(Header {
        width,
        height,
        pixels,
        bytes_per_pixel: per_pixel,
        exif: None,
        is_grey: count == 1,
        is_whole: true,
    })
}

/// PNG (third edition) §5: IHDR first; then chunks up to the first of the data.
fn png(source: &[u8]) -> Option<Header<'_>> {
    if source.get(12..16)? != b"IHDR" {
        return None;
    }
    let (width, height) = (u32_be(source, 16)?, u32_be(source, 20)?);
    let (depth, color) = (*source.get(24)?, *source.get(25)?);
    let (mut exif, mut has_trns) = (None, false);
    let mut at = 8;
    while let (Some(length), Some(kind)) = (u32_be(source, at), source.get(at + 4..at + 8)) {
        let length = usize::try_from(length).ok()?;
        match kind {
            b"IDAT" => break,
            b"tRNS" => has_trns = true,
            b"eXIf" => exif = source.get(at + 8..(at + 8).checked_add(length)?),
            _ => {}
        }
        at = at.checked_add(length)?.checked_add(12)?;
    }
    let channels = match color {
        0 => 1,
        2 | 3 => 3,
        4 => 2,
        _ => 4,
    } + u64::from(has_trns);
    let bytes_per_pixel = channels * if depth == 16 { 2 } else { 1 };
    Some(Header {
        width,
        height,
        pixels: u64::from(width) * u64::from(height),
        bytes_per_pixel,
        exif,
        is_grey: false,
        is_whole: true,
    })
}

/// GIF89a §18–20: the canvas, and the first frame, which may be larger than it.
fn gif(source: &[u8]) -> Option<Header<'_>> {
    let (width, height) = (u32::from(u16_le(source, 6)?), u32::from(u16_le(source, 8)?));
    let table_bytes = |flags: u8| {
        if flags & 0x80 != 0 {
            3 << ((flags & 7) + 1)
        } else {
            0
        }
    };
    let mut at = 13 + table_bytes(*source.get(10)?);
    let frame_pixels = loop {
        match *source.get(at)? {
            0x2c => break u64::from(u16_le(source, at + 5)?) * u64::from(u16_le(source, at + 7)?),
            0x21 => {
                at += 2;
                loop {
                    let length = usize::from(*source.get(at)?);
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
    // The canvas and a frame of its own, both RGBA, where the frame does not fill it.
    Some(Header {
        width,
        height,
        pixels: canvas.max(frame_pixels),
        bytes_per_pixel: 8,
        exif: None,
        is_grey: false,
        is_whole: true,
    })
}

/// RIFF chunks (RFC 9649 §2.3–2.7). The bitstreams inside name sizes of their own, which the decoder
/// allocates before it compares them with the canvas: the largest counts.
fn webp(source: &[u8]) -> Option<Header<'_>> {
    let mut header = Header {
        width: 0,
        height: 0,
        pixels: 0,
        bytes_per_pixel: 8,
        exif: None,
        is_grey: false,
        is_whole: true,
    };
    webp_chunks(source, 12, source.len(), false, &mut header)?;
    Some(header)
}

/// `in_frame`: these are a frame's own chunks, which hold no further frames, so that this goes one level deep.
fn webp_chunks<'a>(
    source: &'a [u8],
    mut at: usize,
    end: usize,
    in_frame: bool,
    header: &mut Header<'a>,
) -> Option<()> {
    while let (true, Some(kind), Some(length)) =
        (at < end, source.get(at..at + 4), u32_le(source, at + 4))
    {
        let body = at + 8;
        let length = usize::try_from(length).ok()?;
        let next = body.checked_add(length)?.checked_add(length & 1)?;
        let size = match kind {
            b"VP8X" => Some((u24_le(source, body + 4)? + 1, u24_le(source, body + 7)? + 1)),
            b"VP8 " => Some((
                u32::from(u16_le(source, body + 6)? & 0x3fff),
                u32::from(u16_le(source, body + 8)? & 0x3fff),
            )),
            b"VP8L" => {
                let bits = u32_le(source, body + 1)?;
                Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
            }
            b"ANMF" if !in_frame => {
                // A frame is placed on a canvas of its own: both are held.
                header.bytes_per_pixel = 12;
                let frame = (u24_le(source, body + 6)? + 1, u24_le(source, body + 9)? + 1);
                header.pixels = header.pixels.max(u64::from(frame.0) * u64::from(frame.1));
                webp_chunks(source, body + 16, next, true, header)?;
                None
            }
            b"EXIF" => {
                let exif = source.get(body..body.checked_add(length)?);
                // Some writers put the JPEG prefix before the TIFF structure.
                header.exif = exif.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
                None
            }
            _ => None,
        };
        if let Some((width, height)) = size {
            if header.width == 0 {
                (header.width, header.height) = (width, height);
            }
            header.pixels = header.pixels.max(u64::from(width) * u64::from(height));
        }
        at = next;
    }
    (header.width > 0).then_some(())
}

/// The bitmap's second header: 16-bit sides in the oldest, signed 32-bit ones (a negative height is
/// top-down) in all others.
fn bmp(source: &[u8]) -> Option<Header<'_>> {
    let (width, height) = if u32_le(source, 14)? == 12 {
        (
            u32::from(u16_le(source, 18)?),
            u32::from(u16_le(source, 20)?),
        )
    } else {
        (
            u32_le(source, 18)?,
            u32_le(source, 22)?.cast_signed().unsigned_abs(),
        )
    };
    Some(Header {
        width,
        height,
        pixels: u64::from(width) * u64::from(height),
        bytes_per_pixel: 4,
        exif: None,
        is_grey: false,
        is_whole: true,
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_be(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

fn u16_le(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn u24_le(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0]))
}

fn u32_be(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

fn u32_le(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}
