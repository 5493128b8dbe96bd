//! Expiry of files (`expiry.rs`), and removal of expired files (`sweep.rs`).
//!
//! Each read checks expiry itself. The sweep only frees the space, two days later.

mod expiry;
mod sweep;

pub use self::{
    expiry::{expires_at, is_expired},
    sweep::{Policy, Refusal, Report, SweepMode, keep_time, sweep},
};
