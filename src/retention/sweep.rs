//! Frees the space of expired objects: whole days if the files of all tenants have ended, single files if tenants
//! differ.
//!
//! A wrong clock must not delete anything. The store remembers the time of the last sweep; a sweep that finds itself
//! more than 48 hours away from it removes nothing until an operator confirms it.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use crate::{
    error::Result,
    store::{Class, Cutoffs, ExpireMode, Progress, Store, Volume},
    tenant::Retention,
    time::{Day, MS_PER_DAY, Timestamp},
};

/// A clock that is further away from the last sweep is not trusted.
const JUMP_MS_MAX: i64 = 2 * MS_PER_DAY;
const MS_PER_HOUR: u64 = 3_600_000;
/// Days that expired objects stay on disk, so that no trusted clock can be wrong about them, and no download of them is
/// still running.
const SLACK_DAYS: u32 = 2;

/// Retention by tenant.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// By the tenant's `org/app`.
    pub days_by_tenant: HashMap<String, Retention>,
    /// For files of tenants that are not configured any more.
    pub days_default: Retention,
}

/// What a sweep may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepMode {
    /// Report what has expired and whether `Remove` would refuse to remove it, and remove nothing.
    Report,
    /// Remove what has expired if the clock is trusted.
    Remove,
    /// Remove what has expired. The operator has confirmed the clock.
    RemoveConfirmed,
}

/// What a sweep did, or would do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Days removed whole, as `class/YYYY-MM-DD`.
    pub days: Vec<String>,
    /// Single objects removed, of tenants with a shorter retention than others.
    pub objects: u64,
    /// All objects removed, those of whole days too.
    pub volume: Volume,
    /// Uploads in parts that were never completed.
    pub part_uploads: u64,
    /// Set if the clock is not trusted: nothing was removed, and nothing will be until an operator confirms the clock.
    pub refused: Option<Refusal>,
}

/// Why a sweep does not trust the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The store has files to remove, and no record of an earlier sweep.
    NoRecord,
    /// This many milliseconds have passed since the last sweep; negative if the last sweep is in the future.
    Jump(i64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Jump(ms) = self else {
            return f.write_str("there is no record of an earlier sweep");
        };
        let hours = ms.unsigned_abs() / MS_PER_HOUR;
        let (number, unit) = match hours {
            0..=95 => (hours, "hours"),
            _ => (hours / 24, "days"),
        };
        match *ms < 0 {
            true => write!(f, "the last sweep is {number} {unit} in the future"),
            false => write!(f, "the last sweep was {number} {unit} ago"),
        }
    }
}

impl Report {
    /// Whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.days.is_empty() && self.objects == 0 && self.part_uploads == 0
    }
}

/// Removes what had expired two days before `now`. Counts the removed objects in `progress`.
///
/// # Errors
/// Those of the store. What was removed until then stays removed.
pub async fn sweep(
    store: &dyn Store,
    policy: &Policy,
    now: Timestamp,
    mode: SweepMode,
    progress: &Arc<Progress>,
) -> Result<Report> {
    let last = store.maintenance().last_sweep().await?;
    let doubt = match mode {
        SweepMode::RemoveConfirmed => None,
        SweepMode::Report | SweepMode::Remove => doubt(last, now),
    };
    let expire_mode = match doubt.is_none() && mode != SweepMode::Report {
        true => ExpireMode::Remove,
        false => ExpireMode::Report,
    };
    let mut report = expire(store, policy, now, expire_mode, progress).await?;
    // A store with nothing to remove cannot lose anything: its record starts here.
    report.refused = doubt.filter(|doubt| *doubt != Refusal::NoRecord || !report.is_empty());
    if report.refused.is_none() && mode != SweepMode::Report {
        store.maintenance().record_sweep(now).await?;
    }
    Ok(report)
}

