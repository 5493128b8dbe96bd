//! Daily quotas: how many bytes a tenant, and each of its users, may store in one UTC day.
//!
//! An upload reserves the most that it may store before it sends it, so that concurrent uploads cannot exceed a quota
//! together. Later the reservation becomes what was really stored; if the upload fails, it is returned. The counts are
//! in memory and start at zero with each process. Authentication and the rendering of a refusal are elsewhere.

use std::{collections::HashMap, hash::BuildHasher, mem, sync::Arc, time::Duration};

use foldhash::quality::RandomState;
use parking_lot::{Mutex, MutexGuard};

use crate::{
    tenant::Limits,
    time::{Day, Timestamp},
};

/// Users with a count of their own in one day, over all tenants. They take 36 MB, and half as much again while the
/// table grows.
pub const USERS_MAX: usize = 1_000_000;
/// Counts that all further users share, chosen by hash. Such users may be refused for each other's bytes. No user is
/// admitted without a count.
const SHARED_COUNTS: usize = 4096;

/// Quotas in bytes per day; 0 = unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// All uploads of the tenant together.
    pub tenant_bytes: u64,
    /// Each of its users.
    pub user_bytes: u64,
}

impl From<&Limits> for Quota {
    fn from(limits: &Limits) -> Self {
        Self {
            tenant_bytes: limits.upload_bytes_per_day,
            user_bytes: limits.user_upload_bytes_per_day,
        }
    }
}

/// Whether a quota belongs to a tenant or to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaOwner {
    /// The quota of the whole tenant.
    Tenant,
    /// The quota of one user.
    User,
}

/// A refusal: less is left of a quota than was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// The quota that is used up.
    pub owner: QuotaOwner,
    /// The size of that quota.
    pub bytes_a_day: u64,
    /// The time until the next day begins.
    pub retry_after: Duration,
}

/// Counts the bytes that were stored today, and those reserved. Clones share the counts.
#[derive(Debug, Clone)]
pub struct Quotas(Arc<Counts>);

/// One lock for both counts and the day: both quotas are checked before either count changes. It is held for a few map
/// operations, never across an await. Uploads of tenants without a quota do not take it.
#[derive(Debug)]
struct Counts {
    today: Mutex<Today>,
    /// Has a random seed, so that no one can choose a user name that shares a count with another user.
    hasher: RandomState,
}

/// The counts of one day.
#[derive(Debug)]
struct Today {
    day: Day,
    /// By the tenant's index. Bounded by the number of tenants.
    tenants: HashMap<u32, u64>,
    users: Users,
}

/// Counts by a 64-bit hash of tenant and user name. Among a million users, two share a count on one day in forty
/// million.
#[derive(Debug)]
struct Users {
    counts: HashMap<u64, u64, RandomState>,
    /// Maximum number of entries in `counts`.
    users_max: usize,
    /// For users that come when `counts` is full. Entries of `counts` are not removed, so a user keeps its count all
    /// day.
    shared: Box<[u64]>,
}

/// Permission to store some bytes today. Dropping it returns them to the quota, unless they were stored.
#[derive(Debug)]
#[must_use]
pub struct QuotaPermit {
    quotas: Quotas,
    day: Day,
    /// The tenant and the user whose counts contain the bytes; `None` where there is no quota.
    tenant: Option<u32>,
    user: Option<u64>,
    bytes: u64,
    is_stored: bool,
}

impl Quotas {
    /// Empty counts, with a count of its own for each of `users_max` users a day; see [`USERS_MAX`].
    pub fn new(users_max: usize) -> Self {
        Self(Arc::new(Counts {
            today: Mutex::new(Today::new(Timestamp::from_ms(0).day(), users_max)),
            hasher: RandomState::default(),
        }))
    }

