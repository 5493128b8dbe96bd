//! The Lanying API, call by call.

mod apps;
mod avatar;
mod calls;
mod covers;
mod download;
mod envelope;
mod file_sign;
mod forged;
mod form;
pub(crate) mod forward;
mod hook;
mod limits;
mod pictures;
mod redirect;
mod removal;
mod retention;
mod revoked;
mod rights;
mod sdk_sign;
mod store_token;
mod tickets;
mod tokens;
mod voices;
