//! One binary for all tests through the socket; the tree mirrors the URLs and the modules.

// A test says what should be there, and stops where it is not.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    unreachable_pub,
    missing_docs,
    dead_code,
    unused_imports
)]

mod support;

mod cli;
mod cors;
mod crash;
mod disk;
mod durability;
mod easemob;
mod edge;
mod errors;
mod hostile;
mod http;
mod io_errors;
mod lanying;
mod limit;
mod log;
mod memory;
mod mounts;
mod odd_requests;
mod operator;
mod reload;
mod restart;
mod retention;
mod shutdown;
mod store;
mod thumbnails;
mod tidy;
