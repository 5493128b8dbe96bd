//! Decodes a file to eight-bit pixels, with the decoder for its kind.
//!
//! The header was checked before. The decoders get the same limits again, and the size that they read must agree with
//! the header. Only the first frame of an animation is decoded. Colour profiles are ignored.

use std::io::Cursor;

use fast_image_resize::PixelType;
use image::{
    ColorType, ImageDecoder, ImageError, Limits,
    codecs::{bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, webp::WebPDecoder},
};
use zune_jpeg::{
    JpegDecoder,
    errors::DecodeErrors,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use super::{
    cost::{Plan, Scale, scaled},
    dimensions::Header,
    error::MediaError,
    kind::Sniffed,
    limits::UNPACKED_METADATA_BYTES_MAX,
};

/// A decoded picture: rows without padding, one byte per channel, colours not multiplied by alpha.
#[derive(Clone)]
pub(super) struct Pixels {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) bytes: Vec<u8>,
    /// `U8`, `U8x2`, `U8x3` or `U8x4`: grey, grey with alpha, RGB, RGBA.
    pub(super) layout: PixelType,
    /// Width and height of the picture in these pixels. The last column and row of a picture that was decoded at a
    /// smaller scale may lie partly outside of it.
    pub(super) extent: (f64, f64),
}

/// Decodes the first picture of `source` as planned from its header.
///
/// # Errors
/// [`MediaError::Corrupt`], also where a large JPEG cannot be decoded at the planned scale and the full size does not
/// fit the memory limit; [`MediaError::UnsupportedImage`].
pub(super) fn decode(source: &[u8], plan: &Plan) -> Result<Pixels, MediaError> {
    let reader = Cursor::new(source);
    let header = &plan.header;
    match header.kind {
        Sniffed::Jpeg => match plan.scale {
            Scale::Full => jpeg(source, header),
            Scale::ReducedOrFull { eighths } => match reduced_jpeg(source, plan, eighths) {
                Some(pixels) => Ok(pixels),
                None => jpeg(source, header),
            },
            Scale::Reduced { eighths } => {
                let pixels = reduced_jpeg(source, plan, eighths);
                pixels.ok_or_else(|| MediaError::corrupt("a large JPEG is damaged or unusual"))
            }
        },
        Sniffed::Png => with_image(PngDecoder::with_limits(reader, png_limits(header)), header),
        Sniffed::Gif => with_image(GifDecoder::new(reader), header),
        Sniffed::Webp => with_image(WebPDecoder::new(reader), header),
        Sniffed::Bmp => with_image(BmpDecoder::new(reader), header),
        _ => Err(MediaError::UnsupportedImage),
    }
}

/// `png` counts its own allocations against this limit, but not the output. Above all, it limits compressed metadata:
/// 10 KB can unpack to a colour profile of 10 MB.
fn png_limits(header: &Header) -> Limits {
    let mut limits = limits(header);
    let row_bytes = u64::from(header.width) * 64;
    limits.max_alloc =
        Some(UNPACKED_METADATA_BYTES_MAX + header.metadata_bytes.saturating_add(row_bytes));
    limits
}

fn limits(header: &Header) -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(header.width);
    limits.max_image_height = Some(header.height);
    limits.max_alloc = Some(header.decoder_bytes);
    limits
}

/// Decodes a large JPEG by its lowest frequencies (decision 0012): an inverse DCT of 1, 2 or 4 points for each 8. `None`
/// for every picture that this decoder does not read as plain grey or YCbCr, damaged ones included: then the result of
/// the other decoder counts.
fn reduced_jpeg(source: &[u8], plan: &Plan, eighths: u32) -> Option<Pixels> {
    let Plan {
        header,
        decoded_min,
        ..
    } = plan;
    let side = |side: u32| u16::try_from(side).ok();
    let (width, height) = (header.width, header.height);
    let (small_width, small_height) = scaled(header, eighths);
    let mut decoder = jpeg_decoder::Decoder::new(source);
    decoder.read_info().ok()?;
    let info = decoder.info()?;
    if (info.width, info.height) != (side(width)?, side(height)?) {
        return None;
    }
    let layout = match info.pixel_format {
        jpeg_decoder::PixelFormat::L8 => PixelType::U8,
        jpeg_decoder::PixelFormat::RGB24 => PixelType::U8x3,
        _ => return None,
    };
    let length = pixel_bytes(small_width, small_height, layout).ok()?;
    decoder.set_max_decoding_buffer_size(length);
    let chosen = decoder
        .scale(side(decoded_min.0)?, side(decoded_min.1)?)
        .ok()?;
    if chosen != (side(small_width)?, side(small_height)?) {
        return None;
    }
    let bytes = decoder.decode().ok()?;
    (bytes.len() == length).then_some(Pixels {
        width: small_width,
        height: small_height,
        bytes,
        layout,
        extent: (
            f64::from(width * eighths) / 8.0,
            f64::from(height * eighths) / 8.0,
        ),
    })
}

