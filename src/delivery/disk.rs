//! Reads for answers that have to wait for the disk: a bounded number at once, in turns of the tenants and their
//! clients.

use std::{
    io,
    sync::LazyLock,
    task::{Context, Poll, ready},
};

use tokio::task::JoinSet;

use crate::fair_queue::{Claimant, Config, FairQueue};

/// Chunks brought in from the disk at once. Each keeps a thread busy, and with a fast disk its core: without a
/// bound, 64 cold downloads on one core held up the hot ones by 20 to 50 ms.
static READS: LazyLock<FairQueue> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    FairQueue::new(Config {
        jobs_max: (2 * cores).max(4),
        ..Config::default()
    })
});

/// Work that waits for its place and is then done on a blocking thread.
///
/// It goes on by itself, in a task that it owns. A wait of the body's own would be given its place while nobody polls
/// the body (its client takes nothing just then), and keep it from all others for as long as that client likes.
///
/// Dropped, it gives up its turn; work that has begun comes to its end, and gives its place back then.
pub(super) struct OnDisk<T>(JoinSet<io::Result<T>>);

impl<T: Send + 'static> OnDisk<T> {
    /// Begins to wait for the claimant's turn.
    pub(super) fn begin(
        claimant: Claimant,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Self {
        Self::at(READS.clone(), claimant, work)
    }

    fn at(
        reads: FairQueue,
        claimant: Claimant,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Self {
        let mut task = JoinSet::new();
        task.spawn(async move {
            let permit = reads.acquire(claimant, 0).await.map_err(io::Error::other)?;
            let permitted = move || {
                let _permit = permit;
                work()
            };
            let done = tokio::task::spawn_blocking(permitted).await;
            done.map_err(io::Error::other).flatten()
        });
        Self(task)
    }

    /// What came of it, once.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let ended = ready!(self.0.poll_join_next(cx));
        let ended = ended.unwrap_or_else(|| Ok(Err(io::Error::other("it has ended already"))));
        Poll::Ready(ended.map_err(io::Error::other).flatten())
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, net::Ipv4Addr, sync::mpsc, task::Waker};

    use super::*;

    fn anybody() -> Claimant {
        Claimant::new(0, Ipv4Addr::LOCALHOST.into())
    }

    #[tokio::test]
    async fn a_wait_that_nobody_polls_any_longer_keeps_no_place_from_others() {
        let reads = FairQueue::new(Config::default());
        let (go, hold) = mpsc::channel::<()>();
        let mut first = OnDisk::at(reads.clone(), anybody(), move || {
            hold.recv().map_err(io::Error::other)
        });
        let mut forgotten = OnDisk::at(reads.clone(), anybody(), || Ok(2));
        let mut noop = Context::from_waker(Waker::noop());
        assert!(first.poll(&mut noop).is_pending() && forgotten.poll(&mut noop).is_pending());
        let mut third = OnDisk::at(reads.clone(), anybody(), || Ok(3));
        go.send(()).unwrap();
        assert_eq!(poll_fn(|cx| third.poll(cx)).await.unwrap(), 3);
        // It was done meanwhile.
        assert_eq!(poll_fn(|cx| forgotten.poll(cx)).await.unwrap(), 2);
        poll_fn(|cx| first.poll(cx)).await.unwrap();
        assert_eq!(reads.levels().running, 0);
    }

    #[tokio::test]
    async fn what_is_dropped_gives_up_its_turn_and_what_has_begun_its_place_at_its_end() {
        let reads = FairQueue::new(Config::default());
        let (begun, is_begun) = tokio::sync::oneshot::channel();
        let (go, hold) = mpsc::channel::<()>();
        let first = OnDisk::at(reads.clone(), anybody(), move || {
            begun.send(()).unwrap();
            hold.recv().map_err(io::Error::other)
        });
        is_begun.await.unwrap();
        let waiting = OnDisk::at(reads.clone(), anybody(), || -> io::Result<()> {
            unreachable!("dropped before its turn")
        });
        drop((first, waiting));
        assert_eq!(reads.levels().running, 1);
        go.send(()).unwrap();
        drop(reads.acquire(anybody(), 0).await.unwrap());
    }
}
