//! Answers of completions, kept for a while: a client that lost its answer asks again.
//!
//! Key: the id of the upload, and its user. Bound: a number of answers, the oldest go first. Staleness: a file that was
//! taken down meanwhile is answered all the same, as it was to whoever had its answer in time.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::is_same_user;
use crate::{files::Stored, limit::Owner, store::ObjectId};

/// Answers at the most: a few hundred bytes each.
const ANSWERS_MAX: usize = 4096;
/// How long each is kept.
const KEPT_FOR: Duration = Duration::from_secs(600);

#[derive(Default)]
pub(super) struct Completed {
    answers: HashMap<ObjectId, Answer>,
    /// Oldest first.
    order: VecDeque<ObjectId>,
}

struct Answer {
    owner: Owner,
    stored: Arc<Stored>,
    at: Instant,
}

impl Completed {
    pub(super) fn remember(
        &mut self,
        id: ObjectId,
        owner: Owner,
        stored: Arc<Stored>,
        now: Instant,
    ) {
        let answer = Answer {
            owner,
            stored,
            at: now,
        };
        if self.answers.insert(id, answer).is_none() {
            self.order.push_back(id);
        }
        while let Some(oldest) = self.order.front()
            && (self.order.len() > ANSWERS_MAX || !self.answers[oldest].is_fresh(now))
        {
            self.answers.remove(oldest);
            self.order.pop_front();
        }
    }

    /// The answer to a user's completion.
    pub(super) fn find(&self, id: ObjectId, owner: &Owner, now: Instant) -> Option<Arc<Stored>> {
        let answer = self.answers.get(&id)?;
        let is_owners = is_same_user(&answer.owner, owner);
        (answer.is_fresh(now) && is_owners).then(|| answer.stored.clone())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.answers.len(), self.order.len());
        self.answers.len()
    }
}

impl Answer {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) <= KEPT_FOR
    }
}
