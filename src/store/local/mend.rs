//! Brings a store back that was gone or could not be written: a trial write, or its directory opened again.
//!
//! Tried by one task, on a timer, for as long as something is wrong. Nothing is made in a directory that is not known
//! to be this store's.

use std::time::Duration;

use super::{LocalStore, startup};

/// Before the first trial write, and before the next one: uploads that come meanwhile are the better trial.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Between two trials at the most, and between two looks at a store that nothing is known to be wrong with.
const PAUSE_MAX: Duration = Duration::from_secs(5);

impl LocalStore {
    /// Looks after the store until the future is dropped: while the last write has failed, writes for a trial; while
    /// the directory is gone or read-only, opens it again. Tries after one second, then after pauses that double up to
    /// five; a directory that is gone is looked for at once. One at a time, so trials cost a few syncs a second at
    /// the most, however many uploads fail.
    ///
    /// # Cancel safety
    /// A trial that runs goes on to its end.
    pub async fn mend(&self) {
        loop {
            // Without a trouble that somebody met, a look at the directory now and then.
            let _ = tokio::time::timeout(PAUSE_MAX, self.layout.health.trouble()).await;
            let mut pause = PAUSE_MIN;
            if self.troubles().writes.is_some() {
                tokio::time::sleep(pause).await;
            }
            loop {
                let store = self.clone();
                let tried = tokio::task::spawn_blocking(move || store.mend_once());
                if tried.await.unwrap_or(false) {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(PAUSE_MAX);
            }
        }
    }

    /// Returns whether all is well. Blocking.
    fn mend_once(&self) -> bool {
        let (layout, opened) = (&self.layout, self.layout.opened());
        let health = &layout.health;
        match (opened.root.check(), &opened.writing) {
            (Ok(()), Ok(instance)) => {
                health.root_is_there();
                if !health.is_sound() {
                    match instance.try_upload(layout.durability()) {
                        Ok(()) => health.write_succeeded(),
                        Err(error) => {
                            health.still_unwritable(format!("a trial write failed: {error}"))
                        }
                    }
                }
            }
            (Ok(()), Err(_)) => {
                health.root_is_there();
                self.open_again();
            }
            (Err(why), _) => {
                health.root_is_gone(&why);
                self.open_again();
            }
        }
        health.is_sound()
    }

    fn open_again(&self) {
        let (layout, opened) = (&self.layout, self.layout.opened());
        let health = &layout.health;
        match startup::open_again(&opened, layout.durability(), &self.name) {
            Ok(again) => {
                let is_new = !again.root.is_same_mount(&opened.root) || again.writing.is_ok();
                let unwritable = again.writing.as_ref().err().cloned();
                // Before the health: who is told that the store is well must find it opened.
                layout.set_opened(again);
                match unwritable {
                    None => health.write_succeeded(),
                    Some(why) => health.still_unwritable(why),
                }
                health.root_is_there();
                if is_new {
                    self.openings.send_modify(|count| *count += 1);
                }
            }
            Err(why) if opened.root.check().is_ok() => health.still_unwritable(why),
            Err(why) => health.still_gone(why),
        }
    }
}
