//! The memory table of docs/operations.md: its sum is correct, and a server under the worst possible load uses what the
//! table says, per row and in total.
//!
//! Prices come from the table. Limits are small where they can be configured.

use std::{
    collections::VecDeque,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use crate::{
    edge::frames::{
        ACK, Client, DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, fields, frame, get,
    },
    support::{
        BASE, Connection, Form, Random,
        certificates::{Certificate, Stream, connect_over},
        head,
        media::Program,
        open_from,
        process::{Process, id, poll},
    },
};

/// Full HTTP/1 connections.
const HTTP1: u64 = 150;
/// Full HTTP/2 connections. With [`WAITING`], one more than get a large window.
const HTTP2: usize = 210;
/// Those that fill their header table until no more memory is granted.
const TABLES: usize = 60;
/// HTTP/2 connections with requests only.
const WAITING: usize = 64;
/// Those of [`HTTP2`] with sixteen forms each. Enough that memory left over by the allocator from the previous step, up
/// to 10 MB, does not matter; the others just fill the budget for file bytes.
const WITH_FORMS: usize = 80;
const FORMS: u64 = 16;
/// Downloads on each of the others. With four covers, the maximum number of requests per connection.
const DOWNLOADS: u32 = 16;
/// TLS connections with waiting responses.
const TLS: u64 = 40;
const UPLOADS: u64 = 120;
/// Memory for HTTP/2 requests, the smallest configurable value.
const REQUEST_KB: u64 = 64 << 10;
/// A connection without a request.
const IDLE_KB: u64 = 20;

/// A row: price, count, and product.
struct Row {
    each_kb: u64,
    count: u64,
    sum_kb: u64,
}

fn kb(cell: &str) -> u64 {
    let cell = cell.replace([',', '*'], "");
    let (number, unit) = cell.trim().split_once(' ').unwrap_or((&cell, ""));
    let number: u64 = number
        .parse()
        .unwrap_or_else(|_| panic!("a number in {cell}"));
    match unit {
        "KiB" => number,
        "MiB" => number << 10,
        _ => panic!("a unit in {cell}"),
    }
}

/// The rows of the table by name, and its total in MiB.
fn table() -> (Vec<(String, Row)>, u64) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once("| what | each |").unwrap();
    let lines = rest.lines().skip(2);
    let mut rows = Vec::new();
    for line in lines.take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let sum_kb = kb(cells[3]);
        if cells[0] == "**in all**" {
            return (rows, sum_kb >> 10);
        }
        let count = cells[2].split([':', ' ']).next().unwrap().replace(',', "");
        let row = Row {
            each_kb: kb(cells[1]),
            count: count
                .parse()
                .unwrap_or_else(|_| panic!("a number in {line}")),
            sum_kb,
        };
        rows.push((cells[0].to_owned(), row));
    }
    panic!("no sum in the table");
}

fn row(what: &str) -> Row {
    let (rows, _) = table();
    let row = rows.into_iter().find(|(name, _)| name == what);
    row.unwrap_or_else(|| panic!("a row of {what}")).1
}

fn each_kb(what: &str) -> u64 {
    row(what).each_kb
}

#[test]
fn table_of_memory_adds_up() {
    let (rows, sum_mb) = table();
    for (what, row) in &rows {
        let product_mb = (row.each_kb * row.count).div_ceil(1 << 10);
        assert_eq!(row.sum_kb >> 10, product_mb, "{what}, in MiB");
    }
    let sum_kb: u64 = rows.iter().map(|(_, row)| row.sum_kb).sum();
    assert_eq!(sum_mb, sum_kb >> 10);
    assert!(rows.len() > 15, "the table is read");
}

