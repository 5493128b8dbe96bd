//! Names and help texts of all metric families, in the order of the output. `writer.rs` writes the format around them.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, prometheus_text},
    registry::Registry,
};

use super::{
    Derivations, Derived, Label, Levels, MemoryLevels, Metrics, PoolLevels, ShareRefusal, Source,
    Synced,
    durations::Distribution,
    requests::{RouteNumbers, TenantNumbers, Totals},
    writer::{Families, Pair},
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
        let mut out = Families::new(encoder);
        out.build()?;
        self.requests(&mut out)?;
        self.connections(&mut out)?;
        self.client_memory(&mut out)?;
        self.files(&mut out)?;
        self.store(&mut out)?;
        self.log(&mut out)
    }
}

impl Scrape {
    fn requests(&self, out: &mut Families<'_>) -> fmt::Result {
        let routes = self.metrics.requests.read();
        let by_route = |number: fn(&RouteNumbers) -> u64| {
            let sample = move |route: &RouteNumbers| ([("route", route.route)], number(route));
            routes.iter().map(sample)
        };
        let by_status = routes.iter().flat_map(|route| {
            let statuses = route.statuses.iter();
            statuses.map(|(status, count)| ([("route", route.route), ("status", status)], *count))
        });
        let durations = routes.iter();
        let durations = durations.map(|route| ([("route", route.route)], &route.durations));
        out.help("Requests answered.")
            .counter("http_requests", by_status)?;
        out.help(
            "Time from a request's head to the head of its response, without sending the body.",
        )
        .histogram("http_request_duration_seconds", durations)?;
        out.help("Bytes of request bodies that were read.")
            .counter(
                "http_request_body_bytes",
                by_route(|route| route.totals.received_bytes),
            )?;
        out.help("Bytes of response bodies, as planned when the response began.")
            .counter(
                "http_response_body_bytes",
                by_route(|route| route.totals.sent_bytes),
            )?;
        out.help("Requests refused by the rate limit of their client.")
            .counter("limiter_refusals", by_route(|route| route.totals.refused))?;
        out.help("Uploads refused by a daily quota.").counter(
            "upload_quota_refusals",
            by_route(|route| route.totals.over_quota),
        )?;
        self.tenants(out)?;
        self.clients(out)?;
        self.uploads(out)
    }

    fn tenants(&self, out: &mut Families<'_>) -> fmt::Result {
        let tenants = self.metrics.requests.read_tenants(&self.levels.tenants);
        let refusals = tenants.iter().flat_map(|of| {
            let sample = |reason, count| ([("tenant", of.tenant), ("reason", reason)], count);
            [
                sample("rate", of.totals.refused),
                sample("quota", of.totals.over_quota),
            ]
        });
        out.help("Requests answered, by tenant.").counter(
            "tenant_requests",
            by_tenant(&tenants, |totals| totals.requests),
        )?;
        out.help("Bytes of request bodies that were read, by tenant.")
            .counter(
                "tenant_request_body_bytes",
                by_tenant(&tenants, |totals| totals.received_bytes),
            )?;
        out.help("Bytes of response bodies, as planned when the response began, by tenant.")
            .counter(
                "tenant_response_body_bytes",
                by_tenant(&tenants, |totals| totals.sent_bytes),
            )?;
        out.help("Requests refused by the rate limit or a daily quota, by tenant.")
            .counter("tenant_refusals", refusals)
    }

    fn clients(&self, out: &mut Families<'_>) -> fmt::Result {
        let logins = &self.metrics.logins;
        out.help("Client addresses in the rate limiter's table.")
            .level("limiter_addresses", self.levels.limiter_addresses as u64)?;
        out.help("Logins by password or client secret, by result.")
            .counter("logins", by("result", |login| logins.get(login)))?;
        let introspections = &self.metrics.introspections;
        out.help("Tokens that only an introspection server knows, by result.")
            .counter(
                "introspections",
                by("result", |result| introspections.get(result)),
            )?;
        out.help("Key files of chat backends whose last version could not be used.")
            .level("stale_key_files", self.levels.stale_key_files as u64)
    }

