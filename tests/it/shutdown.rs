//! Graceful shutdown: running requests may finish, no new ones start, and the grace period is limited.

use std::{
    io::Read,
    net::{Ipv4Addr, TcpStream},
    path::Path,
    time::Duration,
};

use chatfiles::time::Clock;

use crate::support::{BASE, Connection, Form, TestServer, files_below, head, open_from, poll};

/// More than the sockets of both sides hold, whatever the system provides.
const LARGE_BYTES: usize = 10 << 20;

fn large() -> Vec<u8> {
    (0..LARGE_BYTES)
        .map(|at| (at * 7 + at / 997) as u8)
        .collect()
}

/// Stores a large file and starts to download it as a client that hardly reads.
fn slow_download(server: &TestServer) -> Connection {
    let id = server.store_file("large.bin", "application/octet-stream", &large());
    let mut connection = open_from(server.address, Ipv4Addr::LOCALHOST, Some(16 << 10));
    begin_download(server, &id, &mut connection);
    connection
}

fn begin_download(server: &TestServer, id: &str, connection: &mut Connection) {
    let authorization = format!("Bearer {}", server.token("alice"));
    let headers = [("Authorization", authorization.as_str())];
    connection
        .send(&head(
            "GET",
            &format!("{BASE}/chatfiles/{id}"),
            &headers,
            None,
        ))
        .unwrap();
    // The response has started.
    let mut first = [0; 15];
    connection.stream().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
}

/// Starts an upload of `form` and sends half of it once the server reads.
fn half_an_upload(server: &TestServer, form: &[u8], content_type: &str) -> Connection {
    let authorization = format!("Bearer {}", server.token("alice"));
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", content_type),
        ("Expect", "100-continue"),
    ];
    let mut connection = server.connect();
    let path = format!("{BASE}/chatfiles");
    connection
        .send(&head("POST", &path, &headers, Some(form.len())))
        .unwrap();
    let mut go_on = [0; 25];
    connection.stream().read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection.send(&form[..form.len() / 2]).unwrap();
    connection
}

fn await_closed_door(server: &TestServer) {
    poll("new connections are refused", || {
        TcpStream::connect(server.address).is_err()
    });
}

fn await_end(server: &TestServer) {
    poll("the server ends", || server.has_ended());
}

/// Bytes of unfinished uploads.
fn unfinished_bytes(store: &Path) -> u64 {
    let tmp = store.join("tmp");
    let len = |name| std::fs::metadata(tmp.join(name)).unwrap().len();
    files_below(&tmp).into_iter().map(len).sum()
}

#[test]
fn running_download_finishes() {
    let server = TestServer::start();
    let mut connection = slow_download(&server);
    server.shutdown().trigger();
    await_closed_door(&server);
    assert!(!server.has_ended(), "the download is waited for");
    let rest = connection.rest();
    let body = rest
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap()
        + 4;
    assert!(rest[body..] == large(), "{} bytes", rest.len() - body);
    await_end(&server);
}

/// The file is there after a restart.
#[test]
fn running_upload_finishes() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::in_directory(directory.path(), "");
    let form = Form::new().file("a.bin", "application/octet-stream", &large()[..1 << 20]);
    let bytes = form.bytes();
    let mut connection = half_an_upload(&server, &bytes, &form.content_type());
    server.shutdown().trigger();
    await_closed_door(&server);
    connection.send(&bytes[bytes.len() / 2..]).unwrap();
    let answer = connection.answer("POST").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(connection.rest().is_empty());
    await_end(&server);
    drop(server);
    let server = TestServer::in_directory(directory.path(), "");
    let json = answer.json();
    let id = json["entities"][0]["uuid"].as_str().unwrap();
    assert!(server.download(id, &[]).body == large()[..1 << 20]);
}

#[test]
fn idle_connections_close_at_once() {
    let server = TestServer::start();
    let mut used = server.connect();
    assert_eq!(used.request("GET", "/healthz", &[], b"").status, 200);
    let mut silent = server.connect();
    // Connections are accepted in order: once this one is answered, the silent one is known too.
    let mut last = server.connect();
    assert_eq!(last.request("GET", "/healthz", &[], b"").status, 200);
    server.shutdown().trigger();
    for connection in [&mut used, &mut silent, &mut last] {
        assert!(connection.rest().is_empty(), "closed without a response");
    }
    await_end(&server);
}

#[test]
fn connection_takes_no_further_request() {
    let server = TestServer::start();
    let mut connection = slow_download(&server);
    server.shutdown().trigger();
    await_closed_door(&server);
    connection
        .send(&head("GET", "/healthz", &[], None))
        .unwrap();
    // The later request gets no answer, and the running response is complete. A socket closed with unread bytes would
    // be reset, which loses the end of the response.
    let rest = connection.rest();
    let head_end = rest.windows(4).position(|window| window == b"\r\n\r\n");
    let body = &rest[head_end.expect("a head") + 4..];
    assert!(*body == large(), "{} bytes", body.len());
    await_end(&server);
}

/// Whatever the client sends after its request.
#[test]
fn last_answer_arrives_whole() {
    let server = TestServer::start();
    let id = server.store_file("large.bin", "application/octet-stream", &large());
    let mut connection = open_from(server.address, Ipv4Addr::LOCALHOST, Some(16 << 10));
    assert_eq!(connection.request("GET", "/healthz", &[], b"").status, 200);
    server.shutdown().retire();
    await_closed_door(&server);
    begin_download(&server, &id, &mut connection);
    connection
        .send(&head("GET", "/healthz", &[], None))
        .unwrap();
    let rest = connection.rest();
    assert!(rest.ends_with(&large()), "{} bytes", rest.len());
    server.shutdown().trigger();
    await_end(&server);
}

#[test]
fn abort_ends_grace_period() {
    let server = TestServer::start();
    let mut download = slow_download(&server);
    let form = Form::new().file("a.bin", "application/octet-stream", &large()[..1 << 20]);
    let _upload = half_an_upload(&server, &form.bytes(), &form.content_type());
    server.shutdown().trigger();
    await_closed_door(&server);
    assert!(!server.has_ended(), "both are waited for");
    let clock = Clock::system();
    let aborted = clock.monotonic();
    server.shutdown().abort();
    await_end(&server);
    let took = clock.monotonic() - aborted;
    assert!(
        took < Duration::from_secs(10),
        "the grace is 30 s, this took {took:?}"
    );
    assert!(
        download.rest().len() < LARGE_BYTES,
        "cut off before its end"
    );
    assert_eq!(
        server.files_in("objects").len(),
        1,
        "the file of the download"
    );
    assert_eq!(
        unfinished_bytes(&server.store),
        0,
        "half an upload leaves nothing"
    );
}

#[test]
fn grace_period_ends_by_itself() {
    let server = TestServer::with("[server]\nshutdown_grace_seconds = 1");
    let mut connection = slow_download(&server);
    let clock = Clock::system();
    let triggered = clock.monotonic();
    server.shutdown().trigger();
    await_end(&server);
    let took = clock.monotonic() - triggered;
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(connection.rest().len() < LARGE_BYTES);
}
