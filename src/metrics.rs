//! Metrics of the server: counters and gauges that any thread may change, and their text for Prometheus.
//!
//! Each module owns and updates its own counters; [`Metrics`] holds all of them, and [`Metrics::render`] names them
//! (`docs/metrics.md` lists the names). Labels are closed sets and counters are found by index, so counting looks up no
//! text, allocates nothing and takes no lock. Values that are measured only when they are needed (open objects, free
//! disk space) are read at a scrape and passed in as [`Levels`].

mod cells;
mod durations;
mod families;
mod requests;
mod snapshot;
mod writer;

use std::{sync::Arc, time::Duration};

use self::{
    cells::{Gauge, Sharded, label},
    durations::Durations,
};
use crate::{
    derivative::{Derivative, VoiceFormat},
    time::Clock,
};

pub(crate) use self::cells::Label;
pub use self::{
    cells::Counter,
    families::CONTENT_TYPE,
    requests::{Answered, Refusal, Requests, RouteLabel, TENANTS_MAX, TenantName},
};

/// All counters of a server. Clones share the same counters.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Requests by route and by tenant.
    pub requests: Arc<Requests>,
    /// Connections of the public listener.
    pub connections: Arc<Connections>,
    /// Lookups in the cache of open objects.
    pub open_objects: Arc<Lookups>,
    /// Requested derivatives.
    pub derivatives: Arc<Derivations>,
    /// Durations of fsync calls of the store.
    pub syncs: Arc<Syncs>,
    /// Logins by password or client secret.
    pub logins: Arc<Logins>,
    /// Questions to introspection servers.
    pub introspections: Arc<IntrospectionCounts>,
}

/// Values that are measured at a scrape.
#[derive(Debug, Clone)]
pub struct Levels {
    /// The names of the tenants that have counters of their own.
    pub tenants: Vec<TenantName>,
    /// Open objects, derivatives and uploads in parts.
    pub files: FileLevels,
    /// Client addresses in the rate limiter's table.
    pub limiter_addresses: usize,
    /// Bytes of uploads in flight.
    pub uploads: UploadLevels,
    /// Memory held by connected clients, one entry for each kind.
    pub client_memory: Vec<MemoryLevels>,
    /// Free bytes on the store's disk; `None` if the disk did not answer.
    pub disk_free_bytes: Option<u64>,
    /// Free bytes below which uploads are refused.
    pub disk_free_min_bytes: u64,
    /// Bytes that uploads in flight may still write.
    pub disk_reserved_bytes: u64,
    /// State of the store.
    pub store: StoreLevels,
    /// Expiry of the first certificate to expire, in Unix time; `None` without certificates.
    pub certificates_end_secs: Option<u64>,
    /// Key files of chat backends whose last version could not be used.
    pub stale_key_files: usize,
    /// Log lines that were dropped because the log queue was full.
    pub log_lines_dropped: u64,
}

/// State of the store, as seen by its last operations.
#[derive(Debug, Clone, Copy)]
pub struct StoreLevels {
    /// The store's directory is reachable.
    pub is_readable: bool,
    /// The store accepts uploads, as far as is known.
    pub is_writable: bool,
    /// Writes that failed with a disk error so far.
    pub write_errors: u64,
}

/// Bytes of uploads that are not answered yet.
#[derive(Debug, Clone, Copy)]
pub struct UploadLevels {
    /// Bytes that the uploads announced.
    pub in_flight_bytes: u64,
    /// Upper limit of `in_flight_bytes`.
    pub in_flight_bytes_max: u64,
    /// Uploads refused so far because the limit was reached.
    pub refusals: u64,
    /// Uploads refused so far because their tenant's share was used up.
    pub tenant_refusals: u64,
    /// Uploads refused so far because their client's share was used up.
    pub client_refusals: u64,
}

/// Memory of one kind that connected clients hold.
#[derive(Debug, Clone, Copy)]
pub struct MemoryLevels {
    /// The kind of memory: the value of the label.
    pub of: &'static str,
    /// Bytes held.
    pub held_bytes: u64,
    /// Upper limit of `held_bytes`.
    pub held_bytes_max: u64,
    /// Requests for memory that were refused, because of the client's share or the total.
    pub refusals: u64,
}

/// Levels of the file layer.
#[derive(Debug, Clone)]
pub struct FileLevels {
    /// Open objects in the cache.
    pub open_objects: usize,
    /// Unfinished uploads in parts.
    pub parts: PartLevels,
    /// Bytes of derivatives in memory.
    pub derived_bytes: u64,
    /// The pool of image decoders.
    pub pictures: PoolLevels,
    /// The pool of ffmpeg runs.
    pub ffmpeg: PoolLevels,
}