    /// Reserves `bytes` in today's quotas of a tenant (by index) and, if there is one, of a user.
    ///
    /// # Errors
    /// [`Exceeded`] if either quota has less left. Then nothing is reserved in either.
    pub fn reserve(
        &self,
        tenant: u32,
        user: Option<&str>,
        quota: Quota,
        bytes: u64,
        now: Timestamp,
    ) -> Result<QuotaPermit, Exceeded> {
        let user = user.filter(|_| quota.user_bytes > 0);
        let mut reserved = QuotaPermit {
            quotas: self.clone(),
            day: now.day(),
            tenant: (quota.tenant_bytes > 0).then_some(tenant),
            user: user.map(|name| self.0.hasher.hash_one((tenant, name))),
            bytes,
            is_stored: false,
        };
        if !reserved.is_counted() {
            return Ok(reserved);
        }
        let mut today = self.at(now);
        if let Some((owner, bytes_a_day)) = today.exceeded(&reserved, quota) {
            // Otherwise dropping it would return bytes that were never counted.
            reserved.is_stored = true;
            let ms = today.day.end().ms().saturating_sub(now.ms());
            return Err(Exceeded {
                owner,
                bytes_a_day,
                retry_after: Duration::from_millis(u64::try_from(ms).unwrap_or(0)),
            });
        }
        reserved.day = today.day;
        today.change(&reserved, 0, bytes);
        drop(today);
        Ok(reserved)
    }

    /// Today's counts; all zero if `now` is in a new day.
    ///
    /// A time up to one day before the current one counts for the current day: a call that began before midnight, or a
    /// clock that was set back over midnight, must not reset the counts. A clock that is set back by more than a day
    /// was wrong before, so the counts start again.
    fn at(&self, now: Timestamp) -> MutexGuard<'_, Today> {
        let mut today = self.0.today.lock();
        if now.day() > today.day || now.plus_days(1).day() < today.day {
            let users_max = today.users.users_max;
            *today = Today::new(now.day(), users_max);
        }
        today
    }
}

impl Today {
    fn new(day: Day, users_max: usize) -> Self {
        Self {
            day,
            tenants: HashMap::new(),
            users: Users {
                counts: HashMap::default(),
                users_max,
                shared: vec![0; SHARED_COUNTS].into_boxed_slice(),
            },
        }
    }

    fn used(&self, tenant: u32) -> u64 {
        self.tenants.get(&tenant).copied().unwrap_or(0)
    }

    /// The first quota that a reservation exceeds, with its size.
    fn exceeded(&self, reserved: &QuotaPermit, quota: Quota) -> Option<(QuotaOwner, u64)> {
        let exceeds = |used: u64, bytes_a_day| used.saturating_add(reserved.bytes) > bytes_a_day;
        let user = reserved.user.map(|user| self.users.used(user));
        let tenant = reserved.tenant.map(|tenant| self.used(tenant));
        if user.is_some_and(|used| exceeds(used, quota.user_bytes)) {
            return Some((QuotaOwner::User, quota.user_bytes));
        }
        let is_over = tenant.is_some_and(|used| exceeds(used, quota.tenant_bytes));
        is_over.then_some((QuotaOwner::Tenant, quota.tenant_bytes))
    }

    /// Replaces the bytes that a reservation counts for, if it was made today.
    fn change(&mut self, reserved: &QuotaPermit, before: u64, after: u64) {
        if reserved.day != self.day {
            return;
        }
        let moved = |count: &mut u64| *count = count.saturating_sub(before).saturating_add(after);
        if let Some(tenant) = reserved.tenant {
            moved(self.tenants.entry(tenant).or_default());
        }
        if let Some(user) = reserved.user {
            moved(self.users.count(user));
        }
    }
}

impl Users {
    fn used(&self, user: u64) -> u64 {
        match self.counts.get(&user) {
            Some(bytes) => *bytes,
            None if self.counts.len() < self.users_max => 0,
            None => self.shared[Self::shared_index(user)],
        }
    }

    fn count(&mut self, user: u64) -> &mut u64 {
        let has_room = self.counts.len() < self.users_max;
        if has_room || self.counts.contains_key(&user) {
            return self.counts.entry(user).or_default();
        }
        &mut self.shared[Self::shared_index(user)]
    }

    fn shared_index(user: u64) -> usize {
        (user % SHARED_COUNTS as u64) as usize
    }
}

impl QuotaPermit {
    /// Whether a quota counts the bytes.
    fn is_counted(&self) -> bool {
        self.tenant.is_some() || self.user.is_some()
    }

