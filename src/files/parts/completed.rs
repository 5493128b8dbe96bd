//! Keeps the responses to completions for ten minutes, for clients that lost the response and ask again.
//!
//! Key: the id of the upload, and its user. Bound: 4,096 responses; the oldest is dropped first. Staleness: a file that
//! was taken down meanwhile is still in the response, as in the first one.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::is_same_user;
use crate::{files::Stored, limit::Owner, store::ObjectId};

/// The largest number of responses. Each has a few hundred bytes.
const ANSWERS_MAX: usize = 4096;
/// How long a response is kept.
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

    /// Finds the response to a completion of the user.
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
