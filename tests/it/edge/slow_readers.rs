//! Clients that read slowly get complete responses, and clients that read nothing are cut, over every kind of
//! connection. The timeout is short and the rates are high in proportion: 20 KB/s with 1 s corresponds to 700 B/s with
//! 30 s.

use std::{
    io::{self, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    path::PathBuf,
    thread,
    time::Duration,
};

use super::caches::Cache;
use super::frames::{
    Client, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, WINDOW_UPDATE,
    code_of, get,
};
use crate::support::{
    BASE, Connection, Random, TestServer,
    certificates::{Certificate, configuration, connect_over},
    head, open_from,
    process::poll,
    read_answer,
};

/// More than the sockets of both sides hold.
const LARGE_BYTES: usize = 10 << 20;
/// A receive buffer that makes the server wait for each read.
const SMALL_BUFFER: Option<u32> = Some(16 << 10);
/// Between two reads of a slow client.
const STEP: Duration = Duration::from_millis(20);
/// SETTINGS_INITIAL_WINDOW_SIZE
const WINDOW: u16 = 4;

trait Duplex: Read + Write + Send {}
impl<S: Read + Write + Send> Duplex for S {}

/// A stream that is read slowly at first, then as fast as possible.
struct Paced<S> {
    stream: S,
    bytes_per_step: usize,
    slow_bytes: usize,
}

impl<S: Read> Read for Paced<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.slow_bytes == 0 {
            return self.stream.read(buf);
        }
        thread::sleep(STEP);
        let most = buf.len().min(self.bytes_per_step);
        let read = self.stream.read(&mut buf[..most])?;
        self.slow_bytes = self.slow_bytes.saturating_sub(read);
        Ok(read)
    }
}

impl<S: Write> Write for Paced<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Http1,
    Http2,
    Tls,
    TlsHttp2,
    Unix,
}

const WAYS: [Way; 5] = [Way::Http1, Way::Http2, Way::Tls, Way::TlsHttp2, Way::Unix];

struct Served {
    server: TestServer,
    certificate: Certificate,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Served {
    fn with(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let certificate = Certificate::write(directory.path(), "files", &["files.test"]);
        let socket = directory.path().join("http");
        let toml = configuration(&[&certificate], "[operator]\nlisten = \"127.0.0.1:0\"\n")
            .replace(
                "\"tls:127.0.0.1:0\"]",
                &format!(
                    "\"tls:127.0.0.1:0\", \"unix:{}\"]\nwrite_stall_timeout_seconds = 1\n{more}",
                    socket.display()
                ),
            );
        Self {
            server: TestServer::with(&toml),
            certificate,
            socket,
            _directory: directory,
        }
    }

    fn open(
        &self,
        way: Way,
        buffer: Option<u32>,
        bytes_per_step: usize,
        slow_bytes: usize,
    ) -> Box<dyn Duplex> {
        let tcp = |address: SocketAddr| {
            let mut connection = open_from(address, Ipv4Addr::LOCALHOST, buffer);
            connection.stream().try_clone().unwrap()
        };
        let plain = || tcp(self.server.address);
        let tls = || tcp(self.server.endpoints[1].address().unwrap());
        let stream: Box<dyn Duplex> = match way {
            Way::Http1 | Way::Http2 => Box::new(plain()),
            Way::Tls | Way::TlsHttp2 => {
                let alpn: &[&str] = if way == Way::TlsHttp2 { &["h2"] } else { &[] };
                Box::new(connect_over(tls(), "files.test", &self.certificate, alpn).unwrap())
            }
            Way::Unix => Box::new(UnixStream::connect(&self.socket).unwrap()),
        };
        Box::new(Paced {
            stream,
            bytes_per_step,
            slow_bytes,
        })
    }

    /// Stores bytes and returns the id.
    fn store(&self, bytes: &[u8]) -> String {
        let kind = "application/octet-stream";
        self.server.store_file("a", kind, bytes)
    }

    fn http1_request(&self, id: &str, headers: &[(&str, &str)]) -> Vec<u8> {
        let token = format!("Bearer {}", self.server.token("alice"));
        let headers = [&[("Authorization", &*token)], headers].concat();
        head("GET", &format!("{BASE}/chatfiles/{id}"), &headers, None)
    }

    /// The header block of a `GET`.
    fn http2_request(&self, id: &str) -> Vec<u8> {
        let token = format!("Bearer {}", self.server.token("alice"));
        let path = format!("{BASE}/chatfiles/{id}");
        get(&path, &[("authorization", &token)])
    }

    fn request(&self, way: Way, mut stream: Box<dyn Duplex>, id: &str) -> Asked {
        match way {
            Way::Http2 | Way::TlsHttp2 => {
                let mut client = Client::over(stream, &[(WINDOW, LARGE_BYTES as u32)]);
                let window = (LARGE_BYTES as u32).to_be_bytes();
                client.send(WINDOW_UPDATE, 0, 0, &window).unwrap();
                let block = self.http2_request(id);
                client
                    .send(HEADERS, END_HEADERS | END_STREAM, 1, &block)
                    .unwrap();
                Asked::Http2(client)
            }
            Way::Http1 | Way::Tls | Way::Unix => {
                stream.write_all(&self.http1_request(id, &[])).unwrap();
                Asked::Http1(BufReader::new(stream))
            }
        }
    }

    fn stalls(&self) -> u64 {
        let labels = [("reason", "write_stall")];
        self.server
            .scrape()
            .get("chatfiles_connections_cut_total", &labels)
    }
}

/// A client that waits for its response.
enum Asked {
    Http1(BufReader<Box<dyn Duplex>>),
    Http2(Client<Box<dyn Duplex>>),
}

impl Asked {
    fn body(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Http1(mut stream) => read_answer(&mut stream, "GET").map(|answer| answer.body),
            Self::Http2(mut client) => {
                let mut body = Vec::new();
                loop {
                    let frame = client.frame()?;
                    match frame.kind {
                        DATA => body.extend_from_slice(&frame.payload),
                        RST_STREAM | GOAWAY => {
                            return Err(io::Error::other(format!("{frame:?}")));
                        }
                        _ => {}
                    }
                    if frame.kind == DATA && frame.flags & END_STREAM != 0 {
                        return Ok(body);
                    }
                }
            }
        }
    }
}

