//! Measures the quality of thumbnails: their SSIM against a full decode that is resized by Lanczos in floating point. The
//! figures, and those of libvips: decision 0012.

use std::{fs, io::Cursor, process::Command};

use fast_image_resize::PixelType;
use image::{DynamicImage, GrayImage, ImageFormat, RgbImage, RgbaImage, codecs::jpeg::JpegEncoder};
use image_compare::{Algorithm, gray_similarity_structure};

use super::{
    cost::Plan,
    decode::decode,
    limits::SOURCE_PIXELS_MIN,
    thumbnail::resize,
    thumbnail_tests::{drawn, fixture, header, made, pixels, reference},
};
use crate::derivative::BoundingBox;

/// A picture, and the box that its thumbnail fits.
struct Case {
    name: &'static str,
    source: Vec<u8>,
    /// The side of the box.
    side: u16,
    /// Source pixels, in each direction, for one decoded pixel.
    divisor: u32,
    /// The least SSIM before encoding, and as served: the measured values, less a little.
    least: (f64, f64),
}

fn case(name: &'static str, source: &[u8], side: u16, divisor: u32, least: (f64, f64)) -> Case {
    Case {
        name,
        source: source.to_vec(),
        side,
        divisor,
        least,
    }
}

/// JPEG loses most of the noise: hence the low values of some thumbnails as served.
fn cases() -> Vec<Case> {
    let as_file = |format| {
        let mut file = Cursor::new(Vec::new());
        photo(1600, 1200).write_to(&mut file, format).unwrap();
        file.into_inner()
    };
    let (chat, edges) = (fixture("../photo.jpg"), jpeg(&drawn(1600, 1200)));
    let (small, large) = (jpeg(&photo(1600, 1200)), jpeg(&photo(4000, 2250)));
    let (png, webp) = (as_file(ImageFormat::Png), as_file(ImageFormat::WebP));
    vec![
        case("photo.jpg", &chat, 100, 8, (0.964, 0.889)),
        case("photo.jpg", &chat, 170, 4, (0.961, 0.808)),
        case("photo.jpg", &chat, 400, 2, (0.952, 0.682)),
        case("photo.jpg", &chat, 500, 1, (0.979, 0.665)),
        case("drawn", &edges, 100, 8, (0.998, 0.982)),
        case("drawn", &edges, 170, 4, (0.998, 0.981)),
        case("drawn", &edges, 400, 2, (0.997, 0.967)),
        case("drawn", &edges, 500, 1, (0.998, 0.956)),
        case("1600 x 1200", &small, 100, 8, (0.992, 0.967)),
        case("1600 x 1200", &small, 170, 4, (0.99, 0.947)),
        case("1600 x 1200", &small, 400, 2, (0.977, 0.807)),
        case("1600 x 1200", &small, 500, 1, (0.986, 0.727)),
        case("4000 x 2250", &large, 170, 8, (0.986, 0.951)),
        case("1600 x 1200, PNG", &png, 170, 1, (0.997, 0.948)),
        case("1600 x 1200, WebP", &webp, 170, 1, (0.997, 0.948)),
        case(
            "progressive.jpg",
            &fixture("progressive.jpg"),
            50,
            2,
            (0.983, 0.714),
        ),
        case(
            "full_chroma.jpg",
            &fixture("full_chroma.jpg"),
            50,
            2,
            (0.989, 0.734),
        ),
        case(
            "odd_422.jpg",
            &fixture("odd_422.jpg"),
            50,
            2,
            (0.986, 0.755),
        ),
        case(
            "baseline.jpg",
            &fixture("baseline.jpg"),
            96,
            1,
            (0.998, 0.731),
        ),
        case("lossy.webp", &fixture("lossy.webp"), 96, 1, (0.998, 0.734)),
        case("rgb.png", &fixture("rgb.png"), 96, 1, (0.998, 0.845)),
        case("rgba.png", &fixture("rgba.png"), 96, 1, (0.997, 0.997)),
    ]
}

fn jpeg(picture: &DynamicImage) -> Vec<u8> {
    let mut file = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut file, 85);
    picture.write_with_encoder(encoder).unwrap();
    file
}

/// Draws a photo as the load generator does (`loadtest/src/versus/photo.rs`): surfaces with soft borders under noise.
fn photo(width: u32, height: u32) -> DynamicImage {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let phase = 1.0 / 15.0;
    RgbImage::from_fn(width, height, |x, y| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let (u, v) = (x as f32 / width as f32 * 9.0, y as f32 / width as f32 * 9.0);
        let surface = (u + phase).sin() * (v * 1.3 - phase).cos() + (u * 0.4 - v * 0.7).sin();
        let grain = if surface > 0.3 { 26.0 } else { 9.0 };
        let noise = ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * grain;
        let light = 120.0 + 60.0 * surface + noise;
        image::Rgb([light * 1.05, light, 255.0 - light * 0.8].map(|shade| shade as u8))
    })
    .into()
}

