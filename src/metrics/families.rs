//! The names: every family of metrics with its help, in the order in which they are shown. The text around them
//! is the library's.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, prometheus_text},
    registry::Registry,
};

use super::{
    ConnectionCut, ConnectionRefusal, Derivations, Derived, Levels, Login, Lookup, MemoryLevels,
    Metrics, ShareRefusal, Source, Synced,
    durations::Distribution,
    requests::RouteNumbers,
    writer::{Families, Label},
};

/// The media type of [`Metrics::render`]'s text.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

impl Metrics {
    /// All families in Prometheus's text format (0.0.4).
    pub fn render(&self, levels: Levels) -> String {
        let mut registry = Registry::with_prefix("chatfiles");
        registry.register_collector(Box::new(Scrape {
            metrics: self.clone(),
            levels,
        }));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("a String takes whatever is written");
        text
    }
}

/// What one scrape shows.
#[derive(Debug)]
struct Scrape {
    metrics: Metrics,
    levels: Levels,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families::new(encoder);
        families.build()?;
        self.requests(&mut families)?;
        self.connections(&mut families)?;
        self.client_memory(&mut families)?;
        self.files(&mut families)?;
        self.store(&mut families)?;
        self.log(&mut families)
    }
}

impl Scrape {
    fn requests(&self, families: &mut Families<'_>) -> fmt::Result {
        let routes = self.metrics.requests.read();
        let by_route = |number: fn(&RouteNumbers) -> u64| {
            let sample = move |route: &RouteNumbers| ([route.label()], number(route));
            routes.iter().map(sample)
        };
        let by_status = routes.iter().flat_map(|route| {
            let sample = |(status, count): &(&'static str, u64)| {
                ([route.label(), ("status", *status)], *count)
            };
            route.statuses.iter().map(sample)
        });
        families.counter("http_requests", "Requests answered.", by_status)?;
        families.histogram(
            "http_request_duration_seconds",
            "From a request's head to its answer's: what is left is sending the body.",
            routes
                .iter()
                .map(|route| ([route.label()], &route.durations)),
        )?;
        families.counter(
            "http_request_body_bytes",
            "Bytes read of requests' bodies.",
            by_route(|route| route.received_bytes),
        )?;
        families.counter(
            "http_response_body_bytes",
            "Bytes of answers' bodies, as planned when they began.",
            by_route(|route| route.sent_bytes),
        )?;
        families.counter(
            "limiter_refusals",
            "Requests that were over their client's rate.",
            by_route(|route| route.refused),
        )?;
        families.level(
            "limiter_addresses",
            "Addresses that the limiter remembers.",
            self.levels.limiter_addresses as u64,
        )?;
        families.level(
            "uploads_in_flight",
            "Calls that bring a file or a part of one, and are not answered yet.",
            self.metrics.requests.uploads.get(),
        )?;
        self.uploads(families)?;
        families.counter(
            "upload_quota_refusals",
            "Uploads that were over a quota of the day.",
            by_route(|route| route.over_quota),
        )?;
        families.counter(
            "logins",
            "Logins by password or client secret, by what came of them.",
            Login::ALL
                .iter()
                .map(|&login| ([("result", login.name())], self.metrics.logins.get(login))),
        )
    }

    fn uploads(&self, families: &mut Families<'_>) -> fmt::Result {
        let levels = &self.levels.uploads;
        families.level(
            "upload_bytes_in_flight",
            "Bytes that the uploads in flight have announced.",
            levels.in_flight_bytes,
        )?;
        families.level(
            "upload_bytes_in_flight_max",
            "The most that they may announce together; more are refused.",
            levels.in_flight_bytes_max,
        )?;
        families.counter(
            "upload_budget_refusals",
            "Uploads that there was no room for beside those in flight.",
            [([], levels.refusals)],
        )?;
        families.counter(
            "upload_share_refusals",
            "Uploads that were over their tenant's or their client's share of the bytes in flight.",
            [
                ([("of", "tenant")], levels.tenant_refusals),
                ([("of", "client")], levels.client_refusals),
            ],
        )
    }

    fn client_memory(&self, families: &mut Families<'_>) -> fmt::Result {
        let of_each = |number: fn(&MemoryLevels) -> u64| {
            let levels = self.levels.client_memory.iter();
            levels.map(move |levels| ([("of", levels.of)], number(levels)))
        };
        families.gauge(
            "client_memory_bytes",
            "Memory that clients hold while they are connected.",
            of_each(|levels| levels.held_bytes),
        )?;
        families.gauge(
            "client_memory_bytes_max",
            "The most that they may hold together.",
            of_each(|levels| levels.held_bytes_max),
        )?;
        families.counter(
            "client_memory_refusals",
            "How often there was too little of it, for one client or for all.",
            of_each(|levels| levels.refusals),
        )
    }

    fn connections(&self, families: &mut Families<'_>) -> fmt::Result {
        let connections = &self.metrics.connections;
        families.counter(
            "connections_accepted",
            "Connections accepted by the public listener.",
            [([], connections.accepted.get())],
        )?;
        families.counter(
            "connections_refused",
            "Connections closed before HTTP, by why.",
            ConnectionRefusal::ALL
                .iter()
                .map(|&why| ([("reason", why.name())], connections.refused(why))),
        )?;
        families.counter(
            "connections_cut",
            "Connections that the server ended, by why.",
            ConnectionCut::ALL
                .iter()
                .map(|&why| ([("reason", why.name())], connections.cuts(why))),
        )?;
        families.counter(
            "http2_streams_stalled",
            "HTTP/2 streams reset because the client took nothing of the answer.",
            [([], connections.streams_stalled.get())],
        )?;
        families.level(
            "connections_open",
            "Connections open at the public listener.",
            connections.open.get(),
        )?;
        families.gauge(
            "certificate_expiry_timestamp_seconds",
            "When the first of the certificates in force ends; absent where there are none.",
            self.levels.certificates_end_secs.map(|end| ([], end)),
        )
    }

