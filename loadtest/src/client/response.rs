//! Parses a response head and the framing of its body (RFC 9112 §6), without I/O.

use super::{Failure, HEAD_BYTES_MAX, HEADERS_MAX};

/// A parsed head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Length of the head, including the empty line.
    pub(super) bytes: usize,
    pub(super) framing: Framing,
    /// Whether the connection can be reused.
    pub(super) is_kept_alive: bool,
}

/// How the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After this number of bytes.
    Length(u64),
    Chunked,
    /// When the peer closes.
    Close,
}

/// Parses the head at the start of `bytes`; `None` until it is complete.
pub(super) fn parse(bytes: &[u8], is_head_request: bool) -> Result<Option<Head>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => return Err(Failure::BadHead),
    };
    let status = response.code.ok_or(Failure::BadHead)?;
    let mut content_length = None;
    let mut is_chunked = false;
    let mut is_kept_alive = response.version == Some(1);
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let value = decimal(header.value).ok_or(Failure::BadHead)?;
            if content_length.is_some_and(|before| before != value) {
                return Err(Failure::BadHead);
            }
            content_length = Some(value);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            // The client requests no other coding.
            if !header.value.eq_ignore_ascii_case(b"chunked") {
                return Err(Failure::BadHead);
            }
            is_chunked = true;
        } else if header.name.eq_ignore_ascii_case("connection") {
            for option in header.value.split(|byte| *byte == b',') {
                let option = option.trim_ascii();
                if option.eq_ignore_ascii_case(b"close") {
                    is_kept_alive = false;
                } else if option.eq_ignore_ascii_case(b"keep-alive") && response.version == Some(0)
                {
                    is_kept_alive = true;
                }
            }
        }
    }
    let framing = match (is_chunked, content_length) {
        _ if is_head_request || status < 200 || matches!(status, 204 | 304) => Framing::Length(0),
        // RFC 9112 §6.1: a server must not send both, and a client cannot know which one is valid.
        (true, Some(_)) => return Err(Failure::BadHead),
        (true, None) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::Close,
    };
    Ok(Some(Head {
        status,
        bytes: length,
        framing,
        is_kept_alive: is_kept_alive && framing != Framing::Close,
    }))
}

/// The first header of this name, if it is text.
pub(super) fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(head).ok()?;
    response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(name))
        .and_then(|header| std::str::from_utf8(header.value).ok())
}

/// Digits only; `str::parse` would accept a sign.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Parses a chunked body (RFC 9112 §7.1), however reads split it.
#[derive(Debug)]
pub(super) struct Chunks {
    at: At,
    /// Length of the current line. Sizes, extensions and trailers have the limit of a head.
    line_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// In the digits of a chunk size.
    Size {
        size: u64,
        digits: u32,
    },
    /// After the size, before the end of the line.
    Extension(u64),
    /// In the data, with this number of bytes left.
    Data(u64),
    /// In the line end after the data.
    DataEnd {
        is_after_return: bool,
    },
    /// In the lines after the last chunk; an empty line ends the body.
    Trailer {
        is_empty: bool,
    },
    End,
}

/// Result of one step of [`Chunks::next`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// Bytes of the body.
    Data(&'a [u8]),
    /// All input is used; the body has not ended.
    More,
    /// The body has ended; the rest of the input does not belong to it.
    End,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self {
            at: At::Size { size: 0, digits: 0 },
            line_bytes: 0,
        }
    }

    /// Consumes `input` up to the next bytes of the body.
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Step<'a>, Failure> {
        loop {
            if let At::End = self.at {
                return Ok(Step::End);
            }
            let Some((&byte, rest)) = input.split_first() else {
                return Ok(Step::More);
            };
            if let At::Data(left) = self.at {
                let bytes = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
                let (data, rest) = input.split_at(bytes);
                *input = rest;
                self.at = match left - bytes as u64 {
                    0 => At::DataEnd {
                        is_after_return: false,
                    },
                    left => At::Data(left),
                };
                return Ok(Step::Data(data));
            }
            *input = rest;
            self.line_bytes += 1;
            if self.line_bytes > HEAD_BYTES_MAX {
                return Err(Failure::WrongBody);
            }
            self.at = self.at.after(byte).ok_or(Failure::WrongBody)?;
            if let At::Data(_) = self.at {
                self.line_bytes = 0;
            }
        }
    }
}

impl At {
    /// The state after `byte`; `None` if the byte is not allowed here.
    fn after(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Size { size, digits }, byte) if byte.is_ascii_hexdigit() && digits < 16 => {
                let digit = char::from(byte).to_digit(16)?;
                Self::Size {
                    size: size << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (Self::Size { size, digits }, b'\r' | b';' | b' ' | b'\t') if digits > 0 => {
                Self::Extension(size)
            }
            (Self::Extension(0), b'\n') => Self::Trailer { is_empty: true },
            (Self::Extension(size), b'\n') => Self::Data(size),
            (Self::Extension(size), _) => Self::Extension(size),
            (
                Self::DataEnd {
                    is_after_return: false,
                },
                b'\r',
            ) => Self::DataEnd {
                is_after_return: true,
            },
            (
                Self::DataEnd {
                    is_after_return: true,
                },
                b'\n',
            ) => Self::Size { size: 0, digits: 0 },
            (Self::Trailer { is_empty: true }, b'\n') => Self::End,
            (Self::Trailer { is_empty }, b'\r') => Self::Trailer { is_empty },
            (Self::Trailer { .. }, byte) => Self::Trailer {
                is_empty: byte == b'\n',
            },
            _ => return None,
        })
    }
}
