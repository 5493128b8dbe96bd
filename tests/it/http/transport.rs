//! Zero copy: what is sent by `sendfile`, that the bytes are the same, and the fallback.

use std::{
    fs,
    io::{self, Read},
    net::Ipv4Addr,
};

use crate::support::{
    BASE, Connection, Random, files_below, head, open_from,
    process::{Process, poll},
    read_answer,
    strace::Strace,
};

/// Around the thresholds of `sendfile`, of a cold chunk, and of a loan.
const SIZES: &[usize] = &[
    1,
    4096,
    (32 << 10) - 1,
    32 << 10,
    (32 << 10) + 1,
    (256 << 10) - 1,
    (256 << 10) + 1,
    (2 << 20) - 1,
    (2 << 20) + 1,
    9 << 20,
];

fn server() -> (tempfile::TempDir, Process) {
    let directory = tempfile::tempdir().unwrap();
    let server = Process::start(
        &directory.path().join("store"),
        &["--durability", "none", "--log-level", "debug"],
    );
    (directory, server)
}

fn get(server: &Process, id: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let bearer = format!("Bearer {}", server.token());
    let mut headers = vec![("Authorization", bearer.as_str())];
    headers.extend(more);
    head("GET", &format!("{BASE}/chatfiles/{id}"), &headers, None)
}

#[test]
fn sizes_and_ranges_match_stored_bytes() {
    let (_directory, server) = server();
    let mut random = Random::new();
    for &size in SIZES {
        let bytes = random.bytes(size);
        let id = server.upload(&bytes);
        // A window of a few kilobytes: the socket fills up again and again, in heads and in files.
        for receive_bytes in [None, Some(4096)] {
            let mut client = open_from(server.address, Ipv4Addr::LOCALHOST, receive_bytes);
            for _ in 0..4 {
                let start = random.below(size);
                let end = start + random.below(size - start);
                let range = format!("bytes={start}-{end}");
                client
                    .send(&get(&server, &id, &[("Range", &range)]))
                    .unwrap();
                let answer = client.answer("GET").unwrap();
                assert_eq!(answer.status, 206, "{size} {range}");
                assert!(answer.body == bytes[start..=end], "{size} {range}");
            }
            client.send(&get(&server, &id, &[])).unwrap();
            let answer = client.answer("GET").unwrap();
            assert!(answer.status == 200 && answer.body == bytes, "{size}");
        }
    }
}

#[test]
fn pipelined_answers_stay_apart() {
    let (_directory, server) = server();
    let mut random = Random::new();
    let files: Vec<_> = (0..4)
        .map(|_| {
            let bytes = random.bytes(700_000);
            (server.upload(&bytes), bytes)
        })
        .collect();
    let mut client = open_from(server.address, Ipv4Addr::LOCALHOST, Some(8192));
    let mut requests = Vec::new();
    for turn in 0..12 {
        requests.extend(get(&server, &files[turn % 4].0, &[]));
    }
    client.send(&requests).unwrap();
    for turn in 0..12 {
        let answer = client.answer("GET").unwrap();
        assert!(answer.body == files[turn % 4].1, "answer {turn}");
    }
    let (id, bytes) = &files[0];
    let ranges = ("Range", "bytes=1-200000,300000-300009,400000-699999");
    client.send(&get(&server, id, &[ranges])).unwrap();
    let answer = client.answer("GET").unwrap();
    assert_eq!(answer.status, 206);
    for part in [1..=200_000, 300_000..=300_009, 400_000..=699_999] {
        let wanted = &bytes[part];
        assert!(
            answer
                .body
                .windows(wanted.len())
                .any(|window| window == wanted),
            "a part is missing or damaged"
        );
    }
}

/// Its head shares the first segment; a small file leaves in one call.
#[test]
fn large_file_uses_sendfile() {
    let (_directory, server) = server();
    let small = server.upload(&[1; 4096]);
    let large = server.upload(&[2; 1 << 20]);
    // Both are open and warm before calls are counted.
    for id in [&small, &large] {
        assert_eq!(server.download(id, &[]).status, 200);
    }
    // Calls for sockets only: no line needs more than its name and result.
    let strace = Strace::attach(&server, "sendfile,sendmsg,writev:delay_enter=1");
    assert_eq!(server.download(&small, &[]).body, [1; 4096]);
    assert_eq!(server.download(&large, &[]).body, [2; 1 << 20]);
    // The client gets the last byte before the call that sent it returns.
    let log = strace.detach_when(|log| sent(log, "sendfile") >= 1 << 20);
    let sent = |call| sent(&log, call);
    assert_eq!(sent("sendfile"), 1 << 20, "{log}");
    let head = log
        .lines()
        .find(|line| line.contains(" sendmsg("))
        .expect("the head of the large one");
    assert!(head.contains("MSG_MORE"), "{head}");
    assert!(sent("sendmsg") < 2048, "the head alone: {log}");
    assert!(
        (4096..8192).contains(&sent("writev")),
        "the small one with its head: {log}"
    );
}

