//! A bounded number of places, given out in turns: to one tenant after the other, and within a tenant to one client
//! after the other.
//!
//! `fair_queue.rs` is for dear jobs: it refuses what has waited too long, and looks at every waiting job to choose the
//! next one. Here each job takes milliseconds and thousands may wait, so a choice costs the same however many wait, and
//! nobody is refused: an answer that has begun cannot say that it has to be asked for again.
//!
//! Bound: one entry for each answer that waits, removed when the answer goes.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::fair_queue::Claimant;

/// The places. The clones are the same ones.
#[derive(Clone)]
pub(super) struct Turns(Arc<Mutex<State>>);

/// Permission to use the disk. Dropping it gives the place to whoever is next.
#[must_use]
pub(super) struct Place(Turns);

struct State {
    /// Places that nobody has; then nobody waits.
    free: usize,
    /// Tenants that wait, in the order of their turns.
    order: VecDeque<u32>,
    tenants: HashMap<u32, Clients>,
}

/// The clients of one tenant that wait.
#[derive(Default)]
struct Clients {
    order: VecDeque<Claimant>,
    jobs: HashMap<Claimant, VecDeque<oneshot::Sender<Place>>>,
}

/// One job that waits. Dropping it gives up its turn.
struct Waiting<'t> {
    turns: &'t Turns,
    claimant: Claimant,
    granted: Option<oneshot::Receiver<Place>>,
}

impl Turns {
    pub(super) fn new(places: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: places,
            order: VecDeque::new(),
            tenants: HashMap::new(),
        })))
    }

    /// Waits for the claimant's turn.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the turn.
    pub(super) async fn acquire(&self, claimant: Claimant) -> Place {
        let granted = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return Place(self.clone());
            }
            state.enqueue(claimant)
        };
        let mut waiting = Waiting {
            turns: self,
            claimant,
            granted: Some(granted),
        };
        let granted = waiting.granted.as_mut().expect("taken below only").await;
        waiting.granted = None;
        granted.expect("a sender is dropped after its receiver only")
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.lock().free
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let Some(next) = state.next() else {
            state.free += 1;
            return;
        };
        // Waking it, and dropping what it does not take any more, happens without the lock.
        drop(state);
        drop(next.send(Place(self.0.clone())));
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Closed first. It may hold a place that was just given to it, whose drop takes the lock.
        if self.granted.take().is_some() {
            self.turns.lock().forget_closed(self.claimant);
        }
    }
}

impl State {
    fn enqueue(&mut self, claimant: Claimant) -> oneshot::Receiver<Place> {
        let (grant, granted) = oneshot::channel();
        let clients = self.tenants.entry(claimant.tenant).or_insert_with(|| {
            self.order.push_back(claimant.tenant);
            Clients::default()
        });
        let jobs = clients.jobs.entry(claimant).or_insert_with(|| {
            clients.order.push_back(claimant);
            VecDeque::new()
        });
        jobs.push_back(grant);
        granted
    }

    /// Takes out the job whose turn it is.
    fn next(&mut self) -> Option<oneshot::Sender<Place>> {
        while let Some(tenant) = self.order.pop_front() {
            let Some(clients) = self.tenants.get_mut(&tenant) else {
                continue;
            };
            let next = clients.next();
            match clients.jobs.is_empty() {
                true => drop(self.tenants.remove(&tenant)),
                false => self.order.push_back(tenant),
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }

    /// Removes the jobs of a claimant that nobody waits for. Entries of `order` go when their turn comes.
    fn forget_closed(&mut self, claimant: Claimant) {
        let clients = self.tenants.get_mut(&claimant.tenant);
        if let Some(jobs) = clients.and_then(|clients| clients.jobs.get_mut(&claimant)) {
            jobs.retain(|job| !job.is_closed());
        }
    }
}

impl Clients {
    fn next(&mut self) -> Option<oneshot::Sender<Place>> {
        while let Some(claimant) = self.order.pop_front() {
            let Some(jobs) = self.jobs.get_mut(&claimant) else {
                continue;
            };
            let next = jobs.pop_front();
            match jobs.is_empty() {
                true => drop(self.jobs.remove(&claimant)),
                false => self.order.push_back(claimant),
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        net::Ipv4Addr,
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    fn claimant(tenant: u32, client: u32) -> Claimant {
        Claimant::new(tenant, Ipv4Addr::from_bits(client).into())
    }

    type Acquire<'t> = Pin<Box<dyn Future<Output = Place> + 't>>;

    fn poll(acquire: &mut Acquire<'_>) -> Poll<Place> {
        let mut noop = Context::from_waker(Waker::noop());
        acquire.as_mut().poll(&mut noop)
    }

    /// Jobs that wait for their places, in the order in which they came.
    fn wait<'t>(turns: &'t Turns, claimants: &[Claimant]) -> Vec<(Claimant, Acquire<'t>)> {
        let mut waiting = Vec::new();
        for &claimant in claimants {
            let mut acquire: Acquire<'t> = Box::pin(turns.acquire(claimant));
            assert!(poll(&mut acquire).is_pending());
            waiting.push((claimant, acquire));
        }
        waiting
    }

    /// Gives the place back, and returns who has it then.
    fn next(place: Place, waiting: &mut Vec<(Claimant, Acquire<'_>)>) -> (Claimant, Place) {
        drop(place);
        for index in 0..waiting.len() {
            if let Poll::Ready(place) = poll(&mut waiting[index].1) {
                return (waiting.remove(index).0, place);
            }
        }
        panic!("nobody has the place");
    }

    #[tokio::test]
    async fn tenants_then_clients_take_turns() {
        let turns = Turns::new(1);
        let mut place = turns.acquire(claimant(9, 9)).await;
        // One tenant with a hundred jobs of one client and one of another, then another tenant with two.
        let mut claimants = vec![claimant(1, 1); 100];
        claimants.extend([claimant(1, 2), claimant(2, 3), claimant(2, 3)]);
        let mut waiting = wait(&turns, &claimants);
        let mut order = Vec::new();
        for _ in 0..6 {
            let (claimant, given) = next(place, &mut waiting);
            place = given;
            order.push(claimant);
        }
        let expected = [(1, 1), (2, 3), (1, 2), (2, 3), (1, 1), (1, 1)];
        assert_eq!(
            order,
            expected.map(|(tenant, client)| claimant(tenant, client))
        );
        drop(waiting);
        drop(place);
        let state = turns.lock();
        assert_eq!(
            (state.free, state.order.len(), state.tenants.len()),
            (1, 0, 0)
        );
    }

    #[tokio::test]
    async fn jobs_that_have_gone_are_forgotten() {
        let turns = Turns::new(2);
        let places = (
            turns.acquire(claimant(1, 1)).await,
            turns.acquire(claimant(1, 1)).await,
        );
        for _ in 0..1000 {
            let mut waiting = wait(&turns, &[claimant(1, 1), claimant(1, 2)]);
            waiting.pop();
        }
        assert!(
            turns.lock().tenants[&1]
                .jobs
                .values()
                .all(VecDeque::is_empty)
        );
        // One that goes when it has been given a place and has not seen it.
        let waiting = wait(&turns, &[claimant(2, 3)]);
        drop(places.0);
        drop(waiting);
        assert_eq!(turns.lock().free, 1);
        drop(places.1);
        assert_eq!(turns.lock().free, 2);
    }
}
