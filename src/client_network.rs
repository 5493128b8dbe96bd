//! The network by which limits and shares identify a client.

use std::net::{IpAddr, Ipv6Addr};

/// The client as one network: the address itself for IPv4, the /64 for IPv6, the smallest network a provider assigns.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
        address => address,
    }
}

/// The largest network that one customer may have: the address itself for IPv4, the /48 for IPv6 (RFC 6177 §2). For
/// counts that must not start again in each of a customer's networks.
pub fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 80 << 80).into(),
        address => address,
    }
}
