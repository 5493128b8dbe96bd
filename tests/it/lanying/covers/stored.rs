//! Derivatives of videos and voices are stored, and removed with their file.

use std::{fs, path::Path};

use chatfiles::{
    retention,
    server::control::{self, Command},
    time::MS_PER_DAY,
};

use crate::support::{
    TestServer, configuration,
    lanying::{Client, assert_code},
    last_sweep,
    media::{AMR, MP3, MP4, Program, assert_first_frame},
    poll,
};

/// Files, requests for derivatives, and the suffix of each stored derivative.
fn files() -> [(
    &'static str,
    &'static [u8],
    &'static str,
    &'static [&'static str],
); 3] {
    [
        ("103", &MP4, "&image_type=3", &["-frame", "-t170x170"]),
        ("101", &AMR, "&format=mp3", &["-mp3"]),
        ("104", &MP3, "&format=amr", &["-amr"]),
    ]
}

/// Sends all files; returns their URLs with the requests.
fn send(alice: &Client<'_>) -> Vec<(String, &'static str)> {
    files()
        .map(|(file_type, bytes, more, _)| (alice.send(file_type, "bob", "file", bytes), more))
        .into()
}

#[test]
fn derivatives_survive_restart() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::real();
    let toml = program.toml("");
    let mut server = TestServer::in_directory(directory.path(), &toml);
    let mut first = Vec::new();
    let alice = server.lanying("alice");
    let sent = send(&alice);
    for round in 0..3 {
        let alice = server.lanying("alice");
        for (at, (url, more)) in sent.iter().enumerate() {
            for _ in 0..2 {
                let answer = alice.open(url, more);
                assert_eq!(answer.status, 200, "{}", answer.text());
                if first.len() == at {
                    first.push(answer.clone());
                }
                assert!(answer.body == first[at].body, "{more}");
                for name in ["etag", "content-type"] {
                    assert_eq!(answer.header(name), first[at].header(name), "{more}");
                }
            }
        }
        // A different size each time, made from the stored frame.
        let more = format!("&image_type=3&w={0}&h={0}", 40 + round);
        let size = assert_first_frame(&alice.open(&sent[0].0, &more), &more);
        assert_eq!(size.0, 40 + round);
        assert_eq!(program.starts(), 3, "each derivative was made once");
        server.stop();
        server = TestServer::in_directory(directory.path(), &toml);
    }
    let mut kept: Vec<_> = server.files_in("derived");
    for (_, _, _, endings) in files() {
        for ending in endings {
            let is_it = |path: &mut std::path::PathBuf| path.to_string_lossy().ends_with(ending);
            assert_eq!(kept.extract_if(.., is_it).count(), 1, "{ending}");
        }
    }
    assert!(kept.is_empty(), "only two sizes are stored: {kept:?}");
}

#[test]
fn lost_derivatives_are_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::real();
    let toml = program.toml("");
    let mut server = TestServer::in_directory(directory.path(), &toml);
    let sent = send(&server.lanying("alice"));
    type Damage = fn(&Path);
    let damages: [Damage; 3] = [
        |path| fs::remove_file(path).unwrap(),
        |path| fs::write(path, "").unwrap(),
        |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[50] ^= 1;
            fs::write(path, bytes).unwrap();
        },
    ];
    let all = |server: &TestServer| {
        let alice = server.lanying("alice");
        let answers = sent.iter().map(|(url, more)| alice.open(url, more).body);
        answers.collect::<Vec<_>>()
    };
    let first = all(&server);
    for (at, damage) in damages.into_iter().enumerate() {
        server.stop();
        let kept = server.files_in("derived");
        assert_eq!(kept.len(), 4, "{kept:?}");
        for path in kept {
            damage(&server.store.join("derived").join(path));
        }
        server = TestServer::in_directory(directory.path(), &toml);
        assert!(all(&server) == first);
        assert_eq!(program.starts(), 3 * (at + 2));
    }
}

fn remove_all(server: &TestServer) -> usize {
    let objects = server.files_in("objects");
    for object in &objects {
        let id = object.file_name().unwrap().to_str().unwrap().to_owned();
        let answer = control::request(&server.store, &Command::Remove(id)).unwrap();
        assert!(answer.is_some(), "a server runs");
    }
    objects.len()
}

#[test]
fn removal_takes_derivatives() {
    let program = Program::real();
    let server = TestServer::with(&program.toml(""));
    let alice = server.lanying("alice");
    let sent = send(&alice);
    for (url, more) in &sent {
        assert_eq!(alice.open(url, more).status, 200);
    }
    assert_eq!(server.files_in("derived").len(), 4);
    assert_eq!(remove_all(&server), 3);
    assert!(server.files_in("derived").is_empty());
    for (url, more) in &sent {
        assert_code(&alice.open(url, more), 20022);
    }
    assert_eq!(program.starts(), 3);
}

#[test]
fn removal_during_run_leaves_nothing() {
    let program = Program::held();
    let server = TestServer::with(&program.toml("processes_max = 3"));
    let alice = server.lanying("alice");
    let sent = send(&alice);
    std::thread::scope(|scope| {
        for (url, more) in &sent {
            scope.spawn(|| alice.open(url, more));
        }
        program.await_starts(3);
        assert_eq!(remove_all(&server), 3);
        program.release();
    });
    program.await_end();
    for (url, more) in &sent {
        assert_code(&alice.open(url, more), 20022);
    }
    assert!(server.files_in("derived").is_empty());
    assert!(server.files_in("objects").is_empty());
}

#[test]
fn sweep_takes_derivatives_of_day() {
    let program = Program::real();
    let toml = format!("[retention]\nchatfile_days = 1\n{}", program.toml(""));
    let server = TestServer::with(&toml);
    poll("the first sweep", || last_sweep(&server.store).is_some());
    let alice = server.lanying("alice");
    for (url, more) in send(&alice) {
        assert_eq!(alice.open(&url, more).status, 200);
    }
    assert_eq!(server.files_in("derived").len(), 4);
    let policy = configuration(Path::new("unused"), &toml).retention();
    let sweep = || {
        crate::support::sweep(
            &server.store,
            &policy,
            server.clock.now(),
            chatfiles::retention::SweepMode::RemoveConfirmed,
        )
    };
    sweep();
    assert_eq!(server.files_in("derived").len(), 4);
    server.clock.advance(4 * MS_PER_DAY);
    assert_eq!(sweep().days.len(), 2, "for voices and for videos");
    assert!(server.files_in("derived").is_empty());
    assert!(server.files_in("objects").is_empty());
}
