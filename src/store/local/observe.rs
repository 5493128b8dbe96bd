//! What an operator wants to know of the store: how long the disk takes to sync, and what it has left.

use std::sync::Arc;

use super::LocalStore;
use crate::{
    error::{Error, Result},
    metrics::Syncs,
};

impl LocalStore {
    /// How long syncs took.
    pub fn syncs(&self) -> Arc<Syncs> {
        self.layout.syncs.clone()
    }

    /// Bytes that uploads and other writes under way may still write.
    pub fn reserved_bytes(&self) -> u64 {
        self.layout.space.reserved_bytes()
    }

    /// Bytes that the disk has left. Blocking.
    ///
    /// # Errors
    /// `Internal` where the disk fails.
    pub fn free_bytes(&self) -> Result<u64> {
        self.layout.free_bytes().map_err(Error::internal)
    }
}