    /// The largest file that may be stored under this permit, which is `bytes_max` without a quota.
    pub fn bytes_max(&self, bytes_max: u64) -> u64 {
        match self.is_counted() {
            true => bytes_max.min(self.bytes),
            false => bytes_max,
        }
    }

    /// Counts `bytes` as stored. They stay counted when the permit is dropped.
    pub fn store(&mut self, bytes: u64) {
        self.replace(bytes);
        self.is_stored = true;
    }

    /// Returns the bytes: storing them failed.
    pub fn give_back(mut self) {
        self.is_stored = false;
    }

    /// Returns all but `bytes`.
    fn shrink_to(&mut self, bytes: u64) {
        self.replace(self.bytes.min(bytes));
    }

    /// Whether both change the same counts.
    fn is_like(&self, other: &Self) -> bool {
        (self.day, self.tenant, self.user) == (other.day, other.tenant, other.user)
    }

    fn replace(&mut self, bytes: u64) {
        let before = mem::replace(&mut self.bytes, bytes);
        if self.is_counted() && before != bytes {
            self.quotas.0.today.lock().change(self, before, bytes);
        }
    }
}

impl Drop for QuotaPermit {
    fn drop(&mut self) {
        if !self.is_stored {
            self.replace(0);
        }
    }
}

/// The permits of one upload in parts, possibly of several days. Dropping it returns the bytes.
#[derive(Debug, Default)]
pub struct PartsPermit {
    /// One for each day and set of counts, oldest first. There are only a few.
    reserved: Vec<QuotaPermit>,
    /// Bytes of parts that an earlier process stored, which no count of this process contains.
    uncounted: u64,
}

impl PartsPermit {
    /// For parts that an earlier process stored. Its counts are lost, so these bytes count for no quota.
    pub fn uncounted(bytes: u64) -> Self {
        Self {
            reserved: Vec::new(),
            uncounted: bytes,
        }
    }

    /// Adds the permit of a part that has `bytes` bytes.
    pub fn add(&mut self, mut part: QuotaPermit, bytes: u64) {
        part.shrink_to(bytes);
        match self.reserved.iter_mut().find(|like| like.is_like(&part)) {
            Some(like) => {
                like.bytes += part.bytes;
                // The bytes stay counted; the other permit returns them.
                part.is_stored = true;
            }
            None => self.reserved.push(part),
        }
    }

    /// Returns the bytes of a part that was replaced. The day of each part is not recorded, so the oldest bytes are
    /// returned first: this never returns more of today's quota than was reserved today.
    pub fn give_back(&mut self, mut bytes: u64) {
        let uncounted = self.uncounted.min(bytes);
        self.uncounted -= uncounted;
        bytes -= uncounted;
        for reserved in &mut self.reserved {
            let some = reserved.bytes.min(bytes);
            reserved.shrink_to(reserved.bytes - some);
            bytes -= some;
        }
    }

