//! The Easemob API, one file per endpoint.

mod download;
mod logins;
mod media;
pub(crate) mod parts;
mod parts_bounds;
mod parts_once;
mod parts_shares;
mod quirks;
mod thumbnail;
mod token;
mod token_accepted;
mod token_keys;
mod upload;
mod upload_bounds;
mod upload_cuts;
