//! Talks to the service manager: takes listening sockets from systemd, and reports the server's state to it.
//!
//! The sockets of a socket unit replace `server.listen`. `FileDescriptorName` selects the protocol of each: `tls`, `proxy`
//! or `proxy-tls`; any other name is plain HTTP, including systemd's default names.

use std::{env, os::fd::OwnedFd};

use listenfd::ListenFd;
use sd_notify::NotifyState;

use super::endpoint::{At, Endpoint};
use crate::error::{Error, Result};

/// The listening sockets that this process was started with. Must be called once, before threads are started, because it
/// removes them from the environment.
///
/// # Errors
/// `InvalidArgument` if a descriptor is not a listening stream socket.
pub fn sockets() -> Result<Vec<(Endpoint, OwnedFd)>> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut given = ListenFd::from_env();
    (0..given.len())
        .map(|index| {
            let (at, socket) = take(&mut given, index)?;
            let name = names.next().unwrap_or_default();
            let endpoint = Endpoint {
                at,
                is_proxied: ["proxy", "proxy-tls"].contains(&name),
                is_tls: ["tls", "proxy-tls"].contains(&name),
            };
            Ok((endpoint, socket))
        })
        .collect()
}

fn take(given: &mut ListenFd, index: usize) -> Result<(At, OwnedFd)> {
    let refused = |what: &dyn std::fmt::Display| {
        Error::invalid(format!("socket {index} from the service manager: {what}"))
    };
    // A socket of the other kind is left in place.
    if let Ok(Some(listener)) = given.take_tcp_listener(index) {
        let address = listener.local_addr().map_err(|error| refused(&error))?;
        return Ok((At::Tcp(address), listener.into()));
    }
    let listener = given.take_unix_listener(index);
    let listener = listener
        .map_err(|error| refused(&error))?
        .ok_or_else(|| refused(&"it is not open"))?;
    let address = listener.local_addr().map_err(|error| refused(&error))?;
    let path = address
        .as_pathname()
        .ok_or_else(|| refused(&"it has no path"))?;
    Ok((At::Unix(path.to_owned()), listener.into()))
}

/// A state that is reported to the service manager.
#[derive(Debug, Clone, Copy)]
pub enum State {
    /// This process serves clients.
    Ready,
    /// The configuration is being reloaded.
    Reloading,
    /// The server is stopping.
    Stopping,
}

/// Reports a state to the service manager, if there is one.
pub fn tell(state: State) {
    let told = match state {
        State::Ready => {
            sd_notify::notify(&[NotifyState::Ready, NotifyState::MainPid(std::process::id())])
        }
        State::Reloading => NotifyState::monotonic_usec_now()
            .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now])),
        State::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
    };
    if let Err(error) = told {
        tracing::warn!(%error, ?state, "cannot report the state to the service manager");
    }
}
