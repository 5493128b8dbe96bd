//! Asks a tenant's chat backend over HTTP whether a user may do something: the tenant's hook.
//!
//! Fails closed: anything but a clear yes is a refusal, and every fault is [`Kind::Unavailable`]. This file has the
//! queue and the cache, `backend.rs` the HTTP exchange. The APIs decide which calls need a question.

mod backend;

use std::time::{Duration, Instant};

use quick_cache::{Weighter, sync::Cache};
use serde::{Deserialize, Deserializer, Serialize};

use self::backend::{Answer, Backend};
use super::exchange::{self, Exchanges, Failure};
use crate::{
    error::{Error, Kind, Result},
    fair_queue::Claimant,
    settings::{number, seconds, seconds_in},
    tenant::{Hook, Tenant},
    time::Clock,
    trace_parent::TraceParent,
};

/// `Retry-After` if there is no answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Maximum for the time-out and the cache time, so that adding them to a time cannot overflow.
const DURATION_MAX: Duration = Duration::from_secs(86_400);
/// Size of a cache entry with texts of up to 64 bytes. An entry with longer texts counts as several.
const ENTRY_BYTES: u64 = 512;
/// Size of an entry without its texts: key, answer, and the links of the cache.
const ENTRY_BYTES_FIXED: u64 = 256;

/// The settings for all tenants: `[hook]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Maximum time of a question, including the wait in the queue. At most a day.
    #[serde(rename = "timeout_seconds", deserialize_with = "seconds")]
    pub timeout: Duration,
    /// How long an answer is cached. Zero = it is not cached, and concurrent callers do not share it. At most a day.
    #[serde(rename = "cache_seconds", deserialize_with = "cache_seconds")]
    pub cache: Duration,
    /// Maximum number of cached answers, of at most 512 bytes each: 32 MiB by default.
    #[serde(deserialize_with = "number::<1, 10_000_000, _, _>")]
    pub cache_entries_max: usize,
    /// Maximum number of concurrent questions of all tenants, each with a connection. One tenant has at most half of
    /// them, so a backend that hangs leaves the rest to the others.
    #[serde(deserialize_with = "number::<1, 64, _, _>")]
    pub in_flight_max: usize,
    /// Maximum number of waiting questions. In a full queue, the tenant with the most waiting questions loses one.
    /// Callers that wait for another caller's answer to the same question do not count.
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
    seconds_in::<0, 3600, _, _>(deserializer).map(Duration::from_secs)
}

/// The action that the user wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Upload a file for the recipient.
    Upload,
    /// Download a file that was sent to the recipient.
    Download,
    /// Forward a file to the recipient.
    Forward,
    /// Set the picture of the group.
    GroupAvatar,
}

/// A question to the backend. The caller ensures that texts have at most 64 bytes, and user names at most 128.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Question<'a> {
    /// The user who wants to do it.
    pub user: &'a str,
    /// The action.
    pub action: Action,
    /// The kind of `to_id`: 1 = user, 2 = group.
    pub to_type: u8,
    /// The user or the group that the file is sent to.
    pub to_id: &'a str,
    /// The sender of the file, if it exists already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<&'a str>,
    /// The trace of the request, passed on in a header. Callers with the same question share an answer, and the backend
    /// sees the trace of the one that asks.
    #[serde(skip)]
    pub trace: Option<TraceParent>,
}

impl Question<'_> {
    /// The error code of a refusal without a code of its own.
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

/// A cached verdict, and its expiry.
#[derive(Clone, Copy)]
struct Entry {
    verdict: Verdict,
    until: Instant,
}

/// Weighs entries in units of [`ENTRY_BYTES`], so that one bound limits their number and their bytes.
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
/// The cache. Key: the tenant and the whole question. Bound: `cache_entries_max`, which limits bytes too. Staleness:
/// `cache` after the answer, so a decision of the backend is used for at most `cache + timeout`. Faults are not cached.
/// Of concurrent callers with the same question, one asks. If that fails, the next one asks, within its own time-out.
pub struct Hooks {
    config: Config,
    clock: Clock,
    backend: Backend,
    answers: Cache<Key, Entry, Weight>,
    /// Running and waiting questions, fair by tenant.
    exchanges: Exchanges,
}

impl Hooks {
    /// Creates hooks with an empty cache. Opens no connection.
    pub fn new(mut config: Config, clock: Clock) -> Self {
        config.timeout = config.timeout.min(DURATION_MAX);
        config.cache = config.cache.min(DURATION_MAX);
        let entries_max = config.cache_entries_max;
        Self {
            backend: Backend::new(config.timeout, clock.clone()),
            answers: Cache::with_weighter(entries_max, entries_max as u64, Weight),
            exchanges: Exchanges::new(config.in_flight_max, config.waiting_max),
            config,
            clock,
        }
    }

    /// Asks whether `question.user` may do it. A tenant without a hook allows everything.
    ///
    /// # Errors
    /// [`Kind::Denied`] if the backend says no. The code is the backend's if it is 1–99,999 and not 200 (a refusal must
    /// not look like a success), or else 20012 for a group's avatar, 20002 for a group, 10010 for a user.
    /// [`Kind::Unavailable`] without a clear answer: no connection, no answer in time, a status other than 200, a body
    /// that is not a JSON object with a boolean `allow`, or too many waiting questions.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue, and the next caller with the same question asks. A running question counts
    /// for `in_flight_max` until its answer or its time-out, so that callers that give up cannot start more of them.
    pub async fn ask(&self, tenant: &Tenant, question: &Question<'_>) -> Result<()> {
        self.ask_at(tenant, question, self.clock.monotonic()).await
    }

    async fn ask_at(&self, tenant: &Tenant, question: &Question<'_>, asked: Instant) -> Result<()> {
        let Some(hook) = &tenant.hook else {
            return Ok(());
        };
        let deadline = asked + self.config.timeout;
        // Also limits the wait for another caller's answer. Otherwise, with a dead backend, a hundred callers with the
        // same question would ask one after the other, and the last one would wait for a hundred time-outs.
        // On the heap: every connection has room for its largest request, and most requests ask nobody.
        let verdict = Box::pin(self.verdict(tenant, hook, question, asked, deadline));
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
            // An error is not shared: the next caller asks again.
            let entry = self.answers.get_or_insert_async(&key, compute()).await?;
            // Compared with the time of the question: an answer that came after it is never too old.
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
        let (body, trace) = (body(tenant, question), question.trace);
        let claimant = Claimant::whole_tenant(tenant.index);
        let (backend, moved) = (self.backend.clone(), hook.clone());
        // Ends by the deadline.
        let exchange = async move { backend.exchange(&moved, &body, trace, deadline).await };
        let answered = self.exchanges.run(claimant, exchange).await;
        match answered.map_err(|failure| match failure {
            Failure::Refused => unavailable(hook, "too many questions wait"),
            Failure::Failed(cause) => unavailable(hook, &cause),
        })? {
            Answer::Allow => Ok(Verdict::Allowed),
            Answer::Deny(code) => Ok(Verdict::Denied {
                code: code.unwrap_or(question.default_code()),
            }),
        }
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

/// An error for the log. It names only the host, since the rest of the URL may contain a credential.
fn unavailable(hook: &Hook, cause: &str) -> Error {
    let host = exchange::host(&hook.url);
    Error::new(Kind::Unavailable(RETRY_AFTER)).source(format!("the hook at {host}: {cause}"))
}

#[cfg(test)]
mod tests;
