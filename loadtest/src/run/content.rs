//! File contents: slices of one block of noise, at positions that follow from the file's seed. Any file can be sent and
//! compared without a copy. A picture is a real JPEG, padded with comments to the requested length.
//!
//! ```text
//! plain     start │ noise …
//! picture   FF D8 │ FF FE len noise … │ FF FE len noise … │ the rest of a JPEG that is kept once
//! ```

use bytes::Bytes;

use crate::client::Expected;

/// The noise repeats after this many bytes. A prime, so that a server that mixes up blocks is noticed.
const PERIOD_BYTES: usize = 1_048_583;
/// Longest comment of a JPEG: its two-byte length field counts itself.
const COMMENT_BYTES_MAX: u64 = 65_535 + 2;
/// Overhead of a comment: marker and length.
const COMMENT_HEAD_BYTES: u64 = 4;

/// A block of noise, shared by all files.
#[derive(Debug, Clone)]
pub(crate) struct Noise(Bytes);

impl Noise {
    /// Generates the block with SplitMix64.
    pub(crate) fn new(seed: u64) -> Self {
        let mut block = vec![0; PERIOD_BYTES];
        for (index, place) in (0u64..).zip(block.chunks_mut(8)) {
            let word = mix(seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            place.copy_from_slice(&word.to_le_bytes()[..place.len()]);
        }
        Self(block.into())
    }

    /// Appends slices of `len` bytes in total, starting at a position, and returns the position after them.
    fn slices(&self, mut at: usize, mut len: u64, pieces: &mut Vec<Bytes>) -> usize {
        while len > 0 {
            let left = (PERIOD_BYTES - at) as u64;
            let take = left.min(len) as usize;
            pieces.push(self.0.slice(at..at + take));
            at = (at + take) % PERIOD_BYTES;
            len -= take as u64;
        }
        at
    }
}

/// The finaliser of SplitMix64: every input bit affects every output bit.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The content of one file.
#[derive(Debug)]
pub(crate) struct Content {
    pieces: Vec<Bytes>,
    /// End offset of each piece.
    ends: Vec<u64>,
}

impl Content {
    /// Noise of a given length, starting with the magic bytes of a type (truncated in a shorter file).
    pub(crate) fn plain(noise: &Noise, seed: u64, len: u64, start: &Bytes) -> Self {
        let start = start.slice(..start.len().min(usize::try_from(len).unwrap_or(usize::MAX)));
        let rest = len - start.len() as u64;
        let mut pieces = vec![start];
        noise.slices(position(seed), rest, &mut pieces);
        Self::new(pieces)
    }

    /// A JPEG padded to a length. If the JPEG is longer, or too close to the length for a comment, it stays unchanged.
    pub(crate) fn picture(noise: &Noise, seed: u64, len: u64, jpeg: &Bytes) -> Self {
        let mut padding = len.saturating_sub(jpeg.len() as u64);
        let mut pieces = vec![jpeg.slice(..2)];
        let mut at = position(seed);
        while padding >= COMMENT_HEAD_BYTES {
            let comment = match padding.checked_sub(COMMENT_BYTES_MAX) {
                None | Some(0) => padding,
                // The remainder would be too short for a comment head, so it gets some bytes of this one.
                Some(1..COMMENT_HEAD_BYTES) => COMMENT_BYTES_MAX - COMMENT_HEAD_BYTES,
                Some(_) => COMMENT_BYTES_MAX,
            };
            let [high, low] = ((comment - 2) as u16).to_be_bytes();
            pieces.push(Bytes::copy_from_slice(&[0xff, 0xfe, high, low]));
            at = noise.slices(at, comment - COMMENT_HEAD_BYTES, &mut pieces);
            padding -= comment;
        }
        pieces.push(jpeg.slice(2..));
        Self::new(pieces)
    }

    fn new(pieces: Vec<Bytes>) -> Self {
        let mut end = 0;
        let after = |piece: &Bytes| {
            end += piece.len() as u64;
            end
        };
        let ends = pieces.iter().map(after).collect();
        Self { pieces, ends }
    }

    /// The content in order.
    pub(crate) fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }
}

