//! What one thread has seen, and the sum of several.
//!
//! A latency counts from the moment at which a request was meant to start. It is counted for each answer that was
//! right, and for each request that got no answer, with the time it waited for one: to leave those out would hide
//! the worst. An answer that was wrong is an error of its kind and has no latency: refusals are quick.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::client::Failure;

/// Longest time that is told from a longer one.
const LATENCY_MAX: Duration = Duration::from_secs(3600);
/// Pieces of the time line.
pub(crate) const INTERVALS: u32 = 120;
/// Bytes of a wrong answer that are kept as an example.
const EXAMPLE_BYTES_MAX: usize = 200;

/// How a request was no success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A status that the scenario does not expect.
    Status(u16),
    /// What the engine found.
    Failure(Failure),
    /// A head with another length than the file's.
    WrongLength,
    /// A thumbnail that is no image, or empty.
    WrongType,
    /// The answer to an upload does not say what it must.
    WrongAnswer,
    /// Its moment came, but no connection was free until the end.
    NotSent,
}

impl Fault {
    /// Whether nothing came back: then the time until that was clear is a latency too.
    fn is_silence(self) -> bool {
        match self {
            Self::NotSent => true,
            Self::Failure(failure) => matches!(
                failure,
                Failure::Connect | Failure::Reset | Failure::ClosedEarly | Failure::TimedOut
            ),
            Self::Status(_) | Self::WrongLength | Self::WrongType | Self::WrongAnswer => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Failure(failure) => failure.fmt(f),
            Self::WrongLength => f.write_str("wrong length"),
            Self::WrongType => f.write_str("no image"),
            Self::WrongAnswer => f.write_str("wrong answer"),
            Self::NotSent => f.write_str("not sent"),
        }
    }
}

/// One request that has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample<'a> {
    /// Index of its kind.
    pub(crate) kind: usize,
    /// When it was meant to start.
    pub(crate) intended: Instant,
    /// When it ended.
    pub(crate) finished: Instant,
    /// 0 where none came.
    pub(crate) status: u16,
    /// Whether it was right.
    pub(crate) result: Result<(), Fault>,
    /// Bytes sent, head and body.
    pub(crate) bytes_up: u64,
    /// Bytes received, head and body.
    pub(crate) bytes_down: u64,
    /// The start of a wrong answer.
    pub(crate) example: &'a [u8],
}

/// When a run counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// The end of the warm-up.
    pub(crate) from: Instant,
    /// The end of the run, as it was planned.
    pub(crate) to: Instant,
}

impl Window {
    /// One piece of the time line.
    pub(crate) fn interval(&self) -> Duration {
        let length = self.to.saturating_duration_since(self.from);
        (length / INTERVALS).max(Duration::from_millis(1))
    }

    fn index(&self, moment: Instant) -> Option<usize> {
        let since = moment.checked_duration_since(self.from)?;
        usize::try_from(since.as_nanos() / self.interval().as_nanos()).ok()
    }
}

/// Requests of one kind.
#[derive(Debug, Clone)]
pub(crate) struct KindStats {
    /// Nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// How often each status came.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// How often each fault, and one example of it.
    pub(crate) faults: BTreeMap<Fault, (u64, String)>,
    /// Requests whose moment lay in the window.
    pub(crate) requests: u64,
    /// Right answers that came in the window.
    pub(crate) finished: u64,
}

/// A piece of the time line.
#[derive(Debug, Clone)]
pub(crate) struct Interval {
    /// Microseconds, of the requests whose moment lies here.
    pub(crate) latency: Histogram<u64>,
    /// Right answers that came here.
    pub(crate) finished: u64,
    /// Faults that became known here.
    pub(crate) faults: u64,
    /// Bytes of the requests that ended here.
    pub(crate) bytes_up: u64,
    /// The same of their answers.
    pub(crate) bytes_down: u64,
}

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct Stats {
    window: Window,
    /// By the scenario's kinds.
    pub(crate) kinds: Vec<KindStats>,
    /// The time line.
    pub(crate) intervals: Vec<Interval>,
    /// Nanoseconds from a request's moment to its start, where a connection was free all the time: the generator's
    /// own delay.
    pub(crate) lag: Histogram<u64>,
    /// The same of requests that found every connection busy.
    pub(crate) wait: Histogram<u64>,
    /// Share of the time for which the thread had its processor; the greatest of all threads.
    pub(crate) busy: f64,
}

