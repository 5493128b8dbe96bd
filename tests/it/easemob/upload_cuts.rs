//! Payloads that look like the end of a form, and streams split anywhere: the stored file equals the sent one.

use crate::support::{BASE, Form, Random, TestServer, chunk, head};

/// Sizes at which the processing changes: a slice that bypasses the form parser, a batch, two batches.
const EDGES: [usize; 4] = [32 << 10, 64 << 10, 256 << 10, 512 << 10];

/// Very small, near one of those sizes, or anything up to a megabyte.
fn size(random: &mut Random) -> usize {
    match random.below(4) {
        0 => 1 + random.below(4),
        1 | 2 => EDGES[random.below(EDGES.len())] + random.below(200) - 100,
        _ => random.below(1 << 20),
    }
}

/// Random bytes with text inside and at the end that resembles the payload's end.
fn payload(random: &mut Random, boundary: &str) -> Vec<u8> {
    let len = size(random);
    let mut bytes = random.bytes(len);
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    for _ in 0..random.below(40) {
        // Never the complete delimiter.
        let decoy = &delimiter[..random.below(delimiter.len())];
        if bytes.len() > decoy.len() {
            let at = random.below(bytes.len() - decoy.len());
            bytes[at..at + decoy.len()].copy_from_slice(decoy);
        }
    }
    for _ in 0..random.below(3) {
        bytes.extend_from_slice(&delimiter[..random.below(delimiter.len())]);
    }
    // Two adjacent decoys may form a complete one.
    let is_whole = bytes.windows(delimiter.len()).any(|w| w == delimiter);
    if is_whole { vec![b'\r'] } else { bytes }
}

/// How much is sent at once: little, much, or both in turn.
fn cut(random: &mut Random, most: usize) -> usize {
    match random.below(3) {
        0 => 1 + random.below(100),
        _ => 1 + random.below(most),
    }
}

/// Payloads contain text that looks like a boundary.
#[test]
fn stores_payload_unchanged_at_any_cut() {
    let server = TestServer::start();
    let authorization = format!("Bearer {}", server.token("alice"));
    let mut random = Random::new();
    let mut connection = server.connect();
    for round in 0..150 {
        let mut form = Form::new();
        // RFC 2046 allows a boundary of one character. With leading dashes, it looks like its own prefix.
        form.boundary =
            ["x", "--", "----------------------------d74496d66958873e"][random.below(3)].to_owned();
        let bytes = payload(&mut random, &form.boundary);
        // Other parts on both sides, so that the parser buffers bytes before and continues after.
        if random.below(2) == 0 {
            form = form.field("before", &"b".repeat(random.below(3000)));
        }
        form = form.file("a.bin", "application/octet-stream", &bytes);
        if random.below(2) == 0 {
            form = form.field("after", &"a".repeat(random.below(3000)));
        }
        let is_chunked = random.below(3) == 0;
        let content_type = form.content_type();
        let mut headers = vec![
            ("Authorization", &*authorization),
            ("Content-Type", &content_type),
        ];
        if is_chunked {
            headers.push(("Transfer-Encoding", "chunked"));
        }
        let body = form.bytes();
        let length = (!is_chunked).then_some(body.len());
        connection
            .send(&head(
                "POST",
                &format!("{BASE}/chatfiles"),
                &headers,
                length,
            ))
            .unwrap();
        // Few enough pieces to send thousands of forms per minute.
        let most = (body.len() / 10).max(1000);
        let mut rest = &*body;
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(cut(&mut random, most).min(rest.len()));
            rest = more;
            if is_chunked {
                connection.send(&chunk(piece)).unwrap();
            } else {
                connection.send(piece).unwrap();
            }
        }
        if is_chunked {
            connection.send(b"0\r\n\r\n").unwrap();
        }
        let answer = connection.answer("POST").unwrap();
        assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
        let id = answer.json()["entities"][0]["uuid"]
            .as_str()
            .unwrap()
            .to_owned();
        let stored = server.download(&id, &[]).body;
        assert!(
            stored == bytes,
            "round {round}: {} bytes of {} sent with boundary {}",
            stored.len(),
            bytes.len(),
            form.boundary
        );
    }
}
