//! A disk that is full or fails: uploads are refused early, nothing is lost, and the server recovers.

mod floor;

use std::path::Path;

use crate::support::{
    Answer, BASE, Connection, Form, assert_error, chunked, files_below, head,
    mount::Mount,
    photo,
    process::{Launch, Process, command, id, poll},
    strace::Strace,
};

/// An operator listener on a free port.
const OPERATOR: [&str; 2] = ["--operator-listen", "127.0.0.1:0"];
/// Size of the disk to fill.
const DISK_BYTES: u64 = 24 << 20;
/// Size of each file that fills it.
const FILE_BYTES: usize = 1 << 20;

/// How an upload announces its length.
#[derive(Debug, Clone, Copy)]
enum Length {
    Announced,
    Chunked,
}

fn file(number: usize) -> Vec<u8> {
    (0..FILE_BYTES)
        .map(|at| (at / 7 + number * 31) as u8)
        .collect()
}

fn upload(server: &Process, bytes: &[u8], length: Length) -> Answer {
    if let Length::Announced = length {
        return server.try_upload(bytes).expect("an answer");
    }
    let form = Form::new().file("f.bin", "application/octet-stream", bytes);
    let authorization = format!("Bearer {}", server.token());
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", &form.content_type()),
        ("Transfer-Encoding", "chunked"),
    ];
    let mut sent = head("POST", &format!("{BASE}/chatfiles"), &headers, None);
    sent.extend(chunked(&form.bytes(), 50_000));
    let mut connection = Connection::open(server.address);
    // The server may refuse and close while this is being sent.
    let _ = connection.send(&sent);
    connection.answer("POST").expect("an answer")
}

#[test]
fn full_disk_refuses_uploads_only() {
    for length in [Length::Announced, Length::Chunked] {
        println!("{length:?}");
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("data");
        let Some(_mount) = Mount::tmpfs(&store, DISK_BYTES) else {
            return;
        };
        // A chunked upload needs room for its maximum length.
        let flags = ["--upload-bytes-max", "1048576"];
        let server = Process::start(&store, &flags);
        let picture = upload(&server, &photo(), length);
        let picture = id(&picture);
        let mut stored = Vec::new();
        let refused = loop {
            let answer = upload(&server, &file(stored.len()), length);
            if answer.status != 200 {
                break answer;
            }
            stored.push(id(&answer));
            assert!(stored.len() < 24, "more than the disk holds");
        };
        assert_error(&refused, 507, "insufficient_storage");
        assert!(stored.len() > 15, "{} uploads filled it", stored.len());
        let again = upload(&server, &file(99), length);
        assert_error(&again, 507, "insufficient_storage");
        check(&server, &stored);
        // The thumbnail is made even if it cannot be stored.
        let thumbnail = server.download(&picture, &[("thumbnail", "true")]);
        assert_eq!(thumbnail.status, 200, "{}", thumbnail.text());

        let removed = server.command(&["rm", &stored.remove(3)]);
        assert!(removed.status.success(), "{removed:?}");
        let recovered = upload(&server, b"there is room again", length);
        assert_eq!(recovered.status, 200, "{}", recovered.text());
        assert_eq!(
            server.download(&id(&recovered), &[]).body,
            b"there is room again"
        );
        assert!(files_below(&store.join("tmp")).is_empty());
        let scrub = server.command(&["scrub"]);
        assert!(scrub.status.success(), "{scrub:?}");
    }
}

#[track_caller]
fn check(server: &Process, stored: &[String]) {
    for id in stored {
        let number = stored.iter().position(|other| other == id).unwrap();
        let download = server.download(id, &[]);
        assert!(
            download.status == 200 && download.body == file(number),
            "{number}"
        );
    }
    assert!(files_below(&server.store.join("tmp")).is_empty());
}

