//! The commands that remove or verify stored files: `sweep`, `scrub` and `rm`.

use std::{process::ExitCode, sync::Arc};

use super::{
    expected,
    progress::{self, shown},
    say,
    store::{run, store},
};
use crate::{
    config::Config,
    error::{Error, Kind, Result},
    files,
    logging::{self, Actor},
    retention::{self, Report, SweepMode},
    server::control,
    store::{Key, ObjectId, Progress, Store, Verified},
    time::Clock,
};

/// Removes what has expired, and prints a summary.
pub(super) fn sweep(config: &Config, is_confirmed: bool) -> Result<ExitCode> {
    let store = store(config)?;
    let mode = match is_confirmed {
        true => SweepMode::RemoveConfirmed,
        false => SweepMode::Remove,
    };
    let progress = Arc::<Progress>::default();
    let report = run(async {
        let planned = sweep_as(&*store, config, SweepMode::Report, &Arc::default()).await?;
        progress.expect(planned.volume);
        let removal = sweep_as(&*store, config, mode, &progress);
        shown("removing", &progress, removal).await
    })?;
    match report.refused {
        Some(_) => {
            say(&planned(&report))?;
            Ok(ExitCode::FAILURE)
        }
        None => say(&format!("removed: {}", describe(&report))),
    }
}

async fn sweep_as(
    store: &dyn Store,
    config: &Config,
    mode: SweepMode,
    progress: &Arc<Progress>,
) -> Result<Report> {
    let now = Clock::system().now();
    retention::sweep(store, &config.retention(), now, mode, progress).await
}

/// What a sweep would remove now, and whether it would refuse to.
pub(super) fn sweep_plan(store: &dyn Store, config: &Config) -> Result<String> {
    let idle = Arc::default();
    let report = run(sweep_as(store, config, SweepMode::Report, &idle))?;
    Ok(planned(&report))
}

fn planned(report: &Report) -> String {
    let what = describe(report);
    match report.refused {
        None => format!("a sweep would remove: {what}"),
        Some(why) => format!(
            "a sweep removes nothing, because the clock may be wrong: {why}. If the clock is right, run: chatfiles sweep \
             --yes\nit would remove: {what}"
        ),
    }
}

/// One line about a report; `nothing` for an empty one.
fn describe(report: &Report) -> String {
    if report.is_empty() {
        return "nothing".into();
    }
    let mut text = progress::volume(report.volume);
    if !report.days.is_empty() {
        text += &format!(", all of {}", report.days.join(" "));
    }
    if report.objects > 0 {
        text += &format!(
            ", {} of them in days that other tenants keep",
            report.objects
        );
    }
    if report.part_uploads > 0 {
        text += &format!(", {} unfinished uploads in parts", report.part_uploads);
    }
    text
}

/// Verifies all files, and prints the damaged ones and a summary.
pub(super) fn scrub(config: &Config) -> Result<ExitCode> {
    let store = store(config)?;
    let progress = Arc::<Progress>::default();
    let Verified { volume, damaged } = run(async {
        let verification = store.maintenance().verify(Arc::clone(&progress));
        shown("verifying", &progress, verification).await
    })?;
    for (name, what) in &damaged {
        say(&format!("{name}: {what}"))?;
    }
    say(&format!(
        "verified {}, {} damaged",
        progress::volume(volume),
        damaged.len()
    ))?;
    Ok(match damaged.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Removes a file through the running server, so that it is also removed from its caches, and the server's log has the
/// audit line. Without a server, removes it from the disk, and writes the audit line to standard error.
pub(super) fn rm(config: &Config, text: &str) -> Result<ExitCode> {
    let allowed = "the UUID (version 7) of a file, or class.YYYY-MM-DD.uuid";
    let id = ObjectId::parse(text).or_else(|| Key::parse(text).map(|key| key.id));
    let id = id.ok_or_else(|| expected("id", text, allowed))?;
    let store = store(config)?;
    let command = control::Command::Remove(id.to_string());
    if let Some(answer) = control::request(&config.store.path, &command)? {
        return say(&answer);
    }
    let _log = logging::install(&config.log)?;
    let actor = Actor {
        by: "command line",
        request: None,
    };
    match run(files::take_down(&*store, id, actor))? {
        true => say(&format!("removed {id}")),
        false => {
            let path = config.store.path.display();
            let text = format!("there is no file {id} in the store {path}");
            Err(Error::new(Kind::ObjectNotFound).public(text))
        }
    }
}
