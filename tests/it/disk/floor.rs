//! The free-space floor holds for all concurrent uploads, for every kind of upload and of length.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{DISK_BYTES, Length, file};
use crate::support::{
    Answer, BASE, Connection, Form, chunked, head,
    mount::Mount,
    process::{Process, id},
};

const FLOOR_BYTES: u64 = DISK_BYTES / 2;
/// Four times as many as fit above the floor.
const UPLOADS: usize = 48;
/// Bytes sent by each upload before any may continue: more than the server buffers before it creates a file.
const FIRST_BYTES: usize = 300_000;

/// The call that uploads the bytes.
#[derive(Debug, Clone, Copy)]
enum Call {
    Upload,
    Part,
}

pub(super) fn free_bytes(store: &Path) -> u64 {
    let stat = rustix::fs::statvfs(store).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[test]
fn warns_of_budget_larger_than_disk() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let Some(_mount) = Mount::tmpfs(&store, DISK_BYTES) else {
        return;
    };
    let _server = Process::start(&store, &["--free-space-min-bytes", "8388608"]);
    let log = std::fs::read_to_string(store.with_extension("log")).unwrap();
    assert!(
        log.contains("above store.free_space_min_bytes = \"8MiB\", less than limits.upload_bytes_in_flight_max"),
        "{log}"
    );
}

/// A request with a file of 1 MiB.
fn request(server: &Process, call: Call, length: Length, number: usize) -> Vec<u8> {
    let form = Form::new().file("f.bin", "application/octet-stream", &file(number));
    let (method, path, content_type, body) = match call {
        Call::Upload => (
            "POST",
            format!("{BASE}/chatfiles"),
            form.content_type(),
            form.bytes(),
        ),
        Call::Part => {
            let base = format!("{BASE}/sdk/chatfiles/part-upload");
            // One user each, so that the limit per user does not matter.
            let token = server.command(&["token", "--user", &format!("user{number}")]);
            let token = String::from_utf8(token.stdout).unwrap();
            let authorization = format!("Bearer {}", token.trim());
            let headers = [("Authorization", authorization.as_str())];
            let begun = Connection::open(server.address).request("POST", &base, &headers, b"");
            let path = format!("{base}/{}?part_number=1", id(&begun));
            let mut sent = part_head(&path, &authorization, length);
            sent.extend(framed(&file(number), length));
            return sent;
        }
    };
    let authorization = format!("Bearer {}", server.token());
    let mut sent = head_of(
        method,
        &path,
        &authorization,
        &content_type,
        length,
        body.len(),
    );
    sent.extend(framed(&body, length));
    sent
}

fn part_head(path: &str, authorization: &str, length: Length) -> Vec<u8> {
    let content_type = "application/octet-stream";
    head_of(
        "PUT",
        path,
        authorization,
        content_type,
        length,
        file(0).len(),
    )
}

fn head_of(
    method: &str,
    path: &str,
    authorization: &str,
    content_type: &str,
    length: Length,
    bytes: usize,
) -> Vec<u8> {
    let mut headers = vec![
        ("Authorization", authorization),
        ("Content-Type", content_type),
    ];
    if let Length::Chunked = length {
        headers.push(("Transfer-Encoding", "chunked"));
    }
    head(method, path, &headers, Some(bytes))
}

fn framed(body: &[u8], length: Length) -> Vec<u8> {
    let Length::Chunked = length else {
        return body.to_vec();
    };
    chunked(body, 50_000)
}

/// Sends all requests. None continues beyond its first bytes until all have sent theirs.
fn send_together(server: &Process, requests: &[Vec<u8>]) -> Vec<Answer> {
    let mut connections: Vec<Connection> = requests
        .iter()
        .map(|request| {
            let mut connection = Connection::open(server.address);
            connection.send(&request[..FIRST_BYTES]).unwrap();
            connection
        })
        .collect();
    std::thread::scope(|scope| {
        let answers: Vec<_> = connections
            .iter_mut()
            .zip(requests)
            .map(|(connection, request)| {
                scope.spawn(move || {
                    // The server may refuse and close while this is being sent.
                    let _ = connection.send(&request[FIRST_BYTES..]);
                    connection.answer("POST").expect("an answer")
                })
            })
            .collect();
        answers.into_iter().map(|it| it.join().unwrap()).collect()
    })
}

#[test]
fn concurrent_uploads_stay_above_floor() {
    for (call, length) in [
        (Call::Upload, Length::Announced),
        (Call::Upload, Length::Chunked),
        (Call::Part, Length::Announced),
        (Call::Part, Length::Chunked),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("data");
        let Some(_mount) = Mount::tmpfs(&store, DISK_BYTES) else {
            return;
        };
        let floor = FLOOR_BYTES.to_string();
        let flags = [
            "--free-space-min-bytes",
            &floor,
            "--upload-bytes-max",
            "1048576",
        ];
        let server = Process::start(&store, &flags);
        let requests: Vec<_> = (0..UPLOADS)
            .map(|number| request(&server, call, length, number))
            .collect();
        let (lowest, done) = (AtomicU64::new(u64::MAX), AtomicBool::new(false));
        let answers = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    lowest.fetch_min(free_bytes(&store), Ordering::Relaxed);
                    std::thread::yield_now();
                }
            });
            let answers = send_together(&server, &requests);
            done.store(true, Ordering::Relaxed);
            watch.join().unwrap();
            answers
        });
        let lowest = lowest.into_inner().min(free_bytes(&store));
        let stored = answers.iter().filter(|it| it.status == 200).count();
        println!("{call:?} {length:?}: {stored} stored, lowest {lowest}");
        assert!(
            lowest >= FLOOR_BYTES,
            "{call:?} {length:?}: {lowest} bytes free, the floor is {FLOOR_BYTES}"
        );
        let refused = answers.iter().filter(|it| matches!(it.status, 507 | 503));
        assert_eq!(stored + refused.count(), UPLOADS);
        // With parts, one client leaves room for others.
        let least = match call {
            Call::Upload => 9,
            Call::Part => 2,
        };
        assert!(stored >= least, "{stored}");
    }
}