/// Runs between two sweeps. If the clock is trusted, records that it has reached `now`, and removes uploads in parts
/// that have expired.
///
/// # Errors
/// Those of the store.
pub async fn keep_time(store: &dyn Store, now: Timestamp) -> Result<()> {
    let last = store.maintenance().last_sweep().await?;
    if doubt(last, now).is_none() {
        store.parts().expire(now, ExpireMode::Remove).await?;
        store.maintenance().record_sweep(now).await?;
    }
    Ok(())
}

/// Why the clock is not trusted, if it is not. All commands and the server use this rule.
fn doubt(last: Option<Timestamp>, now: Timestamp) -> Option<Refusal> {
    let Some(last) = last else {
        return Some(Refusal::NoRecord);
    };
    let jump_ms = now.ms().saturating_sub(last.ms());
    let is_small = jump_ms.unsigned_abs() <= JUMP_MS_MAX.unsigned_abs();
    (!is_small).then_some(Refusal::Jump(jump_ms))
}

async fn expire(
    store: &dyn Store,
    policy: &Policy,
    now: Timestamp,
    mode: ExpireMode,
    progress: &Arc<Progress>,
) -> Result<Report> {
    let mut report = Report::default();
    for class in Class::ALL {
        let cutoffs = policy.cutoffs(class, now);
        let maintenance = store.maintenance();
        let expired = maintenance.expire(class, cutoffs, mode, progress.clone());
        let expired = expired.await?;
        let names = expired
            .days
            .iter()
            .map(|day| format!("{}/{day}", class.name()));
        report.days.extend(names);
        report.objects += expired.objects;
        report.volume += expired.volume;
    }
    report.part_uploads = store.parts().expire(now, mode).await?;
    Ok(report)
}

impl Policy {
    fn cutoffs(&self, class: Class, now: Timestamp) -> Cutoffs {
        let first_kept = |retention: &Retention| first_kept(retention.days(class), now);
        let by_tenant = self.days_by_tenant.iter();
        Cutoffs {
            by_tenant: by_tenant
                .map(|(tenant, retention)| (tenant.clone(), first_kept(retention)))
                .collect(),
            others: first_kept(&self.days_default),
        }
    }
}

