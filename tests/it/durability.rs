//! The first start survives a power failure: names are synced before anything that depends on them is published.
//!
//! strace shows the order of the system calls.

use std::{collections::BTreeSet, path::Path, process::Command};

use rustix::process::Signal;

use crate::support::process::{Launch, Process, command, poll, send};

const CALLS: &str = "mkdir,mkdirat,link,linkat,rename,renameat,renameat2,fsync,write,writev,sendto";

/// The calls of one run in order; resumed calls are joined.
fn traced(log: &Path, program: &Command, until: &str) -> Vec<String> {
    let mut strace = Command::new("strace");
    strace
        .args([
            "-f",
            "-y",
            "-s",
            "256",
            "-e",
            &format!("trace={CALLS}"),
            "-o",
        ])
        .arg(log)
        .arg(program.get_program())
        .args(program.get_args())
        .env_clear()
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut child = strace.spawn().expect("strace is installed");
    let read = || String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    poll("the line that publishes something", || {
        read().contains(until) || child.try_wait().expect("a child").is_some()
    });
    let text = read();
    // strace does not pass signals on, so the traced program is killed by its id.
    for pid in text
        .lines()
        .filter_map(|line| line.split(' ').next()?.parse().ok())
        .collect::<BTreeSet<u32>>()
    {
        if Path::new(&format!("/proc/{pid}")).exists() {
            send(pid, Signal::KILL);
        }
    }
    child.wait().expect("a child");
    assert!(text.contains(until), "{text}");
    text.lines().map(str::to_owned).collect()
}

/// The paths in quotes or behind a descriptor; names in an open directory are joined to it.
fn paths(call: &str) -> Vec<String> {
    let joined = call.replace(">, \"", "/");
    let cut = joined.split(['"', '<', '>']);
    cut.filter(|part| part.starts_with('/'))
        .map(str::to_owned)
        .collect()
}

/// Fails unless every new name below `above` was synced in its directory before the line with `until`.
#[track_caller]
fn assert_synced_before(calls: &[String], above: &Path, until: &str) {
    let end = calls
        .iter()
        .position(|call| call.contains(until))
        .expect("it is there");
    let is_synced = |directory: &str, after: usize| {
        calls[after..end].iter().any(|call| {
            call.contains("fsync(")
                && paths(call)
                    .first()
                    .is_some_and(|synced| synced == directory)
        })
    };
    let mut made = BTreeSet::new();
    for (at, call) in calls[..end].iter().enumerate() {
        let is_naming = ["mkdir", "link", "rename"]
            .iter()
            .any(|name| call.contains(name));
        if !is_naming || !call.ends_with("= 0") {
            continue;
        }
        let path = paths(call).pop().expect("a path");
        let Ok(below) = Path::new(&path).strip_prefix(above) else {
            continue;
        };
        // Unfinished uploads and derivatives may be lost.
        let text = below.display().to_string();
        if ["/tmp", "/derived", "/parts", "/objects", ".probe"]
            .iter()
            .any(|name| text.contains(name))
        {
            continue;
        }
        let parent = Path::new(&path)
            .parent()
            .expect("below the root")
            .display()
            .to_string();
        assert!(
            is_synced(&parent, at),
            "{path} was not synced in {parent}: {:#?}",
            &calls[..=end]
        );
        made.insert(text);
    }
    println!("{made:?}");
    assert!(made.contains("a/b/data/keys"), "{made:?}");
}

#[test]
fn first_start_syncs_new_directories() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("a/b/data");
    let server = Launch::new(&store).command();
    let calls = traced(&directory.path().join("strace"), &server, "listening on");
    assert_synced_before(&calls, directory.path(), "listening on");
}

/// Another process has linked the key file and not yet removed its draft.
#[test]
fn reader_syncs_unfinished_key_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    drop(Process::start(&store, &[]));
    let keys = store.join("keys");
    // The state between the link and the removal of the draft.
    std::fs::hard_link(
        keys.join("token-keys.toml"),
        keys.join(".token-keys.toml.draft"),
    )
    .unwrap();
    let mut token = Command::new(env!("CARGO_BIN_EXE_chatfiles"));
    token
        .args(["token", "--user", "alice", "--store-path"])
        .arg(&store);
    let calls = traced(&directory.path().join("strace"), &token, "\"ey");
    let synced = calls
        .iter()
        .position(|call| call.contains("fsync(") && call.contains("/data/keys>"));
    let printed = calls.iter().position(|call| call.contains("\"ey"));
    assert!(synced.is_some() && synced < printed, "{calls:#?}");
    assert!(
        command(&store, &["token", "--user", "bob"])
            .status
            .success()
    );
}
