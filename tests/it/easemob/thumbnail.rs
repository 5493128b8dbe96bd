//! Thumbnails: content, size, and the response if there is none.

mod pixels;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Barrier,
};

use image::codecs::jpeg::JpegEncoder;

use crate::support::{
    Answer, BASE, Form, Step, TestServer, assert_error, faulty_server, photo, process::id,
};

const JPEG: &str = "image/jpeg";
/// Fixtures without a thumbnail.
const NOT_SHOWN: &[&str] = &["bomb.jpg", "bomb.png", "truncated.jpg", "truncated.png"];
const THUMBNAIL: &[(&str, &str)] = &[("thumbnail", "true")];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/images")
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Uploads with a thumbnail size in form fields; without one, the server's default applies.
fn store(server: &TestServer, bytes: &[u8], size: Option<(u32, u32)>) -> String {
    let mut form = Form::new().file("picture", "application/octet-stream", bytes);
    if let Some((width, height)) = size {
        form = form.field("thumbnail-width", &width.to_string());
        form = form.field("thumbnail-height", &height.to_string());
    }
    let answer = server.upload(&form, &[]);
    id(&answer)
}

#[track_caller]
fn assert_none(answer: &Answer) {
    let json = assert_error(answer, 404, "entity_not_found");
    assert_eq!(json["error_description"], "no thumbnail for this file");
}

#[test]
fn uses_size_given_at_upload() {
    let server = TestServer::start();
    let source = fixture("baseline.jpg");
    // (headers, fields, size of the thumbnail of a 240 × 160 picture)
    type Pairs = &'static [(&'static str, &'static str)];
    let table: &[(Pairs, Pairs, (u32, u32))] = &[
        (&[], &[], (170, 113)),
        (
            &[("thumbnail-width", "60"), ("thumbnail-height", "60")],
            &[],
            (60, 40),
        ),
        (
            &[],
            &[("thumbnail-width", "60"), ("thumbnail-height", "60")],
            (60, 40),
        ),
        (&[], &[("thumbnail-width", "60")], (60, 40)),
        (&[], &[("thumbnail-height", "60")], (90, 60)),
        (
            &[("thumbnail-width", "30"), ("thumbnail-height", "30")],
            &[("thumbnail-width", "60"), ("thumbnail-height", "60")],
            (60, 40),
        ),
        // SDKs send values that were never set.
        (
            &[("thumbnail-width", "undefined")],
            &[("thumbnail-height", "null"), ("thumbnail-width", "")],
            (170, 113),
        ),
        (
            &[],
            &[("thumbnail-width", "0"), ("thumbnail-height", "1")],
            (1, 1),
        ),
    ];
    for (headers, fields, size) in table {
        // The web SDK sends its fields after the file.
        let mut form = Form::new().file("a.jpg", JPEG, &source);
        for (name, value) in *fields {
            form = form.field(name, value);
        }
        let id = server.upload(&form, headers).json()["entities"][0]["uuid"]
            .as_str()
            .unwrap()
            .to_owned();
        let answer = server.download(&id, THUMBNAIL);
        let picture = image::load_from_memory(&answer.body).unwrap();
        assert_eq!(
            (picture.width(), picture.height()),
            *size,
            "{headers:?} {fields:?}"
        );
    }
}

#[test]
fn serves_original_when_smaller() {
    let server = TestServer::start();
    let encoded = |side: u32, quality: u8| {
        let mut bytes = Vec::new();
        let picture = image::load_from_memory(&photo())
            .unwrap()
            .thumbnail_exact(side, side);
        picture
            .to_rgb8()
            .write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, quality))
            .unwrap();
        bytes
    };
    // A comment pads a picture to the requested length.
    let padded = |len: usize| {
        let picture = encoded(60, 80);
        let comment = len - picture.len();
        let mut bytes = picture[..2].to_vec();
        bytes.extend([0xff, 0xfe]);
        bytes.extend(u16::try_from(comment - 2).unwrap().to_be_bytes());
        bytes.resize(2 + comment, b'x');
        bytes.extend(&picture[2..]);
        assert_eq!(bytes.len(), len);
        bytes
    };
    let coarse = encoded(1000, 3);
    assert!(coarse.len() > 10 * 1024, "{} bytes", coarse.len());
    let mut heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".to_vec();
    heic.resize(20_000, 7);
    let mut tiff = b"II*\0\x08\0\0\0".to_vec();
    tiff.resize(20_000, 7);
    // (about, bytes, box, whether the original is served)
    let table: [(&str, Vec<u8>, u32, bool); 7] = [
        ("10 KB", padded(10_240), 170, true),
        ("10 KB and a byte", padded(10_241), 170, false),
        (
            "small and cut off",
            fixture("baseline.jpg")[..5000].to_vec(),
            170,
            true,
        ),
        ("no smaller than the original", coarse, 2048, true),
        ("HEIC", heic, 170, true),
        ("TIFF", tiff, 170, true),
        ("a real one", photo(), 170, false),
    ];
    for (about, bytes, side, is_original) in table {
        let id = store(&server, &bytes, Some((side, side)));
        let original = server.download(&id, &[]);
        for _ in 0..2 {
            let answer = server.download(&id, THUMBNAIL);
            assert_eq!(answer.status, 200, "{about}: {}", answer.text());
            assert_eq!(
                answer.body == bytes,
                is_original,
                "{about}: {} bytes",
                answer.body.len()
            );
            let same_etag = answer.header("etag") == original.header("etag");
            assert_eq!(same_etag, is_original, "{about}");
        }
    }
}

