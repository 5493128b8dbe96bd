//! Compares thumbnails with reference pictures, and tests headers with wrong sizes and mutated files.
//!
//! The fixtures and the script that makes them lie in `tests/data/images/`.

use std::{fs, panic, path::PathBuf};

use image::{
    DynamicImage, ImageFormat, RgbaImage, codecs::jpeg::JpegEncoder, imageops::FilterType,
};

use super::{
    cost::Plan,
    decode::decode,
    thumbnail::{
        Header, MediaError, Outcome, PictureLimits, Thumbnail, is_small_enough, reduce,
        reduced_box, shrink, thumbnail,
    },
};
use crate::derivative::BoundingBox;

#[path = "../../tests/it/support/scans.rs"]
#[allow(unreachable_pub, reason = "the tests in `tests/it` share it")]
mod scans;

use scans::{HALVED, INKS, WHOLE};

pub(super) const LIMITS: PictureLimits = PictureLimits {
    pixels_max: 40_000_000,
    decode_bytes_max: 384 << 20,
};
const FIT: BoundingBox = BoundingBox::square(96);

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/images")
}

pub(super) fn fixture(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(super) fn header(source: &[u8]) -> Header {
    Header::read(&source, &LIMITS).unwrap()
}

pub(super) fn made(source: &[u8], fit: BoundingBox) -> Thumbnail {
    match thumbnail(source, fit, &LIMITS, &|| false) {
        Ok(Outcome::Made(thumbnail)) => thumbnail,
        other => panic!("no thumbnail: {other:?}"),
    }
}

pub(super) fn pixels(thumbnail: &Thumbnail) -> RgbaImage {
    let format = ImageFormat::from_mime_type(thumbnail.content_type).unwrap();
    let picture = image::load_from_memory_with_format(&thumbnail.bytes, format)
        .unwrap()
        .into_rgba8();
    assert_eq!(picture.dimensions(), (thumbnail.width, thumbnail.height));
    picture
}

/// The mean absolute difference of the channels, with the colours of both pictures multiplied by alpha.
fn difference(a: &RgbaImage, b: &RgbaImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let weighed = |pixel: &image::Rgba<u8>| {
        let alpha = f64::from(pixel.0[3]) / 255.0;
        [0, 1, 2]
            .map(|at| f64::from(pixel.0[at]) * alpha)
            .into_iter()
            .chain([f64::from(pixel.0[3])])
    };
    let sum: f64 = a
        .pixels()
        .zip(b.pixels())
        .flat_map(|(a, b)| weighed(a).zip(weighed(b)))
        .map(|(a, b)| (a - b).abs())
        .sum();
    sum / f64::from(a.width() * a.height() * 4)
}

/// A full decode, resized by the `image` crate. Colours are multiplied by alpha first, since `image` does not do that.
pub(super) fn reference(picture: &DynamicImage, width: u32, height: u32) -> RgbaImage {
    let mut source = picture.to_rgba32f();
    for pixel in source.pixels_mut() {
        let [r, g, b, a] = pixel.0;
        pixel.0 = [r * a, g * a, b * a, a];
    }
    let mut small = image::imageops::resize(&source, width, height, FilterType::Lanczos3);
    for pixel in small.pixels_mut() {
        let [r, g, b, a] = pixel.0;
        let by = if a > 0.0 { a } else { 1.0 };
        pixel.0 = [r / by, g / by, b / by, a].map(|value| value.clamp(0.0, 1.0));
    }
    DynamicImage::ImageRgba32F(small).into_rgba8()
}

/// The reference after encoding as JPEG, whose loss is larger on this noise than the difference to be measured.
fn reference_jpeg(picture: &DynamicImage, width: u32, height: u32) -> RgbaImage {
    let mut bytes = Vec::new();
    let small = DynamicImage::from(reference(picture, width, height)).into_rgb8();
    small
        .write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 80))
        .unwrap();
    image::load_from_memory(&bytes).unwrap().into_rgba8()
}

