//! Asks the kernel how much of a socket's data is not acknowledged (`SIOCOUTQ`), and whether part of it is in flight.
//!
//! This file has `unsafe` code: the standard library, rustix and socket2 have no safe call for these two requests, and
//! `TCP_INFO` would need a larger structure through the same kind of call.

use std::{
    ffi::c_int,
    io,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::ioctl::{Getter, Opcode, ioctl};

// SIOCOUTQ equals TIOCOUTQ, whose number differs on the architectures that are not listed here.
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "x86",
    target_arch = "aarch64",
    target_arch = "arm",
    target_arch = "riscv64",
    target_arch = "s390x",
    target_arch = "loongarch64",
)))]
compile_error!("the number of SIOCOUTQ is not known for this architecture");

/// Bytes that were written and are not acknowledged (`linux/sockios.h`).
const SIOCOUTQ: Opcode = 0x5411;
/// Bytes that were written and are not sent yet. TCP only.
const SIOCOUTQNSD: Opcode = 0x894b;

/// The data of a socket that the kernel still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SendQueue {
    /// Bytes that the peer has not acknowledged. For a Unix socket, the size of its buffers: slightly more than the bytes that
    /// the peer has not read.
    pub(super) unacked_bytes: u64,
    /// Some of them were sent. If not, the peer's receive window is closed: its kernel answers, but its program does not
    /// read. Always `false` for a Unix socket, which loses nothing.
    pub(super) is_in_flight: bool,
}

/// Reads the send queue of a TCP socket.
pub(super) fn of_tcp(socket: impl AsFd) -> io::Result<SendQueue> {
    let unacked_bytes = get::<SIOCOUTQ>(socket.as_fd())?;
    let unsent_bytes = get::<SIOCOUTQNSD>(socket.as_fd())?;
    Ok(SendQueue {
        unacked_bytes,
        is_in_flight: unacked_bytes > unsent_bytes,
    })
}

/// Reads the send queue of a Unix stream socket.
pub(super) fn of_unix(socket: impl AsFd) -> io::Result<SendQueue> {
    Ok(SendQueue {
        unacked_bytes: get::<SIOCOUTQ>(socket.as_fd())?,
        is_in_flight: false,
    })
}

#[allow(unsafe_code)]
fn get<const REQUEST: Opcode>(socket: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY:
    // 1. `REQUEST` is SIOCOUTQ or SIOCOUTQNSD (this function is private). Both store one int through their argument and
    //    read nothing from it, which is what a `Getter` of `c_int` offers: `tcp_ioctl` and `unix_ioctl` end in
    //    `put_user(answ, (int __user *)arg)`.
    // 2. `socket` is borrowed, so the descriptor stays open during the call. On a descriptor that is not a socket, the
    //    numbers mean the same (TIOCOUTQ) or nothing (ENOTTY).
    let bytes: c_int = unsafe { ioctl(socket, Getter::<REQUEST, c_int>::new())? };
    Ok(u64::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
    };

    use super::*;

    fn fill(stream: &impl AsFd, mut write: impl FnMut(&[u8]) -> io::Result<usize>) {
        rustix::io::ioctl_fionbio(stream, true).unwrap();
        while write(&[7; 65_536]).is_ok() {}
    }

    #[test]
    fn reports_unacknowledged_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        assert_eq!(of_tcp(&stream).unwrap().unacked_bytes, 0);
        fill(&stream, |bytes| (&stream).write(bytes));
        let full = of_tcp(&stream).unwrap().unacked_bytes;
        assert!(full > 0);
        while of_tcp(&stream).unwrap().unacked_bytes > 0 {
            assert!(peer.read(&mut [0; 1024]).unwrap() > 0);
        }
        assert!(!of_tcp(&stream).unwrap().is_in_flight);

        let (stream, mut peer) = UnixStream::pair().unwrap();
        fill(&stream, |bytes| (&stream).write(bytes));
        assert!(of_unix(&stream).unwrap().unacked_bytes > 65_536);
        while of_unix(&stream).unwrap().unacked_bytes > 0 {
            assert!(peer.read(&mut [0; 1024]).unwrap() > 0);
        }
    }

    #[test]
    fn fails_on_other_descriptors() {
        assert!(of_tcp(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
