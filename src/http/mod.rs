//! The rules of HTTP, as pure functions: no I/O, no clock, neither of the two APIs.
//!
//! Responses: the plan of a download ([`plan`], [`conditional`]), its parts ([`range`], [`byteranges`]), its headers
//! ([`representation`], [`disposition`], [`cors`]). Requests: the client's address ([`forwarded`]), what of the target
//! may be logged ([`target`]), what the client accepts ([`accept`]), heads to refuse ([`framing`]), bodies
//! ([`mod@body`], [`multipart`]). hyper parses the messages; nothing here reads a socket or a file.

pub mod plan;

pub mod conditional;
pub mod range;

pub mod accept;
pub mod byteranges;
pub mod cors;
pub mod disposition;
pub mod forwarded;
pub mod framing;
pub mod representation;
pub mod target;

pub mod body;
pub mod multipart;
