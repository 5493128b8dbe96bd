//! Thumbnails of every format and orientation, compared in pixels with the results of the `image` crate.

use std::path::PathBuf;

use image::{DynamicImage, RgbaImage, codecs::jpeg::JpegEncoder, imageops::FilterType};

use super::{JPEG, NOT_SHOWN, THUMBNAIL, fixture, folder, store};
use crate::support::{TestServer, files_below};

/// The mean absolute difference per channel, with colour weighted by alpha.
fn difference(a: &RgbaImage, b: &RgbaImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let weighed = |pixel: &image::Rgba<u8>| {
        let [red, green, blue, alpha] = pixel.0.map(f64::from);
        [
            red * alpha / 255.0,
            green * alpha / 255.0,
            blue * alpha / 255.0,
            alpha,
        ]
    };
    let sum: f64 = a
        .pixels()
        .zip(b.pixels())
        .flat_map(|(a, b)| weighed(a).into_iter().zip(weighed(b)))
        .map(|(a, b)| (a - b).abs())
        .sum();
    sum / f64::from(a.width() * a.height() * 4)
}

/// The `image` crate's thumbnail of the upright picture, scaled with premultiplied alpha, and with JPEG's loss if the
/// thumbnail is a JPEG.
fn reference(picture: &DynamicImage, (width, height): (u32, u32), is_jpeg: bool) -> RgbaImage {
    let mut source = picture.to_rgba32f();
    for pixel in source.pixels_mut() {
        let [red, green, blue, alpha] = pixel.0;
        pixel.0 = [red * alpha, green * alpha, blue * alpha, alpha];
    }
    let mut small = image::imageops::resize(&source, width, height, FilterType::Lanczos3);
    for pixel in small.pixels_mut() {
        let [red, green, blue, alpha] = pixel.0;
        let by = if alpha > 0.0 { alpha } else { 1.0 };
        pixel.0 = [red / by, green / by, blue / by, alpha].map(|value| value.clamp(0.0, 1.0));
    }
    let small = DynamicImage::ImageRgba32F(small);
    if !is_jpeg {
        return small.into_rgba8();
    }
    let mut bytes = Vec::new();
    small
        .to_rgb8()
        .write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 80))
        .unwrap();
    image::load_from_memory(&bytes).unwrap().into_rgba8()
}

/// The largest size with the same proportions that fits the box, never larger than the picture.
fn fitted(picture: &DynamicImage, (box_width, box_height): (u32, u32)) -> (u32, u32) {
    let (width, height) = (f64::from(picture.width()), f64::from(picture.height()));
    let by = (f64::from(box_width) / width)
        .min(f64::from(box_height) / height)
        .min(1.0);
    (
        (width * by).round().max(1.0) as u32,
        (height * by).round().max(1.0) as u32,
    )
}

const PNG: &str = "image/png";

