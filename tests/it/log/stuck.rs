//! Nobody reads the log: requests go on being answered, and what has no room is counted.

use std::io::{self, Read};

use super::operator;
use crate::support::{Connection, Exposition, command::Served, eventually};

/// A pipe holds 64 KiB, and the server two mebibytes at the most; each request here makes a line of half a kilobyte and more.
const REQUESTS_MAX: usize = 20_000;

fn dropped(server: &Served) -> u64 {
    let answer = Connection::open(operator(server)).request("GET", "/metrics", &[], b"");
    let text = String::from_utf8(answer.body).unwrap();
    let scrape = Exposition::parse(&text).unwrap();
    scrape.get("chatfiles_log_lines_dropped_total", &[])
}

#[test]
fn a_log_that_nobody_reads_holds_up_no_request_and_not_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let (mut reader, writer) = io::pipe().unwrap();
    let flags = [
        "--operator-listen",
        "127.0.0.1:0",
        "--log-access-sample",
        "1",
        "--calls-per-second",
        "0",
    ];
    let store = directory.path().join("data");
    let mut server = Served::start_to(&store, writer.into(), &flags).unwrap();
    let path = format!("/{}", "a".repeat(511));
    let mut connection = Connection::open(server.address);
    let mut call = || assert_eq!(connection.request("GET", &path, &[], b"").status, 404);
    assert_eq!(dropped(&server), 0);
    let mut requests = 0;
    while dropped(&server) == 0 {
        assert!(requests < REQUESTS_MAX, "no line is dropped");
        (0..200).for_each(|_| call());
        requests += 200;
    }
    (0..200).for_each(|_| call());
    let before = dropped(&server);
    assert!(before > 200, "{before}");

    // Somebody reads again: nothing more is dropped, and what waited comes in whole lines.
    let mut read = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while read.len() < 1 << 20 {
        let bytes = reader.read(&mut buffer).unwrap();
        read.extend_from_slice(&buffer[..bytes]);
    }
    let text = String::from_utf8(read).unwrap();
    let whole = &text[..text.rfind('\n').unwrap()];
    for line in whole.lines() {
        let is_whole =
            line.starts_with("20") && (line.contains(" INFO ") || line.contains(" WARN "));
        assert!(is_whole, "{line}");
    }
    call();
    assert_eq!(dropped(&server), before);

    // And nobody once more: the end does not wait for the log for ever.
    while dropped(&server) == before {
        (0..200).for_each(|_| call());
    }
    server.signal("TERM");
    assert!(server.wait().success());
}

#[test]
fn a_log_whose_reader_is_gone_is_counted_and_harms_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (reader, writer) = io::pipe().unwrap();
    let flags = [
        "--operator-listen",
        "127.0.0.1:0",
        "--log-access-sample",
        "1",
    ];
    let store = directory.path().join("data");
    let mut server = Served::start_to(&store, writer.into(), &flags).unwrap();
    drop(reader);
    let answer = Connection::open(server.address).request("GET", "/healthz", &[], b"");
    assert_eq!(answer.status, 200);
    eventually("its line is counted", || dropped(&server) > 0);
    server.signal("TERM");
    assert!(server.wait().success());
}
