//! Frees the space of expired objects: whole days if the files of all tenants have ended, single files if tenants
//! differ.
//!
//! A wrong clock must not delete anything. The store remembers the time of the last sweep; a sweep that finds itself
//! more than 48 hours away from it removes nothing until an operator confirms it.

use std::{collections::HashMap, time::Duration};

use crate::{
    error::Result,
    store::{Class, Cutoffs, ExpireMode, Store},
    tenant::Retention,
    time::{Day, MS_PER_DAY, Timestamp},
};

/// A clock that is further away from the last sweep is not trusted.
const JUMP_MS_MAX: i64 = 2 * MS_PER_DAY;
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
    /// Report what has expired, and remove nothing.
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
    /// Uploads in parts that were never completed.
    pub part_uploads: u64,
    /// Set if the clock is not trusted; nothing was removed then. Contains the distance to the last sweep in
    /// milliseconds, or `None` for a store that has files to remove and no record of a sweep.
    pub refused: Option<Option<i64>>,
}

impl Report {
    /// Whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.days.is_empty() && self.objects == 0 && self.part_uploads == 0
    }
}

/// Removes what had expired two days before `now`.
///
/// # Errors
/// Those of the store. What was removed until then stays removed.
pub async fn sweep(
    store: &dyn Store,
    policy: &Policy,
    now: Timestamp,
    mode: SweepMode,
) -> Result<Report> {
    let last = store.maintenance().last_sweep().await?;
    let jump_ms = last.map(|last| now.ms().saturating_sub(last.ms()));
    let is_trusted = mode != SweepMode::Remove || jump_ms.is_some_and(is_small);
    let expire_mode = match is_trusted && mode != SweepMode::Report {
        true => ExpireMode::Remove,
        false => ExpireMode::Report,
    };
    let mut report = expire(store, policy, now, expire_mode).await?;
    // A store with nothing to remove cannot lose anything: its record starts here.
    if !is_trusted && (last.is_some() || !report.is_empty()) {
        report.refused = Some(jump_ms);
    } else if mode != SweepMode::Report {
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
    if last.is_some_and(|last| is_small(now.ms().saturating_sub(last.ms()))) {
        store.parts().expire(now, ExpireMode::Remove).await?;
        store.maintenance().record_sweep(now).await?;
    }
    Ok(())
}

fn is_small(jump_ms: i64) -> bool {
    jump_ms.unsigned_abs() <= JUMP_MS_MAX.unsigned_abs()
}

async fn expire(
    store: &dyn Store,
    policy: &Policy,
    now: Timestamp,
    mode: ExpireMode,
) -> Result<Report> {
    let mut report = Report::default();
    for class in Class::ALL {
        let cutoffs = policy.cutoffs(class, now);
        let expired = store.maintenance().expire(class, cutoffs, mode).await?;
        let names = expired
            .days
            .iter()
            .map(|day| format!("{}/{day}", class.name()));
        report.days.extend(names);
        report.objects += expired.objects;
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
            let report = sweep(&store, &days(7), at(now), SweepMode::Remove)
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
            let report = sweep(&store, &policy, at("2099-01-01"), mode)
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
        let sweep = |mode| sweep(&store, &policy, at("2026-04-01"), mode);
        let jumped = sweep(SweepMode::Remove).await.unwrap();
        assert_eq!(jumped.refused, Some(Some(27 * MS_PER_DAY)));
        assert_eq!(jumped.days, ["chatfile/2026-03-01"]);
        let file = root.path().join("objects/chatfile/2026-03-01/00/x");
        assert!(file.exists());
        assert_eq!(store.last_sweep().await.unwrap(), Some(at("2026-03-05")));
        let told = sweep(SweepMode::RemoveConfirmed).await.unwrap();
        assert_eq!((told.refused, told.days.len()), (None, 1));
        assert!(!root.path().join("objects/chatfile/2026-03-01").exists());
    }

    #[tokio::test]
    async fn missing_record_needs_confirmation() {
        let root = store_with_day("2026-03-01");
        let (store, policy) = (attach(root.path()), days(7));
        let report = sweep(&store, &policy, at("2026-04-01"), SweepMode::Remove);
        assert_eq!(report.await.unwrap().refused, Some(None));
    }

    #[tokio::test]
    async fn report_removes_nothing() {
        let root = store_with_day("2026-03-01");
        let (store, policy) = (attach(root.path()), days(7));
        let report = sweep(&store, &policy, at("2026-04-01"), SweepMode::Report);
        assert_eq!(report.await.unwrap().days, ["chatfile/2026-03-01"]);
        let file = root.path().join("objects/chatfile/2026-03-01/00/x");
        assert!(file.exists());
    }

    #[tokio::test]
    async fn ignores_other_directories() {
        let root = store_with_day("lost+found");
        let mode = SweepMode::RemoveConfirmed;
        let (store, policy) = (attach(root.path()), days(1));
        let report = sweep(&store, &policy, at("2099-01-01"), mode);
        assert!(report.await.unwrap().is_empty());
    }
}