/// Every fixture with a thumbnail: a file with the same upright picture, without orientation or ink; the thumbnail's
/// type; the maximum mean difference.
const SHOWN: &[(&str, &str, &str, f64)] = &[
    ("../photo.jpg", "../photo.jpg", JPEG, 1.5),
    ("animated.gif", "animated.gif", JPEG, 2.5),
    ("animated.webp", "baseline.jpg", JPEG, 3.0),
    ("baseline.jpg", "baseline.jpg", JPEG, 2.5),
    ("cmyk_adobe.jpg", "baseline.jpg", JPEG, 3.5),
    ("cmyk_plain.jpg", "baseline.jpg", JPEG, 3.5),
    ("frame_in_canvas.gif", "frame_in_canvas.gif", PNG, 1.5),
    ("full_chroma.jpg", "baseline.jpg", JPEG, 3.0),
    ("grey.jpg", "grey.png", JPEG, 2.5),
    ("grey.png", "grey.png", JPEG, 2.5),
    ("grey16.png", "grey16.png", JPEG, 2.5),
    ("grey_alpha.png", "grey_alpha.png", PNG, 0.5),
    ("interlaced.png", "rgb.png", JPEG, 2.5),
    ("lossless.webp", "rgb.png", JPEG, 2.5),
    ("lossless_alpha.webp", "lossless_alpha.webp", PNG, 0.5),
    ("lossy.webp", "lossy.webp", JPEG, 2.5),
    ("lossy_alpha.webp", "lossy_alpha.webp", PNG, 0.5),
    ("odd_422.jpg", "odd_422.jpg", JPEG, 2.5),
    ("orientation_1.jpg", "orientation_1.jpg", JPEG, 2.5),
    ("orientation_2.jpg", "orientation_1.jpg", JPEG, 2.5),
    ("orientation_3.jpg", "orientation_1.jpg", JPEG, 2.5),
    ("orientation_4.jpg", "orientation_1.jpg", JPEG, 2.5),
    ("orientation_5.jpg", "orientation_1.jpg", JPEG, 2.5),
    ("orientation_6.jpg", "orientation_1.jpg", JPEG, 2.5),
    ("orientation_6.png", "rgb.png", JPEG, 2.5),
    ("orientation_6.webp", "orientation_1.jpg", JPEG, 4.5),
    ("orientation_7.jpg", "orientation_1.jpg", JPEG, 2.5),
    ("orientation_8.jpg", "orientation_1.jpg", JPEG, 2.5),
    ("palette.bmp", "palette.bmp", JPEG, 2.5),
    ("palette_trns.png", "palette_trns.png", PNG, 0.5),
    ("progressive.jpg", "baseline.jpg", JPEG, 2.5),
    ("restart.jpg", "baseline.jpg", JPEG, 2.5),
    ("rgb.bmp", "rgb.bmp", JPEG, 2.5),
    ("rgb.png", "rgb.png", JPEG, 2.5),
    ("rgb16.png", "rgb16.png", JPEG, 2.5),
    ("rgba.png", "rgba.png", PNG, 0.5),
    ("rgba16.png", "rgba16.png", PNG, 0.5),
    ("rgba_opaque.png", "rgb.png", JPEG, 2.5),
    ("ycck_adobe.jpg", "baseline.jpg", JPEG, 3.5),
];

#[test]
fn every_fixture_is_listed() {
    let mut expected: Vec<_> = SHOWN
        .iter()
        .map(|row| row.0)
        .filter(|name| !name.starts_with(".."))
        .collect();
    expected.extend(NOT_SHOWN);
    expected.sort_unstable();
    let mut found = files_below(&folder());
    found.retain(|path| path.extension().is_some_and(|extension| extension != "py"));
    assert_eq!(
        found,
        expected.iter().map(PathBuf::from).collect::<Vec<_>>()
    );
}

/// The default box, a custom one, and one so flat that turning after fitting would show.
#[test]
fn thumbnail_shows_original_within_box() {
    let server = TestServer::start();
    let (mut originals, mut worst) = (Vec::new(), Vec::new());
    for (name, shown_by, content_type, bound) in SHOWN {
        let source = fixture(name);
        let shown = image::load_from_memory(&fixture(shown_by)).unwrap();
        for own_size in [None, Some((96, 96)), Some((90, 30))] {
            let id = store(&server, &source, own_size);
            let answer = server.download(&id, THUMBNAIL);
            let about = format!("{name}, {own_size:?}");
            assert_eq!(answer.status, 200, "{about}: {}", answer.text());
            if answer.body == source {
                originals.push(about);
                continue;
            }
            assert_eq!(
                answer.header("content-type"),
                Some(*content_type),
                "{about}"
            );
            assert!(
                answer.body.len() < source.len(),
                "{about}: {} bytes",
                answer.body.len()
            );
            let picture = image::load_from_memory(&answer.body).unwrap().into_rgba8();
            let size = fitted(&shown, own_size.unwrap_or((170, 170)));
            assert_eq!(picture.dimensions(), size, "{about}");
            let difference = difference(&picture, &reference(&shown, size, *content_type == JPEG));
            // The larger box averages out less of the noise, which differs between two files.
            let slack = if own_size.is_none() && source != fixture(shown_by) {
                2.0
            } else {
                1.0
            };
            if difference >= bound * slack {
                worst.push(format!("{about}: {difference:.2}"));
            }
            assert!(
                !answer.body.windows(4).any(|window| window == b"Exif"),
                "{about}: metadata"
            );
        }
    }
    assert!(worst.is_empty(), "{worst:#?}");
    // Noise in a PNG: at this size it takes more bytes than the palette or the better compression of the source.
    let names = [
        "frame_in_canvas.gif",
        "grey_alpha.png",
        "lossless_alpha.webp",
        "lossy_alpha.webp",
        "palette_trns.png",
        "rgba.png",
    ];
    assert_eq!(originals, names.map(|name| format!("{name}, None")));
}
