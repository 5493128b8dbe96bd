//! The PROXY protocol, versions 1 and 2: whom a proxy speaks for, said before the first byte of the client.
//!
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>. It is read only on listeners that say so and
//! believed only from trusted networks; the header is obligatory there, else a client could send its own.

use std::net::{IpAddr, SocketAddr};

use ppp::{PartialResult, v1, v2};

/// Longer ones are refused: addresses, and extensions such as the server name, which nobody reads here.
pub const HEADER_BYTES_MAX: usize = 2048;

/// What the bytes at the beginning of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// A whole header of so many bytes, and the client's address; none where the proxy speaks for itself (a
    /// health check) or does not know.
    Header(usize, Option<SocketAddr>),
    /// The beginning of one.
    Incomplete,
}

/// Reads a header at the start of `bytes`.
///
/// # Errors
/// What is wrong, for the log. The connection must be closed without an answer.
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

/// Version 1: one line. It is looked at once it is whole: half an address is no bad one.
fn parse_text(bytes: &[u8]) -> Result<Parsed, String> {
    /// Line end included.
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
            false => Err("neither a PROXY line nor its beginning".into()),
        };
    };
    let line = &bytes[..=end];
    // The library takes a space for a carriage return, as in a line that ends with " \n", and the other way round.
    if line.iter().position(|&byte| byte == b'\r') != end.checked_sub(1) {
        return Err("a line that does not end with its first carriage return".into());
    }
    let header = v1::Header::try_from(line).map_err(|error| error.to_string())?;
    // It reads ports as Rust reads numbers.
    if header.addresses != v1::Addresses::Unknown && line.contains(&b'+') {
        return Err("a port with a sign".into());
    }
    let source = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(ip) => Some((IpAddr::from(ip.source_address), ip.source_port)),
        v1::Addresses::Tcp6(ip) => Some((IpAddr::from(ip.source_address), ip.source_port)),
    };
    Ok(Parsed::Header(end + 1, source.map(Into::into)))
}

/// Version 2: twelve bytes of signature, then lengths.
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
        return Err("of a datagram".into());
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