#[test]
fn non_pictures_have_no_thumbnail() {
    let server = TestServer::start();
    let filled = |first: &[u8]| {
        let mut bytes = first.to_vec();
        bytes.resize(20_000, b'a');
        bytes
    };
    let bytes = [
        filled(b"plain text"),
        filled(b"<svg xmlns=\"http://www.w3.org/2000/svg\">"),
        filled(b"%PDF-1.7\n"),
        filled(b"#!AMR\n"),
        filled(b"PK\x03\x04"),
        filled(b"\x00\x01\x02\x03"),
        b"short".to_vec(),
    ];
    for bytes in bytes {
        let form = Form::new().file("a.jpg", JPEG, &bytes);
        let id = server.upload(&form, &[]).json()["entities"][0]["uuid"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_none(&server.download(&id, THUMBNAIL));
        assert!(server.download(&id, &[]).body == bytes);
    }
}

/// A bomb must never reach a phone, however short it is. A truncated picture has no thumbnail.
#[test]
fn bombs_have_no_thumbnail() {
    let server = TestServer::start();
    let padded = |name: &str| {
        let mut bytes = fixture(name);
        bytes.resize(bytes.len().max(20_000), 0);
        bytes
    };
    let mut sources: Vec<_> = NOT_SHOWN
        .iter()
        .map(|name| (*name, fixture(name)))
        .collect();
    sources.extend([
        ("padded bomb.jpg", padded("bomb.jpg")),
        ("padded bomb.png", padded("bomb.png")),
    ]);
    sources.push(("cut", fixture("progressive.jpg")[..11_000].to_vec()));
    sources.push(("cut", fixture("lossy.webp")[..12_000].to_vec()));
    sources.push(("cut", fixture("animated.gif")[..11_000].to_vec()));
    for (name, source) in sources {
        // An impossible thumbnail does not fail the upload.
        let id = store(&server, &source, None);
        for _ in 0..2 {
            let answer = server.download(&id, THUMBNAIL);
            assert_eq!(answer.status, 404, "{name}");
            assert_none(&answer);
        }
        assert!(
            server.download(&id, &[]).body == source,
            "{name}: the file itself is served"
        );
    }
    assert_eq!(server.files_in("derived"), Vec::<PathBuf>::new());
}

#[test]
fn failure_is_remembered_one_minute() {
    let directory = tempfile::tempdir().unwrap();
    let (server, faults) = faulty_server(directory.path());
    let id = store(&server, &fixture("truncated.jpg"), None);
    // The store is asked for a derivative exactly once before each attempt.
    for (later_ms, attempts) in [(0, 1), (0, 1), (59_000, 1), (2_000, 2), (0, 2), (61_000, 3)] {
        server.clock.advance(later_ms);
        assert_none(&server.download(&id, THUMBNAIL));
        assert_eq!(faults.count(Step::Derived), attempts);
    }
}

#[test]
fn concurrent_requests_decode_once() {
    let directory = tempfile::tempdir().unwrap();
    let (server, faults) = faulty_server(directory.path());
    let id = server.store_file("a.jpg", JPEG, &photo());
    let authorization = format!("Bearer {}", server.token("alice"));
    let headers = [
        ("Authorization", authorization.as_str()),
        ("thumbnail", "true"),
    ];
    let path = format!("{BASE}/chatfiles/{id}");
    let barrier = Barrier::new(50);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = || {
            let mut connection = server.connect();
            barrier.wait();
            connection.request("GET", &path, &headers, b"")
        };
        let threads: Vec<_> = (0..50).map(|_| scope.spawn(ask)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.body == answers[0].body);
        assert_eq!(answer.header("etag"), answers[0].header("etag"));
    }
    assert_eq!(faults.count(Step::PutDerived), 1);
    let derived = server.files_in("derived");
    assert_eq!(derived.len(), 1, "{derived:?}");
    assert!(
        derived[0]
            .to_string_lossy()
            .ends_with(&format!("{id}-t170x170")),
        "{derived:?}"
    );
}

/// The entity tag depends on the bytes: two files with the same thumbnail share it, another size has another one.
#[test]
fn etag_is_hash_of_bytes() {
    let server = TestServer::start();
    let etag = |size| {
        let answer = server.download(&store(&server, &photo(), size), THUMBNAIL);
        let etag = answer.header("etag").unwrap().to_owned();
        assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
        etag
    };
    assert_eq!(etag(None), etag(Some((170, 170))));
    assert_ne!(etag(None), etag(Some((100, 100))));
}

