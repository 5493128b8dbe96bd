//! A Unix socket as a listener for a proxy on the same machine.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use super::curl;
use crate::support::{BASE, Random, TestServer};

#[test]
fn unix_socket_proxy_names_client() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http");
    let toml = format!(
        "[server]\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]\n\
         [limits]\ncalls_per_second = 1\ncalls_burst = 2\n",
        path.display()
    );
    let server = TestServer::with(&toml);
    let socket = path.to_str().unwrap();
    let token = format!("Authorization: Bearer {}", server.token("alice"));
    let status = |client: &str| {
        let from = format!("X-Forwarded-For: {client}");
        let url = format!("http://localhost{BASE}/chatfiles/00000000-0000-7000-8000-000000000000");
        let args = [
            "--unix-socket",
            socket,
            "--header",
            &token,
            "--header",
            &from,
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
            &url,
        ];
        String::from_utf8(curl(&args)).unwrap()
    };
    // Each client has its own rate: the socket is not one client.
    assert_eq!([status("192.0.2.1"), status("192.0.2.1")], ["404", "404"]);
    assert_eq!(status("192.0.2.1"), "503");
    assert_eq!(status("192.0.2.2"), "404");
}

#[test]
fn proxy_header_overrides_forwarded_header() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http");
    let toml = format!(
        "[server]\nlisten = [\"127.0.0.1:0\", \"proxy:unix:{}\"]\n\
         [limits]\ncalls_per_second = 1\ncalls_burst = 2\n",
        path.display()
    );
    let _server = TestServer::with(&toml);
    let status = |source: &str, claimed: &str| {
        let mut stream = UnixStream::connect(&path).unwrap();
        let request = format!(
            "PROXY TCP4 {source} 10.0.0.1 12345 80\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\
             X-Forwarded-For: {claimed}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer[9..12].to_owned()
    };
    // The forwarded header changes each time, but it is one client.
    let calls =
        ["198.51.100.1", "198.51.100.2", "198.51.100.3"].map(|own| status("192.0.2.1", own));
    assert_eq!(calls, ["404", "404", "503"]);
    assert_eq!(status("192.0.2.2", "198.51.100.1"), "404");
}

#[test]
fn unix_socket_serves_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http");
    let toml = format!(
        "[server]\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]\n",
        path.display()
    );
    let server = TestServer::with(&toml);
    let bytes = Random::new().bytes(5 << 20);
    let id = server.store_file("a.bin", "application/octet-stream", &bytes);
    let request = format!(
        "GET {BASE}/chatfiles/{id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        server.token("alice")
    );
    // The first bytes one at a time, which is allowed.
    let mut stream = UnixStream::connect(&path).unwrap();
    for byte in &request.as_bytes()[..10] {
        stream.write_all(&[*byte]).unwrap();
    }
    stream.write_all(&request.as_bytes()[10..]).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(&bytes));
    drop(server);
    assert!(UnixStream::connect(&path).is_err());
}
