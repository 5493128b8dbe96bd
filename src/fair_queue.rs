//! Limits how many costly jobs run at once, how much memory they claim, and how many wait, and shares these fairly:
//! by tenant, then by client.
//!
//! The one queue for everything that must not run all at once: thumbnails, runs of ffmpeg, completions of uploads in
//! parts, password hashes, reads from a cold disk, questions to a hook. This module decides which job starts next. It
//! runs nothing itself.
//!
//! The rules, in the order in which they decide:
//! 1. The tenant with the fewest running jobs comes first, then the one that was served longest ago. Within a
//!    tenant, the same holds for its clients. Jobs of one client start in the order in which they came.
//! 2. A tenant never has more than `tenant_jobs_max` running jobs. While others wait, a tenant holds at most half of
//!    the jobs and of the memory, and so does a client. One job is always allowed.
//! 3. A job that waits for memory lets smaller jobs start before it, but only `PASSES_MAX` times.
//! 4. When the queue is full, the newest job of the client that has the most waiting jobs, in the tenant that has the
//!    most, leaves the queue. A newcomer whose tenant or client has as many is refused itself.

mod state;

use std::{
    error, fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::state::State;
use crate::client_network::network;

/// The tenant and the client that a job is for: the key of fairness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claimant {
    /// The tenant's index.
    pub tenant: u32,
    client: IpAddr,
}

impl Claimant {
    /// A client of a tenant. An IPv6 client is identified by its /64, the smallest network a provider assigns.
    pub fn new(tenant: u32, client: IpAddr) -> Self {
        let client = network(client);
        Self { tenant, client }
    }

    /// A whole tenant, for jobs that are not shared by client.
    pub fn whole_tenant(tenant: u32) -> Self {
        Self::new(tenant, Ipv6Addr::UNSPECIFIED.into())
    }
}

/// The bounds of a [`FairQueue`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Running jobs; at least 1.
    pub jobs_max: usize,
    /// Running jobs of one tenant, whether others wait or not; at least 1.
    pub tenant_jobs_max: usize,
    /// Bytes that running jobs may claim together.
    pub memory_bytes_max: u64,
    /// Waiting jobs.
    pub waiting_max: usize,
    /// The longest time a job waits.
    pub wait_max: Duration,
}

/// One job at a time, and no other bound.
impl Default for Config {
    fn default() -> Self {
        Self {
            jobs_max: 1,
            tenant_jobs_max: usize::MAX,
            memory_bytes_max: u64::MAX,
            waiting_max: usize::MAX,
            wait_max: Duration::MAX,
        }
    }
}

/// Why a job was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The queue is full, and no other tenant or client has a larger share of it.
    QueueFull,
    /// The job did not start within [`Config::wait_max`].
    TimedOut,
    /// The job claims more than [`Config::memory_bytes_max`], so it can never start.
    TooLarge,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QueueFull => "the queue is full",
            Self::TimedOut => "no job ended in time",
            Self::TooLarge => "the job needs more memory than all jobs may have together",
        })
    }
}

impl error::Error for Refused {}

/// The load of a queue at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// Waiting jobs.
    pub waiting: usize,
    /// Running jobs.
    pub running: usize,
    /// Bytes that running jobs have claimed.
    pub memory_bytes: u64,
}

/// A queue and its running jobs. Clones share both.
///
/// Cost: a choice takes logarithmic time in the number of waiting tenants and clients, plus the number of jobs that
/// wait for memory. If no job waits and the new one fits, it starts without entering the queue.
///
/// Memory: about 150 bytes for each waiting job and for each tenant and client with a job.
#[derive(Debug, Clone)]
pub struct FairQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Config,
    state: Mutex<State>,
}

/// Permission to run one job. Dropping it ends the job: it returns the memory and starts the next jobs.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    queue: Arc<Shared>,
    claimant: Claimant,
    memory_bytes: u64,
}

/// Removes a job from the queue when its caller stops waiting.
struct Leave<'q> {
    queue: &'q Arc<Shared>,
    claimant: Claimant,
    id: u64,
}

impl FairQueue {
    /// An empty queue.
    pub fn new(mut config: Config) -> Self {
        config.jobs_max = config.jobs_max.max(1);
        config.tenant_jobs_max = config.tenant_jobs_max.max(1);
        Self(Arc::new(Shared {
            config,
            state: Mutex::default(),
        }))
    }

    /// Waits until the job may start. Move the permit into the work itself, so that work whose caller has gone still
    /// counts.
    ///
    /// # Errors
    /// [`Refused`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue.
    pub async fn acquire(&self, claimant: Claimant, memory_bytes: u64) -> Result<Permit, Refused> {
        let Shared { config, state } = &*self.0;
        if memory_bytes > config.memory_bytes_max {
            return Err(Refused::TooLarge);
        }
        if state.lock().start_at_once(config, claimant, memory_bytes) {
            return Ok(self.0.permit(claimant, memory_bytes));
        }
        let (grant, granted) = oneshot::channel();
        let id = (self.0).change(|state| state.push(claimant, memory_bytes, grant));
        // A job that is evicted, this one or another, finds its channel closed.
        drop((self.0).change(|state| state.evict_beyond(config.waiting_max, claimant)));
        let _leave = Leave {
            queue: &self.0,
            claimant,
            id,
        };
        match tokio::time::timeout(config.wait_max, granted).await {
            Ok(granted) => granted.map_err(|_| Refused::QueueFull),
            Err(_) => Err(Refused::TimedOut),
        }
    }

    /// The load at this moment.
    pub fn levels(&self) -> Levels {
        self.0.state.lock().levels()
    }
}

impl Shared {
    fn permit(self: &Arc<Self>, claimant: Claimant, memory_bytes: u64) -> Permit {
        Permit {
            queue: self.clone(),
            claimant,
            memory_bytes,
        }
    }

    /// Changes the state, then starts every job that may start. Wakes tasks, which happens without the lock.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let changed = change(&mut state);
        let started: Vec<_> = std::iter::from_fn(|| state.start_next(&self.config)).collect();
        drop(state);
        for (claimant, job) in started {
            // If the caller has gone, the permit is dropped here, which starts the next job.
            drop(job.grant.send(self.permit(claimant, job.memory_bytes)));
        }
        changed
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        (self.queue).change(|state| state.end(self.claimant, self.memory_bytes));
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        // A job that waits for memory may have held up others.
        drop((self.queue).change(|state| state.leave(self.claimant, self.id)));
    }
}

#[cfg(test)]
mod tests;
