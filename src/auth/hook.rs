//! The chat backend's own decision on who may do what: a tenant's hook, asked over HTTP.
//!
//! Only a clear yes lets anybody in: whatever goes wrong is [`Kind::Unavailable`]. This file bounds, shares
//! and remembers; `backend.rs` has the wire. Which calls are asked about, and with what, is the dialect's.

mod backend;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;
use quick_cache::{Weighter, sync::Cache};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::backend::{Answer, Backend};
use crate::{
    error::{Error, Kind, Result},
    settings::{number, seconds},
    tenant::{Hook, Tenant},
    time::Clock,
};

/// When a caller whose question was not answered may come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest time-out and the longest memory, whatever is configured: no moment so computed overflows.
const DURATION_MAX: Duration = Duration::from_secs(86_400);
/// What one entry of the cache may take with its texts of up to 64 bytes; longer texts count as more entries.
const ENTRY_BYTES: u64 = 512;
/// What an entry takes without its texts: key, answer, the cache's own links.
const ENTRY_BYTES_FIXED: u64 = 256;

/// How backends are asked, the same for all tenants: `[hook]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The whole of a question, waiting for a place included; at most a day.
    #[serde(rename = "timeout_seconds", deserialize_with = "seconds")]
    pub timeout: Duration,
    /// How long an answer is believed; zero = not kept, and not shared by those who ask at once. At most a day.
    #[serde(rename = "cache_seconds", deserialize_with = "cache_seconds")]
    pub cache: Duration,
    /// Answers kept; 512 bytes each at the most, so 32 MiB by default.
    #[serde(deserialize_with = "number::<1, 10_000_000, _, _>")]
    pub cache_entries_max: usize,
    /// Questions on their way at once, over all tenants; a blocking thread and a connection each. One tenant has
    /// half of them at the most: a backend that hangs leaves the others theirs.
    #[serde(deserialize_with = "number::<1, 64, _, _>")]
    pub in_flight_max: usize,
    /// Questions that wait for one of those places; one more is refused at once. Callers who wait for another's
    /// answer to the same question are not counted: they hold nothing but their own connection.
    #[serde(deserialize_with = "number::<0, 100_000, _, _>")]
    pub waiting_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(3),
            cache: Duration::from_secs(10),
            cache_entries_max: 65_536,
            in_flight_max: 32,
            waiting_max: 256,
        }
    }
}

fn cache_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    number::<0, 3600, _, _>(deserializer).map(Duration::from_secs)
}

/// What the user wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Upload a file for the recipient.
    Upload,
    /// Download a file that was sent to the recipient.
    Download,
    /// Pass a file on to the recipient.
    Forward,
    /// Set the picture of the group.
    GroupAvatar,
}

/// What the backend is asked. The texts have at most 64 bytes each, user names 128: the caller's check.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Question<'a> {
    /// Who wants to.
    pub user: &'a str,
    /// What.
    pub action: Action,
    /// What `to_id` names: 1 a user, 2 a group.
    pub to_type: u8,
    /// The user or the group that the file is or was sent to.
    pub to_id: &'a str,
    /// Who sent the file, where there is one already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<&'a str>,
}

