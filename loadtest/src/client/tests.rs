//! Tests the engine against small servers that send scripted bytes.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::*;

type Script = Box<dyn FnOnce(TcpStream) + Send>;

/// Starts a server that runs one script per connection, in order, and then stops listening.
fn server(scripts: Vec<Script>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        for script in scripts {
            let (stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            script(stream);
        }
    });
    (address, thread)
}

/// Reads one request, responds with these pieces, each in its own write, and closes.
fn saying(pieces: &'static [&'static str]) -> Script {
    Box::new(move |mut stream| {
        read_head(&mut stream).unwrap();
        for piece in pieces {
            // The client may have closed already.
            if stream.write_all(piece.as_bytes()).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    })
}

/// Reads a request without a body; `None` if the client has closed.
fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Ok(_) | Err(_) => return None,
        }
    }
    Some(head)
}

/// The parts of an outcome that tests check.
#[derive(Debug)]
struct Seen {
    result: Result<(), Failure>,
    status: u16,
    body: Vec<u8>,
    body_bytes: u64,
    is_new_connection: bool,
    connection: usize,
    is_ordered: bool,
}

/// A workload that sends a list of requests over any connection.
struct List {
    requests: Vec<Request>,
    seen: Vec<Seen>,
}

impl Workload for List {
    fn next(&mut self, _: usize, _: Instant) -> Next {
        if self.requests.is_empty() {
            return Next::Stop;
        }
        Next::Send(self.requests.remove(0))
    }

    fn done(&mut self, connection: usize, outcome: &Outcome<'_>) {
        let first_byte = outcome.first_byte.unwrap_or(outcome.finished);
        self.seen.push(Seen {
            result: outcome.result,
            status: outcome.status,
            body: outcome.body.to_vec(),
            body_bytes: outcome.body_bytes,
            is_new_connection: outcome.is_new_connection,
            connection,
            is_ordered: outcome.started <= first_byte && first_byte <= outcome.finished,
        });
    }
}

fn settings(target: SocketAddr) -> Settings {
    Settings {
        target,
        sources: Vec::new(),
        connections: 1,
        timeout: Duration::from_secs(20),
    }
}

fn get(answer: Answer) -> Request {
    let mut request = Request::new(&b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"[..], Instant::now());
    request.answer = answer;
    request
}

const COLLECT: Answer = Answer::Collect { bytes_max: 100 };

fn run(settings: Settings, requests: Vec<Request>) -> Vec<Seen> {
    let mut list = List {
        requests,
        seen: Vec::new(),
    };
    Engine::new(settings).unwrap().run(&mut list).unwrap();
    assert!(
        list.seen.iter().all(|seen| seen.is_ordered),
        "{list:?}",
        list = list.seen
    );
    list.seen
}

/// Sends one request to a server with one script and returns the result.
fn one(script: Script, answer: Answer) -> Seen {
    let (address, thread) = server(vec![script]);
    let mut seen = run(settings(address), vec![get(answer)]);
    thread.join().unwrap();
    assert_eq!(seen.len(), 1);
    seen.remove(0)
}

#[test]
fn reuses_kept_connection() {
    let (address, thread) = server(vec![Box::new(|mut stream| {
        for body in ["one", "two", "six"] {
            read_head(&mut stream).unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).unwrap();
        }
        assert!(read_head(&mut stream).is_none(), "and closed at the end");
    })]);
    let seen = run(
        settings(address),
        vec![get(COLLECT), get(COLLECT), get(COLLECT)],
    );
    let bodies: Vec<_> = seen.iter().map(|seen| &seen.body[..]).collect();
    assert_eq!(bodies, [&b"one"[..], b"two", b"six"]);
    let new: Vec<_> = seen.iter().map(|seen| seen.is_new_connection).collect();
    assert_eq!(new, [true, false, false]);
    thread.join().unwrap();
}

