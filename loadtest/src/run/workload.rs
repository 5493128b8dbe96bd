//! The load of one thread: chooses the next request of a connection and checks the response.
//!
//! The last connection is for bursts. It has its own address, so that the refusals it provokes affect no other
//! requests.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    arrivals::Arrivals,
    ask::{Asker, expecting},
    content::Content,
    files::{Draft, File},
    live::Live,
    mix::{Popularity, Weighted, length},
    scenario::{Action, Kind},
    stats::{Fault, Sample, Stats, Window},
};
use crate::{
    Error,
    client::{Failure, Next, Outcome, Request, Workload},
};

/// How often an idle thread checks whether it must stop.
const LOOK: Duration = Duration::from_millis(100);
/// How long a stopped run still sends requests that were due before.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// How often the burst connection checks for a burst.
const BURST_LOOK: Duration = Duration::from_millis(5);
/// Maximum number of waiting bursts; more are dropped and counted as not sent.
const BURSTS_WAITING_MAX: usize = 1000;
/// Files uploaded during the run that a verifying run reads back.
const FRESH_MAX: usize = 64;
/// One in this many downloads of a verifying run reads such a file.
const FRESH_EVERY: u64 = 4;

/// Data shared by all threads.
pub(crate) struct Plan<'a> {
    /// Builds requests.
    pub(crate) asker: &'a Asker,
    /// Kinds of requests.
    pub(crate) kinds: &'a [Kind],
    /// Files on the server, most popular first.
    pub(crate) files: &'a [File],
    /// Exponent of the popularity.
    pub(crate) zipf_exponent: f64,
    /// Start of the run, including the warm-up.
    pub(crate) start: Instant,
    /// The measured part.
    pub(crate) window: Window,
    /// How long after the end due requests are still sent.
    pub(crate) patience: Duration,
    /// Set to end the run early.
    pub(crate) stop: &'a AtomicBool,
}

/// Files of the classes that a kind requests.
struct Choice {
    /// Indices into the plan's files.
    files: Vec<u32>,
    popularity: Option<Popularity>,
}

/// The current request of a connection.
struct Doing {
    kind: usize,
    bytes_up: u64,
    what: What,
}

enum What {
    /// The response needs no further check.
    Plain,
    Thumbnail,
    /// Length of the file.
    Head(u64),
    /// Kept for reading back in a verifying run.
    Upload(Draft, String, Content),
}

/// Work for a connection.
enum Arrival {
    /// A request of this kind, with its intended start.
    Now(usize, Instant),
    /// No work yet.
    Idle,
    /// No more work.
    Stop,
}

/// The [`Workload`] of one thread.
pub(crate) struct Load<'a> {
    plan: &'a Plan<'a>,
    live: &'a Live,
    /// `None` in a closed loop.
    arrivals: Option<Arrivals>,
    weighted: Weighted,
    choices: Vec<Choice>,
    random: SmallRng,
    doing: Vec<Option<Doing>>,
    free_since: Vec<Instant>,
    is_idle: Vec<bool>,
    idle: usize,
    /// Index of the burst connection, if there is one.
    burst_connection: Option<usize>,
    /// Kinds of the waiting bursts.
    bursts: VecDeque<usize>,
    burst_left: Option<(usize, u32)>,
    fresh: VecDeque<File>,
    end: Instant,
    give_up: Instant,
    asked: Instant,
    stats: Stats,
}

impl<'a> Load<'a> {
    /// For `connections`; with `has_bursts`, the last one is for bursts.
    pub(crate) fn new(
        plan: &'a Plan<'a>,
        live: &'a Live,
        arrivals: Option<Arrivals>,
        connections: usize,
        has_bursts: bool,
        seed: u64,
    ) -> Result<Self, Error> {
        let weight = |kind: &Kind| match kind.action {
            Action::Burst { .. } if !has_bursts => 0.0,
            _ => kind.weight,
        };
        let choices: Result<_, Error> = plan
            .kinds
            .iter()
            .map(|kind| Choice::new(plan, kind))
            .collect();
        Ok(Self {
            weighted: Weighted::new(plan.kinds.iter().map(weight).collect())?,
            choices: choices?,
            random: SmallRng::seed_from_u64(seed),
            doing: (0..connections).map(|_| None).collect(),
            free_since: vec![plan.start; connections],
            is_idle: vec![false; connections],
            idle: 0,
            burst_connection: has_bursts.then(|| connections.saturating_sub(1)),
            bursts: VecDeque::new(),
            burst_left: None,
            fresh: VecDeque::new(),
            end: plan.window.to,
            give_up: plan.window.to + plan.patience,
            asked: plan.start,
            stats: Stats::new(plan.kinds.len(), plan.window),
            plan,
            live,
            arrivals,
        })
    }

