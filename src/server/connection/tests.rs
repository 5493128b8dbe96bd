//! Connections over real sockets, with raw bytes and a toy handler.

mod toy;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream as Client,
    time::timeout,
};

use self::toy::Server;
use super::*;
use crate::{metrics::ConnectionCut, server::listener};

/// Upper limit of every wait in these tests.
const PATIENCE: Duration = Duration::from_secs(20);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

async fn send(client: &mut Client, bytes: &[u8]) {
    client.write_all(bytes).await.unwrap();
}

/// Everything that the server sends before it closes, and the elapsed time; `None` for a reset.
async fn read_to_end(client: &mut Client) -> (Option<String>, Duration) {
    let start = Clock::system().monotonic();
    let mut bytes = Vec::new();
    let outcome = timeout(PATIENCE, client.read_to_end(&mut bytes))
        .await
        .expect("the connection is closed");
    let text = outcome.is_ok().then(|| String::from_utf8(bytes).unwrap());
    (text, start.elapsed())
}

/// Reads until `end` was received.
async fn read_until(client: &mut Client, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        let mut bytes = [0; 1024];
        let read = timeout(PATIENCE, client.read(&mut bytes))
            .await
            .expect("an answer comes")
            .unwrap();
        assert_ne!(read, 0, "closed after {text:?}");
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_trickling_head_after_header_timeout() {
    let server = Server::with(|config| config.header_timeout = ms(200));
    for before in ["", "GET /a HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut client = server.connect().await;
        if !before.is_empty() {
            send(&mut client, before.as_bytes()).await;
            read_until(&mut client, "read 0").await;
        }
        send(&mut client, b"GET / HT").await;
        let trickle = async {
            loop {
                tokio::time::sleep(ms(20)).await;
                let _ = client.write_all(b"T").await;
                let mut byte = [0];
                match client.try_read(&mut byte) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    other => break other,
                }
            }
        };
        let start = Clock::system().monotonic();
        let ended = timeout(PATIENCE, trickle)
            .await
            .expect("the connection is cut");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        assert!(
            start.elapsed() >= ms(180) && start.elapsed() < ms(2000),
            "{:?}",
            start.elapsed()
        );
    }
    assert_eq!(server.toy.calls.load(Ordering::Relaxed), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closes_idle_connections_after_idle_timeout() {
    let server = Server::with(|config| config.idle_timeout = ms(200));
    for requests in [0, 1, 3] {
        let mut client = server.connect().await;
        for _ in 0..requests {
            send(&mut client, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
            read_until(&mut client, "read 0").await;
        }
        let (rest, took) = read_to_end(&mut client).await;
        assert_eq!(rest.as_deref(), Some(""));
        assert!(took >= ms(150) && took < ms(2000), "{requests}: {took:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_slow_bodies_and_slow_answers() {
    let server =
        Server::with(|config| (config.header_timeout, config.idle_timeout) = (ms(100), ms(100)));
    let mut client = server.connect().await;
    send(
        &mut client,
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\n",
    )
    .await;
    for _ in 0..6 {
        tokio::time::sleep(ms(50)).await;
        send(&mut client, b"b").await;
    }
    read_until(&mut client, "read 6").await;
    send(&mut client, b"GET /gate HTTP/1.1\r\nhost: x\r\n\r\n").await;
    read_until(&mut client, "half.").await;
    tokio::time::sleep(ms(300)).await;
    server.toy.gate.add_permits(1);
    read_until(&mut client, "half.").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_clients_that_half_close() {
    let server = Server::with(|_| {});
    for request in [
        "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST / HTTP/1.0\r\ncontent-length: 2\r\n\r\nab",
    ] {
        let mut client = server.connect().await;
        send(&mut client, request.as_bytes()).await;
        client.shutdown().await.unwrap();
        let text = read_to_end(&mut client).await.0.expect("no reset");
        assert!(text.contains(" 200 OK") && text.contains("read "), "{text}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_answer_reaches_writing_client() {
    let server = Server::with(|_| {});
    let body = vec![b'b'; 4 << 20];
    for round in 0..50 {
        let mut client = server.connect().await;
        let head = format!(
            "POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        send(&mut client, head.as_bytes()).await;
        timeout(PATIENCE, client.write_all(&body))
            .await
            .unwrap()
            .expect("the body is taken to its end");
        client.shutdown().await.unwrap();
        let text = read_to_end(&mut client).await.0.expect("no reset");
        assert!(
            text.starts_with("HTTP/1.1 413 ") && text.ends_with("too large"),
            "{round}: {text}"
        );
        assert!(text.contains("connection: close"), "{text}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_lingering_time_and_bytes() {
    for (time, bytes_max) in [(ms(200), u64::MAX), (PATIENCE, 1 << 16)] {
        let server = Server::with(|config| {
            (config.linger_timeout, config.linger_bytes_max) = (time, bytes_max)
        });
        let mut client = server.connect().await;
        send(
            &mut client,
            b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999999\r\n\r\n",
        )
        .await;
        let start = Clock::system().monotonic();
        // Endless, until the closed socket refuses data.
        let endless = async { while client.write_all(&[b'b'; 1024]).await.is_ok() {} };
        timeout(PATIENCE, endless).await.expect("the server closes");
        assert!(start.elapsed() < ms(5000), "{:?}", start.elapsed());
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusal_of_malformed_head_arrives() {
    let server = Server::with(|config| config.read_buffer_bytes_max = 8192);
    let too_long = format!("GET / HTTP/1.1\r\nhost: {}", "x".repeat(4 << 20));
    for (head, status) in [("nonsense\r\n\r\n".repeat(300_000), 400), (too_long, 431)] {
        for _ in 0..10 {
            let mut client = server.connect().await;
            send(&mut client, head.as_bytes()).await;
            client.shutdown().await.unwrap();
            let text = read_to_end(&mut client).await.0.expect("no reset");
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        }
    }
    assert_eq!(server.toy.calls.load(Ordering::Relaxed), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_stalled_keeps_slow_peers() {
    let server = Server::with(|config| config.write_stall_timeout = ms(300));
    let request = b"GET /huge HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut stalled = server.connect().await;
    send(&mut stalled, request).await;
    let mut slow = server.connect().await;
    send(&mut slow, request).await;
    let mut read_bytes = 0;
    let mut buffer = vec![0; 4 << 20];
    loop {
        tokio::time::sleep(ms(50)).await;
        match timeout(PATIENCE, slow.read(&mut buffer))
            .await
            .unwrap()
            .expect("no reset")
        {
            0 => break,
            read => read_bytes += read,
        }
    }
    assert!(read_bytes > 64 << 20, "{read_bytes}");
    // Its kernel has received some data, so it gets the time to read that.
    let reset = async {
        while stalled.take_error().unwrap().is_none() {
            tokio::time::sleep(ms(10)).await;
        }
    };
    timeout(PATIENCE, reset)
        .await
        .expect("the stalled one is reset");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_finishes_transfers_and_closes_idle() {
    let mut server = Server::with(|_| {});
    let (mut silent, mut idle, mut busy) = (
        server.connect().await,
        server.connect().await,
        server.connect().await,
    );
    send(&mut idle, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    read_until(&mut idle, "read 0").await;
    send(&mut busy, b"GET /gate HTTP/1.1\r\nhost: x\r\n\r\n").await;
    read_until(&mut busy, "half.").await;
    server.shutdown.trigger();
    for client in [&mut silent, &mut idle] {
        let (rest, took) = read_to_end(client).await;
        assert_eq!(rest.as_deref(), Some(""));
        assert!(took < ms(2000), "{took:?}");
    }
    assert!(
        Client::connect(server.address).await.is_err(),
        "no longer listening"
    );
    assert!(
        server.running.try_join_next().is_none(),
        "waits for the transfer"
    );
    server.toy.gate.add_permits(1);
    assert_eq!(read_to_end(&mut busy).await.0.as_deref(), Some("half."));
    server.stop().await;
}

/// A connection that receives bytes while its task is not polled, so that the runtime has not reported them.
struct Unpolled {
    client: std::net::TcpStream,
    served: std::pin::Pin<Box<dyn Future<Output = ()>>>,
    shutdown: Shutdown,
    counts: Arc<Connections>,
}

impl Unpolled {
    async fn open() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let (shutdown, entry) = (Shutdown::new(), Arc::<Entry>::default());
        let handler = Arc::new(toy::Toy {
            gate: Arc::new(tokio::sync::Semaphore::new(0)),
            calls: Default::default(),
        });
        let (counts, config) = (entry.counts.clone(), Arc::new(Config::default()));
        let socket = Socket::from(stream);
        let served = run(socket, Some(peer), entry, handler, config, shutdown.clone());
        Self {
            client,
            served: Box::pin(served),
            shutdown,
            counts,
        }
    }

    /// Sends without running the server.
    fn send(&mut self, bytes: &[u8]) {
        use std::io::Write;
        self.client.write_all(bytes).unwrap();
    }

    /// Runs the server until it has nothing to do.
    async fn run_for_now(&mut self) {
        let _ = timeout(ms(50), &mut self.served).await;
    }

    /// Runs the server to the end of the connection. Returns the bytes that the client received.
    async fn received(mut self) -> String {
        use std::io::Read;
        timeout(PATIENCE, &mut self.served)
            .await
            .expect("the connection ends");
        let mut bytes = Vec::new();
        self.client.read_to_end(&mut bytes).expect("no reset");
        String::from_utf8(bytes).unwrap()
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn drain_answers_received_first_request() {
    for (before, after) in [(REQUEST.len(), 0), (1, REQUEST.len() - 1)] {
        let mut connection = Unpolled::open().await;
        connection.run_for_now().await;
        connection.send(&REQUEST[..before]);
        connection.shutdown.trigger();
        if after > 0 {
            connection.run_for_now().await;
            connection.send(&REQUEST[before..]);
        }
        // The server lingers until the client closes.
        connection
            .client
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
        let counts = connection.counts.clone();
        let text = connection.received().await;
        assert!(text.ends_with("read 0"), "{text:?}");
        assert_eq!(counts.cuts(ConnectionCut::ExitIdle), 0);
    }
}

#[tokio::test]
async fn drain_answers_received_later_request() {
    for (before, after) in [(REQUEST.len(), 0), (5, REQUEST.len() - 5)] {
        let mut connection = Unpolled::open().await;
        connection.send(REQUEST);
        connection.run_for_now().await;
        connection.send(&REQUEST[..before]);
        connection.shutdown.trigger();
        if after > 0 {
            connection.run_for_now().await;
            connection.send(&REQUEST[before..]);
        }
        connection
            .client
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
        let text = connection.received().await;
        assert_eq!(text.matches("read 0").count(), 2, "{text:?}");
        assert!(text.contains("connection: close"), "{text:?}");
    }
}

#[tokio::test]
async fn drain_closes_and_counts_idle_connections() {
    for requests in [0, 1] {
        let mut connection = Unpolled::open().await;
        for _ in 0..requests {
            connection.send(REQUEST);
        }
        connection.run_for_now().await;
        connection.shutdown.trigger();
        let counts = connection.counts.clone();
        let text = connection.received().await;
        assert_eq!(text.matches("read 0").count(), requests);
        assert_eq!(counts.cuts(ConnectionCut::ExitIdle), 1);
    }
}

#[tokio::test]
async fn exit_counts_dropped_work() {
    for (request, cut) in [
        (
            &b"GET /gate HTTP/1.1\r\nhost: x\r\n\r\n"[..],
            ConnectionCut::ExitAnswer,
        ),
        (b"GET / HT", ConnectionCut::ExitRequest),
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n",
            ConnectionCut::ExitRequest,
        ),
    ] {
        let mut connection = Unpolled::open().await;
        connection.send(request);
        connection.run_for_now().await;
        let counts = connection.counts.clone();
        connection.shutdown.trigger();
        connection.run_for_now().await;
        drop(connection);
        assert_eq!(counts.cuts(cut), 1, "{cut:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drops_work_after_grace_or_abort() {
    for (grace, abort) in [(ms(100), false), (PATIENCE * 9, true)] {
        let server = Server::start(listener::Config {
            shutdown_grace: grace,
            ..Default::default()
        });
        let mut busy = server.connect().await;
        send(&mut busy, b"GET /gate HTTP/1.1\r\nhost: x\r\n\r\n").await;
        read_until(&mut busy, "half.").await;
        server.shutdown.trigger();
        if abort {
            server.shutdown.abort();
        }
        server.stop().await;
        assert_eq!(
            read_to_end(&mut busy).await.0.as_deref(),
            Some(""),
            "the answer stays truncated"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_above_maximum_wait() {
    let server = Server::start(listener::Config {
        connections_max: 1,
        ..Default::default()
    });
    let mut first = server.connect().await;
    send(&mut first, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    read_until(&mut first, "read 0").await;
    let mut second = server.connect().await;
    send(
        &mut second,
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(
        timeout(ms(100), second.readable()).await.is_err(),
        "not served while the first has the place"
    );
    drop(first);
    assert!(
        read_to_end(&mut second)
            .await
            .0
            .expect("no reset")
            .ends_with("read 0")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelines_in_order_and_isolates_panics() {
    let server = Server::with(|_| {});
    let mut other = server.connect().await;
    let mut client = server.connect().await;
    send(&mut client, b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(
        read_to_end(&mut client)
            .await
            .0
            .is_none_or(|text| text.is_empty())
    );
    send(
        &mut other,
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabcGET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    let text = read_to_end(&mut other).await.0.expect("no reset");
    assert!(
        text.find("read 3").unwrap() < text.find("read 0").unwrap(),
        "{text}"
    );
    server.stop().await;
}

#[tokio::test]
async fn silent_connection_is_a_small_future() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stream = Client::connect(address).await.unwrap();
    let handler = Arc::new(toy::Toy {
        gate: Arc::new(tokio::sync::Semaphore::new(0)),
        calls: Default::default(),
    });
    let config = Arc::new(Config::default());
    let future = run(
        Socket::from(stream),
        Some(address),
        Arc::default(),
        handler,
        config,
        Shutdown::new(),
    );
    let bytes = size_of_val(&future);
    assert!(bytes <= 1536, "{bytes} bytes");
}