#[test]
fn reconnects_after_server_closes() {
    // Four reasons to close: a header, a body without a length, HTTP/1.0, and a silent close.
    let (address, thread) = server(vec![
        saying(&["HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na"]),
        saying(&["HTTP/1.1 200 OK\r\n\r\nbc"]),
        saying(&["HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nd"]),
        Box::new(|mut stream| {
            read_head(&mut stream).unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ne")
                .unwrap();
        }),
    ]);
    let seen = run(settings(address), vec![get(COLLECT); 4]);
    for (seen, body) in seen.iter().zip([&b"a"[..], b"bc", b"d", b"e"]) {
        assert_eq!((seen.result, &seen.body[..]), (Ok(()), body));
        assert!(seen.is_new_connection);
    }
    thread.join().unwrap();
}

/// Checks that all ways to treat a body give the same result.
#[track_caller]
fn all_fail(cases: &[&'static [&'static str]], failure: Failure) {
    for case in cases {
        let expected: Arc<dyn Expected> = Arc::new(Bytes::from_static(b"fives"));
        for answer in [
            COLLECT,
            Answer::Discard { length: None },
            Answer::Equals(expected),
        ] {
            let seen = one(saying(case), answer.clone());
            assert_eq!(seen.result, Err(failure), "{case:?} {answer:?}");
        }
    }
}

#[test]
fn truncated_answer_is_closed_early() {
    all_fail(
        &[
            &[],
            &["HTTP/1.1 200 OK\r\nConte"],
            &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfive"],
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfive\r\n"],
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfives\r\n0\r\n"],
        ],
        Failure::ClosedEarly,
    );
}

#[test]
fn rejects_bad_heads_and_framing() {
    all_fail(
        &[
            &["SSH-2.0\r\n"],
            &["HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nfives"],
            &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nfives"],
            &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nfives"],
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"],
        ],
        Failure::BadHead,
    );
}

#[test]
fn broken_chunks_are_wrong_body() {
    all_fail(
        &[
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\n"],
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfives0\r\n\r\n"],
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11111111111111111\r\n"],
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nmore"],
        ],
        Failure::WrongBody,
    );
}

#[test]
fn excess_bytes_are_wrong_body() {
    const MORE: &[&str] = &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfives!"];
    for answer in [COLLECT, Answer::Discard { length: None }] {
        let seen = one(saying(MORE), answer);
        assert_eq!(seen.result, Err(Failure::WrongBody));
    }
}

#[test]
fn rejects_endless_head() {
    let endless = |mut stream: TcpStream| {
        read_head(&mut stream).unwrap();
        let line = format!("X: {}\r\n", "x".repeat(16 * 1024));
        stream.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
        while stream.write_all(line.as_bytes()).is_ok() {}
    };
    let seen = one(Box::new(endless), COLLECT);
    assert_eq!(seen.result, Err(Failure::BadHead));
}

#[test]
fn reads_answer_in_pieces() {
    const CASES: [&[&str]; 5] = [
        &[
            "HTTP/1.1 20",
            "0 OK\r\nContent-Length: 5\r",
            "\n\r",
            "\nfi",
            "v",
            "es",
        ],
        &[
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
            "Content-Length: 5\r\n\r\nfives",
        ],
        &[
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfives",
        ],
        &[
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nfiv\r\n2\r\ne",
            "s\r",
            "\n0\r\nX: y\r\n\r\n",
        ],
        &[
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0",
            "5\r",
            "\nfi",
            "ves\r\n",
            "0\r\n\r",
            "\n",
        ],
    ];
    for case in CASES {
        let seen = one(saying(case), COLLECT);
        assert_eq!((seen.result, seen.status), (Ok(()), 200), "{case:?}");
        assert_eq!(seen.body, b"fives", "{case:?}");
        let seen = one(saying(case), Answer::Discard { length: Some(5) });
        assert_eq!((seen.result, seen.body_bytes), (Ok(()), 5), "{case:?}");
    }
}

