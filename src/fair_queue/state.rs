//! The waiting and running jobs of a queue, and the choice of the next one. Pure: no lock, no clock, no task.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BTreeSet, HashMap, VecDeque},
    hash::Hash,
    net::IpAddr,
};

use tokio::sync::oneshot;

use super::{Claimant, Config, Levels, Permit};

/// Later jobs that may start before a job that waits for memory. Then no other job starts until it fits.
pub(super) const PASSES_MAX: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct State {
    total: Load,
    /// The tenants that have jobs, and within each the clients that have jobs.
    tenants: Group<u32, Group<IpAddr, VecDeque<Waiting>>>,
    /// Jobs that have started so far.
    started: u64,
    /// Jobs that have waited so far.
    next_id: u64,
}

/// A job that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    id: u64,
    pub(super) memory_bytes: u64,
    /// Later jobs that started before this one, while it waited for memory.
    passes: Cell<u32>,
    /// Dropping it tells the job that it has left the queue.
    pub(super) grant: oneshot::Sender<Permit>,
}

/// The jobs of all tenants, of one tenant or of one client.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    running: usize,
    memory_bytes: u64,
    waiting: usize,
    served: Served,
}

/// When a member was last served, or came. A newcomer does not come before members that wait already. Otherwise a
/// client that leaves and comes back would pass them each time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Served {
    /// Jobs that had started by then.
    started: u64,
    /// Newcomers come before the member that was served last.
    is_served: bool,
    /// Newcomers come in the order of their first jobs.
    first_id: u64,
}

/// The tenants, or the clients of one tenant, that have jobs.
#[derive(Debug)]
struct Group<K, J> {
    members: HashMap<K, Member<J>>,
    /// The members with waiting jobs, in the order of their turns.
    order: BTreeSet<(usize, Served, K)>,
}

/// A tenant with its clients, or a client with its waiting jobs.
#[derive(Debug)]
struct Member<J> {
    load: Load,
    jobs: J,
}

impl State {
    pub(super) fn levels(&self) -> Levels {
        Levels {
            waiting: self.total.waiting,
            running: self.total.running,
            memory_bytes: self.total.memory_bytes,
        }
    }

    /// Starts a job if none waits and it fits.
    pub(super) fn start_at_once(
        &mut self,
        config: &Config,
        claimant: Claimant,
        bytes: u64,
    ) -> bool {
        let tenant = self.tenants.members.get(&claimant.tenant);
        let of_tenant = tenant.map_or(0, |tenant| tenant.load.running);
        let starts = self.total.waiting == 0
            && self.total.running < config.jobs_max
            && of_tenant < config.tenant_jobs_max
            && bytes <= config.memory_bytes_max - self.total.memory_bytes;
        if starts {
            let served = self.serve();
            self.update(claimant, |load| load.start(bytes, served), |_| ());
        }
        starts
    }

    /// Adds a waiting job and returns its id.
    pub(super) fn push(
        &mut self,
        claimant: Claimant,
        memory_bytes: u64,
        grant: oneshot::Sender<Permit>,
    ) -> u64 {
        let job = Waiting {
            id: self.next_id,
            memory_bytes,
            passes: Cell::new(0),
            grant,
        };
        self.update(
            claimant,
            |load| load.waiting += 1,
            |jobs| jobs.push_back(job),
        );
        self.next_id += 1;
        self.next_id - 1
    }

    /// Takes the next job that may start out of the queue, and counts it as running.
    pub(super) fn start_next(&mut self, config: &Config) -> Option<(Claimant, Waiting)> {
        let (claimant, index, bytes) = self.next(config)?;
        let served = self.serve();
        let start = |load: &mut Load| {
            load.waiting -= 1;
            load.start(bytes, served);
        };
        let job = self.update(claimant, start, |jobs| jobs.remove(index))?;
        Some((claimant, job))
    }

    /// The claimant, the index among the claimant's jobs, and the memory of the job that starts next.
    fn next(&self, config: &Config) -> Option<(Claimant, usize, u64)> {
        if self.total.running >= config.jobs_max {
            return None;
        }
        let free_bytes = config.memory_bytes_max - self.total.memory_bytes;
        let mut passed = Vec::new();
        for (tenant, member) in self.tenants.in_turn() {
            // Spares a look at each job of a tenant that has its share already.
            let is_full = member.load.running >= config.tenant_jobs_max;
            if is_full || !self.is_within_share(member.load, 0, config) {
                continue;
            }
            for (client, index, job) in member.jobs.jobs_in_turn() {
                let loads = [member.load, member.jobs.members[&client].load];
                let bytes = job.memory_bytes;
                if !loads
                    .iter()
                    .all(|load| self.is_within_share(*load, bytes, config))
                {
                    continue;
                }
                if bytes <= free_bytes {
                    passed
                        .iter()
                        .for_each(|job: &&Waiting| job.passes.update(|passes| passes + 1));
                    return Some((Claimant { tenant, client }, index, bytes));
                }
                if job.passes.get() >= PASSES_MAX {
                    return None;
                }
                passed.push(job);
            }
        }
        None
    }

