//! Slows down guessing of passwords and client secrets: too many wrong ones, and the next attempts are refused unseen.
//!
//! Four counts, all of wrong attempts:
//!
//! | of | free | then |
//! |---|---|---|
//! | one account from one address | 10 | refused for 4 s after the next wrong one, then twice as long each time, up to 5 minutes |
//! | one account from all addresses that have guessed at it before | 50 | one a minute |
//! | one account from all addresses that have not: their first guesses | 50 | one a minute |
//! | all accounts of a tenant from one address | 50 | one a minute |
//!
//! An address from which the account was opened within 30 days is subject to the first count alone.
//!
//! The second and the third are apart so that a few addresses cannot keep the owner out who comes from a new one, as
//! every phone does. Whoever wants that needs 50 networks and a new one each minute; of IPv6, a whole /48 is one here,
//! since a provider may assign it to one customer. The price: an account can be guessed at twice as often, 2,880 times
//! a day, by whoever has as many networks.
//!
//! Client secrets have the first count alone: one of 16 bytes is not guessed at this pace from any number of addresses,
//! and a chat backend that restarts elsewhere must not wait for somebody who tries.
//!
//! A right password is refused as well while attempts are: the answer must tell nothing about a guess. Refused attempts
//! are not counted, so the time of a refusal does not grow by itself.
//!
//! Nothing is hashed here and no token is issued. The counts are in memory and begin anew with the process.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
    net::IpAddr,
    time::{Duration, Instant},
};

use foldhash::quality::RandomState;
use ipnet::IpNet;
use parking_lot::{Mutex, MutexGuard};

use crate::{
    client_network::site,
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
/// Addresses that are remembered of an account, the last ones from which it was opened.
const HOMES_MAX: usize = 16;
/// How long an address is remembered that has guessed at an account.
const SEEN: Duration = PAIR_MEMORY;
/// Wrong attempts at an account from all addresses, or from an address at all accounts, that cost nothing.
const SUM_FREE: u32 = 50;
/// How soon there is another one.
const SUM_INTERVAL: Duration = Duration::from_secs(60);
/// Shards of a table, each with a lock of its own that is held for one operation.
const SHARDS: usize = 64;
/// Entries of a shard, so 65,536 of each table, at most 100 bytes each; those of `homes` have up to 16 addresses
/// of 40 bytes besides. Only accounts of the configuration are in `homes`, so no client can fill it.
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
    /// Its address, or the /48 of an IPv6 address.
    origin: IpAddr,
    is_exempt: bool,
}

/// An account by its hash: texts of clients are not kept. The key of the hash is random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct AccountId(u64);

/// Whose attempts are summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Sum {
    /// From addresses that have guessed at it before.
    Account(AccountId),
    /// From addresses that have not.
    Newcomers(AccountId),
    Client(Claimant),
}

/// Wrong attempts at one account from one address.
#[derive(Debug, Clone, Copy)]
struct Pair {
    failures: u32,
    last_failure: Instant,
}

/// From where an account was opened, and until when that counts; the latest is the last.
type Homes = Vec<(Claimant, Instant)>;

