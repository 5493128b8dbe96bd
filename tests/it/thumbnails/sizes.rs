//! Any size can be requested, and few of them decode the original.

use super::{Ipv4Addr, server};
use crate::support::{
    head,
    lanying::{APP_ID, file_sign},
    open_from, photo, scans,
};

const LOOKUPS: &str = "chatfiles_derivative_lookups_total";

#[test]
fn many_sizes_need_few_decodes() {
    let server = server("");
    let alice = server.lanying("alice");
    let photo = image::load_from_memory(&photo()).unwrap();
    let mut source = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut source, 90);
    photo
        .thumbnail(800, 600)
        .to_rgb8()
        .write_with_encoder(encoder)
        .unwrap();
    let url = alice.send("102", "bob", "a.jpg", &source);
    let link = format!("/file/download/chat?file_sign={}", file_sign(&url));
    // Two for each box.
    let sides = [60, 128, 150, 192, 200, 256, 300, 384, 420, 500];
    // All at once, so that none finds another's result.
    let asked: Vec<_> = sides
        .iter()
        .map(|side| {
            let path = format!("{link}&image_type=2&w={side}&h={side}");
            let headers = [("access-token", alice.token.as_str()), ("app_id", APP_ID)];
            let mut connection = open_from(server.address, Ipv4Addr::LOCALHOST, None);
            connection
                .send(&head("GET", &path, &headers, None))
                .unwrap();
            connection
        })
        .collect();
    for (side, mut connection) in sides.into_iter().zip(asked) {
        let answer = connection.answer("GET").unwrap();
        assert_eq!(answer.status, 200, "{side}: {}", answer.text());
        let picture = image::load_from_memory(&answer.body).unwrap();
        let (width, height) = (side, (side * 3 + 2) / 4);
        assert_eq!(
            (picture.width(), picture.height()),
            (width, height),
            "{side}"
        );
    }
    let scrape = server.scrape();
    let made = scrape.get(LOOKUPS, &[("kind", "reduced"), ("source", "made")]);
    let shared = scrape.get(LOOKUPS, &[("kind", "reduced"), ("source", "memory")]);
    assert_eq!(
        (made, shared),
        (5, 5),
        "number of decodes and of sizes that share them"
    );
}

/// The contract's rule is about bytes, but a phone would have to hold all pixels.
#[test]
fn small_original_with_many_pixels_shrinks() {
    let server = server("");
    for (width, height, size) in [(4000, 3000, (170, 128)), (2049, 2049, (170, 170))] {
        let source = scans::empty(width, height);
        assert!(source.len() < 1000, "{} bytes", source.len());
        let id = server.store_file("a.jpg", "image/jpeg", &source);
        let answer = server.download(&id, &[("thumbnail", "true")]);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let picture = image::load_from_memory(&answer.body).unwrap();
        assert_eq!((picture.width(), picture.height()), size);
    }
    let source = scans::empty(2048, 2048);
    let id = server.store_file("a.jpg", "image/jpeg", &source);
    assert!(server.download(&id, &[("thumbnail", "true")]).body == source);
}

#[test]
fn jpeg_with_many_scans_is_refused() {
    let server = server("");
    let source = scans::progressive(8000, 8000, scans::WHOLE, 32);
    assert!(source.len() < 400_000, "{} bytes", source.len());
    let id = server.store_file("a.jpg", "image/jpeg", &source);
    for _ in 0..2 {
        assert_eq!(server.download(&id, &[("thumbnail", "true")]).status, 404);
    }
    assert!(server.download(&id, &[]).body == source);
}
