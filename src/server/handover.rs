//! A new process takes the place of the one that runs: it gets the listening sockets and the store's lock, and the
//! old one serves what it has to the end. No connection is refused in between, since the sockets never close.
//!
//! Asked over the control socket (`take-over`), answered there with one message: a line for each descriptor, an
//! empty line, and the descriptors themselves (SCM_RIGHTS). The heir says `ready` when it can serve; if it never
//! does, nothing has happened.

use std::{
    io::{self, IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as BlockingStream,
    },
    path::Path,
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

use super::{control, endpoint::Listener, shutdown::Shutdown};
use crate::error::{Error, Result};

/// What the heir asks for on the control socket.
pub(super) const REQUEST: &str = "take-over";
const READY: &[u8] = b"ready\n";
/// For the heir to become ready: it opens the store and reads its configuration.
const HEIR_TIMEOUT: Duration = Duration::from_secs(60);
/// Descriptors of one message; Linux takes 253.
const DESCRIPTORS_MAX: usize = 128;
/// Of them, those that belong to the store: its lock and its control socket.
const OF_STORE: usize = 2;
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
const LOCK: &str = "lock";
const CONTROL: &str = "control";
const PUBLIC: &str = "public ";
const OPERATOR: &str = "operator ";

/// What a server leaves to its heir.
pub struct Estate {
    descriptors: Vec<(String, OwnedFd)>,
}

impl Estate {
    /// The listeners of a server.
    ///
    /// # Errors
    /// Where the process has no descriptors left.
    pub fn new(public: &[Listener], operator: &[Listener]) -> Result<Self> {
        let named = |kind: &'static str| {
            move |listener: &Listener| {
                let name = format!("{kind}{}", listener.endpoint());
                Ok((name, listener.as_fd().try_clone_to_owned()?))
            }
        };
        let public = public.iter().map(named(PUBLIC));
        let operator = operator.iter().map(named(OPERATOR));
        let descriptors: Vec<_> = public
            .chain(operator)
            .collect::<io::Result<_>>()
            .map_err(Error::internal)?;
        match descriptors.len() + OF_STORE <= DESCRIPTORS_MAX {
            true => Ok(Self { descriptors }),
            false => Err(Error::invalid("too many listeners to be handed over")),
        }
    }

    /// With what belongs to the store as it is open now.
    ///
    /// # Errors
    /// As [`Estate::new`].
    pub fn with(&self, control: &control::Listener, lock: BorrowedFd<'_>) -> Result<Self> {
        let of_store: [_; OF_STORE] = [(CONTROL, control.as_fd()), (LOCK, lock)];
        let descriptors = self.descriptors.iter();
        let descriptors = descriptors.map(|(name, fd)| (name.as_str(), fd.as_fd()));
        let descriptors = descriptors
            .chain(of_store)
            .map(|(name, fd)| Ok((name.to_owned(), fd.try_clone_to_owned()?)))
            .collect::<io::Result<_>>()
            .map_err(Error::internal)?;
        Ok(Self { descriptors })
    }

    /// Hands everything over, and waits until the heir is ready.
    ///
    /// # Errors
    /// Where the heir went away or took too long: this server goes on.
    pub(super) async fn hand_over(&self, heir: &mut UnixStream) -> Result<()> {
        let broken = |error: io::Error| Error::internal(error);
        let names: String = self
            .descriptors
            .iter()
            .map(|(name, _)| format!("{name}\n"))
            .collect();
        let message = format!("{names}\n");
        let fds: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(|(_, fd)| fd.as_fd()).collect();
        let send = || {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut rights = SendAncillaryBuffer::new(&mut space);
            rights.push(SendAncillaryMessage::ScmRights(&fds));
            let bytes = [IoSlice::new(message.as_bytes())];
            Ok(sendmsg(&heir, &bytes, &mut rights, SendFlags::NOSIGNAL)?)
        };
        // A message of this size into an empty socket is taken as a whole.
        let sent = heir.async_io(Interest::WRITABLE, send).await;
        if sent.map_err(broken)? != message.len() {
            return Err(Error::internal("the heir's socket took only a part"));
        }
        let mut said = [0; READY.len()];
        let ready = tokio::time::timeout(HEIR_TIMEOUT, heir.read_exact(&mut said)).await;
        match ready {
            Ok(Ok(_)) if said == READY => Ok(()),
            Ok(Ok(_)) => Err(Error::internal("the heir said something else than ready")),
            Ok(Err(error)) => Err(broken(error)),
            Err(_) => Err(Error::internal("the heir did not become ready in time")),
        }
    }
}

