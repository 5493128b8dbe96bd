//! Background tasks: sweeps, recovery of the store, the control socket.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;

use crate::{
    error::{Error, Kind, Result},
    limit::Limiter,
    logging::Actor,
    retention::{self, Policy, SweepMode},
    server::{
        control,
        handover::{Descriptors, Handover},
        service::Service,
        shutdown::Shutdown,
    },
    store::{Access, ObjectId, Store},
    time::Clock,
};

/// How often the limiter removes idle addresses.
const LIMITER_SWEEP: Duration = Duration::from_secs(1);
/// How often the clock is checked for a new day.
const RETENTION_TICK: Duration = Duration::from_secs(3600);

/// How often the table of unfinished uploads in parts is compared with the store.
const PARTS_TICK: Duration = Duration::from_secs(600);

/// Recovers the store when needed, until shutdown. After the store was opened again it closes all open files, because
/// they would keep the unmounted file system busy, and the new one may be a copy without them.
pub(super) async fn mend_store(store: Arc<dyn Store>, service: Arc<Service>, shutdown: Shutdown) {
    let mut openings = store.maintenance().openings();
    let forget = async {
        while openings.changed().await.is_ok() {
            service.api().files.forget_open();
        }
    };
    tokio::select! {
        () = shutdown.triggered() => {}
        () = store.maintenance().mend() => {}
        () = forget => {}
    }
}

/// Compares the table of unfinished uploads in parts with the store at intervals, and when the store was opened again:
/// another process may have begun, completed or removed uploads, and another mount may have others.
pub(super) async fn reconcile_parts(
    store: Arc<dyn Store>,
    service: Arc<Service>,
    shutdown: Shutdown,
) {
    let mut openings = store.maintenance().openings();
    loop {
        tokio::select! {
            () = shutdown.triggered() => return,
            () = tokio::time::sleep(PARTS_TICK) => {}
            Ok(()) = openings.changed() => {}
        }
        reconcile(&service).await;
    }
}

/// Compares the table of unfinished uploads in parts with the store once.
pub(super) async fn reconcile(service: &Service) {
    if let Err(error) = service.api().files.parts().reconcile().await {
        tracing::warn!(%error, "unfinished uploads in parts cannot be compared with the store");
    }
}

/// Binds the control socket. Returns `None` if the store is gone or cannot be written. Must be called within the
/// runtime.
pub(super) fn bind_control(store: &dyn Store, root: &Path) -> Result<Option<control::Listener>> {
    if let Err(error) = store.maintenance().check(Access::Write) {
        tracing::warn!(%error, "no control socket: `rm` and `serve --take-over` do not reach this server yet");
        return Ok(None);
    }
    control::bind(root).map(Some)
}

/// Serves the control socket.
pub(super) struct Commands {
    pub(super) service: Arc<Service>,
    pub(super) store: Arc<dyn Store>,
    /// The directory of the socket.
    pub(super) root: PathBuf,
    /// The name of this run.
    pub(super) server: String,
    /// `None`: nothing can be handed over.
    pub(super) descriptors: Option<Descriptors>,
    pub(super) shutdown: Shutdown,
    /// Stops the operator's listener.
    pub(super) ended: Shutdown,
}

impl Commands {
    /// Answers commands until shutdown. The socket lies in the store's directory, so a new one is bound after that was
    /// opened again.
    pub(super) async fn serve(self, control: Option<control::Listener>) {
        let mut openings = self.store.maintenance().openings();
        let mut control = control;
        loop {
            let opened_again = openings.changed();
            match control.take() {
                Some(listener) => {
                    let handover = self.handover(&listener);
                    let (service, server) = (self.service.clone(), self.server.clone());
                    let act = move |command| take_command(service.clone(), server.clone(), command);
                    tokio::select! {
                        () = control::serve(listener, act, handover, self.shutdown.clone()) => return,
                        _ = opened_again => {}
                    }
                }
                None => tokio::select! {
                    () = self.shutdown.triggered() => return,
                    _ = opened_again => {}
                },
            }
            control = bind_control(&*self.store, &self.root).unwrap_or_else(|error| {
                tracing::error!(%error, "no control socket: `rm` does not reach this server");
                None
            });
        }
    }

