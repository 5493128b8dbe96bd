//! What a connection has on loan: the files behind the addresses that wait in its write queue.
//!
//! A body hands slices of a map to hyper; the transport gets them back as bare addresses and finds the file
//! here, to send it by `sendfile`. A file stays here until the transport has written all that was queued, so
//! an address can never mean two files. Nothing depends on an entry being here: a slice that is not found is
//! memory like any other.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::{Mutex, MutexGuard};

use super::OpenFile;
use crate::limit::Client;

/// The files lent to one connection. All accesses are from the polls of one task, one after another: the lock
/// is there for `Sync` and never waited for. Bounded by what hyper queues before it flushes (16 buffers).
#[derive(Debug, Default)]
pub struct Lent {
    /// Spares the lock where nothing is lent, as with every small answer.
    any: AtomicBool,
    files: Mutex<Vec<Arc<OpenFile>>>,
}

impl Lent {
    /// Notes that slices of `file` are about to be queued.
    pub fn lend(&self, file: &Arc<OpenFile>) {
        let mut files = self.files();
        if !files.iter().any(|lent| Arc::ptr_eq(lent, file)) {
            files.push(file.clone());
        }
        self.any.store(true, Ordering::Relaxed);
    }

    /// The file that `slice` lies in, and where; `None` for other memory.
    pub fn find(&self, slice: &[u8]) -> Option<(Arc<OpenFile>, u64)> {
        if self.is_empty() {
            return None;
        }
        self.files()
            .iter()
            .find_map(|file| Some((file.clone(), file.object.mapped()?.offset_of(slice)?)))
    }

    /// Whether nothing is lent.
    pub fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Relaxed)
    }

    /// Everything that was queued is written: no address is in use any more.
    pub fn take_back(&self) {
        if !self.is_empty() {
            self.files().clear();
            self.any.store(false, Ordering::Relaxed);
        }
    }

    fn files(&self) -> MutexGuard<'_, Vec<Arc<OpenFile>>> {
        // A list is whole after every step: a panic elsewhere does not spoil it.
        self.files.lock()
    }
}

/// A body that may be made of files. One of the two is called before its first byte is asked for.
pub trait LendTo {
    /// From now on, files whose slices are given out are noted in `lent` first.
    fn lend_to(&mut self, lent: &Arc<Lent>);

    /// The bytes will be read by this process, as encryption and HTTP/2 do: they are given out in memory of its
    /// own, read from the file. Where a disk fails, a slice of a map would then end the process (SIGBUS). What that
    /// memory may be is the client's to hold.
    fn copy_out(&mut self, client: &Arc<Client>);
}
