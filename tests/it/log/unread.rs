//! A log that is not read: requests are still answered, and dropped lines are counted.

use std::io::{self, Read};

use crate::support::{
    Connection, Exposition, poll,
    process::{Launch, Process},
};

/// A pipe holds 64 KiB and the server at most 2 MiB; each request here logs a line of at least half a kilobyte.
const REQUESTS_MAX: usize = 20_000;

const FLAGS: [&str; 4] = [
    "--operator-listen",
    "127.0.0.1:0",
    "--log-access-sample",
    "1",
];

fn dropped(server: &Process) -> u64 {
    let text = String::from_utf8(server.ask_operator("/metrics").body).unwrap();
    let scrape = Exposition::parse(&text).unwrap();
    scrape.get("chatfiles_log_lines_dropped_total", &[])
}

#[test]
fn full_log_pipe_blocks_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (mut reader, writer) = io::pipe().unwrap();
    let store = directory.path().join("data");
    let mut server = Launch::new(&store).flags(&FLAGS).log_to(writer).start();
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

    // The log is read again: nothing more is dropped, and the waiting lines are complete.
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

    // Not read again: the server does not wait forever for the log when it stops.
    while dropped(&server) == before {
        (0..200).for_each(|_| call());
    }
    server.stop();
}

#[test]
fn closed_log_pipe_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (reader, writer) = io::pipe().unwrap();
    let store = directory.path().join("data");
    let mut server = Launch::new(&store).flags(&FLAGS).log_to(writer).start();
    drop(reader);
    let answer = Connection::open(server.address).request("GET", "/healthz", &[], b"");
    assert_eq!(answer.status, 200);
    poll("its line is counted", || dropped(&server) > 0);
    server.stop();
}