    fn handover(&self, control: &control::Listener) -> Option<Handover> {
        let lock = self.store.maintenance().handover()?;
        let descriptors = self.descriptors.as_ref()?;
        descriptors
            .with(control.as_fd(), lock.as_fd())
            .map(|descriptors| {
                Handover::new(descriptors, self.shutdown.clone(), self.ended.clone())
            })
            .inspect_err(|error| tracing::warn!(%error, "nothing can be handed over"))
            .ok()
    }
}

async fn take_command(
    service: Arc<Service>,
    server: String,
    command: control::Command,
) -> Result<String> {
    match command {
        control::Command::Name => Ok(server),
        control::Command::Remove(text) => {
            let id = ObjectId::parse(&text)
                .ok_or_else(|| Error::invalid(format!("{text} is no id of a file")))?;
            let actor = Actor {
                by: "command line, through the server",
                request: None,
            };
            match service.api().files.remove(id, actor).await? {
                true => Ok(format!("removed {id}")),
                false => Err(Error::invalid(format!("there is no file {id}"))),
            }
        }
    }
}

pub(super) async fn sweep_limiter(limiter: Arc<Limiter>, clock: Clock, shutdown: Shutdown) {
    while tokio::time::timeout(LIMITER_SWEEP, shutdown.triggered())
        .await
        .is_err()
    {
        // Locks each shard for microseconds, and takes milliseconds in all, so it does not run on a reactor thread.
        let (limiter, now) = (limiter.clone(), clock.monotonic());
        let _ = tokio::task::spawn_blocking(move || limiter.sweep(now)).await;
    }
}

/// Sweeps at start and when a new day has begun. Every hour in between, records the time, so that a jump of the clock
/// is noticed, and removes expired uploads in parts.
pub(super) async fn sweep_daily(
    store: Arc<dyn Store>,
    policy: Arc<ArcSwap<Policy>>,
    clock: Clock,
    shutdown: Shutdown,
) {
    let mut last_day = None;
    loop {
        let now = clock.now();
        let is_new_day = last_day != Some(now.day());
        let swept = match store.maintenance().check(Access::Write) {
            Err(error) => Err(error),
            Ok(()) if is_new_day => {
                let (policy, unwatched) = (policy.load_full(), Arc::default());
                retention::sweep(&*store, &policy, now, SweepMode::Remove, &unwatched).await
            }
            Ok(()) => {
                let kept = retention::keep_time(&*store, now).await;
                kept.map(|()| retention::Report::default())
            }
        };
        if swept.is_ok() {
            last_day = Some(now.day());
        }
        log_sweep(swept);
        if tokio::time::timeout(RETENTION_TICK, shutdown.triggered())
            .await
            .is_ok()
        {
            return;
        }
    }
}

fn log_sweep(swept: Result<retention::Report>) {
    match swept {
        Err(error) if matches!(error.kind(), Kind::Unavailable(_) | Kind::StorageFull) => {
            tracing::warn!(%error, "not swept: the store is gone or cannot be written");
        }
        Ok(report) => log_report(&report),
        Err(error) => tracing::error!(%error, "the sweep failed"),
    }
}

fn log_report(report: &retention::Report) {
    let (days, single_objects) = (report.days.join(" "), report.objects);
    let (part_uploads, bytes) = (report.part_uploads, report.volume.bytes);
    let objects = report.volume.objects;
    match report.refused {
        Some(why) => tracing::warn!(
            %why, days, single_objects, objects, bytes, part_uploads,
            "nothing was removed, because the clock may be wrong; if it is right, run `chatfiles sweep --yes`"
        ),
        None if report.is_empty() => {}
        None => tracing::info!(
            days,
            single_objects,
            objects,
            bytes,
            part_uploads,
            "removed what had expired"
        ),
    }
}
