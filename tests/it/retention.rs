//! Retention: files expire to the millisecond at every read, and the sweep frees their space a day later.

use std::path::Path;

use chatfiles::{
    auth::Subject,
    retention::{
        Refusal, Report,
        SweepMode::{self, Remove, RemoveConfirmed},
    },
    store::{ObjectId, Volume},
    time::{Day, MS_PER_DAY, MS_PER_SECOND, Timestamp},
};

use crate::support::{
    self, Answer, BASE, Form, TestServer, assert_error, configuration, head, last_sweep, open_from,
    photo, poll,
};

const ONE_DAY: &str = "[retention]\nchatfile_days = 1\n";
const FOREVER: &str = "[retention]\nchatfile_days = 0\n";

fn created(id: &str) -> Timestamp {
    ObjectId::parse(id).expect("an id").created()
}

/// Sets the server's clock.
fn set_clock(server: &TestServer, to_ms: i64) {
    server.clock.advance(to_ms - server.clock.now().ms());
}

#[track_caller]
fn assert_expired(answer: &Answer, id: &str) {
    let error = assert_error(answer, 404, "file_expired");
    assert_eq!(error["error_description"], format!("file {id} is expired"));
}

/// Runs a sweep of the server's store, as the command line does.
fn sweep(server: &TestServer, toml: &str, mode: SweepMode) -> Report {
    let policy = configuration(Path::new("unused"), toml).retention();
    support::sweep(&server.store, &policy, server.clock.now(), mode)
}

/// The stored object of an id, with its size on the disk.
fn volume_of(server: &TestServer, id: &str) -> Volume {
    let files = server.files_in("objects");
    let file = files
        .iter()
        .find(|file| file.to_string_lossy().contains(id));
    let file = server.store.join("objects").join(file.expect("stored"));
    let mut volume = Volume::default();
    volume.add(file.metadata().unwrap().len());
    volume
}

/// Waits until the server's first sweep has ended.
fn await_first_sweep(server: &TestServer) {
    poll("the first sweep", || last_sweep(&server.store).is_some());
}

/// Advances day by day until `to_ms` and sweeps each day. No sweep may remove anything.
#[track_caller]
fn pass_days(server: &TestServer, toml: &str, to_ms: i64) {
    while server.clock.now().ms() + MS_PER_DAY < to_ms {
        server.clock.advance(MS_PER_DAY);
        let report = sweep(server, toml, Remove);
        assert!(report.is_empty() && report.refused.is_none(), "{report:?}");
    }
    set_clock(server, to_ms);
}

/// When the sweep removes the files of `day` with a retention of `days`.
fn swept_ms(day: Day, days: i64) -> i64 {
    day.end().ms() + (days + 2) * MS_PER_DAY
}

#[test]
fn cached_file_expires_to_the_millisecond() {
    let server = TestServer::with(ONE_DAY);
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let end_ms = created(&id).ms() + MS_PER_DAY;
    assert_eq!(server.download(&id, &[("thumbnail", "true")]).status, 200);
    let authorization = format!("Bearer {}", server.token("alice"));
    set_clock(&server, end_ms - 50);
    let authorization = [("Authorization", authorization.as_str())];
    let mut connection = server.connect();
    let path = format!("{BASE}/chatfiles/{id}");
    let mut asked_before_the_end = 0;
    loop {
        let before_ms = server.clock.now().ms();
        let answer = connection.request("GET", &path, &authorization, b"");
        let after_ms = server.clock.now().ms();
        if after_ms < end_ms {
            assert_eq!(
                answer.status,
                200,
                "{} ms before the end",
                end_ms - after_ms
            );
            asked_before_the_end += 1;
        } else if before_ms >= end_ms {
            assert_expired(&answer, &id);
            break;
        }
    }
    assert!(
        asked_before_the_end > 0,
        "the machine is too slow for this test"
    );
    for headers in [
        ("thumbnail", "true"),
        ("Range", "bytes=0-1"),
        ("If-None-Match", "*"),
    ] {
        assert_expired(&server.download(&id, &[headers]), &id);
    }
    let answer = server.request("HEAD", &path, &authorization, b"");
    assert_eq!((answer.status, answer.header("etag")), (404, None));
    // Clients without rights do not learn this.
    assert_error(&server.get(&path, &[]), 401, "unauthorized");
}

