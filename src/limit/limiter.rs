//! The rate limiter: a bounded table of token buckets by tenant, rate class and client.
//!
//! The caller determines the client's address (`server/`, from trusted proxies only) and calls [`Limiter::sweep`]: this
//! module has no task. The buckets are lost at a restart.

use std::{
    hash::BuildHasher,
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use dashmap::{DashMap, mapref::entry::Entry};
use foldhash::quality::RandomState;
use ipnet::IpNet;
use serde::Deserialize;

use super::gcra::{Bucket, Rate};
use crate::settings::{networks, number};

/// Shards of the table. A sweep holds the write lock of one shard at a time. With 1,000,000 addresses a shard has 4,000
/// entries, so callers wait for tens of microseconds.
const SHARDS: usize = 256;
/// Buckets of each rate class that all further addresses share once the table is full.
const SHARED_BUCKETS: usize = 4096;
/// Upper limit of `addresses_max`: about 1 GB.
const ADDRESSES_LIMIT: usize = 1 << 24;

/// A class of calls with a rate limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateClass {
    /// Uploads, parts of uploads, and form POSTs.
    Upload,
    /// Downloads.
    Download,
    /// Thumbnails and other derivatives.
    Thumbnail,
    /// All other calls.
    Other,
}

impl RateClass {
    const COUNT: usize = 4;
}

/// The settings of the limiter, from `[limits]`. The rates are settings of the tenants.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Maximum number of buckets, over all tenants and rate classes; 1 to 16,777,216. Measured: 56 MB for 1,000,000.
    #[serde(deserialize_with = "number::<1, 16_777_216, _, _>")]
    pub addresses_max: usize,
    /// Networks that are exempt: the backend's own servers. The list is searched in order, so it should be short.
    #[serde(deserialize_with = "networks")]
    pub exempt: Vec<IpNet>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            addresses_max: 1_000_000,
            exempt: Vec::new(),
        }
    }
}

/// The key of a bucket, in 16 bytes:
/// ```text
/// client  u64   the IPv4 address, or the first 64 bits of the IPv6 address
/// rest    u64   tenant << 8 | rate class << 1 | 1 if IPv6
/// ```
/// An IPv6 /64 is one client: a provider assigns it to one subscriber, who can use all of its 2^64 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    client: u64,
    rest: u64,
}

impl Key {
    /// `client` is canonical: IPv4-mapped addresses are IPv4 already.
    fn new(tenant: u32, rate_class: RateClass, client: IpAddr) -> Self {
        let (client, v6) = match client {
            IpAddr::V4(address) => (u64::from(address.to_bits()), 0),
            IpAddr::V6(address) => ((address.to_bits() >> 64) as u64, 1),
        };
        let rest = u64::from(tenant) << 8 | (rate_class as u64) << 1 | v6;
        Self { client, rest }
    }
}

/// Limits calls per second by tenant, class and client.
///
/// A call of a known client costs one read lock of a shard and one compare-and-swap. The hash has a random seed, so
/// that no one can choose addresses that fall into one shard, or that share a bucket with another client.
#[derive(Debug)]
pub struct Limiter {
    /// At most `addresses_max` entries. A slot has 24 bytes, and one of control.
    buckets: DashMap<Key, Bucket, RandomState>,
    /// Number of entries of `buckets`, including those about to be inserted. `DashMap::len` would lock every shard.
    entries: AtomicUsize,
    addresses_max: usize,
    /// For clients that come when the table is full: `SHARED_BUCKETS` for each rate class, chosen by hash. Such clients
    /// may be refused for each other's calls. No call is admitted without a bucket.
    shared: Box<[Bucket]>,
    exempt: Vec<IpNet>,
    epoch: Instant,
}

impl Limiter {
    /// An empty table. `epoch` is any time not after the first call. Buckets count from it.
    pub fn new(config: Config, epoch: Instant) -> Self {
        Self {
            buckets: DashMap::with_hasher_and_shard_amount(RandomState::default(), SHARDS),
            entries: AtomicUsize::new(0),
            addresses_max: config.addresses_max.clamp(1, ADDRESSES_LIMIT),
            shared: (0..SHARED_BUCKETS * RateClass::COUNT)
                .map(|_| Bucket::default())
                .collect(),
            exempt: config.exempt,
            epoch,
        }
    }

