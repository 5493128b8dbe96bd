//! Plans how to decode a picture to a size, and estimates how much memory that takes. Both follow from the header.
//!
//! The estimates are upper bounds. `tests/it/thumbnails/memory.rs` compares them with the peak of a real process.

use super::{
    dimensions::{Header, Jpeg},
    error::MediaError,
    limits::{PictureLimits, SOURCE_PIXELS_MIN, UNPACKED_METADATA_BYTES_MAX},
};
use crate::derivative::BoundingBox;

/// Memory for encoders and tables, and for the rounding of the allocator.
const BASE_BYTES: u64 = 1 << 20;
/// Bytes per pixel of the result after the source was freed: the pixels, their upright copy, their copy without alpha,
/// and the encoded file, whose buffer doubles when it is full.
const FINISHING_PIXEL_BYTES: u64 = 16;

/// How to decode a picture to a size, and what that costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub(super) header: Header,
    /// Width of the result in pixels, before the picture is turned upright.
    pub(super) width: u32,
    /// Height of the result in pixels, before the picture is turned upright.
    pub(super) height: u32,
    /// The least width and height that the decoder must produce.
    pub(super) decoded_min: (u32, u32),
    pub(super) scale: Scale,
    cost_bytes: u64,
}

/// The scale at which a picture is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// The full size.
    Full,
    /// This many eighths of a JPEG's sides; the full size where the reducing decoder does not support the picture.
    ReducedOrFull { eighths: u32 },
    /// This many eighths of a JPEG's sides. The full size does not fit the memory limit.
    Reduced { eighths: u32 },
}

impl Plan {
    /// Plans the decoding of a picture to a size that fits `fit` after it is turned upright.
    ///
    /// # Errors
    /// [`MediaError::Corrupt`] for a truncated JPEG, [`MediaError::TooMuchMemory`].
    pub fn new(
        header: &Header,
        fit: BoundingBox,
        limits: &PictureLimits,
    ) -> Result<Self, MediaError> {
        header.check_whole()?;
        let (width, height) = header.fitted(fit);
        let decoded_min = (width * SOURCE_PIXELS_MIN, height * SOURCE_PIXELS_MIN);
        let full = full_bytes(header, (width, height));
        let reduced = header.jpeg.as_ref().and_then(|jpeg| {
            let eighths = eighths(header, jpeg, decoded_min)?;
            let bytes = reduced_bytes(header, jpeg, eighths, (width, height));
            Some((eighths, bytes))
        });
        let bytes_max = limits.decode_bytes_max;
        let (scale, cost_bytes) = match reduced {
            Some((eighths, bytes)) if bytes.max(full) <= bytes_max => {
                (Scale::ReducedOrFull { eighths }, bytes.max(full))
            }
            Some((eighths, bytes)) if bytes <= bytes_max => (Scale::Reduced { eighths }, bytes),
            _ => (Scale::Full, full),
        };
        if cost_bytes > bytes_max {
            let bytes = cost_bytes;
            return Err(MediaError::TooMuchMemory { bytes, bytes_max });
        }
        Ok(Self {
            header: *header,
            width,
            height,
            decoded_min,
            scale,
            cost_bytes,
        })
    }

    /// A plan for any number of decoded pixels, without the limits.
    #[cfg(test)]
    pub(super) fn of_decoded_min(header: &Header, decoded_min: (u32, u32)) -> Self {
        let jpeg = header.jpeg.as_ref();
        let scale = match jpeg.and_then(|jpeg| eighths(header, jpeg, decoded_min)) {
            Some(eighths) => Scale::ReducedOrFull { eighths },
            None => Scale::Full,
        };
        Self {
            header: *header,
            width: header.width,
            height: header.height,
            decoded_min,
            scale,
            cost_bytes: 0,
        }
    }

    /// Bytes of memory at the peak, the file itself included.
    pub fn cost_bytes(&self) -> u64 {
        self.cost_bytes
    }

