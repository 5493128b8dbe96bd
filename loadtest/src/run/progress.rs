//! Progress display during a run, only on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::live::Moment;

/// A line that is redrawn, and removed at the end.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Progress of an upload of `files` files.
    pub(crate) fn fill(files: usize) -> Self {
        Self::new(files as u64, "filling {wide_bar} {pos} of {len} files")
    }

    /// Progress of a load of this duration.
    pub(crate) fn load(length: Duration) -> Self {
        Self::new(milliseconds(length), "{wide_bar} {msg}")
    }

    fn new(length: u64, template: &str) -> Self {
        let style = ProgressStyle::with_template(template).expect("a constant template");
        // Hidden automatically if standard error is not a terminal.
        Self(ProgressBar::new(length).with_style(style))
    }

    /// Shows the number of uploaded files.
    pub(crate) fn filled(&self, files: u64) {
        self.0.set_position(files);
    }

    /// Shows the elapsed time and the figures of the last interval.
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
