//! Admits jobs to a bounded number of places and a bounded sum of memory, fair by tenant, then by client.
//!
//! A job is what costs much and must not all run at once: a picture to decode, a run of ffmpeg, a password to hash.
//! This module decides who runs next. It runs nothing itself, and knows nothing of what a job does.
//!
//! The rules, in the order in which they decide:
//! 1. The tenant with the fewest running jobs comes first, then the one that was served longest ago. Within a
//!    tenant, the same holds for its clients. Jobs of one client run in the order in which they came.
//! 2. While others wait, a tenant holds at most half of the places and of the memory, and so does a client. One job
//!    is always allowed.
//! 3. A job whose memory is not free yet is passed by smaller ones, but only `PASSES_MAX` times.
//! 4. In a full queue, whoever has more waiting jobs than the newcomer loses its newest one.

mod state;

use std::{net::IpAddr, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use self::state::{Served, State, Waiting};
use crate::client_network::network;

/// Whose job it is.
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
}

/// The bounds of a [`FairQueue`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Jobs that run at once; at least 1.
    pub places: usize,
    /// Bytes that running jobs may claim together.
    pub memory_bytes_max: u64,
    /// Jobs that wait for a place.
    pub waiting_max: usize,
    /// The longest wait for a place.
    pub wait_max: Duration,
}

/// Why a job was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Too many wait, and the claimant has no smaller share of the queue than others.
    QueueFull,
    /// No place became free within [`Config::wait_max`].
    TimedOut,
    /// The job claims more memory than there is in all: it can never run.
    TooLarge,
}

/// How busy a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// Jobs that wait.
    pub waiting: usize,
    /// Jobs that run.
    pub running: usize,
    /// Bytes that running jobs have claimed.
    pub memory_bytes: u64,
}

/// The queue and the jobs that it has admitted. Cheap to clone.
///
/// Memory: an entry of about 100 bytes for each job that waits or runs.
#[derive(Debug, Clone)]
pub struct FairQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Config,
    state: Mutex<State>,
}

/// Permission to run one job. Dropping it gives back its place and its memory, and starts whoever is next.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    queue: Arc<Shared>,
    claimant: Claimant,
    memory_bytes: u64,
}

/// Leaves the queue when dropped, whether the job was admitted or its caller has gone.
struct Leave<'q> {
    queue: &'q Arc<Shared>,
    id: u64,
}

impl FairQueue {
    /// An empty queue.
    pub fn new(mut config: Config) -> Self {
        config.places = config.places.max(1);
        Self(Arc::new(Shared {
            config,
            state: Mutex::default(),
        }))
    }

    /// Waits until the job may run. The permit belongs to the work itself: hold it until the work has ended, also
    /// where its caller has gone.
    ///
    /// # Errors
    /// [`Refused`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue.
    pub async fn acquire(&self, claimant: Claimant, memory_bytes: u64) -> Result<Permit, Refused> {
        if memory_bytes > self.0.config.memory_bytes_max {
            return Err(Refused::TooLarge);
        }
        let (id, mut granted) = self.0.enqueue(claimant, memory_bytes)?;
        let _leave = Leave { queue: &self.0, id };
        // Most jobs find a free place and need no timer.
        match granted.try_recv() {
            Ok(permit) => return Ok(permit),
            Err(oneshot::error::TryRecvError::Closed) => return Err(Refused::QueueFull),
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
        match tokio::time::timeout(self.0.config.wait_max, granted).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Refused::QueueFull),
            Err(_) => Err(Refused::TimedOut),
        }
    }

    /// How busy it is.
    pub fn levels(&self) -> Levels {
        let state = self.0.lock();
        Levels {
            waiting: state.waiting.len(),
            running: state.running.jobs,
            memory_bytes: state.running.memory_bytes,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn enqueue(
        self: &Arc<Self>,
        claimant: Claimant,
        memory_bytes: u64,
    ) -> Result<(u64, oneshot::Receiver<Permit>), Refused> {
        let mut state = self.lock();
        let (grant, granted) = oneshot::channel();
        let id = state.next_id;
        state.next_id += 1;
        let came = Served {
            started: state.started,
            is_served: false,
        };
        state.served_tenants.entry(claimant.tenant).or_insert(came);
        state.served_clients.entry(claimant).or_insert(came);
        state.waiting.push(Waiting {
            id,
            claimant,
            memory_bytes,
            passes: 0,
            grant,
        });
        let mut admitted = self.start_ready(&mut state);
        let mut evicted = None;
        if state.waiting.len() > self.config.waiting_max {
            evicted = state.evict_for(claimant);
            admitted.extend(self.start_ready(&mut state));
        }
        drop(state);
        let is_own = evicted.as_ref().is_some_and(|job| job.id == id);
        // Both wake other tasks, so both happen after the lock is released.
        deliver(admitted);
        drop(evicted);
        match is_own {
            true => Err(Refused::QueueFull),
            false => Ok((id, granted)),
        }
    }

    /// Takes every job out of the queue that may run now.
    fn start_ready(self: &Arc<Self>, state: &mut State) -> Vec<(oneshot::Sender<Permit>, Permit)> {
        let mut admitted = Vec::new();
        while let Some(index) = state.next(&self.config) {
            let job = state.start(index);
            admitted.push((
                job.grant,
                Permit {
                    queue: self.clone(),
                    claimant: job.claimant,
                    memory_bytes: job.memory_bytes,
                },
            ));
        }
        admitted
    }
}

/// A permit that nobody receives any more is dropped here, which starts the next job. No lock may be held.
fn deliver(admitted: Vec<(oneshot::Sender<Permit>, Permit)>) {
    for (grant, permit) in admitted {
        drop(grant.send(permit));
    }
}

impl Permit {
    /// Bytes of memory that the job has claimed.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.end(self.claimant, self.memory_bytes);
        let admitted = self.queue.start_ready(&mut state);
        drop(state);
        deliver(admitted);
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        let Some(index) = state.waiting.iter().position(|job| job.id == self.id) else {
            return;
        };
        let job = state.waiting.remove(index);
        state.forget(job.claimant);
        // It may have been what the others waited for.
        let admitted = self.queue.start_ready(&mut state);
        drop(state);
        deliver(admitted);
    }
}

#[cfg(test)]
mod tests;
