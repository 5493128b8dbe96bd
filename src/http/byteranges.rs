//! Renders partial responses: `Content-Range` (RFC 9110 §14.4), and the framing of a `multipart/byteranges` body
//! (§14.6) with its exact length.
//!
//! `plan.rs` chooses the ranges. The caller supplies the bytes between the heads.
//!
//! ```text
//! --B CRLF            part 1's head
//! Content-Type: T CRLF
//! Content-Range: bytes S-E/LEN CRLF CRLF
//! <bytes S to E>
//! CRLF --B CRLF …     part 2's head
//! <bytes>
//! CRLF --B-- CRLF     closing
//! ```

use std::{
    fmt::{self, Write},
    ops::Range,
};

use bytes::{Bytes, BytesMut};
use hyper::header::HeaderValue;

/// The text between parts: 128 random bits as 32 hexadecimal digits. No content contains it by chance, and no uploader
/// can predict it. Valid without quotes (RFC 2046 §5.1.1 allows 70 characters).
#[derive(Debug, Clone, Copy)]
pub struct Boundary(u128);

impl Boundary {
    /// A boundary for one response, from random bytes.
    #[must_use]
    pub fn from_random(random: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(random))
    }
}

impl fmt::Display for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A `multipart/byteranges` response without the bytes of the file.
#[derive(Debug, Clone)]
pub struct Layout {
    /// `Content-Type` of the response.
    pub content_type: HeaderValue,
    /// `Content-Length` of the response: heads, ranges and closing, in bytes.
    pub content_length: u64,
    /// The parts, in the order of the response.
    pub parts: Vec<Part>,
    /// Ends the body, after the last part's bytes.
    pub closing: Bytes,
}

/// A part: its head, then the bytes of its range.
#[derive(Debug, Clone)]
pub struct Part {
    /// Delimiter and header fields, including the empty line.
    pub head: Bytes,
    /// The bytes that follow the head.
    pub range: Range<u64>,
}

/// Lays out the response for `ranges` of a representation of `len` bytes. One buffer holds all heads; `range.rs` bounds
/// the number of ranges (`RANGES_MAX`).
#[must_use]
pub fn layout(
    ranges: Vec<Range<u64>>,
    content_type: &HeaderValue,
    len: u64,
    boundary: Boundary,
) -> Layout {
    // About 120 bytes of fixed text and numbers for each part. If it is too small, the buffer grows.
    let mut buffer = BytesMut::with_capacity((160 + content_type.len()) * (ranges.len() + 1));
    let mut content_length = 0_u64;
    let mut parts = Vec::with_capacity(ranges.len());
    let mut delimiter = "--";
    for range in ranges {
        put(
            &mut buffer,
            format_args!("{delimiter}{boundary}\r\nContent-Type: "),
        );
        buffer.extend_from_slice(content_type.as_bytes());
        put(
            &mut buffer,
            format_args!("\r\nContent-Range: {}\r\n\r\n", ContentRange(&range, len)),
        );
        let head = buffer.split().freeze();
        content_length = content_length
            .saturating_add(head.len() as u64)
            .saturating_add(range.end - range.start);
        parts.push(Part { head, range });
        delimiter = "\r\n--";
    }
    put(&mut buffer, format_args!("{delimiter}{boundary}--\r\n"));
    let closing = buffer.freeze();
    Layout {
        content_type: header_value(format_args!("multipart/byteranges; boundary={boundary}")),
        content_length: content_length.saturating_add(closing.len() as u64),
        parts,
        closing,
    }
}

/// `bytes first-last/len`, for a 206 with one range. The range must not be empty.
#[must_use]
pub fn content_range(range: &Range<u64>, len: u64) -> HeaderValue {
    header_value(format_args!("{}", ContentRange(range, len)))
}

/// `bytes */len`, for a 416 (RFC 9110 §15.5.17).
#[must_use]
pub fn unsatisfied_content_range(len: u64) -> HeaderValue {
    header_value(format_args!("bytes */{len}"))
}

/// A range, and the length of the representation.
struct ContentRange<'a>(&'a Range<u64>, u64);

impl fmt::Display for ContentRange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(range, len) = self;
        write!(
            f,
            "bytes {}-{}/{len}",
            range.start,
            range.end.saturating_sub(1)
        )
    }
}

fn header_value(text: fmt::Arguments<'_>) -> HeaderValue {
    // "bytes ", three numbers of up to 20 digits and two signs.
    let mut buffer = BytesMut::with_capacity(72);
    put(&mut buffer, text);
    HeaderValue::from_maybe_shared(buffer.freeze())
        .expect("fixed text and digits are visible ASCII")
}

fn put(buffer: &mut BytesMut, text: fmt::Arguments<'_>) {
    buffer
        .write_fmt(text)
        .expect("a BytesMut grows, and these values format without errors");
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDARY: &str = "000102030405060708090a0b0c0d0e0f";

    fn boundary() -> Boundary {
        Boundary::from_random(std::array::from_fn(|n| n as u8))
    }

    #[test]
    fn renders_content_range() {
        for (range, len, expected) in [
            (0..2, 100, "bytes 0-1/100"),
            (99..100, 100, "bytes 99-99/100"),
            (
                u64::MAX - 1..u64::MAX,
                u64::MAX,
                "bytes 18446744073709551614-18446744073709551614/18446744073709551615",
            ),
        ] {
            assert_eq!(content_range(&range, len), expected);
        }
        assert_eq!(unsatisfied_content_range(0), "bytes */0");
        assert_eq!(
            unsatisfied_content_range(u64::MAX),
            "bytes */18446744073709551615"
        );
    }

    #[test]
    fn frames_parts_as_in_rfc_9110() {
        let content = b"0123456789";
        let image = HeaderValue::from_static("image/png");
        let layout = layout(vec![0..2, 5..10], &image, 10, boundary());
        let mut body = Vec::new();
        for part in &layout.parts {
            body.extend_from_slice(&part.head);
            body.extend_from_slice(&content[part.range.start as usize..part.range.end as usize]);
        }
        body.extend_from_slice(&layout.closing);
        let expected = format!(
            "--{BOUNDARY}\r\nContent-Type: image/png\r\nContent-Range: bytes 0-1/10\r\n\r\n01\
             \r\n--{BOUNDARY}\r\nContent-Type: image/png\r\nContent-Range: bytes 5-9/10\r\n\r\n56789\
             \r\n--{BOUNDARY}--\r\n"
        );
        assert_eq!(String::from_utf8(body).unwrap(), expected);
        assert_eq!(layout.content_length, expected.len() as u64);
        assert_eq!(
            layout.content_type,
            format!("multipart/byteranges; boundary={BOUNDARY}").as_str()
        );
    }

    #[test]
    fn length_is_exact_beyond_32_bits() {
        let plain = HeaderValue::from_static("application/octet-stream");
        let ranges = vec![0..1 << 40, 1 << 41..1 << 42];
        let layout = layout(ranges, &plain, 1 << 42, boundary());
        let framing: usize = layout.parts.iter().map(|part| part.head.len()).sum();
        let framing = (framing + layout.closing.len()) as u64;
        assert_eq!(layout.content_length, framing + (1 << 40) + (1 << 41));
    }
}
