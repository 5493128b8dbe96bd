//! Reserves space on the store's disk for writes, so that all of them together stay above the free-space floor.
//!
//! Comparing free bytes with one upload's size is not enough: a hundred uploads that begin at once all see the
//! same free bytes. So each writer reserves the most that it may still write before it writes, and a
//! reservation is granted only while the free bytes minus all reservations stay above the floor. It shrinks as
//! its bytes reach the file system, which counts them from then on (preallocated and delayed ones too).
//!
//! Not covered: another process that writes to the same disk, such as the server that this one takes over from,
//! and what the file system itself needs beside files and directories (its journal, extent blocks).
//! This file only keeps the account; `layout.rs` asks the disk.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::error::{Error, Kind, Result};

/// Bytes that a file needs beside its payload: the trailer (at most 8 KiB), the rest of its last block, and blocks for
/// the directories of a new day.
const OVERHEAD_BYTES: u64 = 24 * 1024;
/// Bytes that all uploads together may write into reservations before the free bytes are read again. Reading them takes
/// a microsecond on a local disk, and a round trip on a network disk.
const CHECK_EVERY_BYTES: u64 = 1024 * 1024;
/// No file is larger. Keeps the sum of all reservations from overflowing.
const SIZE_MAX: u64 = 1 << 50;

/// The account of the disk of one store. Cheap to clone; the clones are one account.
#[derive(Clone)]
pub(super) struct Space(Arc<Account>);

struct Account {
    floor_bytes: u64,
    /// Reserved and not written yet.
    reserved_bytes: AtomicU64,
    /// Written since the last check of the floor.
    unchecked_bytes: AtomicU64,
}

/// Bytes that its owner may write. Dropping it releases what was not written.
#[must_use]
pub(super) struct Reservation {
    account: Arc<Account>,
    bytes: u64,
    /// Bytes above the floor that were free and not reserved when this was granted.
    room: u64,
}

impl Space {
    /// An account without reservations.
    pub(super) fn new(floor_bytes: u64) -> Self {
        Self(Arc::new(Account {
            floor_bytes,
            reserved_bytes: AtomicU64::new(0),
            unchecked_bytes: AtomicU64::new(0),
        }))
    }

    /// Bytes that are reserved and not written yet.
    pub(super) fn reserved_bytes(&self) -> u64 {
        self.0.reserved_bytes.load(Ordering::Relaxed)
    }

    /// Reserves space for a file of at most `bytes` with its overhead. `free_bytes` asks the disk.
    ///
    /// # Errors
    /// `StorageFull` if that could go below the floor, and the errors of `free_bytes`.
    pub(super) fn reserve(
        &self,
        bytes: u64,
        free_bytes: impl FnOnce() -> Result<u64>,
    ) -> Result<Reservation> {
        let account = &self.0;
        let bytes = bytes.min(SIZE_MAX) + OVERHEAD_BYTES;
        // Added before the disk is asked, so that two callers at once see each other, and bytes that move from a
        // reservation into a file meanwhile are counted twice and not left out.
        let before = account.reserved_bytes.fetch_add(bytes, Ordering::AcqRel);
        let mut reservation = Reservation {
            account: account.clone(),
            bytes,
            room: 0,
        };
        let free = free_bytes()?;
        let needed = account
            .floor_bytes
            .saturating_add(before)
            .saturating_add(bytes);
        match free.checked_sub(needed) {
            Some(room) => reservation.room = room,
            None => {
                return Err(account.full(format!(
                    "{free} bytes free, {before} of them reserved, {bytes} needed"
                )));
            }
        }
        Ok(reservation)
    }
}

impl Account {
    fn full(&self, why: String) -> Error {
        let floor = self.floor_bytes;
        Error::new(Kind::StorageFull)
            .source(format!("{why}; store.free_space_min_bytes is {floor}"))
    }

