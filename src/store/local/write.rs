//! Writes many chunks of bytes to a file.

use std::{
    fs::File,
    io::{self, IoSlice},
};

use bytes::Bytes;

/// Writes all chunks from `offset` on, and then the trailer, in as few calls as the kernel allows.
pub(super) fn write_all(
    file: &File,
    chunks: &[Bytes],
    trailer: Option<&Bytes>,
    mut offset: u64,
) -> io::Result<()> {
    /// The kernel accepts 1,024 (UIO_MAXIOV); most batches have at most 16.
    const SLICES_MAX: usize = 64;
    let mut chunks = chunks.iter().chain(trailer).peekable();
    while chunks.peek().is_some() {
        let mut slices: [IoSlice<'_>; SLICES_MAX] = std::array::from_fn(|_| IoSlice::new(&[]));
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(chunks.by_ref()) {
            *slice = IoSlice::new(chunk);
            count += 1;
        }
        let mut rest = &mut slices[..count];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match rustix::io::pwritev(file, rest, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
