//! Easemob's API, a file an endpoint.

mod download;
mod thumbnail;
mod parts;
mod quirks;
mod upload;
mod upload_bounds;
