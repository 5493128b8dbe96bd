//! The limits of a picture: what decoding one may cost, and which sizes it is decoded to.
//!
//! The sizes that a client may ask for are in [`BoundingBox`]. How much a picture costs is computed in `cost.rs`.

use crate::derivative::BoundingBox;

/// What the decoding of one picture may cost. The defaults are those of the section `[thumbnails]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureLimits {
    /// Pixels of the picture: of its canvas or of its first frame, whichever is larger. More than 2²⁸ are refused in
    /// any case.
    pub pixels_max: u64,
    /// Bytes of memory that one decoder may use, the file itself included.
    pub decode_bytes_max: u64,
}

impl Default for PictureLimits {
    fn default() -> Self {
        Self {
            pixels_max: 64_000_000,
            decode_bytes_max: 384 << 20,
        }
    }
}

/// The most pixels of a picture, whatever the configuration says: some decoders count bytes in 32 bits.
pub(super) const PIXELS_HARD_MAX: u64 = 1 << 28;

/// Scans of one JPEG. Encoders write about 10.
pub(super) const SCANS_MAX: u32 = 32;

/// How often the scans of a JPEG may pass over as many samples as the largest picture has pixels. The ten scans that
/// libjpeg usually writes read 8 samples per pixel where chroma is halved, and 14 where it is not; of the latter, no
/// picture of more than 45 megapixels fits the default memory limit. 32 scans of 8000 × 8000 pixels, in 380 KB, cost
/// 4 s of CPU.
pub(super) const SCANNED_PER_PIXEL_MAX: u64 = 10;

/// Bytes that a decoder may allocate for compressed metadata, such as a colour profile.
pub(super) const UNPACKED_METADATA_BYTES_MAX: u64 = 4 << 20;

/// The least number of source pixels, in each direction, for one pixel of the result, where a decoder can leave out the
/// rest. With fewer than 2, edges and small text suffer (decision 0012).
pub(super) const SOURCE_PIXELS_MIN: u32 = 2;

/// Sides of the square boxes to which a picture is decoded before it is shrunk to any other size (decision 0017).
pub(super) const REDUCED_SIDES: [u16; 7] = [256, 384, 512, 768, 1024, 1536, BoundingBox::SIDE_MAX];

/// An image of at most this many bytes is its own thumbnail (a rule of the vendors' contract), unless it has more than
/// `OWN_THUMBNAIL_PIXELS_MAX` pixels.
pub const OWN_THUMBNAIL_BYTES_MAX: u64 = 10 * 1024;

/// Pixels of the largest thumbnail. An image with more is never sent as its own thumbnail.
pub(super) const OWN_THUMBNAIL_PIXELS_MAX: u64 = (BoundingBox::SIDE_MAX as u64).pow(2);
