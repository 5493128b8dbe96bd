//! The rules of HTTP that the service decides by, as pure functions: no I/O, no clock, no dialect.
//!
//! Which answer a download gets ([`plan`]), what of it is sent ([`range`], [`byteranges`]), what its
//! headers say ([`representation`], [`disposition`], [`cors`]), whom a request comes from ([`forwarded`]), what of it may be shown
//! ([`target`]) and which heads are refused ([`framing`]). Parsing of messages is hyper's; nothing here reads a
//! socket or a file.

pub mod plan;

pub mod conditional;
pub mod range;

pub mod byteranges;
pub mod cors;
pub mod disposition;
pub mod forwarded;
pub mod framing;
pub mod representation;
pub mod target;

pub mod body;
pub mod multipart;
