//! Frees the space of expired objects: whole days where every tenant's files have ended, single files where
//! tenants differ.
//!
//! A wrong clock must not delete anything: the last sweep's time is remembered on disk, and a sweep that
//! finds itself more than 48 hours away from it removes nothing until it is told to.

use std::{collections::HashMap, path::Path};

use crate::{
    error::Result,
    store::{
        Class,
        local::{self, DayDirectory, SweepMemory},
    },
    tenant::Retention,
    time::{MS_PER_DAY, Timestamp},
};

/// A clock this far from the last sweep is not believed.
const JUMP_MS_MAX: i64 = 2 * MS_PER_DAY;

/// Days of life by tenant.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// By the tenant's `org/app`.
    pub days_by_tenant: HashMap<String, Retention>,
    /// For files of tenants that are not configured any more.
    pub days_default: Retention,
}

/// What a sweep did, or would do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Day directories removed whole, as `class/YYYY-MM-DD`.
    pub days: Vec<String>,
    /// Single objects removed, of tenants with a shorter life than others.
    pub objects: u64,
    /// Uploads in parts that were never completed.
    pub part_uploads: u64,
    /// Set when the clock is not believed: how far it is from the last sweep, in milliseconds, or `None` for
    /// a store that has files to remove and no memory of a sweep. Then nothing was removed.
    pub refused: Option<Option<i64>>,
}

impl Report {
    /// Whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.days.is_empty() && self.objects == 0 && self.part_uploads == 0
    }
}

/// Removes what had expired a day before `now`. `confirmed` overrules a clock that is not believed;
/// `dry_run` only reports. Blocking.
///
/// # Errors
/// `Internal` where the disk refuses; what was removed until then stays removed.
pub fn sweep(
    root: &Path,
    policy: &Policy,
    now: Timestamp,
    confirmed: bool,
    dry_run: bool,
) -> Result<Report> {
    let memory = SweepMemory::of(root);
    let last = memory.read()?;
    let jump_ms = last.map(|last| now.ms().saturating_sub(last.ms()));
    let is_believed = confirmed || jump_ms.is_some_and(|jump| jump.abs() <= JUMP_MS_MAX);
    let mut report = walk(root, policy, now, dry_run || !is_believed)?;
    if !is_believed {
        // A store with nothing to remove cannot lose anything: its memory starts here.
        if last.is_some() || !report.is_empty() {
            report.refused = Some(jump_ms);
            return Ok(report);
        }
    }
    if !dry_run {
        local::gather_tombstones(root, now)?;
        memory.write(now)?;
    }
    Ok(report)
}

/// What is to be done between two sweeps, if the clock is believed: remembers that it went on to `now`, and
/// removes uploads in parts that were never completed. Blocking.
///
/// # Errors
/// `Internal` where the disk refuses.
pub fn keep_time(root: &Path, now: Timestamp) -> Result<()> {
    let memory = SweepMemory::of(root);
    let is_believed = |last: Timestamp| now.ms().abs_diff(last.ms()) <= JUMP_MS_MAX.unsigned_abs();
    if memory.read()?.is_some_and(is_believed) {
        local::sweep_parts(root, now)?;
        memory.write(now)?;
    }
    Ok(())
}

fn walk(root: &Path, policy: &Policy, now: Timestamp, dry_run: bool) -> Result<Report> {
    let mut report = Report::default();
    for class in Class::ALL {
        for day in local::days(root, class)? {
            if has_ended(&day, policy.longest(class), now) {
                if !dry_run {
                    local::remove_day(&day)?;
                }
                report.days.push(format!("{}/{}", class.name(), day.day));
            } else if has_ended(&day, policy.shortest(class), now) {
                report.objects += walk_day(root, policy, class, &day, now, dry_run)?;
            }
        }
    }
    report.part_uploads = if dry_run {
        local::expired_parts(root, now)?.len() as u64
    } else {
        local::sweep_parts(root, now)?
    };
    Ok(report)
}

/// A day in which some tenants' files have ended and others' have not.
fn walk_day(
    root: &Path,
    policy: &Policy,
    class: Class,
    day: &DayDirectory,
    now: Timestamp,
    dry_run: bool,
) -> Result<u64> {
    let mut objects = 0;
    local::visit_metas(root, class, day, &mut |key, meta| {
        let days = policy
            .days_by_tenant
            .get(&meta.tenant)
            .unwrap_or(&policy.days_default);
        if has_ended(day, days.days(class), now) {
            if !dry_run {
                local::remove_object(root, key)?;
            }
            objects += 1;
        }
        Ok(())
    })?;
    Ok(objects)
}