#[test]
fn starts_on_full_disk() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let Some(_mount) = Mount::tmpfs(&store, 4 << 20) else {
        return;
    };
    let server = Process::start(&store, &OPERATOR);
    let id = server.upload(b"from before");
    drop(server);
    let fill = || {
        let free = rustix::fs::statvfs(&store).unwrap();
        let blocks = vec![1; usize::try_from(free.f_bavail * free.f_frsize).unwrap()];
        std::fs::write(store.join("ballast"), blocks).unwrap();
    };
    fill();
    let server = Process::start(&store, &OPERATOR);
    assert_eq!(server.download(&id, &[]).body, b"from before");
    let refused = server.try_upload(b"no room").unwrap();
    assert_error(&refused, 507, "insufficient_storage");
    let ready = server.ask_operator("/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("uploads: "), "{}", ready.text());
    std::fs::remove_file(store.join("ballast")).unwrap();
    poll("room is noticed", || {
        server.ask_operator("/readyz").status == 200
    });
    assert_eq!(server.download(&server.upload(b"room"), &[]).body, b"room");
    drop(server);

    // Without a store, there is nothing to serve.
    std::fs::remove_dir_all(store.join("objects")).unwrap();
    std::fs::remove_dir_all(store.join("keys")).unwrap();
    fill();
    let started = Launch::new(&store).command().output().unwrap();
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    assert_eq!(started.status.code(), Some(1), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
}

#[test]
fn free_space_floor_refuses_uploads_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let Some(_mount) = Mount::tmpfs(&store, DISK_BYTES) else {
        return;
    };
    let floor = (DISK_BYTES / 2).to_string();
    let server = Process::start(&store, &["--free-space-min-bytes", &floor]);
    let mut stored = Vec::new();
    let refused = loop {
        let answer = upload(&server, &file(stored.len()), Length::Announced);
        if answer.status != 200 {
            break answer;
        }
        stored.push(id(&answer));
    };
    assert_error(&refused, 507, "insufficient_storage");
    let free = rustix::fs::statvfs(&store).unwrap();
    let free = free.f_bavail * free.f_frsize;
    assert!(free >= DISK_BYTES / 2, "{free} are left");
    assert!(
        free < DISK_BYTES / 2 + 3 * FILE_BYTES as u64,
        "{free} are left"
    );
    check(&server, &stored);
    // Parts count like uploads.
    let base = format!("{BASE}/sdk/chatfiles/part-upload");
    let begun = server.request("POST", &base, &[], b"");
    if begun.status == 200 {
        let path = format!("{base}/{}?part_number=1", id(&begun));
        let part = server.request("PUT", &path, &[], &vec![1; 5 << 20]);
        assert_error(&part, 507, "insufficient_storage");
    } else {
        assert_error(&begun, 507, "insufficient_storage");
    }
    server.command(&["rm", &stored.pop().unwrap()]);
    server.command(&["rm", &stored.pop().unwrap()]);
    assert_eq!(
        upload(&server, &file(0), Length::Announced).status,
        200,
        "recovers"
    );
}

#[test]
fn removes_file_without_free_inodes() {
    for is_running in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("data");
        let Some(_mount) = Mount::tmpfs_of(&store, "size=16m,nr_inodes=120") else {
            return;
        };
        let server = Process::start(&store, &OPERATOR);
        let mut stored = Vec::new();
        let refused = loop {
            let bytes = vec![stored.len() as u8; 1000];
            let answer = server.try_upload(&bytes).unwrap();
            match answer.status {
                200 => stored.push(id(&answer)),
                _ => break answer,
            }
            assert!(stored.len() < 120, "more than there are inodes for");
        };
        assert_error(&refused, 507, "insufficient_storage");
        // Bytes are free. Only the writes find the problem.
        let ready = server.ask_operator("/readyz");
        assert_eq!(ready.status, 503);
        assert!(ready.text().starts_with("uploads: "), "{}", ready.text());
        // Up to the last inode: a small directory may still fit where a file with its directory does not.
        let fill = |number: usize| std::fs::write(store.join(format!("ballast-{number}")), "");
        let filled = (0..120).take_while(|number| fill(*number).is_ok()).count();
        println!("{} uploads and {filled} other files fill it", stored.len());
        // Open in the server, so that its removal alone frees no inode.
        assert_eq!(server.download(&stored[0], &[]).status, 200);
        let server = is_running.then_some(server);
        for id in &stored[..4] {
            let removed = command(&store, &["rm", id]);
            assert!(removed.status.success(), "{removed:?}");
        }
        let server = server.unwrap_or_else(|| {
            for number in 0..filled {
                std::fs::remove_file(store.join(format!("ballast-{number}"))).unwrap();
            }
            Process::start(&store, &OPERATOR)
        });
        for gone in &stored[..4] {
            assert_error(&server.download(gone, &[]), 404, "entity_not_found");
        }
        for (number, id) in stored.iter().enumerate().skip(4) {
            assert!(server.download(id, &[]).body == vec![number as u8; 1000]);
        }
        let scrub = server.command(&["scrub"]);
        assert!(scrub.status.success(), "{scrub:?}");
    }
}

/// The injected result of a system call, and the expected response.
struct Fault {
    call: &'static str,
    error: &'static str,
    number: &'static str,
    status: u16,
}

const fn fault(
    call: &'static str,
    error: &'static str,
    number: &'static str,
    status: u16,
) -> Fault {
    Fault {
        call,
        error,
        number,
        status,
    }
}

