//! Easemob's API, a file an endpoint.

mod download;
mod parts;
mod parts_bounds;
mod quirks;
mod thumbnail;
mod upload;
mod upload_bounds;
