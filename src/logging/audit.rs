//! The audit log: one line for each act that people must answer for, such as a take-down.

use std::fmt::Display;

/// The log target of these lines. They are written at every level, unless `audit=off` is set ([`super::directives`]).
pub(super) const TARGET: &str = "audit";

/// Who acts, for an audit line.
#[derive(Debug, Clone, Copy)]
pub struct Actor<'a> {
    /// The way and the address: `console 127.0.0.1`, `command line`. Must not contain a secret.
    pub by: &'a str,
    /// The id of the request, if there is one.
    pub request: Option<u64>,
}

/// Writes an audit line. `object` is the id of a file or another name, `tenant` its `org/app`, which is empty if it is
/// not known, and `outcome` says how it ended.
pub fn audit(
    action: &'static str,
    object: impl Display,
    tenant: &str,
    actor: Actor<'_>,
    outcome: &'static str,
) {
    let request = actor.request.map(|id| format!("{id:016x}"));
    tracing::info!(
        target: TARGET,
        action,
        %object,
        tenant,
        by = actor.by,
        request = request.map(tracing::field::display),
        outcome,
        "audit"
    );
}
