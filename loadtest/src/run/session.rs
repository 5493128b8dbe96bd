//! The threads of a run: their engines, the fill and the load.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use super::{
    arrivals::{Arrivals, Spread},
    ask::Asker,
    content::mix,
    files::File,
    fill::Fill,
    live::{Live, Moment},
    progress::Progress,
    scenario::{Action, Scenario},
    stats::{Stats, Window},
    target::Target,
    workload::{self, Plan},
};
use crate::{
    Error,
    client::{Engine, Settings},
};

/// Interval of the check of the threads.
const LOOK: Duration = Duration::from_millis(50);
/// Interval of the progress display.
const TELL: Duration = Duration::from_secs(1);
/// Delay of the start, so that all threads are ready.
const HEAD_START: Duration = Duration::from_millis(20);

/// Engines, whose connections stay open between phases.
pub(crate) struct Session {
    threads: Vec<Thread>,
    has_bursts: bool,
}

struct Thread {
    engine: Engine,
    connections: usize,
}

/// Settings of the load.
pub(crate) struct Load {
    /// `None` means a closed loop.
    pub(crate) rate: Option<f64>,
    pub(crate) spread: Spread,
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    pub(crate) patience: Duration,
    pub(crate) seed: u64,
}

/// Result of the fill.
pub(crate) struct Filled {
    /// Most popular first.
    pub(crate) files: Vec<File>,
    pub(crate) took: Duration,
}

/// Result of the load.
pub(crate) struct Seen {
    pub(crate) stats: Stats,
    /// Duration of the measurement after the warm-up.
    pub(crate) measured: Duration,
    /// Length of one interval of the time line.
    pub(crate) interval: Duration,
}

impl Session {
    /// Distributes connections over threads. Each thread has one more for bursts, if they can have their own address.
    pub(crate) fn new(
        target: &Target,
        connections: usize,
        threads: usize,
        sources: usize,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let sources = target.sources(sources)?;
        let has_bursts = target.burst_source(0).is_some();
        let source = |number: usize| match sources.len() {
            0 => Ipv4Addr::LOCALHOST.into(),
            count => sources[number % count],
        };
        let thread = |thread: usize| {
            let own = (thread..connections).step_by(threads);
            let mut addresses: Vec<IpAddr> = own.clone().map(source).collect();
            let mut connections = own.len();
            match target.burst_source(thread) {
                Some(source) => {
                    addresses.push(source);
                    connections += 1;
                }
                // The server is reachable only from the address that the kernel chooses.
                None => addresses.clear(),
            }
            let settings = Settings {
                target: target.address,
                sources: addresses,
                connections,
                timeout,
            };
            Ok(Thread {
                engine: Engine::new(settings)?,
                connections,
            })
        };
        let threads: Result<_, Error> = (0..threads).map(thread).collect();
        Ok(Self {
            threads: threads?,
            has_bursts,
        })
    }

    /// Whether bursts can have their own addresses.
    pub(crate) fn has_bursts(&self) -> bool {
        self.has_bursts
    }

    /// Uploads the files of the scenario.
    pub(crate) fn fill(
        &mut self,
        asker: &Asker,
        scenario: &Scenario,
        seed: u64,
        stop: &AtomicBool,
    ) -> Result<Filled, Error> {
        let started = Instant::now();
        let drafts = asker.maker.fill(scenario, seed);
        let asks_heads = scenario
            .kinds
            .iter()
            .any(|kind| kind.action == Action::Conditional && kind.weight > 0.0);
        let uploaded = AtomicU64::new(0);
        let progress = Progress::fill(drafts.len());
        let count = self.threads.len();
        let parts = thread::scope(|scope| {
            let mut handles = Vec::with_capacity(count);
            for (number, thread) in self.threads.iter_mut().enumerate() {
                let own = drafts
                    .iter()
                    .copied()
                    .enumerate()
                    .skip(number)
                    .step_by(count);
                let mut fill =
                    Fill::new(asker, own, thread.connections, stop, &uploaded, asks_heads);
                handles.push(scope.spawn(move || -> Result<Vec<(usize, File)>, Error> {
                    thread.engine.run(&mut fill)?;
                    Ok(fill.into_files()?)
                }));
            }
            look_after(&handles, || {
                progress.filled(uploaded.load(Ordering::Relaxed))
            });
            join(handles)
        })?;
        let mut files: Vec<_> = parts.into_iter().flatten().collect();
        files.sort_unstable_by_key(|(place, _)| *place);
        let files = files.into_iter().map(|(_, file)| file).collect();
        Ok(Filled {
            files,
            took: started.elapsed(),
        })
    }