/// Whether everything of the day had expired so long ago that no clock which is believed ([`JUMP_MS_MAX`])
/// could be wrong about it, and no download of it is still running.
fn has_ended(day: &DayDirectory, days: u32, now: Timestamp) -> bool {
    let slack_days = u32::try_from(JUMP_MS_MAX / MS_PER_DAY).expect("two days");
    days > 0 && day.day.end().plus_days(days).plus_days(slack_days) <= now
}

impl Policy {
    fn all(&self, class: Class) -> impl Iterator<Item = u32> {
        self.days_by_tenant
            .values()
            .chain([&self.days_default])
            .map(move |days| days.days(class))
    }

    /// The longest life that any file of the class has; 0 = for ever.
    fn longest(&self, class: Class) -> u32 {
        if self.all(class).any(|days| days == 0) {
            0
        } else {
            self.all(class).max().unwrap_or(0)
        }
    }

    /// The shortest life that any file of the class has; 0 where all live for ever.
    fn shortest(&self, class: Class) -> u32 {
        self.all(class).filter(|days| *days > 0).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn store_with_day(day: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for tree in ["objects", "derived"] {
            let spread = root.path().join(tree).join("chatfile").join(day).join("00");
            fs::create_dir_all(&spread).unwrap();
            fs::write(spread.join("x"), "x").unwrap();
        }
        root
    }

    fn at(day: &str) -> Timestamp {
        crate::time::Day::parse(day).unwrap().start()
    }

    fn days(chatfile: u32) -> Policy {
        Policy {
            days_default: Retention::default().with(Class::Chatfile, chatfile),
            ..Policy::default()
        }
    }

    #[test]
    fn a_day_is_removed_whole_two_days_after_its_last_file_expired() {
        for (now, removed) in [("2026-03-10", false), ("2026-03-11", true)] {
            let root = store_with_day("2026-03-01");
            SweepMemory::of(root.path()).write(at(now)).unwrap();
            let report = sweep(root.path(), &days(7), at(now), false, false).unwrap();
            assert_eq!(report.days.len() == 1, removed, "{now}");
            assert_eq!(
                !root.path().join("objects/chatfile/2026-03-01").exists(),
                removed
            );
            assert_eq!(
                !root.path().join("derived/chatfile/2026-03-01").exists(),
                removed
            );
        }
    }

    #[test]
    fn files_that_live_for_ever_are_never_removed() {
        let root = store_with_day("2026-03-01");
        assert!(
            sweep(root.path(), &days(0), at("2099-01-01"), true, false)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn a_clock_that_jumped_removes_nothing_until_told() {
        let root = store_with_day("2026-03-01");
        let memory = SweepMemory::of(root.path());
        memory.write(at("2026-03-05")).unwrap();
        let jumped = sweep(root.path(), &days(7), at("2026-04-01"), false, false).unwrap();
        assert_eq!(jumped.refused, Some(Some(27 * MS_PER_DAY)));
        assert_eq!(jumped.days, ["chatfile/2026-03-01"]);
        assert!(
            root.path()
                .join("objects/chatfile/2026-03-01/00/x")
                .exists()
        );
        assert_eq!(memory.read().unwrap(), Some(at("2026-03-05")));
        let told = sweep(root.path(), &days(7), at("2026-04-01"), true, false).unwrap();
        assert_eq!((told.refused, told.days.len()), (None, 1));
        assert!(!root.path().join("objects/chatfile/2026-03-01").exists());
    }

    #[test]
    fn a_store_with_files_but_no_memory_waits_to_be_told() {
        let root = store_with_day("2026-03-01");
        assert_eq!(
            sweep(root.path(), &days(7), at("2026-04-01"), false, false)
                .unwrap()
                .refused,
            Some(None)
        );
    }

    #[test]
    fn a_dry_run_reports_and_removes_nothing() {
        let root = store_with_day("2026-03-01");
        let report = sweep(root.path(), &days(7), at("2026-04-01"), true, true).unwrap();
        assert_eq!(report.days, ["chatfile/2026-03-01"]);
        assert!(
            root.path()
                .join("objects/chatfile/2026-03-01/00/x")
                .exists()
        );
    }

    #[test]
    fn what_is_no_day_is_left_alone() {
        let root = store_with_day("lost+found");
        assert!(
            sweep(root.path(), &days(1), at("2099-01-01"), true, false)
                .unwrap()
                .is_empty()
        );
    }
}