    /// Whether a tenant or a client may start one more job: while others wait, only up to half.
    fn is_within_share(&self, load: Load, bytes: u64, config: &Config) -> bool {
        let others_wait = self.total.waiting > load.waiting;
        !others_wait
            || load.running == 0
            || (load.running < config.jobs_max.div_ceil(2)
                && load.memory_bytes.saturating_add(bytes) <= config.memory_bytes_max / 2)
    }

    /// Counts a running job as ended.
    pub(super) fn end(&mut self, claimant: Claimant, memory_bytes: u64) {
        let end = |load: &mut Load| {
            load.running -= 1;
            load.memory_bytes -= memory_bytes;
        };
        self.update(claimant, end, |_| ());
    }

    /// Removes a waiting job, if it still waits.
    pub(super) fn leave(&mut self, claimant: Claimant, id: u64) -> Option<Waiting> {
        let tenant = self.tenants.members.get(&claimant.tenant)?;
        let jobs = &tenant.jobs.members.get(&claimant.client)?.jobs;
        let index = jobs.iter().position(|job| job.id == id)?;
        self.update(
            claimant,
            |load| load.waiting -= 1,
            |jobs| jobs.remove(index),
        )
    }

    /// Removes one job from a queue of more than `waiting_max`: the newest of the client with the most jobs, in the
    /// tenant with the most jobs. If the newcomer's own tenant or client has as many, it is the newcomer's.
    pub(super) fn evict_beyond(
        &mut self,
        waiting_max: usize,
        newcomer: Claimant,
    ) -> Option<Waiting> {
        if self.total.waiting <= waiting_max {
            return None;
        }
        let tenant = self.tenants.largest(newcomer.tenant)?;
        let client = self.tenants.members[&tenant]
            .jobs
            .largest(newcomer.client)?;
        let claimant = Claimant { tenant, client };
        self.update(claimant, |load| load.waiting -= 1, VecDeque::pop_back)
    }

    fn serve(&mut self) -> Served {
        self.started += 1;
        Served {
            started: self.started,
            is_served: true,
            first_id: 0,
        }
    }

    /// Changes the load of everything that a claimant is part of, and its waiting jobs.
    fn update<T>(
        &mut self,
        claimant: Claimant,
        change: impl Fn(&mut Load),
        change_jobs: impl FnOnce(&mut VecDeque<Waiting>) -> T,
    ) -> T {
        let newcomer = Served {
            started: self.started,
            is_served: false,
            first_id: self.next_id,
        };
        change(&mut self.total);
        self.tenants.update(claimant.tenant, newcomer, |tenant| {
            change(&mut tenant.load);
            tenant.jobs.update(claimant.client, newcomer, |client| {
                change(&mut client.load);
                change_jobs(&mut client.jobs)
            })
        })
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.tenants.members.is_empty() && self.tenants.order.is_empty()
    }
}

impl Load {
    fn start(&mut self, memory_bytes: u64, served: Served) {
        self.running += 1;
        self.memory_bytes += memory_bytes;
        self.served = served;
    }
}

impl<K, J> Default for Group<K, J> {
    fn default() -> Self {
        Self {
            members: HashMap::new(),
            order: BTreeSet::new(),
        }
    }
}

impl<K: Copy + Ord + Hash, J: Default> Group<K, J> {
    /// Changes a member and moves it to its place in the order. Adds a missing one, and removes one without jobs.
    fn update<T>(
        &mut self,
        key: K,
        newcomer: Served,
        change: impl FnOnce(&mut Member<J>) -> T,
    ) -> T {
        let member = self.members.entry(key).or_insert_with(|| Member {
            load: Load {
                served: newcomer,
                ..Load::default()
            },
            jobs: J::default(),
        });
        let turn = |load: Load| (load.running, load.served, key);
        self.order.remove(&turn(member.load));
        let changed = change(member);
        let load = member.load;
        if load.waiting > 0 {
            self.order.insert(turn(load));
        } else if load.running == 0 {
            self.members.remove(&key);
        }
        changed
    }

    fn in_turn(&self) -> impl Iterator<Item = (K, &Member<J>)> {
        let keys = self.order.iter().map(|(.., key)| *key);
        keys.map(|key| (key, &self.members[&key]))
    }

    /// The member with the most waiting jobs; of several, `preferred`, then the first.
    fn largest(&self, preferred: K) -> Option<K> {
        let keys = self.order.iter().map(|(.., key)| *key);
        keys.max_by_key(|key| {
            let waiting = self.members[key].load.waiting;
            (waiting, *key == preferred, Reverse(*key))
        })
    }
}

impl<K: Copy + Ord + Hash> Group<K, VecDeque<Waiting>> {
    /// Each waiting job, with its member and its index there.
    fn jobs_in_turn(&self) -> impl Iterator<Item = (K, usize, &Waiting)> {
        self.in_turn().flat_map(|(key, member)| {
            let jobs = member.jobs.iter().enumerate();
            jobs.map(move |(index, job)| (key, index, job))
        })
    }
}