#[test]
fn max_age_ends_with_file() {
    let server = TestServer::with(ONE_DAY);
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let end_ms = created(&id).ms() + MS_PER_DAY;
    for left_secs in [86_000, 3600, 20] {
        set_clock(&server, end_ms - left_secs * MS_PER_SECOND);
        for thumbnail in ["true", "false"] {
            let answer = server.download(&id, &[("thumbnail", thumbnail)]);
            let rule = answer.header("cache-control").unwrap().to_owned();
            let age = rule
                .split("max-age=")
                .nth(1)
                .unwrap()
                .split(',')
                .next()
                .unwrap();
            let age: i64 = age.trim().parse().unwrap();
            assert!(
                (left_secs - 20..=left_secs).contains(&age),
                "{rule}: {left_secs} s are left"
            );
        }
    }
}

#[test]
fn files_never_expire_by_default() {
    let server = TestServer::with(FOREVER);
    let id = server.store_file("a.txt", "text/plain", b"hello");
    await_first_sweep(&server);
    server.clock.advance(100 * 365 * MS_PER_DAY);
    assert_eq!(server.download(&id, &[]).body, b"hello");
    let report = sweep(&server, FOREVER, RemoveConfirmed);
    assert!(report.is_empty(), "{report:?}");
    assert_eq!(server.download(&id, &[]).body, b"hello");
}

#[test]
fn old_unknown_id_answers_expired() {
    let server = TestServer::with(ONE_DAY);
    let now = server.clock.now().ms();
    for (age_ms, error) in [
        (MS_PER_DAY + 1, "file_expired"),
        (1000 * MS_PER_DAY, "file_expired"),
        (MS_PER_DAY - 60 * MS_PER_SECOND, "entity_not_found"),
        (0, "entity_not_found"),
        (-MS_PER_DAY, "entity_not_found"),
    ] {
        let id = ObjectId::new(Timestamp::from_ms(now - age_ms), &[7; 10]).to_string();
        assert_error(&server.download(&id, &[]), 404, error);
    }
}

#[test]
fn day_is_removed_two_days_later() {
    let server = TestServer::with(ONE_DAY);
    await_first_sweep(&server);
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    assert_eq!(server.download(&id, &[("thumbnail", "true")]).status, 200);
    let day = created(&id).day();
    assert_eq!(
        (
            server.files_in("objects").len(),
            server.files_in("derived").len()
        ),
        (1, 1)
    );
    pass_days(&server, ONE_DAY, swept_ms(day, 1) - 20 * MS_PER_SECOND);
    let younger = server.store_file("b.txt", "text/plain", b"hello");
    assert_eq!(sweep(&server, ONE_DAY, Remove), Report::default());
    assert_expired(&server.download(&id, &[]), &id);
    set_clock(&server, swept_ms(day, 1));
    // First, a dry run.
    let days = vec![format!("chatfile/{day}")];
    let volume = volume_of(&server, &id);
    for mode in [SweepMode::Report, Remove] {
        assert_eq!(server.files_in("objects").len(), 2);
        let report = sweep(&server, ONE_DAY, mode);
        assert_eq!(
            report,
            Report {
                days: days.clone(),
                volume,
                ..Report::default()
            }
        );
    }
    assert_eq!(server.files_in("objects").len(), 1);
    assert!(server.files_in("derived").is_empty());
    for tree in ["objects", "derived"] {
        assert!(
            !server
                .store
                .join(tree)
                .join("chatfile")
                .join(day.to_string())
                .exists()
        );
    }
    assert_expired(&server.download(&id, &[]), &id);
    assert_eq!(server.download(&younger, &[]).body, b"hello");
    let newest = server.store_file("c.txt", "text/plain", b"new");
    assert_eq!(server.download(&newest, &[]).body, b"new");
}

#[test]
fn running_download_outlives_sweep() {
    let server = TestServer::with(ONE_DAY);
    await_first_sweep(&server);
    let bytes: Vec<u8> = (0..10 << 20).map(|at: u32| (at / 3) as u8).collect();
    let id = server.store_file("large.bin", "application/octet-stream", &bytes);
    let mut connection = open_from(server.address, [127, 0, 0, 1].into(), Some(16 << 10));
    let authorization = format!("Bearer {}", server.token("alice"));
    let headers = [("Authorization", authorization.as_str())];
    let path = format!("{BASE}/chatfiles/{id}");
    connection
        .send(&head("GET", &path, &headers, None))
        .unwrap();
    // The response has started.
    connection.stream().peek(&mut [0]).unwrap();
    let day = created(&id).day();
    pass_days(&server, ONE_DAY, swept_ms(day, 1));
    assert_eq!(sweep(&server, ONE_DAY, Remove).days.len(), 1);
    assert!(server.files_in("objects").is_empty());
    let answer = connection.answer("GET").unwrap();
    assert!(answer.status == 200 && answer.body == bytes);
    assert_expired(&server.download(&id, &[]), &id);
}

