//! Easemob's API, a file an endpoint.

mod download;
mod thumbnail;
mod upload;