#[test]
fn matches_reference_pictures() {
    // (file, the picture in it, size, type, limit of the mean difference)
    let check = |name: &str, shown: &str, size: (u32, u32), mime: &str, bound: f64| {
        let source = fixture(name);
        let thumbnail = made(&source, FIT);
        assert_eq!(
            ((thumbnail.width, thumbnail.height), thumbnail.content_type),
            (size, mime),
            "{name}"
        );
        assert!(thumbnail.bytes.len() < source.len(), "{name}");
        let shown = image::load_from_memory(&fixture(shown)).unwrap();
        let reference = if mime == "image/png" {
            reference
        } else {
            reference_jpeg
        };
        let difference = difference(&pixels(&thumbnail), &reference(&shown, size.0, size.1));
        assert!(difference < bound, "{name}: {difference:.2}");
    };
    let (jpeg, png) = ("image/jpeg", "image/png");
    for (name, shown) in [
        ("baseline.jpg", "baseline.jpg"),
        ("progressive.jpg", "baseline.jpg"),
        ("full_chroma.jpg", "baseline.jpg"),
        ("restart.jpg", "baseline.jpg"),
        ("grey.jpg", "grey.png"),
        ("grey.png", "grey.png"),
        ("lossy.webp", "lossy.webp"),
        ("animated.webp", "baseline.jpg"),
    ] {
        check(name, shown, (96, 64), jpeg, 2.5);
    }
    // Compared with the picture from which the ink was computed.
    for name in ["cmyk_adobe.jpg", "cmyk_plain.jpg", "ycck_adobe.jpg"] {
        check(name, "baseline.jpg", (96, 64), jpeg, 3.0);
    }
    check("odd_422.jpg", "odd_422.jpg", (96, 66), jpeg, 2.5);
    for name in [
        "rgb.png",
        "rgba_opaque.png",
        "interlaced.png",
        "lossless.webp",
    ] {
        check(name, "rgb.png", (96, 66), jpeg, 2.5);
    }
    check("grey16.png", "grey16.png", (96, 66), jpeg, 2.5);
    check("../photo.jpg", "../photo.jpg", (96, 72), jpeg, 1.5);
    check("rgb.bmp", "rgb.bmp", (96, 67), jpeg, 2.5);
    check("palette.bmp", "palette.bmp", (96, 72), jpeg, 2.5);
    check("animated.gif", "animated.gif", (96, 72), jpeg, 2.5);
    for name in ["rgba.png", "grey_alpha.png", "lossless_alpha.webp"] {
        check(name, name, (96, 66), png, 0.5);
    }
    check("palette_trns.png", "palette_trns.png", (96, 64), png, 0.5);
    check("lossy_alpha.webp", "lossy_alpha.webp", (96, 64), png, 0.5);
    check(
        "frame_in_canvas.gif",
        "frame_in_canvas.gif",
        (96, 64),
        png,
        1.5,
    );
}

/// Draws waves, edges and a pattern like text, by a formula.
pub(super) fn drawn(width: u32, height: u32) -> DynamicImage {
    image::RgbImage::from_fn(width, height, |x, y| {
        let wave = 127.0 + 90.0 * (f64::from(x) / 37.0).sin() * (f64::from(y) / 53.0).cos();
        let edge = if (x / 160 + y / 120) % 2 == 0 { 60 } else { 0 };
        let text = if y % 96 < 24 && (x / 5) % 3 == 0 {
            70
        } else {
            0
        };
        let value = |by: i32| u8::try_from((wave as i32 + by).clamp(0, 255)).unwrap();
        image::Rgb([value(edge), value(-edge), value(-text)])
    })
    .into()
}

#[test]
fn reduced_jpeg_matches_full_decode() {
    for (width, height) in [
        (1601, 1203),
        (999, 2001),
        (4000, 2250),
        (4001, 9),
        (7, 1600),
    ] {
        let picture = drawn(width, height);
        for picture in [picture.clone(), DynamicImage::from(picture.to_luma8())] {
            let mut source = Vec::new();
            picture
                .write_with_encoder(JpegEncoder::new_with_quality(&mut source, 85))
                .unwrap();
            let about = format!("{width} x {height}, {:?}", picture.color());
            let least = (width / 9, height / 9);
            let plan = Plan::of_decoded_min(&header(&source), least);
            let pixels = decode(&source, &plan).unwrap();
            assert!(pixels.width <= width.div_ceil(4), "{about}");
            assert!(
                pixels.width >= least.0 && pixels.height >= least.1,
                "{about}"
            );
            let thumbnail = made(&source, FIT);
            let full = image::load_from_memory_with_format(&source, ImageFormat::Jpeg).unwrap();
            let expected = reference_jpeg(&full, thumbnail.width, thumbnail.height);
            let difference = difference(&self::pixels(&thumbnail), &expected);
            assert!(difference < 2.5, "{about}: {difference}");
        }
    }
}

