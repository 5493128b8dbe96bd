//! The store's file system disappears, becomes read-only, fails, and returns: what clients and operators see.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::support::{
    Answer, BASE, Connection, Form, Random, TestServer, assert_error, files_below, head,
    lanying::{assert_code, file_sign, text, ticket_form},
    mount::Mount,
    photo,
    process::{Launch, Process, id, poll},
    strace::Strace,
};

const OPERATOR: [&str; 2] = ["--operator-listen", "127.0.0.1:0"];

#[track_caller]
fn assert_gone(answer: &Answer) {
    assert_error(answer, 503, "service_unavailable");
    assert!(answer.header("retry-after").is_some());
}

/// Downloads a file that is in no cache.
fn download_unseen(server: &Process, id: &str) -> Answer {
    server.download(id, &[])
}

#[track_caller]
fn assert_not_ready(server: &Process, part: &str, reads: u16) {
    let ready = server.ask_operator("/readyz");
    assert_eq!(ready.status, 503, "{}", ready.text());
    let text = ready.text();
    assert!(text.lines().any(|line| line.starts_with(part)), "{text}");
    assert!(
        !text.contains(&server.store.display().to_string()),
        "{text}"
    );
    let for_reads = server.ask_operator("/readyz/reads");
    assert_eq!(for_reads.status, reads, "{}", for_reads.text());
}

#[track_caller]
fn await_ready(server: &Process) {
    poll("readiness", || server.ask_operator("/readyz").status == 200);
    assert_eq!(server.ask_operator("/readyz").text(), "ready\n");
    assert_eq!(server.ask_operator("/readyz/reads").status, 200);
}

fn healthy(server: &Process, operation: &str) -> bool {
    let text = String::from_utf8(server.ask_operator("/metrics").body).unwrap();
    text.contains(&format!(
        "chatfiles_store_healthy{{operation=\"{operation}\"}} 1"
    ))
}

/// Copies a store like a backup, including hard links.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

/// A store on a file system that can be unmounted: the directory `disk`, bind-mounted at `store`.
struct Mounted {
    mount: Option<Mount>,
    store: PathBuf,
    disk: PathBuf,
    directory: tempfile::TempDir,
}

impl Mounted {
    /// `None` where mounting is not allowed.
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let [store, disk] = ["data", "disk"].map(|name| directory.path().join(name));
        fs::create_dir(&disk).unwrap();
        Some(Self {
            mount: Some(Mount::bind(&disk, &store)?),
            store,
            disk,
            directory,
        })
    }

    fn unmount(&mut self) {
        self.mount = None;
    }

    fn mount_again(&mut self) {
        self.mount = Mount::bind(&self.disk, &self.store);
        assert!(self.mount.is_some());
    }

    /// Number of files of unfinished uploads.
    fn unfinished(&self) -> usize {
        files_below(&self.disk.join("tmp")).len()
    }
}

