//! Slows down guessing of passwords and client secrets: too many wrong ones, and the next attempts are refused unseen.
//!
//! Three counts, all of wrong attempts:
//!
//! | of | free | then |
//! |---|---|---|
//! | one account from one address | 10 | refused for 4 s after the next wrong one, then twice as long each time, up to 5 minutes |
//! | one account from all addresses | 50 | one a minute |
//! | all accounts of a tenant from one address | 50 | one a minute |
//!
//! An address from which the account was opened within 30 days is subject to the first count alone. So whoever guesses
//! from many addresses keeps the owner out only at addresses that are new for the account, and a neighbour behind the
//! same NAT keeps nobody out who was there before. The price: for as long as such an attack lasts, a first login from a
//! new address, or after a restart of the server, may be refused.
//!
//! A right password is refused as well while attempts are: the answer must tell nothing about a guess. Refused attempts
//! are not counted, so the time of a refusal does not grow by itself.
//!
//! Nothing is hashed here and no token is issued. The counts are in memory and begin anew with the process.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use foldhash::quality::RandomState;
use ipnet::IpNet;

use crate::{
    error::{Kind, Result},
    fair_queue::Claimant,
};

/// Wrong attempts at one account from one address that cost nothing.
const PAIR_FREE: u32 = 10;
/// How long the next attempt is refused after that; doubled with each further wrong one.
const PAIR_DELAY: Duration = Duration::from_secs(4);
const PAIR_DELAY_MAX: Duration = Duration::from_secs(300);
/// How long wrong attempts count when there are no further ones.
const PAIR_MEMORY: Duration = Duration::from_secs(86_400);
/// How long an address is known from which an account was opened.
const KNOWN: Duration = Duration::from_secs(30 * 86_400);
/// Wrong attempts at an account from all addresses, or from an address at all accounts, that cost nothing.
const SUM_FREE: u32 = 50;
/// How soon there is another one.
const SUM_INTERVAL: Duration = Duration::from_secs(60);
/// Shards of a table, each with a lock of its own that is held for one operation.
const SHARDS: usize = 64;
/// Entries of a shard: 65,536 of both tables, at most 100 bytes each. A wrong password costs a hash, so an attacker
/// needs a quarter of an hour of all places to fill one.
const SHARD_ENTRIES_MAX: usize = 1024;

/// What is guessed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Account<'a> {
    /// The password of a user of the configuration.
    User(&'a str),
    /// The client secret.
    Backend,
    /// A user that there is not.
    Unknown,
}

/// Who attempts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) claimant: Claimant,
    is_exempt: bool,
}

/// An account by its hash: texts of clients are not kept. The key of the hash is random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct AccountId(u64);

/// Whose attempts are summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Sum {
    Account(AccountId),
    Client(Claimant),
}

/// One account and one address.
#[derive(Debug, Clone, Copy)]
struct Pair {
    failures: u32,
    last_failure: Instant,
    /// The account was opened from there.
    known_until: Option<Instant>,
}

/// The counts of all tenants.
pub(super) struct Attempts {
    pairs: Table<(AccountId, Claimant), Pair>,
    /// Until when each sum's allowance is used up: every wrong attempt moves it on by [`SUM_INTERVAL`].
    sums: Table<Sum, Instant>,
    /// Networks of the backend's own servers, which may log in many users: their addresses have no sum.
    exempt: Vec<IpNet>,
    hasher: RandomState,
}

impl Attempts {
    pub(super) fn new(exempt: Vec<IpNet>) -> Self {
        Self {
            pairs: Table::default(),
            sums: Table::default(),
            exempt,
            hasher: RandomState::default(),
        }
    }

    /// A client of a tenant.
    pub(super) fn caller(&self, tenant: u32, client: IpAddr) -> Caller {
        let client = client.to_canonical();
        Caller {
            claimant: Claimant::new(tenant, client),
            is_exempt: self.exempt.iter().any(|net| net.contains(&client)),
        }
    }

    /// Whether an attempt may be looked at. Attempts that are looked at at the same moment do not see each other's
    /// outcome: whoever calls this bounds how many there can be.
    ///
    /// # Errors
    /// [`Kind::RateLimited`] with the time until the next one may be.
    pub(super) fn check(&self, account: Account<'_>, caller: Caller, now: Instant) -> Result<()> {
        let pair = self.pair(account, caller);
        let counted = pair.and_then(|key| self.pairs.shard(&key).get(&key).copied());
        let (wait, is_known) = counted.map_or((Duration::ZERO, false), |pair| {
            (pair.wait(now), pair.is_known(now))
        });
        let wait = match is_known {
            true => wait,
            false => self
                .sums(account, caller)
                .map(|sum| self.sum_wait(sum, now))
                .fold(wait, Duration::max),
        };
        match wait {
            Duration::ZERO => Ok(()),
            wait => Err(Kind::RateLimited(wait).into()),
        }
    }

    /// Counts an attempt that was looked at.
    pub(super) fn record(
        &self,
        account: Account<'_>,
        caller: Caller,
        is_right: bool,
        now: Instant,
    ) {
        match is_right {
            true => self.succeeded(account, caller, now),
            false => self.failed(account, caller, now),
        }
    }