#[test]
fn survives_lost_or_damaged_derivatives() {
    let directory = tempfile::tempdir().unwrap();
    let derived = |server: &TestServer| {
        server
            .store
            .join("derived")
            .join(&server.files_in("derived")[0])
    };
    let mut server = TestServer::in_directory(directory.path(), "");
    let id = server.store_file("a.jpg", JPEG, &photo());
    let first = server.download(&id, THUMBNAIL);
    let kept = fs::read(derived(&server)).unwrap();
    type Damage = fn(&Path);
    let damages: [(&str, bool, Damage); 7] = [
        ("none", true, |_| {}),
        ("gone", true, |path| fs::remove_file(path).unwrap()),
        ("empty", true, |path| fs::write(path, "").unwrap()),
        ("noise", true, |path| fs::write(path, [7; 5000]).unwrap()),
        ("cut", true, |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("a byte of the picture", true, |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[100] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        // Last in the list, because it stays.
        ("a directory", false, |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir_all(path.join("x")).unwrap();
        }),
    ];
    for (name, is_repaired, damage) in damages {
        // A new server, whose memory is empty.
        server.stop();
        let path = derived(&server);
        damage(&path);
        server = TestServer::in_directory(directory.path(), "");
        let answer = server.download(&id, THUMBNAIL);
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        assert!(answer.body == first.body, "{name}");
        assert_eq!(answer.header("etag"), first.header("etag"), "{name}");
        assert!(
            !is_repaired || fs::read(&path).unwrap() == kept,
            "{name}: not made again"
        );
    }
}

#[test]
fn survives_deleted_derivatives_folder() {
    let server = TestServer::start();
    let id = server.store_file("a.jpg", JPEG, &photo());
    let first = server.download(&id, THUMBNAIL).body;
    let derived = server.store.join("derived");
    fs::remove_dir_all(&derived).unwrap();
    assert!(server.download(&id, THUMBNAIL).body == first);
    let other = server.store_file("a.jpg", JPEG, &photo());
    assert!(server.download(&other, THUMBNAIL).body == first);
    assert_eq!(
        server.files_in("derived").len(),
        1,
        "the folder to be created again"
    );
    // A thumbnail that cannot be stored is still served.
    fs::remove_dir_all(&derived).unwrap();
    fs::write(&derived, "in the way").unwrap();
    let third = server.store_file("a.jpg", JPEG, &photo());
    assert!(server.download(&third, THUMBNAIL).body == first);
}

/// One request decodes, one waits, the rest gets 503. A refusal is not remembered as a failure.
/// Downloads do not wait in that queue.
#[test]
fn full_queue_is_503() {
    let server = TestServer::with("[thumbnails]\nthreads = 1\nqueue_max = 1");
    let ids: Vec<_> = (0..16)
        .map(|_| server.store_file("a.jpg", JPEG, &photo()))
        .collect();
    let barrier = Barrier::new(ids.len());
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = |id| {
            barrier.wait();
            (
                server.download(id, THUMBNAIL),
                server.download(id, &[]).body == photo(),
            )
        };
        let threads: Vec<_> = ids.iter().map(|id| scope.spawn(move || ask(id))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let mut refused = 0;
    for (answer, downloaded) in &answers {
        assert!(downloaded);
        if answer.status == 503 {
            assert_error(answer, 503, "service_unavailable");
            assert_eq!(answer.header("retry-after"), Some("1"));
            refused += 1;
        } else {
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    assert!((1..16).contains(&refused), "{refused} of 16 were refused");
    for id in &ids {
        assert_eq!(server.download(id, THUMBNAIL).status, 200);
    }
}

#[test]
fn pixel_limit_is_configurable() {
    for (pixels_max, status) in [(1600 * 1200, 200), (1600 * 1200 - 1, 404)] {
        let server = TestServer::with(&format!("[thumbnails]\npixels_max = {pixels_max}"));
        let id = server.store_file("a.jpg", JPEG, &photo());
        assert_eq!(server.download(&id, THUMBNAIL).status, status);
    }
}

#[test]
fn unsupported_jpeg_coding_has_no_thumbnail() {
    let server = TestServer::start();
    for name in ["baseline.jpg", "bomb.jpg"] {
        let mut source = fixture(name);
        let frame = source
            .windows(2)
            .position(|window| matches!(window, b"\xff\xc0" | b"\xff\xc1" | b"\xff\xc2"))
            .unwrap();
        // Lossless, T.81 annex H.
        source[frame + 1] = 0xc3;
        let id = store(&server, &source, None);
        assert_none(&server.download(&id, THUMBNAIL));
        assert!(server.download(&id, &[]).body == source, "{name}");
    }
}