    /// The statistics, and when the thread stopped making requests: the end, or earlier if it was told to stop.
    pub(crate) fn into_stats(self) -> (Stats, Instant) {
        (self.stats, self.end)
    }

    /// The next work for a free connection.
    fn arrival(&mut self, now: Instant) -> Arrival {
        loop {
            let intended = match &mut self.arrivals {
                None if now >= self.end => return Arrival::Stop,
                None => now,
                Some(arrivals) => {
                    let intended = self.plan.start + arrivals.next();
                    if intended >= self.end {
                        return Arrival::Stop;
                    }
                    if now >= self.give_up {
                        self.count_not_sent(now);
                        return Arrival::Stop;
                    }
                    if intended > now {
                        return Arrival::Idle;
                    }
                    arrivals.take();
                    intended
                }
            };
            let kind = self.weighted.choose(&mut self.random);
            match self.plan.kinds[kind].action {
                Action::Burst { .. } if self.bursts.len() < BURSTS_WAITING_MAX => {
                    self.bursts.push_back(kind)
                }
                Action::Burst { .. } => self.count_one_not_sent(kind, intended, now),
                _ => return Arrival::Now(kind, intended),
            }
        }
    }

    /// Counts the remaining arrivals, for which no connection became free.
    fn count_not_sent(&mut self, now: Instant) {
        while let Some(arrivals) = &mut self.arrivals {
            let intended = self.plan.start + arrivals.next();
            if intended >= self.end {
                break;
            }
            arrivals.take();
            let kind = self.weighted.choose(&mut self.random);
            self.count_one_not_sent(kind, intended, now);
        }
    }

    fn count_one_not_sent(&mut self, kind: usize, intended: Instant, now: Instant) {
        self.stats.record(&Sample {
            kind,
            intended,
            finished: now,
            status: 0,
            result: Err(Fault::NotSent),
            bytes_up: 0,
            bytes_down: 0,
            example: b"",
        });
    }

    fn begin(&mut self, connection: usize, kind: usize, intended: Instant) -> Next {
        let (request, what) = self.request(kind, intended);
        let body: usize = request.body.iter().map(|piece| piece.len()).sum();
        let bytes_up = (request.head.len() + body) as u64;
        self.doing[connection] = Some(Doing {
            kind,
            bytes_up,
            what,
        });
        Next::Send(expecting(request, self.plan.kinds[kind].expect))
    }

    fn request(&mut self, kind: usize, intended: Instant) -> (Request, What) {
        let asker = self.plan.asker;
        let action = self.plan.kinds[kind].action;
        if action == Action::Upload {
            let draft = asker
                .maker
                .draft(&self.plan.kinds[kind].classes, &mut self.random);
            let (request, name, content) = asker.upload(&draft, asker.is_verifying, intended);
            return (request, What::Upload(draft, name, content));
        }
        if action == Action::Download
            && !self.fresh.is_empty()
            && self.random.next_u64().is_multiple_of(FRESH_EVERY)
        {
            let index = self.random.random_range(..self.fresh.len());
            let file = &self.fresh[index];
            if self.plan.kinds[kind].classes[file.draft.class] {
                return (asker.download(file, intended), What::Plain);
            }
        }
        let file = self.choices[kind].choose(self.plan.files, &mut self.random);
        match action {
            Action::Upload | Action::Download => (asker.download(file, intended), What::Plain),
            Action::Thumbnail => (asker.thumbnail(file, intended), What::Thumbnail),
            Action::Range { bytes } => {
                let wanted = length(bytes, &mut self.random).min(file.length);
                let from = self.random.random_range(..=file.length - wanted);
                (asker.range(file, from, wanted, intended), What::Plain)
            }
            Action::Conditional => (asker.conditional(file, intended), What::Plain),
            Action::Head => (asker.head_only(file, intended), What::Head(file.length)),
            Action::WrongToken => (asker.wrong_token(file, intended), What::Plain),
            Action::Burst { .. } => (asker.head_only(file, intended), What::Plain),
        }
    }

    /// The next request of a burst; its connection is a closed loop.
    fn next_burst(&mut self, connection: usize, now: Instant) -> Next {
        if self.burst_left.is_none() {
            self.burst_left =
                self.bursts
                    .pop_front()
                    .map(|kind| match self.plan.kinds[kind].action {
                        Action::Burst { calls } => (kind, calls),
                        _ => (kind, 1),
                    });
        }
        match &mut self.burst_left {
            None if now >= self.end => Next::Stop,
            None => Next::SleepUntil(now + BURST_LOOK),
            Some(_) if now >= self.give_up => Next::Stop,
            Some((kind, left)) => {
                let kind = *kind;
                *left -= 1;
                if *left == 0 {
                    self.burst_left = None;
                }
                self.begin(connection, kind, now)
            }
        }
    }

