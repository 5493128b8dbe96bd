//! How a picture is decoded to a size, and how much memory that takes, both known from the header alone.
//!
//! The estimates are upper bounds. `tests/it/thumbnails/memory.rs` holds them against the peak of a real process.

use super::{
    dimensions::{Header, Jpeg},
    thumbnail::{BoundingBox, Bounds, MediaError, SOURCE_PIXELS, fitted},
};

/// Encoders, tables, and what the allocator rounds up.
const BASE_BYTES: u64 = 1 << 20;
/// Bytes for a pixel of the result once the source is gone: the pixels, turned upright, without alpha, and the encoded
/// file, whose buffer doubles when it is full.
const FINISHING_PIXEL_BYTES: u64 = 16;
/// What a decoder may allocate for metadata that is compressed, such as a colour profile.
pub(super) const UNPACKED_METADATA_BYTES_MAX: u64 = 4 << 20;

/// How a picture becomes one of a size, and what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub(super) header: Header,
    /// Pixels across of the result, still as stored.
    pub(super) width: u32,
    /// Pixels down of the result, still as stored.
    pub(super) height: u32,
    /// Pixels that the decoder must give at the least.
    pub(super) least: (u32, u32),
    pub(super) way: Way,
    cost_bytes: u64,
}

/// Which decoders may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The whole picture.
    Whole,
    /// So many eighths of a JPEG's sides. A picture that this decoder does not take is decoded whole.
    ReducedOrWhole { eighths: u32 },
    /// As before, but the whole picture does not fit the memory.
    Reduced { eighths: u32 },
}

impl Plan {
    /// Plans the decoding of a picture to a size that fits `fit` once upright.
    ///
    /// # Errors
    /// [`MediaError::Corrupt`] for a JPEG that is cut off, [`MediaError::TooMuchMemory`].
    pub fn new(header: &Header, fit: BoundingBox, bounds: &Bounds) -> Result<Self, MediaError> {
        header.check_whole()?;
        let (width, height) = fitted((header.width, header.height), fit, header.orientation);
        let least = (width * SOURCE_PIXELS, height * SOURCE_PIXELS);
        let whole = whole_bytes(header, (width, height));
        let reduced = header.jpeg.as_ref().and_then(|jpeg| {
            let eighths = eighths(header, jpeg, least)?;
            let bytes = reduced_bytes(header, jpeg, eighths, (width, height));
            Some((eighths, bytes))
        });
        let fits = |bytes: u64| bytes <= bounds.memory_bytes_max;
        let (way, cost_bytes) = match reduced {
            Some((eighths, bytes)) if fits(bytes.max(whole)) => {
                (Way::ReducedOrWhole { eighths }, bytes.max(whole))
            }
            Some((eighths, bytes)) if fits(bytes) => (Way::Reduced { eighths }, bytes),
            _ => (Way::Whole, whole),
        };
        match fits(cost_bytes) {
            true => Ok(Self {
                header: *header,
                width,
                height,
                least,
                way,
                cost_bytes,
            }),
            false => Err(MediaError::TooMuchMemory {
                bytes: cost_bytes,
                bytes_max: bounds.memory_bytes_max,
            }),
        }
    }

    /// For any number of pixels, whatever it costs.
    #[cfg(test)]
    pub(super) fn of_least(header: &Header, least: (u32, u32)) -> Self {
        let jpeg = header.jpeg.as_ref();
        let way = match jpeg.and_then(|jpeg| eighths(header, jpeg, least)) {
            Some(eighths) => Way::ReducedOrWhole { eighths },
            None => Way::Whole,
        };
        Self {
            header: *header,
            width: header.width,
            height: header.height,
            least,
            way,
            cost_bytes: 0,
        }
    }

    /// Bytes of memory at the peak, the source's own among them.
    pub fn cost_bytes(&self) -> u64 {
        self.cost_bytes
    }

    /// Bytes that [`super::thumbnail::shrink`] takes, to make a picture for `fit` of the one planned, which is among
    /// them.
    pub fn shrink_cost_bytes(&self, fit: BoundingBox) -> u64 {
        let Header {
            width,
            height,
            orientation,
            pixel_bytes,
            ..
        } = self.header;
        let from = (self.width, self.height);
        let to = fitted((width, height), fit, orientation);
        // Pixels with alpha are copied to be multiplied by it.
        2 * pixels(from) * pixel_bytes
            + resizing_bytes(from.1, pixel_bytes, to)
            + pixels(to) * FINISHING_PIXEL_BYTES
            + BASE_BYTES
    }
}

/// At how many eighths of its sides a JPEG is decoded to have at least the pixels of `least`: the scale that
/// `jpeg-decoder` chooses. `None` where nothing would be saved, and for CMYK, which it reads in another way than browsers
/// do.
pub(super) fn eighths(header: &Header, jpeg: &Jpeg, least: (u32, u32)) -> Option<u32> {
    if jpeg.components == 4
        || header.width < least.0.checked_mul(2)?
        || header.height < least.1.checked_mul(2)?
    {
        return None;
    }
    let (width, height, eighths) = [1, 2, 4]
        .into_iter()
        .map(|eighths| {
            let (width, height) = scaled(header, eighths);
            (width, height, eighths)
        })
        .find(|(width, height, _)| *width >= least.0 || *height >= least.1)?;
    // The decoder asks for one side to be large enough; the other one may be short by its rounding alone.
    (width * 16 >= least.0 * 15 && height * 16 >= least.1 * 15).then_some(eighths)
}

/// The sides of a JPEG that is decoded at so many eighths.
pub(super) fn scaled(header: &Header, eighths: u32) -> (u32, u32) {
    (
        (header.width * eighths).div_ceil(8),
        (header.height * eighths).div_ceil(8),
    )
}

/// Of a picture that is decoded whole. The allocator returns what the decoder has freed a little later, so that the
/// resizer's memory comes on top of it.
fn whole_bytes(header: &Header, result: (u32, u32)) -> u64 {
    let resizing = resizing_bytes(header.height, header.pixel_bytes, result);
    with_base(
        header,
        header.decoder_bytes.saturating_add(resizing),
        result,
    )
}

/// Of a JPEG that `jpeg-decoder` reads at a scale. It reads coefficients faster than its other threads transform them,
/// so that in the worst case all of them wait; those of a progressive picture are there twice.
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
        // Kept in buffers that double, so that the old one is there as well.
        bytes => 2 * bytes + UNPACKED_METADATA_BYTES_MAX.min(bytes.saturating_mul(1024)),
    };
    working_bytes
        .max(pixels(result) * FINISHING_PIXEL_BYTES)
        .saturating_add(header.file_bytes)
        .saturating_add(unpacked)
        .saturating_add(BASE_BYTES)
}

/// The resizer goes across first: rows of the result's width, as many as the source has.
fn resizing_bytes(rows: u32, pixel_bytes: u64, to: (u32, u32)) -> u64 {
    (pixels((to.0, rows)) + pixels(to)).saturating_mul(pixel_bytes)
}

fn pixels((width, height): (u32, u32)) -> u64 {
    u64::from(width) * u64::from(height)
}
