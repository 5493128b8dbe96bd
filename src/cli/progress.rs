//! Progress bars on standard error: files, bytes and the time that is left. Nothing is drawn if standard error is not a
//! terminal.

use std::{
    future::Future,
    io::{self, Write},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::store::{Progress, Volume};

/// How often the counts are read.
const TICK: Duration = Duration::from_millis(100);
/// Before the operation has announced what it will process.
const COUNTING: &str = "{spinner} {msg}";
const RUNNING: &str = "{msg} {bar:30} {bytes}/{total_bytes}, {eta} left";

/// Runs an operation, and shows how far it has come.
pub(super) async fn shown<T>(
    what: &str,
    progress: &Arc<Progress>,
    operation: impl Future<Output = T>,
) -> T {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let mut ticks = tokio::time::interval(TICK);
    let mut operation = pin!(operation);
    let ended = loop {
        tokio::select! {
            ended = &mut operation => break ended,
            _ = ticks.tick() => draw(&bar, what, progress),
        }
    };
    draw(&bar, what, progress);
    bar.abandon();
    if !bar.is_hidden() {
        // The summary begins on a line of its own.
        let _ = writeln!(io::stderr());
    }
    ended
}

fn draw(bar: &ProgressBar, what: &str, progress: &Progress) {
    let (done, total) = (progress.done(), progress.total());
    let template = match total.objects {
        0 => COUNTING,
        _ => RUNNING,
    };
    // The templates are constants, so the style is always valid.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if total.objects > 0 {
        bar.set_length(total.bytes);
        bar.set_message(format!("{what}: {}/{} files", done.objects, total.objects));
    } else {
        bar.set_message(what.to_owned());
    }
    bar.set_position(done.bytes);
    bar.tick();
}

/// Files and bytes, for a summary.
pub(super) fn volume(volume: Volume) -> String {
    let files = match volume.objects {
        1 => "file",
        _ => "files",
    };
    format!("{} {files} ({})", volume.objects, BinaryBytes(volume.bytes))
}