/// Bytes whose period is not a power of two.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// Responds to two requests with these bytes, the second one on the same connection.
fn twice(body: Vec<u8>) -> (SocketAddr, JoinHandle<()>) {
    server(vec![Box::new(move |mut stream| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        while read_head(&mut stream).is_some() {
            // The client closes when it finds a wrong byte.
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    })])
}

#[test]
fn counts_discarded_bytes_exactly() {
    for length in [0, 1, 8192 - 100, 8192, 20_000_001] {
        let (address, thread) = twice(pattern(length));
        let answer = Answer::Discard {
            length: Some(length as u64),
        };
        let seen = run(settings(address), vec![get(answer.clone()), get(answer)]);
        thread.join().unwrap();
        for (turn, seen) in seen.iter().enumerate() {
            assert_eq!((seen.result, seen.body_bytes), (Ok(()), length as u64));
            assert_eq!(seen.is_new_connection, turn == 0);
        }
    }
    let (address, thread) = twice(pattern(100_000));
    let answer = Answer::Discard {
        length: Some(100_001),
    };
    let seen = run(settings(address), vec![get(answer)]);
    thread.join().unwrap();
    assert_eq!(seen[0].result, Err(Failure::WrongBody));
}

#[test]
fn verification_finds_flipped_byte() {
    let length = 600_000;
    let right = pattern(length);
    let equals: Arc<dyn Expected> = Arc::new(Bytes::from(right.clone()));
    let answer = || Answer::Equals(Arc::clone(&equals));
    let (address, thread) = twice(right.clone());
    let seen = run(settings(address), vec![get(answer()), get(answer())]);
    thread.join().unwrap();
    assert!(seen.iter().all(|seen| seen.result.is_ok()), "{seen:?}");
    for flipped in [0, 8000, 8192, 300_000, length - 1] {
        let mut wrong = right.clone();
        wrong[flipped] ^= 1;
        let (address, thread) = twice(wrong);
        let seen = run(settings(address), vec![get(answer())]);
        thread.join().unwrap();
        assert_eq!(seen[0].result, Err(Failure::WrongBody), "byte {flipped}");
    }
    for other in [length - 1, length + 1] {
        let (address, thread) = twice(pattern(other));
        let seen = run(settings(address), vec![get(answer())]);
        thread.join().unwrap();
        assert_eq!(seen[0].result, Err(Failure::WrongBody), "{other} bytes");
    }
}

