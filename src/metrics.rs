//! What is counted, and how it is shown: cells that any thread may move, and the text that Prometheus reads.
//!
//! Each part of the program owns its cells and moves them; [`Metrics`] knows them all, and [`Metrics::render`]
//! names them (`docs/metrics.md` has the names). Labels are closed sets, and a cell is found by a number: no
//! text is looked up, nothing is allocated, and no lock is taken where something is counted. What is a level and
//! no count (open objects, the free disk) is asked for by whoever scrapes, and comes in as [`Levels`].

mod cells;
mod durations;
mod families;
mod requests;
mod writer;

use std::{sync::Arc, time::Duration};

use self::{
    cells::{Sharded, label, zeros},
    durations::Durations,
};
use crate::{
    derivative::{Derivative, VoiceFormat},
    time::Clock,
};

pub use self::{
    cells::{Counter, Gauge},
    families::CONTENT_TYPE,
    requests::{Answered, Refusal, Requests, RouteLabel},
};

/// Every cell of a server. Cheap to clone; the clones are the same cells.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// The pipeline's.
    pub requests: Arc<Requests>,
    /// The public listener's.
    pub connections: Arc<Connections>,
    /// The cache of open objects'.
    pub open_objects: Arc<Lookups>,
    /// The derivatives'.
    pub derivatives: Arc<Derivations>,
    /// The store's.
    pub syncs: Arc<Syncs>,
    /// Of passwords and client secrets.
    pub logins: Arc<Logins>,
}

/// What is asked at a scrape.
#[derive(Debug, Clone)]
pub struct Levels {
    /// Of the use cases.
    pub files: FileLevels,
    /// Addresses that the limiter remembers.
    pub limiter_addresses: usize,
    /// Bytes of uploads.
    pub uploads: UploadLevels,
    /// What clients hold.
    pub client_memory: Vec<MemoryLevels>,
    /// Bytes that the disk has left; `None` where it did not answer.
    pub disk_free_bytes: Option<u64>,
    /// Bytes that must be free for an upload.
    pub disk_free_min_bytes: u64,
    /// Bytes that uploads may still write.
    pub disk_reserved_bytes: u64,
    /// Whether the store works.
    pub store: StoreLevels,
    /// When the first of the certificates in force ends, in Unix time; `None` where there are none.
    pub certificates_end_secs: Option<u64>,
    /// Lines that the log had no room for.
    pub log_lines_dropped: u64,
}

/// What the last operations on the store have shown.
#[derive(Debug, Clone, Copy)]
pub struct StoreLevels {
    /// Its directory is there.
    pub is_readable: bool,
    /// And takes uploads, as far as is known.
    pub is_writable: bool,
    /// Writes that the disk failed so far.
    pub write_errors: u64,
}

/// Bytes of uploads that are not answered yet.
#[derive(Debug, Clone, Copy)]
pub struct UploadLevels {
    /// What they announced.
    pub in_flight_bytes: u64,
    /// The most that they may announce together.
    pub in_flight_bytes_max: u64,
    /// Uploads that there was no room for, so far.
    pub refusals: u64,
    /// Uploads that were over their tenant's share.
    pub tenant_refusals: u64,
    /// Uploads that were over their client's share.
    pub client_refusals: u64,
}

/// Memory of one kind that clients hold while they are connected.
#[derive(Debug, Clone, Copy)]
pub struct MemoryLevels {
    /// What it is for: the label.
    pub of: &'static str,
    /// Bytes held.
    pub held_bytes: u64,
    /// Bytes that may be held.
    pub held_bytes_max: u64,
    /// How often there was too little for one client, or for all.
    pub refusals: u64,
}

/// Levels of the use cases.
#[derive(Debug, Clone)]
pub struct FileLevels {
    /// Objects kept open.
    pub open_objects: usize,
    /// Uploads in parts.
    pub parts: PartLevels,
    /// Bytes of derivatives in memory.
    pub derived_bytes: u64,
    /// The decoders of pictures.
    pub pictures: PoolLevels,
    /// The runs of ffmpeg.
    pub ffmpeg: PoolLevels,
}

/// Unfinished uploads in parts.
#[derive(Debug, Clone, Default)]
pub struct PartLevels {
    /// How many there are.
    pub uploads: u64,
    /// How many there may be.
    pub uploads_max: u64,
    /// What their parts count for, those on their way included.
    pub bytes: u64,
    /// Those that made room for a new one of their user, so far.
    pub replaced: u64,
    /// Calls refused, so far, by whose share was full: indices are those of [`ShareRefusal`].
    pub refusals: [u64; ShareRefusal::COUNT],
}

label! {
    /// Whose share of a resource is full.
    pub enum ShareRefusal {
        /// One user's.
        User = "user",
        /// One address's.
        Client = "client",
        /// One tenant's.
        Tenant = "tenant",
        /// There is nothing left for anybody.
        Server = "server",
    }
}

/// Levels of one pool.
#[derive(Debug, Clone)]
pub struct PoolLevels {
    /// Calls that wait for a place.
    pub waiting: usize,
    /// Places taken.
    pub busy: usize,
    /// Places.
    pub places: usize,
    /// Calls refused so far, since too many waited.
    pub refused_full: u64,
    /// Calls refused so far, since no place was free in time.
    pub refused_late: u64,
}