impl Stats {
    /// Nothing seen yet.
    pub(crate) fn new(kinds: usize, window: Window) -> Self {
        let kind = KindStats {
            latency: nanoseconds(),
            statuses: BTreeMap::new(),
            faults: BTreeMap::new(),
            requests: 0,
            finished: 0,
        };
        let interval = Interval {
            latency: microseconds(),
            finished: 0,
            faults: 0,
            bytes_up: 0,
            bytes_down: 0,
        };
        Self {
            window,
            kinds: vec![kind; kinds],
            intervals: vec![interval; INTERVALS as usize],
            lag: nanoseconds(),
            wait: nanoseconds(),
            busy: 0.0,
        }
    }

    /// Counts a request, as far as it lies in the window: by its moment, and by its end.
    pub(crate) fn record(&mut self, sample: &Sample<'_>) {
        let kind = &mut self.kinds[sample.kind];
        let moment = self.window.index(sample.intended);
        if let Some(index) = moment.filter(|index| *index < self.intervals.len()) {
            kind.requests += 1;
            if sample.status != 0 {
                *kind.statuses.entry(sample.status).or_default() += 1;
            }
            let latency = sample.finished.saturating_duration_since(sample.intended);
            if sample.result.err().is_none_or(Fault::is_silence) {
                kind.latency.saturating_record(in_nanoseconds(latency));
                let latency_us = in_nanoseconds(latency) / 1000;
                self.intervals[index]
                    .latency
                    .saturating_record(latency_us.max(1));
            }
            if let Err(fault) = sample.result {
                let entry = kind.faults.entry(fault);
                entry.or_insert_with(|| (0, example(sample.example))).0 += 1;
            }
        }
        let end = self.window.index(sample.finished);
        if let Some(interval) = end.and_then(|index| self.intervals.get_mut(index)) {
            interval.bytes_up += sample.bytes_up;
            interval.bytes_down += sample.bytes_down;
            match sample.result {
                Ok(()) => {
                    interval.finished += 1;
                    kind.finished += 1;
                }
                Err(_) => interval.faults += 1,
            }
        }
    }

    /// Counts how late a request started: whose fault it was, and by how much.
    pub(crate) fn record_start(&mut self, intended: Instant, started: Instant, was_free: bool) {
        if intended < self.window.from || intended >= self.window.to {
            return;
        }
        let late = in_nanoseconds(started.saturating_duration_since(intended));
        let histogram = if was_free {
            &mut self.lag
        } else {
            &mut self.wait
        };
        histogram.saturating_record(late);
    }

    /// Adds what another thread has seen.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (kind, other) in self.kinds.iter_mut().zip(&other.kinds) {
            add(&mut kind.latency, &other.latency);
            kind.requests += other.requests;
            kind.finished += other.finished;
            for (status, count) in &other.statuses {
                *kind.statuses.entry(*status).or_default() += count;
            }
            for (fault, (count, example)) in &other.faults {
                let entry = kind.faults.entry(*fault);
                entry.or_insert_with(|| (0, example.clone())).0 += count;
            }
        }
        for (interval, other) in self.intervals.iter_mut().zip(&other.intervals) {
            add(&mut interval.latency, &other.latency);
            interval.finished += other.finished;
            interval.faults += other.faults;
            interval.bytes_up += other.bytes_up;
            interval.bytes_down += other.bytes_down;
        }
        add(&mut self.lag, &other.lag);
        add(&mut self.wait, &other.wait);
        self.busy = self.busy.max(other.busy);
    }

    /// All kinds in one.
    pub(crate) fn latency(&self) -> Histogram<u64> {
        let mut sum = nanoseconds();
        self.kinds
            .iter()
            .for_each(|kind| add(&mut sum, &kind.latency));
        sum
    }

    /// Faults of all kinds.
    pub(crate) fn faults(&self) -> u64 {
        let faults = self.kinds.iter().flat_map(|kind| kind.faults.values());
        faults.map(|(count, _)| count).sum()
    }
}

fn in_nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Three digits.
fn nanoseconds() -> Histogram<u64> {
    let max = in_nanoseconds(LATENCY_MAX);
    Histogram::new_with_bounds(1, max, 3).expect("bounds that a histogram can have")
}

/// Two digits: there are many of these, and a plot shows no more.
pub(crate) fn microseconds() -> Histogram<u64> {
    let max = in_nanoseconds(LATENCY_MAX) / 1000;
    Histogram::new_with_bounds(1, max, 2).expect("bounds that a histogram can have")
}

