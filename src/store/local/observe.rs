//! Reports on the store for operators: sync times, free bytes, and whether it can be read and written.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use super::{LocalStore, health::Troubles, layout::Layout};
use crate::{
    error::{Error, Kind, Result},
    metrics::{StoreLevels, Syncs},
};

/// Checks whether a store's directory is where it was opened. Does not keep the store or its lock alive.
#[derive(Clone)]
pub struct Presence(Weak<Layout>);

impl Presence {
    /// Checks once. Blocking.
    ///
    /// # Errors
    /// `Unavailable` if the directory is gone, or the store was closed.
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

    /// Returns a handle that checks whether the directory is where it was opened.
    pub fn presence(&self) -> Presence {
        Presence(Arc::downgrade(&self.layout))
    }

    /// Bytes that the disk has left. Blocking.
    ///
    /// # Errors
    /// `Unavailable` where the store's directory is gone, `Internal` where the disk fails.
    pub fn free_bytes(&self) -> Result<u64> {
        self.layout.check_root()?;
        // The directory may have come back by itself, for example after it was renamed and renamed back.
        self.layout.health.root_is_there();
        self.layout.free_bytes().map_err(Error::internal)
    }

    /// The known troubles. Does not access the disk.
    pub fn troubles(&self) -> Troubles {
        self.layout.health.troubles()
    }

    /// The known troubles as metrics.
    pub fn levels(&self) -> StoreLevels {
        let troubles = self.troubles();
        StoreLevels {
            is_readable: troubles.reads.is_none(),
            is_writable: troubles.reads.is_none() && troubles.writes.is_none(),
            write_errors: self.layout.health.errors(),
        }
    }
}