/// Connections of one listener.
#[derive(Debug, Default)]
pub struct Connections {
    /// Accepted so far.
    pub accepted: Counter,
    /// Open now.
    pub open: Gauge,
    /// Accepted, and closed before HTTP.
    refused: [Counter; ConnectionRefusal::COUNT],
    /// Ended by the server against the client's will.
    cut: [Counter; ConnectionCut::COUNT],
    /// HTTP/2 streams that were reset because their client took nothing of the answer.
    pub streams_stalled: Counter,
}

label! {
    /// Why a connection was closed before HTTP.
    pub enum ConnectionRefusal {
        /// Its address has too many.
        Address = "address",
        /// Its PROXY header was none, came from somebody who is not believed, or did not end in time.
        Proxy = "proxy",
        /// Its TLS handshake failed, or did not end in time.
        Tls = "tls",
    }
}

label! {
    /// Why the server ended a connection that spoke HTTP.
    pub enum ConnectionCut {
        /// No request came within the idle time-out.
        Idle = "idle",
        /// A request's head began and did not end in time.
        Header = "header",
        /// The client acknowledged too little of an answer.
        WriteStall = "write_stall",
        /// The client took back more requests in a second than it may.
        Resets = "resets",
        /// The client filled its table of header fields with buffers, and went on after it was told to stop.
        Fields = "fields",
        /// It was idle when the server stopped.
        ExitIdle = "exit_idle",
        /// It had a request without an answer when the grace of a stop had passed.
        ExitRequest = "exit_request",
        /// Its answer was on the way when the grace of a stop had passed.
        ExitAnswer = "exit_answer",
    }
}

impl Connections {
    /// Counts a connection that the server ends, and returns how many it has ended for this reason so far.
    pub fn cut(&self, why: ConnectionCut) -> u64 {
        self.cut[why.index()].add(1);
        self.cuts(why)
    }

    /// Connections that the server has ended for this reason.
    pub fn cuts(&self, why: ConnectionCut) -> u64 {
        self.cut[why.index()].get()
    }

    /// Counts one that was closed.
    pub fn refuse(&self, why: ConnectionRefusal) {
        self.refused[why.index()].add(1);
    }

    fn refused(&self, why: ConnectionRefusal) -> u64 {
        self.refused[why.index()].get()
    }
}

label! {
    /// What came of a login by password or client secret.
    pub enum Login {
        /// A token was granted.
        Granted = "granted",
        /// The account, the password or the client's secret was wrong.
        Wrong = "wrong",
        /// It was not looked at, after too many wrong ones.
        Slowed = "slowed",
        /// It was not looked at, because too many passwords wait to be checked.
        Busy = "busy",
    }
}

/// Logins, by what came of them.
#[derive(Debug, Default)]
pub struct Logins([Counter; Login::COUNT]);

impl Logins {
    /// Counts one.
    pub fn count(&self, login: Login) {
        self.0[login.index()].add(1);
    }

    fn get(&self, login: Login) -> u64 {
        self.0[login.index()].get()
    }
}

label! {
    /// How a look into a cache went.
    pub enum Lookup {
        /// It was there.
        Hit = "hit",
        /// It was not.
        Miss = "miss",
    }
}

/// Looks into a cache, by how they went.
#[derive(Debug)]
pub struct Lookups(Sharded<[Counter; Lookup::COUNT]>);

impl Default for Lookups {
    fn default() -> Self {
        Self(Sharded::new(zeros))
    }
}

impl Lookups {
    /// Counts one.
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
        /// A decoded picture from which thumbnails of any size are made. Never on disk.
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
    /// Where what was asked for came from.
    pub enum Source {
        /// From memory, or from another call that was just making it.
        Memory = "memory",
        /// From disk.
        Disk = "disk",
        /// It had to be made, whatever came of it.
        Made = "made",
        /// The original is small enough to be its own thumbnail.
        Original = "original",
        /// It failed a short while ago and was not tried again.
        FailedBefore = "failed_before",
    }
}

/// Derivatives asked for, by what was asked and where it came from.
#[derive(Debug)]
pub struct Derivations(Sharded<[Counter; Derived::COUNT * Source::COUNT]>);

impl Default for Derivations {
    fn default() -> Self {
        Self(Sharded::new(zeros))
    }
}

impl Derivations {
    /// Counts a request for a derivative.
    pub fn count(&self, derivative: Derivative, source: Source) {
        self.add(derivative.into(), source);
    }

    /// Counts a request for a reduced picture.
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
    /// What is synced.
    pub enum Synced {
        /// A file's bytes.
        File = "file",
        /// A directory's names.
        Directory = "directory",
    }
}

/// How long the disk takes to sync. All threads share these cells: a sync takes a thousand times as long as the
/// way of a cache line between two cores.
#[derive(Debug, Default)]
pub struct Syncs([Durations; Synced::COUNT]);

impl Syncs {
    /// Does it, and remembers how long it took, also where it failed.
    pub fn time<T>(&self, synced: Synced, sync: impl FnOnce() -> T) -> T {
        // Only the monotonic reading is used, which is the same for every Clock.
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
