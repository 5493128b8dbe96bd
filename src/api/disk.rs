//! What a body waits for the disk for: so much at once, and nobody's turn is held up by another's client.

use std::{
    io,
    sync::{Arc, LazyLock},
    task::{Context, Poll, ready},
};

use tokio::{sync::Semaphore, task::JoinSet};

/// Chunks brought in from the disk at once. Each keeps a thread busy, and with a fast disk its core: without a
/// bound, 64 cold downloads on one core held up the hot ones by 20 to 50 ms.
static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new((2 * cores).max(4)))
});

/// Work that waits for its place and is then done on a blocking thread.
///
/// It goes on by itself, in a task that it owns. A wait of the body's own would be given its place while nobody polls
/// the body (its client takes nothing just then), and keep it from all others for as long as that client likes.
///
/// Dropped, it gives up its turn; work that has begun comes to its end, and gives its place back then.
pub(super) struct OnDisk<T>(JoinSet<io::Result<T>>);

impl<T: Send + 'static> OnDisk<T> {
    /// Begins to wait.
    pub(super) fn begin(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Self {
        Self::at(PLACES.clone(), work)
    }

    fn at(places: Arc<Semaphore>, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Self {
        let mut task = JoinSet::new();
        task.spawn(async move {
            let place = places.acquire_owned().await.map_err(io::Error::other)?;
            let placed = move || {
                let _place = place;
                work()
            };
            let done = tokio::task::spawn_blocking(placed).await;
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
    use std::{future::poll_fn, sync::mpsc, task::Waker};

    use super::*;

    #[tokio::test]
    async fn a_wait_that_nobody_polls_any_longer_keeps_no_place_from_others() {
        let places = Arc::new(Semaphore::new(1));
        let (go, hold) = mpsc::channel::<()>();
        let mut first = OnDisk::at(places.clone(), move || {
            hold.recv().map_err(io::Error::other)
        });
        let mut forgotten = OnDisk::at(places.clone(), || Ok(2));
        let mut noop = Context::from_waker(Waker::noop());
        assert!(first.poll(&mut noop).is_pending() && forgotten.poll(&mut noop).is_pending());
        let mut third = OnDisk::at(places.clone(), || Ok(3));
        go.send(()).unwrap();
        assert_eq!(poll_fn(|cx| third.poll(cx)).await.unwrap(), 3);
        // It was done meanwhile.
        assert_eq!(poll_fn(|cx| forgotten.poll(cx)).await.unwrap(), 2);
        poll_fn(|cx| first.poll(cx)).await.unwrap();
        assert_eq!(places.available_permits(), 1);
    }

    #[tokio::test]
    async fn what_is_dropped_gives_up_its_turn_and_what_has_begun_its_place_at_its_end() {
        let places = Arc::new(Semaphore::new(1));
        let (begun, is_begun) = tokio::sync::oneshot::channel();
        let (go, hold) = mpsc::channel::<()>();
        let first = OnDisk::at(places.clone(), move || {
            begun.send(()).unwrap();
            hold.recv().map_err(io::Error::other)
        });
        is_begun.await.unwrap();
        let waiting = OnDisk::at(places.clone(), || -> io::Result<()> {
            unreachable!("dropped before its turn")
        });
        drop((first, waiting));
        assert_eq!(places.available_permits(), 0);
        go.send(()).unwrap();
        let _place = places.acquire().await.unwrap();
    }
}
