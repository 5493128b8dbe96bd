//! The threads that uploads are written on: a queue of jobs, and as few threads as keep it moving.
//!
//! They are tokio's blocking threads, each asked to take jobs as long as there are any. It knows nothing of
//! files.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

/// Threads at a time: most wait for the disk, which is when the next one is asked for. Fewer than the process
/// has for the disk, so that uploads never keep a download from its own.
const THREADS_MAX: usize = 96;

type Job = Box<dyn FnOnce() + Send>;

/// Cheap to clone; the clones are one queue. It holds a job for each upload at the most.
#[derive(Clone, Default)]
pub(super) struct Writers(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    /// One of them has not taken its first job: it will take what is there, so no other is woken for that.
    is_starting: bool,
}

impl Writers {
    /// Has `work` done by a writing thread, to its end even if nobody waits for what it returns. The receiver
    /// fails if it panicked, or if the process ends before.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.lock();
        queue.jobs.push_back(Box::new(move || {
            // Nobody may wait any more; then the result is dropped here.
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

    /// One thread, until no job is left.
    fn work(&self) {
        self.lock().is_starting = false;
        loop {
            let mut queue = self.lock();
            let Some(job) = queue.jobs.pop_front() else {
                queue.threads -= 1;
                return;
            };
            if queue.jobs.is_empty() {
                drop(queue);
            } else {
                // This one may have to wait for the disk.
                self.ask_for_thread(queue);
            }
            // A panic is reported by its hook, and to the receiver by the sender that it dropped.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock()
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
    fn jobs_that_wait_for_one_another_all_run_and_the_threads_end() {
        let writers = Writers::default();
        runtime().block_on(async {
            // Would wait for ever on fewer threads than jobs.
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
        let queue = writers.lock();
        assert_eq!((queue.jobs.len(), queue.threads), (0, 0));
        assert!(!queue.is_starting);
    }

    #[test]
    fn no_more_threads_than_allowed_and_no_job_is_lost() {
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
    fn a_job_that_panics_is_told_to_who_waits_and_takes_no_thread_with_it() {
        let writers = Writers::default();
        runtime().block_on(async {
            let broken = writers.run(|| -> u32 { panic!("as this test wants it") });
            assert!(broken.await.is_err());
            assert_eq!(writers.run(|| 7).await.unwrap(), 7);
        });
        assert_eq!(writers.lock().threads, 0);
    }
}