    fn uploads(&self, out: &mut Families<'_>) -> fmt::Result {
        let levels = &self.levels.uploads;
        out.help("Unanswered requests that bring a file or a part of one.")
            .level("uploads_in_flight", self.metrics.requests.uploads.get())?;
        out.help("Bytes announced by the uploads in flight.")
            .level("upload_bytes_in_flight", levels.in_flight_bytes)?;
        out.help(
            "Upper limit of the bytes announced by uploads in flight; more uploads are refused.",
        )
        .level("upload_bytes_in_flight_max", levels.in_flight_bytes_max)?;
        out.help("Uploads refused because the uploads in flight had announced too many bytes.")
            .total("upload_budget_refusals", levels.refusals)?;
        let of_share = [
            ([("of", "tenant")], levels.tenant_refusals),
            ([("of", "client")], levels.client_refusals),
        ];
        out.help("Uploads refused because their tenant or client had used up its share of the bytes in flight.")
            .counter("upload_share_refusals", of_share)
    }

    fn client_memory(&self, out: &mut Families<'_>) -> fmt::Result {
        let of_each = |number: fn(&MemoryLevels) -> u64| {
            let levels = self.levels.client_memory.iter();
            levels.map(move |levels| ([("of", levels.of)], number(levels)))
        };
        out.help("Memory held by connected clients.")
            .gauge("client_memory_bytes", of_each(|levels| levels.held_bytes))?;
        out.help("Upper limit of the memory held by connected clients.")
            .gauge(
                "client_memory_bytes_max",
                of_each(|levels| levels.held_bytes_max),
            )?;
        out.help(
            "Requests for memory that were refused, because of the client's share or the total.",
        )
        .counter("client_memory_refusals", of_each(|levels| levels.refusals))
    }

    fn connections(&self, out: &mut Families<'_>) -> fmt::Result {
        let connections = &self.metrics.connections;
        let certificates_end = self.levels.certificates_end_secs.map(|end| ([], end));
        out.help("Connections accepted by the public listener.")
            .total("connections_accepted", connections.accepted.get())?;
        out.help("Connections closed before HTTP began, by reason.")
            .counter(
                "connections_refused",
                by("reason", |why| connections.refused(why)),
            )?;
        out.help("HTTP connections ended by the server, by reason.")
            .counter("connections_cut", by("reason", |why| connections.cuts(why)))?;
        out.help("HTTP/2 streams reset because the client did not read the response.")
            .total("http2_streams_stalled", connections.streams_stalled.get())?;
        out.help("Open connections of the public listener.")
            .level("connections_open", connections.open.get())?;
        out.help("Expiry of the first certificate to expire; absent without certificates.")
            .gauge("certificate_expiry_timestamp_seconds", certificates_end)
    }

    fn files(&self, out: &mut Families<'_>) -> fmt::Result {
        let (levels, lookups) = (&self.levels.files, &self.metrics.open_objects);
        out.help("Lookups in the cache of open objects, by result.")
            .counter(
                "open_object_lookups",
                by("result", |lookup| lookups.get(lookup)),
            )?;
        out.help("Open objects in the cache.")
            .level("open_objects", levels.open_objects as u64)?;
        self.parts(out)?;
        out.help("Requested derivatives, by kind and source.")
            .counter("derivative_lookups", derivatives(&self.metrics.derivatives))?;
        out.help("Bytes of derivatives in memory.")
            .level("derivative_cache_bytes", levels.derived_bytes)?;
        self.pools(out)
    }

    fn pools(&self, out: &mut Families<'_>) -> fmt::Result {
        let levels = &self.levels.files;
        let pools = [("picture", &levels.pictures), ("ffmpeg", &levels.ffmpeg)];
        let of_each = |number: fn(&PoolLevels) -> usize| {
            pools.map(|(name, pool)| ([("pool", name)], number(pool) as u64))
        };
        let refusals = pools.map(|(name, pool)| {
            let sample = |reason, count| ([("pool", name), ("reason", reason)], count);
            [
                sample("queue_full", pool.refused_full),
                sample("timed_out", pool.refused_late),
            ]
        });
        out.help("Jobs that wait for a decoder.")
            .gauge("decode_queue_length", of_each(|pool| pool.waiting))?;
        out.help("Busy decoders.")
            .gauge("decode_places_busy", of_each(|pool| pool.busy))?;
        out.help("All decoders.")
            .gauge("decode_places", of_each(|pool| pool.places))?;
        out.help("Jobs that were refused a decoder, by reason.")
            .counter("decode_refusals", refusals.into_iter().flatten())
    }

