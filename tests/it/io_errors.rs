//! A disk that fails or returns wrong data, and a store that refuses: the server keeps running, serves others, and
//! reveals no internals.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use chatfiles::error::Kind;

use crate::support::{
    Answer, BASE, Form, Step, TestServer, assert_error, faulty_server, head, photo,
};

/// The error kinds of a store, and the response to each.
const KINDS: &[(Kind, u16, &str)] = &[
    (Kind::Internal, 500, "internal_error"),
    (Kind::StorageFull, 507, "insufficient_storage"),
    (
        Kind::Unavailable(Duration::from_millis(1500)),
        503,
        "service_unavailable",
    ),
    (Kind::TooLarge, 413, "file exceeding maximum limit"),
    (Kind::InvalidArgument, 400, "illegal_argument"),
];

#[track_caller]
fn assert_refused(answer: &Answer, kind: Kind, status: u16, error: &str) {
    assert_error(answer, status, error);
    assert!(
        !answer.text().contains("secret") && !answer.text().contains("Input"),
        "{}",
        answer.text()
    );
    let retry_after = matches!(kind, Kind::Unavailable(_)).then_some("2");
    assert_eq!(answer.header("retry-after"), retry_after);
}

#[test]
fn failed_upload_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (server, faults) = faulty_server(directory.path());
    let form = Form::new().file("a.jpg", "image/jpeg", &photo());
    for step in [Step::Begin, Step::Write, Step::Commit] {
        for (kind, status, error) in KINDS {
            faults.set(Some((step, *kind)));
            assert_refused(&server.upload(&form, &[]), *kind, *status, error);
            for folder in ["objects", "derived", "parts"] {
                assert_eq!(
                    server.files_in(folder),
                    Vec::<PathBuf>::new(),
                    "{step:?}: {folder}"
                );
            }
            assert_no_uploads(&server);
        }
    }
    faults.set(None);
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    assert!(server.download(&id, &[]).body == photo());
    assert_eq!(server.files_in("objects").len(), 1);
}

/// Only lock files are left in `tmp/`. The dropped upload is removed in the background, possibly after the response.
fn assert_no_uploads(server: &TestServer) {
    let deadline = server.clock.monotonic() + Duration::from_secs(10);
    let uploads = || -> Vec<PathBuf> {
        let mut files = server.files_in("tmp");
        files.retain(|path| {
            fs::metadata(server.store.join("tmp").join(path)).is_ok_and(|file| file.len() > 0)
        });
        files
    };
    while !uploads().is_empty() {
        assert!(server.clock.monotonic() < deadline, "{:?} stays", uploads());
        std::thread::yield_now();
    }
}

#[test]
fn failed_download_is_retried_next_time() {
    let directory = tempfile::tempdir().unwrap();
    let (mut server, _) = faulty_server(directory.path());
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    server.stop();
    // A new server, so that the file is not open yet.
    let (server, faults) = faulty_server(directory.path());
    for (kind, status, error) in KINDS {
        faults.set(Some((Step::Open, *kind)));
        for headers in [
            &[][..],
            &[("thumbnail", "true")],
            &[("Range", "bytes=0-1")],
            &[("If-None-Match", "*")],
        ] {
            assert_refused(&server.download(&id, headers), *kind, *status, error);
        }
    }
    faults.set(None);
    assert_eq!(server.download(&id, &[("thumbnail", "true")]).status, 200);
}

#[test]
fn uncached_thumbnail_is_still_served() {
    let directory = tempfile::tempdir().unwrap();
    let (server, faults) = faulty_server(directory.path());
    for step in [Step::PutDerived, Step::Derived] {
        let before = faults.count(step);
        for (kind, ..) in KINDS {
            faults.set(Some((step, *kind)));
            let id = server.store_file("a.jpg", "image/jpeg", &photo());
            let answer = server.download(&id, &[("thumbnail", "true")]);
            assert_eq!(
                (answer.status, answer.header("content-type")),
                (200, Some("image/jpeg")),
                "{step:?} {kind:?}"
            );
            assert!(answer.body.len() < 40_000);
        }
        assert_eq!(faults.count(step), before + KINDS.len());
    }
    assert_eq!(server.files_in("derived").len(), KINDS.len());
}