#[test]
fn absent_store_answers_503_until_back() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let store = mounted.store.clone();
    let server = Process::start(&store, &OPERATOR);
    let ids: Vec<_> = (0..6)
        .map(|number| server.upload(format!("file {number}").as_bytes()))
        .collect();
    let picture = id(&server.try_upload(&photo()).unwrap());
    let begun = server.request(
        "POST",
        &format!("{BASE}/sdk/chatfiles/part-upload"),
        &[],
        b"",
    );
    let parts = format!("{BASE}/sdk/chatfiles/part-upload/{}", id(&begun));
    await_ready(&server);

    // Round 0 unmounts the store, round 1 mounts an empty directory over it, and round 2 another store.
    let [empty, other] = ["empty", "other"].map(|name| mounted.directory.path().join(name));
    fs::create_dir(&empty).unwrap();
    drop(Process::start(&other, &[]));
    let other_files = files_below(&other);
    for (round, over) in [None, Some(&empty), Some(&other)].into_iter().enumerate() {
        println!("round {round}");
        // These are open now.
        assert_eq!(server.download(&ids[0], &[]).body, b"file 0");
        assert_eq!(server.download(&picture, &[]).status, 200);
        let mut above = None;
        match over {
            None => mounted.unmount(),
            Some(over) => above = Mount::bind(over, &store),
        }
        assert_gone(&download_unseen(&server, &ids[1 + round]));
        assert_gone(&server.try_upload(b"small").unwrap());
        assert_gone(&server.try_upload(&vec![7; 1 << 20]).unwrap());
        assert_gone(&server.request("GET", &format!("{parts}/parts"), &[], b""));
        assert_gone(&server.request("PUT", &format!("{parts}?part_number=1"), &[], b"part"));
        assert_gone(&server.request(
            "POST",
            &format!("{BASE}/sdk/chatfiles/part-upload"),
            &[],
            b"",
        ));
        assert_gone(&server.request("DELETE", &parts, &[], b""));
        // Open files are still served, and derivatives of them can be made.
        assert_eq!(server.download(&ids[0], &[]).body, b"file 0");
        assert_eq!(
            server.download(&picture, &[("thumbnail", "true")]).status,
            200
        );
        assert_not_ready(&server, "disk: ", 503);
        assert!(!healthy(&server, "read") && !healthy(&server, "write"));
        if over != Some(&other) {
            // Nothing was created in the mount point, not even a directory.
            let found: Vec<_> = fs::read_dir(&store).unwrap().collect();
            assert!(found.is_empty(), "{found:?}");
            let removed = server.command(&["rm", &ids[1]]);
            assert_eq!(removed.status.code(), Some(2), "{removed:?}");
            assert!(String::from_utf8_lossy(&removed.stderr).contains("there is no store"));
        }
        drop(above);
        if over.is_none() {
            mounted.mount_again();
        }
        await_ready(&server);
        assert_eq!(
            download_unseen(&server, &ids[1 + round]).body,
            format!("file {}", 1 + round).as_bytes()
        );
        let stored = server.upload(b"it works again");
        assert_eq!(server.download(&stored, &[]).body, b"it works again");
        assert!(healthy(&server, "read") && healthy(&server, "write"));
        let part = server.request("PUT", &format!("{parts}?part_number=1"), &[], b"part");
        assert_eq!(part.status, 200, "{}", part.text());
        // The commands reach the server, which forgets open files.
        poll("the control socket", || {
            let removed = server.command(&["rm", &stored]);
            removed.status.success()
        });
        assert_error(&server.download(&stored, &[]), 404, "entity_not_found");
    }
    assert_eq!(
        files_below(&other),
        other_files,
        "another store is left alone"
    );
    assert_eq!(mounted.unfinished(), 0);
    let scrub = server.command(&["scrub"]);
    assert!(scrub.status.success(), "{scrub:?}");
}

#[test]
fn copy_of_store_is_accepted() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let (store, disk) = (mounted.store.clone(), mounted.disk.clone());
    let restored = mounted.directory.path().join("restored");
    let mut server = Process::start(&store, &OPERATOR);
    let id = server.upload(b"backed up");
    copy(&disk, &restored);
    for left_out in ["lock", "control.sock", "tmp", "derived", "parts"] {
        let path = restored.join(left_out);
        let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    }
    // An upload that starts in one store and ends in the other is refused, because the other does not have it.
    let form = Form::new().file("f.bin", "application/octet-stream", &vec![7; 1 << 20]);
    let (authorization, content_type) = (format!("Bearer {}", server.token()), form.content_type());
    let headers = [
        ("Authorization", &*authorization),
        ("Content-Type", &*content_type),
    ];
    let bytes = form.bytes();
    let mut sent = head(
        "POST",
        &format!("{BASE}/chatfiles"),
        &headers,
        Some(bytes.len()),
    );
    sent.extend_from_slice(&bytes[..1 << 19]);
    let mut under_way = Connection::open(server.address);
    under_way.send(&sent).unwrap();
    poll("its file", || mounted.unfinished() == 1);
    mounted.unmount();
    let _mount = Mount::bind(&restored, &store).unwrap();
    await_ready(&server);
    under_way.send(&bytes[1 << 19..]).unwrap();
    assert_gone(&under_way.answer("POST").unwrap());
    assert_eq!(mounted.unfinished(), 0);
    assert_eq!(server.download(&id, &[]).body, b"backed up");
    let before = files_below(&disk.join("objects")).len();
    server.upload(b"new");
    assert_eq!(files_below(&disk.join("objects")).len(), before);
    assert_eq!(files_below(&restored.join("objects")).len(), before + 1);
    // The server has locked the copy as well.
    let second = Launch::new(&store).command().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("in use by another server"), "{said}");
    // The copy is handed over, not the original store.
    let address = server.address.to_string();
    let successor = Process::start(&store, &["--take-over", "--listen", &address]);
    server.wait();
    assert_eq!(successor.download(&id, &[]).body, b"backed up");
    successor.upload(b"newer");
}

