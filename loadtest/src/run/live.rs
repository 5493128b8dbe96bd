//! What a running thread tells of itself: the numbers of the last moments, taken by whoever shows them.

use std::{
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;

use super::stats::{add, microseconds};

/// One thread's, since they were last taken.
#[derive(Debug)]
pub(crate) struct Live(Mutex<Moment>);

/// Numbers of some time.
#[derive(Debug)]
pub(crate) struct Moment {
    /// Requests that have ended.
    pub(crate) requests: u64,
    /// Those that were faults.
    pub(crate) faults: u64,
    /// Microseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Moment {
    /// Nothing.
    pub(crate) fn new() -> Self {
        Self {
            requests: 0,
            faults: 0,
            latency: microseconds(),
        }
    }

    /// Adds another.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.faults += other.faults;
        add(&mut self.latency, &other.latency);
    }
}

impl Live {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Moment::new()))
    }

    /// Counts a request. The lock is held by its thread alone, but for one moment a second.
    pub(crate) fn count(&self, latency: Duration, is_fault: bool) {
        let mut moment = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        moment.requests += 1;
        moment.faults += u64::from(is_fault);
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        moment.latency.saturating_record(latency_us.max(1));
    }

    /// Takes what was counted.
    pub(crate) fn take(&self) -> Moment {
        let fresh = Moment::new();
        let mut moment = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        mem::replace(&mut moment, fresh)
    }
}
