//! Limits the unsent data in a socket's send buffer (`TCP_NOTSENT_LOWAT`), depending on what the connection writes.
//!
//! Without a limit, a client that reads slowly or not at all holds up to 4 MB in the kernel (`tcp_wmem`). Data that is
//! copied into the kernel (TLS, HTTP/2, short responses) takes memory of its own; `sendfile` passes pages of the page
//! cache, which connections share. So the limit for files is larger than for copies. Decision 0010 has the measurements.

/// The limit of a connection that copies. A network of 10 Gbit/s takes 0.4 ms for it, longer than a wake-up.
const COPIED_BYTES_MAX: u32 = 512 << 10;
/// The limit of a connection that sends large files. With the smaller limit, a download of 9 MB over loopback takes a
/// fifth more CPU time, because the writer is woken more often; with this one it takes as much as without a limit.
const FILE_BYTES_MAX: u32 = 2 << 20;
/// The smallest file slice that gets the larger limit.
const LARGE_SLICE_BYTES_MIN: usize = 512 << 10;
/// Bytes that may be copied between two large slices, such as the head of the next response, before the smaller limit
/// applies again.
const COPIED_BETWEEN_BYTES_MAX: u64 = 64 << 10;

/// A write that is about to be made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Write {
    /// This many bytes of memory.
    Copied(usize),
    /// This many bytes of a file.
    File(usize),
}

/// The limit of one connection.
#[derive(Debug, Default)]
pub(super) struct UnsentLimit {
    /// The limit that was set; 0: none yet.
    in_force_bytes: u32,
    /// Bytes copied since the last large file slice.
    copied_bytes: u64,
}

impl UnsentLimit {
    /// The limit that must be set before `write`, if it must be changed. `written_bytes`: all bytes that the connection has
    /// written so far.
    ///
    /// A connection that has written little needs no limit, so that short connections do not pay the system call.
    pub(super) fn change(&mut self, write: Write, written_bytes: u64) -> Option<u32> {
        let (bytes, limit_bytes) = match write {
            Write::File(bytes) if bytes >= LARGE_SLICE_BYTES_MIN => {
                self.copied_bytes = 0;
                (bytes, FILE_BYTES_MAX)
            }
            // The rest of a large slice, or a file of medium size: the current limit fits.
            Write::File(_) if self.in_force_bytes > 0 => return None,
            Write::File(bytes) => (bytes, COPIED_BYTES_MAX),
            Write::Copied(bytes) => {
                self.copied_bytes += bytes as u64;
                if self.in_force_bytes > 0 && self.copied_bytes <= COPIED_BETWEEN_BYTES_MAX {
                    return None;
                }
                (bytes, COPIED_BYTES_MAX)
            }
        };
        if limit_bytes == self.in_force_bytes
            || written_bytes + bytes as u64 <= u64::from(COPIED_BYTES_MAX)
        {
            return None;
        }
        self.in_force_bytes = limit_bytes;
        Some(limit_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Write::{Copied, File};

    /// The limit that is set before each of `writes`.
    fn told(writes: &[Write]) -> Vec<Option<u32>> {
        let (mut limit, mut written_bytes) = (UnsentLimit::default(), 0);
        let mut tell = |write: &Write| {
            let told = limit.change(*write, written_bytes);
            let (Copied(bytes) | File(bytes)) = write;
            written_bytes += *bytes as u64;
            told
        };
        writes.iter().map(&mut tell).collect()
    }

    #[test]
    fn short_connections_set_no_limit() {
        assert_eq!(told(&[Copied(300), File(500 << 10)]), [None, None]);
        assert_eq!(told(&[Copied(300), Copied(500 << 10)]), [None, None]);
    }

    #[test]
    fn large_files_keep_larger_limit() {
        let answer = [Copied(300), File(2 << 20), File(300 << 10), File(1 << 20)];
        let expected = [None, Some(FILE_BYTES_MAX), None, None];
        assert_eq!(told(&answer), expected);
        assert_eq!(told(&[answer, answer].concat())[4..], [None; 4]);
    }

    #[test]
    fn copies_get_smaller_limit() {
        let copies = told(&[Copied(256 << 10); 4]);
        assert_eq!(copies, [None, None, Some(COPIED_BYTES_MAX), None]);
        // Also after a large file, and between large files.
        let after = told(&[
            File(2 << 20),
            Copied(30 << 10),
            Copied(30 << 10),
            Copied(30 << 10),
        ]);
        let expected = [Some(FILE_BYTES_MAX), None, None, Some(COPIED_BYTES_MAX)];
        assert_eq!(after, expected);
    }

    #[test]
    fn medium_files_get_smaller_limit() {
        assert_eq!(
            told(&[File(300 << 10); 3]),
            [None, Some(COPIED_BYTES_MAX), None]
        );
    }
}
