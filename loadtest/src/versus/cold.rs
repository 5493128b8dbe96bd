//! Measures hot 4 KB downloads while cold 10 MB files are read: do disk reads delay requests that need no disk?
//!
//! Hot requests are sent at a fixed rate, independent of the server, and their latency counts from the intended moment.
//! One thread drives the hot and the cold connections, because two threads would compete for the client's core.

use std::{
    collections::VecDeque,
    fs::File,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;

use super::{
    Bench,
    aims::Figure,
    each_file, noise,
    ours::{Ours, Store},
    report::Report,
    rounds::{Spread, settings},
};
use crate::{
    Error,
    client::{Engine, Next, Outcome, Workload},
};

const HOT_PER_SECOND: u32 = 2000;
/// More than the hot requests that arrive during a stall of 100 ms, so that an arrival never waits for a free
/// connection. A late request is then late because of the client.
const HOT_CONNECTIONS: usize = 256;
const HOT_BYTES: usize = 4096;
const COLD_FILES: usize = 64;
const COLD_BYTES: usize = 10 << 20;
/// Minimum duration of the hot requests, both before and during the cold reads.
const AT_LEAST: Duration = Duration::from_secs(3);
const STALL: Duration = Duration::from_millis(20);

pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<(), Error> {
    let store = Store::new(bench, "none")?;
    let (hot, cold) = {
        let ours = store.serve(bench, false)?;
        let noise = |bytes| {
            move |number: usize| {
                let bytes = Bytes::from(noise(number as u64, bytes));
                ("application/octet-stream", bytes)
            }
        };
        let hot = ours.fill(bench, 16, 4, noise(HOT_BYTES))?;
        (hot, ours.fill(bench, COLD_FILES, 4, noise(COLD_BYTES))?)
    };
    let mut rounds = Vec::new();
    for _ in 0..bench.rounds {
        // A new server: its caches know none of the cold files.
        let ours = store.serve(bench, true)?;
        let mut engine = Engine::new(settings(bench, ours.address, HOT_CONNECTIONS + COLD_FILES))?;
        let warm = Load::new(&ours, &hot, &[], bench.warm_up);
        warm.run(&mut engine)?;
        let before = Load::new(&ours, &hot, &[], AT_LEAST).run(&mut engine)?;
        drop_from_memory(&store.data())?;
        // Warm up the hot files before the cold ones are requested.
        Load::new(&ours, &hot, &[], bench.warm_up).run(&mut engine)?;
        let read_before = ours.process.disk_read_bytes()?;
        let during = Load::new(&ours, &hot, &cold, AT_LEAST).run(&mut engine)?;
        let read = ours.process.disk_read_bytes()? - read_before;
        let all = (COLD_FILES * COLD_BYTES) as u64;
        if read < all / 10 * 9 {
            report.note(format!(
                "cold: only {} MB of {} were read from the disk",
                read >> 20,
                all >> 20
            ));
        }
        rounds.push((before, during));
    }
    let what = format!("{HOT_PER_SECOND}/s");
    let seconds = Spread::of(rounds.iter().map(|(_, during)| during.cold_seconds));
    let late = rounds.iter().map(|(_, during)| during.late).max();
    let note = format!(
        "{COLD_FILES} cold files of 10 MB, read in {:.1} s; the client was at most {:.1} ms late",
        seconds.median,
        late.unwrap_or_default().as_secs_f64() * 1e3,
    );
    type Of = fn(&Seen) -> f64;
    let p99: Of = |seen| seen.latency_us.value_at_quantile(0.99) as f64;
    let max: Of = |seen| seen.latency_us.max() as f64;
    let stalls: Of = |seen| seen.stalls as f64;
    for (figure_before, figure, of) in [
        (Figure::ColdP99BeforeUs, Figure::ColdP99Us, p99),
        (Figure::ColdMaxBeforeUs, Figure::ColdMaxUs, max),
        (Figure::ColdStallsBefore, Figure::ColdStalls, stalls),
    ] {
        let before = Spread::of(rounds.iter().map(|(before, _)| of(before)));
        let during = Spread::of(rounds.iter().map(|(_, during)| of(during)));
        report.row(figure_before, 0, &what, before, "no cold files");
        // A single stall in any round misses an aim of no stalls.
        let during = if figure == Figure::ColdStalls {
            Spread::once(rounds.iter().map(|(_, during)| of(during)).sum())
        } else {
            during
        };
        report.row(figure, 0, &what, during, &note);
    }
    Ok(())
}

/// Writes all files below `directory` to the disk and drops them from the page cache.
fn drop_from_memory(directory: &Path) -> Result<(), Error> {
    rustix::fs::syncfs(File::open(directory)?)?;
    each_file(directory, &mut |path, _| {
        rustix::fs::fadvise(File::open(path)?, 0, None, rustix::fs::Advice::DontNeed)?;
        Ok(())
    })?;
    Ok(())
}

/// The result of one run.
struct Seen {
    latency_us: Histogram<u64>,
    stalls: u64,
    cold_seconds: f64,
    /// Longest delay of the client when sending a hot request.
    late: Duration,
}

/// Sends hot requests at a fixed rate on the first connections, and each cold request once on the others.
struct Load<'a> {
    ours: &'a Ours,
    hot: &'a [Arc<str>],
    cold: VecDeque<&'a Arc<str>>,
    cold_left: usize,
    start: Instant,
    at_least: Duration,
    /// Number of hot requests sent.
    begun: u32,
    seen: Seen,
    failure: Option<String>,
}

