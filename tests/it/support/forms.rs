//! Forms as clients send them, and the test photo.

use std::net::SocketAddr;

use super::{Answer, Connection};

/// A `multipart/form-data` body, built part by part.
#[derive(Clone)]
pub struct Form {
    pub boundary: String,
    body: Vec<u8>,
}

impl Form {
    pub fn new() -> Self {
        Self {
            boundary: "----test7MA4YWxkTrZu0gW".into(),
            body: Vec::new(),
        }
    }

    /// A text field.
    pub fn field(self, name: &str, value: &str) -> Self {
        self.part(
            &format!("Content-Disposition: form-data; name=\"{name}\"\r\n"),
            value.as_bytes(),
        )
    }

    /// The part `file` as browsers and curl send it.
    pub fn file(self, name: &str, content_type: &str, bytes: &[u8]) -> Self {
        let head = format!(
            "Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: {content_type}\r\n"
        );
        self.part(&head, bytes)
    }

    /// A part with its header lines, each of which ends with CR LF.
    pub fn part(mut self, head: &str, bytes: &[u8]) -> Self {
        self.body
            .extend_from_slice(format!("--{}\r\n{head}\r\n", self.boundary).as_bytes());
        self.body.extend_from_slice(bytes);
        self.body.extend_from_slice(b"\r\n");
        self
    }

    pub fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    /// The complete body.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.body.clone();
        bytes.extend_from_slice(format!("--{}--\r\n", self.boundary).as_bytes());
        bytes
    }

    /// Sends the form in one request over a new connection.
    pub fn upload(&self, server: SocketAddr, path: &str, authorization: &str) -> Answer {
        let headers = [
            ("Authorization", authorization),
            ("Content-Type", &self.content_type()),
        ];
        Connection::open(server).request("POST", path, &headers, &self.bytes())
    }
}

/// One chunk of a chunked body.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// A complete chunked body in chunks of `chunk_bytes`.
pub fn chunked(body: &[u8], chunk_bytes: usize) -> Vec<u8> {
    let mut sent: Vec<u8> = body.chunks(chunk_bytes).flat_map(chunk).collect();
    sent.extend_from_slice(b"0\r\n\r\n");
    sent
}

/// The repository's photo.
pub fn photo() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/photo.jpg");
    std::fs::read(path).expect("the test photo")
}
