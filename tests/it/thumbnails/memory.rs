//! Decoders stay within their memory estimate: peak of the real process, format by format.

use std::{fs, io::Cursor, path::Path};

use chatfiles::{
    derivative::BoundingBox,
    media::thumbnail::{Header, PictureLimits, Plan},
};
use image::{DynamicImage, ImageFormat};

use crate::support::{
    BASE, Form,
    lossless::{EVERYWHERE, many_groups},
    media::made,
    process::{Process, id},
    scans,
};

const LIMITS: PictureLimits = PictureLimits {
    pixels_max: 64_000_000,
    decode_bytes_max: 384 << 20,
};
/// Threads, the connection, and memory that the allocator keeps.
const SLACK_BYTES: u64 = 12 << 20;

/// The increase of the process's peak memory in bytes.
fn peak(source: &[u8], side: u32) -> (u64, u16) {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(&directory.path().join("data"), &["--durability", "none"]);
    let form = Form::new()
        .field("thumbnail-width", &side.to_string())
        .field("thumbnail-height", &side.to_string())
        .file("a", "application/octet-stream", source);
    let content_type = form.content_type();
    let headers = [("Content-Type", content_type.as_str())];
    let path = format!("{BASE}/chatfiles");
    let id = id(&server.request("POST", &path, &headers, &form.bytes()));
    assert_eq!(server.download(&id, &[]).body.len(), source.len());
    // Resets the peak to the current value.
    let reset = Path::new("/proc")
        .join(server.pid().to_string())
        .join("clear_refs");
    fs::write(reset, "5").unwrap();
    let before_kb = server.status_kb("VmHWM");
    let answer = server.download(&id, &[("thumbnail", "true")]);
    let grown_kb = server.status_kb("VmHWM") - before_kb;
    (grown_kb << 10, answer.status)
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn webp(more: &[&str]) -> Vec<u8> {
    let source = "testsrc=s=3000x3000,format=rgba,colorchannelmixer=aa=0.5";
    let mut all = vec!["-f", "lavfi", "-i", source, "-frames:v", "1"];
    all.extend(more);
    made("a.webp", &all)
}

/// A small lossy picture with 9 MB after the end of its bitstream.
fn padded_webp() -> Vec<u8> {
    let source = ["-f", "lavfi", "-i", "testsrc=s=200x200", "-frames:v", "1"];
    let mut file = made("a.webp", &[&source[..], &["-pix_fmt", "yuv420p"]].concat());
    assert_eq!(&file[12..16], b"VP8 ");
    file.resize(9 << 20, 0x55);
    for (at, length) in [(4, file.len() - 8), (16, file.len() - 20)] {
        file[at..at + 4].copy_from_slice(&(length as u32).to_le_bytes());
    }
    file
}

/// A JPEG with 9 MB of extended XMP before its picture (XMP part 3, §1.1.3.1).
fn extended_jpeg() -> Vec<u8> {
    let mut file = scans::baseline(200, 200, scans::WHOLE);
    let (pieces, piece_bytes) = (144_u32, 64_000_u32);
    let pieces = (0..pieces).flat_map(|at| {
        let name = b"http://ns.adobe.com/xmp/extension/\0";
        let total = (pieces * piece_bytes).to_be_bytes();
        let text = vec![b'x'; piece_bytes as usize];
        let offset = (at * piece_bytes).to_be_bytes();
        let body = [&name[..], &[b'A'; 32], &total, &offset, &text].concat();
        let length = (body.len() as u16 + 2).to_be_bytes();
        [&[0xff, 0xe1][..], &length, &body].concat()
    });
    file.splice(2..2, pieces.collect::<Vec<u8>>());
    file
}

/// A GIF with 9 MB of XMP before its picture.
fn extended_gif() -> Vec<u8> {
    let mut file = encoded(&DynamicImage::new_rgba8(200, 200), ImageFormat::Gif);
    let end_of_palette = 13 + (3 << ((file[10] & 7) + 1)) * usize::from(file[10] >> 7);
    let mut extension = b"\x21\xff\x0bXMP DataXMP".to_vec();
    for _ in 0..9 << 12 {
        extension.push(255);
        extension.extend([1; 255]);
    }
    extension.push(0);
    file.splice(end_of_palette..end_of_palette, extension);
    file
}

/// A GIF whose frame is one pixel narrower than its canvas.
fn gif_in_canvas() -> Vec<u8> {
    let mut file = encoded(&DynamicImage::new_rgba8(3999, 4000), ImageFormat::Gif);
    file[6..8].copy_from_slice(&4000_u16.to_le_bytes());
    file
}

#[test]
fn decoder_stays_within_estimate() {
    let rgb = || DynamicImage::new_rgb8(3000, 3000);
    let rgba = || DynamicImage::new_rgba8(3000, 3000);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("baseline JPEG", scans::baseline(5000, 4000, scans::HALVED)),
        (
            "baseline JPEG, chroma whole",
            scans::baseline(4000, 3000, scans::WHOLE),
        ),
        (
            "progressive JPEG",
            scans::progressive(4000, 4000, scans::HALVED, 9),
        ),
        (
            "progressive JPEG, chroma whole",
            scans::progressive(4000, 3000, scans::WHOLE, 9),
        ),
        ("JPEG of inks", scans::baseline(4000, 3000, scans::INKS)),
        (
            "progressive JPEG of inks",
            scans::progressive(3000, 3000, scans::INKS, 9),
        ),
        ("PNG", encoded(&rgb(), ImageFormat::Png)),
        (
            "PNG of 16 bits with alpha",
            encoded(&DynamicImage::new_rgba16(3000, 2000), ImageFormat::Png),
        ),
        ("GIF", encoded(&rgba(), ImageFormat::Gif)),
        (
            "BMP",
            encoded(&DynamicImage::new_rgb8(1900, 1500), ImageFormat::Bmp),
        ),
        ("lossless WebP", encoded(&rgb(), ImageFormat::WebP)),
        (
            "lossless WebP with alpha",
            encoded(&rgba(), ImageFormat::WebP),
        ),
        (
            "lossless WebP of many codes",
            many_groups(EVERYWHERE[0], 3000),
        ),
        (
            "animated WebP of many codes",
            many_groups(EVERYWHERE[3], 3000),
        ),
        ("lossy WebP of many bytes", padded_webp()),
        ("JPEG of much XMP", extended_jpeg()),
        ("GIF of many extensions", extended_gif()),
        ("GIF in its canvas", gif_in_canvas()),
        ("lossy WebP", webp(&["-pix_fmt", "yuv420p"])),
        ("lossy WebP with alpha", webp(&["-pix_fmt", "yuva420p"])),
    ];
    let mut broken = Vec::new();
    for (about, source) in cases {
        // Also a large one where the resizer needs memory in addition to the decoder.
        let sides = if about.ends_with("JPEG") || about == "PNG" {
            vec![170, 2048]
        } else {
            vec![170]
        };
        for side in sides {
            let header = Header::read(&source.as_slice(), &LIMITS).unwrap();
            let fit = BoundingBox::square(side);
            let promised = Plan::new(&header, fit, &LIMITS).unwrap().cost_bytes();
            let (peak, status) = peak(&source, side.into());
            let line = format!(
                "{about}, {side}: {} of {} MB",
                peak / 1_000_000,
                promised / 1_000_000
            );
            println!("{line}");
            assert_eq!(status, 200, "{line}");
            if peak > promised + SLACK_BYTES {
                broken.push(line);
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn nothing_is_decoded_above_budget() {
    let source = scans::progressive(7000, 7000, scans::WHOLE, 2);
    let (peak, status) = peak(&source, 170);
    assert_eq!(status, 404);
    assert!(peak < SLACK_BYTES, "{peak} bytes");
}

#[test]
fn refuses_prefix_codes_above_budget() {
    for inside in EVERYWHERE {
        let source = many_groups(inside, 8000);
        let (peak, status) = peak(&source, 170);
        println!("{inside:?}: {status}, {} MB", peak / 1_000_000);
        assert_eq!(status, 404, "{inside:?}");
        assert!(peak < SLACK_BYTES, "{inside:?}: {peak} bytes");
    }
}
