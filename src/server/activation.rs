//! The service manager: sockets that systemd listens at for us, and what it is told of our state.
//!
//! A socket unit's sockets stand in the place of `server.listen`. What is spoken on one is said by its
//! `FileDescriptorName`: `tls`, `proxy` or `proxy-tls`; any other name is plain HTTP, as systemd's own are.

use std::{env, os::fd::OwnedFd};

use listenfd::ListenFd;
use sd_notify::NotifyState;

use super::endpoint::{At, Endpoint};
use crate::error::{Error, Result};

/// The listening sockets that this process was started with. To be called once, before there are threads: it
/// takes them out of the environment.
///
/// # Errors
/// `InvalidArgument` where a descriptor is no listening stream socket.
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
        Error::invalid(format!("socket {index} of the service manager: {what}"))
    };
    // One that is of the other kind is left where it is.
    if let Ok(Some(listener)) = given.take_tcp_listener(index) {
        let address = listener.local_addr().map_err(|error| refused(&error))?;
        return Ok((At::Tcp(address), listener.into()));
    }
    let listener = given.take_unix_listener(index);
    let listener = listener
        .map_err(|error| refused(&error))?
        .ok_or_else(|| refused(&"it is gone"))?;
    let address = listener.local_addr().map_err(|error| refused(&error))?;
    let path = address
        .as_pathname()
        .ok_or_else(|| refused(&"it has no path"))?;
    Ok((At::Unix(path.to_owned()), listener.into()))
}

/// What the service manager is told.
#[derive(Debug, Clone, Copy)]
pub enum State {
    /// Clients are served, by this process.
    Ready,
    /// The configuration is being read anew.
    Reloading,
    /// The end has begun.
    Stopping,
}

/// Tells the service manager, where there is one.
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
        tracing::warn!(%error, ?state, "the service manager cannot be told");
    }
}