/// At any moment of a mount or unmount: answered uploads exist, and the mount point stays empty.
#[test]
fn remounts_under_load_lose_nothing() {
    const ROUNDS: usize = 6;
    const UPLOADERS: u64 = 4;
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let store = mounted.store.clone();
    let server = Process::start(&store, &OPERATOR);
    let seed = Random::new().next();
    let (is_over, answered) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for number in 0..UPLOADERS {
            let (server, is_over, answered) = (&server, &is_over, &answered);
            scope.spawn(move || {
                let mut random = Random::from_seed(seed ^ number);
                while !is_over.load(Ordering::Relaxed) {
                    let len = 1 + random.below([300, 20_000, 400_000][number as usize % 3]);
                    let bytes = random.bytes(len);
                    let answer = server.try_upload(&bytes).unwrap();
                    match answer.status {
                        200 => answered.lock().unwrap().push((id(&answer), bytes)),
                        _ => assert_gone(&answer),
                    }
                }
            });
        }
        for round in 0..ROUNDS {
            let enough = answered.lock().unwrap().len() + 30;
            poll("uploads", || answered.lock().unwrap().len() >= enough);
            mounted.unmount();
            poll("the end of uploads", || {
                server.try_upload(b"x").unwrap().status == 503
            });
            let left: Vec<_> = fs::read_dir(&store).unwrap().collect();
            assert!(left.is_empty(), "round {round}: {left:?}");
            mounted.mount_again();
        }
        await_ready(&server);
        is_over.store(true, Ordering::Relaxed);
    });
    let answered = answered.into_inner().unwrap();
    println!("{} uploads were answered", answered.len());
    for (id, bytes) in &answered {
        assert!(&server.download(id, &[]).body == bytes, "{id}");
    }
    poll("unfinished files to go", || mounted.unfinished() == 0);
    let scrub = server.command(&["scrub"]);
    assert!(scrub.status.success(), "{scrub:?}");
}

#[test]
fn read_only_start_serves_downloads() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &[]);
    let file = server.upload(b"from before");
    let picture = id(&server.try_upload(&photo()).unwrap());
    drop(server);
    let Some(mount) = Mount::read_only(&store) else {
        return;
    };
    let server = Process::start(&store, &OPERATOR);
    assert_eq!(server.download(&file, &[]).body, b"from before");
    assert_eq!(
        server.download(&picture, &[("thumbnail", "true")]).status,
        200
    );
    for bytes in [b"small".to_vec(), vec![7; 1 << 20]] {
        let refused = server.try_upload(&bytes).unwrap();
        assert_error(&refused, 507, "insufficient_storage");
    }
    let parts = server.request(
        "POST",
        &format!("{BASE}/sdk/chatfiles/part-upload"),
        &[],
        b"",
    );
    assert_error(&parts, 507, "insufficient_storage");
    assert_error(
        &server.download("01890000-0000-7000-8000-000000000000", &[]),
        404,
        "entity_not_found",
    );
    assert_not_ready(&server, "uploads: ", 200);
    assert!(
        server
            .ask_operator("/readyz")
            .text()
            .contains("Read-only file system")
    );
    assert!(healthy(&server, "read") && !healthy(&server, "write"));
    assert!(
        server.log().contains("the store cannot be written"),
        "{}",
        server.log()
    );
    // No other server may use it, read-only or not.
    let second = Launch::new(&store).command().output().unwrap();
    assert_eq!(second.status.code(), Some(1), "{second:?}");

    drop(mount);
    await_ready(&server);
    let stored = server.upload(b"it works again");
    assert_eq!(server.download(&stored, &[]).body, b"it works again");
    poll("the control socket", || {
        server.command(&["rm", &stored]).status.success()
    });
    assert_error(&server.download(&stored, &[]), 404, "entity_not_found");
}

