//! A tenant or client with many requests does not block others.

use std::net::Ipv4Addr;

use super::{BASE, BUSY, OTHER, WAITING, ask, ask_for, level, server, store};
use crate::support::{
    media::{AMR, MP4, Program},
    photo, poll, scans,
};

const QUEUE: u64 = 12;
const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const GREEDY_TOO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const MODEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);

/// Some addresses request expensive thumbnails until the queue is full; then another one requests the thumbnail of a
/// photo. It is served before them.
#[track_caller]
fn check(greedy: &[Ipv4Addr], modest: (&str, Ipv4Addr)) {
    let server = server(&format!("[thumbnails]\nthreads = 1\nqueue_max = {QUEUE}"));
    let dear = scans::progressive(2000, 2000, scans::HALVED, 16);
    let pictures: Vec<_> = (0..QUEUE + 1)
        .map(|_| store(&server, BASE, &dear))
        .collect();
    let photo = store(&server, modest.0, &photo());
    let mut asked = Vec::new();
    for (picture, from) in pictures.iter().zip(greedy.iter().cycle()) {
        asked.push(ask(&server, *from, picture));
    }
    poll("the queue is full", || {
        level(&server, WAITING, "picture") == QUEUE
    });
    let answer = ask(&server, modest.1, &photo).join().unwrap();
    let waiting = level(&server, WAITING, "picture");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(waiting > 0, "it was served last");
    for answer in asked {
        // One of them may have lost its place, and others wait too long in a debug build.
        let answer = answer.join().unwrap();
        assert!(matches!(answer.status, 200 | 503), "{}", answer.text());
    }
}

#[test]
fn another_tenant_passes_full_queue() {
    check(&[GREEDY], (OTHER, MODEST));
}

#[test]
fn another_tenant_passes_greedy_clients() {
    check(&[GREEDY, GREEDY_TOO], (OTHER, MODEST));
}

#[test]
fn another_client_passes_full_queue() {
    check(&[GREEDY], (BASE, MODEST));
}

/// One ffmpeg runs and two requests wait; then another tenant makes a request and takes the place of the last one.
#[track_caller]
fn check_ffmpeg(mine: &[u8], wanted: (&str, &str)) {
    let program = Program::held();
    let server = server(&program.toml("processes_max = 1\nqueue_max = 2\ntimeout_seconds = 60"));
    let paths: Vec<_> = (0..3).map(|_| store(&server, BASE, &MP4)).collect();
    let mut asked = vec![ask(&server, GREEDY, &paths[0])];
    program.await_starts(1);
    asked.extend(paths[1..].iter().map(|path| ask(&server, GREEDY, path)));
    poll("the queue is full", || {
        level(&server, WAITING, "ffmpeg") == 2
    });
    let path = store(&server, OTHER, mine);
    let modest = ask_for(&server, MODEST, &path, wanted);
    poll("one of the others lost its place in the queue", || {
        asked.iter().any(|handle| handle.is_finished())
    });
    assert_eq!(level(&server, BUSY, "ffmpeg"), 1);
    program.release();
    let answer = modest.join().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let statuses = asked
        .into_iter()
        .map(|handle| handle.join().unwrap().status);
    let mut statuses: Vec<_> = statuses.collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503]);
    program.await_end();
}

#[test]
fn another_tenants_cover_passes_queue() {
    check_ffmpeg(&MP4, ("thumbnail", "true"));
}

#[test]
fn another_tenants_voice_passes_queue() {
    check_ffmpeg(&AMR, ("Accept", "audio/mp3"));
}
