//! Replacement of a running process: no request is refused, nothing is lost, and the service manager is notified.

use std::{
    io::{self, Read},
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

use rustix::process::Signal;

use crate::support::{
    Answer, BASE, Connection, Form, Random,
    certificates::{Certificate, connect, healthy},
    files_below, head, open_from,
    process::{Launch, Process, id, poll, send},
};

const CLIENTS: u64 = 6;

fn successor(store: &Path, address: &str) -> Process {
    Process::start(store, &["--take-over", "--listen", address])
}

/// A server with one socket of that name, as systemd starts it. A shell passes the socket as descriptor 3.
fn activated(store: &Path, flags: &[&str], name: &str, listener: TcpListener) -> Command {
    let program = Launch::new(store)
        .flags(&[&["--listen", "127.0.0.1:1"], flags].concat())
        .command();
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg("exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$@\"")
        .arg("sh")
        .arg(program.get_program())
        .args(program.get_args())
        .env_clear()
        .envs([("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", name)])
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null());
    shell
}

/// A client that keeps its connection as long as possible. By RFC 9112 §9.3.1, it repeats a GET on a new connection if
/// a kept one is closed before the first byte of the response.
struct Client {
    server: std::net::SocketAddr,
    token: String,
    kept: Option<Connection>,
    retries: u32,
}

impl Client {
    fn call(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> io::Result<Answer> {
        let authorization = format!("Bearer {}", self.token);
        let headers = [
            ("Authorization", &*authorization),
            ("Content-Type", content_type),
        ];
        let mut bytes = head(
            method,
            path,
            &headers,
            (!body.is_empty()).then_some(body.len()),
        );
        bytes.extend_from_slice(body);
        let kept = self.kept.take();
        let was_kept = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => Connection::try_open(self.server)?,
        };
        match exchange(&mut connection, method, &bytes) {
            Ok(answer) => {
                if answer.header("connection") != Some("close") {
                    self.kept = Some(connection);
                }
                Ok(answer)
            }
            Err(_) if was_kept && method == "GET" => {
                self.retries += 1;
                exchange(&mut Connection::try_open(self.server)?, method, &bytes)
            }
            Err(error) => Err(error),
        }
    }
}

fn exchange(connection: &mut Connection, method: &str, bytes: &[u8]) -> io::Result<Answer> {
    connection.send(bytes)?;
    connection.answer(method)
}

#[test]
fn handovers_under_load_fail_no_request() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let mut server = Process::start(&store, &[]);
    let address = server.address.to_string();
    let seed = Random::new().next();
    let (is_over, requests) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let clients: Vec<ScopedJoinHandle<'_, u32>> = (0..CLIENTS)
            .map(|number| {
                let mut client = Client {
                    server: server.address,
                    token: server.token().to_owned(),
                    kept: None,
                    retries: 0,
                };
                let mut random = Random::from_seed(seed ^ number);
                let (is_over, requests) = (&is_over, &requests);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        let len = 1 + random.below(600_000);
                        let bytes = random.bytes(len);
                        let form = Form::new().file("f.bin", "application/octet-stream", &bytes);
                        let stored = client
                            .call(
                                "POST",
                                &format!("{BASE}/chatfiles"),
                                &form.content_type(),
                                &form.bytes(),
                            )
                            .expect("an upload is answered");
                        assert_eq!(stored.status, 200, "{}", stored.text());
                        for _ in 0..3 {
                            let path = format!("{BASE}/chatfiles/{}", id(&stored));
                            let download = client
                                .call("GET", &path, "text/plain", b"")
                                .expect("a download is answered");
                            assert!(download.status == 200 && download.body == bytes);
                        }
                        requests.fetch_add(4, Ordering::Relaxed);
                    }
                    client.retries
                })
            })
            .collect();
        for round in 0..8 {
            let before = requests.load(Ordering::Relaxed);
            let next = successor(&store, &address);
            assert_eq!(next.address, server.address);
            let mut old = std::mem::replace(&mut server, next);
            let status = old.wait();
            assert!(status.success(), "round {round}: {status}");
            poll("clients to go on", || {
                requests.load(Ordering::Relaxed) > before + 40
                    || clients.iter().any(|one| one.is_finished())
            });
        }
        is_over.store(true, Ordering::Relaxed);
        let retries: u32 = clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum();
        println!(
            "{} requests, {retries} GETs sent again",
            requests.load(Ordering::Relaxed)
        );
    });
    // The last process has the lock and the control socket, and the earlier ones left nothing unfinished.
    assert!(files_below(&store.join("tmp")).is_empty());
    let second = Launch::new(&store)
        .command()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(!second.unwrap().success(), "one directory, one server");
    let stored = server.upload(b"x");
    assert!(server.command(&["rm", &stored]).status.success());
    assert_eq!(server.download(&stored, &[]).status, 404);
}

