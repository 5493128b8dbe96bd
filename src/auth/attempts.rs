//! Slows down the guessing of passwords and client secrets: after too many wrong attempts, further ones are refused
//! without a check.
//!
//! Four counts of wrong attempts:
//!
//! | attempts | free | then |
//! |---|---|---|
//! | at one account from one address | 10 | refused for 4 s, then twice as long after each wrong one, up to 5 minutes |
//! | at one account, from addresses that have failed there before | 50 | one per minute |
//! | at one account, first attempts of new addresses | 50 | one per minute |
//! | at all accounts of a tenant from one address | 50 | one per minute |
//!
//! Only the first count applies to an address with a successful login to the account within the last 30 days.
//!
//! The second and third counts are separate so that a few addresses cannot lock out an owner who comes from a new
//! address, as every phone does. Locking the owner out takes 50 networks and a new one each minute. An IPv6 /48 counts
//! as one network, since a provider may assign it to one customer. The cost: an attacker with that many networks can
//! guess twice as often, 2,880 times a day.
//!
//! Only the first count applies to client secrets. A secret of 16 bytes cannot be guessed at this rate from any number
//! of addresses, and a chat backend that restarts on another host must not be locked out by an attacker.
//!
//! While attempts are refused, a right password is refused too: the response must not reveal whether a guess is right.
//! Refused attempts are not counted, so they do not extend the refusal.
//!
//! Hashing and issuing tokens is elsewhere. The counts are in memory and start at zero with each process.

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

/// Free wrong attempts at one account from one address.
const PAIR_FREE: u32 = 10;
/// How long the next attempt is refused after that. Doubled with each further wrong attempt.
const PAIR_DELAY: Duration = Duration::from_secs(4);
const PAIR_DELAY_MAX: Duration = Duration::from_secs(300);
/// Time after the last wrong attempt until they are forgotten.
const PAIR_MEMORY: Duration = Duration::from_secs(86_400);
/// Time after a successful login for which the address is known.
const KNOWN: Duration = Duration::from_secs(30 * 86_400);
/// Known addresses of an account: those of the most recent logins.
const HOMES_MAX: usize = 16;
/// Time for which an address counts as one that has failed at an account.
const SEEN: Duration = PAIR_MEMORY;
/// Free wrong attempts at an account from all addresses, or from one address at all accounts.
const SUM_FREE: u32 = 50;
/// Interval of further attempts.
const SUM_INTERVAL: Duration = Duration::from_secs(60);
/// Shards of a table. Each has a lock, which is held for one operation.
const SHARDS: usize = 64;
/// Entries of a shard, so 65,536 in each table, of at most 100 bytes each. Those of `homes` also have up to 16
/// addresses of 40 bytes. Only accounts of the configuration are in `homes`, so no client can fill it.
const SHARD_ENTRIES_MAX: usize = 1024;

/// The account that an attempt is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Account<'a> {
    /// A user of the configuration, with a password.
    User(&'a str),
    /// The tenant's backend, with the client secret.
    Backend,
    /// A user that does not exist.
    Unknown,
}

/// The origin of an attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) claimant: Claimant,
    /// The address, or the /48 of an IPv6 address.
    origin: IpAddr,
    is_exempt: bool,
}

/// An account, as a hash with a random key, so that no text of a client is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct AccountId(u64);

/// The key of a sum over several addresses or accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Sum {
    /// Attempts at an account from addresses that have failed there before.
    Account(AccountId),
    /// Attempts at an account from other addresses.
    Newcomers(AccountId),
    /// Attempts of one client at all accounts of a tenant.
    Client(Claimant),
}

/// Wrong attempts at one account from one address.
#[derive(Debug, Clone, Copy)]
struct Pair {
    failures: u32,
    last_failure: Instant,
}

/// The known addresses of an account, each with its expiry, ordered by login.
type Homes = Vec<(Claimant, Instant)>;

/// The counts of all tenants.
pub(super) struct Attempts {
    pairs: Table<(AccountId, Claimant), Pair>,
    homes: Table<AccountId, Homes>,
    /// Until when an origin counts as one that has failed at the account.
    seen: Table<(AccountId, IpAddr), Instant>,
    /// The moment at which each sum is zero again. A wrong attempt moves it on by [`SUM_INTERVAL`].
    sums: Table<Sum, Instant>,
    /// Networks of the backend's own servers, which may log in many users. Their addresses have no sum.
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

    /// Checks whether an attempt is allowed. Concurrent attempts do not see each other's outcome, so the caller must
    /// limit how many run at the same time.
    ///
    /// # Errors
    /// [`Kind::RateLimited`] with the time until the next attempt is allowed.
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

    /// Counts an attempt that was allowed.
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
        let Some(key) = self.pair(account, caller) else {
            return;
        };
        let pair = self.count_failure(key, now);
        let wait = pair.wait(now);
        if !wait.is_zero() {
            let (failures, secs, claimant) = (pair.failures, wait.as_secs(), caller.claimant);
            tracing::info!(
                ?account,
                ?claimant,
                failures,
                secs,
                "wrong logins are slowed down"
            );
        }
    }

    fn count_failure(&self, key: (AccountId, Claimant), now: Instant) -> Pair {
        let mut shard = self.pairs.shard(&key);
        let is_over = |pair: &Pair| pair.is_forgotten(now);
        make_room(&mut shard, &key, is_over, |pair| pair.last_failure);
        let counted = shard.get(&key).filter(|pair| !is_over(pair));
        let pair = Pair {
            failures: counted.map_or(0, |pair| pair.failures).saturating_add(1),
            last_failure: now,
        };
        shard.insert(key, pair);
        pair
    }

    /// Remembers the address of a successful login, and resets its count of wrong attempts.
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

    /// Whether there was a recent successful login from this client.
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

    /// The account, if it is a user.
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

    /// The time until the next attempt: a token bucket of [`SUM_FREE`] that gains one every [`SUM_INTERVAL`].
    fn sum_wait(&self, sum: Sum, now: Instant) -> Duration {
        let used = self.sums.shard(&sum).get(&sum).copied().unwrap_or(now);
        let behind = used.saturating_duration_since(now);
        behind.saturating_sub(SUM_INTERVAL * (SUM_FREE - 1))
    }
}

impl Pair {
    /// The time until the next attempt is allowed.
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

/// A sharded map with a bound for each shard.
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
        self.shards[index as usize].lock()
    }
}

/// Makes room for a key in a full shard: removes the entries that are over, or else the one that is worth least.
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