impl<'a> Load<'a> {
    fn new(ours: &'a Ours, hot: &'a [Arc<str>], cold: &'a [Arc<str>], at_least: Duration) -> Self {
        Self {
            ours,
            hot,
            cold: cold.iter().collect(),
            cold_left: cold.len(),
            start: Instant::now(),
            at_least,
            begun: 0,
            seen: Seen {
                latency_us: Histogram::new_with_bounds(1, 600_000_000, 3)
                    .expect("constant bounds are valid"),
                stalls: 0,
                cold_seconds: 0.0,
                late: Duration::ZERO,
            },
            failure: None,
        }
    }

    fn run(mut self, engine: &mut Engine) -> Result<Seen, Error> {
        self.start = Instant::now();
        engine.run(&mut self)?;
        match self.failure {
            Some(failure) => Err(failure.into()),
            None => Ok(self.seen),
        }
    }

    /// Time of the next hot request; `None` when all were sent.
    fn next_hot(&self) -> Option<Instant> {
        let offset = Duration::from_secs(1) * self.begun / HOT_PER_SECOND;
        let is_over = self.cold_left == 0 && offset >= self.at_least;
        (!is_over && self.failure.is_none()).then(|| self.start + offset)
    }

    fn is_hot(connection: usize) -> bool {
        connection < HOT_CONNECTIONS
    }
}

impl Workload for Load<'_> {
    fn next(&mut self, connection: usize, now: Instant) -> Next {
        if !Self::is_hot(connection) {
            let Some(id) = self.cold.pop_front() else {
                return Next::Stop;
            };
            let mut request = self.ours.download(id, COLD_BYTES as u64);
            request.intended = now;
            return Next::Send(request);
        }
        let Some(moment) = self.next_hot() else {
            return Next::Stop;
        };
        if moment > now {
            return Next::Idle;
        }
        let id = &self.hot[self.begun as usize % self.hot.len()];
        self.begun += 1;
        let mut request = self.ours.download(id, HOT_BYTES as u64);
        request.intended = moment;
        Next::Send(request)
    }

    fn due(&mut self) -> Option<Instant> {
        Some(self.next_hot().unwrap_or_else(Instant::now))
    }

    fn done(&mut self, connection: usize, outcome: &Outcome<'_>) {
        if let Err(failure) = outcome.result {
            let said = String::from_utf8_lossy(outcome.body);
            self.failure
                .get_or_insert_with(|| format!("{failure}, status {}: {said}", outcome.status));
        }
        if Self::is_hot(connection) {
            let latency = outcome.latency();
            let late = outcome
                .started
                .saturating_duration_since(outcome.request.intended);
            self.seen.late = self.seen.late.max(late);
            self.seen.stalls += u64::from(latency > STALL);
            let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            self.seen.latency_us.saturating_record(latency_us);
        } else {
            self.cold_left -= 1;
            let seconds = outcome.finished.duration_since(self.start).as_secs_f64();
            self.seen.cold_seconds = self.seen.cold_seconds.max(seconds);
        }
    }
}