/// The mean SSIM of red, green and blue, over white, in windows of 8 × 8. The crate sums a window's variance where the
/// paper averages it, so that flat windows count more, and the values are lower than those of other programs.
fn ssim(a: &DynamicImage, b: &DynamicImage) -> f64 {
    let (a, b) = (over_white(a), over_white(b));
    let channel = |picture: &RgbImage, at: usize| {
        GrayImage::from_fn(picture.width(), picture.height(), |x, y| {
            image::Luma([picture.get_pixel(x, y).0[at]])
        })
    };
    let of = |at| {
        let (a, b) = (channel(&a, at), channel(&b, at));
        gray_similarity_structure(&Algorithm::MSSIMSimple, &a, &b)
            .unwrap()
            .score
    };
    (of(0) + of(1) + of(2)) / 3.0
}

fn over_white(picture: &DynamicImage) -> RgbImage {
    let picture = picture.to_rgba8();
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [red, green, blue, alpha] = picture.get_pixel(x, y).0.map(u16::from);
        let over = |shade: u16| (shade * alpha + 255 * (255 - alpha) + 127) / 255;
        image::Rgb([red, green, blue].map(|shade| u8::try_from(over(shade)).unwrap()))
    })
}

/// The best thumbnail of this size.
fn best(source: &[u8], (width, height): (u32, u32)) -> DynamicImage {
    let whole = image::load_from_memory(source).unwrap();
    reference(&whole, width, height).into()
}

/// The thumbnail before encoding, where the decoder produces `kept` pixels in each direction for one of the result, and
/// the divisor at which it decoded.
fn before_encoding(source: &[u8], (width, height): (u32, u32), kept: u32) -> (DynamicImage, u32) {
    let header = header(source);
    let plan = Plan::of_decoded_min(&header, (width * kept, height * kept));
    let decoded = decode(source, &plan).unwrap();
    let divisor = header.width.div_ceil(decoded.width).next_power_of_two();
    let small = resize(decoded, width, height).unwrap();
    let picture = match small.layout {
        PixelType::U8x4 => RgbaImage::from_raw(width, height, small.bytes).map(DynamicImage::from),
        _ => RgbImage::from_raw(width, height, small.bytes).map(DynamicImage::from),
    };
    (picture.unwrap(), divisor)
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures, with --nocapture")]
fn thumbnails_match_best_quality() {
    for Case {
        name,
        source,
        side,
        divisor,
        least,
    } in cases()
    {
        let thumbnail = made(&source, BoundingBox::square(side));
        let size = (thumbnail.width, thumbnail.height);
        let best = best(&source, size);
        let (before, decoded_at) = before_encoding(&source, size, SOURCE_PIXELS_MIN);
        assert_eq!(decoded_at, divisor, "{name} in {side}");
        let found = (
            ssim(&before, &best),
            ssim(&pixels(&thumbnail).into(), &best),
        );
        println!(
            "{name} in {side}, 1/{divisor}: {found:.4?}, {} bytes",
            thumbnail.bytes.len()
        );
        assert!(
            found.0 >= least.0 && found.1 >= least.1,
            "{name} in {side}: {found:.4?}, not {least:?}"
        );
        // The limit excludes the next coarser scale.
        let (coarse, coarse_at) = before_encoding(&source, size, SOURCE_PIXELS_MIN / 2);
        let coarse = ssim(&coarse, &best);
        assert!(
            coarse_at == divisor || coarse < least.0,
            "{name} in {side}: {coarse:.4}"
        );
    }
}

/// The other columns of the table in decision 0012: `cargo test --lib quality -- --include-ignored --nocapture`.
#[test]
#[ignore = "needs vipsthumbnail, and asserts nothing about it"]
#[expect(clippy::print_stdout, reason = "the figures, with --nocapture")]
fn compares_with_vipsthumbnail() {
    let directory = tempfile::tempdir().unwrap();
    let vips = |side: u16, name: &str| {
        let done = Command::new("vipsthumbnail")
            .args([
                "--size",
                &format!("{side}x{side}"),
                "--output",
                name,
                "source",
            ])
            .current_dir(directory.path())
            .status();
        assert!(done.unwrap().success());
        fs::read(directory.path().join(name)).unwrap()
    };
    for case in cases() {
        fs::write(directory.path().join("source"), &case.source).unwrap();
        let found = ["before.png", "served.jpg"].map(|name| {
            let file = vips(case.side, name);
            let picture = image::load_from_memory(&file).unwrap();
            let best = best(&case.source, (picture.width(), picture.height()));
            (ssim(&picture, &best), file.len())
        });
        println!("vipsthumbnail, {} in {}: {found:.4?}", case.name, case.side);
    }
}
