//! Generates photos with the detail and the length of real ones, the same in every run.

use std::io::Cursor;

use bytes::Bytes;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, codecs::jpeg::JpegEncoder};

use crate::Error;

/// The quality that cameras and chat clients use.
const QUALITY: u8 = 85;

/// Encodes a JPEG of the given size.
pub(crate) fn jpeg(width: u32, height: u32, seed: u64) -> Result<Bytes, Error> {
    let mut file = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut file, QUALITY);
    pixels(width, height, seed).write_with_encoder(encoder)?;
    Ok(file.into())
}

/// Encodes the same picture as PNG or GIF.
pub(crate) fn file(
    width: u32,
    height: u32,
    seed: u64,
    format: ImageFormat,
) -> Result<Bytes, Error> {
    let mut file = Cursor::new(Vec::new());
    let picture = DynamicImage::from(pixels(width, height, seed));
    picture.write_to(&mut file, format)?;
    Ok(file.into_inner().into())
}

/// Surfaces with soft borders and noise, which is stronger in some surfaces, as in photos of sky and grass.
fn pixels(width: u32, height: u32, seed: u64) -> RgbImage {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let phase = (seed % 97) as f32 / 15.0;
    RgbImage::from_fn(width, height, |x, y| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let (u, v) = (x as f32 / width as f32 * 9.0, y as f32 / width as f32 * 9.0);
        let surface = (u + phase).sin() * (v * 1.3 - phase).cos() + (u * 0.4 - v * 0.7).sin();
        let grain = if surface > 0.3 { 26.0 } else { 9.0 };
        let noise = ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * grain;
        let light = 120.0 + 60.0 * surface + noise;
        Rgb([light * 1.05, light, 255.0 - light * 0.8].map(|shade| shade.clamp(0.0, 255.0) as u8))
    })
}

/// Returns the same picture as a different file: a comment with a number after the first marker, which decoders ignore.
pub(crate) fn distinct(jpeg: &Bytes, number: usize) -> Bytes {
    let mut file = jpeg[..2].to_vec();
    file.extend_from_slice(&[0xFF, 0xFE, 0, 10]);
    file.extend_from_slice(&(number as u64).to_be_bytes());
    file.extend_from_slice(&jpeg[2..]);
    file.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photo_has_length_of_real_one() {
        let photo = jpeg(1600, 1200, 1).unwrap();
        assert!(
            (300_000..500_000).contains(&photo.len()),
            "{} bytes",
            photo.len()
        );
        let other = distinct(&photo, 7);
        assert_ne!(photo, other);
        let decoded = image::load_from_memory(&photo).unwrap();
        assert_eq!((decoded.width(), decoded.height()), (1600, 1200));
        assert_eq!(decoded, image::load_from_memory(&other).unwrap());
        assert_eq!(photo, jpeg(1600, 1200, 1).unwrap(), "the same in every run");
    }
}
