//! The metrics that the console draws, as JSON. All counters are totals since the start, as in the text for Prometheus.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    Derived, Label, Levels, Lookup, Metrics, PoolLevels, Source, durations::BOUNDS,
    requests::RouteNumbers,
};

/// Counters of one route.
#[derive(Serialize)]
struct Route {
    route: &'static str,
    statuses: Map<String, Value>,
    sent_bytes: u64,
    received_bytes: u64,
    rate_refusals: u64,
    quota_refusals: u64,
    /// Responses by duration: one number for each bound, and one for longer ones.
    buckets: Vec<u64>,
}

impl Metrics {
    /// The values of one moment, for charts.
    pub fn snapshot(&self, levels: &Levels) -> Value {
        let routes: Vec<Route> = self.requests.read().into_iter().map(Route::of).collect();
        let bounds: Vec<f64> = BOUNDS.iter().map(|bound| bound.as_secs_f64()).collect();
        let (uploads, files) = (&levels.uploads, &levels.files);
        json!({
            "routes": routes,
            "bucket_bounds_seconds": bounds,
            "connections_open": self.connections.open.get(),
            "open_objects": {
                "hit": self.open_objects.get(Lookup::Hit),
                "miss": self.open_objects.get(Lookup::Miss),
            },
            "derivatives": self.derivatives(),
            "uploads": {
                "in_flight": self.requests.uploads.get(),
                "in_flight_bytes": uploads.in_flight_bytes,
                "in_flight_bytes_max": uploads.in_flight_bytes_max,
                "refusals": uploads.refusals + uploads.tenant_refusals + uploads.client_refusals,
            },
            "decoders": { "picture": pool(&files.pictures), "ffmpeg": pool(&files.ffmpeg) },
            "disk": {
                "free_bytes": levels.disk_free_bytes,
                "free_min_bytes": levels.disk_free_min_bytes,
                "reserved_bytes": levels.disk_reserved_bytes,
                "is_readable": levels.store.is_readable,
                "is_writable": levels.store.is_writable,
            },
        })
    }

    /// Derivatives that clients asked for, by source.
    fn derivatives(&self) -> Map<String, Value> {
        let count = |source: Source| -> u64 {
            let derived = Derived::ALL.iter();
            // Reduced pictures are asked for by thumbnails that are counted themselves.
            let derived = derived.filter(|derived| **derived != Derived::Reduced);
            derived
                .map(|derived| self.derivatives.get(*derived, source))
                .sum()
        };
        let sources = Source::ALL.iter();
        sources
            .map(|source| (source.name().to_owned(), count(*source).into()))
            .collect()
    }
}

impl Route {
    fn of(numbers: RouteNumbers) -> Self {
        let statuses = numbers.statuses.into_iter();
        Self {
            route: numbers.route,
            statuses: statuses
                .map(|(status, count)| (status, count.into()))
                .collect(),
            sent_bytes: numbers.totals.sent_bytes,
            received_bytes: numbers.totals.received_bytes,
            rate_refusals: numbers.totals.refused,
            quota_refusals: numbers.totals.over_quota,
            buckets: numbers
                .durations
                .buckets()
                .iter()
                .map(|(_, count)| *count)
                .collect(),
        }
    }
}

fn pool(levels: &PoolLevels) -> Value {
    json!({
        "waiting": levels.waiting,
        "busy": levels.busy,
        "places": levels.places,
        "refusals": levels.refused_full + levels.refused_late,
    })
}
