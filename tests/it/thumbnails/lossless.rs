//! Lossless WebPs written by libwebp have thumbnails, at any effort and for any kind of picture.

use std::net::Ipv4Addr;

use super::{ask, server, store};
use crate::support::{BASE, media::made};

/// Pictures drawn by ffmpeg: similar to a photo, with few colours and a palette, and with alpha.
const SOURCES: [(&str, &str); 4] = [
    (
        "photo",
        "mandelbrot=s=900x600:start_scale=0.01,noise=alls=6",
    ),
    ("drawing", "testsrc2=s=800x600"),
    // Eight random greys: three bits per pixel, packed in pairs by a palette.
    (
        "palette",
        "nullsrc=s=400x300,geq=lum='floor(random(1)*8)*32':cb=128:cr=128",
    ),
    (
        "alpha",
        "mandelbrot=s=640x480,format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='X/3'",
    ),
];

#[test]
fn lossless_pictures_have_thumbnails() {
    let server = server("");
    for (about, source) in SOURCES {
        for (method, quality) in ["0", "1", "2", "3", "4", "5", "6"]
            .iter()
            .zip((40..).step_by(10))
        {
            let quality = quality.to_string();
            let how = [
                "-lossless",
                "1",
                "-compression_level",
                method,
                "-quality",
                &quality,
            ];
            let all = ["-f", "lavfi", "-i", source, "-frames:v", "1"];
            let more = ["-c:v", "libwebp", "-pix_fmt", "bgra"];
            let picture = made("a.webp", &[&all[..], &more, &how].concat());
            assert!(picture[..64].windows(4).any(|name| name == b"VP8L"));
            let path = store(&server, BASE, &picture);
            let answer = ask(&server, Ipv4Addr::LOCALHOST, &path).join().unwrap();
            assert_eq!(
                answer.status,
                200,
                "{about}, method {method}: {}",
                answer.text()
            );
            // The original is not served instead.
            assert!(picture.len() > 10 * 1024, "{about}, method {method}");
            assert!(
                answer.body.len() < picture.len(),
                "{about}, method {method}"
            );
        }
    }
}
