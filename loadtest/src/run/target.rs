//! Where a server is, and from which addresses it is asked.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};

use super::api::Origin;

/// Addresses that one run may come from.
pub(crate) const SOURCES_MAX: usize = 60_000;
/// The first of them; those of bursts count down from the other end of the network.
const SOURCES_FIRST: u32 = u32::from_be_bytes([127, 0, 0, 2]);
const BURSTS_LAST: u32 = u32::from_be_bytes([127, 255, 255, 254]);

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// As it was given.
    pub(crate) url: String,
    /// As requests name it.
    pub(crate) origin: Origin,
    /// Where connections go.
    pub(crate) address: SocketAddr,
}

impl Target {
    /// `http://host[:port][/prefix]`, looked up.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        if url.starts_with("https://") {
            return Err(
                "TLS is not spoken: give the server's http:// address, behind its proxy".to_owned(),
            );
        }
        let rest = url
            .strip_prefix("http://")
            .ok_or_else(|| format!("{url:?} is no URL such as http://127.0.0.1:8080"))?;
        let (host, prefix) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if host.is_empty()
            || host.contains('@')
            || url.contains([' ', '?', '#'])
            || url.chars().any(char::is_control)
        {
            return Err(format!("{url:?}: a host, a port and a path only"));
        }
        // A port is there after a name, an IPv4 address, or the brackets of an IPv6 address.
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
            .ok_or_else(|| format!("{host}: has no address"))?;
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

    /// Whether other addresses of this machine's own reach it.
    fn is_loopback_v4(&self) -> bool {
        matches!(self.address.ip(), IpAddr::V4(ip) if ip.is_loopback())
    }

    /// The addresses to come from: 127.0.0.2 and on.
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

    /// The address that bursts of a thread come from, so that they are refused without others being refused; `None`
    /// where there is no such address.
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
    fn urls_are_read() {
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
    fn what_is_no_such_url_is_refused() {
        for (url, message) in [
            ("127.0.0.1:8080", "is no URL"),
            ("https://127.0.0.1", "TLS is not spoken"),
            ("http://", "a host, a port and a path only"),
            ("http://a@127.0.0.1", "a host, a port and a path only"),
            ("http://127.0.0.1/?a", "a host, a port and a path only"),
            ("http://127.0.0.1:x", "127.0.0.1:x: "),
        ] {
            let error = Target::parse(url).unwrap_err();
            assert!(error.contains(message), "{url}: {error}");
        }
    }

    #[test]
    fn only_the_loopback_network_has_many_addresses() {
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
