//! Finds the intended reading of the text that a dynamic token signs.
//!
//! The text is `userId ‖ curTime ‖ ttl` without separators, between fixed texts, so digits can be moved between the
//! three fields. A *reading* is one way to split it that [`super::verify`] could accept: a user name, ten digits of
//! time, and up to nine digits of ttl, without leading zeros. The number of digits of the ttl identifies the reading.
//!
//! A token is accepted if no other reading counts. Another reading counts if the backend may have signed it: its time
//! is not in the future, and it is at most [`PATIENCE_SECS`] older than this reading, or has not expired. Otherwise an
//! attacker who can choose a user name could get a token as `bob1795` and use it as `bob`, or get one as `bob` and wait
//! until it can be read as a token of `bob179`.
//!
//! If another reading counts, the ttl decides. A backend uses a few ttls for all its tokens, and most tokens have only
//! one reading, which shows these ttls. They are stored by tenant. An ambiguous token is accepted if its ttl is one of
//! them and the ttl of no other reading is. For a backend with more than [`TTLS_MAX`] ttls, ambiguous tokens are
//! refused. An operator may also configure the ttls (`dynamic_token_ttl_seconds`). Then only they decide, from the
//! first token on.
//!
//! So at any moment at most one reading of a text is accepted: of two that count, each needs its own ttl to be stored
//! and the other's not to be. Stored ttls are kept while the process runs, and the ttl of a token with one reading is
//! stored. So no later moment accepts another reading either, until the first one has expired and is more than
//! [`PATIENCE_SECS`] older than the other. From then on, the other one is refused if its ttl is not stored and the
//! first one's is.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::{AHEAD_SECS_MAX, TIME_DIGITS, TTL_DIGITS_MAX};
use crate::{auth::USER_BYTES_MAX, tenant::Tenant, time::Timestamp};

/// The longest time that an attacker is expected to keep a token, in seconds: 400 days.
pub(super) const PATIENCE_SECS: i64 = 400 * 86_400;
/// Stored ttls of one backend. With more, a ttl says nothing about a reading.
const TTLS_MAX: usize = 16;

/// The time and the ttl of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) time_secs: i64,
    pub(super) ttl_secs: i64,
}

impl Reading {
    /// Whether the backend may have signed it already.
    fn has_come(self, now: Timestamp) -> bool {
        self.time_secs <= now.secs() + AHEAD_SECS_MAX
    }

    /// Whether it counts against another reading of the same text.
    fn counts_against(self, own: Self, now: Timestamp) -> bool {
        let is_alive = self.time_secs + self.ttl_secs > now.secs();
        is_alive || self.time_secs >= own.time_secs - PATIENCE_SECS
    }
}

/// All other readings of `user ‖ time ‖ ttl`.
pub(super) fn others(user: &str, time: &str, ttl: &str) -> Vec<Reading> {
    let is_digit = |byte: &&u8| byte.is_ascii_digit();
    let tail = user
        .bytes()
        .rev()
        .take_while(|byte| is_digit(&byte))
        .count();
    // A name has at least one byte. The ttl gets all digits that the time leaves.
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

/// The ttls that backends use, by tenant.
///
/// Memory: at most [`TTLS_MAX`] numbers for each tenant with dynamic tokens. The lock is held for a few lookups, and
/// only for tokens that are not in the verifier's cache.
#[derive(Debug, Default)]
pub(in crate::auth) struct KnownTtls(Mutex<HashMap<u32, Ttls>>);

#[derive(Debug, Default)]
struct Ttls {
    secs: Vec<i64>,
    /// There are more than [`TTLS_MAX`], so they decide nothing.
    are_many: bool,
}

impl KnownTtls {
    /// Whether `own` is the intended reading, and not one of `others`. Stores its ttl if no other reading counts.
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