/// The first day whose files are kept: an earlier day had ended `days` and [`SLACK_DAYS`] ago. `None` if files are kept
/// for ever (`days` is 0).
fn first_kept(days: u32, now: Timestamp) -> Option<Day> {
    let age_secs = (u64::from(days) + u64::from(SLACK_DAYS)) * 86_400;
    (days > 0).then(|| now.minus(Duration::from_secs(age_secs)).day())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::store::{
        Maintenance,
        local::{self, LocalStore},
    };

    fn store_with_day(day: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for tree in ["objects", "derived"] {
            let spread = root.path().join(tree).join("chatfile").join(day).join("00");
            fs::create_dir_all(&spread).unwrap();
            fs::write(spread.join("x"), "x").unwrap();
        }
        root
    }

    fn attach(root: &Path) -> LocalStore {
        let config = local::Config {
            path: root.to_owned(),
            ..local::Config::default()
        };
        LocalStore::attach(&config).unwrap().unwrap()
    }

    fn at(day: &str) -> Timestamp {
        Day::parse(day).unwrap().start()
    }

    fn idle() -> Arc<Progress> {
        Arc::default()
    }

    fn days(chatfile: u32) -> Policy {
        Policy {
            days_default: Retention::default().with(Class::Chatfile, chatfile),
            ..Policy::default()
        }
    }

    #[tokio::test]
    async fn removes_days_two_days_after_expiry() {
        for (now, removed) in [("2026-03-10", false), ("2026-03-11", true)] {
            let root = store_with_day("2026-03-01");
            let store = attach(root.path());
            store.record_sweep(at(now)).await.unwrap();
            let report = sweep(&store, &days(7), at(now), SweepMode::Remove, &idle())
                .await
                .unwrap();
            assert_eq!(report.days.len() == 1, removed, "{now}");
            for tree in ["objects", "derived"] {
                let day = root.path().join(tree).join("chatfile/2026-03-01");
                assert_eq!(!day.exists(), removed);
            }
        }
    }

    #[tokio::test]
    async fn keeps_files_with_unlimited_retention() {
        let root = store_with_day("2026-03-01");
        for days_kept in [0, u32::MAX] {
            let mode = SweepMode::RemoveConfirmed;
            let (store, policy) = (attach(root.path()), days(days_kept));
            let report = sweep(&store, &policy, at("2099-01-01"), mode, &idle())
                .await
                .unwrap();
            assert!(report.is_empty(), "{days_kept}");
        }
    }

    #[tokio::test]
    async fn clock_jump_needs_confirmation() {
        let root = store_with_day("2026-03-01");
        let store = attach(root.path());
        store.record_sweep(at("2026-03-05")).await.unwrap();
        let policy = days(7);
        let progress = idle();
        let sweep = |mode| sweep(&store, &policy, at("2026-04-01"), mode, &progress);
        let jumped = sweep(SweepMode::Remove).await.unwrap();
        let refused = Some(Refusal::Jump(27 * MS_PER_DAY));
        assert_eq!(jumped.refused, refused);
        // A report says the same.
        let planned = sweep(SweepMode::Report).await.unwrap();
        assert_eq!((planned.refused, &planned.days), (refused, &jumped.days));
        assert_eq!(jumped.days, ["chatfile/2026-03-01"]);
        let file = root.path().join("objects/chatfile/2026-03-01/00/x");
        assert!(file.exists());
        assert_eq!(store.last_sweep().await.unwrap(), Some(at("2026-03-05")));
        let told = sweep(SweepMode::RemoveConfirmed).await.unwrap();
        assert_eq!((told.refused, told.days.len()), (None, 1));
        let volume = Volume {
            objects: 1,
            bytes: 1,
        };
        assert_eq!((told.volume, progress.done()), (volume, volume));
        assert!(!root.path().join("objects/chatfile/2026-03-01").exists());
    }

    #[test]
    fn doubts_clock_beyond_48_hours() {
        let hours = |hours: i64| Timestamp::from_ms(hours * 3_600_000);
        let now = hours(10_000);
        for (last, text) in [
            (10_000, None),
            (10_000 - 48, None),
            (10_000 + 48, None),
            (10_000 - 49, Some("the last sweep was 49 hours ago")),
            (
                10_000 + 49,
                Some("the last sweep is 49 hours in the future"),
            ),
            (10_000 - 24 * 27, Some("the last sweep was 27 days ago")),
            (
                10_000 + 24 * 27,
                Some("the last sweep is 27 days in the future"),
            ),
        ] {
            let refusal = doubt(Some(hours(last)), now).map(|why| why.to_string());
            assert_eq!(refusal.as_deref(), text, "{last}");
        }
        assert_eq!(doubt(None, now), Some(Refusal::NoRecord));
    }

    #[tokio::test]
    async fn missing_record_needs_confirmation() {
        let root = store_with_day("2026-03-01");
        let (store, policy) = (attach(root.path()), days(7));
        for mode in [SweepMode::Report, SweepMode::Remove] {
            let progress = idle();
            let report = sweep(&store, &policy, at("2026-04-01"), mode, &progress);
            assert_eq!(report.await.unwrap().refused, Some(Refusal::NoRecord));
        }
    }

    #[tokio::test]
    async fn report_removes_nothing() {
        let root = store_with_day("2026-03-01");
        let (store, policy) = (attach(root.path()), days(7));
        let progress = idle();
        let report = sweep(
            &store,
            &policy,
            at("2026-04-01"),
            SweepMode::Report,
            &progress,
        );
        assert_eq!(report.await.unwrap().days, ["chatfile/2026-03-01"]);
        let file = root.path().join("objects/chatfile/2026-03-01/00/x");
        assert!(file.exists());
    }

    #[tokio::test]
    async fn ignores_other_directories() {
        let root = store_with_day("lost+found");
        let mode = SweepMode::RemoveConfirmed;
        let (store, policy) = (attach(root.path()), days(1));
        let progress = idle();
        let report = sweep(&store, &policy, at("2099-01-01"), mode, &progress);
        assert!(report.await.unwrap().is_empty());
    }
}
