//! Statistics of one thread, and their sum.
//!
//! A latency counts from the intended start of a request. It is recorded for each correct response, and for each
//! request without a response, with the time it waited: leaving those out would hide the worst cases. A wrong response
//! is an error without a latency, because refusals are fast.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::client::Failure;

/// Longer latencies are recorded as this value.
const LATENCY_MAX: Duration = Duration::from_secs(3600);
/// Number of intervals of the time line.
pub(crate) const INTERVALS: u32 = 120;
/// Bytes of a wrong response kept as an example.
const EXAMPLE_BYTES_MAX: usize = 200;

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A status that the scenario does not expect.
    Status(u16),
    /// A failure found by the engine.
    Failure(Failure),
    /// A head with another length than the file's.
    WrongLength,
    /// A thumbnail that is empty or not an image.
    WrongType,
    /// The response to an upload lacks required values.
    WrongAnswer,
    /// No connection became free before the end of the run.
    NotSent,
}

impl Fault {
    /// Whether nothing was received; then the time until the failure is a latency too.
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
            Self::WrongType => f.write_str("not an image"),
            Self::WrongAnswer => f.write_str("wrong response"),
            Self::NotSent => f.write_str("not sent"),
        }
    }
}

/// An ended request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample<'a> {
    /// Index of its kind.
    pub(crate) kind: usize,
    /// Intended start.
    pub(crate) intended: Instant,
    /// End.
    pub(crate) finished: Instant,
    /// 0 if none was received.
    pub(crate) status: u16,
    /// Whether the response was correct.
    pub(crate) result: Result<(), Fault>,
    /// Bytes sent, head and body.
    pub(crate) bytes_up: u64,
    /// Bytes received, head and body.
    pub(crate) bytes_down: u64,
    /// The start of a wrong response.
    pub(crate) example: &'a [u8],
}

/// The measured part of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// The end of the warm-up.
    pub(crate) from: Instant,
    /// The planned end of the run.
    pub(crate) to: Instant,
}

impl Window {
    /// Length of an interval of the time line.
    pub(crate) fn interval(&self) -> Duration {
        let length = self.to.saturating_duration_since(self.from);
        (length / INTERVALS).max(Duration::from_millis(1))
    }

    fn index(&self, moment: Instant) -> Option<usize> {
        let since = moment.checked_duration_since(self.from)?;
        usize::try_from(since.as_nanos() / self.interval().as_nanos()).ok()
    }
}

/// Statistics of one kind of request.
#[derive(Debug, Clone)]
pub(crate) struct KindStats {
    /// In nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Count of each status.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Count of each fault, with one example.
    pub(crate) faults: BTreeMap<Fault, (u64, String)>,
    /// Requests whose intended start lies in the window.
    pub(crate) requests: u64,
    /// Correct responses that ended in the window.
    pub(crate) finished: u64,
}

/// An interval of the time line.
#[derive(Debug, Clone)]
pub(crate) struct Interval {
    /// In microseconds, for requests whose intended start lies in the interval.
    pub(crate) latency: Histogram<u64>,
    /// Correct responses that ended in the interval.
    pub(crate) finished: u64,
    /// Failures that ended in the interval.
    pub(crate) faults: u64,
    /// Bytes sent by requests that ended in the interval.
    pub(crate) bytes_up: u64,
    /// Bytes received by requests that ended in the interval.
    pub(crate) bytes_down: u64,
}

/// All statistics.
#[derive(Debug, Clone)]
pub(crate) struct Stats {
    window: Window,
    /// One entry per kind of the scenario.
    pub(crate) kinds: Vec<KindStats>,
    /// The time line.
    pub(crate) intervals: Vec<Interval>,
    /// Nanoseconds from the intended start to the real start, if a connection was free: the delay of the generator.
    pub(crate) lag: Histogram<u64>,
    /// The same for requests that found every connection busy.
    pub(crate) wait: Histogram<u64>,
    /// Share of the time that the thread ran on a CPU; the maximum of all threads.
    pub(crate) busy: f64,
}

impl Stats {
    /// Empty statistics.
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

    /// Counts a request that lies in the window, by its start and by its end.
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

    /// Records how late a request started, and whether the generator or busy connections caused it.
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

    /// Adds the statistics of another thread.
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

    /// Latencies of all kinds.
    pub(crate) fn latency(&self) -> Histogram<u64> {
        let mut sum = nanoseconds();
        self.kinds
            .iter()
            .for_each(|kind| add(&mut sum, &kind.latency));
        sum
    }

    /// Number of failures of all kinds.
    pub(crate) fn faults(&self) -> u64 {
        let faults = self.kinds.iter().flat_map(|kind| kind.faults.values());
        faults.map(|(count, _)| count).sum()
    }
}

fn in_nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Three significant digits.
fn nanoseconds() -> Histogram<u64> {
    let max = in_nanoseconds(LATENCY_MAX);
    Histogram::new_with_bounds(1, max, 3).expect("valid histogram bounds")
}

/// Two significant digits: there are many of these, and a plot shows no more.
pub(crate) fn microseconds() -> Histogram<u64> {
    let max = in_nanoseconds(LATENCY_MAX) / 1000;
    Histogram::new_with_bounds(1, max, 2).expect("valid histogram bounds")
}

/// Adds a histogram to another one with the same bounds.
pub(crate) fn add(sum: &mut Histogram<u64>, other: &Histogram<u64>) {
    sum.add(other).expect("histograms with equal bounds");
}

/// The start of a response as one line of text.
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
    fn latency_by_start_throughput_by_end() {
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
    fn warm_up_does_not_count() {
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
    fn silence_has_latency_refusal_has_none() {
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
    fn merges_threads() {
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
