//! The results of a run as numbers and sentences. The submodules render them as a table and as a page; JSON follows
//! from the types.

pub(crate) mod html;
mod plot;
pub(crate) mod table;

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::stats::{Fault, KindStats, Stats};

/// A smaller delay of the generator does not affect latencies read in milliseconds.
const LAG_P99_US_MAX: f64 = 1000.0;
/// A thread that is busy for a larger share may have limited the results.
const BUSY_MAX: f64 = 0.95;
/// A larger share of requests that found all connections busy causes a note.
const WAITED_MAX: f64 = 0.01;
/// Percentiles shown in tables.
const QUANTILES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 0.9999];

/// Settings of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Setup {
    /// Name of the scenario.
    pub(crate) scenario: String,
    /// URL of the server.
    pub(crate) target: String,
    /// `open` or `closed`.
    pub(crate) mode: &'static str,
    /// Requests per second of an open loop.
    pub(crate) rate: Option<f64>,
    /// `poisson` or `uniform`, in an open loop.
    pub(crate) arrivals: Option<&'static str>,
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    /// Number of source addresses; 0 means that the kernel chooses one.
    pub(crate) sources: usize,
    pub(crate) seed: u64,
    /// Whether every byte was compared.
    pub(crate) verified: bool,
    pub(crate) files: usize,
    pub(crate) file_bytes: u64,
    pub(crate) fill_s: f64,
    pub(crate) warmup_s: f64,
    /// Start of the run, as seconds since 1970 and as text.
    pub(crate) started_unix_s: u64,
    #[serde(skip)]
    pub(crate) started: String,
    /// Deviations from the scenario.
    pub(crate) notes: Vec<String>,
}

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) p99_99: f64,
    pub(crate) max: f64,
}

/// A fault and its count.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Count {
    pub(crate) what: String,
    pub(crate) count: u64,
    /// The start of one such response.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) example: String,
}

/// Results of one kind of request.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct KindReport {
    pub(crate) name: String,
    /// Requests whose intended start lies in the measured time.
    pub(crate) requests: u64,
    /// Correct responses per second.
    pub(crate) per_second: f64,
    pub(crate) errors: u64,
    pub(crate) latency_us: Latency,
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) faults: Vec<Count>,
    /// Shares of requests, and the latency in microseconds that this share did not exceed.
    pub(crate) distribution: Vec<(f64, f64)>,
}

/// An interval of the time line.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Piece {
    /// Seconds since the end of the warm-up.
    pub(crate) at_s: f64,
    pub(crate) per_second: f64,
    pub(crate) errors_per_second: f64,
    pub(crate) bytes_up_per_second: f64,
    pub(crate) bytes_down_per_second: f64,
    /// In microseconds, for requests whose intended start lies in the interval; 0 if there is none.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

/// Figures of the generator itself.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Generator {
    /// Delay from the intended start to the real start, if a connection was free.
    pub(crate) lag_us: Latency,
    /// The same if all connections were busy.
    pub(crate) wait_us: Latency,
    /// Share of the time that the busiest thread ran on a CPU, including its polling.
    pub(crate) busy: f64,
}

/// The report.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) setup: Setup,
    /// Duration of the measurement in seconds.
    pub(crate) measured_s: f64,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    /// Correct responses per second.
    pub(crate) per_second: f64,
    pub(crate) bytes_up_per_second: f64,
    pub(crate) bytes_down_per_second: f64,
    pub(crate) latency_us: Latency,
    pub(crate) distribution: Vec<(f64, f64)>,
    pub(crate) generator: Generator,
    pub(crate) kinds: Vec<KindReport>,
    pub(crate) timeline: Vec<Piece>,
    /// Reasons why the figures may be unreliable.
    pub(crate) warnings: Vec<String>,
}

impl Report {
    /// `measured` is the duration of the measurement, `interval` the length of each interval of the time line.
    pub(crate) fn new(
        setup: Setup,
        names: &[&str],
        stats: &Stats,
        measured: Duration,
        interval: Duration,
    ) -> Self {
        // A run stopped during its warm-up has no duration to divide by.
        let measured_s = measured.as_secs_f64();
        let rate = |count: u64| {
            if measured.is_zero() {
                0.0
            } else {
                count as f64 / measured_s
            }
        };
        let kinds = names.iter().zip(&stats.kinds);
        let kinds = kinds.filter(|(_, kind)| kind.requests > 0);
        let kinds: Vec<_> = kinds
            .map(|(name, kind)| KindReport::new(name, kind, &rate))
            .collect();
        let pieces = measured.as_nanos().div_ceil(interval.as_nanos()) as usize;
        let intervals = &stats.intervals[..pieces.min(stats.intervals.len())];
        let sum = |of: fn(&super::stats::Interval) -> u64| rate(intervals.iter().map(of).sum());
        let overall = stats.latency();
        let mut report = Self {
            measured_s,
            requests: stats.kinds.iter().map(|kind| kind.requests).sum(),
            errors: stats.faults(),
            per_second: rate(stats.kinds.iter().map(|kind| kind.finished).sum()),
            bytes_up_per_second: sum(|interval| interval.bytes_up),
            bytes_down_per_second: sum(|interval| interval.bytes_down),
            latency_us: Latency::of(&overall, 1000.0),
            distribution: distribution(&overall),
            generator: Generator {
                lag_us: Latency::of(&stats.lag, 1000.0),
                wait_us: Latency::of(&stats.wait, 1000.0),
                busy: stats.busy,
            },
            kinds,
            timeline: timeline(intervals, interval, measured),
            warnings: Vec::new(),
            setup,
        };
        report.warnings = warnings(&report, stats);
        report
    }
}

