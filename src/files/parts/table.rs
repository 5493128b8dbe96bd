//! Unfinished uploads in parts, in memory: whose they are, what they hold, and what is being done to them.
//!
//! The disk knows which parts there are (`store/local/parts.rs`). The table knows who holds how much, so that
//! nobody is asked to read a directory before an upload may begin. It is made from the disk once, at the start.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::sync::Mutex;

use super::completed::Completed;
use crate::{
    error::{Error, Kind, Result},
    files::Stored,
    limit::{Owner, PartsPermit, QuotaPermit, Shares},
    metrics::{PartLevels, ShareRefusal},
    settings::number,
    store::ObjectId,
};

/// Calls that may be under way for one upload when another part is to come. The web SDK sends four at once.
const CALLS_MAX: u32 = 16;
/// An upload without a call for so long may make room for another one of its user. A client that is still at it
/// sends its next part within moments.
const IDLE_BEFORE_REPLACED: Duration = Duration::from_secs(60);
/// What a part counts at the least: for its inode and its directory entry. So the parts of any upload take fewer
/// inodes than ext4 makes for their bytes (one for 16 KiB).
const PART_CHARGE_MIN: u64 = 64 * 1024;
/// What an upload may be counted for at the least, so that a small `upload_bytes_max` leaves room for charges.
const UPLOAD_CHARGE_MIN: u64 = 5 * 1024 * 1024;
/// When to come again where a share is full: uploads are completed, replaced or expire.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Bounds of all unfinished uploads, from `[limits]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub struct Bounds {
    /// In all. At least 16, so that a client's share, a quarter, is more than one.
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
    completed: Completed,
    refusals: [u64; ShareRefusal::COUNT],
    replaced: u64,
}

struct Entry {
    owner: Owner,
    state: State,
    /// Calls under way.
    calls: u32,
    /// When the last call ended.
    used: Instant,
    /// What it counts for in `Table::bytes`: stored parts and those on their way.
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

/// What a part of so many bytes counts for.
pub(super) fn charge(bytes: u64) -> u64 {
    bytes.max(PART_CHARGE_MIN)
}

fn user_key(owner: &Owner) -> (Arc<str>, Arc<str>) {
    (owner.tenant.clone(), owner.user.clone())
}

/// Whether two calls are of the same user of the same tenant, from wherever they come.
pub(super) fn is_same_user(one: &Owner, other: &Owner) -> bool {
    (&one.tenant, &one.user) == (&other.tenant, &other.user)
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

    /// Takes a place for a new upload, which counts as having a call under way. Returns the user's own idle uploads
    /// that make room for it, which are forgotten here and are the caller's to remove from the disk.
    ///
    /// # Errors
    /// `Unavailable` where a share is full.
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
            // Who gets no new upload keeps the old ones.
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
        // Ids begin with their time: of those that were unused since the start, the oldest goes first.
        of_user.iter().filter_map(idle).min().map(|(_, id)| id)
    }

    /// Counts an upload that lies on the disk already, whatever the bounds say.
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

    /// Forgets an upload that is gone from the disk, or about to be.
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

    /// Whether a user has this upload; `None` where nobody has it.
    pub(super) fn is_of(&self, id: ObjectId, owner: &Owner) -> Option<bool> {
        let entry = self.entries.get(&id)?;
        Some(is_same_user(&entry.owner, owner))
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

    /// Counts the bytes of a part that is about to come, of which `room` more are free above the floor. A user may
    /// hold as many as `user_uploads_max` uploads of `upload_bytes_max`.
    ///
    /// # Errors
    /// `ObjectNotFound`; `AlreadyExists` while it is being completed; `Unavailable` where a share is full, or the upload
    /// has too many calls under way.
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
        // What the part itself takes is not in `room` any more.
        let free = room.saturating_add(more);
        if let Err(whose) = self.bytes.check(&entry.owner, more, free, user_max) {
            return Err(self.refuse(whose));
        }
        self.bytes.add(&entry.owner, more);
        entry.charge += more;
        Ok(())
    }

    /// Takes back the charge of a part that did not come to its end, or was replaced.
    pub(super) fn uncharge(&mut self, id: ObjectId, charge: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            let charge = charge.min(entry.charge);
            entry.charge -= charge;
            self.bytes.subtract(&entry.owner, charge);
        }
    }

    /// Keeps the reservation of a stored part, and gives back those of the parts that it replaced.
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

    /// Marks an upload as being completed, and hands out what it has reserved of the quotas.
    ///
    /// # Errors
    /// `ObjectNotFound`; `AlreadyExists` where it is already being completed.
    pub(super) fn claim(&mut self, id: ObjectId) -> Result<PartsPermit> {
        let entry = self.entries.get_mut(&id).ok_or(Kind::ObjectNotFound)?;
        entry.check_open()?;
        entry.state = State::Completing;
        Ok(std::mem::take(&mut entry.reserved))
    }

    /// Opens an upload again whose completion failed.
    pub(super) fn give_back(&mut self, id: ObjectId, reserved: PartsPermit, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.state = State::Open;
            entry.reserved = reserved;
            entry.used = now;
        }
    }

    /// Forgets an upload that was completed, and remembers its answer.
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

    /// The answer of a completion of the owner's.
    pub(super) fn completed(
        &self,
        id: ObjectId,
        owner: &Owner,
        now: Instant,
    ) -> Option<Arc<Stored>> {
        self.completed.find(id, owner, now)
    }

    /// Uploads that nobody is doing anything to.
    pub(super) fn idle(&self) -> Vec<ObjectId> {
        let idle = |(id, entry): (&ObjectId, &Entry)| entry.is_idle().then_some(*id);
        self.entries.iter().filter_map(idle).collect()
    }

    /// Forgets an upload unless somebody is doing something to it.
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