/// Unfinished uploads in parts.
#[derive(Debug, Clone, Default)]
pub struct PartLevels {
    /// Number of uploads.
    pub uploads: u64,
    /// Upper limit of `uploads`.
    pub uploads_max: u64,
    /// Bytes of their parts, including parts that are being received.
    pub bytes: u64,
    /// Uploads replaced so far by a new upload of the same user.
    pub replaced: u64,
    /// Requests refused so far, by the share that was used up. Indexed by [`ShareRefusal`].
    pub refusals: [u64; ShareRefusal::COUNT],
}

label! {
    /// The share of a resource that is used up.
    pub enum ShareRefusal {
        /// The share of one user.
        User = "user",
        /// The share of one client address.
        Client = "client",
        /// The share of one tenant.
        Tenant = "tenant",
        /// The whole resource.
        Server = "server",
    }
}

/// Levels of one pool of workers.
#[derive(Debug, Clone)]
pub struct PoolLevels {
    /// Jobs that wait for a worker.
    pub waiting: usize,
    /// Busy workers.
    pub busy: usize,
    /// All workers.
    pub places: usize,
    /// Jobs refused so far because the queue was full.
    pub refused_full: u64,
    /// Jobs refused so far because no worker was free in time.
    pub refused_late: u64,
}

/// Connections of one listener.
#[derive(Debug, Default)]
pub struct Connections {
    /// Connections accepted so far.
    pub accepted: Counter,
    /// Open connections.
    pub(crate) open: Gauge,
    /// Connections closed before HTTP began.
    refused: [Counter; ConnectionRefusal::COUNT],
    /// Connections ended by the server although the client wanted to go on.
    cut: [Counter; ConnectionCut::COUNT],
    /// HTTP/2 streams that were reset because the client did not read the response.
    pub streams_stalled: Counter,
}

label! {
    /// Why a connection was closed before HTTP began.
    pub enum ConnectionRefusal {
        /// The client address has too many connections.
        Address = "address",
        /// The PROXY header was missing, invalid, late, or sent by an untrusted peer.
        Proxy = "proxy",
        /// The TLS handshake failed or took too long.
        Tls = "tls",
    }
}

label! {
    /// Why the server ended an HTTP connection.
    pub enum ConnectionCut {
        /// No request within the idle timeout.
        Idle = "idle",
        /// A request head was incomplete when its timeout passed.
        Header = "header",
        /// The client acknowledged too little of a response.
        WriteStall = "write_stall",
        /// The client cancelled too many requests within a second.
        Resets = "resets",
        /// The client filled its HTTP/2 header table with buffers, and continued after it was told to stop.
        Fields = "fields",
        /// The connection was idle when the server stopped.
        ExitIdle = "exit_idle",
        /// A request was unanswered when the shutdown grace period ended.
        ExitRequest = "exit_request",
        /// A response was being sent when the shutdown grace period ended.
        ExitAnswer = "exit_answer",
    }
}

impl Connections {
    /// Counts a connection that the server ends. Returns the number of connections ended for this reason so far.
    pub fn cut(&self, why: ConnectionCut) -> u64 {
        self.cut[why.index()].add(1);
        self.cuts(why)
    }

    /// Connections ended for this reason so far.
    pub fn cuts(&self, why: ConnectionCut) -> u64 {
        self.cut[why.index()].get()
    }

    /// Counts a connection that was closed before HTTP began.
    pub fn refuse(&self, why: ConnectionRefusal) {
        self.refused[why.index()].add(1);
    }

    fn refused(&self, why: ConnectionRefusal) -> u64 {
        self.refused[why.index()].get()
    }
}

label! {
    /// Result of a login by password or client secret.
    pub enum Login {
        /// A token was granted.
        Granted = "granted",
        /// The account, password or client secret was wrong.
        Wrong = "wrong",
        /// Not checked, because of too many wrong attempts.
        Slowed = "slowed",
        /// Not checked, because too many passwords wait to be checked.
        Busy = "busy",
    }
}

/// Logins by result.
#[derive(Debug, Default)]
pub struct Logins([Counter; Login::COUNT]);

impl Logins {
    /// Counts one login.
    pub fn count(&self, login: Login) {
        self.0[login.index()].add(1);
    }

    fn get(&self, login: Login) -> u64 {
        self.0[login.index()].get()
    }
}

