//! Disk reads for response bodies, on blocking threads: a bounded number at once, fair by tenant and then by client.

use std::{
    io,
    sync::LazyLock,
    task::{Context, Poll, ready},
};

use tokio::task::JoinSet;

use crate::fair_queue::{Claimant, Config, FairQueue};

/// Limits the chunks that are read from the disk at once. Each read occupies a thread, and on a fast disk a core: with
/// no limit, 64 downloads of cold files delayed those of hot files by 20 to 50 ms on one core.
static READS: LazyLock<FairQueue> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    FairQueue::new(Config {
        jobs_max: (2 * cores).max(4),
        ..Config::default()
    })
});

/// A job that waits for its turn and then runs on a blocking thread.
///
/// It makes progress in a task of its own. If the body itself waited for the turn, it could get the permit while its
/// client reads nothing and hyper does not poll the body, and would keep the permit from others for that time.
///
/// Dropping it gives up the turn. A job that has begun runs to its end and then releases its permit.
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

    /// The result of the job. Ready once.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let ended = ready!(self.0.poll_join_next(cx));
        let ended =
            ended.unwrap_or_else(|| Ok(Err(io::Error::other("the read was polled after its end"))));
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
    async fn unpolled_read_keeps_no_permit() {
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
        // It has run in the meantime.
        assert_eq!(poll_fn(|cx| forgotten.poll(cx)).await.unwrap(), 2);
        poll_fn(|cx| first.poll(cx)).await.unwrap();
        assert_eq!(reads.levels().running, 0);
    }

    #[tokio::test]
    async fn dropped_read_releases_turn_or_permit() {
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
