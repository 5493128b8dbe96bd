//! Listening endpoints and sockets: where the server listens, and with which protocols.

use std::{
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    str::FromStr,
    task::{Context, Poll, ready},
};

use rustix::io::Errno;
use serde::{Deserialize, Deserializer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::socket::Socket;
use crate::{
    error::{Error, Result},
    settings::{self, expected},
};

/// Length of the queue of established connections that were not accepted yet; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// An endpoint, as it is written in the configuration: `[proxy:][tls:](address | unix:/path)`, where an address is as in
/// `tcp_address`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The address or path.
    pub at: At,
    /// Every connection begins with a PROXY header of version 1 or 2.
    pub is_proxied: bool,
    /// Connections use TLS, after the PROXY header if there is one.
    pub is_tls: bool,
}

/// The name of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// An address; port 0 selects a free port.
    Tcp(SocketAddr),
    /// An absolute path, for a proxy on the same machine.
    Unix(PathBuf),
}

impl Endpoint {
    /// Plain HTTP at an address.
    pub fn tcp(address: SocketAddr) -> Self {
        Self {
            at: At::Tcp(address),
            is_proxied: false,
            is_tls: false,
        }
    }

    /// The address, if it is a TCP endpoint.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.at {
            At::Tcp(address) => Some(address),
            At::Unix(_) => None,
        }
    }

    /// The address, if it is plain HTTP over TCP.
    pub fn plain_address(&self) -> Option<SocketAddr> {
        match self.at {
            At::Tcp(address) if !self.is_proxied && !self.is_tls => Some(address),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = settings::text(deserializer)?;
        let allowed =
            format_args!("{ADDRESSES}, or unix:/path, after tls:, proxy: or proxy:tls: or nothing");
        text.parse()
            .map_err(|()| expected(allowed, format_args!("{text:?}")))
    }
}

impl FromStr for Endpoint {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (is_proxied, text) = after("proxy:", text);
        let (is_tls, text) = after("tls:", text);
        let at = match after("unix:", text) {
            (true, path) if path.starts_with('/') && !path.ends_with('/') => At::Unix(path.into()),
            (true, _) => return Err(()),
            (false, text) => At::Tcp(tcp_address(text).ok_or(())?),
        };
        Ok(Self {
            at,
            is_proxied,
            is_tls,
        })
    }
}

/// The forms that [`tcp_address`] accepts, for error messages.
pub(super) const ADDRESSES: &str = "127.0.0.1:8080, 8080, :8080 or localhost:8080";

/// Parses the address of a listener: an IP address with a port, or a port, possibly after `localhost`, which stand for
/// 127.0.0.1, or a colon and a port, which stand for all addresses, IPv4 and IPv6.
///
/// No name is looked up: `localhost` is always the loopback address (RFC 6761 §6.3), and other names are refused,
/// because a name may have several addresses or change them.
pub(super) fn tcp_address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (ip, port) = match text.rsplit_once(':') {
        None => (IpAddr::V4(Ipv4Addr::LOCALHOST), text),
        Some(("", port)) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
        Some((host, port)) if host.eq_ignore_ascii_case("localhost") => {
            (IpAddr::V4(Ipv4Addr::LOCALHOST), port)
        }
        Some(_) => return None,
    };
    // `parse` alone would allow a sign.
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = is_number.then(|| port.parse().ok()).flatten()?;
    Some(SocketAddr::new(ip, port))
}

fn after<'a>(prefix: &str, text: &'a str) -> (bool, &'a str) {
    match text.strip_prefix(prefix) {
        Some(rest) => (true, rest),
        None => (false, text),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxied = if self.is_proxied { "proxy:" } else { "" };
        let tls = if self.is_tls { "tls:" } else { "" };
        match &self.at {
            At::Tcp(address) => write!(f, "{proxied}{tls}{address}"),
            At::Unix(path) => write!(f, "{proxied}{tls}unix:{}", path.display()),
        }
    }
}

/// A listening socket.
pub struct Listener {
    io: Io,
    endpoint: Endpoint,
}

enum Io {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens on an endpoint. A socket file without a listener is replaced. Every user of the machine who may enter the
    /// directory of a socket file may connect. Must be called within the runtime.
    ///
    /// # Errors
    /// Names the endpoint and the reason: `InvalidArgument` if the configuration is wrong, `Internal` if a later attempt may
    /// succeed.
    pub fn bind(endpoint: &Endpoint) -> Result<Self> {
        let io = match &endpoint.at {
            At::Tcp(address) => bind_tcp(*address).map(Io::Tcp),
            At::Unix(path) => bind_unix(path).map(Io::Unix),
        };
        Self::over(io, endpoint)
    }

    /// Uses a listening socket that another process created.
    ///
    /// # Errors
    /// `InvalidArgument`, with the endpoint, if the descriptor is not such a socket.
    pub fn inherit(endpoint: &Endpoint, socket: OwnedFd) -> Result<Self> {
        let io = || {
            rustix::io::ioctl_fionbio(&socket, true)?;
            Ok(match &endpoint.at {
                At::Tcp(_) => Io::Tcp(TcpListener::from_std(socket.into())?),
                At::Unix(_) => Io::Unix(UnixListener::from_std(socket.into())?),
            })
        };
        Self::over(io(), endpoint)
    }

