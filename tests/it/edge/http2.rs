//! HTTP/2 without TLS, as a proxy sends it: real clients, and the distinction from HTTP/1.

use std::{io::Write, process::Command};

use super::{
    curl,
    frames::{
        ACK, Client, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, SETTINGS, get,
    },
};
use crate::support::{BASE, Connection, Random, TestServer, poll};

const PRIOR: &str = "--http2-prior-knowledge";

#[test]
fn curl_works_over_http2() {
    let server = TestServer::start();
    let token = format!("Authorization: Bearer {}", server.token("alice"));
    let url = format!("http://{}{BASE}/chatfiles", server.address);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    let file = format!("file=@{}", path.display());
    let code = [
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code} %{http_version}",
    ];
    let run = |more: &[&str]| {
        let args = [&[PRIOR, "--header", token.as_str()], more].concat();
        curl(&args)
    };
    // At the limit, and one byte more.
    for (len, status) in [(1, "200 2"), (10 << 20, "200 2"), ((10 << 20) + 1, "413 2")] {
        std::fs::write(&path, Random::from_seed(7).bytes(len)).unwrap();
        let said = run(&[&code[..], &["--form", &file, &url]].concat());
        assert_eq!(String::from_utf8_lossy(&said), status, "{len} bytes");
    }
    let bytes = Random::new().bytes(3 << 20);
    let id = server.store_file("a.bin", "application/octet-stream", &bytes);
    let object = format!("{url}/{id}");
    assert!(run(&[&object]) == bytes);
    assert!(run(&["--range", "5-9,100000-200000", &object]).len() > 100_000);
    assert!(run(&["--range", "-5", &object]) == bytes[bytes.len() - 5..]);
    assert!(run(&["--head", &object]).starts_with(b"HTTP/2 200"));
    let wrong = [PRIOR, "--header", "Authorization: Bearer x"];
    let said = curl(&[&wrong[..], &code, &[&object]].concat());
    assert_eq!(String::from_utf8_lossy(&said), "401 2");
}

#[test]
fn hundred_concurrent_requests_succeed() {
    let server = TestServer::start();
    let id = server.store_file("a.bin", "application/octet-stream", &[7; 100_000]);
    let output = Command::new("h2load")
        .args(["-n", "2000", "-c", "4", "-m", "100", "--header"])
        .arg(format!("Authorization: Bearer {}", server.token("alice")))
        .arg(format!("http://{}{BASE}/chatfiles/{id}", server.address))
        .output()
        .expect("h2load (of nghttp2-client) is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"),
        "{said}"
    );
    assert!(said.contains("status codes: 2000 2xx"), "{said}");
}

#[test]
fn detects_preface_byte_by_byte() {
    let server = TestServer::start();
    // A method that starts with the same letter.
    let mut http1 = server.connect();
    for byte in b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" {
        http1.send(&[*byte]).unwrap();
    }
    assert_eq!(http1.answer("POST").unwrap().status, 405);
    let mut client = Client(std::net::TcpStream::connect(server.address).unwrap());
    client.0.set_nodelay(true).unwrap();
    for byte in PREFACE {
        client.0.write_all(&[*byte]).unwrap();
    }
    client.send(SETTINGS, 0, 0, &[]).unwrap();
    client
        .send(HEADERS, END_STREAM | END_HEADERS, 1, &get("/healthz", &[]))
        .unwrap();
    // Status 200 from the static table of HPACK.
    let head = client.until(|frame| frame.kind == HEADERS);
    assert_eq!(head.payload[0], 0x88);
    // `PRI` is also a valid method of HTTP/1.
    let mut neither = server.connect();
    neither
        .send(b"PRI / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    assert!(neither.rest().starts_with(b"HTTP/1.1 404"));
}

#[test]
fn stop_finishes_answer_and_tells_client() {
    let mut server = TestServer::start();
    let bytes = Random::new().bytes(1 << 20);
    let id = server.store_file("a.bin", "application/octet-stream", &bytes);
    let token = format!("Bearer {}", server.token("alice"));
    // A small window: the response waits for the client.
    let mut client = Client::with_settings(server.address, &[(4, 1000)]);
    let path = format!("{BASE}/chatfiles/{id}");
    let request = get(&path, &[("authorization", &token)]);
    client
        .send(HEADERS, END_STREAM | END_HEADERS, 1, &request)
        .unwrap();
    let mut received = client.until(|frame| frame.kind == DATA).payload;
    server.shutdown().trigger();
    client.until(|frame| frame.kind == GOAWAY);
    let more = (2u32 << 20).to_be_bytes();
    client
        .send(super::frames::WINDOW_UPDATE, 0, 0, &more)
        .unwrap();
    client
        .send(super::frames::WINDOW_UPDATE, 0, 1, &more)
        .unwrap();
    loop {
        let frame = client.frame().expect("the rest of the answer");
        match frame.kind {
            DATA => {
                received.extend(&frame.payload);
                if frame.flags & END_STREAM != 0 {
                    break;
                }
            }
            PING if frame.flags & ACK == 0 => client.send(PING, ACK, 0, &frame.payload).unwrap(),
            _ => {}
        }
    }
    assert!(received == bytes);
    assert!(client.end().is_none_or(|code| code == 0));
    server.stop();
}

#[test]
fn idle_connection_is_told_and_closed() {
    let server =
        TestServer::with("[server]\nidle_timeout_seconds = 1\nheader_timeout_seconds = 1\n");
    let mut client = Client::open(server.address);
    // The client did not react to GOAWAY.
    assert_eq!(client.end(), Some(0));
    poll("the connection to be closed", || {
        client.send(PING, 0, 0, &[0; 8]).is_err()
    });
}
