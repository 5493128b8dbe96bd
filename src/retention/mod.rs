//! How long objects live: the rule (`expiry.rs`), and the removal of what has outlived it (`sweep.rs`).
//!
//! Every read checks the rule itself; the sweep only frees the space, two days later.

mod expiry;
mod sweep;

pub use self::{
    expiry::{days_of, expires_at, is_expired},
    sweep::{Policy, Report, SweepMode, keep_time, sweep},
};