    fn files(&self, families: &mut Families<'_>) -> fmt::Result {
        let (levels, lookups) = (&self.levels.files, &self.metrics.open_objects);
        families.counter(
            "open_object_lookups",
            "Looks into the cache of open objects.",
            Lookup::ALL
                .iter()
                .map(|&lookup| ([("result", lookup.name())], lookups.get(lookup))),
        )?;
        families.level(
            "open_objects",
            "Objects kept open.",
            levels.open_objects as u64,
        )?;
        self.parts(families)?;
        families.counter(
            "derivative_lookups",
            "Derivatives asked for, by where they came from.",
            derivatives(&self.metrics.derivatives),
        )?;
        families.level(
            "derivative_cache_bytes",
            "Bytes of derivatives in memory.",
            levels.derived_bytes,
        )?;
        let pools = [("picture", &levels.pictures), ("ffmpeg", &levels.ffmpeg)];
        families.gauge(
            "decode_queue_length",
            "Calls that wait for a place to decode.",
            pools.map(|(name, pool)| ([("pool", name)], pool.waiting as u64)),
        )?;
        families.gauge(
            "decode_places_busy",
            "Places to decode that are taken.",
            pools.map(|(name, pool)| ([("pool", name)], pool.busy as u64)),
        )?;
        families.gauge(
            "decode_places",
            "Places to decode.",
            pools.map(|(name, pool)| ([("pool", name)], pool.places as u64)),
        )?;
        families.counter(
            "decode_refusals",
            "Calls that were refused a place to decode.",
            pools.into_iter().flat_map(|(name, pool)| {
                let sample = |reason, count| ([("pool", name), ("reason", reason)], count);
                [
                    sample("queue_full", pool.refused_full),
                    sample("timed_out", pool.refused_late),
                ]
            }),
        )
    }

    fn parts(&self, families: &mut Families<'_>) -> fmt::Result {
        let levels = &self.levels.files.parts;
        families.level(
            "part_uploads",
            "Uploads in parts that are not complete.",
            levels.uploads,
        )?;
        families.level(
            "part_uploads_max",
            "The most that there may be; a tenant has half of what others leave.",
            levels.uploads_max,
        )?;
        families.level(
            "part_upload_bytes",
            "Bytes of their parts, those on their way included.",
            levels.bytes,
        )?;
        families.counter(
            "part_uploads_replaced",
            "Idle uploads in parts that made room for a new one of their user.",
            [([], levels.replaced)],
        )?;
        families.counter(
            "part_upload_refusals",
            "Calls of uploads in parts that found a share full, by whose it was.",
            ShareRefusal::ALL
                .iter()
                .map(|&whose| ([("share", whose.name())], levels.refusals[whose.index()])),
        )
    }

    fn store(&self, families: &mut Families<'_>) -> fmt::Result {
        let syncs = Synced::ALL.iter().map(|&synced| {
            let durations = &self.metrics.syncs.0[synced.index()];
            (synced, Distribution::of(durations))
        });
        let syncs: Vec<_> = syncs.collect();
        families.histogram(
            "fsync_duration_seconds",
            "How long the disk took to make a file or a directory durable.",
            syncs
                .iter()
                .map(|(synced, times)| ([("of", synced.name())], times)),
        )?;
        families.gauge(
            "disk_free_bytes",
            "Bytes that are free on the store's disk; absent where it does not answer.",
            self.levels.disk_free_bytes.map(|free| ([], free)),
        )?;
        families.level(
            "disk_free_min_bytes",
            "The floor: with fewer bytes free, uploads are refused.",
            self.levels.disk_free_min_bytes,
        )?;
        families.level(
            "disk_reserved_bytes",
            "Bytes that uploads under way may still write: not free for others.",
            self.levels.disk_reserved_bytes,
        )?;
        let store = self.levels.store;
        let healthy = [("read", store.is_readable), ("write", store.is_writable)];
        families.gauge(
            "store_healthy",
            "Whether the store can be read, and written, as the last operations have shown.",
            healthy
                .map(|(operation, is_healthy)| ([("operation", operation)], u64::from(is_healthy))),
        )?;
        families.counter(
            "store_write_errors",
            "Writes to the store that failed because of its disk.",
            [([], store.write_errors)],
        )
    }

    fn log(&self, families: &mut Families<'_>) -> fmt::Result {
        families.counter(
            "log_lines_dropped",
            "Lines of the log that nobody took in time.",
            [([], self.levels.log_lines_dropped)],
        )
    }
}

impl RouteNumbers {
    fn label(&self) -> Label<'static> {
        ("route", self.route)
    }
}

fn derivatives(counts: &Derivations) -> impl Iterator<Item = ([Label<'static>; 2], u64)> {
    let sample = |derived: Derived, source: Source| {
        let labels = [("kind", derived.name()), ("source", source.name())];
        (labels, counts.get(derived, source))
    };
    Derived::ALL.iter().flat_map(move |&derived| {
        Source::ALL
            .iter()
            .map(move |&source| sample(derived, source))
    })
}
