//! Checks of single values: each takes what was written and says what is allowed where it is something else.

use std::{net::SocketAddr, time::Duration};

use ipnet::IpNet;

use crate::{
    error::{Error, Result},
    http::cors::AllowedOrigins,
    server::endpoint::Endpoint,
};

pub(super) fn origins(allowed: Option<Vec<String>>) -> Result<AllowedOrigins> {
    let Some(allowed) = allowed else {
        return Ok(AllowedOrigins::Any);
    };
    if allowed.iter().any(|origin| origin == "*") {
        return Ok(AllowedOrigins::Any);
    }
    for origin in &allowed {
        let is_origin = origin.split_once("://").is_some_and(|(scheme, host)| {
            !scheme.is_empty() && !host.is_empty() && !host.contains('/') && host.is_ascii()
        });
        if !is_origin {
            return Err(bad(
                "cors.allowed_origins",
                origin,
                "origins such as https://chat.example.com, or *",
            ));
        }
    }
    Ok(AllowedOrigins::List(allowed))
}

/// Somewhere to listen, and what is spoken there.
pub(super) fn endpoint(text: &String) -> Result<Endpoint> {
    let allowed =
        "127.0.0.1:8080, unix:/path, and before either of them tls:, proxy: or proxy:tls:";
    text.parse()
        .map_err(|()| bad("server.listen", text, allowed))
}

/// Somewhere to listen.
pub(super) fn address(key: &str, text: &str, example: &str) -> Result<SocketAddr> {
    text.parse().map_err(|_| {
        bad(
            key,
            text,
            &format!("an address and a port, such as {example}"),
        )
    })
}

/// `http(s)://host[:port]`, without a path: clients append `/{org}/{app}/…`.
/// Scheme and host, without a path.
pub(super) fn base_url(key: &str, text: String) -> Result<String> {
    let uri: Option<hyper::Uri> = text.parse().ok();
    let is_base = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri
                .authority()
                .is_some_and(|authority| !authority.as_str().contains('@'))
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
    });
    if !is_base {
        return Err(bad(
            key,
            text,
            "http://host[:port] or https://host[:port], without a path",
        ));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

pub(super) fn networks(key: &str, texts: Option<Vec<String>>) -> Result<Vec<IpNet>> {
    let network = |text: &String| {
        let net: Option<IpNet> = text.parse().ok().or_else(|| {
            text.parse()
                .ok()
                .map(|address: std::net::IpAddr| address.into())
        });
        // Addresses are compared as IPv4 where they are mapped: such a network would never match.
        net.filter(|net| !matches!(net, IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some()))
            .ok_or_else(|| {
                bad(
                    key,
                    text,
                    "addresses or networks such as 10.0.0.0/8 or 2001:db8::/32",
                )
            })
    };
    texts.unwrap_or_default().iter().map(network).collect()
}

pub(super) fn seconds(key: &str, value: Option<u64>, default: u64) -> Result<Duration> {
    range(key, value, default, 1..=86_400).map(Duration::from_secs)
}

pub(super) fn range<T>(
    key: &str,
    value: Option<T>,
    default: T,
    allowed: std::ops::RangeInclusive<T>,
) -> Result<T>
where
    T: PartialOrd + std::fmt::Display,
{
    let value = value.unwrap_or(default);
    if allowed.contains(&value) {
        return Ok(value);
    }
    let allowed = format!("a number from {} to {}", allowed.start(), allowed.end());
    Err(bad(key, value, &allowed))
}

/// The message for a bad value.
pub(crate) fn bad(key: &str, value: impl std::fmt::Display, allowed: &str) -> Error {
    Error::invalid(format!("{key} = {value}: must be {allowed}"))
}