    fn failed(&self, account: Account<'_>, caller: Caller, now: Instant) {
        if let Some(key) = self.pair(account, caller) {
            let mut shard = self.pairs.shard(&key);
            make_room(&mut shard, &key, |pair| pair.is_over(now), Pair::worth);
            let pair = shard.entry(key).or_insert(Pair::new(now));
            if pair.is_forgotten(now) {
                pair.failures = 0;
            }
            pair.failures = pair.failures.saturating_add(1);
            pair.last_failure = now;
            let (failures, wait) = (pair.failures, pair.wait(now));
            drop(shard);
            if !wait.is_zero() {
                let secs = wait.as_secs();
                let claimant = caller.claimant;
                tracing::info!(
                    ?account,
                    ?claimant,
                    failures,
                    secs,
                    "wrong logins are slowed down"
                );
            }
        }
        for sum in self.sums(account, caller) {
            let mut shard = self.sums.shard(&sum);
            make_room(&mut shard, &sum, |used| *used <= now, |used| (false, *used));
            let used = shard.entry(sum).or_insert(now);
            *used = (*used).max(now) + SUM_INTERVAL;
        }
    }

    /// From there the account is known, and its wrong attempts are forgiven.
    fn succeeded(&self, account: Account<'_>, caller: Caller, now: Instant) {
        let Some(key) = self.pair(account, caller) else {
            return;
        };
        let mut shard = self.pairs.shard(&key);
        make_room(&mut shard, &key, |pair| pair.is_over(now), Pair::worth);
        let known_until = Some(now + KNOWN);
        let pair = Pair {
            known_until,
            ..Pair::new(now)
        };
        shard.insert(key, pair);
    }

    fn pair(&self, account: Account<'_>, caller: Caller) -> Option<(AccountId, Claimant)> {
        let id = self.id(account, caller)?;
        Some((id, caller.claimant))
    }

    fn id(&self, account: Account<'_>, caller: Caller) -> Option<AccountId> {
        let tenant = caller.claimant.tenant;
        (account != Account::Unknown).then(|| AccountId(self.hasher.hash_one((tenant, account))))
    }

    fn sums(&self, account: Account<'_>, caller: Caller) -> impl Iterator<Item = Sum> {
        let account = self.id(account, caller).map(Sum::Account);
        let client = (!caller.is_exempt).then_some(Sum::Client(caller.claimant));
        account.into_iter().chain(client)
    }

    /// As a bucket of [`SUM_FREE`] that gains one every [`SUM_INTERVAL`].
    fn sum_wait(&self, sum: Sum, now: Instant) -> Duration {
        let used = self.sums.shard(&sum).get(&sum).copied().unwrap_or(now);
        let behind = used.saturating_duration_since(now);
        behind.saturating_sub(SUM_INTERVAL * (SUM_FREE - 1))
    }
}

impl Pair {
    fn new(now: Instant) -> Self {
        Self {
            failures: 0,
            last_failure: now,
            known_until: None,
        }
    }

    /// How long further attempts are refused.
    fn wait(&self, now: Instant) -> Duration {
        if self.failures < PAIR_FREE || self.is_forgotten(now) {
            return Duration::ZERO;
        }
        let doublings = (self.failures - PAIR_FREE).min(31);
        let delay = PAIR_DELAY
            .saturating_mul(1 << doublings)
            .min(PAIR_DELAY_MAX);
        delay.saturating_sub(now.saturating_duration_since(self.last_failure))
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_failure) >= PAIR_MEMORY
    }

    fn is_known(&self, now: Instant) -> bool {
        self.known_until.is_some_and(|until| now < until)
    }

    /// It says nothing any more.
    fn is_over(&self, now: Instant) -> bool {
        !self.is_known(now) && (self.failures == 0 || self.is_forgotten(now))
    }

    /// Where there is no room, the entry with the least goes: a known address is worth more than any count, or guesses
    /// could make the owner unknown.
    fn worth(&self) -> (bool, Instant) {
        (
            self.known_until.is_some(),
            self.known_until.unwrap_or(self.last_failure),
        )
    }
}

/// A map in shards, each with a bound.
struct Table<K, V> {
    shards: Box<[Mutex<HashMap<K, V, RandomState>>]>,
    hasher: RandomState,
}

type Shard<'a, K, V> = MutexGuard<'a, HashMap<K, V, RandomState>>;

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
        }
    }
}

impl<K: Hash, V> Table<K, V> {
    fn shard(&self, key: &K) -> Shard<'_, K, V> {
        let index = self.hasher.hash_one(key) % SHARDS as u64;
        // Whole after every step: a panic elsewhere does not spoil it.
        self.shards[index as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room for a key in a shard that is full: what is over goes, else what is worth least.
fn make_room<K: Copy + Eq + Hash, V, W: Ord>(
    shard: &mut HashMap<K, V, RandomState>,
    key: &K,
    is_over: impl Fn(&V) -> bool,
    worth: impl Fn(&V) -> W,
) {
    if shard.len() < SHARD_ENTRIES_MAX || shard.contains_key(key) {
        return;
    }
    shard.retain(|_, value| !is_over(value));
    if shard.len() < SHARD_ENTRIES_MAX {
        return;
    }
    let least = shard.iter().min_by_key(|(_, value)| worth(value));
    if let Some(key) = least.map(|(key, _)| *key) {
        shard.remove(&key);
    }
}

#[cfg(test)]
mod tests;