/// Decodes a JPEG at full size. Damage inside a complete file is tolerated, as in browsers; [`Header::check_whole`] has
/// checked that the file is complete. CMYK is read as inverted with and without Adobe's marker, as in browsers.
fn jpeg(source: &[u8], header: &Header) -> Result<Pixels, MediaError> {
    let (color, layout) = match header.pixel_bytes {
        1 => (ColorSpace::Luma, PixelType::U8),
        _ => (ColorSpace::RGB, PixelType::U8x3),
    };
    let options = DecoderOptions::default()
        .set_max_width(header.width as usize)
        .set_max_height(header.height as usize)
        .set_strict_mode(false)
        .jpeg_set_out_colorspace(color);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(source), options);
    decoder.decode_headers().map_err(from_zune)?;
    if decoder.dimensions() != Some((header.width as usize, header.height as usize)) {
        return Err(MediaError::corrupt("the JPEG has a second frame header"));
    }
    let length = pixel_bytes(header.width, header.height, layout)?;
    if decoder.output_buffer_size() != Some(length) {
        return Err(MediaError::UnsupportedImage);
    }
    let mut bytes = vec![0; length];
    decoder.decode_into(&mut bytes).map_err(from_zune)?;
    Ok(Pixels {
        width: header.width,
        height: header.height,
        bytes,
        layout,
        extent: (header.width.into(), header.height.into()),
    })
}

fn with_image(
    decoder: Result<impl ImageDecoder, ImageError>,
    header: &Header,
) -> Result<Pixels, MediaError> {
    let mut decoder = decoder.map_err(from_image)?;
    decoder.set_limits(limits(header)).map_err(from_image)?;
    let (width, height) = decoder.dimensions();
    if (width, height) != (header.width, header.height) {
        return Err(MediaError::corrupt(
            "the decoder read another size than the header",
        ));
    }
    let (layout, is_deep) = match decoder.color_type() {
        ColorType::L8 => (PixelType::U8, false),
        ColorType::La8 => (PixelType::U8x2, false),
        ColorType::Rgb8 => (PixelType::U8x3, false),
        ColorType::Rgba8 => (PixelType::U8x4, false),
        ColorType::L16 => (PixelType::U8, true),
        ColorType::La16 => (PixelType::U8x2, true),
        ColorType::Rgb16 => (PixelType::U8x3, true),
        ColorType::Rgba16 => (PixelType::U8x4, true),
        _ => return Err(MediaError::UnsupportedImage),
    };
    let length = pixel_bytes(width, height, layout)? * if is_deep { 2 } else { 1 };
    if decoder.total_bytes() != length as u64 {
        return Err(MediaError::UnsupportedImage);
    }
    let mut bytes = vec![0; length];
    decoder.read_image(&mut bytes).map_err(from_image)?;
    if is_deep {
        halve(&mut bytes);
    }
    Ok(Pixels {
        width,
        height,
        bytes,
        layout,
        extent: (width.into(), height.into()),
    })
}

/// Reduces 16-bit channels to 8 bits in place, rounded: a second buffer would cost half as much memory again.
fn halve(bytes: &mut Vec<u8>) {
    let length = bytes.len() / 2;
    for at in 0..length {
        let deep = u16::from_ne_bytes([bytes[2 * at], bytes[2 * at + 1]]);
        bytes[at] = u8::try_from((u32::from(deep) * 255 + 32_767) / 65_535).unwrap_or(u8::MAX);
    }
    bytes.truncate(length);
}

fn pixel_bytes(width: u32, height: u32, layout: PixelType) -> Result<usize, MediaError> {
    let bytes = u64::from(width) * u64::from(height) * layout.size() as u64;
    // Twice the length must fit a `usize` as well. On 64 bits the pixel limit is far below that.
    usize::try_from(bytes * 2)
        .map(|twice| twice / 2)
        .map_err(MediaError::corrupt)
}

fn from_zune(error: DecodeErrors) -> MediaError {
    match error {
        DecodeErrors::Unsupported(_) => MediaError::UnsupportedImage,
        other => MediaError::corrupt(other.to_string()),
    }
}

fn from_image(error: ImageError) -> MediaError {
    match error {
        ImageError::Unsupported(_) => MediaError::UnsupportedImage,
        other => MediaError::corrupt(other),
    }
}