#[test]
fn turns_upright_before_fitting() {
    let shown = image::load_from_memory(&fixture("orientation_1.jpg")).unwrap();
    // The box is not square: if the picture were turned after it is fitted, a portrait would be too small.
    let fit = BoundingBox::new(90, 30);
    for value in 1..=8 {
        let thumbnail = made(&fixture(&format!("orientation_{value}.jpg")), fit);
        let difference = difference(&pixels(&thumbnail), &reference_jpeg(&shown, 45, 30));
        assert!(difference < 2.5, "orientation {value}: {difference:.2}");
    }
    let check = |name: &str, shown: &str, size: (u32, u32)| {
        let shown = image::load_from_memory(&fixture(shown)).unwrap();
        let difference = difference(
            &pixels(&made(&fixture(name), fit)),
            &reference(&shown, size.0, size.1),
        );
        assert!(difference < 4.0, "{name}: {difference:.2}");
    };
    check("orientation_6.webp", "orientation_1.jpg", (45, 30));
    check("orientation_6.png", "rgb.png", (43, 30));
}

#[test]
fn rounds_16_bits_to_8() {
    let fit = BoundingBox::square(48);
    for (name, mime) in [("rgb16.png", "image/jpeg"), ("rgba16.png", "image/png")] {
        let thumbnail = made(&fixture(name), fit);
        assert_eq!(
            (thumbnail.width, thumbnail.height, thumbnail.content_type),
            (48, 32, mime)
        );
        let shown = image::load_from_memory(&fixture(name)).unwrap();
        let reference = if mime == "image/png" {
            reference
        } else {
            reference_jpeg
        };
        let difference = difference(&pixels(&thumbnail), &reference(&shown, 48, 32));
        assert!(difference < 1.5, "{name}: {difference:.2}");
    }
}

#[test]
fn fits_box_without_enlarging() {
    let source = fixture("baseline.jpg");
    for (fit, size) in [
        ((170, 170), (170, 113)),
        ((1000, 40), (60, 40)),
        ((1, 1), (1, 1)),
        ((2, 2048), (2, 1)),
        ((0, 0), (1, 1)),
        ((u16::MAX, 80), (120, 80)),
    ] {
        let thumbnail = made(&source, BoundingBox::new(fit.0, fit.1));
        assert_eq!((thumbnail.width, thumbnail.height), size, "{fit:?}");
    }
    let whole = thumbnail(&source, BoundingBox::square(2048), &LIMITS, &|| false).unwrap();
    if let Outcome::Made(thumbnail) = whole {
        assert_eq!((thumbnail.width, thumbnail.height), (240, 160));
    }
}

#[test]
fn prefers_smaller_original() {
    let mut rough = Vec::new();
    let picture = image::load_from_memory(&fixture("baseline.jpg"))
        .unwrap()
        .thumbnail(60, 60);
    picture
        .write_with_encoder(JpegEncoder::new_with_quality(&mut rough, 20))
        .unwrap();
    let outcome = thumbnail(&rough, FIT, &LIMITS, &|| false).unwrap();
    assert!(matches!(outcome, Outcome::OriginalIsSmaller));
}

#[test]
fn drops_metadata() {
    let thumbnail = made(&fixture("orientation_6.jpg"), FIT);
    assert!(!thumbnail.bytes.windows(4).any(|window| window == b"Exif"));
}

#[test]
fn rejects_truncated_pictures() {
    let check = |name: &str, source: &[u8]| {
        let result = thumbnail(source, FIT, &LIMITS, &|| false);
        assert!(
            matches!(result, Err(MediaError::Corrupt(_))),
            "{name}, {} bytes: {result:?}",
            source.len()
        );
    };
    check("truncated.jpg", &fixture("truncated.jpg"));
    check("truncated.png", &fixture("truncated.png"));
    for name in [
        "baseline.jpg",
        "progressive.jpg",
        "rgb.png",
        "interlaced.png",
        "animated.gif",
        "lossy.webp",
        "rgb.bmp",
    ] {
        let source = fixture(name);
        for length in [30, 200, source.len() / 3] {
            check(name, &source[..length]);
        }
    }
}

