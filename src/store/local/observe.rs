//! What an operator wants to know of the store: how long the disk takes to sync, what it has left, whether it can be
//! read and written.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use super::{LocalStore, health::Troubles, layout::Layout};
use crate::{
    error::{Error, Kind, Result},
    metrics::{StoreLevels, Syncs},
};

/// Tells whether a store's directory is where it was opened; keeps neither the store nor its lock.
#[derive(Clone)]
pub struct Presence(Weak<Layout>);

impl Presence {
    /// Blocking.
    ///
    /// # Errors
    /// `Unavailable` where the directory is gone, or the server that had it open is.
    pub fn check(&self) -> Result<()> {
        match self.0.upgrade() {
            Some(layout) => layout.check_root(),
            None => {
                let ended = Error::new(Kind::Unavailable(Duration::ZERO));
                Err(ended.source("the server has ended"))
            }
        }
    }
}

impl LocalStore {
    /// How long syncs took.
    pub fn syncs(&self) -> Arc<Syncs> {
        self.layout.syncs.clone()
    }

    /// Bytes that uploads and other writes under way may still write.
    pub fn reserved_bytes(&self) -> u64 {
        self.layout.space.reserved_bytes()
    }

    /// Tells whether the directory is where it was opened.
    pub fn presence(&self) -> Presence {
        Presence(Arc::downgrade(&self.layout))
    }

    /// Bytes that the disk has left. Blocking.
    ///
    /// # Errors
    /// `Unavailable` where the store's directory is gone, `Internal` where the disk fails.
    pub fn free_bytes(&self) -> Result<u64> {
        self.layout.check_root()?;
        // It may have come back by itself, and then nothing else would say so for a while.
        self.layout.health.root_is_there();
        self.layout.free_bytes().map_err(Error::internal)
    }

    /// What is known to be wrong; asks no disk.
    pub fn troubles(&self) -> Troubles {
        self.layout.health.troubles()
    }

    /// The same, for the metrics.
    pub fn levels(&self) -> StoreLevels {
        let troubles = self.troubles();
        StoreLevels {
            is_readable: troubles.reads.is_none(),
            is_writable: troubles.reads.is_none() && troubles.writes.is_none(),
            write_errors: self.layout.health.errors(),
        }
    }
}
