//! The chat backend's own decision on who may do what: a tenant's hook, asked over HTTP.
//!
//! Only a clear yes lets anybody in: whatever goes wrong is [`Kind::Unavailable`]. This file bounds, shares
//! and remembers; `backend.rs` has the wire. Which calls are asked about, and with what, is the dialect's.

mod backend;

use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use quick_cache::{Weighter, sync::Cache};
use serde::Serialize;

use self::backend::{Answer, Backend};
use crate::{
    error::{Error, Kind, Result},
    fair_queue::{self, Claimant, FairQueue},
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

/// How backends are asked, the same for all tenants.
#[derive(Debug, Clone)]
pub struct Config {
    /// The whole of a question, waiting for a place included; at most a day.
    pub timeout: Duration,
    /// How long an answer is believed; zero = not kept, and not shared by those who ask at once. At most a day.
    pub cache: Duration,
    /// Answers kept; 512 bytes each at the most, so 32 MiB by default.
    pub cache_entries_max: usize,
    /// Questions on their way at once, over all tenants, with a connection each. One tenant has half of them at the
    /// most: a backend that hangs leaves the others theirs.
    pub in_flight_max: usize,
    /// Questions that wait for one of those places; one more is refused at once. Callers who wait for another's
    /// answer to the same question are not counted: they hold nothing but their own connection.
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
    /// Questions that run and wait, shared by tenants: a tenant has half of the running ones at most, and the places of
    /// the others in the queue are not its own.
    questions: FairQueue,
}

impl Hooks {
    /// Hooks with an empty cache; opens no connection.
    pub fn new(mut config: Config, clock: Clock) -> Self {
        config.timeout = config.timeout.min(DURATION_MAX);
        config.cache = config.cache.min(DURATION_MAX);
        let entries_max = config.cache_entries_max;
        Self {
            backend: Backend::new(config.in_flight_max, config.timeout, clock.clone()),
            answers: Cache::with_weighter(entries_max, entries_max as u64, Weight),
            questions: FairQueue::new(fair_queue::Config {
                jobs_max: config.in_flight_max,
                tenant_jobs_max: config.in_flight_max.div_ceil(2),
                waiting_max: config.waiting_max,
                ..fair_queue::Config::default()
            }),
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
        // Of all clients of a tenant together: what is asked depends on the user, whatever the client.
        let claimant = Claimant::new(tenant.index, Ipv6Addr::UNSPECIFIED.into());
        let permit = self.questions.acquire(claimant, 0).await;
        let permit = permit.map_err(|_| unavailable(hook, "too many questions wait"))?;
        let (backend, moved) = (self.backend.clone(), hook.clone());
        // A task of its own, which ends by the deadline: a caller that gives up does not free the permit.
        let exchange = tokio::spawn(async move {
            let _permit = permit;
            backend.exchange(&moved, &body, deadline).await
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