impl Question<'_> {
    /// The code of a refusal that brings none of its own.
    fn default_code(&self) -> u32 {
        match (self.action, self.to_type) {
            (Action::GroupAvatar, _) => 20012,
            (_, 2) => 20002,
            _ => 10010,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    tenant: u32,
    action: Action,
    to_type: u8,
    user: Box<str>,
    to_id: Box<str>,
    from: Option<Box<str>>,
}

impl Key {
    fn new(tenant: &Tenant, question: &Question<'_>) -> Self {
        Self {
            tenant: tenant.index,
            action: question.action,
            to_type: question.to_type,
            user: question.user.into(),
            to_id: question.to_id.into(),
            from: question.from.map(Into::into),
        }
    }
}

#[derive(Clone, Copy)]
enum Verdict {
    Allowed,
    Denied { code: u32 },
}

/// A verdict, believed until then.
#[derive(Clone, Copy)]
struct Entry {
    verdict: Verdict,
    until: Instant,
}

/// In units of [`ENTRY_BYTES`], so that one bound holds for the entries and for their bytes.
#[derive(Clone)]
struct Weight;

impl Weighter<Key, Entry> for Weight {
    fn weight(&self, key: &Key, _: &Entry) -> u64 {
        let from = key.from.as_deref().unwrap_or_default();
        let text_bytes = (key.user.len() + key.to_id.len() + from.len()) as u64;
        (ENTRY_BYTES_FIXED + text_bytes).div_ceil(ENTRY_BYTES)
    }
}

/// Asks the tenants' backends.
///
/// The cache. Key: the tenant and all of the question. Bound: `cache_entries_max`, in bytes too. Staleness:
/// `cache` after the answer came, so what the backend decided is believed for at most `cache + timeout`; a
/// failure is not kept. Of those who ask the same at once one computes; where it fails the next one tries,
/// with the time that it has left itself.
pub struct Hooks {
    config: Config,
    clock: Clock,
    backend: Backend,
    answers: Cache<Key, Entry, Weight>,
    in_flight: Arc<Semaphore>,
    /// By tenant, its share of `in_flight`; as many as there are tenants with hooks that were asked.
    shares: DashMap<u32, Arc<Semaphore>>,
    /// Questions that wait for a permit of `in_flight`: at most `waiting_max`.
    waiting: AtomicUsize,
}

impl Hooks {
    /// Hooks with an empty cache; opens no connection.
    pub fn new(mut config: Config, clock: Clock) -> Self {
        config.timeout = config.timeout.min(DURATION_MAX);
        config.cache = config.cache.min(DURATION_MAX);
        config.in_flight_max = config.in_flight_max.clamp(1, Semaphore::MAX_PERMITS);
        let entries_max = config.cache_entries_max;
        Self {
            backend: Backend::new(config.in_flight_max, clock.clone()),
            answers: Cache::with_weighter(entries_max, entries_max as u64, Weight),
            in_flight: Arc::new(Semaphore::new(config.in_flight_max)),
            shares: DashMap::new(),
            waiting: AtomicUsize::new(0),
            config,
            clock,
        }
    }

    /// Whether the tenant's backend lets `question.user` do it; a tenant without a hook lets everybody.
    ///
    /// # Errors
    /// [`Kind::Denied`] where the backend says no: with its own code where that is 1 to 99,999 and not 200 (no
    /// refusal looks like a success), else 20012 for a group's avatar, 20002 for a group, 10010 for a user.
    /// [`Kind::Unavailable`] where there is no clear answer: no connection, no answer in time, another status
    /// than 200, no JSON object with a boolean `allow`, or too many questions waiting.
    ///
    /// # Cancel safety
    /// Dropping the future gives its place in the queue back, and the next who asks the same computes. A
    /// question that is on its way keeps its place among `in_flight_max` until its answer or its time-out, so
    /// that callers who give up cannot start more.
    pub async fn ask(&self, tenant: &Tenant, question: &Question<'_>) -> Result<()> {
        self.ask_at(tenant, question, self.clock.monotonic()).await
    }

    async fn ask_at(&self, tenant: &Tenant, question: &Question<'_>, asked: Instant) -> Result<()> {
        let Some(hook) = &tenant.hook else {
            return Ok(());
        };
        let deadline = asked + self.config.timeout;
        // Also over the wait for another's answer: a hundred who ask the same of a dead backend, one after the
        // other, would else wait a hundred time-outs.
        let verdict = self.verdict(tenant, hook, question, asked, deadline);
        match tokio::time::timeout_at(deadline.into(), verdict).await {
            Ok(Ok(Verdict::Allowed)) => Ok(()),
            Ok(Ok(Verdict::Denied { code })) => Err(Kind::Denied(code).into()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(unavailable(hook, "no answer in time")),
        }
    }

    async fn verdict(
        &self,
        tenant: &Tenant,
        hook: &Hook,
        question: &Question<'_>,
        asked: Instant,
        deadline: Instant,
    ) -> Result<Verdict> {
        if self.config.cache.is_zero() {
            return self.query(tenant, hook, question, deadline).await;
        }
        let key = Key::new(tenant, question);
        let compute = || async {
            let verdict = self.query(tenant, hook, question, deadline).await?;
            let until = self.clock.monotonic() + self.config.cache;
            Ok::<_, Error>(Entry { verdict, until })
        };
        loop {
            // The error of whoever computes is not shared: the next waiter computes again.
            let entry = self.answers.get_or_insert_async(&key, compute()).await?;
            // Against when it was asked: an answer that came after the question is never too old for it.
            if asked < entry.until {
                return Ok(entry.verdict);
            }
            self.answers.remove_if(&key, |kept| kept.until <= asked);
        }
    }

    async fn query(
        &self,
        tenant: &Tenant,
        hook: &Hook,
        question: &Question<'_>,
        deadline: Instant,
    ) -> Result<Verdict> {
        let body = body(tenant, question);
        let permit = self.permit(tenant, hook).await?;
        let (backend, moved) = (self.backend.clone(), hook.clone());
        let exchange = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            backend.exchange(&moved, &body, deadline)
        });
        // A panic's message is not taken over: it might show what it choked on.
        let answered = exchange
            .await
            .unwrap_or_else(|_| Err("the exchange did not end".into()));
        match answered.map_err(|cause| unavailable(hook, &cause))? {
            Answer::Allow => Ok(Verdict::Allowed),
            Answer::Deny(code) => Ok(Verdict::Denied {
                code: code.unwrap_or(question.default_code()),
            }),
        }
    }

    /// Of the tenant's share first, so that nobody waits among the others who could not go on anyway.
    async fn permit(&self, tenant: &Tenant, hook: &Hook) -> Result<[OwnedSemaphorePermit; 2]> {
        let half = self.config.in_flight_max.div_ceil(2);
        let share = self.shares.entry(tenant.index);
        let share = share.or_insert_with(|| Arc::new(Semaphore::new(half)));
        let both = [share.value().clone(), self.in_flight.clone()];
        drop(share);
        // Semaphores are fair: where anybody waits, this finds none.
        if let [Ok(own), Ok(permit)] = both.clone().map(Semaphore::try_acquire_owned) {
            return Ok([own, permit]);
        }
        let _place = Place::take(&self.waiting, self.config.waiting_max)
            .ok_or_else(|| unavailable(hook, "too many questions wait"))?;
        let [own, in_flight] = both.map(Semaphore::acquire_owned);
        let closed = "the semaphores are never closed";
        Ok([own.await.expect(closed), in_flight.await.expect(closed)])
    }
}

/// A place in the queue, given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, waiting_max: usize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < waiting_max).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn body(tenant: &Tenant, question: &Question<'_>) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        app_id: &'a str,
        #[serde(flatten)]
        question: &'a Question<'a>,
    }
    let name;
    let app_id = match &tenant.lanying {
        Some(lanying) => &lanying.app_id,
        None => {
            name = tenant.name();
            &name
        }
    };
    serde_json::to_string(&Body { app_id, question }).expect("texts and numbers are JSON")
}

/// For the log, with the host alone: the rest of a URL may hold a credential.
fn unavailable(hook: &Hook, cause: &str) -> Error {
    let host = backend::host(&hook.url);
    Error::new(Kind::Unavailable(RETRY_AFTER)).source(format!("the hook at {host}: {cause}"))
}

#[cfg(test)]
mod tests;