#[test]
fn shows_refusal_and_keeps_connection() {
    let (address, thread) = server(vec![Box::new(|mut stream| {
        for answer in [
            "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nbusy",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
        ] {
            read_head(&mut stream).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    })]);
    let not_modified = Request {
        status: Status::OneOf(&[304]),
        ..get(COLLECT)
    };
    let seen = run(
        settings(address),
        vec![
            get(Answer::Discard { length: Some(4) }),
            not_modified,
            get(COLLECT),
        ],
    );
    thread.join().unwrap();
    assert_eq!(seen[0].result, Err(Failure::WrongStatus));
    assert_eq!((seen[0].status, &seen[0].body[..]), (503, &b"busy"[..]));
    assert_eq!(
        (seen[1].result, seen[1].status, seen[1].body_bytes),
        (Ok(()), 304, 0)
    );
    assert_eq!((seen[2].result, &seen[2].body[..]), (Ok(()), &b"fine"[..]));
    assert!(!seen[1].is_new_connection && !seen[2].is_new_connection);
}

/// A response to HEAD has no body.
#[test]
fn sends_large_body_whole() {
    let body = pattern(5_000_000);
    let sent = body.clone();
    let (address, thread) = server(vec![Box::new(move |mut stream| {
        read_head(&mut stream).unwrap();
        let mut came = vec![0; sent.len()];
        // Slow at first, so that the client's send buffer fills up.
        thread::sleep(Duration::from_millis(20));
        stream.read_exact(&mut came).unwrap();
        assert!(came == sent, "the body came as it was sent");
        stream
            .write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        let head = read_head(&mut stream).unwrap();
        assert!(head.starts_with(b"HEAD "));
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
            .unwrap();
    })]);
    let body = Bytes::from(body);
    let mut upload = get(COLLECT);
    upload.head = Bytes::from_static(b"POST / HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n");
    upload.body = (0..10)
        .map(|piece| body.slice(piece * 500_000..(piece + 1) * 500_000))
        .collect();
    let mut head = get(COLLECT);
    head.head = Bytes::from_static(b"HEAD / HTTP/1.1\r\n\r\n");
    let seen = run(settings(address), vec![upload, head]);
    thread.join().unwrap();
    assert_eq!((seen[0].result, seen[0].status), (Ok(()), 201));
    assert_eq!((seen[1].result, seen[1].body_bytes), (Ok(()), 0));
    assert!(!seen[1].is_new_connection);
}

#[test]
fn accepts_answer_before_request_ends() {
    let (address, thread) = server(vec![Box::new(|mut stream| {
        read_head(&mut stream).unwrap();
        stream
            .write_all(
                b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig",
            )
            .unwrap();
        // Until the client sees the response and closes.
        while stream.read(&mut [0; 65536]).is_ok_and(|bytes| bytes > 0) {}
    })]);
    let mut upload = get(COLLECT);
    upload.head = Bytes::from_static(b"POST / HTTP/1.1\r\nContent-Length: 900000000\r\n\r\n");
    upload.body = vec![Bytes::from(vec![0; 30_000_000]); 30];
    upload.status = Status::OneOf(&[413]);
    let seen = run(settings(address), vec![upload]);
    thread.join().unwrap();
    assert_eq!((seen[0].result, &seen[0].body[..]), (Ok(()), &b"big"[..]));
}

#[test]
fn reports_connect_failure_and_timeout() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut silent = settings(listener.local_addr().unwrap());
    silent.timeout = Duration::from_millis(50);
    let seen = run(silent.clone(), vec![get(COLLECT), get(COLLECT)]);
    assert_eq!(seen[0].result, Err(Failure::TimedOut));
    assert_eq!(seen[1].result, Err(Failure::TimedOut));
    assert!(
        seen[1].is_new_connection,
        "a late response belongs to no request"
    );
    drop(listener);
    let seen = run(silent, vec![get(COLLECT), get(COLLECT)]);
    assert_eq!(seen[0].result, Err(Failure::Connect));
    assert_eq!(seen[1].result, Err(Failure::Connect));
}