/// The file of the only object.
fn object_path(server: &TestServer, id: &str) -> PathBuf {
    let objects = server.files_in("objects");
    let path = objects
        .iter()
        .find(|path| path.ends_with(id))
        .expect("the object's file");
    server.store.join("objects").join(path)
}

fn truncate(path: &Path, len: u64) {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(len)
        .unwrap();
}

/// Requests the file and returns the status and the body, which may be truncated.
fn fetch(server: &TestServer, id: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let authorization = format!("Bearer {}", server.token("alice"));
    let mut all = vec![
        ("Authorization", authorization.as_str()),
        ("Connection", "close"),
    ];
    all.extend_from_slice(headers);
    let mut connection = server.connect();
    connection
        .send(&head("GET", &format!("{BASE}/chatfiles/{id}"), &all, None))
        .unwrap();
    connection.rest()
}

#[test]
fn truncation_cuts_only_running_download() {
    // More than the socket buffers of both sides hold.
    const LEN: usize = 48 << 20;
    let server = TestServer::with("[limits]\nupload_bytes_max = 60000000");
    let large = vec![0x5a; LEN];
    let id = server.store_file("large.bin", "application/octet-stream", &large);
    let other = server.store_file("a.jpg", "image/jpeg", &photo());
    let authorization = format!("Bearer {}", server.token("alice"));
    let request = head(
        "GET",
        &format!("{BASE}/chatfiles/{id}"),
        &[("Authorization", &authorization)],
        None,
    );
    let mut running: Vec<_> = (0..3)
        .map(|_| {
            let mut connection = server.connect();
            connection.send(&request).unwrap();
            // The transfer has started: the first bytes arrived.
            connection.stream().read_exact(&mut [0; 1000]).unwrap();
            connection
        })
        .collect();
    truncate(&object_path(&server, &id), 8192);
    for connection in &mut running {
        let rest = connection.rest();
        assert!(
            rest.len() < LEN,
            "{} bytes of a file that is gone",
            rest.len()
        );
        // Pages of the page cache wait in the socket, and the truncation clears the rest of a large page. The client
        // may see the file's bytes or zeros, then the end, but nothing else.
        let is_of_file = |byte: &&u8| **byte == 0x5a || **byte == 0;
        assert!(rest.iter().filter(is_of_file).count() + 2000 > rest.len());
        assert!(
            server.download(&other, &[]).body == photo(),
            "others are served"
        );
    }
    // The file is still open and cached: neither its bytes nor its thumbnail may crash the server.
    for headers in [
        &[][..],
        &[("Range", "bytes=1000000-2000000")],
        &[("Range", "bytes=-10")],
        &[("Range", "bytes=0-9,1000000-1000009,-10")],
    ] {
        let answer = fetch(&server, &id, headers);
        assert!(
            // At most response heads and the rest of the file.
            answer.len() < 8192 + 4096,
            "{headers:?}: {}",
            answer.len()
        );
        assert!(
            server.download(&other, &[]).body == photo(),
            "others are served"
        );
    }
}

#[test]
fn truncated_open_file_is_not_whole() {
    let server = TestServer::start();
    let photo = photo();
    let images = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/images/baseline.jpg"
    );
    let picture = fs::read(images).unwrap();
    let other = server.store_file("a.jpg", "image/jpeg", &photo);
    for len in [0, 4096, 8192] {
        let id = server.store_file("b.jpg", "image/jpeg", &picture);
        assert!(server.download(&id, &[]).body == picture);
        truncate(&object_path(&server, &id), len);
        let answer = fetch(&server, &id, &[]);
        assert!(
            !answer.ends_with(&picture[picture.len() - 100..]),
            "{len}: {} bytes",
            answer.len()
        );
        let cut_thumbnail = server.download(&id, &[("thumbnail", "true")]);
        assert_error(&cut_thumbnail, 500, "internal_error");
        // A request that needs none of its bytes succeeds.
        assert_eq!(server.download(&id, &[("If-None-Match", "*")]).status, 304);
        assert!(
            server.download(&other, &[]).body == photo,
            "others are served"
        );
    }
}