const MIXED: &str = "
    [retention]
    chatfile_days = 4
    [[tenant]]
    org = \"short\"
    app = \"app\"
    chatfile_days = 1
    [[tenant]]
    org = \"default\"
    app = \"app\"
    [[tenant]]
    org = \"ever\"
    app = \"app\"
    chatfile_days = 0
    ";

#[test]
fn apps_share_day_but_not_retention() {
    let server = TestServer::with(MIXED);
    await_first_sweep(&server);
    let authorization = |org: &str| {
        let token = server.token_of(org, "app", Subject::User("alice".into()));
        format!("Bearer {token}")
    };
    let form = Form::new().file("a.txt", "text/plain", b"hello");
    let stored = ["short", "default", "ever"].map(|org| {
        let authorization = authorization(org);
        let answer = form.upload(
            server.address,
            &format!("/{org}/app/chatfiles"),
            &authorization,
        );
        (
            org,
            answer.json()["entities"][0]["uuid"]
                .as_str()
                .unwrap()
                .to_owned(),
        )
    });
    let check = |living: &[&str]| {
        for (org, id) in &stored {
            let path = format!("/{org}/app/chatfiles/{id}");
            let answer = server.get(&path, &[("Authorization", &authorization(org))]);
            if living.contains(org) {
                assert_eq!(answer.body, b"hello", "{org}");
            } else {
                assert_expired(&answer, id);
            }
        }
    };
    check(&["short", "default", "ever"]);
    let day = created(&stored[0].1).day();
    pass_days(&server, MIXED, swept_ms(day, 1));
    check(&["default", "ever"]);
    let [short, default, _] = stored.each_ref().map(|(_, id)| Report {
        objects: 1,
        volume: volume_of(&server, id),
        ..Report::default()
    });
    assert_eq!(sweep(&server, MIXED, Remove), short);
    assert_eq!(server.files_in("objects").len(), 2);
    check(&["default", "ever"]);
    pass_days(&server, MIXED, swept_ms(day, 4));
    check(&["ever"]);
    assert_eq!(sweep(&server, MIXED, Remove), default);
    assert_eq!(server.files_in("objects").len(), 1);
    check(&["ever"]);
}

#[test]
fn jumped_clock_removes_nothing() {
    let server = TestServer::with(ONE_DAY);
    await_first_sweep(&server);
    let id = server.store_file("a.txt", "text/plain", b"hello");
    let day = format!("chatfile/{}", created(&id).day());
    // After the clock is corrected, sweeps work again.
    for jump in [100 * MS_PER_DAY, -100 * MS_PER_DAY] {
        server.clock.advance(jump);
        for _ in 0..2 {
            let report = sweep(&server, ONE_DAY, Remove);
            let Some(Refusal::Jump(seen)) = report.refused else {
                panic!("expected a refusal that names the jump: {report:?}");
            };
            assert!(
                seen.abs_diff(jump) < 3600 * MS_PER_SECOND.unsigned_abs(),
                "{seen} {jump}"
            );
            assert_eq!(report.days.contains(&day), jump > 0, "{report:?}");
        }
        server.clock.advance(-jump);
        assert_eq!(
            server.download(&id, &[]).body,
            b"hello",
            "after a jump of {jump}"
        );
        assert_eq!(sweep(&server, ONE_DAY, Remove), Report::default());
    }
    server.clock.advance(100 * MS_PER_DAY);
    assert_expired(&server.download(&id, &[]), &id);
    assert_eq!(server.files_in("objects").len(), 1);
    let report = sweep(&server, ONE_DAY, SweepMode::Report);
    // A dry run refuses as a sweep does.
    assert!(matches!(report.refused, Some(Refusal::Jump(_))));
    assert_eq!(server.files_in("objects").len(), 1);
    let report = sweep(&server, ONE_DAY, RemoveConfirmed);
    assert_eq!((report.days, report.refused), (vec![day], None));
    assert!(server.files_in("objects").is_empty());
    // From now on, the new time is trusted.
    server.clock.advance(MS_PER_DAY);
    assert_eq!(sweep(&server, ONE_DAY, Remove), Report::default());
}

#[test]
fn server_sweeps_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = TestServer::in_directory(directory.path(), ONE_DAY);
    await_first_sweep(&server);
    server.clock.advance(-5 * MS_PER_DAY);
    let old = server.store_file("a.txt", "text/plain", b"old");
    server.clock.advance(5 * MS_PER_DAY);
    let new = server.store_file("b.txt", "text/plain", b"new");
    server.stop();
    let server = TestServer::in_directory(directory.path(), ONE_DAY);
    poll("the old file is removed", || {
        server.files_in("objects").len() == 1
    });
    assert_expired(&server.download(&old, &[]), &old);
    assert_eq!(server.download(&new, &[]).body, b"new");
}