#[test]
fn rejects_bombs_by_header() {
    let check = |name: &str, source: &[u8]| {
        let result = thumbnail(source, FIT, &LIMITS, &|| {
            panic!("{name} came past the header")
        });
        assert!(
            matches!(result, Err(MediaError::TooManyPixels { .. })),
            "{name}: {result:?}"
        );
    };
    let patched = |name: &str, patches: &[(usize, &[u8])]| {
        let mut source = fixture(name);
        for (at, bytes) in patches {
            source[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        source
    };
    check("png", &fixture("bomb.png"));
    check(
        "gif canvas",
        &patched("animated.gif", &[(6, b"\xff\xff\xff\xff")]),
    );
    let gif = fixture("animated.gif");
    let frame = gif
        .windows(9)
        .position(|window| window == b"\x2c\0\0\0\0\xa0\0\x78\0")
        .unwrap();
    check(
        "gif frame",
        &patched("animated.gif", &[(frame + 5, b"\xff\xff\xff\xff")]),
    );
    check(
        "bmp",
        &patched("rgb.bmp", &[(18, b"\0\0\x01\0\0\0\xff\xff")]),
    );
    check("webp", &patched("lossy.webp", &[(26, b"\xff\x3f\xff\x3f")]));
    check(
        "webp canvas",
        &patched("lossless_alpha.webp", &[(21, b"\xff\xff\xff\x0f")]),
    );
    let webp = fixture("lossy_alpha.webp");
    let frame = webp
        .windows(4)
        .position(|window| window == b"VP8 ")
        .unwrap();
    check(
        "webp frame",
        &patched("lossy_alpha.webp", &[(frame + 14, b"\xff\x3f\xff\x3f")]),
    );
    let jpeg = fixture("baseline.jpg");
    let frame = jpeg
        .windows(2)
        .position(|window| window == b"\xff\xc0")
        .unwrap();
    check(
        "jpeg",
        &patched("baseline.jpg", &[(frame + 5, b"\xff\xff\xff\xff")]),
    );
    // Also truncated: the size in the header counts before the missing end.
    check("cut jpeg", &fixture("bomb.jpg"));
}

#[test]
fn distinguishes_unsupported_from_no_image() {
    for source in [
        b"".as_slice(),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"#!AMR\n",
    ] {
        assert!(matches!(
            thumbnail(source, FIT, &LIMITS, &|| false),
            Err(MediaError::NotAnImage)
        ));
    }
    for source in [
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".as_slice(),
        b"II*\0\x08\0\0\0",
    ] {
        assert!(matches!(
            thumbnail(source, FIT, &LIMITS, &|| false),
            Err(MediaError::UnsupportedImage)
        ));
    }
    let mut arithmetic = fixture("baseline.jpg");
    let frame = arithmetic
        .windows(2)
        .position(|window| window == b"\xff\xc0")
        .unwrap();
    arithmetic[frame + 1] = 0xc9;
    assert!(matches!(
        thumbnail(&arithmetic, FIT, &LIMITS, &|| false),
        Err(MediaError::UnsupportedImage)
    ));
}

#[test]
fn stops_when_cancelled() {
    let result = thumbnail(&fixture("baseline.jpg"), FIT, &LIMITS, &|| true);
    assert!(matches!(result, Err(MediaError::Cancelled)));
}

/// Mutates every fixture. The message of a failure has the seed of the case.
#[test]
fn mutated_pictures_never_panic() {
    let cases = std::env::var("MEDIA_FUZZ_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(150_u64);
    let bounds = PictureLimits {
        pixels_max: 500_000,
        ..LIMITS
    };
    let mut names: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension != "py"));
    names.sort();
    for (number, path) in names.iter().enumerate() {
        let original = fs::read(path).unwrap();
        for case in 0..cases {
            let seed = (number as u64) << 32 | case;
            let mut source = original.clone();
            mutate(&mut source, seed);
            let outcome = panic::catch_unwind(|| {
                let large = PictureLimits {
                    pixels_max: 64_000_000,
                    ..LIMITS
                };
                if let Ok(header) = Header::read(&source.as_slice(), &large) {
                    let _ = Plan::new(&header, FIT, &large);
                }
                let _ = thumbnail(&source, FIT, &bounds, &|| false);
            });
            assert!(
                outcome.is_ok(),
                "{} panicked, seed {seed:#x}",
                path.display()
            );
        }
    }
}

fn mutate(source: &mut Vec<u8>, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % bound.max(1)
    };
    for _ in 0..=below(8) {
        // Half of all changes go to the structure at the beginning.
        let reach = if below(2) == 0 {
            source.len().min(700)
        } else {
            source.len()
        };
        let at = below(reach);
        match below(5) {
            0 => source[at] ^= 1 << below(8),
            1 => source[at] = [0, 0xff, 0x7f, 0x80, 0x11, 0x22, 0x41][below(7)],
            2 => source[at] = u8::try_from(below(256)).unwrap(),
            3 => {
                let from = below(source.len());
                let length = below(64).min(source.len() - at.max(from));
                source.copy_within(from..from + length, at);
            }
            _ if below(4) == 0 => source.truncate(at.max(20)),
            _ => drop(source.drain(at..(at + 1 + below(4)).min(source.len()))),
        }
        if source.len() < 20 {
            return;
        }
    }
}

