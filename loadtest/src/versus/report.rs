//! The report of a run, as a table and as JSON.

use std::{fmt, fs, path::Path, process::Command};

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use super::{
    Bench,
    aims::{Bound, Figure},
    process::tick,
    rounds::{Sample, Spread},
};
use crate::Error;

/// All results of a run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) measurements: Vec<Measurement>,
    pub(crate) rows: Vec<Row>,
    pub(crate) notes: Vec<String>,
}

/// The machine, the programs and the settings of a run.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    kernel: String,
    processor: String,
    cores: usize,
    file_system: String,
    versions: Vec<String>,
    rounds: usize,
    round_s: f64,
    cpu_tick_ms: f64,
}

/// One server in one task.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) part: String,
    pub(crate) size: u64,
    pub(crate) what: String,
    pub(crate) server: String,
    pub(crate) per_second: Spread,
    pub(crate) cpu_us: Spread,
    pub(crate) p99_us: Spread,
    /// Share of its core that the client used; near 1, the client was the limit.
    pub(crate) client_share: f64,
}

/// One figure.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) figure: Figure,
    pub(crate) size: u64,
    pub(crate) what: String,
    pub(crate) value: Spread,
    pub(crate) aim: Option<Bound>,
    /// What the value is compared with, or how it was measured.
    pub(crate) note: String,
}

