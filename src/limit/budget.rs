//! Limits the bytes of uploads in flight: in total, and by tenant and client once half of the total is in use.
//!
//! An upload takes the size that it announces before it sends its body. Refusals are rendered elsewhere.

use std::{
    hash::Hash,
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use dashmap::{DashMap, Entry};

use crate::metrics::{Counter, UploadLevels};

/// The least that an upload takes, whatever it announces: it needs a descriptor, and buffers of up to this size.
const UPLOAD_BYTES_MIN: u64 = 1 << 20;

/// A client that has at most this fraction (one of 64 parts) of the budget may be slow; see [`Budget::urgency`].
const USUAL_SHARES: u64 = 64;

/// Counts the bytes of uploads in flight, in total, by tenant and by client.
///
/// Memory: an entry for each tenant and each client with an upload in flight. The lock of a shard is held for one map
/// operation. The total is lock-free.
#[derive(Debug)]
pub struct Budget {
    held_bytes: AtomicU64,
    bytes_max: u64,
    by_holder: DashMap<Holder, u64>,
    full: Counter,
    over_share: [Counter; 2],
}

/// The tenant and the client of an upload; `None` if that has no share to keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uploader {
    /// The tenant's index.
    pub tenant: Option<u32>,
    /// The client's network.
    pub client: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Holder {
    Tenant(u32),
    Client(IpAddr),
}

/// What an upload takes of the share of its tenant or client.
#[derive(Debug, Clone, Copy)]
struct Claim {
    holder: Holder,
    /// Bytes that this upload has taken of the share already.
    held_bytes: u64,
    /// Bytes to take now.
    bytes: u64,
    /// Bytes that must be free: `bytes`, and what the upload takes later.
    room: u64,
}

/// Permission to receive an upload of some size. Dropping it returns the bytes to the [`Budget`].
#[derive(Debug)]
#[must_use]
pub struct UploadPermit<'b> {
    budget: &'b Budget,
    uploader: Uploader,
    /// Taken of the total, and of the client's share.
    bytes: u64,
    /// Taken of the tenant's share.
    tenant_bytes: u64,
    /// Announced and not taken yet.
    rest: u64,
}

