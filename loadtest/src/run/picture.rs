//! The pictures of uploads: a few real JPEGs, encoded once. Their thumbnails cost a server as much as those of photos
//! of that size.

use bytes::Bytes;
use image::{ExtendedColorType, ImageEncoder as _, codecs::jpeg::JpegEncoder};

use super::content::mix;
use crate::Error;

/// Sizes in pixels, in ascending order. The largest is the size to which chat clients scale photos.
const SIZES: [(u32, u32); 4] = [(160, 120), (320, 240), (640, 480), (1280, 960)];
/// The quality that clients use.
const QUALITY: u8 = 80;

/// One picture of each size, the shortest first.
#[derive(Debug, Clone)]
pub(crate) struct Pictures(Vec<Bytes>);

impl Pictures {
    /// Encodes the pictures.
    pub(crate) fn new() -> Result<Self, Error> {
        let jpegs: Result<_, _> = SIZES.iter().map(|size| encode(*size)).collect();
        Ok(Self(jpegs?))
    }

    /// The largest picture that fits into a file of `len` bytes, or the smallest one if none fits.
    pub(crate) fn for_len(&self, len: u64) -> Bytes {
        let fits = |jpeg: &&Bytes| jpeg.len() as u64 <= len;
        let found = self.0.iter().rev().find(fits).or(self.0.first());
        found.expect("SIZES is not empty").clone()
    }
}

/// Colour gradients with grain, similar to a photo: neither flat nor pure noise.
fn encode((width, height): (u32, u32)) -> Result<Bytes, Error> {
    let mut pixels = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            let grain = (mix(u64::from(y) << 32 | u64::from(x)) % 16) as u32;
            let slope = |a: u32, b: u32| (a * 160 / width + b * 64 / height + grain) as u8;
            pixels.extend([slope(x, y), slope(width - x, y), slope(x, height - y)]);
        }
    }
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .write_image(&pixels, width, height, ExtendedColorType::Rgb8)
        .map_err(|error| format!("cannot encode a picture: {error}"))?;
    Ok(jpeg.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picture_fits_length() {
        let pictures = Pictures::new().unwrap();
        let lens: Vec<u64> = pictures.0.iter().map(|jpeg| jpeg.len() as u64).collect();
        assert!(lens.is_sorted(), "{lens:?}");
        for len in [lens[0], lens[1], lens[2] + 1, lens[3], 1_000_000] {
            assert!(
                pictures.for_len(len).len() as u64 <= len,
                "{len} of {lens:?}"
            );
        }
        assert_eq!(pictures.for_len(1).len() as u64, lens[0]);
        assert_eq!(pictures.for_len(u64::MAX).len() as u64, lens[3]);
        // Photos of the chat scenario have 100 kB and more: nearly all use the largest size.
        assert!(lens[3] < 250_000, "{lens:?}");
    }
}