#[test]
fn rejects_too_many_scans() {
    let check = |(width, height): (u16, u16), sampling: &[u8], scans: u32, is_made: bool| {
        let about = format!("{scans} scans of {width} × {height}, {sampling:x?}");
        let source = scans::progressive(width, height, sampling, scans);
        let read = Header::read(&source.as_slice(), &LIMITS);
        match read {
            Ok(_) => assert!(is_made, "{about}"),
            Err(MediaError::TooManyScans { .. }) => assert!(!is_made, "{about}"),
            Err(error) => panic!("{about}: {error}"),
        }
    };
    // 1.5 samples per pixel in the first scan, 1 in each of the others.
    check((8000, 5000), HALVED, 9, true);
    check((8000, 5000), HALVED, 11, false);
    check((8000, 5000), WHOLE, 32, false);
    check((1000, 1000), WHOLE, 32, true);
    // Repeated components, and components that the picture has not, do not evade the limit.
    let mut source = scans::progressive(8000, 5000, HALVED, 9);
    source.truncate(source.len() - 2);
    for _ in 0..3 {
        let again = scans::progressive(8000, 5000, HALVED, 1);
        let scan = again.windows(2).position(|at| at == b"\xff\xda").unwrap();
        source.extend(&again[scan..again.len() - 2]);
    }
    source.extend(b"\xff\xd9");
    let read = Header::read(&source.as_slice(), &LIMITS);
    assert!(
        matches!(read, Err(MediaError::TooManyScans { .. })),
        "{read:?}"
    );
}

#[test]
fn decodes_many_scans_of_few_pixels() {
    for source in [
        scans::progressive(640, 480, HALVED, 32),
        scans::progressive(640, 480, WHOLE, 10),
        scans::baseline(640, 480, HALVED),
        scans::baseline(640, 480, INKS),
        scans::progressive(640, 480, INKS, 2),
        scans::empty(640, 480),
    ] {
        let Ok(header) = Header::read(&source.as_slice(), &LIMITS) else {
            panic!("its header is refused");
        };
        let plan = Plan::new(&header, FIT, &LIMITS).unwrap();
        let thumbnail =
            super::thumbnail::finish(reduce(&source, &plan, &|| false).unwrap(), &header);
        let picture = pixels(&thumbnail.unwrap());
        assert_eq!(picture.dimensions(), (96, 72));
        let shade = picture.pixels().next().unwrap().0[0];
        assert!(picture.pixels().all(|pixel| pixel.0[0].abs_diff(shade) < 3));
    }
}

