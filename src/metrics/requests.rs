//! Requests by route: statuses, durations and bytes. Every request changes these counters, so each thread has its own.

use std::time::Duration;

use super::{
    cells::{Counter, Gauge, Sharded},
    durations::{Distribution, Durations},
};

/// The `route` label of a request: a name from the route table, never from the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteLabel {
    /// Position in the list that was passed to [`Requests::new`].
    pub index: usize,
    /// The label's text.
    pub name: &'static str,
}

/// Every status that the server sends. Any other status is counted as [`OTHER`].
const STATUSES: [u16; 21] = [
    200, 201, 204, 206, 302, 304, 400, 401, 403, 404, 405, 408, 409, 412, 413, 415, 416, 429, 500,
    503, 507,
];
const OTHER: &str = "other";

/// Maps a status to its index in a row without searching.
const STATUS_PLACES: [u8; 600] = {
    let mut places = [STATUSES.len() as u8; 600];
    let mut at = 0;
    while at < STATUSES.len() {
        places[STATUSES[at] as usize] = at as u8;
        at += 1;
    }
    places
};

fn status_place(status: u16) -> usize {
    STATUS_PLACES
        .get(usize::from(status))
        .map_or(STATUSES.len(), |place| usize::from(*place))
}

/// Facts about an answered request that are counted.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    /// The label of the request's route.
    pub route: RouteLabel,
    /// The status of the response.
    pub status: u16,
    /// Time from the request head to the response head.
    pub took: Duration,
    /// Bytes of the request body that were read.
    pub received_bytes: u64,
    /// Bytes of the response body, as planned.
    pub sent_bytes: u64,
    /// The limit that refused the request, if any.
    pub refusal: Option<Refusal>,
}

/// A limit that refused a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The rate limit of the client.
    Rate,
    /// The daily quota.
    Quota,
}

/// Counters of all requests of a server.
#[derive(Debug)]
pub struct Requests {
    labels: Vec<&'static str>,
    /// One row for each label.
    rows: Sharded<Box<[Row]>>,
    /// Requests that bring a file or a part of one and are not answered yet.
    pub(crate) uploads: Gauge,
}

/// Counters of one route. The counters that every request changes come first. The alignment keeps threads from writing
/// to the same pair of cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Row {
    sent_bytes: Counter,
    received_bytes: Counter,
    refused: Counter,
    over_quota: Counter,
    durations: Durations,
    statuses: [Counter; STATUSES.len() + 1],
}

impl Requests {
    /// Counters for requests with these labels.
    pub fn new(labels: impl IntoIterator<Item = &'static str>) -> Self {
        let labels: Vec<_> = labels.into_iter().collect();
        Self {
            rows: Sharded::new(|| labels.iter().map(|_| Row::default()).collect()),
            labels,
            uploads: Gauge::default(),
        }
    }

    /// Counts a request: four or five additions to memory that only this thread writes to. Decision 0013
    /// (`docs/decisions/0013-metrics.md`) has the measurements.
    pub fn record(&self, answered: &Answered) {
        let row = &self.rows.mine()[answered.route.index];
        row.statuses[status_place(answered.status)].add(1);
        row.durations.observe(answered.took);
        row.sent_bytes.add(answered.sent_bytes);
        // Most requests have no body, and few are refused.
        if answered.received_bytes > 0 {
            row.received_bytes.add(answered.received_bytes);
        }
        match answered.refusal {
            None => {}
            Some(Refusal::Rate) => row.refused.add(1),
            Some(Refusal::Quota) => row.over_quota.add(1),
        }
    }

    /// Sums of all threads, for every route with requests.
    pub(super) fn read(&self) -> Vec<RouteNumbers> {
        let numbers = |(index, name): (usize, &&'static str)| self.numbers(index, name);
        let routes = self.labels.iter().enumerate().map(numbers);
        routes
            .filter(|numbers| numbers.durations.count() > 0)
            .collect()
    }

    fn numbers(&self, index: usize, route: &'static str) -> RouteNumbers {
        let of = |counter: fn(&Row) -> &Counter| self.rows.sum(|rows| counter(&rows[index]));
        let mut durations = Distribution::default();
        for rows in self.rows.iter() {
            durations.add(&rows[index].durations);
        }
        let count = |place: usize| self.rows.sum(|rows| &rows[index].statuses[place]);
        let names = STATUSES
            .iter()
            .map(u16::to_string)
            .chain([OTHER.to_owned()]);
        RouteNumbers {
            route,
            durations,
            received_bytes: of(|row| &row.received_bytes),
            sent_bytes: of(|row| &row.sent_bytes),
            refused: of(|row| &row.refused),
            over_quota: of(|row| &row.over_quota),
            statuses: names
                .enumerate()
                .map(|(place, name)| (name, count(place)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }
}

/// Counters of one route, summed over all threads.
pub(super) struct RouteNumbers {
    pub(super) route: &'static str,
    pub(super) durations: Distribution,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    pub(super) refused: u64,
    pub(super) over_quota: u64,
    /// The statuses that occurred.
    pub(super) statuses: Vec<(String, u64)>,
}