#[test]
fn lanying_answers_without_storage() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::in_directory(directory.path(), "");
    let url = server
        .lanying("alice")
        .send("102", "bob", "a.jpg", &photo());
    let forward = format!("upload/forward?to_id=carol&file_sign={}", file_sign(&url));
    // A forward on a later day adds a name to the file.
    server.clock.advance(chatfiles::time::MS_PER_DAY);
    let (alice, bob) = (server.lanying("alice"), server.lanying("bob"));
    let ticket = alice.ticket("102", "bob", "1");
    let form = ticket_form(&ticket).file("a.jpg", "image/jpeg", &photo());
    let Some(mount) = Mount::read_only(&server.store) else {
        return;
    };
    poll("the mount is noticed", || {
        alice.post(&ticket, &form).status == 507
    });
    assert_code(&bob.get(&forward), 10009);
    assert_eq!(bob.open(&url, "&image_type=2").status, 200);
    drop(mount);
    poll("the store to be writable", || {
        alice.post(&ticket, &form).status == 200
    });
    let unseen = text(&ticket["download_url"]);
    // The store is absent: 503 as status and in the envelope.
    let away = directory.path().join("away");
    fs::rename(&server.store, &away).unwrap();
    fs::create_dir(&server.store).unwrap();
    for answer in [
        bob.open(&unseen, ""),
        bob.get(&forward),
        alice.post(&ticket, &form),
    ] {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.header("retry-after").is_some());
    }
    fs::remove_dir(&server.store).unwrap();
    fs::rename(&away, &server.store).unwrap();
    assert_eq!(bob.open(&unseen, "").status, 200);
}

#[test]
fn read_only_store_refuses_uploads_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &OPERATOR);
    let file = server.upload(b"from before");
    let Some(mount) = Mount::read_only(&store) else {
        return;
    };
    poll("the mount is noticed", || {
        server.try_upload(b"x").unwrap().status == 507
    });
    assert_eq!(server.download(&file, &[]).body, b"from before");
    assert_not_ready(&server, "uploads: ", 200);
    drop(mount);
    await_ready(&server);
    server.upload(b"it works again");
}

#[test]
fn missing_keys_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    drop(Process::start(&store, &[]));
    for missing in ["keys/token-keys.toml", "keys"] {
        let path = store.join(missing);
        fs::remove_dir_all(&path)
            .or_else(|_| fs::remove_file(&path))
            .unwrap();
        let Some(_mount) = Mount::read_only(&store) else {
            return;
        };
        let started = Launch::new(&store).command().output().unwrap();
        let said = String::from_utf8_lossy(&started.stderr).into_owned();
        assert_eq!(started.status.code(), Some(1), "{said}");
        for part in [missing, "missing", "read-only", "backup"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }
}

#[test]
fn readiness_follows_last_write() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &OPERATOR);
    let file = server.upload(b"from before");
    for (call, error, status) in [
        ("fdatasync", "EIO", 500),
        ("pwritev", "EIO", 500),
        ("renameat2", "EROFS", 507),
        // Bytes are free, but no inodes.
        ("openat", "ENOSPC", 507),
    ] {
        println!("{call} {error}");
        await_ready(&server);
        let strace = Strace::attach(&server, &format!("{call}:error={error}"));
        assert_eq!(server.try_upload(b"x").unwrap().status, status);
        assert_not_ready(&server, "uploads: ", 200);
        assert!(healthy(&server, "read") && !healthy(&server, "write"));
        if call != "openat" {
            assert_eq!(server.download(&file, &[]).body, b"from before");
        }
        // The condition stays: a trial write fails like the uploads.
        poll("a trial", || {
            server
                .ask_operator("/readyz")
                .text()
                .contains("a trial write failed")
        });
        drop(strace.detach());
        await_ready(&server);
        assert!(healthy(&server, "write"));
    }
    let metrics = String::from_utf8(server.ask_operator("/metrics").body).unwrap();
    let errors = metrics
        .lines()
        .find_map(|line| line.strip_prefix("chatfiles_store_write_errors_total "));
    assert!(
        errors.is_some_and(|errors| errors.parse::<u64>().unwrap() >= 4),
        "{errors:?}"
    );
    server.upload(b"it works again");
}