/// A server under attack, and the measurements so far.
struct Attack {
    server: Process,
    before_kb: u64,
    last_kb: u64,
    /// Measured and documented memory of each row.
    rows: Vec<(&'static str, u64, u64)>,
}

impl Attack {
    /// Adds the server's growth to a row, with the documented value.
    fn step(&mut self, what: &'static str, says_kb: u64) {
        self.await_reading();
        // Lets the server process the last bytes: its threads serve connections in turn.
        for _ in 0..20 {
            self.server.request("GET", "/healthz", &[], b"");
        }
        let now_kb = self.settled_kb();
        let grown_kb = now_kb.saturating_sub(self.last_kb);
        println!("{what}: {grown_kb} kB, the table: {says_kb} kB");
        self.last_kb = now_kb;
        match self.rows.iter_mut().find(|(name, ..)| *name == what) {
            Some((_, grown, says)) => (*grown, *says) = (*grown + grown_kb, *says + says_kb),
            None => self.rows.push((what, grown_kb, says_kb)),
        }
    }

    /// The memory once it is stable: received bytes are parsed, and their buffers freed, with a delay.
    fn settled_kb(&self) -> u64 {
        let mut looks = VecDeque::from([0; 40]);
        poll("memory no longer changes", || {
            looks.pop_front();
            looks.push_back(self.server.status_kb("VmRSS"));
            looks.iter().all(|kb| kb.abs_diff(looks[0]) <= 64)
        });
        looks[0]
    }

    /// Memory of one kind held by clients, according to the server's metric.
    fn held(&self, of: &str) -> u64 {
        let body = self.server.ask_operator("/metrics").body;
        let scrape = String::from_utf8(body.to_vec()).unwrap();
        let name = format!("chatfiles_client_memory_bytes{{of=\"{of}\"}} ");
        let line = scrape.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name} in {scrape}"))
            .parse()
            .unwrap()
    }

    /// Waits until the server has read and processed everything.
    fn await_reading(&self) {
        let ports = [self.server.address, self.server.listening("https://")];
        let ports = ports.map(|address| format!(":{:04X}", address.port()));
        let is_read = |line: &str| {
            let cells: Vec<_> = line.split_whitespace().collect();
            let is_of = |cell: &str| ports.iter().any(|port| cell.ends_with(port));
            let (to_send, to_read) = cells[4].split_once(':').unwrap();
            let waits = is_of(cells[1]) && to_read != "00000000";
            let is_on_its_way = is_of(cells[2]) && to_send != "00000000";
            !waits && !is_on_its_way
        };
        poll("the server has read all", || {
            let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
            sockets.lines().skip(1).all(is_read)
        });
    }
}

/// HTTP/1: a head of maximum length, and an endless form field and part head.
fn full_of_http1(address: SocketAddr) -> Connection {
    let mut connection = Connection::open(address);
    let long: Vec<_> = (0..94).map(|number| format!("X-{number}")).collect();
    let value = "v".repeat(630);
    let mut headers = vec![("Content-Type", "multipart/form-data; boundary=x")];
    headers.extend(long.iter().map(|name| (name.as_str(), value.as_str())));
    let path = "/file/oss/welovemaxim";
    let head = head("POST", path, &headers, Some(800_000));
    connection.send(&head).unwrap();
    connection
}

/// The first fields of a form and the head of a part: the maximum before the file.
fn fields_of_form() -> [Vec<u8>; 2] {
    let field = "--x\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\n";
    let part = "\r\n--x\r\nContent-Disposition: form-data; name=\"next\"\r\nX-A: ";
    [
        format!("{field}{}", "k".repeat(31_000)).into_bytes(),
        format!("{part}{}", "v".repeat(15_000)).into_bytes(),
    ]
}

/// An HTTP/2 connection whose responses wait after the first byte, with its allowed number of requests.
fn open_http2(address: SocketAddr) -> Peer {
    let mut client = Client::with_settings(address, &[(4, 1)]);
    let streams = client.streams_max();
    client.send(SETTINGS, ACK, 0, &[]).unwrap();
    let next = 1;
    Peer {
        client,
        streams,
        next,
    }
}

struct Peer {
    client: Client,
    /// Requests that it may still start.
    streams: u32,
    next: u32,
}

