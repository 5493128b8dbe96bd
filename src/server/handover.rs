//! Listener handover: a new process replaces the running one. It gets the listening sockets and the store's lock, while the
//! old process finishes its connections. No connection is refused in between, since the sockets never close.
//!
//! The new process asks on the control socket (`take-over`). The answer is one message: a line for each descriptor, an
//! empty line, and the descriptors themselves (SCM_RIGHTS). The new process sends `ready` when it can serve. If it never
//! does, the old process continues.

use std::{
    io::{self, IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as BlockingStream,
    },
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::{
    io::{AsyncReadExt, Interest},
    net::UnixStream,
};

use super::{endpoint::Listener, shutdown::Shutdown};
use crate::error::{Error, Result};

/// The request of the new process on the control socket.
pub(super) const REQUEST: &str = "take-over";
const READY: &[u8] = b"ready\n";
/// The time for the new process to get ready: it opens the store and reads its configuration.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Upper limit of descriptors in the message; Linux accepts 253.
const DESCRIPTORS_MAX: usize = 128;
/// The number of descriptors that belong to the store: its lock and its control socket.
const OF_STORE: usize = 2;
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
const LOCK: &str = "lock";
const CONTROL: &str = "control";
const PUBLIC: &str = "public ";
const OPERATOR: &str = "operator ";

/// The descriptors that a server hands over.
pub struct Descriptors {
    named: Vec<(String, OwnedFd)>,
}

impl Descriptors {
    /// The listeners of a server.
    ///
    /// # Errors
    /// If the process has no free descriptors.
    pub fn new(public: &[Listener], operator: &[Listener]) -> Result<Self> {
        let public = public.iter().map(|listener| (PUBLIC, listener));
        let operator = operator.iter().map(|listener| (OPERATOR, listener));
        let all = public.chain(operator).map(|(kind, listener)| {
            let name = format!("{kind}{}", listener.endpoint());
            Ok((name, listener.as_fd().try_clone_to_owned()?))
        });
        let named: Vec<_> = all.collect::<io::Result<_>>().map_err(Error::internal)?;
        match named.len() + OF_STORE <= DESCRIPTORS_MAX {
            true => Ok(Self { named }),
            false => Err(Error::invalid("too many listeners to hand over")),
        }
    }

    /// Adds the control socket and the lock of the store, as they are open now.
    ///
    /// # Errors
    /// As [`Descriptors::new`].
    pub fn with(&self, control: BorrowedFd<'_>, lock: BorrowedFd<'_>) -> Result<Self> {
        let of_store: [_; OF_STORE] = [(CONTROL, control), (LOCK, lock)];
        let named = self.named.iter();
        let all = named.map(|(name, fd)| (name.as_str(), fd.as_fd()));
        let all = all.chain(of_store);
        let all = all.map(|(name, fd)| Ok((name.to_owned(), fd.try_clone_to_owned()?)));
        let named = all.collect::<io::Result<_>>().map_err(Error::internal)?;
        Ok(Self { named })
    }

    /// Sends the descriptors and waits until the new process is ready.
    ///
    /// # Errors
    /// If the new process closed the connection or took too long. This server then continues.
    async fn hand_over(&self, stream: &mut UnixStream) -> Result<()> {
        let names = self.named.iter().map(|(name, _)| format!("{name}\n"));
        let message = names.collect::<String>() + "\n";
        let fds: Vec<BorrowedFd<'_>> = self.named.iter().map(|(_, fd)| fd.as_fd()).collect();
        let send = || {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut rights = SendAncillaryBuffer::new(&mut space);
            rights.push(SendAncillaryMessage::ScmRights(&fds));
            let bytes = [IoSlice::new(message.as_bytes())];
            Ok(sendmsg(&stream, &bytes, &mut rights, SendFlags::NOSIGNAL)?)
        };
        // An empty socket accepts a message of this size completely.
        let sent = stream.async_io(Interest::WRITABLE, send).await;
        if sent.map_err(Error::internal)? != message.len() {
            return Err(Error::internal(
                "the new process's socket accepted only a part",
            ));
        }
        let mut said = [0; READY.len()];
        let ready = tokio::time::timeout(READY_TIMEOUT, stream.read_exact(&mut said)).await;
        match ready {
            Ok(Ok(_)) if said == READY => Ok(()),
            Ok(Ok(_)) => Err(Error::internal(
                "the new process sent something other than ready",
            )),
            Ok(Err(error)) => Err(Error::internal(error)),
            Err(_) => Err(Error::internal("the new process was not ready in time")),
        }
    }
}

/// Hands a server over to a new process, then retires it.
pub struct Handover {
    descriptors: Descriptors,
    /// The shutdown of this server.
    shutdown: Shutdown,
    /// The shutdown of its operator listener, whose requests the new process answers after the handover.
    operator: Shutdown,
}

impl Handover {
    /// The handover of a server that these two stop.
    pub fn new(descriptors: Descriptors, shutdown: Shutdown, operator: Shutdown) -> Self {
        Self {
            descriptors,
            shutdown,
            operator,
        }
    }

    /// Hands over to the process at the other end of `stream`.
    ///
    /// # Errors
    /// If the new process closed the connection or took too long. This server then continues.
    pub(super) async fn to(&self, stream: &mut UnixStream) -> Result<()> {
        self.descriptors.hand_over(stream).await?;
        tracing::info!("another process has taken over; running transfers may finish");
        self.operator.trigger();
        self.shutdown.hand_over();
        Ok(())
    }
}

/// The descriptors that a new process received.
pub struct Inherited {
    /// The listeners.
    named: Vec<(String, OwnedFd)>,
    control: OwnedFd,
    lock: OwnedFd,
    stream: BlockingStream,
}

/// Asks the running server at the other end of its control socket for its descriptors. Blocking.
///
/// # Errors
/// If the server refuses or cannot hand over.
pub(super) fn take_over(mut stream: BlockingStream) -> Result<Inherited> {
    let failed = |error: io::Error| {
        Error::internal(format!("the running server did not hand over: {error}"))
    };
    stream
        .write_all(format!("{REQUEST}\n").as_bytes())
        .map_err(failed)?;
    let (text, descriptors) = receive(&stream).map_err(failed)?;
    let Some(names) = text.strip_suffix("\n\n") else {
        return Err(Error::invalid(format!(
            "the running server refused the handover: {}",
            text.trim()
        )));
    };
    let names: Vec<_> = names.lines().map(str::to_owned).collect();
    if names.len() != descriptors.len() {
        return Err(Error::invalid(
            "the running server handed over fewer descriptors than it named",
        ));
    }
    let mut named = names.into_iter().zip(descriptors).collect();
    let (control, lock) = (take(&mut named, CONTROL), take(&mut named, LOCK));
    let (Some(control), Some(lock)) = (control, lock) else {
        return Err(Error::invalid(
            "the running server did not hand over its lock",
        ));
    };
    Ok(Inherited {
        named,
        control,
        lock,
        stream,
    })
}

fn receive(stream: &BlockingStream) -> io::Result<(String, Vec<OwnedFd>)> {
    stream.set_read_timeout(Some(READY_TIMEOUT))?;
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(stream, into, &mut rights, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = rights
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    bytes.truncate(received.bytes);
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    Ok((text, descriptors))
}

impl Inherited {
    /// The public listener of this endpoint, if it was handed over.
    pub fn public(&mut self, endpoint: &str) -> Option<OwnedFd> {
        take(&mut self.named, &format!("{PUBLIC}{endpoint}"))
    }

    /// The operator listener of this endpoint, if it was handed over.
    pub fn operator(&mut self, endpoint: &str) -> Option<OwnedFd> {
        take(&mut self.named, &format!("{OPERATOR}{endpoint}"))
    }

    /// A duplicate of the store's lock.
    ///
    /// # Errors
    /// If the process has no free descriptors.
    pub fn lock(&self) -> Result<OwnedFd> {
        self.lock.try_clone().map_err(Error::internal)
    }

    /// A duplicate of the control socket.
    ///
    /// # Errors
    /// As [`Inherited::lock`].
    pub fn control(&self) -> Result<OwnedFd> {
        self.control.try_clone().map_err(Error::internal)
    }

    /// Tells the old server that this one serves. The old one then retires, and listeners that were not used close.
    ///
    /// # Errors
    /// If the old server has ended, which does not affect this one.
    pub fn ready(mut self) -> io::Result<()> {
        self.stream.write_all(READY)
    }
}

fn take(descriptors: &mut Vec<(String, OwnedFd)>, name: &str) -> Option<OwnedFd> {
    let index = descriptors.iter().position(|(found, _)| found == name)?;
    Some(descriptors.swap_remove(index).1)
}
