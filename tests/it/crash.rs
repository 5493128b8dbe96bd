//! SIGKILL at every step of a commit and under load: answered uploads survive, and nothing is left half done.
//!
//! strace kills the program from outside at the system call of each step, so the program needs no hook. A step that is
//! never reached, or that is not the intended one, fails its test.

use std::{path::Path, process::Command, sync::Mutex};

use rustix::process::Signal;

use crate::support::{
    Answer, BASE, Random, files_below,
    process::{Launch, Process, command, id, poll, send},
    strace::{Strace, killed_in, strace},
};

/// An upload that was answered.
struct Answered {
    id: String,
    bytes: Vec<u8>,
}

/// Distinguishes a call from other calls of its kind.
enum Shows {
    /// A path below the store; `*` matches any name.
    At(&'static str),
    /// A text that is written.
    Text(&'static str),
}
use Shows::{At, Text};

/// A moment of an upload: the n-th call of a kind in one thread, counted from its start.
struct Phase {
    name: &'static str,
    /// The uploaded file.
    size: Size,
    call: &'static str,
    number: u32,
    /// What the arguments of the call must show.
    shows: Shows,
    /// Whether the object already has its name. It was not answered, so it may stay or go.
    is_named: bool,
}

#[derive(Clone, Copy)]
enum Size {
    /// Written and named in one step.
    Small,
    /// More than one batch.
    Large,
}
use Size::{Large, Small};

const fn phase(
    size: Size,
    name: &'static str,
    call: &'static str,
    number: u32,
    shows: Shows,
    is_named: bool,
) -> Phase {
    Phase {
        name,
        size,
        call,
        number,
        shows,
        is_named,
    }
}

/// All steps of a small upload in order, then those that only a large one has.
const PHASES: [Phase; 18] = [
    phase(Small, "create in tmp/", "openat", 1, At("tmp/*/*"), false),
    phase(Small, "write all of it", "pwritev", 1, Text(VICTIM), false),
    phase(
        Small,
        "and its trailer",
        "pwritev",
        1,
        Text("CHATFILE"),
        false,
    ),
    phase(Small, "sync the file", "fdatasync", 1, At("tmp/*/*"), false),
    phase(Small, "make objects/", "mkdirat", 1, At("objects"), false),
    phase(Small, "sync the root", "fsync", 1, At(""), false),
    phase(
        Small,
        "make the class",
        "mkdirat",
        2,
        At("objects/*"),
        false,
    ),
    phase(Small, "sync objects/", "fsync", 2, At("objects"), false),
    phase(
        Small,
        "make the day",
        "mkdirat",
        3,
        At("objects/*/*"),
        false,
    ),
    phase(Small, "sync the class", "fsync", 3, At("objects/*"), false),
    phase(
        Small,
        "make the spread",
        "mkdirat",
        4,
        At("objects/*/*/*"),
        false,
    ),
    phase(Small, "sync the day", "fsync", 4, At("objects/*/*"), false),
    phase(Small, "name it", "renameat2", 1, At("tmp/*/*"), false),
    phase(
        Small,
        "sync its directory",
        "fsync",
        5,
        At("objects/*/*/*"),
        true,
    ),
    phase(
        Small,
        "answer",
        "sendto,writev",
        1,
        Text("HTTP/1.1 200"),
        true,
    ),
    phase(Large, "reserve", "fallocate", 1, At("tmp/*/*"), false),
    phase(Large, "write a batch", "pwritev", 1, Text(VICTIM), false),
    phase(Large, "cut to size", "ftruncate", 1, At("tmp/*/*"), false),
];
const VICTIM: &str = "a payload that the crash takes";

#[test]
fn kill_during_first_upload_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    kill_at_each(&store, &[]);
}

#[test]
fn kill_during_upload_keeps_answered_files() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let mut random = Random::new();
    let server = Process::start(&store, &[]);
    let answered = [1, 5000, 300_000, 3 << 20].map(|len| {
        let bytes = random.bytes(len);
        Answered {
            id: server.upload(&bytes),
            bytes,
        }
    });
    drop(server);
    kill_at_each(&store, &answered);
}