/// Hands the estate over, once; then this server retires.
pub struct Handover {
    estate: Estate,
    /// Of this server.
    shutdown: Shutdown,
    /// Of its operator's listener, which the heir answers from now on.
    operator: Shutdown,
}

impl Handover {
    /// For a server that these two stop.
    pub fn new(estate: Estate, shutdown: Shutdown, operator: Shutdown) -> Self {
        Self {
            estate,
            shutdown,
            operator,
        }
    }

    /// # Errors
    /// As [`Estate::hand_over`].
    pub(super) async fn to(&self, heir: &mut UnixStream) -> Result<()> {
        self.estate.hand_over(heir).await?;
        tracing::info!("another process has taken over: what runs here may finish");
        self.operator.trigger();
        self.shutdown.hand_over();
        Ok(())
    }
}

/// What an heir was given.
pub struct Inherited {
    public: Vec<(String, OwnedFd)>,
    operator: Vec<(String, OwnedFd)>,
    control: OwnedFd,
    lock: OwnedFd,
    stream: BlockingStream,
}

/// Asks the server that runs on the store in `dir` for its estate; `None` where none runs. Blocking.
///
/// # Errors
/// Where the server refuses, or is one that cannot hand over.
pub fn take_over(dir: &Path) -> Result<Option<Inherited>> {
    let failed =
        |error: io::Error| Error::internal(error).public("the running server did not hand over");
    let Some(mut stream) = control::connect(dir).map_err(failed)? else {
        return Ok(None);
    };
    stream
        .write_all(format!("{REQUEST}\n").as_bytes())
        .map_err(failed)?;
    let (text, descriptors) = receive(&stream).map_err(failed)?;
    let Some(names) = text.strip_suffix("\n\n") else {
        return Err(Error::invalid(format!(
            "the running server: {}",
            text.trim()
        )));
    };
    let names: Vec<&str> = names.lines().collect();
    if names.len() != descriptors.len() {
        return Err(Error::invalid(
            "the running server handed over less than it said",
        ));
    }
    let (mut public, mut operator, mut control, mut lock) = (Vec::new(), Vec::new(), None, None);
    for (name, fd) in names.into_iter().zip(descriptors) {
        if let Some(endpoint) = name.strip_prefix(PUBLIC) {
            public.push((endpoint.to_owned(), fd));
        } else if let Some(endpoint) = name.strip_prefix(OPERATOR) {
            operator.push((endpoint.to_owned(), fd));
        } else if name == CONTROL {
            control = Some(fd);
        } else if name == LOCK {
            lock = Some(fd);
        }
    }
    let (Some(control), Some(lock)) = (control, lock) else {
        return Err(Error::invalid("the running server kept its lock"));
    };
    Ok(Some(Inherited {
        public,
        operator,
        control,
        lock,
        stream,
    }))
}

fn receive(stream: &BlockingStream) -> io::Result<(String, Vec<OwnedFd>)> {
    stream.set_read_timeout(Some(HEIR_TIMEOUT))?;
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
    /// The public listener of this endpoint, if there is one.
    pub fn public(&mut self, endpoint: &str) -> Option<OwnedFd> {
        take(&mut self.public, endpoint)
    }

    /// The operator's of this address, if there is one.
    pub fn operator(&mut self, endpoint: &str) -> Option<OwnedFd> {
        take(&mut self.operator, endpoint)
    }

    /// The store's lock, for another holder.
    ///
    /// # Errors
    /// Where the process has no descriptors left.
    pub fn lock(&self) -> Result<OwnedFd> {
        self.lock.try_clone().map_err(Error::internal)
    }

    /// The control socket.
    ///
    /// # Errors
    /// As [`Inherited::lock`].
    pub fn control(&self) -> Result<OwnedFd> {
        self.control.try_clone().map_err(Error::internal)
    }

    /// Tells the old server that this one serves. It then retires; listeners that were not taken close.
    ///
    /// # Errors
    /// Where the old server is gone, which changes nothing for this one.
    pub fn ready(mut self) -> io::Result<()> {
        self.stream.write_all(READY)
    }
}

fn take(descriptors: &mut Vec<(String, OwnedFd)>, name: &str) -> Option<OwnedFd> {
    let index = descriptors.iter().position(|(found, _)| found == name)?;
    Some(descriptors.swap_remove(index).1)
}
