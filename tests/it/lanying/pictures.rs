//! Thumbnails: sizes, storage, and files without one.

use std::path::PathBuf;

use image::{ImageFormat, RgbImage};

use super::apps::{id_of, object_name, object_of, store_avatar};
use crate::support::{
    Random, TestServer,
    lanying::{assert_code, file_sign, success},
    photo,
};

/// A picture of noise, which is large in every format.
fn noise(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let pixels = Random::new().bytes((width * height * 3) as usize + 8);
    let pixels = pixels[..(width * height * 3) as usize].to_vec();
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = RgbImage::from_raw(width, height, pixels).unwrap();
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[test]
fn thumbnail_fits_requested_box() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    let table = [
        ("", (170, 128)),
        ("&w=170&h=170", (170, 128)),
        ("&w=100&h=100", (100, 75)),
        ("&w=100", (100, 75)),
        ("&h=60", (80, 60)),
        ("&w=200&h=60", (80, 60)),
        ("&w=1&h=1", (1, 1)),
        ("&w=100&w=300", (100, 75)),
        ("&w=100&h=", (100, 75)),
        // Never larger than the original.
        ("&w=2048&h=2048", (400, 300)),
        ("&w=2048", (400, 300)),
        ("&w=400&h=300", (400, 300)),
        ("&thumbnail_strategy=2&h=30", (40, 30)),
        ("&source=miniprogram&w=40", (40, 30)),
    ];
    for format in [ImageFormat::Png, ImageFormat::Jpeg] {
        let original = noise(400, 300, format);
        let chat = alice.send("102", "bob", "a.png", &original);
        let avatar = store_avatar(&alice, &original);
        for (more, size) in table {
            for image_type in ["2", "3"] {
                for call in [
                    format!("download/chat?file_sign={}", file_sign(&chat)),
                    format!("download/avatar?object_name={avatar}"),
                ] {
                    let answer = alice.get(&format!("{call}&image_type={image_type}{more}"));
                    assert_eq!(answer.status, 200, "{more}: {}", answer.text());
                    let picture = image::load_from_memory(&answer.body).unwrap();
                    let found = (picture.width(), picture.height());
                    assert_eq!(found, size, "{format:?}{more}");
                    assert!(answer.body.len() <= original.len(), "{format:?}{more}");
                    let kind = answer.header("content-type").unwrap();
                    assert!(kind.starts_with("image/"), "{kind}");
                    let disposition = answer.header("content-disposition").unwrap();
                    assert!(disposition.starts_with("inline"), "{disposition}");
                }
            }
        }
        // Without image_type, a size has no effect.
        assert!(alice.open(&chat, "&w=20&h=20").body == original);
    }
}

#[test]
fn only_default_size_is_stored() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    let chat = alice.send("102", "bob", "a.jpg", &photo());
    let avatar = alice.store(
        &success(&alice.get("upload/avatar/user")),
        "a.jpg",
        &photo(),
    );
    for side in [1, 20, 99, 169, 171, 640, 2048] {
        for more in [
            format!("&w={side}"),
            format!("&h={side}"),
            format!("&w={side}&h={side}"),
        ] {
            for url in [&chat, &avatar] {
                assert_eq!(alice.open(url, &format!("&image_type=2{more}")).status, 200);
            }
        }
    }
    for url in [&chat, &avatar] {
        // A single side is a different box, although the picture is the same.
        assert_eq!(alice.open(url, "&image_type=2&w=170").status, 200);
    }
    assert_eq!(server.files_in("derived"), Vec::<PathBuf>::new());
    for more in [
        "&image_type=2",
        "&image_type=3",
        "&image_type=2&w=170&h=170",
    ] {
        for url in [&chat, &avatar] {
            assert_eq!(alice.open(url, more).status, 200);
        }
    }
    let mut kept: Vec<_> = server
        .files_in("derived")
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    kept.sort();
    let mut expected = [object_of(file_sign(&chat)), object_name(&avatar)]
        .map(|object| format!("{}-t170x170", id_of(&object)));
    expected.sort();
    assert_eq!(kept, expected);
}

#[test]
fn non_pictures_have_no_thumbnail() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    let broken = &photo()[..20_000];
    for (file_type, bytes) in [
        ("100", &b"hello"[..]),
        // Whatever type it was sent with.
        ("102", b"hello"),
        ("103", b"hello"),
        ("101", b"#!AMR\n\x3c\x91\x17\x16"),
        ("102", &[0; 20_000]),
        (
            "102",
            &[b"\xff\xd8\xff\xe0"[..].to_vec(), vec![7; 20_000]].concat(),
        ),
    ] {
        let url = alice.send(file_type, "bob", "a.jpg", bytes);
        for more in [
            "&image_type=2",
            "&image_type=3",
            "&image_type=2&w=50",
            "&image_type=3&source=miniprogram",
        ] {
            for _ in 0..2 {
                assert_code(&alice.open(&url, more), 20022);
            }
        }
        assert!(alice.open(&url, "").body == bytes);
    }
    // A truncated picture shows its readable part or nothing, without an internal error.
    let url = alice.send("102", "bob", "a.jpg", broken);
    let answer = alice.open(&url, "&image_type=2");
    assert_eq!(answer.status, 200);
    if answer.header("content-type") != Some("image/jpeg") {
        assert_code(&answer, 20022);
    }
    let avatar = store_avatar(&alice, b"hello");
    assert_code(
        &alice.get(&format!(
            "download/avatar?object_name={avatar}&image_type=2"
        )),
        20022,
    );
}

#[test]
fn small_picture_is_own_thumbnail() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    let small = noise(40, 30, ImageFormat::Png);
    assert!(small.len() < 10_000);
    let url = alice.send("102", "bob", "a.png", &small);
    for more in ["&image_type=2", "&image_type=3", "&image_type=2&w=10"] {
        assert!(alice.open(&url, more).body == small, "{more}");
    }
}

/// An undecodable format is served whole, as in the Easemob API, and never as active content.
#[test]
fn undecodable_picture_is_own_thumbnail() {
    let server = TestServer::start();
    let (alice, bob) = (server.lanying("alice"), server.lanying("bob"));
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\"><script>{}</script></svg>",
        "x".repeat(9000)
    );
    let heic = [&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], &[7; 20_000]].concat();
    for (name, bytes, disposition) in [
        ("a.svg", svg.as_bytes(), "attachment"),
        ("a.heic", &heic, "inline"),
    ] {
        let url = alice.send("102", "bob", name, bytes);
        for more in ["&image_type=2", "&image_type=3&w=100"] {
            let answer = bob.open(&url, more);
            assert!(answer.body == bytes, "{name}{more}: {}", answer.text());
            let header = answer.header("content-disposition").unwrap();
            assert!(header.starts_with(disposition), "{name}: {header}");
        }
    }
}
