//! Recovers a store that was gone or could not be written, by a trial write or by opening its directory again.
//!
//! One task tries on a timer while something is wrong. It writes nothing into a directory before that is known to be
//! this store.

use std::time::Duration;

use super::{LocalStore, startup};

/// The pause before the first trial write and after it. An upload that arrives during the pause is a better test.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause between two trials. Also how often the directory is checked while nothing is wrong.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Keeps trying to recover the store until the future is dropped. After a failed write it makes a trial write;
/// while the directory is gone or read-only, it opens the directory again.
///
/// The first trial write follows after one second, the next ones after pauses that double up to five seconds. A
/// directory that is gone is looked for at once. Trials run one at a time, so their cost does not depend on how
/// many uploads fail.
///
/// # Cancel safety
/// A trial that runs goes on to its end.
pub(super) async fn mend(store: &LocalStore) {
    loop {
        // The time-out makes sure that a missing directory is noticed without any request.
        let _ = tokio::time::timeout(PAUSE_MAX, store.layout.health.trouble()).await;
        let mut pause = PAUSE_MIN;
        if store.layout.health.troubles().writes.is_some() {
            tokio::time::sleep(pause).await;
        }
        loop {
            let store = store.clone();
            let tried = tokio::task::spawn_blocking(move || mend_once(&store));
            if tried.await.unwrap_or(false) {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }
}

/// Tries once. Returns whether the store works. Blocking.
fn mend_once(store: &LocalStore) -> bool {
    let (layout, opened) = (&store.layout, store.layout.opened());
    let health = &layout.health;
    match (opened.root.check(), &opened.writing) {
        (Ok(()), Ok(instance)) => {
            health.root_is_there();
            if !health.is_sound() {
                match instance.try_upload(layout.durability()) {
                    Ok(()) => health.write_succeeded(),
                    Err(error) => health.still_unwritable(format!("a trial write failed: {error}")),
                }
            }
        }
        (Ok(()), Err(_)) => {
            health.root_is_there();
            open_again(store);
        }
        (Err(why), _) => {
            health.root_is_gone(&why);
            open_again(store);
        }
    }
    health.is_sound()
}

fn open_again(store: &LocalStore) {
    let (layout, opened) = (&store.layout, store.layout.opened());
    let health = &layout.health;
    match startup::open_again(&opened, layout.durability()) {
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
                store.openings.send_modify(|count| *count += 1);
            }
        }
        Err(why) if opened.root.check().is_ok() => health.still_unwritable(why),
        Err(why) => health.still_gone(why),
    }
}