impl Report {
    pub(crate) fn new(bench: &Bench) -> Self {
        Self {
            machine: Machine::look(bench),
            measurements: Vec::new(),
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds the samples of one server.
    pub(crate) fn measured(
        &mut self,
        part: &str,
        size: u64,
        what: &str,
        server: &str,
        samples: &[Sample],
    ) {
        let spread = |of: fn(&Sample) -> f64| Spread::of(samples.iter().map(of));
        self.measurements.push(Measurement {
            part: part.to_owned(),
            size,
            what: what.to_owned(),
            server: server.to_owned(),
            per_second: spread(|sample| sample.per_second),
            cpu_us: spread(|sample| sample.cpu_us),
            p99_us: spread(|sample| sample.p99_us),
            client_share: spread(|sample| sample.client_share).median,
        });
    }

    /// Adds a figure, with its aim if it has one.
    pub(crate) fn row(&mut self, figure: Figure, size: u64, what: &str, value: Spread, note: &str) {
        self.rows.push(Row {
            figure,
            size,
            what: what.to_owned(),
            value,
            aim: figure.aim(size),
            note: note.to_owned(),
        });
    }

    /// Adds a note about the figures.
    pub(crate) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Adds the results of an earlier report that this one does not have.
    pub(crate) fn merge(&mut self, json: &[u8]) -> Result<(), Error> {
        let before: Self = serde_json::from_slice(json)?;
        if before.machine != self.machine {
            self.note(format!(
                "some figures are from an earlier run with another machine or other settings: {:?}",
                before.machine
            ));
        }
        for old in before.measurements {
            let is_same = |new: &Measurement| {
                (&new.part, &new.what, &new.server) == (&old.part, &old.what, &old.server)
            };
            if !self.measurements.iter().any(is_same) {
                self.measurements.push(old);
            }
        }
        for old in before.rows {
            let is_same = |new: &Row| new.figure == old.figure && new.what == old.what;
            if !self.rows.iter().any(is_same) {
                // The aim of today, not the one in the file.
                let aim = old.figure.aim(old.size);
                self.rows.push(Row { aim, ..old });
            }
        }
        for note in before.notes {
            self.note(note);
        }
        self.measurements
            .sort_by(|a, b| (&a.part, a.size).cmp(&(&b.part, b.size)));
        self.rows.sort_by_key(|row| (row.figure as u32, row.size));
        Ok(())
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>, Error> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{}, {} cores, Linux {}, {}",
            machine.processor, machine.cores, machine.kernel, machine.file_system
        )?;
        writeln!(f, "{}", machine.versions.join(", "))?;
        writeln!(
            f,
            "{} rounds of {} s; CPU is counted in ticks of {} ms; median (lowest–highest)\n",
            machine.rounds, machine.round_s, machine.cpu_tick_ms
        )?;
        if !self.measurements.is_empty() {
            writeln!(f, "{}\n", self.measurement_table())?;
        }
        if !self.rows.is_empty() {
            writeln!(f, "{}", self.row_table())?;
            let with_aim = self.rows.iter().filter_map(|row| Some((row, row.aim?)));
            let (met, missed): (Vec<_>, Vec<_>) =
                with_aim.partition(|(row, aim)| aim.is_met(row.value.median));
            writeln!(f, "aims: {} met, {} MISSED", met.len(), missed.len())?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

impl Report {
    fn measurement_table(&self) -> Table {
        let mut table = table(&[
            "part",
            "what",
            "server",
            "requests/s",
            "CPU µs/request",
            "p99 µs",
            "client",
        ]);
        for measured in &self.measurements {
            table.add_row([
                measured.part.clone(),
                measured.what.clone(),
                measured.server.clone(),
                spread(measured.per_second),
                spread(measured.cpu_us),
                spread(measured.p99_us),
                format!("{:.0} %", measured.client_share * 100.0),
            ]);
        }
        align(&mut table, 3..7);
        table
    }

    fn row_table(&self) -> Table {
        let mut table = table(&["figure", "of", "value", "aim", "", "against"]);
        for row in &self.rows {
            let (aim, verdict) = match row.aim {
                None => (String::new(), ""),
                Some(aim) => (
                    match aim {
                        Bound::AtMost(bound) => format!("≤ {bound}"),
                        Bound::AtLeast(bound) => format!("≥ {bound}"),
                    },
                    if aim.is_met(row.value.median) {
                        "met"
                    } else {
                        "MISSED"
                    },
                ),
            };
            table.add_row([
                row.figure.name(),
                &row.what,
                &spread(row.value),
                &aim,
                verdict,
                &row.note,
            ]);
        }
        align(&mut table, 2..4);
        table
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    table
}

fn align(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Formats the median with three significant digits, and the range if the values differ.
fn spread(value: Spread) -> String {
    let number = |value: f64| match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    if value.low == value.high {
        return number(value.median);
    }
    format!(
        "{} ({}–{})",
        number(value.median),
        number(value.low),
        number(value.high)
    )
}

impl Machine {
    /// Collects the facts about the machine. Unknown ones are reported as unknown.
    fn look(bench: &Bench) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpus = read("/proc/cpuinfo");
        let model = cpus.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split_once(": "));
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: model
                .map_or("unknown processor", |model| model.1)
                .to_owned(),
            cores: cpus
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            file_system: file_system(bench.dir.path()),
            versions: [(&bench.chatfiles, "--version"), (&bench.nginx, "-v")]
                .map(|(program, flag)| version(program, flag))
                .to_vec(),
            rounds: bench.rounds,
            round_s: bench.round.as_secs_f64(),
            cpu_tick_ms: tick().as_secs_f64() * 1000.0,
        }
    }
}

fn version(program: &Path, flag: &str) -> String {
    let done = Command::new(program).arg(flag).output();
    let said = done.map(|done| {
        if done.stdout.is_empty() {
            done.stderr
        } else {
            done.stdout
        }
    });
    let said = said.unwrap_or_default();
    let line = String::from_utf8_lossy(&said);
    let line = line.lines().next().unwrap_or_default();
    if line.is_empty() {
        return format!("{}: unknown version", program.display());
    }
    line.trim_start_matches("nginx version: ").to_owned()
}

/// Detects the file system by its magic number: results on tmpfs say nothing about a disk.
fn file_system(directory: &Path) -> String {
    match rustix::fs::statfs(directory).map(|stat| stat.f_type) {
        Ok(0x0102_1994) => {
            "tmpfs (in memory: figures of synced uploads and cold files are not valid)".to_owned()
        }
        Ok(0xEF53) => "ext4".to_owned(),
        Ok(0x5846_5342) => "xfs".to_owned(),
        Ok(0x9123_683E) => "btrfs".to_owned(),
        Ok(0x794c_7630) => "overlayfs".to_owned(),
        Ok(other) => format!("file system {other:#x}"),
        Err(error) => format!("unknown file system: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(kernel: &str) -> Report {
        Report {
            machine: Machine {
                kernel: kernel.to_owned(),
                processor: String::new(),
                cores: 2,
                file_system: "ext4".to_owned(),
                versions: Vec::new(),
                rounds: 1,
                round_s: 1.0,
                cpu_tick_ms: 10.0,
            },
            measurements: Vec::new(),
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn counts_missed_aims() {
        let mut report = report("a");
        let figure = Figure::DownloadCpuToNginx;
        report.row(figure, 4096, "4 KB", Spread::once(1.01), "nginx");
        report.row(figure, 16384, "16 KB", Spread::once(1.0), "nginx");
        report.row(Figure::ColdP99Us, 0, "p99", Spread::once(10.0), "");
        let text = report.to_string();
        assert_eq!(text.matches("MISSED").count(), 2, "{text}");
        assert!(text.contains("aims: 1 met, 1 MISSED"), "{text}");
    }

    #[test]
    fn merge_keeps_new_and_adds_missing() {
        let figure = Figure::DownloadCpuToNginx;
        let mut before = report("a");
        before.row(figure, 4096, "4 KB", Spread::once(2.0), "old");
        before.row(figure, 1024, "1 KB", Spread::once(3.0), "old");
        let mut after = report("b");
        after.row(figure, 4096, "4 KB", Spread::once(1.0), "new");
        after.merge(&before.to_json().unwrap()).unwrap();
        let rows: Vec<_> = after
            .rows
            .iter()
            .map(|row| (row.size, &row.note[..]))
            .collect();
        assert_eq!(rows, [(1024, "old"), (4096, "new")]);
        assert_eq!(after.notes.len(), 1);
    }
}
