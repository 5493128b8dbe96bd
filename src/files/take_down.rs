//! Takes a file down, and leaves an audit line, however it ends.

use super::Reference;
use crate::{
    error::{Error, Result},
    logging::{Actor, audit},
    store::{ObjectId, Store},
};

/// The action in the audit line.
const ACTION: &str = "take-down";

/// Removes an object under all its keys; `false` if there was none. A running server must use
/// [`super::Files::remove`], which also removes it from the caches. The audit line names the tenant if the object is
/// still stored under the day of its id.
///
/// # Errors
/// Those of the store.
///
/// # Cancel safety
/// Dropping the future may leave the object removed or not; the audit line says `interrupted`.
pub async fn take_down(store: &dyn Store, id: ObjectId, actor: Actor<'_>) -> Result<bool> {
    let mut line = AuditLine {
        id,
        tenant: tenant(store, id).await,
        actor,
        outcome: "interrupted",
    };
    let removed = store.remove(id).await;
    line.outcome = outcome(&removed);
    removed
}

/// The tenant of an object; empty if it is not found, or damaged, which does not stop its removal.
async fn tenant(store: &dyn Store, id: ObjectId) -> String {
    for key in Reference::from(id).keys() {
        if let Ok(Some(object)) = store.open(key).await {
            return object.meta.tenant.clone();
        }
    }
    String::new()
}

fn outcome(removed: &Result<bool, Error>) -> &'static str {
    match removed {
        Ok(true) => "removed",
        Ok(false) => "not found",
        Err(_) => "failed",
    }
}

/// Writes the line when dropped, so that there is one also if the caller goes away.
struct AuditLine<'a> {
    id: ObjectId,
    tenant: String,
    actor: Actor<'a>,
    outcome: &'static str,
}

impl Drop for AuditLine<'_> {
    fn drop(&mut self) {
        audit(ACTION, self.id, &self.tenant, self.actor, self.outcome);
    }
}