    /// Checks a response that the engine accepted.
    fn judge(&mut self, doing: Doing, outcome: &Outcome<'_>) -> Result<(), Fault> {
        match doing.what {
            What::Plain => Ok(()),
            What::Thumbnail => {
                let is_image = outcome
                    .header("content-type")
                    .is_some_and(|kind| kind.starts_with("image/"));
                if is_image && outcome.body_bytes > 0 {
                    Ok(())
                } else {
                    Err(Fault::WrongType)
                }
            }
            What::Head(length) => {
                let said = outcome
                    .header("content-length")
                    .and_then(|text| text.parse().ok());
                if said == Some(length) {
                    Ok(())
                } else {
                    Err(Fault::WrongLength)
                }
            }
            What::Upload(draft, name, content) if self.plan.asker.is_verifying => {
                let file = self.plan.asker.uploaded(draft, name, &content, outcome);
                let file = file.map_err(|_| Fault::WrongAnswer)?;
                if self.fresh.len() == FRESH_MAX {
                    self.fresh.pop_front();
                }
                self.fresh.push_back(file);
                Ok(())
            }
            What::Upload(..) => Ok(()),
        }
    }

    fn set_idle(&mut self, connection: usize, is_idle: bool) {
        if self.is_idle[connection] != is_idle {
            self.is_idle[connection] = is_idle;
            if is_idle {
                self.idle += 1
            } else {
                self.idle -= 1
            }
        }
    }
}

impl Workload for Load<'_> {
    fn next(&mut self, connection: usize, now: Instant) -> Next {
        self.asked = now;
        if self.plan.stop.load(Ordering::Relaxed) {
            self.end = self.end.min(now);
            self.give_up = self.give_up.min(now + LAST_MOMENT);
        }
        if self.burst_connection == Some(connection) {
            return self.next_burst(connection, now);
        }
        self.set_idle(connection, false);
        match self.arrival(now) {
            Arrival::Now(kind, intended) => {
                // If another connection is idle, the generator was late, not the connections busy.
                let was_free = self.free_since[connection] <= intended || self.idle > 0;
                if self.arrivals.is_some() {
                    self.stats.record_start(intended, now, was_free);
                }
                self.begin(connection, kind, intended)
            }
            Arrival::Idle => {
                self.set_idle(connection, true);
                Next::Idle
            }
            Arrival::Stop => Next::Stop,
        }
    }

    fn due(&mut self) -> Option<Instant> {
        let look = self.asked + LOOK;
        let arrival = self
            .arrivals
            .as_ref()
            .map(|arrivals| self.plan.start + arrivals.next());
        Some(arrival.map_or(look, |arrival| arrival.min(look)))
    }

    fn done(&mut self, connection: usize, outcome: &Outcome<'_>) {
        self.free_since[connection] = outcome.finished;
        let Some(doing) = self.doing[connection].take() else {
            return;
        };
        let (kind, bytes_up) = (doing.kind, doing.bytes_up);
        let result = match outcome.result {
            Ok(()) => self.judge(doing, outcome),
            Err(Failure::WrongStatus) => Err(Fault::Status(outcome.status)),
            Err(failure) => Err(Fault::Failure(failure)),
        };
        self.live.count(outcome.latency(), result.is_err());
        self.stats.record(&Sample {
            kind,
            intended: outcome.request.intended,
            finished: outcome.finished,
            status: outcome.status,
            result,
            bytes_up,
            bytes_down: outcome.head.len() as u64 + outcome.body_bytes,
            example: outcome.body,
        });
    }
}

impl Choice {
    fn new(plan: &Plan<'_>, kind: &Kind) -> Result<Self, Error> {
        let is_fit = |file: &File| {
            kind.classes[file.draft.class]
                && (kind.action != Action::Conditional || file.validator.is_some())
        };
        let indices = (0u32..).zip(plan.files).filter(|(_, file)| is_fit(file));
        let files: Vec<u32> = indices.map(|(index, _)| index).collect();
        if kind.action == Action::Upload || kind.weight == 0.0 {
            return Ok(Self {
                files,
                popularity: None,
            });
        }
        if files.is_empty() {
            let why = if kind.action == Action::Conditional {
                "the server sends neither ETag nor Last-Modified"
            } else {
                "no file belongs to its classes"
            };
            return Err(format!("request {:?} has no files: {why}", kind.name).into());
        }
        let popularity = Popularity::new(files.len(), plan.zipf_exponent)?;
        Ok(Self {
            files,
            popularity: Some(popularity),
        })
    }

    fn choose<'a>(&self, files: &'a [File], random: &mut SmallRng) -> &'a File {
        let place = self
            .popularity
            .as_ref()
            .map_or(0, |popularity| popularity.choose(random));
        &files[self.files[place] as usize]
    }
}