/// Starts servers on one directory, one after the other, and kills each at the next step.
fn kill_at_each(store: &Path, answered: &[Answered]) {
    let mut named = 0;
    for phase in &PHASES {
        let name = phase.name;
        let mut server = Process::start(store, &[]);
        check(&server, answered, answered.len()..=answered.len() + named);
        let inject = format!("{}:signal=KILL:when={}", phase.call, phase.number);
        let strace = Strace::attach(&server, &inject);
        let answer = server.try_upload(&phase.size.victim());
        assert!(answer.is_err(), "{name}: never reached, {answer:?}");
        let status = server.wait();
        assert!(!status.success(), "{name}");
        let call = strace.last_call();
        assert!(
            phase.shows.fits(store, &call),
            "{name}: killed elsewhere, in {call}"
        );
        named += usize::from(phase.is_named);
    }
    let server = Process::start(store, &[]);
    check(
        &server,
        answered,
        answered.len() + named..=answered.len() + named,
    );
    let id = server.upload(b"and it goes on");
    assert_eq!(server.download(&id, &[]).body, b"and it goes on");
}

impl Size {
    fn victim(self) -> Vec<u8> {
        match self {
            Small => VICTIM.into(),
            Large => VICTIM.repeat(20_000).into(),
        }
    }
}

impl Shows {
    fn fits(&self, store: &Path, call: &str) -> bool {
        // Join a name in an open directory to the directory's path.
        let call = call.replace(">, \"", "/");
        let wanted: Vec<&str> = match self {
            Text(text) => return call.contains(text),
            At("") => Vec::new(),
            At(path) => path.split('/').collect(),
        };
        let root = store.display().to_string();
        call.match_indices(&root).any(|(at, _)| {
            let rest = call[at + root.len()..].split(['"', '>']).next();
            let names = rest.unwrap_or_default().split('/').skip(1);
            names.clone().count() == wanted.len()
                && std::iter::zip(names, &wanted).all(|(name, wanted)| ["*", name].contains(wanted))
        })
    }
}

/// After a restart: every answered upload is complete, others are complete or gone, and nothing unfinished is left.
#[track_caller]
fn check(server: &Process, answered: &[Answered], objects: std::ops::RangeInclusive<usize>) {
    for Answered { id, bytes } in answered {
        let download = server.download(id, &[]);
        assert_eq!(download.status, 200, "{id}: {}", download.text());
        assert!(&download.body == bytes, "{id} is not what was sent");
    }
    let scrub = server.command(&["scrub"]);
    assert!(scrub.status.success(), "{scrub:?}");
    assert!(files_below(&server.store.join("tmp")).is_empty());
    let found = files_below(&server.store.join("objects"));
    // Only class/day/spread/id, and nothing else.
    let strays: Vec<_> = found
        .iter()
        .filter(|path| path.components().count() != 4)
        .collect();
    assert!(strays.is_empty(), "{strays:?}");
    assert!(objects.contains(&found.len()), "{objects:?}: {found:?}");
}

#[test]
fn kill_during_payload_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let mut server = Process::start(&store, &[]);
    let strace = Strace::attach(&server, "pwritev:signal=KILL:when=3");
    let answer = server.try_upload(&Random::new().bytes(8 << 20));
    assert!(answer.is_err(), "never reached: {answer:?}");
    server.wait();
    assert!(At("tmp/*/*").fits(&store, &strace.last_call()));
    assert_eq!(files_below(&store.join("tmp")).len(), 1, "the torn file");
    check(&Process::start(&store, &[]), &[], 0..=0);
}

#[test]
fn kill_during_start_is_swept_up() {
    for (call, number) in [
        ("mkdirat", 4),
        ("fdatasync", 1),
        ("renameat2", 2),
        ("fsync", 1),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("data");
        let log = directory.path().join("strace");
        let inject = format!("{call}:signal=KILL:when={number}");
        let server = Launch::new(&store).command();
        let mut traced: Command = strace(&log, &inject);
        traced
            .arg("--")
            .arg(server.get_program())
            .args(server.get_args());
        let ended = traced.env_clear().env("PATH", "/usr/bin").output().unwrap();
        assert!(!ended.status.success(), "{call}: never reached, {ended:?}");
        let killed = killed_in(&log);
        assert!(killed.contains(call), "{call}: {killed}");
        check(&Process::start(&store, &[]), &[], 0..=0);
    }
}

