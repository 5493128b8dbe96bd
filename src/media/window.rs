//! Reads a file at any offset through a small buffer, for parsers that must not have the whole file in memory.
//!
//! A header is parsed before the memory for the file is reserved, so at most [`WINDOW_BYTES`] of it are in memory at a
//! time.

use std::io;

/// Bytes of a file in memory at a time, and so the longest slice that a parser gets. A JPEG segment fits.
pub(super) const WINDOW_BYTES: usize = 64 << 10;

/// A file, or bytes in memory, that can be read at any offset.
pub trait ReadAt {
    /// The length in bytes.
    fn size(&self) -> u64;

    /// Fills `into` with the bytes from offset `at`.
    ///
    /// # Errors
    /// Where the disk fails, or there are fewer bytes.
    fn read_exact_at(&self, at: u64, into: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(at).ok().and_then(|at| self.get(at..));
        let bytes = from.and_then(|from| from.get(..into.len()));
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A file and the part of it that is in the buffer.
pub(super) struct Window<'a> {
    source: &'a dyn ReadAt,
    size: u64,
    bytes: Vec<u8>,
    start: u64,
    /// The first error of the disk. Nothing is read after it.
    failure: Option<io::Error>,
}

impl<'a> Window<'a> {
    pub(super) fn new(source: &'a dyn ReadAt) -> Self {
        Self {
            source,
            size: source.size(),
            bytes: Vec::new(),
            start: 0,
            failure: None,
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Returns `len` bytes from `at`. `None` past the end, for more than [`WINDOW_BYTES`], and after an error of the disk.
    pub(super) fn get(&mut self, at: u64, len: usize) -> Option<&[u8]> {
        let end = at.checked_add(len as u64)?;
        if end > self.size || len > WINDOW_BYTES || self.failure.is_some() {
            return None;
        }
        let is_here = at >= self.start && end <= self.start + self.bytes.len() as u64;
        if !is_here {
            self.load(at)?;
        }
        let from = usize::try_from(at - self.start).ok()?;
        self.bytes.get(from..from + len)
    }

    /// Returns at most `len` bytes from `at`: fewer at the end of the file.
    pub(super) fn get_some(&mut self, at: u64, len: usize) -> Option<&[u8]> {
        let rest = usize::try_from(self.size.checked_sub(at)?).unwrap_or(usize::MAX);
        self.get(at, len.min(rest).min(WINDOW_BYTES))
    }

    /// The offset of the first `byte` at or after `at`.
    pub(super) fn find(&mut self, byte: u8, mut at: u64) -> Option<u64> {
        while at < self.size {
            // First the rest of the buffer, so that no byte is read twice.
            let loaded = (self.start + self.bytes.len() as u64).saturating_sub(at);
            let len = match at >= self.start && loaded > 0 {
                true => usize::try_from(loaded).ok()?,
                false => WINDOW_BYTES,
            };
            let bytes = self.get_some(at, len)?;
            if let Some(offset) = memchr::memchr(byte, bytes) {
                return Some(at + offset as u64);
            }
            at += bytes.len() as u64;
        }
        None
    }

    pub(super) fn byte(&mut self, at: u64) -> Option<u8> {
        self.array(at).map(|[byte]| byte)
    }

    pub(super) fn array<const N: usize>(&mut self, at: u64) -> Option<[u8; N]> {
        self.get(at, N)?.first_chunk().copied()
    }

    pub(super) fn u16_be(&mut self, at: u64) -> Option<u16> {
        self.array(at).map(u16::from_be_bytes)
    }

    pub(super) fn u16_le(&mut self, at: u64) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(super) fn u24_le(&mut self, at: u64) -> Option<u32> {
        self.array(at)
            .map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0]))
    }

    pub(super) fn u32_be(&mut self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }

    pub(super) fn u32_le(&mut self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// The error of the disk that ended the reading, if there was one.
    pub(super) fn into_failure(self) -> Option<io::Error> {
        self.failure
    }

    fn load(&mut self, at: u64) -> Option<()> {
        let len =
            usize::try_from(self.size - at).map_or(WINDOW_BYTES, |rest| rest.min(WINDOW_BYTES));
        self.bytes.resize(len, 0);
        self.start = at;
        let read = self.source.read_exact_at(at, &mut self.bytes);
        read.map_err(|error| self.failure = Some(error)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_across_window_borders() {
        let bytes: Vec<u8> = (0..3 * WINDOW_BYTES + 7)
            .map(|at| (at % 251) as u8)
            .collect();
        let source = bytes.as_slice();
        let mut window = Window::new(&source);
        for at in [0, 5, WINDOW_BYTES - 2, 2 * WINDOW_BYTES, bytes.len() - 4, 1] {
            let expected = &bytes[at..(at + 4).min(bytes.len())];
            assert_eq!(window.get_some(at as u64, 4), Some(expected));
        }
        assert_eq!(window.get(bytes.len() as u64 - 3, 4), None);
        assert_eq!(window.get(u64::MAX, 4), None);
        assert_eq!(window.get(0, WINDOW_BYTES + 1), None);
    }

    #[test]
    fn finds_bytes_in_every_window() {
        for at in [0, WINDOW_BYTES - 1, WINDOW_BYTES, 3 * WINDOW_BYTES] {
            let mut bytes = vec![1; 3 * WINDOW_BYTES + 1];
            bytes[at] = 7;
            let source = bytes.as_slice();
            let mut window = Window::new(&source);
            assert_eq!(window.find(7, 0), Some(at as u64));
            assert_eq!(window.find(7, at as u64 + 1), None);
            assert_eq!(window.find(1, 0), Some(u64::from(at == 0)));
        }
    }

    #[test]
    fn reports_a_failing_disk() {
        struct Broken;
        impl ReadAt for Broken {
            fn size(&self) -> u64 {
                100
            }
            fn read_exact_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
                Err(io::Error::other("no disk"))
            }
        }
        let mut window = Window::new(&Broken);
        assert_eq!(window.get(0, 4), None);
        assert_eq!(window.find(0, 0), None);
        assert!(window.into_failure().is_some());
    }
}