    fn parts(&self, out: &mut Families<'_>) -> fmt::Result {
        let levels = &self.levels.files.parts;
        let refusals = by("share", |whose: ShareRefusal| {
            levels.refusals[whose.index()]
        });
        out.help("Unfinished uploads in parts.")
            .level("part_uploads", levels.uploads)?;
        out.help("Upper limit of unfinished uploads in parts; a tenant may have half of what the others leave.")
            .level("part_uploads_max", levels.uploads_max)?;
        out.help("Bytes of parts of unfinished uploads, including parts that are being received.")
            .level("part_upload_bytes", levels.bytes)?;
        out.help("Idle uploads in parts that were replaced by a new upload of the same user.")
            .total("part_uploads_replaced", levels.replaced)?;
        out.help("Requests of uploads in parts that were refused, by the share that was used up.")
            .counter("part_upload_refusals", refusals)
    }

    fn store(&self, out: &mut Families<'_>) -> fmt::Result {
        let syncs = Synced::ALL.iter().map(|&synced| {
            let durations = &self.metrics.syncs.0[synced.index()];
            (synced.name(), Distribution::of(durations))
        });
        let syncs: Vec<_> = syncs.collect();
        let durations = syncs
            .iter()
            .map(|(name, durations)| ([("of", *name)], durations));
        let store = self.levels.store;
        let healthy = [("read", store.is_readable), ("write", store.is_writable)];
        let healthy = healthy.map(|(name, is)| ([("operation", name)], u64::from(is)));
        let free = self.levels.disk_free_bytes.map(|free| ([], free));
        out.help("Duration of fsync calls on files and directories.")
            .histogram("fsync_duration_seconds", durations)?;
        out.help("Free bytes on the store's disk; absent if the disk does not answer.")
            .gauge("disk_free_bytes", free)?;
        out.help("Free bytes below which uploads are refused.")
            .level("disk_free_min_bytes", self.levels.disk_free_min_bytes)?;
        out.help("Free bytes that are reserved for uploads in flight.")
            .level("disk_reserved_bytes", self.levels.disk_reserved_bytes)?;
        out.help(
            "Whether the last operations could read from and write to the store (1) or not (0).",
        )
        .gauge("store_healthy", healthy)?;
        out.help("Writes to the store that failed with a disk error.")
            .total("store_write_errors", store.write_errors)
    }

    fn log(&self, out: &mut Families<'_>) -> fmt::Result {
        out.help("Log lines dropped because the log queue was full.")
            .total("log_lines_dropped", self.levels.log_lines_dropped)
    }
}

/// One sample for each value of a label.
fn by<'l, L: Label>(
    name: &'l str,
    number: impl Fn(L) -> u64,
) -> impl Iterator<Item = ([Pair<'l>; 1], u64)> {
    let values = L::ALL.iter();
    values.map(move |&value| ([(name, value.name())], number(value)))
}

/// One sample for each tenant.
fn by_tenant<'t>(
    tenants: &'t [TenantNumbers<'t>],
    number: fn(&Totals) -> u64,
) -> impl Iterator<Item = ([Pair<'t>; 1], u64)> {
    let sample = move |of: &'t TenantNumbers<'t>| ([("tenant", of.tenant)], number(&of.totals));
    tenants.iter().map(sample)
}

fn derivatives(counts: &Derivations) -> impl Iterator<Item = ([Pair<'static>; 2], u64)> {
    let sample = |derived: Derived, source: Source| {
        let labels = [("kind", derived.name()), ("source", source.name())];
        (labels, counts.get(derived, source))
    };
    let of_each = move |&derived| {
        Source::ALL
            .iter()
            .map(move |&source| sample(derived, source))
    };
    Derived::ALL.iter().flat_map(of_each)
}
