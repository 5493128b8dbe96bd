//! Live figures of a running thread, for the progress display.

use std::{
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;

use super::stats::{add, microseconds};

/// Figures of one thread since they were last taken.
#[derive(Debug)]
pub(crate) struct Live(Mutex<Moment>);

/// Figures of an interval.
#[derive(Debug)]
pub(crate) struct Moment {
    /// Ended requests.
    pub(crate) requests: u64,
    /// Failed requests.
    pub(crate) faults: u64,
    /// In microseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Moment {
    /// Starts at zero.
    pub(crate) fn new() -> Self {
        Self {
            requests: 0,
            faults: 0,
            latency: microseconds(),
        }
    }

    /// Adds another one.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.faults += other.faults;
        add(&mut self.latency, &other.latency);
    }
}

impl Live {
    /// Starts at zero.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Moment::new()))
    }

    /// Counts a request. The lock is contended only once a second.
    pub(crate) fn count(&self, latency: Duration, is_fault: bool) {
        let mut moment = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        moment.requests += 1;
        moment.faults += u64::from(is_fault);
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        moment.latency.saturating_record(latency_us.max(1));
    }

    /// Returns and resets the figures.
    pub(crate) fn take(&self) -> Moment {
        let fresh = Moment::new();
        let mut moment = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        mem::replace(&mut moment, fresh)
    }
}
