//! What is shown while a run goes on, on a terminal only.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::live::Moment;

/// A line that is drawn again and again, and removed at the end.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Of so many files.
    pub(crate) fn fill(files: usize) -> Self {
        Self::new(files as u64, "filling {wide_bar} {pos} of {len} files")
    }

    /// Of so much time.
    pub(crate) fn load(length: Duration) -> Self {
        Self::new(milliseconds(length), "{wide_bar} {msg}")
    }

    fn new(length: u64, template: &str) -> Self {
        let style = ProgressStyle::with_template(template).expect("a template of this file's own");
        // Hidden by itself where standard error is no terminal.
        Self(ProgressBar::new(length).with_style(style))
    }

    /// So many files are there.
    pub(crate) fn filled(&self, files: u64) {
        self.0.set_position(files);
    }

    /// So much time has gone, and that was seen in the last piece of it.
    pub(crate) fn loaded(&self, gone: Duration, moment: &Moment, piece: Duration) {
        let rate = moment.requests as f64 / piece.as_secs_f64();
        let p99_ms = moment.latency.value_at_quantile(0.99) as f64 / 1000.0;
        self.0.set_position(milliseconds(gone));
        self.0.set_message(format!(
            "{}/{} s  {rate:.0}/s  {} errors  p99 {p99_ms:.2} ms",
            gone.as_secs(),
            self.0.length().unwrap_or(0) / 1000,
            moment.faults
        ));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