#[test]
fn rejects_pictures_above_memory_limit() {
    let tight = PictureLimits {
        decode_bytes_max: 8 << 20,
        ..LIMITS
    };
    for (name, is_made) in [("baseline.jpg", true), ("rgb.png", true)] {
        let source = fixture(name);
        let outcome = thumbnail(&source, FIT, &tight, &|| false);
        assert_eq!(outcome.is_ok(), is_made, "{name}");
    }
    let source = scans::progressive(2000, 2000, WHOLE, 3);
    let refused = thumbnail(&source, FIT, &tight, &|| panic!("it is not decoded"));
    let Err(MediaError::TooMuchMemory { bytes, bytes_max }) = refused else {
        panic!("{refused:?}");
    };
    assert!(bytes > bytes_max && bytes_max == 8 << 20);
    let enough = PictureLimits {
        decode_bytes_max: bytes,
        ..LIMITS
    };
    assert!(thumbnail(&source, FIT, &enough, &|| false).is_ok());
}

#[test]
fn photos_fit_default_memory() {
    let bounds = PictureLimits {
        pixels_max: 64_000_000,
        ..LIMITS
    };
    let large = BoundingBox::square(2048);
    for (about, source, fits) in [
        (
            "64 MP, as phones write them",
            scans::baseline(8000, 8000, HALVED),
            true,
        ),
        (
            "50 MP, chroma whole",
            scans::baseline(8160, 6120, WHOLE),
            true,
        ),
        (
            "50 MP, progressive",
            scans::progressive(8160, 6120, HALVED, 10),
            true,
        ),
        (
            "24 MP, progressive, chroma whole",
            scans::progressive(6000, 4000, WHOLE, 10),
            true,
        ),
        (
            "50 MP, progressive, chroma whole",
            scans::progressive(8160, 6120, WHOLE, 9),
            false,
        ),
    ] {
        let mut source = source;
        let end = source.len();
        // The largest upload.
        source.splice(end - 2..end - 2, vec![0; (10 << 20) - end]);
        let header = Header::read(&source.as_slice(), &bounds).unwrap();
        for fit in [FIT, large] {
            let plan = Plan::new(&header, fit, &bounds);
            assert_eq!(plan.is_ok(), fits, "{about}, {fit:?}: {plan:?}");
        }
    }
}

#[test]
fn large_original_is_no_thumbnail() {
    // The file has few bytes, and its thumbnail has many more.
    let source = scans::progressive(4000, 3000, HALVED, 1);
    assert!(!is_small_enough(&header(&source)));
    let full = BoundingBox::square(2048);
    let outcome = thumbnail(&source, full, &LIMITS, &|| false).unwrap();
    let Outcome::Made(made) = outcome else {
        panic!("{} bytes stand for {outcome:?}", source.len());
    };
    assert_eq!((made.width, made.height), (2048, 1536));
    for (name, side) in [("baseline.jpg", 240), ("rgb.png", 1)] {
        assert!(is_small_enough(&header(&fixture(name))), "{name}, {side}");
    }
}

#[test]
fn shrinks_from_seven_boxes() {
    let source = fixture("../photo.jpg");
    let header = header(&source);
    let mut steps = std::collections::BTreeSet::new();
    for side in 1..=2048 {
        let fit = BoundingBox::new(side, 2048);
        let step = reduced_box(&header, fit);
        steps.insert(step.width());
        let width = u32::from(step.width());
        assert!(width >= (2 * u32::from(side)).min(header.width), "{side}");
    }
    assert_eq!(steps.len(), 7, "{steps:?}");
    for fit in [
        (1, 1),
        (100, 100),
        (2048, 60),
        (301, 2048),
        (700, 700),
        (1500, 1500),
        (2048, 2048),
    ] {
        let fit = BoundingBox::new(fit.0, fit.1);
        let shrunk_from = Plan::new(&header, reduced_box(&header, fit), &LIMITS).unwrap();
        let reduced = reduce(&source, &shrunk_from, &|| false).unwrap();
        let shrunk = shrink(&reduced, fit, &header).unwrap();
        let plan = Plan::new(&header, fit, &LIMITS).unwrap();
        let direct = reduce(&source, &plan, &|| false).unwrap();
        let direct = super::thumbnail::finish(direct, &header).unwrap();
        assert_eq!(
            (shrunk.width, shrunk.height),
            (direct.width, direct.height),
            "{fit:?}"
        );
        let difference = difference(&pixels(&shrunk), &pixels(&direct));
        assert!(difference < 2.0, "{fit:?}: {difference:.2}");
        assert!(shrunk_from.shrink_cost_bytes(fit) > reduced.bytes());
    }
}