/// The sum of the results of all ended calls of this name. A call may have two lines: unfinished and resumed.
fn sent(log: &str, call: &str) -> u64 {
    let (whole, resumed) = (format!(" {call}("), format!("<... {call} resumed>"));
    log.lines()
        .filter(|line| line.contains(&whole) || line.contains(&resumed))
        .filter_map(|line| {
            line.rsplit_once(" = ")?
                .1
                .split(' ')
                .next()?
                .parse::<u64>()
                .ok()
        })
        .sum::<u64>()
}

#[test]
fn falls_back_without_sendfile() {
    let (_directory, server) = server();
    let bytes = Random::new().bytes(3 << 20);
    let id = server.upload(&bytes);
    for error in ["EINVAL", "ENOSYS"] {
        let strace = Strace::attach(&server, &format!("sendfile:error={error}"));
        let answer = server.download(&id, &[]);
        let log = strace.detach();
        assert!(answer.status == 200 && answer.body == bytes, "{error}");
        assert!(log.contains("INJECTED"), "{error}: {log}");
    }
}

#[test]
fn disk_error_cuts_only_its_answer() {
    let (_directory, server) = server();
    let bytes = Random::new().bytes(5 << 20);
    let id = server.upload(&bytes);
    assert_eq!(server.download(&id, &[]).status, 200);
    let strace = Strace::attach(&server, "sendfile:error=EIO:when=2+");
    let mut client = Connection::open(server.address);
    client.send(&get(&server, &id, &[])).unwrap();
    let mut received = Vec::new();
    // Ends early, by end of stream or reset, but never with other bytes.
    let _ = client.stream().read_to_end(&mut received);
    let log = strace.detach();
    assert!(log.contains("INJECTED"), "{log}");
    let body = received
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("a head")
        + 4;
    assert!(received.len() - body < bytes.len() && bytes.starts_with(&received[body..]));
    let answer = server.download(&id, &[]);
    assert!(
        answer.status == 200 && answer.body == bytes,
        "the server continues"
    );
}

#[test]
fn truncated_file_ends_only_its_answers() {
    let (_directory, server) = server();
    let id = server.upload(&vec![7; 4 << 20]);
    assert_eq!(server.download(&id, &[]).status, 200);
    let objects = server.store.join("objects");
    let path = files_below(&objects)
        .into_iter()
        .find(|path| path.to_string_lossy().contains(&id))
        .expect("the object");
    fs::OpenOptions::new()
        .write(true)
        .open(objects.join(path))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let mut client = Connection::open(server.address);
    client.send(&get(&server, &id, &[])).unwrap();
    let mut received = Vec::new();
    let _ = client.stream().read_to_end(&mut received);
    assert!(received.len() < 2 << 20, "{} bytes", received.len());
    assert_eq!(
        server.download(&server.upload(b"another"), &[]).body,
        b"another"
    );
}

#[test]
fn file_is_released_after_answer() {
    let (_directory, server) = server();
    let id = server.upload(&vec![7; 9 << 20]);
    // Removed while it is being sent: the response completes, and then the file is released.
    let mut client = open_from(server.address, Ipv4Addr::LOCALHOST, Some(4096));
    client.send(&get(&server, &id, &[])).unwrap();
    let mut start = [0; 1024];
    client.stream().read_exact(&mut start).unwrap();
    let mut gone = open_from(server.address, Ipv4Addr::LOCALHOST, Some(4096));
    gone.send(&get(&server, &id, &[])).unwrap();
    gone.stream().read_exact(&mut start).unwrap();
    assert!(server.command(&["rm", &id]).status.success());
    drop(gone);
    let mut rest = io::BufReader::new(io::Cursor::new(start).chain(client.stream()));
    let answer = read_answer(&mut rest, "GET").unwrap();
    assert!(answer.body.len() == 9 << 20 && answer.body.iter().all(|byte| *byte == 7));
    poll("the file to be closed and unmapped", || {
        let maps = fs::read_to_string(format!("/proc/{}/maps", server.pid())).unwrap();
        let files = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
        let open = files.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        !maps.contains(&id)
            && !open
                .into_iter()
                .any(|path| path.to_string_lossy().contains(&id))
    });
}
