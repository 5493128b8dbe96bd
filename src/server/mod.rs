//! From sockets to answers: listeners, connections, and the pipeline of a request.

pub mod access;
pub mod connection;
pub mod control;
mod deadlines;
pub mod listener;
pub mod operator;
pub mod router;
pub mod service;
pub mod shutdown;
mod transport;