    /// Counts one call of `client`. `tenant` is the tenant's index.
    ///
    /// # Errors
    /// If the call exceeds the rate: the time until the next call is allowed. It is never zero, and not rounded.
    pub fn check(
        &self,
        tenant: u32,
        rate_class: RateClass,
        client: IpAddr,
        rate: Rate,
        now: Instant,
    ) -> Result<(), Duration> {
        if rate.per_second == 0 {
            return Ok(());
        }
        let client = client.to_canonical();
        if self.exempt.iter().any(|net| net.contains(&client)) {
            return Ok(());
        }
        let key = Key::new(tenant, rate_class, client);
        let now_ns = self.since_epoch_ns(now);
        if let Some(bucket) = self.buckets.get(&key) {
            return bucket.check(now_ns, rate);
        }
        self.check_new(key, rate_class, now_ns, rate)
    }

    /// Removes the buckets that are full again, and returns their number. Locks one shard at a time and visits each
    /// entry once: 10 to 15 ms for 1,000,000, so not on a reactor thread. A concurrent call gets a new bucket, which is
    /// full like the removed one.
    pub fn sweep(&self, now: Instant) -> usize {
        let now_ns = self.since_epoch_ns(now);
        let mut removed = 0;
        self.buckets.retain(|_, bucket| {
            let keep = !bucket.is_full(now_ns);
            removed += usize::from(!keep);
            keep
        });
        self.entries.fetch_sub(removed, Ordering::Relaxed);
        removed
    }

