//! The network that identifies a client wherever clients have shares.

use std::net::{IpAddr, Ipv6Addr};

/// The address of an IPv4 client, the /64 of an IPv6 client: the smallest network that a provider assigns.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
        address => address,
    }
}

/// The most that may be one customer's: the address of an IPv4 client, the /48 of an IPv6 client (RFC 6177 §2). For
/// counts that must not begin anew in each of a customer's networks.
pub fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 80 << 80).into(),
        address => address,
    }
}