impl Expected for Content {
    fn length(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn matches(&self, mut offset: u64, mut bytes: &[u8]) -> bool {
        let first = self.ends.partition_point(|end| *end <= offset);
        for (piece, end) in self.pieces[first..].iter().zip(&self.ends[first..]) {
            let left = (end - offset) as usize;
            let (own, rest) = bytes.split_at(left.min(bytes.len()));
            let skip = piece.len() - left;
            if piece[skip..skip + own.len()] != *own {
                return false;
            }
            offset = *end;
            bytes = rest;
            if bytes.is_empty() {
                break;
            }
        }
        bytes.is_empty()
    }
}

/// A range of a file.
#[derive(Debug)]
pub(crate) struct Part {
    /// The file.
    pub(crate) content: Content,
    /// Offset of the range.
    pub(crate) from: u64,
    /// Length of the range.
    pub(crate) length: u64,
}

impl Expected for Part {
    fn length(&self) -> u64 {
        self.length
    }

    fn matches(&self, offset: u64, bytes: &[u8]) -> bool {
        self.content.matches(self.from + offset, bytes)
    }
}

fn position(seed: u64) -> usize {
    (mix(seed) % PERIOD_BYTES as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::{super::picture::Pictures, *};

    fn plain(seed: u64, len: u64) -> Content {
        let start = Bytes::from_static(b"%PDF-1.7\n");
        Content::plain(&Noise::new(1), seed, len, &start)
    }

    fn whole(content: &Content) -> Vec<u8> {
        content.pieces().concat()
    }

    #[test]
    fn file_has_length_and_type() {
        for len in [0, 1, 8, 9, 10, 5_000, 1_048_583, 3_000_000] {
            let bytes = whole(&plain(7, len));
            assert_eq!(bytes.len() as u64, len);
            assert!(bytes.starts_with(b"%PDF-1.7\n") || b"%PDF-1.7\n".starts_with(&bytes));
        }
    }

    #[test]
    fn pieces_match_only_at_their_offset() {
        let content = plain(7, 1_200_000);
        let bytes = whole(&content);
        for at in (0..bytes.len()).step_by(9_973) {
            let piece = &bytes[at..bytes.len().min(at + at % 70_000 + 20)];
            assert!(content.matches(at as u64, piece), "{at}");
            assert!(!content.matches(at as u64 + 1, piece), "{at}");
            let part = Part {
                from: 5,
                length: 1_000_000,
                content: plain(7, 1_200_000),
            };
            assert_eq!(at >= 5, at >= 5 && part.matches(at as u64 - 5, piece));
        }
    }

    #[test]
    fn flipped_bit_does_not_match() {
        let content = plain(7, 1_200_000);
        let mut bytes = whole(&content);
        assert!(content.matches(0, &bytes));
        for at in [0, 8, 9, 64 * 1024, 1_199_999] {
            bytes[at] ^= 0x10;
            assert!(!content.matches(0, &bytes), "{at}");
            bytes[at] ^= 0x10;
        }
        bytes.push(0);
        assert!(!content.matches(0, &bytes), "longer than the file");
    }

    #[test]
    fn files_differ_by_seed() {
        let (a, b) = (whole(&plain(1, 4096)), whole(&plain(2, 4096)));
        let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
        assert!(same < 64, "{same} of 4096 bytes are the same by chance");
    }

    #[test]
    fn padded_picture_is_jpeg() {
        let jpeg = Pictures::new().unwrap().for_len(0);
        for padding in [
            0, 4, 5, 65_536, 65_537, 65_538, 65_540, 65_541, 131_075, 200_000,
        ] {
            let len = jpeg.len() as u64 + padding;
            let content = Content::picture(&Noise::new(1), 3, len, &jpeg);
            let bytes = whole(&content);
            assert_eq!((bytes.len() as u64, content.length()), (len, len));
            assert!(content.matches(0, &bytes));
            let image = image::load_from_memory(&bytes).unwrap();
            assert_eq!((image.width(), image.height()), (160, 120), "{padding}");
        }
        let longer = Content::picture(&Noise::new(1), 3, jpeg.len() as u64 + 3, &jpeg);
        assert_eq!(longer.length(), jpeg.len() as u64, "no comment is so short");
    }
}
