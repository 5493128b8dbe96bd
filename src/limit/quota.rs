//! How many bytes a tenant, and each of its users, may store in one UTC day.
//!
//! A call reserves what it may bring before it brings it, so that calls at the same time cannot pass together;
//! what it stores takes the place of that, and what fails is given back. The counts are in memory: a new process
//! begins the day anew. Who a user is, and what a refusal looks like, is not decided here.

use std::{collections::HashMap, hash::BuildHasher, mem, sync::Arc, time::Duration};

use foldhash::quality::RandomState;
use parking_lot::{Mutex, MutexGuard};

use crate::{
    tenant::Limits,
    time::{Day, Timestamp},
};

/// Users remembered in a day, over all tenants: 36 MB, and half as much again while the table grows.
pub const USERS_MAX: usize = 1_000_000;
/// Counts that later users share, chosen by hash. They may be refused for each other's bytes, and are never let
/// through for lack of memory.
const SHARED_COUNTS: usize = 4096;

/// Bytes a day; 0 = any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Of the tenant, whoever brings them.
    pub tenant_bytes: u64,
    /// Of each user of it.
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

/// Whose quota it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The tenant's.
    Tenant,
    /// The user's.
    User,
}

/// A quota has less left than was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// Whose.
    pub whose: Whose,
    /// The whole of it.
    pub bytes_a_day: u64,
    /// When there is a new one.
    pub retry_after: Duration,
}

/// What was stored today, and what is about to be. Cheap to clone; the clones are one count.
#[derive(Debug, Clone)]
pub struct Quotas(Arc<Counts>);

/// A synchronous Mutex for a section of a few look-ups, in which nothing is awaited: both counts are looked at before
/// either is moved, and the day changes for all at once. Calls of tenants without a quota do not take it.
#[derive(Debug)]
struct Counts {
    today: Mutex<Today>,
    /// Seeded at random, so that nobody can choose a name that shares a count with a victim's.
    hasher: RandomState,
}

/// The counts of one day.
#[derive(Debug)]
struct Today {
    day: Day,
    /// By the tenant's index; as many as there are.
    tenants: HashMap<u32, u64>,
    users: Users,
}

/// By a hash of tenant and name: of a million users, two share a count on one day in forty million.
#[derive(Debug)]
struct Users {
    counts: HashMap<u64, u64, RandomState>,
    /// Entries of `counts` at the most.
    users_max: usize,
    /// For users that found it full. None is ever taken out of it, so a user's count stays where it is all day.
    shared: Box<[u64]>,
}

/// Bytes of a quota, given back when dropped, unless they were stored.
#[derive(Debug)]
#[must_use]
pub struct Reserved {
    quotas: Quotas,
    day: Day,
    /// Whose counts were moved.
    tenant: Option<u32>,
    user: Option<u64>,
    bytes: u64,
    is_stored: bool,
}

impl Quotas {
    /// Remembers up to `users_max` users a day; see [`USERS_MAX`].
    pub fn new(users_max: usize) -> Self {
        Self(Arc::new(Counts {
            today: Mutex::new(Today::new(Timestamp::from_ms(0).day(), users_max)),
            hasher: RandomState::default(),
        }))
    }

    /// Takes so many bytes out of today's quota of a tenant, by its index, and of a user of it, where there is one.
    ///
    /// # Errors
    /// Which quota has less left; then nothing is taken of either.
    pub fn reserve(
        &self,
        tenant: u32,
        user: Option<&str>,
        quota: Quota,
        bytes: u64,
        now: Timestamp,
    ) -> Result<Reserved, Exceeded> {
        let user = user.filter(|_| quota.user_bytes > 0);
        let mut reserved = Reserved {
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
        let ms = today.day.end().ms().saturating_sub(now.ms());
        let exceeded = |whose, bytes_a_day| Exceeded {
            whose,
            bytes_a_day,
            retry_after: Duration::from_millis(u64::try_from(ms).unwrap_or(0)),
        };
        let fits = |used: u64, bytes_a_day: u64| used.saturating_add(bytes) <= bytes_a_day;
        let is_over = match reserved.user {
            Some(user) if !fits(today.users.used(user), quota.user_bytes) => {
                Some(exceeded(Whose::User, quota.user_bytes))
            }
            _ => match reserved.tenant {
                Some(tenant) if !fits(today.used(tenant), quota.tenant_bytes) => {
                    Some(exceeded(Whose::Tenant, quota.tenant_bytes))
                }
                _ => None,
            },
        };
        if let Some(exceeded) = is_over {
            // The guard would give back what it never took.
            reserved.is_stored = true;
            return Err(exceeded);
        }
        reserved.day = today.day;
        today.change(&reserved, 0, bytes);
        drop(today);
        Ok(reserved)
    }

    /// Today's counts, all of them zero where the day is a new one.
    ///
    /// A call that began before midnight, or whose clock was set back over it, counts with the new day: else the
    /// counts would begin anew with each turn. A clock that is set back by more than a day was wrong before.
    fn at(&self, now: Timestamp) -> MutexGuard<'_, Today> {
        let mut today = self.lock();
        if now.day() > today.day || now.plus_days(1).day() < today.day {
            let users_max = today.users.users_max;
            *today = Today::new(now.day(), users_max);
        }
        today
    }

