//! The jobs that wait and run, and the rules by which the next one is chosen. Pure: no lock, no clock, no task.

use std::{cmp::Reverse, collections::HashMap};

use tokio::sync::oneshot;

use super::{Claimant, Config, Permit};

/// How many later jobs may start before a job that waits for memory. Then nothing else starts until it fits.
pub(super) const PASSES_MAX: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct State {
    /// In the order in which they came; at most `waiting_max`.
    pub(super) waiting: Vec<Waiting>,
    pub(super) running: Load,
    pub(super) running_by_tenant: HashMap<u32, Load>,
    pub(super) running_by_client: HashMap<Claimant, Load>,
    /// One entry for each tenant and client with a waiting or running job.
    pub(super) served_tenants: HashMap<u32, Served>,
    pub(super) served_clients: HashMap<Claimant, Served>,
    pub(super) started: u64,
    pub(super) next_id: u64,
}

/// One job that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) claimant: Claimant,
    pub(super) memory_bytes: u64,
    /// Later jobs that were started before this one, since its memory was not free.
    pub(super) passes: u32,
    /// Dropping it tells the job that it lost its place in the queue.
    pub(super) grant: oneshot::Sender<Permit>,
}

/// What some running jobs hold together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) jobs: usize,
    pub(super) memory_bytes: u64,
}

/// When a tenant or a client was last served, or came. A newcomer is not ahead of those that wait already, or a
/// client that leaves and comes back would pass them each time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Served {
    /// Jobs that had been started by then.
    pub(super) started: u64,
    /// At the same moment, a newcomer is first.
    pub(super) is_served: bool,
}

impl State {
    /// Which waiting job runs next, if one may.
    pub(super) fn next(&self, config: &Config) -> Option<usize> {
        if self.running.jobs >= config.places {
            return None;
        }
        let mut order: Vec<usize> = (0..self.waiting.len()).collect();
        order.sort_by_cached_key(|&index| self.turn(index));
        for index in order {
            let job = &self.waiting[index];
            if !self.is_within_share(job, config) {
                continue;
            }
            let free = config
                .memory_bytes_max
                .saturating_sub(self.running.memory_bytes);
            if job.memory_bytes <= free {
                return Some(index);
            }
            if job.passes >= PASSES_MAX {
                return None;
            }
        }
        None
    }

    /// Jobs run in ascending order of this.
    fn turn(&self, index: usize) -> impl Ord + use<> {
        let claimant = self.waiting[index].claimant;
        let jobs = |load: Option<&Load>| load.map_or(0, |load| load.jobs);
        (
            jobs(self.running_by_tenant.get(&claimant.tenant)),
            self.served_tenants.get(&claimant.tenant).copied(),
            jobs(self.running_by_client.get(&claimant)),
            self.served_clients.get(&claimant).copied(),
            index,
        )
    }

    /// While another tenant waits, a tenant holds at most half; while another client waits, a client does.
    fn is_within_share(&self, job: &Waiting, config: &Config) -> bool {
        let claimant = job.claimant;
        let others = |is_other: &dyn Fn(&Waiting) -> bool| self.waiting.iter().any(is_other);
        let is_half = |load: Option<&Load>| {
            let load = load.copied().unwrap_or_default();
            load.jobs == 0
                || (load.jobs < config.places.div_ceil(2)
                    && load.memory_bytes + job.memory_bytes <= config.memory_bytes_max / 2)
        };
        (is_half(self.running_by_tenant.get(&claimant.tenant))
            || !others(&|other| other.claimant.tenant != claimant.tenant))
            && (is_half(self.running_by_client.get(&claimant))
                || !others(&|other| other.claimant != claimant))
    }

    pub(super) fn start(&mut self, index: usize) -> Waiting {
        let turn = self.turn(index);
        for other in 0..self.waiting.len() {
            if self.turn(other) < turn {
                self.waiting[other].passes += 1;
            }
        }
        let job = self.waiting.remove(index);
        self.started += 1;
        let served = Served {
            started: self.started,
            is_served: true,
        };
        self.served_tenants.insert(job.claimant.tenant, served);
        self.served_clients.insert(job.claimant, served);
        let load = |load: &mut Load| {
            load.jobs += 1;
            load.memory_bytes += job.memory_bytes;
        };
        load(&mut self.running);
        load(
            self.running_by_tenant
                .entry(job.claimant.tenant)
                .or_default(),
        );
        load(self.running_by_client.entry(job.claimant).or_default());
        job
    }

    pub(super) fn end(&mut self, claimant: Claimant, memory_bytes: u64) {
        let unload = |load: &mut Load| {
            load.jobs -= 1;
            load.memory_bytes -= memory_bytes;
            load.jobs > 0
        };
        unload(&mut self.running);
        if !self
            .running_by_tenant
            .get_mut(&claimant.tenant)
            .is_some_and(unload)
        {
            self.running_by_tenant.remove(&claimant.tenant);
        }
        if !self
            .running_by_client
            .get_mut(&claimant)
            .is_some_and(unload)
        {
            self.running_by_client.remove(&claimant);
        }
        self.forget(claimant);
    }

    /// Removes what is remembered of a claimant that has no job any more.
    pub(super) fn forget(&mut self, claimant: Claimant) {
        let waits = |is_same: &dyn Fn(&Waiting) -> bool| self.waiting.iter().any(is_same);
        let client_waits = waits(&|job| job.claimant == claimant);
        let tenant_waits = waits(&|job| job.claimant.tenant == claimant.tenant);
        if !client_waits && !self.running_by_client.contains_key(&claimant) {
            self.served_clients.remove(&claimant);
        }
        if !tenant_waits && !self.running_by_tenant.contains_key(&claimant.tenant) {
            self.served_tenants.remove(&claimant.tenant);
        }
    }

    /// Takes one job out of a queue that has one too many: the newest of the client with the most jobs, in the
    /// tenant with the most jobs. Where the newcomer's own tenant or client has as many, it is the newcomer's.
    pub(super) fn evict_for(&mut self, newcomer: Claimant) -> Option<Waiting> {
        let mut by_tenant = HashMap::<u32, usize>::new();
        let mut by_client = HashMap::<Claimant, usize>::new();
        for job in &self.waiting {
            *by_tenant.entry(job.claimant.tenant).or_default() += 1;
            *by_client.entry(job.claimant).or_default() += 1;
        }
        let tenant = by_tenant
            .into_iter()
            .max_by_key(|&(tenant, jobs)| (jobs, tenant == newcomer.tenant, Reverse(tenant)))?
            .0;
        let client = by_client
            .into_iter()
            .filter(|(claimant, _)| claimant.tenant == tenant)
            .max_by_key(|&(claimant, jobs)| (jobs, claimant == newcomer, Reverse(claimant.client)))?
            .0;
        let newest = self
            .waiting
            .iter()
            .rposition(|job| job.claimant == client)?;
        let evicted = self.waiting.remove(newest);
        self.forget(evicted.claimant);
        Some(evicted)
    }
}