    /// Keeps the bytes counted, on the days on which the parts came: the upload is complete.
    pub fn keep(mut self) {
        for reserved in &mut self.reserved {
            reserved.is_stored = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::time::MS_PER_DAY;

    const QUOTA: Quota = Quota {
        tenant_bytes: 1000,
        user_bytes: 400,
    };
    const NOON: Timestamp = Timestamp::from_ms(20_000 * MS_PER_DAY + MS_PER_DAY / 2);

    /// Stores a file. Returns whose quota refused it, if one did.
    fn store(quotas: &Quotas, who: (u32, &str), bytes: u64, now: Timestamp) -> Option<QuotaOwner> {
        let user = Some(who.1).filter(|name| !name.is_empty());
        match quotas.reserve(who.0, user, QUOTA, bytes, now) {
            Ok(mut reserved) => {
                reserved.store(bytes);
                None
            }
            Err(exceeded) => Some(exceeded.owner),
        }
    }

    #[test]
    fn limits_users_and_tenants() {
        let quotas = Quotas::new(10);
        for (who, bytes, expected) in [
            ((1, "alice"), 400, None),
            ((1, "alice"), 1, Some(QuotaOwner::User)),
            ((1, "alice"), 0, None),
            ((1, "bob"), 399, None),
            ((1, "bob"), 2, Some(QuotaOwner::User)),
            ((1, "bob"), 1, None),
            ((1, "carol"), 201, Some(QuotaOwner::Tenant)),
            ((1, "carol"), 200, None),
            ((1, "dave"), 1, Some(QuotaOwner::Tenant)),
            // The application itself is not a user.
            ((1, ""), 1, Some(QuotaOwner::Tenant)),
            // The same name in another tenant is another user.
            ((2, "alice"), 400, None),
            ((2, ""), 600, None),
            ((2, ""), 1, Some(QuotaOwner::Tenant)),
        ] {
            assert_eq!(
                store(&quotas, who, bytes, NOON),
                expected,
                "{who:?} {bytes}"
            );
        }
    }

    #[test]
    fn zero_means_unlimited() {
        let quotas = Quotas::new(10);
        let none = Quota {
            tenant_bytes: 0,
            user_bytes: 0,
        };
        for _ in 0..3 {
            let mut reserved = quotas.reserve(1, Some("a"), none, u64::MAX, NOON).unwrap();
            assert_eq!(reserved.bytes_max(7), 7);
            reserved.store(u64::MAX);
        }
        assert!(
            quotas.0.today.lock().tenants.is_empty()
                && quotas.0.today.lock().users.counts.is_empty()
        );
        let only_user = Quota {
            tenant_bytes: 0,
            ..QUOTA
        };
        assert!(quotas.reserve(1, None, only_user, 5000, NOON).is_ok());
        let over = quotas.reserve(1, Some("a"), only_user, 401, NOON);
        assert_eq!(over.unwrap_err().owner, QuotaOwner::User);
    }

    #[test]
    fn counts_reservations_until_settled() {
        let quotas = Quotas::new(10);
        let alice = |bytes| quotas.reserve(1, Some("alice"), QUOTA, bytes, NOON);
        let failed = alice(400).unwrap();
        assert_eq!(failed.bytes_max(9000), 400);
        assert!(alice(1).is_err());
        drop(failed);
        // Less is stored than was reserved.
        let mut reserved = alice(400).unwrap();
        reserved.store(100);
        drop(reserved);
        assert!(alice(301).is_err());
        let mut reserved = alice(300).unwrap();
        // Storing fails at the end.
        reserved.store(300);
        assert!(alice(1).is_err());
        reserved.give_back();
        assert!(alice(300).is_ok());
        // A refused call reserves nothing in either quota.
        for _ in 0..100 {
            assert!(alice(301).is_err());
        }
        assert_eq!(quotas.0.today.lock().used(1), 100);
    }

    #[test]
    fn resets_at_midnight() {
        let quotas = Quotas::new(10);
        let midnight = NOON.day().end();
        let just_before = Timestamp::from_ms(midnight.ms() - 1500);
        assert_eq!(store(&quotas, (1, "alice"), 400, NOON), None);
        let over = quotas.reserve(1, Some("alice"), QUOTA, 1, just_before);
        let expected = Exceeded {
            owner: QuotaOwner::User,
            bytes_a_day: 400,
            retry_after: Duration::from_millis(1500),
        };
        assert_eq!(over.unwrap_err(), expected);
        // Reserved on one day, stored or returned on the next: it counts for the first day.
        let quotas = Quotas::new(10);
        let reserve = |bytes, now| quotas.reserve(1, Some("alice"), QUOTA, bytes, now);
        let (mut stored, failed) = (
            reserve(200, just_before).unwrap(),
            reserve(200, just_before).unwrap(),
        );
        assert_eq!(store(&quotas, (1, "alice"), 400, midnight), None);
        stored.store(150);
        drop((stored, failed));
        assert!(reserve(1, midnight).is_err());
        assert_eq!(quotas.0.today.lock().used(1), 400);
    }

    #[test]
    fn ignores_small_clock_steps_back() {
        let quotas = Quotas::new(10);
        let midnight = NOON.day().end();
        assert_eq!(store(&quotas, (1, "alice"), 400, midnight), None);
        let before = Timestamp::from_ms(midnight.ms() - 1000);
        let over = quotas.reserve(1, Some("alice"), QUOTA, 1, before);
        let day_and_a_second = Duration::from_secs(86_401);
        assert_eq!(over.unwrap_err().retry_after, day_and_a_second);
        assert_eq!(
            store(&quotas, (1, "alice"), 1, midnight),
            Some(QuotaOwner::User)
        );
        // Two days or more: the clock was wrong before.
        let right = Timestamp::from_ms(before.ms() - MS_PER_DAY);
        assert_eq!(store(&quotas, (1, "alice"), 400, right), None);
        assert_eq!(
            store(&quotas, (1, "alice"), 1, right),
            Some(QuotaOwner::User)
        );
    }

    #[test]
    fn parts_count_until_replaced_or_dropped() {
        let quotas = Quotas::new(10);
        let alice = |bytes| quotas.reserve(1, Some("alice"), QUOTA, bytes, NOON);
        let used = || quotas.0.today.lock().used(1);
        let mut parts = PartsPermit::default();
        for _ in 0..3 {
            // A chunked upload: less came than was reserved.
            parts.add(alice(130).unwrap(), 100);
        }
        assert_eq!((used(), parts.reserved.len()), (300, 1));
        assert!(alice(101).is_err());
        parts.give_back(100);
        assert_eq!(used(), 200);
        parts.add(alice(150).unwrap(), 150);
        drop(parts);
        assert_eq!(used(), 0);
        let mut parts = PartsPermit::default();
        parts.add(alice(400).unwrap(), 400);
        parts.keep();
        assert!(alice(1).is_err());
    }

    #[test]
    fn old_parts_free_nothing_today() {
        let quotas = Quotas::new(10);
        let tomorrow = NOON.plus_days(1);
        let reserve = |bytes, now| quotas.reserve(1, Some("alice"), QUOTA, bytes, now);
        let mut parts = PartsPermit::uncounted(50);
        parts.add(reserve(300, NOON).unwrap(), 300);
        parts.add(reserve(400, tomorrow).unwrap(), 400);
        assert_eq!(quotas.0.today.lock().used(1), 400);
        // The oldest are returned first: 50 uncounted bytes, then 300 of the day before.
        parts.give_back(350);
        assert_eq!(quotas.0.today.lock().used(1), 400);
        parts.give_back(100);
        assert_eq!(quotas.0.today.lock().used(1), 300);
        parts.give_back(u64::MAX);
        assert_eq!(quotas.0.today.lock().used(1), 0);
    }

    #[test]
    fn users_beyond_bound_share_counts() {
        const USERS: usize = 50_000;
        let quotas = Quotas::new(100);
        let quota = Quota {
            tenant_bytes: 0,
            user_bytes: 400,
        };
        let mut passed = 0;
        for user in 0..USERS {
            let user = format!("user{user}");
            if let Ok(mut reserved) = quotas.reserve(1, Some(&user), quota, 400, NOON) {
                reserved.store(400);
                passed += 1;
                assert!(quotas.reserve(1, Some(&user), quota, 1, NOON).is_err());
            }
        }
        assert!(passed > 100 && passed <= 100 + SHARED_COUNTS, "{passed}");
        assert_eq!(quotas.0.today.lock().users.counts.len(), 100);
    }

    #[test]
    fn concurrent_calls_stay_within_quota() {
        let (quotas, stored) = (Quotas::new(10), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let (quotas, stored) = (&quotas, &stored);
                scope.spawn(move || {
                    for round in 0..2000_u64 {
                        let user = ["alice", "bob", "carol"][(round % 3) as usize];
                        let reserved = quotas.reserve(1, Some(user), QUOTA, 7, NOON);
                        let Ok(mut reserved) = reserved else { continue };
                        // Every other one fails.
                        if (thread + round) % 2 == 0 {
                            reserved.store(5);
                            stored.fetch_add(5, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let stored = stored.into_inner();
        assert_eq!(quotas.0.today.lock().used(1), stored);
        assert!(stored <= 1000 && stored > 990, "{stored}");
    }
}