#[test]
fn successful_upload_makes_ready() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &OPERATOR);
    // Only one write fails.
    let strace = Strace::attach(&server, "fdatasync:error=EIO:when=1");
    assert_eq!(server.try_upload(b"x").unwrap().status, 500);
    drop(strace.detach());
    server.upload(b"y");
    await_ready(&server);
    assert!(server.log().contains("a write failed"), "{}", server.log());
}

/// Covers what the kernel does when ext4 is damaged (`errors=remount-ro`), up to a repair and a new mount.
/// And written again after its repair.
#[test]
fn failed_ext4_is_served_read_only() {
    let directory = tempfile::tempdir().unwrap();
    let [store, image] = ["data", "image"].map(|name| directory.path().join(name));
    let Some(mount) = Mount::ext4(&image, &store, "errors=remount-ro") else {
        return;
    };
    let server = Process::start(&store, &OPERATOR);
    let files: Vec<_> = (0..3)
        .map(|number| server.upload(format!("file {number}").as_bytes()))
        .collect();
    let device = fs::read_to_string("/proc/self/mounts").unwrap();
    let device = device
        .lines()
        .find_map(|line| line.strip_suffix(line.split_once(&format!(" {} ", store.display()))?.1))
        .and_then(|line| line.split(' ').next()?.strip_prefix("/dev/"))
        .expect("a mounted device")
        .to_owned();
    let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
    if let Err(error) = fs::write(&trigger, "1") {
        println!("SKIPPED: {trigger}: {error}");
        return;
    }
    assert_error(
        &server.try_upload(b"x").unwrap(),
        507,
        "insufficient_storage",
    );
    assert_eq!(server.download(&files[0], &[]).body, b"file 0");
    assert_not_ready(&server, "uploads: ", 200);
    drop(server);

    let server = Process::start(&store, &OPERATOR);
    assert_eq!(server.download(&files[1], &[]).body, b"file 1");
    assert_error(
        &server.try_upload(b"x").unwrap(),
        507,
        "insufficient_storage",
    );
    assert_not_ready(&server, "uploads: ", 200);

    // The server releases the old mount once it finds the new one. The image is repaired through a copy.
    let repaired = directory.path().join("repaired");
    fs::copy(&image, &repaired).unwrap();
    let checked = Command::new("fsck.ext4")
        .args(["-fp"])
        .arg(&repaired)
        .output()
        .unwrap();
    assert!(
        checked.status.code().is_some_and(|code| code < 4),
        "{checked:?}"
    );
    drop(mount);
    assert_gone(&server.download(&files[2], &[]));
    let _mount = Mount::ext4(&repaired, &store, "errors=remount-ro").unwrap();
    await_ready(&server);
    assert_eq!(server.download(&files[2], &[]).body, b"file 2");
    assert_eq!(
        server.download(&server.upload(b"it works again"), &[]).body,
        b"it works again"
    );
}

#[test]
fn absent_store_makes_no_new_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::in_directory(directory.path(), "");
    let away = directory.path().join("away");
    fs::rename(&server.store, &away).unwrap();
    fs::create_dir(&server.store).unwrap();
    let config = crate::support::configuration(directory.path(), "");
    let error = server.reloader().reload(&config).unwrap_err();
    assert!(
        matches!(error.kind(), chatfiles::error::Kind::Unavailable(_)),
        "{error}"
    );
    assert_eq!(fs::read_dir(&server.store).unwrap().count(), 0);
    fs::remove_dir(&server.store).unwrap();
    fs::rename(&away, &server.store).unwrap();
    server.reloader().reload(&config).unwrap();
    // The original store again: its links work.
    let form = Form::new().file("a.txt", "text/plain", b"x");
    assert_eq!(server.upload(&form, &[]).status, 200);
}
