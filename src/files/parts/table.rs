//! The table of unfinished uploads in parts: their owners, their bytes, and the calls that use them.
//!
//! The store knows which parts exist. The table knows how much each owner uses, so that an upload can begin without
//! reading the store. It is filled from the store at start.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::sync::Mutex;

use super::{completed::Completed, is_same_user};
use crate::{
    error::{Error, Kind, Result},
    files::Stored,
    limit::{Owner, PartsPermit, QuotaPermit, Shares},
    metrics::{PartLevels, ShareRefusal},
    settings::number,
    store::ObjectId,
};

/// The largest number of concurrent calls for one upload. The web SDK sends four parts at once.
const CALLS_MAX: u32 = 16;
/// An upload without a call for this long may be replaced by a new one of the same user. An active client sends its
/// next part much sooner.
const IDLE_BEFORE_REPLACED: Duration = Duration::from_secs(60);
/// The smallest charge of a part, for its inode and its directory entry. It keeps the inodes of an upload below the
/// number that ext4 provides for its bytes (one per 16 KiB).
const PART_CHARGE_MIN: u64 = 64 * 1024;
/// The smallest bound for the charge of an upload, so that a small `upload_bytes_max` leaves room for charges.
const UPLOAD_CHARGE_MIN: u64 = 5 * 1024 * 1024;
/// `Retry-After` if a share is full, until uploads are completed, replaced or expire.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Bounds of all unfinished uploads, from `[limits]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub(crate) struct Bounds {
    /// Of all users. At least 16, so that a client's share, a quarter, is more than one.
    #[serde(
        rename = "part_uploads_max",
        deserialize_with = "number::<16, 1_000_000, _, _>"
    )]
    pub uploads_max: u64,
    /// Of one user.
    #[serde(
        rename = "user_part_uploads_max",
        deserialize_with = "number::<1, 10_000, _, _>"
    )]
    pub user_uploads_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            uploads_max: 10_000,
            user_uploads_max: 16,
        }
    }
}

pub(super) struct Table {
    bounds: Bounds,
    entries: HashMap<ObjectId, Entry>,
    /// The uploads of each user that has any.
    users: HashMap<(Arc<str>, Arc<str>), Vec<ObjectId>>,
    uploads: Shares,
    bytes: Shares,
    pub(super) completed: Completed,
    refusals: [u64; ShareRefusal::COUNT],
    replaced: u64,
}

struct Entry {
    owner: Owner,
    state: State,
    /// Calls that use it now.
    calls: u32,
    /// When the last call ended.
    used: Instant,
    /// Its charge in `Table::bytes`, for stored parts and parts that are being received.
    charge: u64,
    reserved: PartsPermit,
    /// Held while the stored upload is changed.
    lock: Arc<Mutex<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Completing,
}

/// The charge of a part of this many bytes.
pub(super) fn charge(bytes: u64) -> u64 {
    bytes.max(PART_CHARGE_MIN)
}

fn user_key(owner: &Owner) -> (Arc<str>, Arc<str>) {
    (owner.tenant.clone(), owner.user.clone())
}

