//! Parses the PROXY protocol, versions 1 and 2, by which a proxy names the client before the client's first byte.
//!
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>. Read only on listeners that are configured for it, and
//! only from trusted networks. The header is mandatory there, because otherwise a client could send its own.

use std::net::{IpAddr, SocketAddr};

use ppp::{PartialResult, v1, v2};

/// Longer headers are refused. They contain addresses and extensions such as the server name, which are ignored.
pub const HEADER_BYTES_MAX: usize = 2048;

/// The bytes at the start of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// A complete header of this many bytes, and the client's address; `None` if the proxy speaks for itself (a health check)
    /// or does not know it.
    Header(usize, Option<SocketAddr>),
    /// The start of a header.
    Incomplete,
}

/// Reads a header at the start of `bytes`.
///
/// # Errors
/// The reason, for the log. The connection must be closed without an answer.
pub fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let parsed = if bytes.first() == Some(&b'P') {
        parse_text(bytes)
    } else {
        parse_binary(bytes)
    }?;
    match parsed {
        Parsed::Incomplete if bytes.len() >= HEADER_BYTES_MAX => Err("too long".into()),
        Parsed::Header(len, _) if len > HEADER_BYTES_MAX => Err("too long".into()),
        parsed => Ok(parsed),
    }
}

/// Version 1: one line. Parsed only when the line is complete, since a prefix of an address may be a valid address.
fn parse_text(bytes: &[u8]) -> Result<Parsed, String> {
    /// Including the line end.
    const LINE_BYTES_MAX: usize = 107;
    const BEGINNING: &[u8] = b"PROXY ";
    let begins = bytes.iter().zip(BEGINNING).all(|(a, b)| a == b);
    let line = bytes
        .iter()
        .take(LINE_BYTES_MAX)
        .position(|&byte| byte == b'\n');
    let Some(end) = line else {
        return match begins && bytes.len() < LINE_BYTES_MAX {
            true => Ok(Parsed::Incomplete),
            false => Err("not a PROXY header".into()),
        };
    };
    let line = &bytes[..=end];
    // The library accepts a space instead of a carriage return, as in a line that ends with " \n", and vice versa.
    if line.iter().position(|&byte| byte == b'\r') != end.checked_sub(1) {
        return Err("the line does not end with its first carriage return".into());
    }
    let header = v1::Header::try_from(line).map_err(|error| error.to_string())?;
    // The library parses ports like Rust numbers.
    if header.addresses != v1::Addresses::Unknown && line.contains(&b'+') {
        return Err("the port has a sign".into());
    }
    let source = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(ip) => Some((IpAddr::from(ip.source_address), ip.source_port)),
        v1::Addresses::Tcp6(ip) => Some((IpAddr::from(ip.source_address), ip.source_port)),
    };
    Ok(Parsed::Header(end + 1, source.map(Into::into)))
}

/// Version 2: a signature of twelve bytes, then lengths.
fn parse_binary(bytes: &[u8]) -> Result<Parsed, String> {
    let header = match v2::Header::try_from(bytes) {
        Ok(header) => header,
        Err(error) if error.is_incomplete() => return Ok(Parsed::Incomplete),
        Err(error) => return Err(error.to_string()),
    };
    let len = header.len();
    if header.command == v2::Command::Local {
        return Ok(Parsed::Header(len, None));
    }
    if header.protocol == v2::Protocol::Datagram {
        return Err("the protocol is datagram".into());
    }
    let source = match header.addresses {
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
        v2::Addresses::IPv4(ip) => Some((IpAddr::from(ip.source_address), ip.source_port)),
        v2::Addresses::IPv6(ip) => Some((IpAddr::from(ip.source_address), ip.source_port)),
    };
    Ok(Parsed::Header(len, source.map(Into::into)))
}

#[cfg(test)]
mod tests;