/// The counts of all tenants.
pub(super) struct Attempts {
    pairs: Table<(AccountId, Claimant), Pair>,
    homes: Table<AccountId, Homes>,
    /// Until when an origin is one that has guessed at the account.
    seen: Table<(AccountId, IpAddr), Instant>,
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
            homes: Table::default(),
            seen: Table::default(),
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
            origin: site(client),
            is_exempt: self.exempt.iter().any(|net| net.contains(&client)),
        }
    }

    /// Whether an attempt may be looked at. Attempts that are looked at at the same moment do not see each other's
    /// outcome: whoever calls this bounds how many there can be.
    ///
    /// # Errors
    /// [`Kind::RateLimited`] with the time until the next one may be.
    pub(super) fn check(&self, account: Account<'_>, caller: Caller, now: Instant) -> Result<()> {
        let of_pair = self.pair(account, caller).map_or(Duration::ZERO, |key| {
            let counted = self.pairs.shard(&key).get(&key).copied();
            counted.map_or(Duration::ZERO, |pair| pair.wait(now))
        });
        let wait = match self.is_known(account, caller, now) {
            true => of_pair,
            false => self
                .sums(account, caller, now)
                .map(|sum| self.sum_wait(sum, now))
                .fold(of_pair, Duration::max),
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
        for sum in self.sums(account, caller, now) {
            let mut shard = self.sums.shard(&sum);
            make_room(&mut shard, &sum, |used| *used <= now, |used| *used);
            let used = shard.entry(sum).or_insert(now);
            *used = (*used).max(now) + SUM_INTERVAL;
        }
        if let Some(key) = self.user(account, caller).map(|id| (id, caller.origin)) {
            let mut shard = self.seen.shard(&key);
            make_room(&mut shard, &key, |until| *until <= now, |until| *until);
            shard.insert(key, now + SEEN);
        }
        if let Some(key) = self.pair(account, caller) {
            let mut shard = self.pairs.shard(&key);
            make_room(
                &mut shard,
                &key,
                |pair| pair.is_forgotten(now),
                |pair| pair.last_failure,
            );
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
    }

    /// From there the account is known, and its wrong attempts are forgiven.
    fn succeeded(&self, account: Account<'_>, caller: Caller, now: Instant) {
        if let Some(key) = self.pair(account, caller) {
            self.pairs.shard(&key).remove(&key);
        }
        if let Some(id) = self.user(account, caller) {
            let mut shard = self.homes.shard(&id);
            let until = |homes: &Homes| homes.last().map(|(_, until)| *until);
            make_room(&mut shard, &id, |homes| until(homes) <= Some(now), until);
            let homes = shard.entry(id).or_default();
            homes.retain(|(home, until)| *home != caller.claimant && *until > now);
            if homes.len() >= HOMES_MAX {
                homes.remove(0);
            }
            homes.push((caller.claimant, now + KNOWN));
        }
    }

    /// Whether the account was opened from there.
    fn is_known(&self, account: Account<'_>, caller: Caller, now: Instant) -> bool {
        self.user(account, caller).is_some_and(|id| {
            let shard = self.homes.shard(&id);
            let homes = shard.get(&id).map_or(&[][..], Vec::as_slice);
            homes
                .iter()
                .any(|(home, until)| *home == caller.claimant && *until > now)
        })
    }

    fn pair(&self, account: Account<'_>, caller: Caller) -> Option<(AccountId, Claimant)> {
        let id = self.id(account, caller)?;
        Some((id, caller.claimant))
    }

    fn id(&self, account: Account<'_>, caller: Caller) -> Option<AccountId> {
        let tenant = caller.claimant.tenant;
        (account != Account::Unknown).then(|| AccountId(self.hasher.hash_one((tenant, account))))
    }

    /// The account, where it is a user's.
    fn user(&self, account: Account<'_>, caller: Caller) -> Option<AccountId> {
        match account {
            Account::User(_) => self.id(account, caller),
            Account::Backend | Account::Unknown => None,
        }
    }

    fn sums(
        &self,
        account: Account<'_>,
        caller: Caller,
        now: Instant,
    ) -> impl Iterator<Item = Sum> + use<> {
        let of_account = self.user(account, caller).map(|id| {
            let key = (id, caller.origin);
            let until = self.seen.shard(&key).get(&key).copied();
            match until.is_some_and(|until| until > now) {
                true => Sum::Account(id),
                false => Sum::Newcomers(id),
            }
        });
        let is_summed = account != Account::Backend && !caller.is_exempt;
        let of_client = is_summed.then_some(Sum::Client(caller.claimant));
        of_account.into_iter().chain(of_client)
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
        self.shards[index as usize].lock()
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