    fn over(io: io::Result<Io>, endpoint: &Endpoint) -> Result<Self> {
        let mut actual = endpoint.clone();
        let opened = io.and_then(|io| {
            if let (Io::Tcp(listener), At::Tcp(address)) = (&io, &mut actual.at) {
                // Only the port: without IPv6, the socket of `[::]` has the address 0.0.0.0 (`bind_tcp`), but a new
                // process looks for its endpoint by the configured address.
                address.set_port(listener.local_addr()?.port());
            }
            Ok(io)
        });
        match opened {
            Ok(io) => Ok(Self {
                io,
                endpoint: actual,
            }),
            Err(error) => Err(cannot_listen(endpoint, error)),
        }
    }

    /// The endpoint, with the actual port.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The next connection and the address of its peer; a Unix socket has none.
    pub(super) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Socket, Option<SocketAddr>)>> {
        Poll::Ready(Ok(match &self.io {
            Io::Tcp(listener) => {
                let (stream, peer) = ready!(listener.poll_accept(cx))?;
                (Socket::from(stream), Some(peer))
            }
            Io::Unix(listener) => (Socket::from(ready!(listener.poll_accept(cx))?.0), None),
        }))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.io {
            Io::Tcp(listener) => listener.as_fd(),
            Io::Unix(listener) => listener.as_fd(),
        }
    }
}

/// Listens on an address. `[::]` includes IPv4, and is IPv4 alone if the kernel has no IPv6.
fn bind_tcp(mut address: SocketAddr) -> io::Result<TcpListener> {
    let is_all = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => match TcpSocket::new_v6() {
            Err(error) if is_all && Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT) => {
                address.set_ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                TcpSocket::new_v4()?
            }
            socket => socket?,
        },
    };
    if is_all && address.is_ipv6() {
        // Independent of the system's default (`net.ipv6.bindv6only`).
        SockRef::from(&socket).set_only_v6(false)?;
    }
    // Connections of the previous process in TIME_WAIT do not block the address; another listener does.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path)? => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        result => result,
    }?;
    // A proxy of another user must be able to connect, whatever the umask is. The directory keeps others out.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Whether the path is a socket without a listener, which a killed process leaves behind.
fn is_abandoned(path: &Path) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let tried = std::os::unix::net::UnixStream::connect(path);
    Ok(tried.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

fn cannot_listen(endpoint: &Endpoint, error: io::Error) -> Error {
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        io::ErrorKind::PermissionDenied => match endpoint.at {
            At::Tcp(_) => "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)".into(),
            At::Unix(_) => "permission denied: its directory cannot be written".into(),
        },
        _ => error.to_string(),
    };
    let text = format!("cannot listen on {endpoint}: {why}");
    match error.kind() {
        io::ErrorKind::InvalidInput => Error::invalid(text),
        // Another process may end, an interface may come up, or the permission may be granted, so the service manager
        // should retry.
        _ => Error::internal(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_parsed_and_displayed() {
        for text in [
            "127.0.0.1:8080",
            "[::]:80",
            "tls:0.0.0.0:443",
            "proxy:10.0.0.1:81",
            "proxy:tls:[::1]:443",
            "unix:/run/chatfiles/http",
            "proxy:unix:/run/a b",
            "tls:unix:/x",
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
        }
        for (text, address) in [
            ("8081", "127.0.0.1:8081"),
            (":8081", "[::]:8081"),
            ("localhost:8081", "127.0.0.1:8081"),
            ("LocalHost:0", "127.0.0.1:0"),
            ("tls:8443", "tls:127.0.0.1:8443"),
            ("tls::8443", "tls:[::]:8443"),
            ("proxy:tls:localhost:8443", "proxy:tls:127.0.0.1:8443"),
            ("proxy::8081", "proxy:[::]:8081"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), address);
        }
        for bad in [
            "",
            ":",
            "+80",
            ":+80",
            "65536",
            ":65536",
            "localhost",
            "localhost:",
            "example.com:80",
            "localhost.:80",
            "::8081",
            "[::]",
            "1.1.1.1",
            "tls:proxy:127.0.0.1:1",
            "unix:",
            "unix:x",
            "unix:/x/",
            "tls:",
            "TLS:1.1.1.1:1",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn error_names_address_in_use() {
        let free = Endpoint::tcp("127.0.0.1:0".parse().unwrap());
        let taken = Listener::bind(&free).unwrap();
        let error = Listener::bind(taken.endpoint()).err().unwrap();
        let text = error.to_string();
        assert!(
            text.contains(&taken.endpoint().to_string()) && text.contains("in use"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn replaces_only_abandoned_socket_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("http");
        let endpoint: Endpoint = format!("unix:{}", path.display()).parse().unwrap();
        let first = Listener::bind(&endpoint).unwrap();
        assert!(Listener::bind(&endpoint).is_err(), "the first one listens");
        drop(first);
        assert!(path.exists());
        drop(Listener::bind(&endpoint).unwrap());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        assert!(Listener::bind(&endpoint).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"a file");
    }
}