/// Adds one to another of the same bounds.
pub(crate) fn add(sum: &mut Histogram<u64>, other: &Histogram<u64>) {
    sum.add(other).expect("histograms of the same bounds");
}

/// The start of an answer, as one line of text.
fn example(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(EXAMPLE_BYTES_MAX)]);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn window() -> Window {
        let from = Instant::now() + Duration::from_secs(100);
        Window {
            from,
            to: from + Duration::from_secs(12),
        }
    }

    fn sample(window: Window, at: Duration, took: Duration) -> Sample<'static> {
        let intended = window.from + at;
        Sample {
            kind: 0,
            intended,
            finished: intended + took,
            status: 200,
            result: Ok(()),
            bytes_up: 10,
            bytes_down: 1000,
            example: b"",
        }
    }

    #[test]
    fn latency_counts_by_the_moment_and_throughput_by_the_end() {
        let window = window();
        let mut stats = Stats::new(1, window);
        stats.record(&sample(window, Duration::ZERO, 250 * MS));
        assert_eq!(stats.intervals[0].latency.len(), 1);
        assert_eq!(
            (stats.intervals[0].finished, stats.intervals[2].finished),
            (0, 1)
        );
        assert_eq!(stats.intervals[2].bytes_down, 1000);
        let max = stats.kinds[0].latency.max();
        assert!((249_000_000..251_000_000).contains(&max), "{max}");
        // Too late for the throughput, but not for the latency.
        stats.record(&sample(window, 11_900 * MS, 250 * MS));
        assert_eq!((stats.kinds[0].requests, stats.kinds[0].finished), (2, 1));
    }

    #[test]
    fn the_warm_up_does_not_count() {
        let window = window();
        let mut stats = Stats::new(1, window);
        let mut early = sample(window, Duration::ZERO, MS);
        early.intended -= 10 * MS;
        early.finished -= 10 * MS;
        stats.record(&early);
        assert_eq!(
            (stats.kinds[0].requests, stats.kinds[0].latency.len()),
            (0, 0)
        );
        stats.record_start(early.intended, early.finished, true);
        assert_eq!(stats.lag.len(), 0);
    }

    #[test]
    fn silence_is_a_latency_and_a_refusal_is_none() {
        let window = window();
        let mut stats = Stats::new(1, window);
        let wrong = |result, status, example| Sample {
            result: Err(result),
            status,
            example,
            ..sample(window, MS, 2 * MS)
        };
        stats.record(&wrong(Fault::Failure(Failure::TimedOut), 0, b""));
        stats.record(&wrong(Fault::NotSent, 0, b""));
        assert_eq!(stats.kinds[0].latency.len(), 2);
        stats.record(&wrong(
            Fault::Status(503),
            503,
            b"{\"error\":\n \"reach_limit\"}",
        ));
        stats.record(&wrong(Fault::Status(503), 503, b"later"));
        stats.record(&wrong(Fault::Failure(Failure::WrongBody), 200, b""));
        assert_eq!(stats.kinds[0].latency.len(), 2);
        assert_eq!(stats.faults(), 5);
        let expected = (2, "{\"error\": \"reach_limit\"}".to_owned());
        assert_eq!(stats.kinds[0].faults[&Fault::Status(503)], expected);
        assert_eq!(stats.kinds[0].statuses[&503], 2);
    }

    #[test]
    fn threads_add_up() {
        let window = window();
        let mut sum = Stats::new(2, window);
        let mut all = Stats::new(2, window);
        for thread in 0..3u32 {
            let mut stats = Stats::new(2, window);
            for step in 0..100u32 {
                let mut sample = sample(window, step * 100 * MS, (1 + step * thread) * MS);
                sample.kind = (step % 2) as usize;
                if step % 10 == 0 {
                    sample.result = Err(Fault::WrongType);
                }
                stats.record(&sample);
                all.record(&sample);
            }
            sum.merge(&stats);
        }
        assert_eq!(sum.latency().len(), 270);
        assert_eq!(sum.latency(), all.latency());
        assert_eq!(sum.faults(), 30);
        assert_eq!(sum.kinds[1].statuses, all.kinds[1].statuses);
        for (sum, all) in sum.intervals.iter().zip(&all.intervals) {
            assert_eq!((sum.finished, &sum.latency), (all.finished, &all.latency));
        }
    }
}
