//! Easemob's API, a file an endpoint.

mod download;
mod thumbnail;
mod parts;
mod parts_bounds;
mod quirks;
mod upload;
mod upload_bounds;
