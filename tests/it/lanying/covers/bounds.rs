//! One ffmpeg runs and one request waits: refusals, and clients that disconnect.

use std::{sync::mpsc, time::Duration};

use chatfiles::time::Clock;

use crate::support::{
    Answer, BASE, TestServer, assert_error, head,
    lanying::{APP_ID, assert_code, envelope, text},
    media::{AMR, MP4, Program, assert_first_frame},
    photo,
};

const ONE_RUNS_ONE_WAITS: &str = "processes_max = 1\nqueue_max = 1\ntimeout_seconds = 60";

/// Makes four requests that need ffmpeg: one runs, one waits, two are refused. Then other requests succeed, and the
/// refused ones are repeated.
#[track_caller]
fn check(
    server: &TestServer,
    program: &Program,
    ask: &(dyn Fn(usize) -> Answer + Sync),
    refused: &dyn Fn(&Answer),
) {
    let alice = server.lanying("alice");
    let picture = alice.send("102", "bob", "a.jpg", &photo());
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    std::thread::scope(|scope| {
        let (sender, answers) = mpsc::channel();
        let start = |which: usize| {
            let sender = sender.clone();
            scope.spawn(move || sender.send((which, ask(which))));
        };
        start(0);
        program.await_starts(1);
        for which in 1..4 {
            start(which);
        }
        // The first of the three others waits; the test cannot know which one that is.
        let mut again = Vec::new();
        for _ in 0..2 {
            let (which, answer) = answers.recv().unwrap();
            assert_eq!(answer.header("retry-after"), Some("1"), "{}", answer.text());
            refused(&answer);
            again.push(which);
        }
        for _ in 0..5 {
            assert!(alice.open(&picture, "").body == photo());
            assert_eq!(alice.open(&picture, "&image_type=2").status, 200);
            assert!(server.download(&id, &[]).body == photo());
            let thumbnail = server.download(&id, &[("thumbnail", "true")]);
            assert_eq!(thumbnail.status, 200);
            assert!(
                alice
                    .send("103", "bob", "a.mp4", &MP4)
                    .contains("file_sign=")
            );
        }
        assert_eq!(program.starts(), 1, "one at a time");
        program.release();
        for _ in 0..2 {
            let (which, answer) = answers.recv().unwrap();
            assert_eq!(answer.status, 200, "{which}: {}", answer.text());
            assert!(answer.header("content-type") != Some("application/json;charset=UTF-8"));
        }
        for which in again {
            let answer = ask(which);
            assert_eq!(answer.status, 200, "a refusal is not remembered");
            assert!(answer.body.starts_with(b"\xff"), "a JPEG or an MP3");
        }
    });
    assert_eq!(program.starts(), 4);
    program.await_end();
}

#[test]
fn full_queue_is_503_in_lanying() {
    let program = Program::held();
    let server = TestServer::with(&program.toml(ONE_RUNS_ONE_WAITS));
    let alice = server.lanying("alice");
    let urls = [0; 4].map(|_| alice.send("103", "bob", "a.mp4", &MP4));
    let ask = |which: usize| alice.open(&urls[which], "&image_type=3");
    check(&server, &program, &ask, &|answer| {
        assert_eq!(envelope(answer, 503)["code"], 503);
    });
}

/// A request waits for at most a third of the time limit of a run.
#[test]
fn wait_is_bounded_by_time_limit() {
    let program = Program::held();
    let server = TestServer::with(&program.toml("processes_max = 1\ntimeout_seconds = 3"));
    let alice = server.lanying("alice");
    let urls = [0; 4].map(|_| alice.send("103", "bob", "a.mp4", &MP4));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| alice.open(&urls[0], "&image_type=3"));
        program.await_starts(1);
        let others: Vec<_> = urls[1..]
            .iter()
            .map(|url| scope.spawn(|| alice.open(url, "&image_type=3")))
            .collect();
        for other in others {
            let answer = other.join().unwrap();
            assert_eq!(envelope(&answer, 503)["code"], 503);
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
        // It used its whole time limit, and no other program ran.
        let message = assert_code(&first.join().unwrap(), 20022);
        assert!(message.contains("longer than 3 s"), "{message}");
    });
    assert_eq!(program.starts(), 1);
    program.await_end();
}

#[test]
fn voices_and_covers_share_queue() {
    let program = Program::held();
    let server = TestServer::with(&program.toml(ONE_RUNS_ONE_WAITS));
    let alice = server.lanying("alice");
    let calls = [
        (alice.send("101", "bob", "a.amr", &AMR), "&format=mp3"),
        (alice.send("103", "bob", "a.mp4", &MP4), "&image_type=3"),
        (alice.send("201", "bob", "a.amr", &AMR), "&format=mp3"),
        (alice.send("203", "bob", "a.mp4", &MP4), "&image_type=2"),
    ];
    let ask = |which: usize| alice.open(&calls[which].0, calls[which].1);
    check(&server, &program, &ask, &|answer| {
        let message = text(&envelope(answer, 503)["message"]);
        assert_eq!(message, "try again in a moment");
    });
}

#[test]
fn full_queue_is_503_in_easemob() {
    let program = Program::held();
    let server = TestServer::with(&program.toml(ONE_RUNS_ONE_WAITS));
    let ids = [0; 4].map(|_| server.store_file("a.mp4", "video/mp4", &MP4));
    let ask = |which: usize| server.download(&ids[which], &[("thumbnail", "true")]);
    check(&server, &program, &ask, &|answer| {
        assert_error(answer, 503, "service_unavailable");
    });
}

/// A half-closed client still expects its response, so a disconnect is noticed only when the response is written
/// (`server/connection.rs`). The run ends by itself or at its time limit, and its result is kept.
#[test]
fn abandoned_run_result_is_kept() {
    let program = Program::held();
    let server = TestServer::with(&program.toml(""));
    let alice = server.lanying("alice");
    let url = alice.send("103", "bob", "a.mp4", &MP4);
    leave_when_started(&server, &program, &url);
    program.release();
    assert_first_frame(&alice.open(&url, "&image_type=3"), "for the next one");
    assert_eq!(program.starts(), 1);
}

#[test]
fn abandoned_hanging_run_is_killed() {
    let program = Program::fake("sleep 1000 & : > child.$!; wait");
    let server = TestServer::with(&program.toml("timeout_seconds = 2"));
    let clock = Clock::system();
    let url = server.lanying("alice").send("103", "bob", "a.mp4", &MP4);
    let begun = clock.monotonic();
    leave_when_started(&server, &program, &url);
    program.await_end();
    let lived = clock.monotonic() - begun;
    assert_eq!(program.pids().len(), 2, "it has forked");
    let bounds = Duration::from_secs(2)..Duration::from_secs(10);
    assert!(bounds.contains(&lived), "{lived:?}");
    assert!(
        server.get(&format!("{BASE}/nothing"), &[]).status > 0,
        "it works again"
    );
}

/// Requests a cover and disconnects when ffmpeg has started.
fn leave_when_started(server: &TestServer, program: &Program, url: &str) {
    let token = server.token("alice");
    let headers = [("access-token", token.as_str()), ("app_id", APP_ID)];
    let path = &url[url.find("/file/").unwrap()..];
    let mut connection = server.connect();
    let request = head("GET", &format!("{path}&image_type=3"), &headers, None);
    connection.send(&request).unwrap();
    program.await_starts(1);
    drop(connection);
}