    fn release(&self, bytes: u64) {
        self.reserved_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Reservation {
    /// Bytes above the floor that were left after this and all other reservations.
    pub(super) fn room(&self) -> u64 {
        self.room
    }

    /// Checks during an upload whether other programs have filled the disk. Asks the disk once per
    /// [`CHECK_EVERY_BYTES`] that all uploads write. Not needed for preallocated bytes. `free_bytes` asks the disk.
    ///
    /// # Errors
    /// `StorageFull` if `bytes` more would go below the floor, and the errors of `free_bytes`.
    pub(super) fn check(&self, bytes: u64, free_bytes: impl FnOnce() -> Result<u64>) -> Result<()> {
        let account = &self.account;
        let unchecked = account.unchecked_bytes.fetch_add(bytes, Ordering::Relaxed);
        if unchecked.saturating_add(bytes) < CHECK_EVERY_BYTES {
            return Ok(());
        }
        account.unchecked_bytes.store(0, Ordering::Relaxed);
        let free = free_bytes()?;
        match free < account.floor_bytes.saturating_add(bytes) {
            true => Err(account.full(format!("{free} bytes free, {bytes} about to be written"))),
            false => Ok(()),
        }
    }

    /// Releases bytes that now belong to the file, because they were written or preallocated.
    pub(super) fn used(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.account.release(bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.account.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: u64 = 1 << 30;

    /// A disk of its own.
    struct Disk {
        free: AtomicU64,
        space: Space,
    }

    impl Disk {
        /// A disk with `room` bytes free above the floor.
        fn with(room: u64) -> Self {
            Self {
                free: AtomicU64::new(FLOOR + room),
                space: Space::new(FLOOR),
            }
        }

        fn free(&self) -> Result<u64> {
            Ok(self.free.load(Ordering::SeqCst))
        }

        /// Takes bytes, as a write does.
        fn fill(&self, bytes: u64) {
            self.free.fetch_sub(bytes, Ordering::SeqCst);
        }

        fn reserve(&self, bytes: u64) -> Result<Reservation> {
            self.space.reserve(bytes, || self.free())
        }

        fn reserved(&self) -> u64 {
            self.space.reserved_bytes()
        }
    }

    #[track_caller]
    fn assert_full<T>(result: Result<T>) {
        let kind = result.map(drop).map_err(|error| error.kind());
        assert_eq!(kind, Err(Kind::StorageFull));
    }

    #[test]
    fn reservations_add_up() {
        let disk = Disk::with(3 * (1000 + OVERHEAD_BYTES));
        let (first, _second) = (disk.reserve(1000).unwrap(), disk.reserve(1000).unwrap());
        assert_full(disk.reserve(1001));
        let third = disk.reserve(1000).unwrap();
        assert_eq!(
            (first.room(), third.room()),
            (2 * (1000 + OVERHEAD_BYTES), 0)
        );
        assert_full(disk.reserve(0));
        drop(first);
        assert_eq!(disk.reserve(1000).unwrap().room(), 0);
    }

    #[test]
    fn written_bytes_leave_the_reservation() {
        let disk = Disk::with(10_000 + 2 * OVERHEAD_BYTES);
        let mut reservation = disk.reserve(10_000).unwrap();
        assert_full(disk.reserve(1));
        disk.fill(4000);
        reservation.used(4000);
        assert_full(disk.reserve(1));
        assert_eq!(disk.reserved(), 6000 + OVERHEAD_BYTES);
        drop(reservation);
        assert_full(disk.reserve(6001 + OVERHEAD_BYTES));
        assert!(disk.reserve(6000 + OVERHEAD_BYTES).is_ok());
        assert_eq!(disk.reserved(), 0);
    }

    #[test]
    fn detects_disk_filled_by_others() {
        let disk = Disk::with(100 << 20);
        let reservation = disk.reserve(20 << 20).unwrap();
        disk.fill(100 << 20);
        let batches = (0..20).take_while(|_| reservation.check(128 << 10, || disk.free()).is_ok());
        let written = batches.count() as u64 * (128 << 10);
        assert!(written < CHECK_EVERY_BYTES, "{written}");
    }

    #[test]
    fn no_size_overflows() {
        let disk = Disk::with(1 << 20);
        assert_full(disk.reserve(u64::MAX));
        assert_full(disk.reserve(u64::MAX - OVERHEAD_BYTES));
        assert_eq!(disk.reserved(), 0);
        let mut reservation = disk.reserve(1).unwrap();
        reservation.used(u64::MAX);
        assert_eq!(disk.reserved(), 0);
    }

    #[test]
    fn concurrent_writers_stay_above_floor() {
        const ROOM: u64 = 40 * (1000 + OVERHEAD_BYTES);
        let disk = Disk::with(ROOM);
        let granted: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let mut granted = 0;
                        for _ in 0..2000 {
                            let Ok(mut reservation) = disk.reserve(1000) else {
                                continue;
                            };
                            let bytes = 1000 + OVERHEAD_BYTES;
                            disk.fill(bytes);
                            reservation.used(bytes);
                            granted += 1;
                        }
                        granted
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        // A request is refused while another writer's bytes are counted twice, so perhaps not all 40 were granted.
        assert!((1..=40).contains(&granted), "{granted}");
        assert!(disk.free().unwrap() >= FLOOR);
        assert_eq!(disk.reserved(), 0);
    }
}