const FAULTS: [Fault; 25] = [
    // A signal may interrupt any call, on FUSE and NFS whatever the handler's flags are. The upload continues.
    fault("openat", "EINTR", "1", 200),
    fault("ftruncate", "EINTR", "1", 200),
    fault("fdatasync", "EINTR", "1", 200),
    fault("mkdirat", "EINTR", "4", 200),
    fault("fsync", "EINTR", "5", 200),
    fault("renameat2", "EINTR", "1", 200),
    fault("openat", "ENOSPC", "1", 507),
    fault("openat", "EMFILE", "1", 500),
    fault("fallocate", "ENOSPC", "1", 507),
    fault("fallocate", "EDQUOT", "1", 507),
    fault("fallocate", "EIO", "1", 500),
    // If the file system cannot preallocate, the upload continues without.
    fault("fallocate", "EOPNOTSUPP", "1+", 200),
    fault("fallocate", "EINTR", "1", 200),
    fault("pwritev", "ENOSPC", "1", 507),
    fault("pwritev", "EDQUOT", "1", 507),
    fault("pwritev", "EIO", "1", 500),
    fault("pwritev", "EINTR", "1", 200),
    fault("ftruncate", "EIO", "1", 500),
    fault("fdatasync", "EIO", "1", 500),
    fault("fdatasync", "ENOSPC", "1", 507),
    fault("mkdirat", "ENOSPC", "4", 507),
    // Once for the directories above, and once for the directory of the name.
    fault("fsync", "EIO", "2", 500),
    fault("fsync", "EIO", "5", 500),
    fault("renameat2", "EIO", "1", 500),
    fault("renameat2", "ENOSPC", "1", 507),
];

#[test]
fn failed_write_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let mut stored: Vec<(String, Vec<u8>)> = Vec::new();
    for Fault {
        call,
        error,
        number,
        status,
    } in FAULTS
    {
        let what = format!("{call} {number} → {error}");
        // A new server each time, so that the first upload makes the same calls in the same order.
        let server = Process::start(&store, &[]);
        let strace = Strace::attach(&server, &format!("{call}:error={error}:when={number}"));
        // While strace is attached, each thread fails its own n-th call, and one upload meets it once. Some calls occur
        // only in uploads of more than one batch.
        let is_large = matches!(call, "fallocate" | "ftruncate");
        let bytes = what
            .repeat(if is_large { 20_000 } else { 300 })
            .into_bytes();
        let answer = server.try_upload(&bytes).unwrap();
        let log = strace.detach();
        assert!(log.contains("INJECTED"), "{what}: never reached: {log}");
        match status {
            200 => stored.push((id(&answer), bytes)),
            507 => drop(assert_error(&answer, 507, "insufficient_storage")),
            _ => {
                let json = assert_error(&answer, 500, "internal_error");
                assert_eq!(json["error_description"], "an internal error occurred");
            }
        }
        assert_eq!(answer.status, status, "{what}");
        assert!(files_below(&store.join("tmp")).is_empty(), "{what}");
        assert_eq!(
            files_below(&store.join("objects")).len(),
            stored.len(),
            "{what}"
        );
        let next = server.upload(b"the next one");
        stored.push((next, b"the next one".to_vec()));
        for (id, bytes) in &stored {
            assert!(&server.download(id, &[]).body == bytes, "{what}: {id}");
        }
    }
}

#[test]
fn failed_sync_is_never_retried() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &[]);
    let strace = Strace::attach(&server, "fdatasync:error=EIO");
    let answer = server.try_upload(b"x").unwrap();
    let log = strace.detach();
    assert_error(&answer, 500, "internal_error");
    // Without the calls of the trial write that checks whether the disk works again.
    let of_upload = |line: &&str| line.contains("fdatasync(") && !line.contains("/probe-");
    assert_eq!(log.lines().filter(of_upload).count(), 1, "{log}");
    poll("nothing is left", || is_clean(&store));
}

#[test]
fn unreadable_file_ends_only_its_download() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &[]);
    let bytes = file(1);
    let id = server.upload(&bytes);
    // Truncated under the map: a read by the program would raise SIGBUS, a read by the kernel returns EFAULT.
    assert_eq!(server.download(&id, &[("Range", "bytes=0-0")]).status, 206);
    let found = files_below(&store.join("objects"));
    let object = std::fs::OpenOptions::new()
        .write(true)
        .open(store.join("objects").join(&found[0]))
        .unwrap();
    object.set_len(4096).unwrap();
    let broken = server.try_request("GET", &format!("{BASE}/chatfiles/{id}"), &[], b"");
    assert!(
        broken.as_ref().map_or(true, |answer| answer.status == 500),
        "{broken:?}"
    );
    let next = server.upload(b"it lives");
    assert_eq!(server.download(&next, &[]).body, b"it lives");
}

fn is_clean(store: &Path) -> bool {
    files_below(&store.join("tmp")).is_empty() && files_below(&store.join("objects")).is_empty()
}