    /// Bytes of memory that [`super::thumbnail::shrink`] takes to make a picture for `fit` from the planned one, which
    /// is included.
    pub fn shrink_cost_bytes(&self, fit: BoundingBox) -> u64 {
        let pixel_bytes = self.header.pixel_bytes;
        let from = (self.width, self.height);
        let to = self.header.fitted(fit);
        // Pixels with alpha are copied before they are multiplied by it.
        2 * pixels(from) * pixel_bytes
            + resizing_bytes(from.1, pixel_bytes, to)
            + pixels(to) * FINISHING_PIXEL_BYTES
            + BASE_BYTES
    }
}

/// Returns at how many eighths of its sides a JPEG is decoded so that it has at least the pixels of `decoded_min`: the
/// scale that `jpeg-decoder` chooses. `None` where nothing would be saved, and for CMYK, which that decoder reads
/// differently from browsers.
fn eighths(header: &Header, jpeg: &Jpeg, decoded_min: (u32, u32)) -> Option<u32> {
    let (width_min, height_min) = decoded_min;
    if jpeg.components == 4
        || header.width < width_min.checked_mul(2)?
        || header.height < height_min.checked_mul(2)?
    {
        return None;
    }
    let (width, height, eighths) = [1, 2, 4]
        .into_iter()
        .map(|eighths| {
            let (width, height) = scaled(header, eighths);
            (width, height, eighths)
        })
        .find(|(width, height, _)| *width >= width_min || *height >= height_min)?;
    // The decoder requires only one side to be large enough; the other may be smaller by its rounding.
    (width * 16 >= width_min * 15 && height * 16 >= height_min * 15).then_some(eighths)
}

/// Width and height of a JPEG decoded at this many eighths.
pub(super) fn scaled(header: &Header, eighths: u32) -> (u32, u32) {
    (
        (header.width * eighths).div_ceil(8),
        (header.height * eighths).div_ceil(8),
    )
}

/// The cost of decoding at full size. The allocator returns the memory that the decoder frees with a delay, so the
/// resizer's memory is added to it.
fn full_bytes(header: &Header, result: (u32, u32)) -> u64 {
    let resizing = resizing_bytes(header.height, header.pixel_bytes, result);
    with_base(
        header,
        header.decoder_bytes.saturating_add(resizing),
        result,
    )
}

/// The cost of a JPEG that `jpeg-decoder` decodes at a scale. It reads coefficients faster than its other threads
/// transform them, so in the worst case all of them are in memory; those of a progressive picture are there twice.
fn reduced_bytes(header: &Header, jpeg: &Jpeg, eighths: u32, result: (u32, u32)) -> u64 {
    let output = scaled(header, eighths);
    let copies = if jpeg.is_progressive { 2 } else { 1 };
    let coefficients = 2 * jpeg.samples * copies;
    let eighths = u64::from(eighths);
    let planes = jpeg.samples * eighths * eighths / 64;
    let pixels = pixels(output) * header.pixel_bytes;
    let resizing = resizing_bytes(output.1, header.pixel_bytes, result);
    with_base(header, coefficients + planes + pixels + resizing, result)
}

fn with_base(header: &Header, working_bytes: u64, result: (u32, u32)) -> u64 {
    let unpacked = match header.metadata_bytes {
        0 => 0,
        // Metadata is kept in a buffer that doubles: the old one is in memory while the new one is filled.
        bytes => 2 * bytes + UNPACKED_METADATA_BYTES_MAX.min(bytes.saturating_mul(1024)),
    };
    working_bytes
        .max(pixels(result) * FINISHING_PIXEL_BYTES)
        .saturating_add(header.file_bytes)
        .saturating_add(unpacked)
        .saturating_add(BASE_BYTES)
}

/// The resizer works horizontally first: its intermediate picture has the result's width and the source's rows.
fn resizing_bytes(rows: u32, pixel_bytes: u64, to: (u32, u32)) -> u64 {
    (pixels((to.0, rows)) + pixels(to)).saturating_mul(pixel_bytes)
}

fn pixels((width, height): (u32, u32)) -> u64 {
    u64::from(width) * u64::from(height)
}
