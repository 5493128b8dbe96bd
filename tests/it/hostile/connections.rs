//! Endless heads, invalid paths, crowds of addresses, and clients that never read.

use chatfiles::{
    limit::{self, Limiter, Rate, RateClass},
    time::Clock,
};

use super::{assert_alive, send_until_closed};
use crate::support::{BASE, Connection, TestServer, head, process::poll};

/// By time and by length.
#[test]
fn endless_head_is_cut() {
    let server = TestServer::with("[server]\nheader_timeout_seconds = 1");
    // Slow: one byte and no more.
    let mut slow = server.connect();
    slow.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ")
        .unwrap();
    assert!(slow.rest().is_empty(), "no client to answer");
    // Fast: too many headers, too long a header, too long a path, and an endless head.
    let many: String = (0..500).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "y".repeat(1 << 20));
    for (what, line, headers) in [
        ("many", "GET /healthz HTTP/1.1\r\nHost: x\r\n", &many),
        ("long", "GET /healthz HTTP/1.1\r\nHost: x\r\n", &long),
        ("a long path", "GET /healthz?", &long),
    ] {
        let mut connection = server.connect();
        let _ = connection.send(line.as_bytes());
        let _ = connection.send(headers.as_bytes());
        let _ = connection.send(b"\r\n");
        let answer = connection.answer("GET").unwrap();
        assert!(
            matches!(answer.status, 400 | 414 | 431),
            "{what}: {}",
            answer.status
        );
    }
    let mut endless = server.connect();
    let sent = send_until_closed(
        &mut endless,
        b"GET / HTTP/1.1\r\n",
        b"X-Y: zzzzzzzzzzzzz\r\n",
    );
    assert!(sent < 80 << 20, "{sent} bytes were read");
    assert_alive(&server);
}

#[test]
fn path_like_ids_find_nothing() {
    let server = TestServer::start();
    let authorization = format!("Bearer {}", server.token("mallory"));
    let headers = [("Authorization", authorization.as_str())];
    let long = "a".repeat(5000);
    for id in [
        "..",
        "../keys",
        "..%2f..%2fkeys",
        "%2e%2e/%2e%2e/etc/passwd",
        "../../../../../../../../../etc/passwd",
        "%00",
        "019aa000-0000-7000-8000-000000000000%00",
        "019aa000-0000-7000-8000-000000000000/..",
        "019aa000-0000-7000-8000-000000000000.jpg",
        "{019aa000-0000-7000-8000-000000000000}",
        "019aa00000007000800000000000000000",
        "0c0f5f3a-e66b-11e3-8863-f1c202c2b3ae",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
        "..\\..\\keys",
        "%e2%80%ae",
        "*",
        "-1",
        &long,
    ] {
        for suffix in ["", "?thumbnail=true", "?vframe=true"] {
            for path in ["chatfiles", "sdk/chatfiles/part-upload"] {
                let path = format!("{BASE}/{path}/{id}{suffix}");
                let answer = server.get(&path, &headers);
                // A dot segment may lead to another route, but never to a file or to internals.
                assert!(
                    matches!(answer.status, 404 | 405),
                    "{path}: {}",
                    answer.text()
                );
                assert!(answer.json()["error"].is_string(), "{path}");
            }
        }
    }
}

#[test]
fn many_addresses_need_bounded_memory() {
    const BOUND: usize = 10_000;
    // The limiter itself: its memory is bounded, and an address beyond it is still limited.
    let clock = Clock::system();
    let (now, rate) = (
        clock.monotonic(),
        Rate {
            per_second: 1,
            burst: 1,
        },
    );
    let config = limit::Config {
        addresses_max: BOUND,
        ..limit::Config::default()
    };
    let limiter = Limiter::new(config, now);
    let call = |address: u32| limiter.check(0, RateClass::Download, address_of(address), rate, now);
    for address in 0..100_000 {
        let _ = call(address);
    }
    assert_eq!(limiter.entries(), BOUND);
    for address in [0, 9_999, 50_000, 99_999] {
        assert!(call(address).is_err(), "{address}");
    }

    // Through the socket, with a new address per pipelined request.
    let server = TestServer::with(&format!(
        "[limits]\ncalls_per_second = 1000\ncalls_burst = 1000\naddresses_max = {BOUND}\ntrusted_proxies = [\"127.0.0.0/8\"]"
    ));
    std::thread::scope(|scope| {
        for client in 0..4_u32 {
            let server = &server;
            scope.spawn(move || {
                let mut connection = server.connect();
                for batch in 0..250_u32 {
                    let first = (client * 250 + batch) * 100;
                    let requests: String = (first..first + 100)
                        .map(|address| {
                            format!(
                                "GET /nowhere HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {}\r\n\r\n",
                                address_of(address)
                            )
                        })
                        .collect();
                    connection.send(requests.as_bytes()).unwrap();
                    for _ in 0..100 {
                        let status = connection.answer("GET").unwrap().status;
                        assert!(matches!(status, 404 | 503), "{status}");
                    }
                }
            });
        }
    });
    assert_alive(&server);
}

fn address_of(number: u32) -> std::net::IpAddr {
    std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

#[test]
fn unread_download_is_cut() {
    const BYTES: usize = 48 << 20;
    let server = TestServer::with(&format!(
        "[server]\nwrite_stall_timeout_seconds = 1\n[limits]\nupload_bytes_max = {BYTES}"
    ));
    let id = server.store_file("f", "video/mp4", &vec![7; BYTES]);
    let authorization = format!("Bearer {}", server.token("mallory"));
    let request = head(
        "GET",
        &format!("{BASE}/chatfiles/{id}"),
        &[("Authorization", &authorization)],
        None,
    );
    let mut stalled: Vec<Connection> = (0..20).map(|_| server.connect()).collect();
    for connection in &mut stalled {
        connection.send(&request).unwrap();
    }
    let ranged = server.download(&id, &[("Range", "bytes=-5")]);
    assert_eq!((ranged.status, ranged.body.len()), (206, 5));
    for connection in &mut stalled {
        // Reset, so that neither side keeps unread bytes.
        poll("the reset", || {
            connection.stream().take_error().unwrap().is_some()
        });
    }
    drop(stalled);
    assert_eq!(server.download(&id, &[]).body.len(), BYTES);
}

#[test]
fn thousand_dropped_connections_do_no_harm() {
    let server = TestServer::start();
    for _ in 0..10 {
        drop(
            (0..100)
                .map(|_| server.connect())
                .collect::<Vec<Connection>>(),
        );
    }
    assert_alive(&server);
}
