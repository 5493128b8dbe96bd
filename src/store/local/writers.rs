//! Runs the writes of uploads on as few blocking threads of the runtime as keep the queue of jobs moving. Each thread
//! takes jobs until none is left.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

/// Threads at the same time. Most of them wait for the disk; then the next one is started. The process has more threads
/// for the disk, so that uploads never block downloads.
const THREADS_MAX: usize = 96;

type Job = Box<dyn FnOnce() + Send>;

/// Cheap to clone; the clones are one queue. It contains at most one job per upload.
#[derive(Clone, Default)]
pub(super) struct Writers(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Whether a thread was started and has not taken its first job. No other is started until it has.
    is_starting: bool,
}

impl Writers {
    /// Runs `work` on a writing thread, to its end even if the receiver is dropped. The receiver fails if `work` panics
    /// or the process ends first.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.0.lock();
        queue.jobs.push_back(Box::new(move || {
            // If the receiver is gone, the result is dropped here.
            let _ = sender.send(work());
        }));
        self.ask_for_thread(queue);
        receiver
    }

    fn ask_for_thread(&self, mut queue: MutexGuard<'_, Queue>) {
        if queue.is_starting || queue.threads == THREADS_MAX {
            return;
        }
        queue.is_starting = true;
        queue.threads += 1;
        drop(queue);
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.work());
    }

    /// Runs jobs until none is left.
    fn work(&self) {
        self.0.lock().is_starting = false;
        loop {
            let mut queue = self.0.lock();
            let Some(job) = queue.jobs.pop_front() else {
                queue.threads -= 1;
                return;
            };
            if queue.jobs.is_empty() {
                drop(queue);
            } else {
                // The job may have to wait for the disk.
                self.ask_for_thread(queue);
            }
            // The panic hook reports a panic, and the dropped sender tells the receiver.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
    }

    #[test]
    fn runs_interdependent_jobs() {
        let writers = Writers::default();
        runtime().block_on(async {
            // With fewer threads than jobs, this would never end.
            let together = Arc::new(Barrier::new(THREADS_MAX));
            let jobs: Vec<_> = (0..THREADS_MAX)
                .map(|_| {
                    let together = together.clone();
                    writers.run(move || together.wait().is_leader())
                })
                .collect();
            let mut leaders = 0;
            for job in jobs {
                leaders += usize::from(job.await.unwrap());
            }
            assert_eq!(leaders, 1);
        });
        // The runtime has waited for its threads.
        let queue = writers.0.lock();
        assert_eq!((queue.jobs.len(), queue.threads), (0, 0));
        assert!(!queue.is_starting);
    }

    #[test]
    fn bounds_threads_and_loses_no_job() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let writers = Writers::default();
        let sum = runtime().block_on(async {
            let jobs: Vec<_> = (0..20 * THREADS_MAX)
                .map(|number| {
                    let (running, most) = (running.clone(), most.clone());
                    writers.run(move || {
                        let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        std::thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                        number
                    })
                })
                .collect();
            let mut sum = 0;
            for job in jobs {
                sum += job.await.unwrap();
            }
            sum
        });
        let jobs = 20 * THREADS_MAX;
        assert_eq!(sum, jobs * (jobs - 1) / 2);
        assert!(most.load(Ordering::SeqCst) <= THREADS_MAX);
    }

    #[test]
    fn survives_panic_of_a_job() {
        let writers = Writers::default();
        runtime().block_on(async {
            let broken = writers.run(|| -> u32 { panic!("as this test wants it") });
            assert!(broken.await.is_err());
            assert_eq!(writers.run(|| 7).await.unwrap(), 7);
        });
        assert_eq!(writers.0.lock().threads, 0);
    }
}
