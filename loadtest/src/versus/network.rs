//! The network between servers and client: the loopback, or a veth pair with the servers in their own namespace.
//!
//! The loopback passes a sent page to the receiver without a copy. A veth pair does too, but adds the queues and the
//! segmentation of a network device. Neither is a real network.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    process::Command,
};

use super::loopback_sources;
use crate::Error;

/// The loopback or a veth pair.
pub(crate) enum Network {
    Loopback,
    Veth(Veth),
}

impl Network {
    pub(crate) fn new(is_veth: bool) -> Result<Self, Error> {
        Ok(if is_veth {
            Self::Veth(Veth::new()?)
        } else {
            Self::Loopback
        })
    }

    /// Returns the address for the next server. The port is free on the loopback; in a new namespace all ports are
    /// free.
    pub(crate) fn listen(&self) -> io::Result<SocketAddr> {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let port = TcpListener::bind((loopback, 0))?.local_addr()?.port();
        let host = match self {
            Self::Loopback => loopback,
            Self::Veth(_) => Veth::SERVER.into(),
        };
        Ok(SocketAddr::new(host, port))
    }

    /// Addresses that clients connect from.
    pub(crate) fn sources(&self) -> Vec<IpAddr> {
        match self {
            Self::Loopback => loopback_sources(),
            Self::Veth(_) => Veth::clients().collect(),
        }
    }
}

/// A namespace and a pair of devices. Dropping it removes both. A killed run leaves them; `ip netns` lists them.
pub(crate) struct Veth {
    namespace: String,
}

impl Veth {
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 199, 77, 1);

    fn clients() -> impl Iterator<Item = IpAddr> {
        (2..18).map(|last| Ipv4Addr::new(10, 199, 77, last).into())
    }

    fn new() -> Result<Self, Error> {
        // Constructed first, so that a failure below removes what was made.
        let veth = Self {
            namespace: format!("loadtest-{}", std::process::id()),
        };
        let namespace = veth.namespace();
        let ours = format!("lt{}", std::process::id());
        ip(&["netns", "add", namespace])?;
        ip(&[
            "link", "add", &ours, "type", "veth", "peer", "name", "served", "netns", namespace,
        ])?;
        for client in Self::clients() {
            ip(&["addr", "add", &format!("{client}/24"), "dev", &ours])?;
        }
        ip(&["link", "set", &ours, "up"])?;
        let server = format!("{}/24", Self::SERVER);
        ip(&["-n", namespace, "addr", "add", &server, "dev", "served"])?;
        ip(&["-n", namespace, "link", "set", "served", "up"])?;
        ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        Ok(veth)
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // Deleting the namespace deletes the pair. If it fails, `ip netns del` removes them.
        let _ = ip(&["netns", "del", &self.namespace]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), Error> {
    let done = Command::new("ip").args(arguments).output();
    let done = done.map_err(|error| format!("ip (of iproute2): {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(format!("ip {}: {said}", arguments.join(" ")).into())
}