/// Idle connections get one more response.
#[test]
fn old_process_finishes_transfer() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let mut old = Process::start(&store, &[]);
    let bytes = Random::new().bytes(9 << 20);
    let stored = old.upload(&bytes);
    let authorization = format!("Bearer {}", old.token());
    let request = head(
        "GET",
        &format!("{BASE}/chatfiles/{stored}"),
        &[("Authorization", &authorization)],
        None,
    );
    let mut kept = Connection::open(old.address);
    assert_eq!(kept.request("GET", "/healthz", &[], b"").status, 200);
    let mut slow = Connection::open(old.address);
    slow.send(&request).unwrap();
    slow.stream().read_exact(&mut [0; 15]).unwrap();
    let new = successor(&store, &old.address.to_string());
    // The old process does not close the connection abruptly: it answers once more and announces the end.
    let last = kept.request("GET", "/healthz", &[], b"");
    assert_eq!(
        (last.status, last.header("connection")),
        (200, Some("close"))
    );
    assert!(kept.rest().is_empty());
    let rest = slow.rest();
    assert!(rest.ends_with(&bytes));
    assert!(old.wait().success());
    assert!(new.download(&stored, &[]).body == bytes);
}

#[test]
fn failed_successor_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &[]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let bad = Launch::new(&store)
        .flags(&["--take-over", "--listen", &taken])
        .command()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!bad.success());
    let stored = server.upload(b"still here");
    assert_eq!(server.download(&stored, &[]).body, b"still here");
    // It still accepts commands and can be handed over.
    assert!(server.command(&["rm", &stored]).status.success());
    let new = successor(&store, &server.address.to_string());
    assert_eq!(new.request("GET", "/healthz", &[], b"").status, 200);
}

#[test]
fn takeover_without_server_just_starts() {
    let directory = tempfile::tempdir().unwrap();
    let server = successor(&directory.path().join("data"), "127.0.0.1:0");
    assert_eq!(server.request("GET", "/healthz", &[], b"").status, 200);
}

#[test]
fn systemd_socket_and_notifications_work() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let notify = directory.path().join("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let told = || {
        let mut bytes = [0; 1000];
        let len = manager.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut child = activated(&store, &[], "http", listener)
        .env("NOTIFY_SOCKET", &notify)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Before the server is ready, a connection waits in the backlog and is not refused.
    let mut early = Connection::open(address);
    let ready = told();
    assert!(
        ready.contains("READY=1") && ready.contains(&format!("MAINPID={}", child.id())),
        "{ready}"
    );
    assert_eq!(early.request("GET", "/healthz", &[], b"").status, 200);
    drop(early);
    send(child.id(), Signal::TERM);
    assert!(told().contains("STOPPING=1"));
    assert!(child.wait().unwrap().success());
}

#[test]
fn systemd_tls_socket_needs_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = Certificate::write(directory.path(), "files", &["files.test"]);
    let config = directory.path().join("chatfiles.toml");
    let store = directory.path().join("data");
    let flags = ["--config", config.to_str().unwrap()];
    let start = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = activated(&store, &flags, "tls", listener);
        let server = server.stderr(Stdio::piped()).spawn().unwrap();
        (server, address)
    };
    // No configured listener uses TLS.
    let certificates = format!("[tls]\ncertificates = [{}]\n", certificate.toml());
    std::fs::write(&config, certificates).unwrap();
    let (mut server, address) = start();
    // Waits in the backlog until the server is ready.
    let mut client = connect(address, "files.test", &certificate, &[]).unwrap();
    assert!(healthy(&mut client));
    server.kill().unwrap();
    server.wait().unwrap();
    std::fs::write(&config, "").unwrap();
    let (server, _) = start();
    let output = server.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("tls.certificates"), "{said}");
}

/// More than sockets hold, read at 100 KB/s for `seconds`, then as fast as possible.
fn slow_download(server: &Process, id: &str, seconds: u32) -> io::Result<usize> {
    let mut connection = open_from(
        server.address,
        std::net::Ipv4Addr::LOCALHOST,
        Some(16 << 10),
    );
    let authorization = format!("Bearer {}", server.token());
    let path = format!("{BASE}/chatfiles/{id}");
    connection.send(&head(
        "GET",
        &path,
        &[("Authorization", &authorization)],
        None,
    ))?;
    let (mut taken, mut buffer) = (0, [0; 2_000]);
    loop {
        // The pace of the client, not a wait for the server.
        if taken < seconds as usize * 100_000 {
            thread::sleep(Duration::from_millis(20));
        }
        match connection.stream().read(&mut buffer)? {
            0 => return Ok(taken),
            read => taken += read,
        }
    }
}

/// But not a stop.
#[test]
fn slow_download_outlives_handover() {
    const BYTES: usize = 9_000_000;
    for is_stopped in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("data");
        let config = directory.path().join("chatfiles.toml");
        std::fs::write(&config, "[server]\nshutdown_grace_seconds = 1\n").unwrap();
        let flags = ["--config", config.to_str().unwrap()];
        let mut old = Process::start(&store, &flags);
        let stored = old.upload(&vec![7; BYTES]);
        let address = old.address.to_string();
        thread::scope(|scope| {
            let seconds = if is_stopped { 60 } else { 10 };
            let (old, stored) = (&old, &stored);
            let download = scope.spawn(move || slow_download(old, stored, seconds));
            let _new = successor(&store, &address);
            if is_stopped {
                old.signal(Signal::TERM);
            }
            // Includes the response head.
            let taken = download.join().unwrap();
            let is_whole = taken.as_ref().is_ok_and(|taken| *taken > BYTES);
            assert_eq!(is_whole, !is_stopped, "{taken:?}");
        });
        assert!(old.wait().success());
        let dropped = format!("dropped_answers={}", u8::from(is_stopped));
        assert!(old.log().contains(&dropped), "{}", old.log());
    }
}
