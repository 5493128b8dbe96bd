//! Easemob's API, a file an endpoint.

mod upload;
