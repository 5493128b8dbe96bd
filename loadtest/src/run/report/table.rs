//! Renders the report for a terminal.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use super::{KindReport, Latency, Report, bytes, time};

pub(crate) fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a `String` cannot fail.
    let _ = write!(out, "{}", head(report));
    let _ = writeln!(out, "\n{}", kinds(report));
    for kind in report.kinds.iter().filter(|kind| kind.errors > 0) {
        for fault in &kind.faults {
            let _ = write!(
                out,
                "\nerror  {}: {} × {}",
                kind.name, fault.count, fault.what
            );
            if !fault.example.is_empty() {
                let _ = write!(out, ", such as {}", fault.example);
            }
        }
    }
    for note in &report.setup.notes {
        let _ = write!(out, "\nnote   {note}");
    }
    for warning in &report.warnings {
        let _ = write!(out, "\nwarning  {warning}");
    }
    out
}

/// Lines above the table.
pub(super) fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let setup = &report.setup;
    let loop_kind = match (setup.rate, setup.arrivals) {
        (Some(rate), Some(arrivals)) => {
            format!("open loop, {rate} requests/s intended, {arrivals}")
        }
        _ => "closed loop".to_owned(),
    };
    let sources = match setup.sources {
        0 => String::new(),
        count => format!(", from {count} addresses"),
    };
    let threads = match setup.threads {
        1 => "1 thread".to_owned(),
        count => format!("{count} threads"),
    };
    let verified = if setup.verified {
        ", every byte compared"
    } else {
        ""
    };
    let mut facts = vec![
        ("target", setup.target.clone()),
        (
            "load",
            format!(
                "{}: {loop_kind}; {} connections, {}{sources}{verified}; seed {}",
                setup.scenario, setup.connections, threads, setup.seed
            ),
        ),
        (
            "filled",
            format!(
                "{} files of {} in {:.1} s",
                setup.files,
                bytes(setup.file_bytes as f64),
                setup.fill_s
            ),
        ),
        (
            "measured",
            format!(
                "{:.1} s after {:.1} s of warm-up: {} requests, {} errors",
                report.measured_s, setup.warmup_s, report.requests, report.errors
            ),
        ),
        (
            "throughput",
            format!(
                "{:.1} successful responses/s, {}/s up, {}/s down",
                report.per_second,
                bytes(report.bytes_up_per_second),
                bytes(report.bytes_down_per_second)
            ),
        ),
    ];
    facts.push(("generator", generator(report)));
    facts
}

/// Line about the generator.
fn generator(report: &Report) -> String {
    let of = &report.generator;
    let busy = format!("busiest thread {:.0} %", of.busy * 100.0);
    let (lag, wait) = (of.lag_us, of.wait_us);
    let all = lag.count + wait.count;
    if all == 0 {
        // A closed loop has no intended starts.
        return busy;
    }
    let late = match lag.count {
        0 => "no request found a free connection".to_owned(),
        _ => format!(
            "late by p99 {}, max {} with a free connection",
            time(lag.p99),
            time(lag.max)
        ),
    };
    let waited = match wait.count {
        0 => "none had to wait for a connection".to_owned(),
        count => format!(
            "{:.2} % waited for a connection (p99 {})",
            count as f64 * 100.0 / all as f64,
            time(wait.p99)
        ),
    };
    format!("{late}; {waited}; {busy}")
}

fn head(report: &Report) -> String {
    let line = |(name, value): (&str, String)| format!("{name:<11}{value}\n");
    facts(report).into_iter().map(line).collect()
}

/// Column names.
pub(super) const COLUMNS: [&str; 11] = [
    "request", "count", "right/s", "errors", "p50", "p90", "p99", "p99.9", "p99.99", "max",
    "statuses",
];

/// Rows of the table.
pub(super) fn rows(report: &Report) -> Vec<[String; 11]> {
    let row =
        |name: &str, count: u64, rate: f64, errors: u64, latency: Latency, statuses: String| {
            let Latency {
                p50,
                p90,
                p99,
                p99_9,
                p99_99,
                max,
                ..
            } = latency;
            let [p50, p90, p99, p99_9, p99_99, max] =
                [p50, p90, p99, p99_9, p99_99, max].map(|us| {
                    if latency.count == 0 {
                        "–".to_owned()
                    } else {
                        time(us)
                    }
                });
            let (count, rate, errors) =
                (count.to_string(), format!("{rate:.1}"), errors.to_string());
            [
                name.to_owned(),
                count,
                rate,
                errors,
                p50,
                p90,
                p99,
                p99_9,
                p99_99,
                max,
                statuses,
            ]
        };
    let of_kind = |kind: &KindReport| {
        let statuses: Vec<_> = kind
            .statuses
            .iter()
            .map(|(status, count)| format!("{status}: {count}"))
            .collect();
        row(
            &kind.name,
            kind.requests,
            kind.per_second,
            kind.errors,
            kind.latency_us,
            statuses.join(", "),
        )
    };
    let mut rows: Vec<_> = report.kinds.iter().map(of_kind).collect();
    rows.push(row(
        "all",
        report.requests,
        report.per_second,
        report.errors,
        report.latency_us,
        String::new(),
    ));
    rows
}

fn kinds(report: &Report) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(COLUMNS)
        .add_rows(rows(report));
    for column in table.column_iter_mut().skip(1).take(COLUMNS.len() - 2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