impl Latency {
    /// `per_us` is the number of histogram units per microsecond.
    fn of(histogram: &Histogram<u64>, per_us: f64) -> Self {
        let [p50, p90, p99, p99_9, p99_99] =
            QUANTILES.map(|quantile| histogram.value_at_quantile(quantile) as f64 / per_us);
        Self {
            count: histogram.len(),
            mean: if histogram.is_empty() {
                0.0
            } else {
                histogram.mean() / per_us
            },
            p50,
            p90,
            p99,
            p99_9,
            p99_99,
            max: histogram.max() as f64 / per_us,
        }
    }
}

impl KindReport {
    fn new(name: &str, kind: &KindStats, rate: &impl Fn(u64) -> f64) -> Self {
        let faults = kind.faults.iter().map(|(fault, (count, example))| Count {
            what: fault.to_string(),
            count: *count,
            example: example.clone(),
        });
        Self {
            name: name.to_owned(),
            requests: kind.requests,
            per_second: rate(kind.finished),
            errors: kind.faults.values().map(|(count, _)| count).sum(),
            latency_us: Latency::of(&kind.latency, 1000.0),
            statuses: kind.statuses.clone(),
            faults: faults.collect(),
            distribution: distribution(&kind.latency),
        }
    }
}

/// Latencies at shares that approach one, as far as the number of requests allows.
fn distribution(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let point = |share: f64| (share, histogram.value_at_quantile(share) as f64 / 1000.0);
    let len = histogram.len() as f64;
    // Ten points for each factor of ten in the remaining share.
    let shares = (0..=60).map(|step| 1.0 - 10f64.powf(f64::from(step) / -10.0));
    shares
        .take_while(|share| (1.0 - share) * len >= 1.0)
        .map(point)
        .collect()
}

fn timeline(
    intervals: &[super::stats::Interval],
    interval: Duration,
    measured: Duration,
) -> Vec<Piece> {
    let at = |index: usize| interval.as_secs_f64() * index as f64;
    let piece = |(index, seen): (usize, &super::stats::Interval)| {
        // The last interval may be shorter.
        let length = (measured.as_secs_f64() - at(index)).min(interval.as_secs_f64());
        let rate = |count: u64| count as f64 / length.max(f64::MIN_POSITIVE);
        let quantile = |share| seen.latency.value_at_quantile(share) as f64;
        Piece {
            at_s: at(index),
            per_second: rate(seen.finished),
            errors_per_second: rate(seen.faults),
            bytes_up_per_second: rate(seen.bytes_up),
            bytes_down_per_second: rate(seen.bytes_down),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            max_us: seen.latency.max() as f64,
        }
    };
    intervals.iter().enumerate().map(piece).collect()
}

fn warnings(report: &Report, stats: &Stats) -> Vec<String> {
    let mut warnings = Vec::new();
    let generator = &report.generator;
    let waited = generator.wait_us.count;
    let waited_share = waited as f64 / (waited + generator.lag_us.count).max(1) as f64;
    if generator.lag_us.p99 > LAG_P99_US_MAX {
        let remedy = if generator.busy > BUSY_MAX {
            "Raise --threads."
        } else {
            "Its threads were not busy: another process used the CPU, for example a server on the same machine."
        };
        warnings.push(format!(
            "The generator was late: 1 % of the requests started at least {:.1} ms after their intended \
             start, although a connection was free. The latencies include this delay. {remedy}",
            generator.lag_us.p99 / 1000.0
        ));
    }
    let is_closed = report.setup.mode == "closed";
    if generator.busy > BUSY_MAX && (is_closed || waited_share > WAITED_MAX) {
        warnings.push(format!(
            "A thread of the generator was busy for {:.0} % of the time and may have limited the results. Raise \
             --threads, or run it on another machine.",
            generator.busy * 100.0
        ));
    } else if waited_share > WAITED_MAX {
        warnings.push(format!(
            "{:.1} % of the requests found every connection busy; the latencies include the wait. Either the \
             server is at its limit, or --connections is too small for this rate.",
            waited_share * 100.0
        ));
    }
    let count = |which: fn(&Fault) -> bool| -> u64 {
        let faults = stats.kinds.iter().flat_map(|kind| &kind.faults);
        faults
            .filter(|(fault, _)| which(fault))
            .map(|(_, (count, _))| count)
            .sum()
    };
    let not_sent = count(|fault| *fault == Fault::NotSent);
    if not_sent > 0 {
        warnings.push(format!(
            "{not_sent} requests were never sent, because no connection became free until long after the end. \
             Their latency is the wait until then, which is less than the real one."
        ));
    }
    let limited = count(|fault| matches!(fault, Fault::Status(429 | 503)));
    if limited > 0 {
        warnings.push(format!(
            "{limited} requests were refused with 503 or 429. If the rate limit per client address is the \
             cause, use more addresses (--sources, with at least as many --connections) or raise the limit (chatfiles: \
             --calls-per-second 0)."
        ));
    }
    warnings
}

/// Formats bytes for people.
fn bytes(count: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut count = count;
    let mut unit = 0;
    while count >= 1000.0 && unit + 1 < units.len() {
        count /= 1000.0;
        unit += 1;
    }
    format!(
        "{count:.*} {}",
        if unit == 0 || count >= 100.0 { 0 } else { 1 },
        units[unit]
    )
}

/// Formats microseconds for people.
fn time(us: f64) -> String {
    match us {
        us if us < 1000.0 => format!("{us:.0} µs"),
        us if us < 10_000.0 => format!("{:.2} ms", us / 1e3),
        us if us < 1e6 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests;
