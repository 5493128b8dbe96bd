//! How much may wait in the kernel without having been sent (`TCP_NOTSENT_LOWAT`), by what a connection writes.
//!
//! Without a limit, a client that reads slowly or not at all holds up to 4 MB in the kernel (`tcp_wmem`). What is copied
//! into the kernel (TLS, HTTP/2, short answers) is memory of its own; what `sendfile` passes are pages of the page
//! cache, which many connections share. So files may wait in a larger amount than copies. The figures: decision 0010.

/// The limit of a connection that copies. A network of 10 Gbit/s takes this in 0.4 ms, which is longer than a wake-up.
const COPIED_BYTES_MAX: u32 = 512 << 10;
/// The limit of a connection that sends large files. With the smaller one, a download of 9 MB over loopback costs a fifth
/// more CPU time, because the writer is woken more often; with this one it costs what it does without a limit.
const FILE_BYTES_MAX: u32 = 2 << 20;
/// A slice of a file from this size on is worth the larger limit.
const LARGE_SLICE_BYTES_MIN: usize = 512 << 10;
/// So much may be copied between two large slices, such as the head of the next answer, before the smaller limit
/// counts again.
const COPIED_BETWEEN_BYTES_MAX: u64 = 64 << 10;

/// What is about to be written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Write {
    /// So many bytes of memory.
    Copied(usize),
    /// So many bytes of a file.
    File(usize),
}

/// The limit of one connection.
#[derive(Debug, Default)]
pub(super) struct UnsentLimit {
    /// What the kernel was told; 0: nothing yet.
    in_force_bytes: u32,
    /// Copied since the last large slice of a file.
    copied_bytes: u64,
}

impl UnsentLimit {
    /// The limit that the kernel must be told before `write`, if it has to be told one. `written_bytes`: all that the
    /// connection has written until now.
    ///
    /// A connection that has written little needs no limit, so that short ones do not pay the call.
    pub(super) fn change(&mut self, write: Write, written_bytes: u64) -> Option<u32> {
        let (bytes, limit_bytes) = match write {
            Write::File(bytes) if bytes >= LARGE_SLICE_BYTES_MIN => {
                self.copied_bytes = 0;
                (bytes, FILE_BYTES_MAX)
            }
            // The rest of a large slice, or a file of middle size: what is in force is right.
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

    /// What the kernel is told before each of `writes`.
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
    fn short_connections_pay_no_call() {
        assert_eq!(told(&[Copied(300), File(500 << 10)]), [None, None]);
        assert_eq!(told(&[Copied(300), Copied(500 << 10)]), [None, None]);
    }

    #[test]
    fn large_files_keep_the_larger_limit() {
        let answer = [Copied(300), File(2 << 20), File(300 << 10), File(1 << 20)];
        let expected = [None, Some(FILE_BYTES_MAX), None, None];
        assert_eq!(told(&answer), expected);
        assert_eq!(told(&[answer, answer].concat())[4..], [None; 4]);
    }

    #[test]
    fn copies_are_held_to_the_smaller_limit() {
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
    fn files_of_middle_size_have_the_smaller_limit() {
        assert_eq!(
            told(&[File(300 << 10); 3]),
            [None, Some(COPIED_BYTES_MAX), None]
        );
    }
}