    fn lock(&self) -> MutexGuard<'_, Today> {
        self.0.today.lock()
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

    /// Puts other bytes in the place of those that a reservation has taken, if it was made today.
    fn change(&mut self, reserved: &Reserved, before: u64, after: u64) {
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
            None => self.shared[Self::place(user)],
        }
    }

    fn count(&mut self, user: u64) -> &mut u64 {
        let has_room = self.counts.len() < self.users_max;
        if has_room || self.counts.contains_key(&user) {
            return self.counts.entry(user).or_default();
        }
        &mut self.shared[Self::place(user)]
    }

    fn place(user: u64) -> usize {
        (user % SHARED_COUNTS as u64) as usize
    }
}

impl Reserved {
    /// Whether any quota counts it.
    fn is_counted(&self) -> bool {
        self.tenant.is_some() || self.user.is_some()
    }

    /// How many bytes a file may have that is stored under it, of which without a quota there could be `bytes_max`.
    pub fn bytes_max(&self, bytes_max: u64) -> u64 {
        match self.is_counted() {
            true => bytes_max.min(self.bytes),
            false => bytes_max,
        }
    }

    /// So many bytes are stored, or about to be: they count whatever becomes of the caller.
    pub fn store(&mut self, bytes: u64) {
        self.replace(bytes);
        self.is_stored = true;
    }

    /// They were not, after all.
    pub fn give_back(mut self) {
        self.is_stored = false;
    }

    /// Gives back all but so many bytes.
    fn shrink_to(&mut self, bytes: u64) {
        self.replace(self.bytes.min(bytes));
    }

    /// Whether both take from the same counts.
    fn is_like(&self, other: &Self) -> bool {
        (self.day, self.tenant, self.user) == (other.day, other.tenant, other.user)
    }

    fn replace(&mut self, bytes: u64) {
        let before = mem::replace(&mut self.bytes, bytes);
        if self.is_counted() && before != bytes {
            self.quotas.lock().change(self, before, bytes);
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.is_stored {
            self.replace(0);
        }
    }
}

/// The bytes of one upload in parts, reserved part by part, perhaps on several days. Given back when dropped.
#[derive(Debug, Default)]
pub struct PartsReserved {
    /// One for each day and set of counts, oldest first: a few at the most.
    reserved: Vec<Reserved>,
    /// Bytes of parts that no count of this process has: an earlier one stored them.
    uncounted: u64,
}

impl PartsReserved {
    /// For parts of so many bytes that an earlier process stored: quotas begin anew with each process.
    pub fn uncounted(bytes: u64) -> Self {
        Self {
            reserved: Vec::new(),
            uncounted: bytes,
        }
    }

    /// Takes over what was reserved for a part, of which so many bytes came.
    pub fn add(&mut self, mut part: Reserved, bytes: u64) {
        part.shrink_to(bytes);
        match self.reserved.iter_mut().find(|like| like.is_like(&part)) {
            Some(like) => {
                like.bytes += part.bytes;
                // Its bytes are counted, and held by the other now.
                part.is_stored = true;
            }
            None => self.reserved.push(part),
        }
    }

    /// Gives back bytes of a part that was replaced. Which part was reserved on which day is not known, so the
    /// oldest go first: nobody gets back more of today's quota than was taken today.
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

    /// The parts are stored for good: they count for the days on which they came.
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

    /// Stores a file, and says whose quota was against it.
    fn store(quotas: &Quotas, who: (u32, &str), bytes: u64, now: Timestamp) -> Option<Whose> {
        let user = Some(who.1).filter(|name| !name.is_empty());
        match quotas.reserve(who.0, user, QUOTA, bytes, now) {
            Ok(mut reserved) => {
                reserved.store(bytes);
                None
            }
            Err(exceeded) => Some(exceeded.whose),
        }
    }

    #[test]
    fn each_user_has_a_quota_and_all_together_have_the_tenants() {
        let quotas = Quotas::new(10);
        for (who, bytes, expected) in [
            ((1, "alice"), 400, None),
            ((1, "alice"), 1, Some(Whose::User)),
            ((1, "alice"), 0, None),
            ((1, "bob"), 399, None),
            ((1, "bob"), 2, Some(Whose::User)),
            ((1, "bob"), 1, None),
            ((1, "carol"), 201, Some(Whose::Tenant)),
            ((1, "carol"), 200, None),
            ((1, "dave"), 1, Some(Whose::Tenant)),
            // The application itself is no user.
            ((1, ""), 1, Some(Whose::Tenant)),
            // A user of the same name elsewhere is somebody else.
            ((2, "alice"), 400, None),
            ((2, ""), 600, None),
            ((2, ""), 1, Some(Whose::Tenant)),
        ] {
            assert_eq!(
                store(&quotas, who, bytes, NOON),
                expected,
                "{who:?} {bytes}"
            );
        }
    }

