//! From sockets to responses: listeners, connections, and the pipeline of a request.

pub mod access;
pub mod activation;
mod admission;
pub mod cdn;
pub mod connection;
pub mod control;
mod deadlines;
pub mod endpoint;
pub mod handover;
pub mod listener;
pub mod operator;
pub mod proxy_protocol;
mod routing;
mod send_queue;
pub mod service;
pub mod shutdown;
mod socket;
mod stall;
pub mod tls;
mod transport;
mod unsent_limit;
