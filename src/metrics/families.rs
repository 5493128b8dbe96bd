//! Names and help texts of all metric families, in the order of the output. `writer.rs` writes the format around them.

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

/// The media type of the text that [`Metrics::render`] returns.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

impl Metrics {
    /// Renders all families in Prometheus's text format (0.0.4).
    pub fn render(&self, levels: Levels) -> String {
        let mut registry = Registry::with_prefix("chatfiles");
        registry.register_collector(Box::new(Scrape {
            metrics: self.clone(),
            levels,
        }));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("writing to a String cannot fail");
        text
    }
}

/// The values of one scrape.
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
            "Time from a request's head to the head of its response, without sending the body.",
            routes
                .iter()
                .map(|route| ([route.label()], &route.durations)),
        )?;
        families.counter(
            "http_request_body_bytes",
            "Bytes of request bodies that were read.",
            by_route(|route| route.received_bytes),
        )?;
        families.counter(
            "http_response_body_bytes",
            "Bytes of response bodies, as planned when the response began.",
            by_route(|route| route.sent_bytes),
        )?;
        families.counter(
            "limiter_refusals",
            "Requests refused by the rate limit of their client.",
            by_route(|route| route.refused),
        )?;
        families.level(
            "limiter_addresses",
            "Client addresses in the rate limiter's table.",
            self.levels.limiter_addresses as u64,
        )?;
        families.level(
            "uploads_in_flight",
            "Unanswered requests that bring a file or a part of one.",
            self.metrics.requests.uploads.get(),
        )?;
        self.uploads(families)?;
        families.counter(
            "upload_quota_refusals",
            "Uploads refused by a daily quota.",
            by_route(|route| route.over_quota),
        )?;
        families.counter(
            "logins",
            "Logins by password or client secret, by result.",
            Login::ALL
                .iter()
                .map(|&login| ([("result", login.name())], self.metrics.logins.get(login))),
        )
    }

    fn uploads(&self, families: &mut Families<'_>) -> fmt::Result {
        let levels = &self.levels.uploads;
        families.level(
            "upload_bytes_in_flight",
            "Bytes announced by the uploads in flight.",
            levels.in_flight_bytes,
        )?;
        families.level(
            "upload_bytes_in_flight_max",
            "Upper limit of the bytes announced by uploads in flight; more uploads are refused.",
            levels.in_flight_bytes_max,
        )?;
        families.counter(
            "upload_budget_refusals",
            "Uploads refused because the uploads in flight had announced too many bytes.",
            [([], levels.refusals)],
        )?;
        families.counter(
            "upload_share_refusals",
            "Uploads refused because their tenant or client had used up its share of the bytes in flight.",
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
            "Memory held by connected clients.",
            of_each(|levels| levels.held_bytes),
        )?;
        families.gauge(
            "client_memory_bytes_max",
            "Upper limit of the memory held by connected clients.",
            of_each(|levels| levels.held_bytes_max),
        )?;
        families.counter(
            "client_memory_refusals",
            "Requests for memory that were refused, because of the client's share or the total.",
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
            "Connections closed before HTTP began, by reason.",
            ConnectionRefusal::ALL
                .iter()
                .map(|&why| ([("reason", why.name())], connections.refused(why))),
        )?;
        families.counter(
            "connections_cut",
            "HTTP connections ended by the server, by reason.",
            ConnectionCut::ALL
                .iter()
                .map(|&why| ([("reason", why.name())], connections.cuts(why))),
        )?;
        families.counter(
            "http2_streams_stalled",
            "HTTP/2 streams reset because the client did not read the response.",
            [([], connections.streams_stalled.get())],
        )?;
        families.level(
            "connections_open",
            "Open connections of the public listener.",
            connections.open.get(),
        )?;
        families.gauge(
            "certificate_expiry_timestamp_seconds",
            "Expiry of the first certificate to expire; absent without certificates.",
            self.levels.certificates_end_secs.map(|end| ([], end)),
        )
    }

    fn files(&self, families: &mut Families<'_>) -> fmt::Result {
        let (levels, lookups) = (&self.levels.files, &self.metrics.open_objects);
        families.counter(
            "open_object_lookups",
            "Lookups in the cache of open objects, by result.",
            Lookup::ALL
                .iter()
                .map(|&lookup| ([("result", lookup.name())], lookups.get(lookup))),
        )?;
        families.level(
            "open_objects",
            "Open objects in the cache.",
            levels.open_objects as u64,
        )?;
        self.parts(families)?;
        families.counter(
            "derivative_lookups",
            "Requested derivatives, by kind and source.",
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
            "Jobs that wait for a decoder.",
            pools.map(|(name, pool)| ([("pool", name)], pool.waiting as u64)),
        )?;
        families.gauge(
            "decode_places_busy",
            "Busy decoders.",
            pools.map(|(name, pool)| ([("pool", name)], pool.busy as u64)),
        )?;
        families.gauge(
            "decode_places",
            "All decoders.",
            pools.map(|(name, pool)| ([("pool", name)], pool.places as u64)),
        )?;
        families.counter(
            "decode_refusals",
            "Jobs that were refused a decoder, by reason.",
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
            "Unfinished uploads in parts.",
            levels.uploads,
        )?;
        families.level(
            "part_uploads_max",
            "Upper limit of unfinished uploads in parts; a tenant may have half of what the others leave.",
            levels.uploads_max,
        )?;
        families.level(
            "part_upload_bytes",
            "Bytes of parts of unfinished uploads, including parts that are being received.",
            levels.bytes,
        )?;
        families.counter(
            "part_uploads_replaced",
            "Idle uploads in parts that were replaced by a new upload of the same user.",
            [([], levels.replaced)],
        )?;
        families.counter(
            "part_upload_refusals",
            "Requests of uploads in parts that were refused, by the share that was used up.",
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
            "Duration of fsync calls on files and directories.",
            syncs
                .iter()
                .map(|(synced, times)| ([("of", synced.name())], times)),
        )?;
        families.gauge(
            "disk_free_bytes",
            "Free bytes on the store's disk; absent if the disk does not answer.",
            self.levels.disk_free_bytes.map(|free| ([], free)),
        )?;
        families.level(
            "disk_free_min_bytes",
            "Free bytes below which uploads are refused.",
            self.levels.disk_free_min_bytes,
        )?;
        families.level(
            "disk_reserved_bytes",
            "Free bytes that are reserved for uploads in flight.",
            self.levels.disk_reserved_bytes,
        )?;
        let store = self.levels.store;
        let healthy = [("read", store.is_readable), ("write", store.is_writable)];
        families.gauge(
            "store_healthy",
            "Whether the last operations could read from and write to the store (1) or not (0).",
            healthy
                .map(|(operation, is_healthy)| ([("operation", operation)], u64::from(is_healthy))),
        )?;
        families.counter(
            "store_write_errors",
            "Writes to the store that failed with a disk error.",
            [([], store.write_errors)],
        )
    }

    fn log(&self, families: &mut Families<'_>) -> fmt::Result {
        families.counter(
            "log_lines_dropped",
            "Log lines dropped because the log queue was full.",
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