    /// Warms up and measures.
    pub(crate) fn load(
        &mut self,
        asker: &Asker,
        scenario: &Scenario,
        files: &[File],
        load: &Load,
        stop: &AtomicBool,
    ) -> Result<Seen, Error> {
        let start = Instant::now() + HEAD_START;
        let from = start + load.warmup;
        let window = Window {
            from,
            to: from + load.duration,
        };
        let plan = Plan {
            asker,
            kinds: &scenario.kinds,
            files,
            zipf_exponent: scenario.zipf_exponent,
            start,
            window,
            patience: load.patience,
            stop,
        };
        let count = self.threads.len();
        let lives: Vec<Live> = self.threads.iter().map(|_| Live::new()).collect();
        let progress = Progress::load(load.warmup + load.duration);
        let has_bursts = self.has_bursts;
        let seen = thread::scope(|scope| {
            let mut handles = Vec::with_capacity(count);
            for (number, (thread, live)) in self.threads.iter_mut().zip(&lives).enumerate() {
                let seed = mix(load.seed ^ mix(number as u64 + 1));
                let arrivals = load.rate.map(|rate| {
                    let phase = number as f64 / count as f64;
                    Arrivals::new(load.spread, rate / count as f64, phase, mix(seed))
                });
                let connections = thread.connections;
                let workload =
                    workload::Load::new(&plan, live, arrivals, connections, has_bursts, seed)?;
                handles.push(scope.spawn(move || {
                    let seen = run_thread(&mut thread.engine, workload);
                    // If one thread fails, the others stop as well.
                    if seen.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    seen
                }));
            }
            let mut told = Instant::now();
            look_after(&handles, || {
                let now = Instant::now();
                if now.duration_since(told) >= TELL {
                    let mut moment = Moment::new();
                    lives.iter().for_each(|live| moment.merge(&live.take()));
                    progress.loaded(
                        now.saturating_duration_since(start),
                        &moment,
                        now.duration_since(told),
                    );
                    told = now;
                }
            });
            join(handles)
        })?;
        let mut stats = Stats::new(scenario.kinds.len(), window);
        let mut end = window.to;
        for (seen, thread_end) in &seen {
            stats.merge(seen);
            end = end.min(*thread_end);
        }
        let measured = end.saturating_duration_since(window.from);
        Ok(Seen {
            stats,
            measured,
            interval: window.interval(),
        })
    }
}

/// Runs an engine. Returns the statistics and when the last request was made.
fn run_thread(
    engine: &mut Engine,
    mut workload: workload::Load<'_>,
) -> Result<(Stats, Instant), Error> {
    let processor = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let (started, before) = (Instant::now(), processor());
    engine.run(&mut workload)?;
    let busy = (processor() - before) / started.elapsed().as_secs_f64();
    let (mut stats, end) = workload.into_stats();
    stats.busy = busy;
    Ok((stats, end))
}

fn look_after<T>(handles: &[ScopedJoinHandle<'_, T>], mut look: impl FnMut()) {
    while !handles.iter().all(|handle| handle.is_finished()) {
        thread::sleep(LOOK);
        look();
    }
}

/// The results of all threads, or the first error.
fn join<T>(handles: Vec<ScopedJoinHandle<'_, Result<T, Error>>>) -> Result<Vec<T>, Error> {
    let joined = handles.into_iter().map(|handle| {
        handle
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    joined.collect()
}
