//! Uploads the files before the measurement, and requests their heads if conditional requests need them. A request
//! refused by the rate limit is repeated; any other error ends the fill.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::{
    ask::{Asker, validator},
    content::Content,
    files::{Draft, File},
};
use crate::client::{Failure, Next, Outcome, Workload};

/// Concurrent uploads per thread.
const UPLOADS_MAX: usize = 64;
/// Pause before a request refused by the rate limit is repeated.
const REST: Duration = Duration::from_secs(1);
/// Maximum attempts per request.
const TRIES_MAX: u32 = 60;

/// One thread's part of the fill.
pub(crate) struct Fill<'a> {
    asker: &'a Asker,
    stop: &'a AtomicBool,
    uploaded: &'a AtomicU64,
    /// Whether files need a validator.
    asks_heads: bool,
    waiting: VecDeque<(usize, Job)>,
    running: Vec<Option<(usize, Job)>>,
    done: Vec<(usize, File)>,
    error: Option<String>,
}

struct Job {
    step: Step,
    tries: u32,
    not_before: Option<Instant>,
}

enum Step {
    Upload {
        draft: Draft,
        sent: Option<(String, Content)>,
    },
    Head(File),
}

impl<'a> Fill<'a> {
    /// `files` come with their positions in the order of popularity. `uploaded` counts the finished ones.
    pub(crate) fn new(
        asker: &'a Asker,
        drafts: impl Iterator<Item = (usize, Draft)>,
        connections: usize,
        stop: &'a AtomicBool,
        uploaded: &'a AtomicU64,
        asks_heads: bool,
    ) -> Self {
        let job = |(place, draft)| {
            let step = Step::Upload { draft, sent: None };
            (
                place,
                Job {
                    step,
                    tries: 0,
                    not_before: None,
                },
            )
        };
        Self {
            asker,
            stop,
            uploaded,
            asks_heads,
            waiting: drafts.map(job).collect(),
            running: (0..connections).map(|_| None).collect(),
            done: Vec::new(),
            error: None,
        }
    }

    /// The uploaded files with their positions, or an error.
    pub(crate) fn into_files(self) -> Result<Vec<(usize, File)>, String> {
        match self.error {
            Some(error) => Err(error),
            None if self.stop.load(Ordering::Relaxed) => {
                Err("stopped before the server was filled".to_owned())
            }
            None => Ok(self.done),
        }
    }

    fn step_on(&mut self, place: usize, step: Step, outcome: &Outcome<'_>) -> Result<(), String> {
        match step {
            Step::Upload {
                draft,
                sent: Some((name, content)),
            } => {
                let file = self.asker.uploaded(draft, name, &content, outcome)?;
                if !self.asks_heads {
                    self.finish(place, file);
                    return Ok(());
                }
                let job = Job {
                    step: Step::Head(file),
                    tries: 0,
                    not_before: None,
                };
                self.waiting.push_front((place, job));
            }
            Step::Upload { sent: None, .. } => {}
            Step::Head(mut file) => {
                file.validator = validator(outcome);
                self.finish(place, file);
            }
        }
        Ok(())
    }

    fn finish(&mut self, place: usize, file: File) {
        self.done.push((place, file));
        self.uploaded.fetch_add(1, Ordering::Relaxed);
    }
}

impl Workload for Fill<'_> {
    fn next(&mut self, connection: usize, now: Instant) -> Next {
        if self.error.is_some() || self.stop.load(Ordering::Relaxed) || connection >= UPLOADS_MAX {
            return Next::Stop;
        }
        let Some((place, mut job)) = self.waiting.pop_front() else {
            // A request in flight may have to be repeated; its own connection does that.
            return Next::Stop;
        };
        if let Some(moment) = job.not_before.filter(|moment| *moment > now) {
            self.waiting.push_back((place, job));
            return Next::SleepUntil(moment);
        }
        job.tries += 1;
        let request = match &mut job.step {
            Step::Upload { draft, sent } => {
                let (request, name, content) = self.asker.upload(draft, true, now);
                *sent = Some((name, content));
                request
            }
            Step::Head(file) => self.asker.head_only(file, now),
        };
        self.running[connection] = Some((place, job));
        Next::Send(request)
    }

    fn done(&mut self, connection: usize, outcome: &Outcome<'_>) {
        let Some((place, mut job)) = self.running[connection].take() else {
            return;
        };
        let what = match &job.step {
            Step::Upload { .. } => "upload",
            Step::Head(_) => "HEAD",
        };
        let is_limited =
            matches!(outcome.status, 429 | 503) && outcome.result == Err(Failure::WrongStatus);
        let ended = match outcome.result {
            Err(_) if is_limited && job.tries < TRIES_MAX => {
                job.not_before = Some(outcome.finished + REST);
                self.waiting.push_back((place, job));
                return;
            }
            Err(Failure::WrongStatus) => {
                let body = String::from_utf8_lossy(outcome.body);
                Err(format!("status {}: {}", outcome.status, body.trim()))
            }
            Err(failure) => Err(failure.to_string()),
            Ok(()) => self.step_on(place, job.step, outcome),
        };
        if let Err(error) = ended {
            self.error
                .get_or_insert(format!("uploading the files failed: {what}: {error}"));
        }
    }
}