#[test]
fn kill_under_load_keeps_answered_files() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let mut random = Random::new();
    let answered = Mutex::new(Vec::new());
    let mut unanswered = 0;
    for _ in 0..5 {
        let mut server = Process::start(&store, &[]);
        let before = answered.lock().unwrap().len();
        let enough = before + 1 + random.below(40);
        let seeds: [u64; UPLOADERS] = std::array::from_fn(|_| random.next());
        std::thread::scope(|scope| {
            for seed in seeds {
                let (server, answered) = (&server, &answered);
                scope.spawn(move || upload_until_it_is_gone(server, answered, seed));
            }
            poll("uploads", || answered.lock().unwrap().len() >= enough);
            send(server.pid(), Signal::KILL);
        });
        server.wait();
        // Each uploader may have one complete upload that was not answered.
        unanswered += UPLOADERS;
        let answered = answered.lock().unwrap();
        check(
            &Process::start(&store, &[]),
            &answered,
            answered.len()..=answered.len() + unanswered,
        );
    }
    println!("{} uploads were answered", answered.lock().unwrap().len());
}

const UPLOADERS: usize = 4;

fn upload_until_it_is_gone(server: &Process, answered: &Mutex<Vec<Answered>>, seed: u64) {
    let mut random = Random::from_seed(seed);
    loop {
        // Mostly small, some with many batches.
        let end = [300, 20_000, 400_000][random.below(3)];
        let len = 1 + random.below(end);
        let bytes = random.bytes(len);
        let Ok(answer) = server.try_upload(&bytes) else {
            return;
        };
        let id = id(&answer);
        answered.lock().unwrap().push(Answered { id, bytes });
    }
}

/// A completion that was interrupted can be requested again.
#[test]
fn parts_survive_kill() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let mut random = Random::new();
    let parts = [random.bytes(5 << 20), random.bytes(1000)];
    let base = format!("{BASE}/sdk/chatfiles/part-upload");
    let mut server = Process::start(&store, &[]);
    let begun = server.request("POST", &base, &[], b"");
    let upload = format!("{base}/{}", id(&begun));
    let put = |server: &Process, number: usize| {
        let path = format!("{upload}?part_number={number}");
        let stored = server.request("PUT", &path, &[], &parts[number - 1]);
        assert_eq!(stored.status, 200, "{}", stored.text());
    };
    put(&server, 1);
    server.kill();
    let mut server = Process::start(&store, &[]);
    put(&server, 2);
    for (call, number) in [("fallocate", 1), ("fdatasync", 1), ("renameat2", 1)] {
        let inject = format!("{call}:signal=KILL:when={number}");
        let strace = Strace::attach(&server, &inject);
        let answer = server.try_request("POST", &upload, &[], b"");
        assert!(answer.is_err(), "{call}: never reached, {answer:?}");
        server.wait();
        assert!(strace.last_call().contains(call));
        server = Process::start(&store, &[]);
        check(&server, &[], 0..=0);
    }
    let completed: Answer = server.request("POST", &upload, &[], b"");
    let answered = Answered {
        id: id(&completed),
        bytes: parts.concat(),
    };
    check(&server, &[answered], 1..=1);
    assert!(files_below(&store.join("parts")).is_empty());
}

#[test]
fn second_process_ends_with_reason() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let mut first = Process::start(&store, &[]);
    let second = Launch::new(&store).command().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("in use by another server"), "{said}");
    assert!(said.contains(&first.pid().to_string()), "{said}");
    // The lock ends with the process. `scrub` needs no lock.
    first.kill();
    assert!(command(&store, &["scrub"]).status.success());
    Process::start(&store, &[]);
}
