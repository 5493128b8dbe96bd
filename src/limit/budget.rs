//! Limits the bytes of uploads in flight: in total, and for one tenant or one client while others need room.
//!
//! An upload holds what it announces before it sends it. What a refusal looks like is not decided here.

use std::{
    hash::Hash,
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use dashmap::{DashMap, Entry};

use crate::metrics::{Counter, UploadLevels};

/// The least that an upload holds, whatever it announces: a descriptor, and buffers of up to this size.
pub const UPLOAD_BYTES_MIN: u64 = 1 << 20;

/// A client that holds no more than one of so many parts of the budget may be as slow as any.
const USUAL_SHARES: u64 = 64;

/// Bytes of uploads in flight, and who holds them.
///
/// Memory: an entry for each tenant and each client with an upload in flight. A shard's lock is held for one map
/// operation; the total is lock-free.
#[derive(Debug)]
pub struct Budget {
    held_bytes: AtomicU64,
    bytes_max: u64,
    by_holder: DashMap<Holder, u64>,
    full: Counter,
    over_share: [Counter; 2],
}

/// Whose upload it is. None where there is no share to keep to.
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

/// What an upload wants of a holder's share.
#[derive(Debug, Clone, Copy)]
struct Claim {
    holder: Holder,
    /// What it holds of it already.
    held_bytes: u64,
    bytes: u64,
    /// What it will want in all, `bytes` included.
    room: u64,
}

/// Bytes of a [`Budget`], given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct UploadPermit<'b> {
    budget: &'b Budget,
    uploader: Uploader,
    /// Of the total, and of the client.
    bytes: u64,
    /// Of the tenant.
    tenant_bytes: u64,
    /// Asked for and not taken yet.
    rest: u64,
}

impl Budget {
    /// Of `bytes_max` bytes, none of them held.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            held_bytes: AtomicU64::new(0),
            bytes_max,
            by_holder: DashMap::new(),
            full: Counter::default(),
            over_share: Default::default(),
        }
    }

    /// Takes the bytes of an upload; `None` where there is too little room, which is counted.
    pub fn hold(&self, uploader: Uploader, bytes: u64) -> Option<UploadPermit<'_>> {
        let mut held = self.nothing_of(uploader, bytes);
        held.take_rest().then_some(held)
    }

    /// Where there is room for so many bytes, takes `first` of them, and the rest by [`UploadPermit::take_rest`]: for a caller
    /// whose credential has not come. Until then the tenant is one that anybody may claim to be, and nothing of its
    /// share is taken.
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
            // A budget that is smaller than the least still has room for one upload.
            rest: bytes.max(UPLOAD_BYTES_MIN.min(self.bytes_max)),
        }
    }

    /// How much faster than the least pace this client's uploads have to come, so that to hold much costs bandwidth:
    /// 1 while less than half of the budget is held, or little by this client.
    pub fn urgency(&self, client: Option<IpAddr>) -> u64 {
        let Some(client) = client.filter(|_| self.is_contended(0)) else {
            return 1;
        };
        let held = self.by_holder.get(&Holder::Client(client));
        let usual = (self.bytes_max / USUAL_SHARES).max(1);
        held.map_or(1, |bytes| (*bytes / usual).max(1))
    }

    /// What is held now, of how much, and how often there was too little.
    pub fn levels(&self) -> UploadLevels {
        UploadLevels {
            in_flight_bytes: self.held_bytes.load(Ordering::Relaxed),
            in_flight_bytes_max: self.bytes_max,
            refusals: self.full.get(),
            tenant_refusals: self.over_share[0].get(),
            client_refusals: self.over_share[1].get(),
        }
    }

    /// With so many bytes more, more than half is held.
    fn is_contended(&self, more: u64) -> bool {
        let held = self.held_bytes.load(Ordering::Relaxed);
        held.saturating_add(more) > self.bytes_max / 2
    }

    /// Takes so many bytes of the total and what is claimed of shares, where there is `room`; else nothing, and
    /// counts a refusal.
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
        // Relaxed: the word guards no other memory, and one atomic has one order of changes by itself.
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

    /// A holder keeps to its share once more than half of everything would be held. One upload of it always passes.
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
    /// One holder has at most one of so many parts.
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
    /// Takes what was asked for and is not held yet, or none of it where others have it meanwhile, which is counted.
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
        whose: Option<T>,
        bytes: u64,
        room: u64,
    ) -> Option<Claim> {
        let holder = holder(whose?);
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
