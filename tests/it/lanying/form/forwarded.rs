//! Forwarding a file of an earlier day while the disk fails: the second name is complete and durable, or does not
//! exist. (A form with a policy signed elsewhere may name an earlier day.)

use std::{os::unix::fs::MetadataExt, path::PathBuf};

use chatfiles::{
    store::{Class, Key, ObjectId},
    time::{Clock, MS_PER_DAY, Timestamp},
};
use serde_json::json;

use super::{FORM_PATH, STORED, signed};
use crate::support::{
    Answer, Form, Random, files_below,
    lanying::{APP_ID, assert_code, file_sign, success, text},
    process::Process,
    strace::Strace,
};

/// Outcome of the forward that meets the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// A second name of the same file.
    Linked,
    /// A copy.
    Copied,
    /// Error 10009, and no name.
    Refused,
}

fn get(server: &Process, path: &str) -> Answer {
    let headers = [("access-token", server.token()), ("app_id", APP_ID)];
    server.request("GET", path, &headers, b"")
}

/// Stores a file of yesterday; returns the path that forwards it.
fn stored_yesterday(server: &Process, bytes: &[u8]) -> String {
    let mut random = [0; 10];
    getrandom::fill(&mut random).unwrap();
    let yesterday = Timestamp::from_ms(Clock::system().now().ms() - MS_PER_DAY);
    let key = Key::of(Class::Chatfile, ObjectId::new(yesterday, &random)).to_string();
    let fields = signed::with_conditions(&key, json!([["eq", "$key", key]]));
    let form = fields
        .iter()
        .fold(Form::new(), |form, (name, value)| form.field(name, value))
        .file("a.bin", "application/octet-stream", bytes);
    let headers = [("Content-Type", &*form.content_type())];
    let answer = server.request("POST", FORM_PATH, &headers, &form.bytes());
    assert_eq!(answer.text(), STORED);
    let sign = signed::file_sign(&key);
    format!("/file/upload/forward?to_id=carol&file_sign={sign}")
}

fn names(server: &Process) -> Vec<PathBuf> {
    files_below(&server.store.join("objects"))
}

fn inodes(server: &Process) -> Vec<u64> {
    let inode = |name: &PathBuf| {
        let path = server.store.join("objects").join(name);
        std::fs::metadata(path).unwrap().ino()
    };
    names(server).iter().map(inode).collect()
}

#[test]
fn failed_forward_is_never_half_done() {
    let bytes = Random::new().bytes(200_000);
    for (inject, outcome) in [
        ("linkat:error=EMLINK", Outcome::Copied),
        ("linkat:error=EPERM", Outcome::Copied),
        ("linkat:error=EIO", Outcome::Refused),
        ("linkat:error=ENOSPC", Outcome::Refused),
        ("mkdirat:error=ENOSPC:when=3", Outcome::Refused),
        // For a directory above, and for the directory of the name.
        ("fsync:error=EIO:when=3", Outcome::Refused),
        ("fsync:error=EIO:when=5", Outcome::Refused),
        // Has no effect: the forward does not write the file again.
        ("fdatasync:error=EIO", Outcome::Linked),
    ] {
        println!("{inject}: {outcome:?}");
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("chatfiles.toml");
        std::fs::write(&config, signed::configuration("", "")).unwrap();
        let flags = ["--config", config.to_str().unwrap()];
        let server = Process::start(&directory.path().join("data"), &flags);
        let forward = stored_yesterday(&server, &bytes);
        let strace = Strace::attach(&server, inject);
        let answer = get(&server, &forward);
        let log = strace.detach();
        assert_eq!(
            log.contains("INJECTED"),
            outcome != Outcome::Linked,
            "{inject}: {log}"
        );
        match outcome {
            Outcome::Refused => {
                assert_code(&answer, 10009);
                assert_eq!(names(&server).len(), 1, "{inject}");
                // Once the disk works again, it is an ordinary link.
                success(&get(&server, &forward));
            }
            Outcome::Linked | Outcome::Copied => drop(success(&answer)),
        }
        let inodes = inodes(&server);
        assert_eq!(inodes.len(), 2, "{inject}");
        assert_eq!(
            inodes[0] != inodes[1],
            outcome == Outcome::Copied,
            "{inject}"
        );
        let url = text(&success(&get(&server, &forward)));
        let path = format!("/file/download/chat?file_sign={}", file_sign(&url));
        assert!(get(&server, &path).body == bytes, "{inject}");
        assert!(
            files_below(&server.store.join("tmp")).is_empty(),
            "{inject}"
        );
        assert!(server.command(&["scrub"]).status.success(), "{inject}");
    }
}