impl Peer {
    /// Starts `count` requests, or as many as allowed; returns the first stream.
    fn begin(&mut self, count: u32, flags: u8, block: &[u8]) -> u32 {
        let first = self.next;
        let mut bytes = Vec::new();
        for _ in 0..count.min(self.streams) {
            bytes.extend(frame(HEADERS, flags, self.next, block));
            self.next += 2;
            self.streams -= 1;
        }
        self.client.0.write_all(&bytes).unwrap();
        first
    }

    /// Requests without a response body whose paths keep frames of 16 KiB in the header table.
    fn fill_table(&mut self, blocks: usize) {
        let mut block = fields(&[
            (":method", "HEAD"),
            (":scheme", "http"),
            (":authority", "x"),
        ]);
        // The path is a literal with indexing (RFC 7541 §6.2.1).
        block.extend([0x44, 1, b'/']);
        block.extend(fields(&[("x-a", &"v".repeat(16_384 - block.len() - 8))]));
        for _ in 0..blocks {
            self.ask_head(&block);
        }
    }

    /// Adds a field as the first one of the table.
    fn remember(&mut self, name: &str, value: &str) {
        let mut block = fields(&[(":method", "HEAD"), (":scheme", "http"), (":path", "/")]);
        let mut field = fields(&[(name, value)]);
        field[0] = 0x40;
        block.extend(field);
        self.ask_head(&block);
    }

    fn ask_head(&mut self, block: &[u8]) {
        let flags = END_STREAM | END_HEADERS;
        self.client.send(HEADERS, flags, self.next, block).unwrap();
        self.next += 2;
        // One at a time, so their number is not limited.
        self.client.until(|frame| frame.kind == HEADERS);
    }

    /// Unread data in frames that each need a buffer of 8 KiB.
    fn send_ahead(&mut self, stream: u32, bytes: usize) {
        let mut all = Vec::with_capacity(bytes + bytes / 400);
        for piece in vec![b'd'; bytes].chunks(4200) {
            all.extend(frame(DATA, 0, stream, piece));
        }
        self.client.0.write_all(&all).unwrap();
    }
}

fn begin_upload(address: SocketAddr, authorization: &str, content_type: &str) -> Connection {
    let mut connection = Connection::open(address);
    let headers = [
        ("Authorization", authorization),
        ("Content-Type", content_type),
    ];
    let path = format!("{BASE}/chatfiles");
    connection
        .send(&head("POST", &path, &headers, Some(850_000)))
        .unwrap();
    connection
}

/// Requests more over TLS than the kernel buffers, and reads nothing.
fn leave_answers(address: SocketAddr, root: &Certificate, request: &[u8]) -> Stream {
    let mut tcp = open_from(address, Ipv4Addr::LOCALHOST, Some(4096));
    let tcp = tcp.stream().try_clone().unwrap();
    let mut stream = connect_over(tcp, "files.test", root, &["http/1.1"]).unwrap();
    // In one record, so that the server reads all of it.
    stream.write_all(&request.repeat(12)).unwrap();
    stream.flush().unwrap();
    stream
}