    /// Number of addresses in the table.
    pub fn entries(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    fn check_new(
        &self,
        key: Key,
        rate_class: RateClass,
        now_ns: u64,
        rate: Rate,
    ) -> Result<(), Duration> {
        // Counted before it is inserted, so that concurrent calls cannot exceed the bound.
        if self.entries.fetch_add(1, Ordering::Relaxed) >= self.addresses_max {
            self.entries.fetch_sub(1, Ordering::Relaxed);
            return self.shared_bucket(key, rate_class).check(now_ns, rate);
        }
        match self.buckets.entry(key) {
            Entry::Occupied(entry) => {
                // A concurrent call of the same client has inserted it.
                self.entries.fetch_sub(1, Ordering::Relaxed);
                entry.get().check(now_ns, rate)
            }
            Entry::Vacant(entry) => entry.insert(Bucket::default()).check(now_ns, rate),
        }
    }

    fn shared_bucket(&self, key: Key, rate_class: RateClass) -> &Bucket {
        let hash = self.buckets.hasher().hash_one(key);
        let index = (hash % SHARED_BUCKETS as u64) as usize;
        &self.shared[rate_class as usize * SHARED_BUCKETS + index]
    }

    fn since_epoch_ns(&self, now: Instant) -> u64 {
        // 64 bits of nanoseconds are 584 years.
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::time::Clock;

    const RATE: Rate = Rate {
        per_second: 30,
        burst: 30,
    };

    fn limiter(addresses_max: usize, exempt: &[&str]) -> (Limiter, Instant) {
        let now = Clock::system().monotonic();
        let exempt = exempt.iter().map(|net| net.parse().unwrap()).collect();
        let config = Config {
            addresses_max,
            exempt,
        };
        (Limiter::new(config, now), now)
    }

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    fn pass(limiter: &Limiter, who: (u32, RateClass, IpAddr), calls: usize, now: Instant) -> usize {
        (0..calls)
            .filter(|_| limiter.check(who.0, who.1, who.2, RATE, now).is_ok())
            .count()
    }

    #[test]
    fn a_slot_is_24_bytes() {
        assert_eq!(size_of::<(Key, Bucket)>(), 24);
    }

    #[test]
    fn keys_of_buckets() {
        use RateClass::{Download, Other, Thumbnail, Upload};
        let same = [
            ("10.0.0.1", "::ffff:10.0.0.1"),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff"),
        ];
        for (one, other) in same {
            let (limiter, now) = limiter(1000, &[]);
            assert_eq!(
                pass(&limiter, (0, Upload, one.parse().unwrap()), 31, now),
                30
            );
            assert_eq!(
                pass(&limiter, (0, Upload, other.parse().unwrap()), 1, now),
                0,
                "{other}"
            );
        }
        let (limiter, now) = limiter(1000, &[]);
        for (tenant, rate_class, client) in [
            (0, Upload, "10.0.0.1"),
            (0, Upload, "10.0.0.2"),
            (0, Download, "10.0.0.1"),
            (0, Thumbnail, "10.0.0.1"),
            (0, Other, "10.0.0.1"),
            (1, Upload, "10.0.0.1"),
            (0, Upload, "2001:db8:0:1::1"),
            (0, Upload, "2001:db8:0:2::1"),
            (0, Upload, "::10.0.0.1"),
            (u32::MAX, Other, "ffff:ffff:ffff:ffff::"),
        ] {
            let who = (tenant, rate_class, client.parse().unwrap());
            assert_eq!(pass(&limiter, who, 31, now), 30, "{who:?}");
        }
    }

    #[test]
    fn exempts_networks_and_zero_rates() {
        let (limiter, now) = limiter(1000, &["10.1.0.0/16", "2001:db8::/32"]);
        for client in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8:9::1"] {
            let who = (0, RateClass::Upload, client.parse().unwrap());
            assert_eq!(pass(&limiter, who, 100, now), 100, "{client}");
        }
        assert_eq!(
            pass(
                &limiter,
                (0, RateClass::Upload, "10.2.0.1".parse().unwrap()),
                100,
                now
            ),
            30
        );
        let free = Rate {
            per_second: 0,
            burst: 0,
        };
        assert!((0..100).all(|_| {
            limiter
                .check(0, RateClass::Upload, v4(9), free, now)
                .is_ok()
        }));
        assert_eq!(limiter.entries(), 1);
    }

    #[test]
    fn late_addresses_share_buckets() {
        let (limiter, now) = limiter(100_000, &[]);
        let mut refused = 0;
        for number in 0..250_000 {
            refused += 1 - pass(&limiter, (0, RateClass::Download, v4(number)), 1, now);
        }
        assert_eq!(limiter.entries(), 100_000);
        assert_eq!(limiter.buckets.len(), 100_000);
        // 150,000 calls into 4,096 buckets of 30.
        assert!(refused >= 150_000 - 30 * SHARED_BUCKETS, "{refused}");
        // A known address keeps its own bucket. The shared buckets of other rate classes are unchanged.
        assert_eq!(pass(&limiter, (0, RateClass::Download, v4(5)), 40, now), 29);
        assert_eq!(
            pass(&limiter, (0, RateClass::Upload, v4(400_000)), 40, now),
            30
        );
    }

    #[test]
    fn sweep_removes_only_full_buckets() {
        let (limiter, now) = limiter(1000, &[]);
        for number in 0..500 {
            pass(&limiter, (0, RateClass::Download, v4(number)), 1, now);
        }
        pass(&limiter, (0, RateClass::Download, v4(7)), 30, now);
        assert_eq!(limiter.sweep(now), 0);
        let later = now + Duration::from_millis(50);
        assert_eq!(limiter.sweep(later), 499);
        assert_eq!(limiter.entries(), 1);
        assert_eq!(
            pass(&limiter, (0, RateClass::Download, v4(7)), 30, later),
            1
        );
        assert_eq!(limiter.sweep(now + Duration::from_secs(10)), 1);
        assert_eq!((limiter.entries(), limiter.buckets.len()), (0, 0));
    }

    #[test]
    fn concurrent_calls_get_one_burst() {
        let (limiter, now) = limiter(1000, &[]);
        let client = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let passed: usize = std::thread::scope(|scope| {
            scope.spawn(|| (0..200).for_each(|_| assert_eq!(limiter.sweep(now), 0)));
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| pass(&limiter, (0, RateClass::Upload, client), 1000, now)))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(passed, 30);
        assert_eq!(limiter.entries(), limiter.buckets.len());
    }

    #[test]
    fn bound_holds_under_concurrency() {
        let (limiter, now) = limiter(1000, &[]);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let limiter = &limiter;
                scope.spawn(move || {
                    for number in 0..1000 {
                        // Half of the keys are common to all threads, so that inserts of one key race too.
                        let number = if number % 2 == 0 {
                            number
                        } else {
                            thread << 16 | number
                        };
                        pass(limiter, (0, RateClass::Upload, v4(number)), 1, now);
                    }
                });
            }
        });
        assert_eq!(limiter.entries(), limiter.buckets.len());
        assert!(limiter.entries() <= 1000);
    }
}
