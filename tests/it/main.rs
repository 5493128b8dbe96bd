//! One test binary for all tests over the socket. The module tree follows the URLs and the source modules.

// In tests, a failed expectation may panic.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    unreachable_pub,
    missing_docs,
    dead_code,
    unused_imports
)]

mod support;

mod backend_tokens;
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
mod landing;
mod lanying;
mod limit;
mod log;
mod memory;
mod mounts;
mod odd_requests;
mod openapi;
mod operator;
mod reload;
mod restart;
mod retention;
mod shutdown;
mod store;
mod thumbnails;
mod tidy;
