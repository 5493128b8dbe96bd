//! The several ways to read the text that a dynamic token signs, and which of them is meant.
//!
//! The text is `userId ‖ curTime ‖ ttl` without separators (and fixed texts before and after), so digits can be moved
//! between the three. A *reading* is one way to part it that [`super::verify`] could accept: a user name, ten digits of
//! time, and up to nine digits of ttl, neither number with a leading zero. The number of digits of the ttl says which
//! reading it is.
//!
//! A token is accepted when no other reading counts. Another reading counts when it could be the one that the backend
//! signed: its time has come, and lies at most [`PATIENCE_SECS`] before this one's, or its ttl still lasts. Whoever may
//! choose a user name could else ask for a token as `bob1795` and read it as one of `bob`, or wait as `bob` for the moment at which
//! it can be read as one of `bob179`.
//!
//! Where another reading counts, the ttl decides: a backend gives the same few to all its tokens, and tokens with one
//! reading alone, which most are, say which. They are remembered by tenant. A token is then accepted if its ttl is one
//! of these and no other reading's is. For a backend with more than [`TTLS_MAX`] of them nothing is decided so. An
//! operator may also name the ttls (`dynamic_token_ttl_seconds`): then they alone decide, from the first token on.
//!
//! So at any moment at most one reading of a text is accepted: of two that count, each would need its ttl to be
//! remembered and the other's not to be. Nothing is forgotten while the process runs, and the ttl of a token with
//! one reading alone is remembered; so no later moment accepts another reading either, until the first is over and lies
//! more than [`PATIENCE_SECS`] before the other. From then on, the other is refused if its ttl is not remembered and the
//! first one's is.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::{AHEAD_SECS_MAX, TIME_DIGITS, TTL_DIGITS_MAX};
use crate::{auth::USER_BYTES_MAX, tenant::Tenant, time::Timestamp};

/// How long somebody may have kept a token to read it anew, in seconds: 400 days.
pub(super) const PATIENCE_SECS: i64 = 400 * 86_400;
/// Different ttls of one backend. More are as good as any.
const TTLS_MAX: usize = 16;

/// What a reading says of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) time_secs: i64,
    pub(super) ttl_secs: i64,
}

impl Reading {
    /// Whether the backend may have signed it by now.
    fn has_come(self, now: Timestamp) -> bool {
        self.time_secs <= now.secs() + AHEAD_SECS_MAX
    }

    /// Whether it counts against another reading of the same text.
    fn counts_against(self, own: Self, now: Timestamp) -> bool {
        let is_alive = self.time_secs + self.ttl_secs > now.secs();
        is_alive || self.time_secs >= own.time_secs - PATIENCE_SECS
    }
}

/// All readings of `user ‖ time ‖ ttl` but this one.
pub(super) fn others(user: &str, time: &str, ttl: &str) -> Vec<Reading> {
    let is_digit = |byte: &&u8| byte.is_ascii_digit();
    let tail = user
        .bytes()
        .rev()
        .take_while(|byte| is_digit(&byte))
        .count();
    // A name has at least one byte; and the ttl takes all that the time leaves.
    let longest = TTL_DIGITS_MAX - ttl.len().min(TTL_DIGITS_MAX);
    let tail = tail.min(user.len().saturating_sub(1)).min(longest);
    let digits = [&user[user.len() - tail..], time, ttl].concat();
    let number = |digits: &str| -> Option<i64> {
        let is_plain = !digits.is_empty() && !digits.starts_with('0');
        is_plain.then(|| digits.parse().ok()).flatten()
    };
    (0..digits.len().saturating_sub(TIME_DIGITS))
        .filter(|moved| *moved != tail && user.len() + moved - tail <= USER_BYTES_MAX)
        .filter_map(|moved| {
            let (time, ttl) = digits[moved..].split_at(TIME_DIGITS);
            Some(Reading {
                time_secs: number(time)?,
                ttl_secs: number(ttl)?,
            })
        })
        .collect()
}

/// The ttls that backends are known to give, by tenant.
///
/// Memory: at most [`TTLS_MAX`] numbers for each tenant that has sent dynamic tokens. The lock is held for a look-up,
/// for tokens that are not in the verifier's cache.
#[derive(Debug, Default)]
pub(in crate::auth) struct KnownTtls(Mutex<HashMap<u32, Ttls>>);

#[derive(Debug, Default)]
struct Ttls {
    secs: Vec<i64>,
    /// There were more: nothing can be decided by them.
    are_many: bool,
}

impl KnownTtls {
    /// Whether `own` is what was meant, and not one of `others`. Remembers its ttl where there is no doubt.
    pub(super) fn decide(
        &self,
        tenant: &Tenant,
        own: Reading,
        mut others: Vec<Reading>,
        now: Timestamp,
    ) -> bool {
        others.retain(|other| other.has_come(now));
        if let Some(ttls) = &tenant.dynamic_ttls {
            let is_given = |reading: &Reading| ttls.contains(&reading.ttl_secs);
            return is_given(&own) && !others.iter().any(is_given);
        }
        let mut known = self.0.lock();
        let ttls = known.entry(tenant.index).or_default();
        let has = |reading: &Reading| ttls.secs.contains(&reading.ttl_secs);
        let (is_known, is_other_known) = (has(&own), others.iter().any(has));
        if others.iter().any(|other| other.counts_against(own, now)) {
            return !ttls.are_many && is_known && !is_other_known;
        }
        if !ttls.are_many && is_other_known && !is_known {
            return false;
        }
        if !is_known {
            match ttls.secs.len() < TTLS_MAX {
                true => ttls.secs.push(own.ttl_secs),
                false => ttls.are_many = true,
            }
        }
        true
    }
}