/// Damages the bytes of a file.
type Damage = fn(&mut Vec<u8>);

#[test]
fn damaged_trailer_is_500_without_details() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = TestServer::in_directory(directory.path(), "");
    let ids: Vec<_> = (0..8)
        .map(|_| server.store_file("a.jpg", "image/jpeg", &photo()))
        .collect();
    let whole = server.store_file("b.jpg", "image/jpeg", &photo());
    let damages: [(&str, Damage); 8] = [
        ("magic", |file| *file.last_mut().unwrap() ^= 1),
        ("checksum", |file| {
            *file.iter_mut().nth_back(10).unwrap() ^= 1
        }),
        ("length of the fields", |file| {
            file.iter_mut()
                .rev()
                .skip(16)
                .take(4)
                .for_each(|byte| *byte = 0xff)
        }),
        ("length of the payload", |file| {
            file.iter_mut()
                .rev()
                .skip(24)
                .take(8)
                .for_each(|byte| *byte = 0xff)
        }),
        ("fields", |file| *file.iter_mut().nth_back(60).unwrap() ^= 1),
        ("cut", |file| file.truncate(file.len() - 1)),
        ("longer", |file| file.push(0)),
        ("empty", Vec::clear),
    ];
    let mut kept = Vec::new();
    for (id, (_, damage)) in ids.iter().zip(damages) {
        let path = object_path(&server, id);
        let mut file = fs::read(&path).unwrap();
        kept.push((path.clone(), file.clone()));
        damage(&mut file);
        fs::write(&path, file).unwrap();
    }
    server.stop();
    let server = TestServer::in_directory(directory.path(), "");
    for (id, (name, _)) in ids.iter().zip(damages) {
        for headers in [&[][..], &[("thumbnail", "true")], &[("Range", "bytes=0-1")]] {
            let answer = server.download(id, headers);
            let json = assert_error(&answer, 500, "internal_error");
            assert_eq!(
                json["error_description"], "an internal error occurred",
                "{name}"
            );
            let text = answer.text();
            for inside in [
                "trailer",
                "magic",
                "checksum",
                "objects",
                id.as_str(),
                "os error",
                "payload",
            ] {
                assert!(!text.contains(inside), "{name}: {text}");
            }
        }
        assert!(
            server.download(&whole, &[]).body == photo(),
            "{name}: others are served"
        );
    }
    // Errors are not cached: a repaired file is served.
    for ((path, file), id) in kept.into_iter().zip(&ids) {
        fs::write(path, file).unwrap();
        assert!(server.download(id, &[]).body == photo());
    }
}

#[test]
fn non_files_are_never_served() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = TestServer::in_directory(directory.path(), "");
    let [folder, link, gone, source] =
        [(); 4].map(|()| server.store_file("a.jpg", "image/jpeg", &photo()));
    let paths = [&folder, &link, &gone].map(|id| object_path(&server, id));
    let source_path = object_path(&server, &source);
    server.stop();
    for path in &paths {
        fs::remove_file(path).unwrap();
    }
    fs::create_dir(&paths[0]).unwrap();
    std::os::unix::fs::symlink(source_path, &paths[1]).unwrap();
    let server = TestServer::in_directory(directory.path(), "");
    assert_error(&server.download(&folder, &[]), 500, "internal_error");
    assert_error(&server.download(&link, &[]), 500, "internal_error");
    assert_error(&server.download(&gone, &[]), 404, "entity_not_found");
    assert!(server.download(&source, &[]).body == photo());
}
