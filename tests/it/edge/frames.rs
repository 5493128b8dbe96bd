//! An HTTP/2 client that sends and reads single frames, so that a test controls the bytes on the wire.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// RFC 9113 §3.4
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A connection after its preface.
pub struct Client<S = TcpStream>(pub S);

impl Client {
    /// Sends the preface and empty settings.
    pub fn open(address: SocketAddr) -> Self {
        Self::with_settings(address, &[])
    }

    /// Sends the preface and settings: identifier and value.
    pub fn with_settings(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        Self::over_socket(TcpStream::connect(address).expect("a connection"), settings)
    }

    /// Uses a connected socket.
    pub fn over_socket(stream: TcpStream, settings: &[(u16, u32)]) -> Self {
        let timeout = Some(Duration::from_secs(60));
        stream.set_read_timeout(timeout).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        Self::over(stream, settings)
    }
}

impl<S: Read + Write> Client<S> {
    /// Uses a stream that the test has opened.
    pub fn over(stream: S, settings: &[(u16, u32)]) -> Self {
        let mut client = Self(stream);
        client.0.write_all(PREFACE).expect("sent");
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| {
                let (id, value) = (id.to_be_bytes(), value.to_be_bytes());
                id.into_iter().chain(value)
            })
            .collect();
        client.send(SETTINGS, 0, 0, &payload).expect("sent");
        client
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.0.write_all(&frame(kind, flags, stream, payload))
    }

    /// Reads the next frame; an error at the end of the connection.
    pub fn frame(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head)?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; len];
        self.0.read_exact(&mut payload)?;
        Ok(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff,
            payload,
        })
    }

    /// Reads frames until one is `wanted` and returns it.
    #[track_caller]
    pub fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let mut seen = Vec::new();
        loop {
            match self.frame() {
                Ok(frame) if wanted(&frame) => return frame,
                Ok(frame) => seen.push((frame.kind, frame.flags, frame.stream)),
                Err(error) => panic!("{error} after {seen:?}"),
            }
        }
    }

    /// The maximum number of concurrent streams, from the server's settings, which come first.
    #[track_caller]
    pub fn streams_max(&mut self) -> u32 {
        let settings = self.until(|frame| frame.kind == SETTINGS && frame.flags == 0);
        let most = settings.payload.chunks(6).find(|one| one[..2] == [0, 3]);
        code_of(&most.expect("a bound")[2..])
    }

    /// The code of GOAWAY, or `None` if the server just closes.
    pub fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Ok(frame) = self.frame() {
            if frame.kind == GOAWAY {
                code = Some(code_of(&frame.payload[4..]));
            }
        }
        code
    }
}

/// The first four bytes.
pub fn code_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().expect("four bytes"))
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    let mut bytes = vec![len[1], len[2], len[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of literals without indexing (RFC 7541 §6.2.2).
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(text.len(), &mut block);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// An integer of RFC 7541 §5.1 with a prefix of seven bits.
fn length(len: usize, block: &mut Vec<u8>) {
    if len < 127 {
        return block.push(len as u8);
    }
    block.push(127);
    let mut rest = len - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// A request for `path` with further fields.
pub fn get(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut all = vec![
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "files.test"),
        (":path", path),
    ];
    all.extend_from_slice(more);
    fields(&all)
}