label! {
    /// How a token was looked up that only an introspection server knows.
    pub enum Introspected {
        /// The answer was in the cache, or another request was waiting for it.
        Cached = "cached",
        /// The server was asked, and the token is valid.
        Active = "active",
        /// The server was asked, and the token is not valid.
        Refused = "refused",
        /// There was no clear answer in time.
        Failed = "failed",
    }
}

/// Lookups of such tokens by result.
#[derive(Debug, Default)]
pub struct IntrospectionCounts([Counter; Introspected::COUNT]);

impl IntrospectionCounts {
    /// Counts one lookup.
    pub fn count(&self, introspected: Introspected) {
        self.0[introspected.index()].add(1);
    }

    fn get(&self, introspected: Introspected) -> u64 {
        self.0[introspected.index()].get()
    }
}

label! {
    /// Result of a cache lookup.
    pub enum Lookup {
        /// The entry was in the cache.
        Hit = "hit",
        /// The entry was not in the cache.
        Miss = "miss",
    }
}

/// Cache lookups by result.
#[derive(Debug, Default)]
pub struct Lookups(Sharded<[Counter; Lookup::COUNT]>);

impl Lookups {
    /// Counts one lookup.
    pub fn count(&self, lookup: Lookup) {
        self.0.mine()[lookup.index()].add(1);
    }

    fn get(&self, lookup: Lookup) -> u64 {
        self.0.sum(|cells| &cells[lookup.index()])
    }
}

label! {
    /// A kind of derivative, as a label.
    pub enum Derived {
        /// A thumbnail of any size.
        Thumbnail = "thumbnail",
        /// The first frame of a video.
        Frame = "frame",
        /// A voice message as MP3.
        Mp3 = "mp3",
        /// A voice message as AMR.
        Amr = "amr",
        /// A decoded image that thumbnails of any size are made from. Kept in memory only.
        Reduced = "reduced",
    }
}

impl From<Derivative> for Derived {
    fn from(derivative: Derivative) -> Self {
        match derivative {
            Derivative::Thumbnail(_) => Self::Thumbnail,
            Derivative::VideoFrame => Self::Frame,
            Derivative::Voice(VoiceFormat::Mp3) => Self::Mp3,
            Derivative::Voice(VoiceFormat::Amr) => Self::Amr,
        }
    }
}

label! {
    /// Where a derivative came from.
    pub enum Source {
        /// From memory, or from a concurrent request that was making it.
        Memory = "memory",
        /// From disk.
        Disk = "disk",
        /// Made for this request, successfully or not.
        Made = "made",
        /// The original is small enough to serve as its own thumbnail.
        Original = "original",
        /// Not tried again, because it failed shortly before.
        FailedBefore = "failed_before",
    }
}

/// Requested derivatives by kind and source.
#[derive(Debug, Default)]
pub struct Derivations(Sharded<[Counter; Derived::COUNT * Source::COUNT]>);

impl Derivations {
    /// Counts a request for a derivative.
    pub fn count(&self, derivative: Derivative, source: Source) {
        self.add(derivative.into(), source);
    }

    /// Counts one request for a decoded, reduced image.
    pub fn count_reduced(&self, source: Source) {
        self.add(Derived::Reduced, source);
    }

    fn add(&self, derived: Derived, source: Source) {
        self.0.mine()[Self::place(derived, source)].add(1);
    }

    fn get(&self, derived: Derived, source: Source) -> u64 {
        self.0.sum(|cells| &cells[Self::place(derived, source)])
    }

    const fn place(derived: Derived, source: Source) -> usize {
        derived.index() * Source::COUNT + source.index()
    }
}

label! {
    /// What an fsync call made durable.
    pub enum Synced {
        /// The content of a file.
        File = "file",
        /// The entries of a directory.
        Directory = "directory",
    }
}

/// Durations of fsync calls. All threads share these counters: an fsync takes a thousand times as long as moving a
/// cache line between two cores.
#[derive(Debug, Default)]
pub struct Syncs([Durations; Synced::COUNT]);

impl Syncs {
    /// Runs `sync` and records its duration, also if it fails.
    pub fn time<T>(&self, synced: Synced, sync: impl FnOnce() -> T) -> T {
        // Only the monotonic time is used, which is the same for all clocks.
        let clock = Clock::system();
        let begun = clock.monotonic();
        let done = sync();
        self.observe(synced, clock.monotonic() - begun);
        done
    }

    fn observe(&self, synced: Synced, took: Duration) {
        self.0[synced.index()].observe(took);
    }
}

#[cfg(test)]
mod tests;