impl Table {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            entries: HashMap::new(),
            users: HashMap::new(),
            uploads: Shares::default(),
            bytes: Shares::default(),
            completed: Completed::default(),
            refusals: [0; ShareRefusal::COUNT],
            replaced: 0,
        }
    }

    /// Adds a new upload with one call. Returns the idle uploads of the same user that it replaces: they are removed
    /// from the table, and the caller must remove them from the store.
    ///
    /// # Errors
    /// `Unavailable` if a share is full.
    pub(super) fn begin(
        &mut self,
        id: ObjectId,
        owner: Owner,
        now: Instant,
    ) -> Result<Vec<ObjectId>> {
        let Bounds {
            uploads_max,
            user_uploads_max,
        } = self.bounds;
        let mut replaced = Vec::new();
        while self.uploads.of_user(&owner) >= user_uploads_max {
            let Some(idle) = self.longest_idle(&owner, now) else {
                break;
            };
            replaced.extend(self.take(idle).map(|entry| (idle, entry)));
        }
        let free = uploads_max.saturating_sub(self.uploads.total());
        if let Err(whose) = self.uploads.check(&owner, 1, free, user_uploads_max) {
            // A user that gets no new upload keeps the old ones.
            for (idle, entry) in replaced {
                self.put(idle, entry);
            }
            return Err(self.refuse(whose));
        }
        self.replaced += replaced.len() as u64;
        self.insert(id, owner, 0, PartsPermit::default(), now);
        self.enter(id)?;
        Ok(replaced.into_iter().map(|(idle, _)| idle).collect())
    }

    fn longest_idle(&self, owner: &Owner, now: Instant) -> Option<ObjectId> {
        let idle = |id: &ObjectId| {
            let entry = self.entries.get(id)?;
            let idle_for = now.saturating_duration_since(entry.used);
            (entry.is_idle() && idle_for >= IDLE_BEFORE_REPLACED).then_some((entry.used, *id))
        };
        let of_user = self.users.get(&user_key(owner))?;
        // Ids begin with their time, so the oldest of the uploads that were not used since the start goes first.
        of_user.iter().filter_map(idle).min().map(|(_, id)| id)
    }

    /// Adds an upload that is in the store already, also beyond the bounds.
    pub(super) fn adopt(&mut self, id: ObjectId, owner: Owner, parts: &[u64], now: Instant) {
        if !self.entries.contains_key(&id) {
            let charged = parts.iter().copied().map(charge).sum();
            let reserved = PartsPermit::uncounted(parts.iter().sum());
            self.insert(id, owner, charged, reserved, now);
        }
    }

    fn insert(
        &mut self,
        id: ObjectId,
        owner: Owner,
        charge: u64,
        reserved: PartsPermit,
        now: Instant,
    ) {
        let entry = Entry {
            owner,
            state: State::Open,
            calls: 0,
            used: now,
            charge,
            reserved,
            lock: Arc::default(),
        };
        self.put(id, entry);
    }

    fn put(&mut self, id: ObjectId, entry: Entry) {
        self.uploads.add(&entry.owner, 1);
        self.bytes.add(&entry.owner, entry.charge);
        let of_user = self.users.entry(user_key(&entry.owner)).or_default();
        of_user.push(id);
        self.entries.insert(id, entry);
    }

    /// Removes an upload that is gone from the store or is being removed.
    pub(super) fn remove(&mut self, id: ObjectId) {
        drop(self.take(id));
    }

    fn take(&mut self, id: ObjectId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.uploads.subtract(&entry.owner, 1);
        self.bytes.subtract(&entry.owner, entry.charge);
        let key = user_key(&entry.owner);
        if let Some(of_user) = self.users.get_mut(&key) {
            of_user.retain(|other| *other != id);
            if of_user.is_empty() {
                self.users.remove(&key);
            }
        }
        Some(entry)
    }

    /// Whether there is such an upload, and it belongs to this user.
    pub(super) fn is_of(&self, id: ObjectId, owner: &Owner) -> bool {
        let entry = self.entries.get(&id);
        entry.is_some_and(|entry| is_same_user(&entry.owner, owner))
    }

    /// Begins a call on an upload.
    ///
    /// # Errors
    /// `ObjectNotFound`.
    pub(super) fn enter(&mut self, id: ObjectId) -> Result<()> {
        let entry = self.entries.get_mut(&id).ok_or(Kind::ObjectNotFound)?;
        entry.calls += 1;
        Ok(())
    }

    /// Ends a call.
    pub(super) fn leave(&mut self, id: ObjectId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.calls = entry.calls.saturating_sub(1);
            entry.used = now;
        }
    }

    /// The lock to hold while a stored upload is changed. Checks that it is not being completed.
    ///
    /// # Errors
    /// `ObjectNotFound`; `AlreadyExists` while it is being completed.
    pub(super) fn lock(&self, id: ObjectId) -> Result<Arc<Mutex<()>>> {
        let entry = self.entries.get(&id).ok_or(Kind::ObjectNotFound)?;
        entry.check_open()?;
        Ok(entry.lock.clone())
    }

    /// Charges the bytes of a part that will be received. After its reservation, `room` bytes are free above the floor.
    /// A user may use as many bytes as `user_uploads_max` uploads of `upload_bytes_max`.
    ///
    /// # Errors
    /// `ObjectNotFound`; `AlreadyExists` while it is being completed; `Unavailable` if a share is full or the upload
    /// has too many calls.
    pub(super) fn charge_part(
        &mut self,
        id: ObjectId,
        bytes: u64,
        room: u64,
        upload_bytes_max: u64,
    ) -> Result<()> {
        let entry = self.entries.get_mut(&id).ok_or(Kind::ObjectNotFound)?;
        entry.check_open()?;
        if entry.calls > CALLS_MAX {
            let text = format!("one upload may have {CALLS_MAX} calls under way.");
            return Err(Error::new(Kind::Unavailable(Duration::from_secs(1))).public(text));
        }
        let user_max = upload_bytes_max
            .max(UPLOAD_CHARGE_MIN)
            .saturating_mul(self.bounds.user_uploads_max);
        let more = charge(bytes);
        // `room` no longer includes the bytes of the part itself.
        let free = room.saturating_add(more);
        if let Err(whose) = self.bytes.check(&entry.owner, more, free, user_max) {
            return Err(self.refuse(whose));
        }
        self.bytes.add(&entry.owner, more);
        entry.charge += more;
        Ok(())
    }

    /// Takes back the charge of a part that was not received completely or was replaced.
    pub(super) fn uncharge(&mut self, id: ObjectId, charge: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            let charge = charge.min(entry.charge);
            entry.charge -= charge;
            self.bytes.subtract(&entry.owner, charge);
        }
    }

    /// Keeps the quota reservation of a stored part, and gives back those of the parts that it replaced.
    pub(super) fn keep_part(
        &mut self,
        id: ObjectId,
        reserved: QuotaPermit,
        bytes: u64,
        replaced_bytes: u64,
    ) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.reserved.add(reserved, bytes);
            entry.reserved.give_back(replaced_bytes);
        }
    }

    /// Marks an upload as being completed, and returns its quota reservations.
    ///
    /// # Errors
    /// `ObjectNotFound`; `AlreadyExists` if it is already being completed.
    pub(super) fn claim(&mut self, id: ObjectId) -> Result<PartsPermit> {
        let entry = self.entries.get_mut(&id).ok_or(Kind::ObjectNotFound)?;
        entry.check_open()?;
        entry.state = State::Completing;
        Ok(std::mem::take(&mut entry.reserved))
    }

    /// Makes an upload unfinished again after its completion failed.
    pub(super) fn give_back(&mut self, id: ObjectId, reserved: PartsPermit, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.state = State::Open;
            entry.reserved = reserved;
            entry.used = now;
        }
    }

    /// Removes an upload that was completed, and remembers the response.
    pub(super) fn complete(
        &mut self,
        id: ObjectId,
        owner: Owner,
        stored: Arc<Stored>,
        now: Instant,
    ) {
        self.remove(id);
        self.completed.remember(id, owner, stored, now);
    }

    /// The uploads that no call uses.
    pub(super) fn idle(&self) -> Vec<ObjectId> {
        let idle = |(id, entry): (&ObjectId, &Entry)| entry.is_idle().then_some(*id);
        self.entries.iter().filter_map(idle).collect()
    }

    /// Removes an upload unless a call uses it.
    pub(super) fn remove_idle(&mut self, id: ObjectId) {
        if self.entries.get(&id).is_some_and(Entry::is_idle) {
            self.remove(id);
        }
    }

    pub(super) fn contains(&self, id: ObjectId) -> bool {
        self.entries.contains_key(&id)
    }

    pub(super) fn levels(&self) -> PartLevels {
        PartLevels {
            uploads: self.uploads.total(),
            uploads_max: self.bounds.uploads_max,
            bytes: self.bytes.total(),
            replaced: self.replaced,
            refusals: self.refusals,
        }
    }

    fn refuse(&mut self, whose: ShareRefusal) -> Error {
        self.refusals[whose.index()] += 1;
        let whose = match whose {
            ShareRefusal::User => "this user has",
            ShareRefusal::Client => "this address has",
            ShareRefusal::Tenant => "this application has",
            ShareRefusal::Server => "this server has",
        };
        let text = format!(
            "{whose} too many unfinished uploads in parts: complete or abort one, or try again in a minute."
        );
        Error::new(Kind::Unavailable(AGAIN_AFTER)).public(text)
    }
}

impl Entry {
    fn check_open(&self) -> Result<()> {
        match self.state {
            State::Open => Ok(()),
            State::Completing => {
                let text = "this upload is being completed.";
                Err(Error::new(Kind::AlreadyExists).public(text))
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.state == State::Open && self.calls == 0
    }
}

#[cfg(test)]
mod tests;