    #[test]
    fn zero_is_no_quota_and_nothing_is_remembered() {
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
        assert!(quotas.lock().tenants.is_empty() && quotas.lock().users.counts.is_empty());
        let only_user = Quota {
            tenant_bytes: 0,
            ..QUOTA
        };
        assert!(quotas.reserve(1, None, only_user, 5000, NOON).is_ok());
        let over = quotas.reserve(1, Some("a"), only_user, 401, NOON);
        assert_eq!(over.unwrap_err().whose, Whose::User);
    }

    #[test]
    fn what_is_reserved_counts_until_it_is_stored_or_given_back() {
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
        // The store refuses at the very end.
        reserved.store(300);
        assert!(alice(1).is_err());
        reserved.give_back();
        assert!(alice(300).is_ok());
        // A refused call has taken nothing of either quota.
        for _ in 0..100 {
            assert!(alice(301).is_err());
        }
        assert_eq!(quotas.lock().used(1), 100);
    }

    #[test]
    fn a_new_day_begins_at_midnight_with_everything_left() {
        let quotas = Quotas::new(10);
        let midnight = NOON.day().end();
        let just_before = Timestamp::from_ms(midnight.ms() - 1500);
        assert_eq!(store(&quotas, (1, "alice"), 400, NOON), None);
        let over = quotas.reserve(1, Some("alice"), QUOTA, 1, just_before);
        let expected = Exceeded {
            whose: Whose::User,
            bytes_a_day: 400,
            retry_after: Duration::from_millis(1500),
        };
        assert_eq!(over.unwrap_err(), expected);
        // Reserved on one day and stored or given back on the next: it counts for the first.
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
        assert_eq!(quotas.lock().used(1), 400);
    }

    #[test]
    fn a_step_back_over_midnight_begins_nothing_anew_and_a_clock_set_right_does() {
        let quotas = Quotas::new(10);
        let midnight = NOON.day().end();
        assert_eq!(store(&quotas, (1, "alice"), 400, midnight), None);
        let before = Timestamp::from_ms(midnight.ms() - 1000);
        let over = quotas.reserve(1, Some("alice"), QUOTA, 1, before);
        let day_and_a_second = Duration::from_secs(86_401);
        assert_eq!(over.unwrap_err().retry_after, day_and_a_second);
        assert_eq!(store(&quotas, (1, "alice"), 1, midnight), Some(Whose::User));
        // Two days before, or years.
        let right = Timestamp::from_ms(before.ms() - MS_PER_DAY);
        assert_eq!(store(&quotas, (1, "alice"), 400, right), None);
        assert_eq!(store(&quotas, (1, "alice"), 1, right), Some(Whose::User));
    }

    #[test]
    fn parts_count_until_replaced_or_dropped() {
        let quotas = Quotas::new(10);
        let alice = |bytes| quotas.reserve(1, Some("alice"), QUOTA, bytes, NOON);
        let used = || quotas.lock().used(1);
        let mut parts = PartsReserved::default();
        for _ in 0..3 {
            // Chunked: less came than was reserved.
            parts.add(alice(130).unwrap(), 100);
        }
        assert_eq!((used(), parts.reserved.len()), (300, 1));
        assert!(alice(101).is_err());
        parts.give_back(100);
        assert_eq!(used(), 200);
        parts.add(alice(150).unwrap(), 150);
        drop(parts);
        assert_eq!(used(), 0);
        let mut parts = PartsReserved::default();
        parts.add(alice(400).unwrap(), 400);
        parts.keep();
        assert!(alice(1).is_err());
    }

    #[test]
    fn replaced_parts_of_another_day_free_nothing_today() {
        let quotas = Quotas::new(10);
        let tomorrow = NOON.plus_days(1);
        let reserve = |bytes, now| quotas.reserve(1, Some("alice"), QUOTA, bytes, now);
        let mut parts = PartsReserved::uncounted(50);
        parts.add(reserve(300, NOON).unwrap(), 300);
        parts.add(reserve(400, tomorrow).unwrap(), 400);
        assert_eq!(quotas.lock().used(1), 400);
        // What came before goes first: 50 that nobody counted, 300 of the day before.
        parts.give_back(350);
        assert_eq!(quotas.lock().used(1), 400);
        parts.give_back(100);
        assert_eq!(quotas.lock().used(1), 300);
        parts.give_back(u64::MAX);
        assert_eq!(quotas.lock().used(1), 0);
    }

    #[test]
    fn users_beyond_the_bound_share_counts_and_none_is_let_through() {
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
        assert_eq!(quotas.lock().users.counts.len(), 100);
    }

    #[test]
    fn calls_at_the_same_time_cannot_pass_together() {
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
        assert_eq!(quotas.lock().used(1), stored);
        assert!(stored <= 1000 && stored > 990, "{stored}");
    }
}
