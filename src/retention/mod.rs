//! Retention of objects: the rule (`expiry.rs`), and the removal of expired objects (`sweep.rs`).
//!
//! Every read checks the rule. The sweep only frees the space, two days later.

mod expiry;
mod sweep;

pub use self::{
    expiry::{days_of, expires_at, is_expired},
    sweep::{Policy, Report, SweepMode, keep_time, sweep},
};
