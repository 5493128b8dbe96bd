//! Deserializes single values of the configuration, for the `Config` structs of the modules.
//!
//! A module states the bounds of a setting in the `deserialize_with` attribute of its field, so that a `Config` is
//! valid once it is read. `config/document.rs` adds the name of the setting to the error.

use std::{fmt::Display, net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error};

/// An integer from `MIN` to `MAX`.
///
/// # Errors
/// The value is out of bounds or not an integer.
pub fn number<'de, const MIN: u64, const MAX: u64, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let value = i128::deserialize(deserializer)?;
    let bounded = u64::try_from(value)
        .ok()
        .filter(|value| (MIN..=MAX).contains(value));
    bounded
        .and_then(|value| T::try_from(value).ok())
        .ok_or_else(|| expected(format_args!("a number from {MIN} to {MAX}"), value))
}

/// A number of seconds from 1 to a day.
///
/// # Errors
/// As [`number`].
pub fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    number::<1, 86_400, _, _>(deserializer).map(Duration::from_secs)
}

/// Networks in CIDR notation; a single address is a network of one.
///
/// # Errors
/// A text is not a network, or it is an IPv4-mapped IPv6 network. The latter would never match, because client
/// addresses are compared as IPv4 where they are mapped.
pub fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: String| {
        let network = text
            .parse()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .ok()
            .filter(|net| !matches!(net, IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some()));
        let allowed = "addresses or networks such as 10.0.0.0/8 or 2001:db8::/32";
        network.ok_or_else(|| expected(allowed, format_args!("{text:?}")))
    };
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.into_iter().map(network).collect()
}

/// The error for a value that is not allowed.
pub fn expected<E: Error>(allowed: impl Display, found: impl Display) -> E {
    E::custom(format_args!("expected {allowed}, found {found}"))
}