#[test]
fn slow_readers_get_whole_answers() {
    let served = Served::with("");
    let bytes = Random::new().bytes(LARGE_BYTES);
    let id = served.store(&bytes);
    let (served, bytes, id) = (&served, &bytes, &id);
    thread::scope(|scope| {
        for way in WAYS {
            // 20, 100 and 300 KB/s.
            for bytes_per_step in [400, 2_000, 6_000] {
                scope.spawn(move || {
                    // For five seconds.
                    let slow_bytes = bytes_per_step * 250;
                    let stream = served.open(way, SMALL_BUFFER, bytes_per_step, slow_bytes);
                    let body = served.request(way, stream, id).body();
                    let body =
                        body.unwrap_or_else(|error| panic!("{way:?} {bytes_per_step}: {error}"));
                    assert!(body == *bytes, "{way:?}");
                });
            }
            // With the default buffers of the system: 1 MB/s.
            scope.spawn(move || {
                let stream = served.open(way, None, 20_000, 5_000_000);
                let body = served.request(way, stream, id).body();
                assert!(body.unwrap_or_else(|error| panic!("{way:?}: {error}")) == *bytes);
            });
        }
    });
    assert_eq!(served.stalls(), 0);
}

#[test]
fn unreading_clients_are_cut() {
    let served = Served::with("");
    let id = served.store(&vec![7; LARGE_BYTES]);
    let stalled: Vec<Asked> = WAYS
        .into_iter()
        .map(|way| {
            let stream = served.open(way, Some(2 << 10), 1 << 20, 0);
            served.request(way, stream, &id)
        })
        .collect();
    poll("all connections to be cut", || {
        served.stalls() == WAYS.len() as u64
    });
    for (asked, way) in stalled.into_iter().zip(WAYS) {
        assert!(asked.body().is_err(), "{way:?}");
    }
    // So is one whose kernel has received a first part.
    let stream = served.open(Way::Http1, None, 1 << 20, 0);
    let asked = served.request(Way::Http1, stream, &id);
    poll("the connection to be cut", || {
        served.stalls() == WAYS.len() as u64 + 1
    });
    drop(asked);
}