impl Budget {
    /// An unused budget of `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            held_bytes: AtomicU64::new(0),
            bytes_max,
            by_holder: DashMap::new(),
            full: Counter::default(),
            over_share: Default::default(),
        }
    }

    /// Takes the bytes of an upload. Returns `None`, and counts a refusal, if too few are free.
    pub fn hold(&self, uploader: Uploader, bytes: u64) -> Option<UploadPermit<'_>> {
        let mut held = self.nothing_of(uploader, bytes);
        held.take_rest().then_some(held)
    }

    /// Takes `first` bytes if `bytes` are free. [`UploadPermit::take_rest`] takes the others.
    ///
    /// For a form whose credential has not come yet. Until then anyone may name the tenant, so nothing is taken of the
    /// tenant's share.
    pub fn hold_some(
        &self,
        uploader: Uploader,
        bytes: u64,
        first: u64,
    ) -> Option<UploadPermit<'_>> {
        let mut held = self.nothing_of(uploader, bytes);
        let first = first.min(held.rest);
        let client = held.claim(Holder::Client, uploader.client, first, held.rest);
        self.take(&[client], first, held.rest).then(|| {
            held.bytes = first;
            held.rest -= first;
            held
        })
    }

    fn nothing_of(&self, uploader: Uploader, bytes: u64) -> UploadPermit<'_> {
        UploadPermit {
            budget: self,
            uploader,
            bytes: 0,
            tenant_bytes: 0,
            // A budget smaller than the minimum still has room for one upload.
            rest: bytes.max(UPLOAD_BYTES_MIN.min(self.bytes_max)),
        }
    }

    /// The factor by which the minimum speed of this client's uploads rises, so that occupying much of the budget costs
    /// bandwidth. It is 1 while less than half of the budget is in use, or if the client has little of it.
    pub fn urgency(&self, client: Option<IpAddr>) -> u64 {
        let Some(client) = client.filter(|_| self.is_contended(0)) else {
            return 1;
        };
        let held = self.by_holder.get(&Holder::Client(client));
        let usual = (self.bytes_max / USUAL_SHARES).max(1);
        held.map_or(1, |bytes| (*bytes / usual).max(1))
    }

    /// The bytes in use, their limit, and the refusals so far.
    pub fn levels(&self) -> UploadLevels {
        UploadLevels {
            in_flight_bytes: self.held_bytes.load(Ordering::Relaxed),
            in_flight_bytes_max: self.bytes_max,
            refusals: self.full.get(),
            tenant_refusals: self.over_share[0].get(),
            client_refusals: self.over_share[1].get(),
        }
    }

    /// Whether more than half of the budget is in use once `more` bytes are taken.
    fn is_contended(&self, more: u64) -> bool {
        let held = self.held_bytes.load(Ordering::Relaxed);
        held.saturating_add(more) > self.bytes_max / 2
    }

    /// Takes `bytes` of the total, and what is claimed of shares, if `room` bytes are free. Otherwise it takes nothing
    /// and counts a refusal.
    fn take(&self, claims: &[Option<Claim>], bytes: u64, room: u64) -> bool {
        let claims = || claims.iter().flatten();
        for (taken, claim) in claims().enumerate() {
            if !self.take_of_share(claim, self.is_contended(room)) {
                self.over_share[claim.holder.index()].add(1);
                claims()
                    .take(taken)
                    .for_each(|claim| self.give_back(claim.holder, claim.bytes));
                return false;
            }
        }
        // Relaxed: the word protects no other memory, and the changes of one atomic have a total order.
        let add = |held: u64| {
            let has_room = held
                .checked_add(room)
                .is_some_and(|after| after <= self.bytes_max);
            has_room.then(|| held + bytes)
        };
        let is_taken = self
            .held_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .is_ok();
        if !is_taken {
            self.full.add(1);
            claims().for_each(|claim| self.give_back(claim.holder, claim.bytes));
        }
        is_taken
    }

    /// Applies the limit of a share, once more than half of the budget would be in use. A holder without another upload
    /// is always admitted.
    fn take_of_share(&self, claim: &Claim, is_contended: bool) -> bool {
        let share = self.bytes_max / claim.holder.shares();
        let mut held = self.by_holder.entry(claim.holder).or_default();
        let has_others = *held > claim.held_bytes;
        if is_contended && has_others && held.saturating_add(claim.room) > share {
            return false;
        }
        *held = held.saturating_add(claim.bytes);
        true
    }

    fn give_back(&self, holder: Holder, bytes: u64) {
        if let Entry::Occupied(mut held) = self.by_holder.entry(holder) {
            *held.get_mut() -= bytes;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

impl Holder {
    /// A holder's share is one of this many parts of the budget.
    fn shares(self) -> u64 {
        match self {
            Self::Tenant(_) => 2,
            Self::Client(_) => 8,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Tenant(_) => 0,
            Self::Client(_) => 1,
        }
    }
}

impl UploadPermit<'_> {
    /// Takes the announced bytes that are not taken yet. Takes none, and counts a refusal, if others have taken them in
    /// the meantime.
    #[must_use]
    pub fn take_rest(&mut self) -> bool {
        if self.rest == 0 {
            return true;
        }
        let (rest, all) = (self.rest, self.bytes + self.rest);
        let tenant = self.claim(Holder::Tenant, self.uploader.tenant, all, all);
        let client = self.claim(Holder::Client, self.uploader.client, rest, rest);
        let is_taken = self.budget.take(&[client, tenant], rest, rest);
        if is_taken {
            (self.bytes, self.tenant_bytes, self.rest) = (all, all, 0);
        }
        is_taken
    }

    fn claim<T>(
        &self,
        holder: fn(T) -> Holder,
        key: Option<T>,
        bytes: u64,
        room: u64,
    ) -> Option<Claim> {
        let holder = holder(key?);
        let held_bytes = match holder {
            Holder::Tenant(_) => self.tenant_bytes,
            Holder::Client(_) => self.bytes,
        };
        Some(Claim {
            holder,
            held_bytes,
            bytes,
            room,
        })
    }
}

impl Drop for UploadPermit<'_> {
    fn drop(&mut self) {
        let Self {
            budget,
            uploader,
            bytes,
            tenant_bytes,
            ..
        } = *self;
        for (holder, bytes) in [
            (uploader.client.map(Holder::Client), bytes),
            (uploader.tenant.map(Holder::Tenant), tenant_bytes),
        ] {
            if let Some(holder) = holder.filter(|_| bytes > 0) {
                budget.give_back(holder, bytes);
            }
        }
        budget.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
