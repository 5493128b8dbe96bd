//! Easemob's API, a file an endpoint.

mod download;
mod upload;