#[test]
fn worst_case_matches_table() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = Certificate::write(directory.path(), "first", &["files.test"]);
    // Covers wait for it until the test ends.
    let program = Program::fake("exec sleep 1000");
    let toml = directory.path().join("chatfiles.toml");
    // The test's address is exempt, because the limits for all clients together are tested.
    let text = format!(
        "[server]\nconnections_max = 1000\n\
         body_idle_timeout_seconds = 120\nheader_timeout_seconds = 60\n[tls]\ncertificates = [{}]\n\
         [limits]\nexempt = [\"127.0.0.1\"]\nupload_bytes_max = 900000\nupload_bytes_in_flight_max = 230686720\n{}",
        certificate.toml(),
        program.toml("timeout_seconds = 360\nqueue_max = 10000")
    );
    std::fs::write(&toml, text).unwrap();
    let mut flags = vec!["--config", toml.to_str().unwrap(), "--durability", "none"];
    flags.extend(["--operator-listen", "127.0.0.1:0"]);
    flags.extend(["--listen", "127.0.0.1:0", "--listen", "tls:127.0.0.1:0"]);
    let server = Process::start(&directory.path().join("data"), &flags);
    let stored = id(&server.try_upload(&Random::new().bytes(800_000)).unwrap());
    let mut video = b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41".to_vec();
    video.resize(20_000, 0);
    // The first request for a cover waits for two minutes; one that waits for another request's cover, for 10 s.
    let videos: Vec<_> = (0..4 * (HTTP2 + WAITING))
        .map(|_| server.upload(&video))
        .collect();
    let address = server.address;
    let authorization = format!("Bearer {}", server.token());
    let of_file = format!("{BASE}/chatfiles/{stored}");
    // Derivatives and caches that the first requests create.
    for _ in 0..20 {
        server.download(&stored, &[]);
    }
    let before_kb = server.status_kb("VmRSS");
    let mut attack = Attack {
        server,
        before_kb,
        last_kb: before_kb,
        rows: Vec::new(),
    };

    let [field, part] = fields_of_form();
    let mut http1: Vec<_> = (0..HTTP1).map(|_| full_of_http1(address)).collect();
    for bytes in [&field, &part] {
        attack.await_reading();
        for connection in &mut http1 {
            connection.send(bytes).unwrap();
        }
    }
    attack.step(
        "HTTP/1 connections",
        HTTP1 * each_kb("an HTTP/1 connection"),
    );

    let tls = attack.server.listening("https://");
    let headers = [("Authorization", authorization.as_str())];
    let request = head("GET", &of_file, &headers, None);
    let tls: Vec<_> = (0..TLS)
        .map(|_| leave_answers(tls, &certificate, &request))
        .collect();
    let mut looks = VecDeque::from([0; 50]);
    poll("all responses to wait with file bytes", || {
        looks.pop_front();
        looks.push_back(attack.held("file_bytes"));
        looks[0] >= TLS * 30_000 && looks.iter().all(|held| *held == looks[0])
    });
    let of_tls_kb = looks[0] >> 10;
    let price_kb = each_kb("TLS on a connection") + IDLE_KB;
    attack.step("TLS", TLS * price_kb + of_tls_kb);

    // Those with the most requests first: later connections are granted fewer.
    let mut waiting: Vec<_> = (0..WAITING).map(|_| open_http2(address)).collect();
    attack.step("HTTP/2 requests", WAITING as u64 * IDLE_KB);
    let mut peers: Vec<_> = (0..HTTP2).map(|_| open_http2(address)).collect();
    for peer in &mut peers {
        peer.fill_table(3);
    }
    let of_http2_kb = HTTP2 as u64 * each_kb("an HTTP/2 connection");
    attack.step("HTTP/2 connections", of_http2_kb);

    for peer in &mut peers[..TABLES] {
        peer.fill_table(107);
    }
    attack.step("tables of fields", row("tables of fields").sum_kb);

    let form = Form::new().file("f", "application/octet-stream", &[7; 840_000]);
    let (content_type, body) = (form.content_type(), form.bytes());
    let mut uploads: Vec<_> = (0..UPLOADS)
        .map(|_| begin_upload(address, &authorization, &content_type))
        .collect();
    // Slices below 32 KiB pass through the form parser and keep its buffers; larger ones keep their own.
    for round in 0..200 {
        for (number, upload) in uploads.iter_mut().enumerate() {
            let every = [1, 2, 5, 10][number % 4];
            if round % every == 0 {
                let bytes = &body[4000 * round..4000 * (round + every)];
                upload.send(bytes).unwrap();
            }
        }
        std::thread::yield_now();
    }
    attack.step("uploads", UPLOADS * (each_kb("an upload") + IDLE_KB));

    // Short header blocks from here on: the memory for their tables is used up.
    for peer in peers.iter_mut().chain(&mut waiting) {
        peer.remember("authorization", &authorization);
    }
    let with_token = |mut block: Vec<u8>| {
        block.push(0x80 | 62);
        block
    };
    let mut downloads = 0;
    let request = with_token(get(&of_file, &[]));
    for peer in &mut peers[WITH_FORMS..] {
        peer.begin(DOWNLOADS, END_STREAM | END_HEADERS, &request);
        downloads += u64::from(DOWNLOADS);
    }
    for peer in &mut peers[WITH_FORMS..] {
        for _ in 0..DOWNLOADS {
            peer.client.until(|frame| frame.kind == DATA);
        }
    }
    let file_kb = row("bytes of files for TLS and HTTP/2").sum_kb;
    let with_chunks = (file_kb - of_tls_kb) / 64;
    let small_kb = (downloads - with_chunks)
        * each_kb("file bytes of a response that gets nothing from that budget");
    let answers_kb = downloads * 3;
    attack.step(
        "bytes of files",
        file_kb - of_tls_kb + small_kb + answers_kb,
    );

    let post = fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", "/file/oss/welovemaxim"),
        ("content-type", "multipart/form-data; boundary=x"),
        ("content-length", "60000"),
    ]);
    let firsts: Vec<_> = peers[..WITH_FORMS]
        .iter_mut()
        .map(|peer| peer.begin(FORMS as u32, END_HEADERS, &post))
        .collect();
    for bytes in [&field, &part] {
        attack.await_reading();
        for (peer, first) in peers.iter_mut().zip(&firsts) {
            for number in 0..FORMS as u32 {
                for piece in bytes.chunks(16_000) {
                    peer.client
                        .send(DATA, 0, first + 2 * number, piece)
                        .unwrap();
                }
            }
        }
    }
    let forms = WITH_FORMS as u64 * FORMS;
    let of_forms_kb = forms * 9;
    attack.step("forms", forms * each_kb("a form over HTTP/2") + of_forms_kb);

    // Requests that wait for covers and have unread bodies.
    let thumbnail = |id: &str, more: &[_]| {
        let path = format!("{BASE}/chatfiles/{id}");
        get(&path, &[&[("thumbnail", "true")], more].concat())
    };
    let all = waiting.iter_mut().chain(&mut peers);
    let count = HTTP2 + WAITING;
    for (number, (peer, videos)) in all.zip(videos.chunks(4)).enumerate() {
        let bytes = if number + 1 < count { 262_000 } else { 16_000 };
        let begin = |id: &String| peer.begin(1, END_HEADERS, &with_token(thumbnail(id, &[])));
        let streams: Vec<_> = videos.iter().map(begin).collect();
        for stream in streams {
            peer.send_ahead(stream, bytes);
        }
    }
    let ahead_kb = count as u64 * each_kb("sent ahead on an HTTP/2 connection");
    let of_these_kb = 4 * count as u64 * 9;
    let above_kb = row("data sent ahead on HTTP/2, above 64 KiB per connection").sum_kb;
    attack.step("sent ahead", ahead_kb + above_kb + of_these_kb);

    // The same without bodies, until no more are accepted.
    let request = with_token(thumbnail(&videos[0], &[]));
    for peer in &mut waiting {
        peer.begin(100, END_STREAM | END_HEADERS, &request);
    }
    let counted_kb = of_these_kb + of_forms_kb + answers_kb;
    attack.step("HTTP/2 requests", REQUEST_KB - counted_kb);

    let peak_kb = attack.server.status_kb("VmHWM") - attack.before_kb;
    let says_kb = attack.rows.iter().map(|(_, _, says)| says).sum();
    attack.rows.push(("in all", peak_kb, says_kb));
    let mut wrong = Vec::new();
    for (what, grown_kb, says_kb) in attack.rows {
        let percent = grown_kb * 100 / says_kb;
        let line = format!("{what}: {grown_kb} kB, {percent} % of the {says_kb} kB of the table");
        println!("{line}");
        // How much of its buffers an upload's slices keep depends on how reads split them: often half of the maximum.
        // Forms keep more of the same budget, so the total has no uploads.
        let least = if what == "uploads" { 50 } else { 80 };
        if !(least..=120).contains(&percent) {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    drop((http1, tls, uploads, waiting, peers));
}