#[test]
fn active_answer_is_not_idle() {
    let served = Served::with("idle_timeout_seconds = 1\n");
    // It fits into the send buffer: for the server process, it has been sent.
    let bytes = Random::new().bytes(400_000);
    let id = served.store(&bytes);
    let request = served.http1_request(&id, &[]);
    // 100 KB/s.
    let stream = served.open(Way::Http1, SMALL_BUFFER, 2_000, 400_000);
    let mut stream = BufReader::new(stream);
    for _ in 0..2 {
        stream.get_mut().write_all(&request).unwrap();
        let answer = read_answer(&mut stream, "GET").expect("the connection is kept");
        assert!(answer.body == bytes);
    }
    // Then it is idle and is closed.
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn active_http2_answer_is_not_idle() {
    let served = Served::with("idle_timeout_seconds = 1\n");
    let bytes = Random::new().bytes(400_000);
    let id = served.store(&bytes);
    for way in [Way::Http2, Way::TlsHttp2] {
        // 100 KB/s.
        let stream = served.open(way, SMALL_BUFFER, 2_000, 400_000);
        let Asked::Http2(mut client) = served.request(way, stream, &id) else {
            unreachable!("asked over HTTP/2");
        };
        let mut taken = 0;
        while taken < bytes.len() {
            let frame = client.frame().expect("the connection is kept");
            match frame.kind {
                DATA => taken += frame.payload.len(),
                kind => assert_ne!(kind, GOAWAY, "after {taken} bytes"),
            }
        }
        // Then it is idle and gets GOAWAY.
        client.until(|frame| frame.kind == GOAWAY);
    }
}

#[test]
fn stop_waits_for_slow_http2_readers() {
    let served = Served::with("");
    let bytes = Random::new().bytes(400_000);
    let id = served.store(&bytes);
    let stream = served.open(Way::Http2, SMALL_BUFFER, 2_000, 400_000);
    let Asked::Http2(mut client) = served.request(Way::Http2, stream, &id) else {
        unreachable!("asked over HTTP/2");
    };
    let mut taken = client.until(|frame| frame.kind == DATA).payload.len();
    served.server.shutdown().trigger();
    while taken < bytes.len() {
        // Frames of the client that arrive after a close would cause a reset.
        let _ = client.send(PING, 0, 0, &[0; 8]);
        let frame = client
            .frame()
            .unwrap_or_else(|error| panic!("{error} after {taken} bytes"));
        if frame.kind == DATA {
            taken += frame.payload.len();
        }
    }
}

#[test]
fn half_closed_reader_gets_whole_answer() {
    let served = Served::with("");
    let bytes = Random::new().bytes(400_000);
    let id = served.store(&bytes);
    let mut connection = open_from(served.server.address, Ipv4Addr::LOCALHOST, SMALL_BUFFER);
    connection.send(&served.http1_request(&id, &[])).unwrap();
    let stream = connection.stream();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut reader = BufReader::new(Paced {
        stream: stream.try_clone().unwrap(),
        bytes_per_step: 2_000,
        slow_bytes: 400_000,
    });
    assert!(read_answer(&mut reader, "GET").unwrap().body == bytes);
}

#[test]
fn slow_readers_behind_nginx_get_all() {
    let served = Served::with("");
    let bytes = Random::new().bytes(LARGE_BYTES);
    let id = served.store(&bytes);
    let nginx = Cache::with(
        tempfile::tempdir().unwrap(),
        include_str!("../../../deploy/examples/nginx.conf"),
        &[("127.0.0.1:8080", served.server.address.to_string())],
    );
    let request = served.http1_request(&id, &[]);
    let (nginx, request, bytes) = (&nginx, &request, &bytes);
    thread::scope(|scope| {
        // 40, 100 and 300 KB/s for five seconds.
        for bytes_per_step in [800, 2_000, 6_000] {
            scope.spawn(move || {
                let mut connection = open_from(nginx.address, Ipv4Addr::LOCALHOST, SMALL_BUFFER);
                connection.send(request).unwrap();
                let mut reader = BufReader::new(Paced {
                    stream: connection.stream().try_clone().unwrap(),
                    bytes_per_step,
                    slow_bytes: bytes_per_step * 250,
                });
                let answer = read_answer(&mut reader, "GET");
                let answer = answer.unwrap_or_else(|error| panic!("{bytes_per_step}: {error}"));
                assert!(answer.body == *bytes);
            });
        }
    });
    assert_eq!(served.stalls(), 0);
}

#[test]
fn later_bytes_do_not_lose_answer() {
    let served = Served::with("");
    let bytes = Random::new().bytes(400_000);
    let id = served.store(&bytes);
    let mut connection = open_from(served.server.address, Ipv4Addr::LOCALHOST, SMALL_BUFFER);
    connection
        .send(&served.http1_request(&id, &[("Connection", "close")]))
        .unwrap();
    let mut sender = connection.stream().try_clone().unwrap();
    let mut reader = BufReader::new(Paced {
        stream: connection.stream().try_clone().unwrap(),
        bytes_per_step: 2_000,
        slow_bytes: 400_000,
    });
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    thread::scope(|scope| {
        // Bytes that arrive after a close cause a reset, which loses the rest of the response.
        scope.spawn(move || {
            while stopped.recv_timeout(STEP).is_err() {
                let _ = sender.write_all(b"x");
            }
        });
        let answer = read_answer(&mut reader, "GET");
        stop.send(()).unwrap();
        assert!(answer.expect("no reset").body == bytes);
    });
}

#[test]
fn unread_streams_are_reset_alone() {
    let served = Served::with("");
    let bytes = Random::new().bytes(300_000);
    let id = served.store(&bytes);
    let request = served.http2_request(&id);
    let mut client = Client::with_settings(served.server.address, &[(WINDOW, 1000)]);
    let window = (1u32 << 20).to_be_bytes();
    client.send(WINDOW_UPDATE, 0, 0, &window).unwrap();
    for stream in [1, 3, 5, 7] {
        client
            .send(HEADERS, END_HEADERS | END_STREAM, stream, &request)
            .unwrap();
    }
    // The first response is read at 50 KB/s, the others not at all.
    let (mut body, mut resets) = (Vec::new(), Vec::new());
    loop {
        let frame = client.frame().unwrap();
        match (frame.kind, frame.stream) {
            (DATA, 1) => {
                body.extend_from_slice(&frame.payload);
                if frame.flags & END_STREAM != 0 {
                    break;
                }
                thread::sleep(STEP);
                client
                    .send(WINDOW_UPDATE, 0, 1, &1000u32.to_be_bytes())
                    .unwrap();
            }
            (RST_STREAM, stream) => resets.push(stream),
            _ => {}
        }
    }
    assert!(body == bytes);
    resets.sort_unstable();
    assert_eq!(resets, [3, 5, 7]);
    let count = served
        .server
        .scrape()
        .get("chatfiles_http2_streams_stalled_total", &[]);
    assert_eq!(count, 3);
}

#[test]
fn slow_connection_does_not_reset_streams() {
    let served = Served::with("");
    let bytes = Random::new().bytes(2 << 20);
    let id = served.store(&bytes);
    let request = served.http2_request(&id);
    // 300 KB/s for seven seconds: bytes sent first delay the rest, on any stream.
    let stream = served.open(Way::Http2, SMALL_BUFFER, 6_000, 2 << 20);
    let mut client = Client::over(stream, &[(WINDOW, 100)]);
    let window = (64u32 << 20).to_be_bytes();
    client.send(WINDOW_UPDATE, 0, 0, &window).unwrap();
    let streams = [1, 3, 5, 7, 9, 11];
    for stream in streams {
        client
            .send(HEADERS, END_HEADERS | END_STREAM, stream, &request)
            .unwrap();
        let window = (4u32 << 20).to_be_bytes();
        client.send(WINDOW_UPDATE, 0, stream, &window).unwrap();
    }
    // The client stops reading this one, while the others keep the connection busy.
    client
        .send(HEADERS, END_HEADERS | END_STREAM, 13, &request)
        .unwrap();
    let mut bodies = vec![Vec::new(); streams.len()];
    let (mut ended, mut resets) = (0, Vec::new());
    while ended < streams.len() || resets.is_empty() {
        let frame = client.frame().unwrap();
        match (frame.kind, frame.stream) {
            (DATA, 13) => {}
            (DATA, stream) => {
                bodies[stream as usize / 2].extend_from_slice(&frame.payload);
                ended += usize::from(frame.flags & END_STREAM);
            }
            (RST_STREAM, stream) => resets.push(stream),
            _ => {}
        }
    }
    assert!(bodies.iter().all(|body| *body == bytes));
    assert_eq!(resets, [13]);
}

#[test]
fn unread_small_answers_end_connection() {
    let served = Served::with("");
    let large = Random::new().bytes(200_000);
    let ids = [&large[..], &large[..4000]].map(|bytes| served.store(bytes));
    // hyper has already passed the small responses on completely, so their streams cannot be reset.
    let mut client = Client::with_settings(served.server.address, &[(WINDOW, 1)]);
    for stream in [3, 5, 7] {
        client
            .send(
                HEADERS,
                END_HEADERS | END_STREAM,
                stream,
                &served.http2_request(&ids[1]),
            )
            .unwrap();
    }
    client
        .send(
            HEADERS,
            END_HEADERS | END_STREAM,
            9,
            &served.http2_request(&ids[0]),
        )
        .unwrap();
    // The large response continues to its end.
    let (mut taken, mut is_told) = (0, false);
    while taken < large.len() {
        let frame = client.frame().unwrap();
        match (frame.kind, frame.stream) {
            (DATA, 9) => {
                taken += frame.payload.len();
                let more = 1000u32.to_be_bytes();
                client.send(WINDOW_UPDATE, 0, 9, &more).unwrap();
                client.send(WINDOW_UPDATE, 0, 0, &more).unwrap();
                thread::sleep(STEP);
            }
            (GOAWAY, _) => is_told = true,
            (RST_STREAM, stream) => panic!("{stream} {}", code_of(&frame.payload)),
            _ => {}
        }
    }
    assert!(is_told);
}
