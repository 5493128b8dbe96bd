//! Requests by route and by tenant: statuses, durations and bytes. Every request changes these counters, so each thread
//! has its own.
//!
//! Bytes and refusals are counted once, in a cell for the tenant and the route: the sum of a row of cells is the tenant's
//! figure, the sum of a column the route's. So a tenant costs a request one addition, that of its request count.

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

/// Tenants that have counters of their own: those with an index below this. All others are counted together, so that a
/// scrape has a bounded number of series.
pub const TENANTS_MAX: u32 = 64;
/// The row of cells for tenants without one of their own.
const OTHER_TENANTS: usize = TENANTS_MAX as usize;
/// The row of cells for requests without a tenant.
const NO_TENANT: usize = OTHER_TENANTS + 1;
/// The names of these two rows. A tenant's name contains a slash, so it cannot be equal to one of them.
const ROWS_WITHOUT_NAME: [(usize, &str); 2] = [(OTHER_TENANTS, OTHER), (NO_TENANT, "none")];

/// The row of cells of a tenant.
fn tenant_row(tenant: Option<u32>) -> usize {
    tenant.map_or(NO_TENANT, |index| index.min(TENANTS_MAX) as usize)
}

/// Facts about an answered request that are counted.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    /// The index of the tenant that the request named; `None` if it named none or an unknown one.
    pub tenant: Option<u32>,
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

/// The name of a tenant with counters of its own.
#[derive(Debug, Clone)]
pub struct TenantName {
    /// The tenant's index, below [`TENANTS_MAX`].
    pub index: u32,
    /// `org/app`.
    pub name: String,
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
    shards: Sharded<Shard>,
    /// Requests that bring a file or a part of one and are not answered yet.
    pub(crate) uploads: Gauge,
}

/// The counters of one thread.
#[derive(Debug)]
struct Shard {
    /// One for each label.
    routes: Box<[Route]>,
    /// One for each tenant and label: the cells of a tenant are neighbours. 83 KB for 20 labels.
    cells: Box<[TenantRoute]>,
}

/// Counters of one route. The alignment keeps threads from writing to the same pair of cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Route {
    durations: Durations,
    statuses: [Counter; STATUSES.len() + 1],
}

/// Counters of one tenant's requests on one route: one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct TenantRoute {
    requests: Counter,
    sent_bytes: Counter,
    received_bytes: Counter,
    refused: Counter,
    over_quota: Counter,
}

impl Requests {
    /// Counters for requests with these labels.
    pub fn new(labels: impl IntoIterator<Item = &'static str>) -> Self {
        let labels: Vec<_> = labels.into_iter().collect();
        Self {
            shards: Sharded::new(|| Shard {
                routes: labels.iter().map(|_| Route::default()).collect(),
                cells: (0..(NO_TENANT + 1) * labels.len())
                    .map(|_| TenantRoute::default())
                    .collect(),
            }),
            labels,
            uploads: Gauge::default(),
        }
    }

    /// Counts a request: five or six additions to memory that only this thread writes to. Decision 0013
    /// (`docs/decisions/0013-metrics.md`) has the measurements.
    pub fn record(&self, answered: &Answered) {
        let shard = self.shards.mine();
        let route = &shard.routes[answered.route.index];
        route.statuses[status_place(answered.status)].add(1);
        route.durations.observe(answered.took);
        let row = tenant_row(answered.tenant) * self.labels.len();
        let cell = &shard.cells[row + answered.route.index];
        cell.requests.add(1);
        cell.sent_bytes.add(answered.sent_bytes);
        // Most requests have no body, and few are refused.
        if answered.received_bytes > 0 {
            cell.received_bytes.add(answered.received_bytes);
        }
        match answered.refusal {
            None => {}
            Some(Refusal::Rate) => cell.refused.add(1),
            Some(Refusal::Quota) => cell.over_quota.add(1),
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

    /// Sums of all threads, for every named tenant with requests, for all other tenants, and for no tenant.
    ///
    /// A tenant that was removed from the configuration has no name, and is left out.
    pub(super) fn read_tenants<'a>(&self, names: &'a [TenantName]) -> Vec<TenantNumbers<'a>> {
        let named = names
            .iter()
            .map(|of| (tenant_row(Some(of.index)), &*of.name));
        let rows = named.filter(|(row, _)| *row < OTHER_TENANTS);
        let numbers = rows.chain(ROWS_WITHOUT_NAME).map(|(row, tenant)| {
            let mut totals = Totals::default();
            for shard in self.shards.iter() {
                let cells = &shard.cells[row * self.labels.len()..][..self.labels.len()];
                cells.iter().for_each(|cell| totals.add(cell));
            }
            TenantNumbers { tenant, totals }
        });
        numbers
            .filter(|numbers| numbers.totals.requests > 0)
            .collect()
    }

    fn numbers(&self, index: usize, route: &'static str) -> RouteNumbers {
        let mut durations = Distribution::default();
        let mut totals = Totals::default();
        for shard in self.shards.iter() {
            durations.add(&shard.routes[index].durations);
            let cells = shard.cells.iter().skip(index).step_by(self.labels.len());
            cells.for_each(|cell| totals.add(cell));
        }
        let count = |place: usize| {
            self.shards
                .sum(|shard| &shard.routes[index].statuses[place])
        };
        let names = STATUSES
            .iter()
            .map(u16::to_string)
            .chain([OTHER.to_owned()]);
        RouteNumbers {
            route,
            durations,
            totals,
            statuses: names
                .enumerate()
                .map(|(place, name)| (name, count(place)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }
}

/// Sums of cells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) requests: u64,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    pub(super) refused: u64,
    pub(super) over_quota: u64,
}

impl Totals {
    fn add(&mut self, cell: &TenantRoute) {
        self.requests += cell.requests.get();
        self.sent_bytes += cell.sent_bytes.get();
        self.received_bytes += cell.received_bytes.get();
        self.refused += cell.refused.get();
        self.over_quota += cell.over_quota.get();
    }
}

/// Counters of one tenant, summed over all threads and routes.
pub(super) struct TenantNumbers<'a> {
    /// `org/app`, or `other` or `none`.
    pub(super) tenant: &'a str,
    pub(super) totals: Totals,
}

/// Counters of one route, summed over all threads and tenants.
pub(super) struct RouteNumbers {
    pub(super) route: &'static str,
    pub(super) durations: Distribution,
    pub(super) totals: Totals,
    /// The statuses that occurred.
    pub(super) statuses: Vec<(String, u64)>,
}
