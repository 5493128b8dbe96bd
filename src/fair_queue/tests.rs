//! Turns, shares, memory, and the bounds of the queue.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    task::{Context, Poll, Waker},
};

use super::{state::PASSES_MAX, *};

type Acquire = Pin<Box<dyn Future<Output = Result<Permit, Refused>> + Send>>;

const LONG: Duration = Duration::from_secs(3600);

fn queue(jobs_max: usize, memory_bytes_max: u64, waiting_max: usize) -> FairQueue {
    FairQueue::new(Config {
        jobs_max,
        memory_bytes_max,
        waiting_max,
        wait_max: LONG,
        ..Config::default()
    })
}

fn claimant(tenant: u32, client: u8) -> Claimant {
    Claimant::new(tenant, [192, 0, 2, client].into())
}

/// Enters the queue: a future that was polled once and waits.
fn begin(queue: &FairQueue, claimant: Claimant, memory_bytes: u64) -> Acquire {
    let queue = queue.clone();
    let mut acquire: Acquire = Box::pin(async move { queue.acquire(claimant, memory_bytes).await });
    assert!(poll(&mut acquire).is_none(), "the job has to wait");
    acquire
}

fn poll(acquire: &mut Acquire) -> Option<Result<Permit, Refused>> {
    match acquire
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

/// Starts a job at once.
async fn take(queue: &FairQueue, claimant: Claimant, memory_bytes: u64) -> Permit {
    queue.acquire(claimant, memory_bytes).await.unwrap()
}

/// Removes the first job from `waiting` that has started, and returns its permit.
fn admitted<K: Copy>(waiting: &mut Vec<(K, Acquire)>) -> Option<(K, Permit)> {
    let index = waiting
        .iter_mut()
        .enumerate()
        .find_map(|(index, (_, acquire))| poll(acquire).map(|outcome| (index, outcome.unwrap())));
    let (index, permit) = index?;
    Some((waiting.remove(index).0, permit))
}

/// Ends one running job after another. Returns the order in which the waiting jobs start.
fn order<K: Copy>(running: Permit, mut waiting: Vec<(K, Acquire)>) -> Vec<K> {
    let mut order = Vec::new();
    let mut running = Some(running);
    while let Some(permit) = running.take() {
        drop(permit);
        if let Some((name, permit)) = admitted(&mut waiting) {
            assert!(admitted(&mut waiting).is_none(), "one job at a time");
            order.push(name);
            running = Some(permit);
        }
    }
    assert!(waiting.is_empty());
    order
}

#[tokio::test]
async fn tenants_take_turns() {
    let queue = queue(1, 100, 100);
    let running = take(&queue, claimant(1, 1), 1).await;
    let waiting = [1, 1, 1, 2, 2, 3]
        .into_iter()
        .map(|tenant| (tenant, begin(&queue, claimant(tenant, 1), 1)))
        .collect();
    assert_eq!(order(running, waiting), [2, 3, 1, 2, 1, 1]);
    assert_eq!(queue.levels().running, 0);
}

#[tokio::test]
async fn clients_of_one_tenant_take_turns() {
    let queue = queue(1, 100, 100);
    let running = take(&queue, claimant(1, 1), 1).await;
    let waiting = [(1, 'a'), (1, 'b'), (1, 'c'), (2, 'd'), (2, 'e'), (3, 'f')]
        .into_iter()
        .map(|(client, name)| (name, begin(&queue, claimant(1, client), 1)))
        .collect();
    assert_eq!(order(running, waiting), ['d', 'f', 'a', 'e', 'b', 'c']);
}

#[tokio::test]
async fn many_clients_share_one_turn() {
    let queue = queue(1, 100, 100);
    let running = take(&queue, claimant(1, 1), 1).await;
    let clients = (2..6).map(|client| (1, begin(&queue, claimant(1, client), 1)));
    let mut waiting: Vec<_> = clients.collect();
    waiting.push((2, begin(&queue, claimant(2, 1), 1)));
    waiting.push((2, begin(&queue, claimant(2, 1), 1)));
    assert_eq!(order(running, waiting), [2, 1, 2, 1, 1, 1]);
}

#[tokio::test]
async fn tenants_then_clients_take_turns() {
    let queue = queue(1, 100, 200);
    let running = take(&queue, claimant(9, 9), 1).await;
    // One tenant has a hundred jobs of one client and one of another, the other tenant has two.
    let mut claimants = vec![(1, 1); 100];
    claimants.extend([(1, 2), (2, 3), (2, 3)]);
    let waiting = claimants
        .into_iter()
        .map(|(tenant, client)| ((tenant, client), begin(&queue, claimant(tenant, client), 1)))
        .collect();
    let order = order(running, waiting);
    assert_eq!(order[..6], [(1, 1), (2, 3), (1, 2), (2, 3), (1, 1), (1, 1)]);
    assert!(queue.0.state.lock().is_empty());
}

#[tokio::test]
async fn limits_jobs_of_a_tenant() {
    let queue = FairQueue::new(Config {
        jobs_max: 4,
        tenant_jobs_max: 2,
        ..Config::default()
    });
    let mut running = vec![
        take(&queue, claimant(1, 1), 1).await,
        take(&queue, claimant(1, 2), 1).await,
    ];
    let mut waiting = vec![(1, begin(&queue, claimant(1, 3), 1))];
    // A job of another tenant starts at once, although one waits.
    running.push(take(&queue, claimant(2, 1), 1).await);
    assert!(admitted(&mut waiting).is_none());
    drop(running.remove(0));
    assert!(admitted(&mut waiting).is_some());
}

#[tokio::test]
async fn limits_claimant_to_half_when_contended() {
    let queue = queue(4, 100, 100);
    let mut first = Vec::new();
    for _ in 0..4 {
        first.push(take(&queue, claimant(1, 1), 1).await);
    }
    let mut waiting: Vec<_> = [1, 1, 2, 2, 2]
        .into_iter()
        .map(|tenant| (tenant, begin(&queue, claimant(tenant, 1), 1)))
        .collect();
    let mut second = Vec::new();
    for _ in 0..2 {
        drop(first.pop());
        second.push(admitted(&mut waiting).unwrap());
    }
    // Two running jobs each. The second tenant waits for a third, so the first one gets no further job before it.
    let served: Vec<_> = second.iter().map(|(tenant, _)| *tenant).collect();
    assert_eq!(served, [2, 2]);
    drop(first.pop());
    let (tenant, _third) = admitted(&mut waiting).unwrap();
    assert_eq!(tenant, 1);
    assert!(admitted(&mut waiting).is_none());
}

#[tokio::test]
async fn half_shares_leave_nothing_idle() {
    let queue = queue(3, 100, 100);
    let mut running = Vec::new();
    for tenant in [1, 2, 3] {
        running.push(take(&queue, claimant(tenant, 1), 1).await);
    }
    let mut waiting: Vec<_> = [1, 1, 2, 2]
        .into_iter()
        .map(|tenant| (tenant, begin(&queue, claimant(tenant, 1), 1)))
        .collect();
    drop(running.pop());
    let _next = admitted(&mut waiting).unwrap();
    assert_eq!(queue.levels().running, 3);
}

#[tokio::test]
async fn limits_passes_of_large_jobs() {
    let queue = queue(2, 100, 100);
    let _half = take(&queue, claimant(3, 1), 50).await;
    let mut small = Some(take(&queue, claimant(1, 1), 10).await);
    let mut waiting = vec![("large", begin(&queue, claimant(2, 1), 60))];
    for _ in 0..PASSES_MAX {
        waiting.push(("small", begin(&queue, claimant(1, 1), 10)));
        drop(small.take());
        let (name, permit) = admitted(&mut waiting).unwrap();
        assert_eq!(name, "small");
        small = Some(permit);
    }
    waiting.push(("small", begin(&queue, claimant(1, 1), 10)));
    drop(small);
    assert!(admitted(&mut waiting).is_none(), "the large one is next");
    drop(_half);
    let (name, _large) = admitted(&mut waiting).unwrap();
    assert_eq!(name, "large");
    let (name, _small) = admitted(&mut waiting).unwrap();
    assert_eq!(name, "small");
    assert_eq!(queue.levels().memory_bytes, 70);
}

#[tokio::test]
async fn leaving_starts_blocked_jobs() {
    let queue = queue(3, 100, 100);
    let _half = take(&queue, claimant(3, 1), 50).await;
    let large = begin(&queue, claimant(2, 1), 60);
    for _ in 0..PASSES_MAX {
        drop(take(&queue, claimant(1, 1), 10).await);
    }
    let mut waiting = vec![((), begin(&queue, claimant(1, 1), 10))];
    drop(large);
    assert!(admitted(&mut waiting).is_some());
}

#[tokio::test]
async fn refuses_too_large_jobs() {
    let queue = queue(1, 100, 100);
    assert_eq!(
        queue.acquire(claimant(1, 1), 101).await.unwrap_err(),
        Refused::TooLarge
    );
    drop(take(&queue, claimant(1, 1), 100).await);
}

#[tokio::test]
async fn full_queue_evicts_from_largest_share() {
    let queue = queue(1, 100, 4);
    let _running = take(&queue, claimant(9, 1), 1).await;
    let mut first: Vec<_> = (0..4).map(|_| begin(&queue, claimant(1, 1), 1)).collect();
    let refused = queue.acquire(claimant(1, 1), 1).await.unwrap_err();
    assert_eq!(refused, Refused::QueueFull);
    let mut second = vec![
        begin(&queue, claimant(2, 1), 1),
        begin(&queue, claimant(2, 1), 1),
    ];
    let refused = queue.acquire(claimant(2, 1), 1).await.unwrap_err();
    assert_eq!(
        refused,
        Refused::QueueFull,
        "both tenants have half of the queue"
    );
    // Another client of the second tenant takes the place of one of that tenant's two waiting jobs.
    let _other = begin(&queue, claimant(2, 2), 1);
    let lost = |waiting: &mut Vec<Acquire>| -> Vec<bool> {
        let is_full = |outcome: Option<_>| matches!(outcome, Some(Err(Refused::QueueFull)));
        waiting
            .iter_mut()
            .map(|acquire| is_full(poll(acquire)))
            .collect()
    };
    assert_eq!(lost(&mut first), [false, false, true, true]);
    assert_eq!(lost(&mut second), [false, true]);
    assert_eq!(queue.levels().waiting, 4);
}

#[tokio::test]
async fn wait_times_out() {
    let queue = FairQueue::new(Config {
        wait_max: Duration::from_millis(10),
        ..Config::default()
    });
    let running = take(&queue, claimant(1, 1), 1).await;
    assert_eq!(
        queue.acquire(claimant(2, 1), 1).await.unwrap_err(),
        Refused::TimedOut
    );
    assert_eq!(queue.levels().waiting, 0);
    drop(running);
    drop(take(&queue, claimant(2, 1), 1).await);
}

#[tokio::test]
async fn dropped_wait_passes_permit_on() {
    let queue = queue(1, 100, 10);
    let running = take(&queue, claimant(1, 1), 1).await;
    let (gone, mut waits) = (
        begin(&queue, claimant(2, 1), 1),
        begin(&queue, claimant(3, 1), 1),
    );
    drop(running);
    // It was granted the permit, but not polled since.
    drop(gone);
    assert!(poll(&mut waits).is_some());
    assert_eq!(
        queue.levels(),
        Levels {
            waiting: 0,
            running: 0,
            memory_bytes: 0
        }
    );
    assert!(queue.0.state.lock().is_empty());
}

#[tokio::test]
async fn forgets_jobs_that_left() {
    let queue = queue(2, 100, 10);
    let _running = (
        take(&queue, claimant(1, 1), 1).await,
        take(&queue, claimant(1, 1), 1).await,
    );
    for _ in 0..1000 {
        let waiting = (
            begin(&queue, claimant(1, 1), 1),
            begin(&queue, claimant(1, 2), 1),
        );
        drop(waiting.1);
        drop(waiting.0);
    }
    let levels = queue.levels();
    assert_eq!((levels.waiting, levels.running), (0, 2));
}

/// With a choice that looks at each waiting job, this takes minutes.
#[tokio::test]
async fn thousands_of_jobs_may_wait() {
    const JOBS: u32 = 20_000;
    let queue = FairQueue::new(Config::default());
    let running = take(&queue, claimant(0, 1), 0).await;
    let mut tasks = tokio::task::JoinSet::new();
    for job in 0..JOBS {
        let queue = queue.clone();
        let claimant = Claimant::new(job % 7, std::net::Ipv4Addr::from_bits(job).into());
        tasks.spawn(async move { drop(queue.acquire(claimant, 0).await.unwrap()) });
    }
    while queue.levels().waiting < JOBS as usize {
        tokio::task::yield_now().await;
    }
    let clock = crate::time::Clock::system();
    let started = clock.monotonic();
    drop(running);
    tasks.join_all().await;
    let passed = clock.monotonic() - started;
    assert!(passed < Duration::from_secs(20), "{passed:?}");
}

#[test]
fn identifies_ipv6_client_by_64() {
    let claimant = |text: &str| Claimant::new(1, text.parse().unwrap());
    assert_eq!(claimant("2001:db8::1"), claimant("2001:db8::2"));
    assert_ne!(claimant("2001:db8::1"), claimant("2001:db8:0:1::1"));
    assert_eq!(claimant("::ffff:192.0.2.1"), claimant("192.0.2.1"));
    assert_ne!(claimant("192.0.2.1"), claimant("192.0.2.2"));
}

/// Bounds hold and every job ends, with many threads, many sizes, and callers that give up.
#[test]
fn bounds_hold_under_concurrent_callers() {
    const PLACES: usize = 3;
    const MEMORY: u64 = 1000;
    let queue = queue(PLACES, MEMORY, 600);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    let (jobs, memory) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let outcomes = runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..600_u64 {
            let (queue, jobs, memory) = (queue.clone(), jobs.clone(), memory.clone());
            tasks.spawn(async move {
                let bytes = (n * 37) % MEMORY;
                let acquire = queue.acquire(claimant((n % 7) as u32, (n % 11) as u8), bytes);
                let patience = if n % 5 == 0 {
                    Duration::from_micros(n % 300)
                } else {
                    LONG
                };
                let Ok(Ok(permit)) = tokio::time::timeout(patience, acquire).await else {
                    return 0;
                };
                assert!(jobs.fetch_add(1, Ordering::SeqCst) < PLACES);
                assert!(memory.fetch_add(bytes, Ordering::SeqCst) + bytes <= MEMORY);
                tokio::task::yield_now().await;
                memory.fetch_sub(bytes, Ordering::SeqCst);
                jobs.fetch_sub(1, Ordering::SeqCst);
                drop(permit);
                1
            });
        }
        tasks.join_all().await
    });
    assert!(
        outcomes.into_iter().sum::<u64>() >= 480,
        "the patient ones all run"
    );
    assert_eq!(
        queue.levels(),
        Levels {
            waiting: 0,
            running: 0,
            memory_bytes: 0
        }
    );
}
