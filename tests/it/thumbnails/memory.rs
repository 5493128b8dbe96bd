//! Decoders keep the promise that is made for them: the peak of the real process, format by format.

use std::{fs, io::Cursor, path::Path};

use chatfiles::media::thumbnail::{BoundingBox, Bounds, Header, Plan};
use image::{DynamicImage, ImageFormat};

use crate::support::{
    BASE, Form,
    media::made,
    process::{Process, id},
    scans,
};

const BOUNDS: Bounds = Bounds {
    pixels_max: 64_000_000,
    memory_bytes_max: 384 << 20,
};
/// Threads, the connection, and what the allocator keeps for later.
const SLACK_BYTES: u64 = 12 << 20;

/// What the process had at its peak beside what it had before, in bytes.
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
    // Sets the peak to what there is now.
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

#[test]
fn a_decoder_stays_within_its_estimate() {
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
        ("lossy WebP", webp(&["-pix_fmt", "yuv420p"])),
        ("lossy WebP with alpha", webp(&["-pix_fmt", "yuva420p"])),
    ];
    let mut broken = Vec::new();
    for (about, source) in cases {
        // A large one as well where the resizer's memory comes on top of the decoder's.
        let sides = if about.ends_with("JPEG") || about == "PNG" {
            vec![170, 2048]
        } else {
            vec![170]
        };
        for side in sides {
            let header = Header::read(&source.as_slice(), &BOUNDS).unwrap();
            let fit = BoundingBox {
                width: side,
                height: side,
            };
            let promised = Plan::new(&header, fit, &BOUNDS).unwrap().cost_bytes();
            let (peak, status) = peak(&source, side);
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
fn nothing_is_decoded_above_the_budget() {
    let source = scans::progressive(7000, 7000, scans::WHOLE, 2);
    let (peak, status) = peak(&source, 170);
    assert_eq!(status, 404);
    assert!(peak < SLACK_BYTES, "{peak} bytes");
}
