//! Makes a value once for concurrent requests, without a long wait for the turn of another client.
//!
//! The first request makes the value, in the turn of its own tenant and client. That turn may come late, if they have many
//! jobs in the queue. So a request that has waited for [`SHARED_WAIT_MAX`] makes the value in its own turn.

use std::{
    collections::HashMap,
    hash::Hash,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use quick_cache::{Weighter, sync::Cache};
use tokio::sync::OwnedMutexGuard;

use crate::{
    error::{Error, Kind, Result},
    fair_queue::Claimant,
    files::pool::RETRY_AFTER,
    store::ObjectId,
};

/// The longest wait for a value that another request makes, before this request makes it as well.
const SHARED_WAIT_MAX: Duration = Duration::from_secs(1);
/// The longest wait for another request of the same claimant.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(10);

type Key = (ObjectId, Claimant);
type Lock = Arc<tokio::sync::Mutex<()>>;

/// Finds a value of an object in a cache, or makes it.
///
/// # Errors
/// The error of `make`. Waiting requests do not share it: the next of them makes the value again. `Unavailable` after
/// [`WAIT_MAX`].
///
/// # Cancel safety
/// Dropping the future cancels `make`. The next waiting request makes the value then.
pub(super) async fn once<K, V, W, F>(
    cache: &Cache<K, V, W>,
    key: K,
    claims: &Claims,
    (id, claimant): (ObjectId, Claimant),
    make: impl Fn() -> F,
) -> Result<V>
where
    K: Eq + Hash + Clone,
    V: Clone,
    W: Weighter<K, V> + Clone,
    F: Future<Output = Result<V>>,
{
    let is_ours = AtomicBool::new(false);
    {
        let mut shared = pin!(cache.get_or_insert_async(&key, async {
            is_ours.store(true, Ordering::Relaxed);
            make().await
        }));
        match tokio::time::timeout(SHARED_WAIT_MAX, &mut shared).await {
            Ok(found) => return found,
            Err(_) if is_ours.load(Ordering::Relaxed) => return shared.await,
            // The shared future is dropped here: if the first request fails, the cache passes the work to one that waits.
            Err(_) => {}
        }
    }
    let _claim = claims.claim(id, claimant).await?;
    if let Some(found) = cache.get(&key) {
        return Ok(found);
    }
    let made = make().await?;
    cache.insert(key, made.clone());
    Ok(made)
}

/// Lets one request of each claimant at a time work on an object. Requests of other claimants do not wait.
///
/// Memory: one entry per object and claimant with a request that works or waits.
#[derive(Default)]
pub(super) struct Claims(Mutex<HashMap<Key, Lock>>);

/// Permission to work on an object. Dropping it lets the next request start.
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    key: Key,
    /// `None` while waiting.
    held: Option<OwnedMutexGuard<()>>,
}

impl Claims {
    /// Waits until no other request of this claimant works on the object.
    ///
    /// # Errors
    /// `Unavailable` after [`WAIT_MAX`].
    ///
    /// # Cancel safety
    /// Dropping the future gives up the wait.
    pub(super) async fn claim(&self, id: ObjectId, claimant: Claimant) -> Result<Claim<'_>> {
        self.claim_within(id, claimant, WAIT_MAX).await
    }

    async fn claim_within(
        &self,
        id: ObjectId,
        claimant: Claimant,
        wait_max: Duration,
    ) -> Result<Claim<'_>> {
        let key = (id, claimant);
        let lock = self.0.lock().entry(key).or_default().clone();
        let mut claim = Claim {
            claims: self,
            key,
            held: None,
        };
        let held = tokio::time::timeout(wait_max, lock.lock_owned()).await;
        claim.held = Some(held.map_err(|_| {
            Error::from(Kind::Unavailable(RETRY_AFTER))
                .source("another request works on the same file for too long")
        })?);
        Ok(claim)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut entries = self.claims.0.lock();
        drop(self.held.take());
        // A waiting request has a reference of its own, which it took under the lock of the entries.
        let is_last = entries
            .get(&self.key)
            .is_some_and(|lock| Arc::strong_count(lock) == 1);
        if is_last {
            entries.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;
    use crate::time::Timestamp;

    fn id(last: u8) -> ObjectId {
        ObjectId::new(Timestamp::from_ms(1_795_000_123_456), &[last; 10])
    }

    fn claimant(last: u8) -> Claimant {
        Claimant::new(0, Ipv4Addr::new(192, 0, 2, last).into())
    }

    #[tokio::test]
    async fn serializes_callers_of_one_claimant() {
        let claims = Claims::default();
        let first = claims.claim(id(1), claimant(1)).await.unwrap();
        let mut second = pin!(claims.claim(id(1), claimant(1)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(second.as_mut().poll(&mut context).is_pending());
        for (id, claimant) in [(id(2), claimant(1)), (id(1), claimant(2))] {
            drop(claims.claim(id, claimant).await.unwrap());
        }
        drop(first);
        drop(second.await.unwrap());
        assert!(claims.0.lock().is_empty());
    }

    #[tokio::test]
    async fn refuses_after_the_longest_wait() {
        let claims = Claims::default();
        let first = claims.claim(id(1), claimant(1)).await.unwrap();
        let refused = claims
            .claim_within(id(1), claimant(1), Duration::ZERO)
            .await;
        let error = refused.err().expect("the claim is taken");
        assert!(matches!(error.kind(), Kind::Unavailable(_)));
        assert_eq!(claims.0.lock().len(), 1);
        drop(first);
        assert!(claims.0.lock().is_empty());
    }

    #[tokio::test]
    async fn makes_a_value_once() {
        let (cache, claims) = (Cache::new(10), Claims::default());
        let (made, mine) = (std::cell::Cell::new(0), (id(1), claimant(1)));
        let make = || async {
            made.set(made.get() + 1);
            tokio::task::yield_now().await;
            Ok(7)
        };
        let ask = || once(&cache, 1, &claims, mine, make);
        let found = tokio::join!(ask(), ask(), ask());
        assert!(matches!(found, (Ok(7), Ok(7), Ok(7))));
        assert_eq!(made.get(), 1);
    }

    /// The turn of the first request does not come while the others wait.
    #[tokio::test]
    async fn late_turn_delays_no_others() {
        let (cache, claims) = (Cache::new(10), Claims::default());
        let made = std::cell::Cell::new(0);
        let (late, turn) = tokio::sync::oneshot::channel::<()>();
        let turn = std::cell::Cell::new(Some(turn));
        let first = once(&cache, 1, &claims, (id(1), claimant(1)), || async {
            turn.take().expect("one call").await.expect("a turn");
            Ok(1)
        });
        let make = || async {
            made.set(made.get() + 1);
            Ok(2)
        };
        let others = async {
            let ask = || once(&cache, 1, &claims, (id(1), claimant(2)), make);
            let found = tokio::join!(ask(), ask(), ask());
            late.send(()).expect("it waits");
            found
        };
        let (first, others) = tokio::join!(first, others);
        assert!(matches!(others, (Ok(2), Ok(2), Ok(2))), "{others:?}");
        assert_eq!(made.get(), 1, "they make it once");
        assert_eq!(first.expect("its turn has come"), 1);
    }
}
