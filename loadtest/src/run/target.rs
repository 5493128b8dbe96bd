//! The server and the addresses that requests come from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};

use super::api::Origin;

/// Maximum number of source addresses.
pub(crate) const SOURCES_MAX: usize = 60_000;
/// The first source address. Addresses of bursts count down from the other end of the network.
const SOURCES_FIRST: u32 = u32::from_be_bytes([127, 0, 0, 2]);
const BURSTS_LAST: u32 = u32::from_be_bytes([127, 255, 255, 254]);

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The URL as given.
    pub(crate) url: String,
    /// The server as named in requests.
    pub(crate) origin: Origin,
    /// The resolved address.
    pub(crate) address: SocketAddr,
}

impl Target {
    /// Parses and resolves `http://host[:port][/prefix]`.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        if url.starts_with("https://") {
            return Err(
                "TLS is not supported: use the server's http:// address behind its proxy"
                    .to_owned(),
            );
        }
        let rest = url
            .strip_prefix("http://")
            .ok_or_else(|| format!("{url:?} is not a URL such as http://127.0.0.1:8080"))?;
        let (host, prefix) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if host.is_empty()
            || host.contains('@')
            || url.contains([' ', '?', '#'])
            || url.chars().any(char::is_control)
        {
            return Err(format!(
                "{url:?}: only a host, a port and a path are allowed"
            ));
        }
        // A port may follow a name, an IPv4 address, or an IPv6 address in brackets.
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(before, _)| !before.contains(':') || before.ends_with(']'));
        let lookup = if has_port {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let mut addresses = lookup
            .to_socket_addrs()
            .map_err(|error| format!("{host}: {error}"))?;
        let address = addresses
            .next()
            .ok_or_else(|| format!("{host}cannot be resolved"))?;
        let prefix = prefix.trim_end_matches('/').to_owned();
        let origin = Origin {
            host: host.to_owned(),
            prefix,
        };
        Ok(Self {
            url: url.to_owned(),
            origin,
            address,
        })
    }

    /// Whether other loopback addresses can reach it.
    fn is_loopback_v4(&self) -> bool {
        matches!(self.address.ip(), IpAddr::V4(ip) if ip.is_loopback())
    }

    /// Source addresses: 127.0.0.2 and up.
    pub(crate) fn sources(&self, count: usize) -> Result<Vec<IpAddr>, String> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if !self.is_loopback_v4() {
            return Err(format!(
                "--sources needs a server on 127.0.0.0/8, whose addresses are all this machine's; {} is {}. \
                 For another server, list this machine in its limits.exempt, or raise its limit",
                self.url, self.address
            ));
        }
        if count > SOURCES_MAX {
            return Err(format!("--sources: at most {SOURCES_MAX}"));
        }
        Ok((SOURCES_FIRST..)
            .take(count)
            .map(|ip| Ipv4Addr::from(ip).into())
            .collect())
    }

    /// The source address for the bursts of a thread, so that refused bursts affect no other requests; `None` if no
    /// such address exists.
    pub(crate) fn burst_source(&self, thread: usize) -> Option<IpAddr> {
        let thread = u32::try_from(thread).ok()?;
        let ip = Ipv4Addr::from(BURSTS_LAST.checked_sub(thread)?);
        self.is_loopback_v4().then_some(ip.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_urls() {
        for (url, host, prefix, address) in [
            (
                "http://127.0.0.1:8080",
                "127.0.0.1:8080",
                "",
                "127.0.0.1:8080",
            ),
            ("http://127.0.0.1", "127.0.0.1", "", "127.0.0.1:80"),
            (
                "http://127.0.0.1:81/a/b/",
                "127.0.0.1:81",
                "/a/b",
                "127.0.0.1:81",
            ),
            ("http://[::1]:9", "[::1]:9", "", "[::1]:9"),
            ("http://[::1]/x", "[::1]", "/x", "[::1]:80"),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!(
                (&*target.origin.host, &*target.origin.prefix),
                (host, prefix),
                "{url}"
            );
            assert_eq!(target.address, address.parse().unwrap(), "{url}");
        }
    }

    #[test]
    fn rejects_bad_urls() {
        for (url, message) in [
            ("127.0.0.1:8080", "is not a URL"),
            ("https://127.0.0.1", "TLS is not supported"),
            ("http://", "only a host, a port and a path are allowed"),
            (
                "http://a@127.0.0.1",
                "only a host, a port and a path are allowed",
            ),
            (
                "http://127.0.0.1/?a",
                "only a host, a port and a path are allowed",
            ),
            ("http://127.0.0.1:x", "127.0.0.1:x: "),
        ] {
            let error = Target::parse(url).unwrap_err();
            assert!(error.contains(message), "{url}: {error}");
        }
    }

    #[test]
    fn only_loopback_has_many_addresses() {
        let target = Target::parse("http://127.0.0.1:8080").unwrap();
        let sources = target.sources(300).unwrap();
        assert_eq!(sources[0], IpAddr::from([127, 0, 0, 2]));
        assert_eq!(sources[299], IpAddr::from([127, 0, 1, 45]));
        assert_eq!(
            target.burst_source(1),
            Some(IpAddr::from([127, 255, 255, 253]))
        );
        assert!(target.sources(SOURCES_MAX + 1).is_err());
        for url in ["http://[::1]:8080", "http://192.0.2.1:8080"] {
            let target = Target::parse(url).unwrap();
            let error = target.sources(2).unwrap_err();
            assert!(
                error.contains("--sources needs a server on 127.0.0.0/8"),
                "{error}"
            );
            assert_eq!(target.burst_source(0), None);
            assert_eq!(target.sources(0), Ok(Vec::new()));
        }
    }
}