#[test]
fn reports_reset() {
    let (address, thread) = server(vec![Box::new(|mut stream| {
        read_head(&mut stream).unwrap();
        // Closing with unread bytes causes a reset.
        thread::sleep(Duration::from_millis(20));
    })]);
    let mut upload = get(COLLECT);
    upload.head = Bytes::from_static(b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n");
    upload.body = vec![Bytes::from(vec![0; 1000])];
    let seen = run(settings(address), vec![upload]);
    thread.join().unwrap();
    assert_eq!(seen[0].result, Err(Failure::Reset));
}

#[test]
fn uses_source_addresses_in_turn() {
    let sources: Vec<IpAddr> = vec!["127.0.0.2".parse().unwrap(), "127.0.0.3".parse().unwrap()];
    let say_who: fn(TcpStream) = |mut stream| {
        read_head(&mut stream).unwrap();
        let who = stream.peer_addr().unwrap().ip().to_string();
        let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{who}");
        stream.write_all(answer.as_bytes()).unwrap();
    };
    let (address, thread) = server((0..4).map(|_| Box::new(say_who) as Script).collect());
    let settings = Settings {
        sources: sources.clone(),
        connections: 4,
        ..settings(address)
    };
    let seen = run(settings, vec![get(COLLECT); 4]);
    thread.join().unwrap();
    let mut connections: Vec<_> = seen.iter().map(|seen| seen.connection).collect();
    connections.sort_unstable();
    assert_eq!(connections, [0, 1, 2, 3]);
    for seen in seen {
        let source = sources[seen.connection % 2].to_string();
        assert_eq!(String::from_utf8(seen.body).unwrap(), source);
    }
}

/// Arrivals at given moments, accepted by any idle connection.
struct Open {
    arrivals: std::collections::VecDeque<(Instant, u64)>,
    early: usize,
    tags: Vec<u64>,
    waits: Vec<Duration>,
}

impl Workload for Open {
    fn next(&mut self, _: usize, now: Instant) -> Next {
        let Some((moment, tag)) = self.arrivals.pop_front() else {
            return Next::Stop;
        };
        if moment > now {
            self.arrivals.push_front((moment, tag));
            return Next::Idle;
        }
        let mut request = get(COLLECT);
        request.intended = moment;
        request.tag = tag;
        Next::Send(request)
    }

    fn due(&mut self) -> Option<Instant> {
        Some(
            self.arrivals
                .front()
                .map_or_else(Instant::now, |arrival| arrival.0),
        )
    }

    fn done(&mut self, _: usize, outcome: &Outcome<'_>) {
        assert_eq!(outcome.result, Ok(()));
        self.early += usize::from(outcome.started < outcome.request.intended);
        self.tags.push(outcome.request.tag);
        self.waits.push(outcome.latency());
    }
}

/// None is sent early, and waiting for a connection counts.
#[test]
fn sends_arrivals_in_order() {
    // The server takes 30 ms per request; three arrive at once on one connection.
    let (address, thread) = server(vec![Box::new(|mut stream| {
        while read_head(&mut stream).is_some() {
            thread::sleep(Duration::from_millis(30));
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).unwrap();
        }
    })]);
    let start = Instant::now() + Duration::from_millis(20);
    let later = start + Duration::from_millis(150);
    let mut open = Open {
        arrivals: [(start, 1), (start, 2), (start, 3), (later, 4)].into(),
        early: 0,
        tags: Vec::new(),
        waits: Vec::new(),
    };
    let mut engine = Engine::new(settings(address)).unwrap();
    engine.run(&mut open).unwrap();
    assert_eq!(engine.open_connections(), 1, "kept for the next run");
    drop(engine);
    thread.join().unwrap();
    assert_eq!((open.early, &open.tags[..]), (0, &[1, 2, 3, 4][..]));
    // Only lower bounds: no test depends on the speed of the machine.
    for (wait, least) in open.waits.iter().zip([30, 60, 90, 30]) {
        assert!(*wait >= Duration::from_millis(least), "{:?}", open.waits);
    }
}

#[test]
fn idle_workload_is_an_error() {
    struct Never;
    impl Workload for Never {
        fn next(&mut self, _: usize, _: Instant) -> Next {
            Next::Idle
        }
        fn done(&mut self, _: usize, _: &Outcome<'_>) {}
    }
    let mut engine = Engine::new(settings(([127, 0, 0, 1], 1).into())).unwrap();
    engine.run(&mut Never).unwrap_err();
}

/// Splits a chunked body at every position.
#[test]
fn reads_chunks_cut_anywhere() {
    use super::response::{Chunks, Step};
    let whole = b"1\r\na\r\n00a;x=\"y\"\r\n0123456789\r\n0\r\nTrailer: yes\r\n\r\nrest";
    for cut in 0..=whole.len() {
        let mut chunks = Chunks::new();
        let mut body = Vec::new();
        let mut rest = Vec::new();
        let mut has_ended = false;
        for part in [&whole[..cut], &whole[cut..]] {
            let mut input = part;
            loop {
                match chunks.next(&mut input).unwrap() {
                    Step::Data(data) => body.extend_from_slice(data),
                    Step::More => break,
                    Step::End => {
                        has_ended = true;
                        rest.extend_from_slice(input);
                        break;
                    }
                }
            }
        }
        assert!(has_ended);
        assert_eq!(
            (&body[..], &rest[..]),
            (&b"a0123456789"[..], &b"rest"[..]),
            "cut at {cut}"
        );
    }
}
