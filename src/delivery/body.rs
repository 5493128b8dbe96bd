//! The body of an answer: small bytes, or slices of an object's map, chunk by chunk.
//!
//! No byte of an object is copied here: a chunk is an address inside the map, warmed before it is lent.

use std::{
    collections::VecDeque,
    io,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Frame, SizeHint};

use super::{
    copies::{Copies, Room},
    disk::OnDisk,
    loans::{FileBody, Loans},
};
use crate::{fair_queue::Claimant, files::OpenFile, limit::Client, store::CHUNK_BYTES};

/// Bytes of a warm object that are lent at once: fewer turns through hyper, each of which ends in a segment
/// that is not full. An answer holds a reactor thread for as long as the kernel takes to queue this much.
const LOAN_BYTES: u64 = 2 << 20;

/// The longest range that is sent as one piece of memory: well below what is worth a `sendfile`.
const SMALL_BYTES: u64 = 16 << 10;

/// The body of an answer.
pub enum Body {
    /// One piece, or none.
    Whole(Full<Bytes>),
    /// One small and warm piece of an object's map.
    Mapped(Full<Bytes>, Arc<OpenFile>, Range<u64>, Claimant),
    /// Pieces and ranges of an object, in order.
    Object(Box<ObjectBody>),
}

/// A body out of an object: with several ranges, part heads stand between them.
pub struct ObjectBody {
    file: Arc<OpenFile>,
    /// Whose turn it is where the disk has to be waited for.
    claimant: Claimant,
    segments: VecDeque<Segment>,
    remaining: u64,
    warming: Option<OnDisk<()>>,
    /// Where the file is noted before its slices are given out.
    loans: Option<Arc<Loans>>,
    /// Read into memory of ours, instead of lent.
    copies: Option<Copies>,
    reading: Option<Reading>,
}

/// A chunk on its way from the disk into memory.
struct Reading {
    range: Range<u64>,
    room: Room,
    read: OnDisk<Bytes>,
}

/// Bytes read into memory at once: two records of TLS, and what each stream of HTTP/2 may have waiting.
const COPY_BYTES: u64 = 32 << 10;

fn cut_off(file: &OpenFile, error: &io::Error) {
    let id = file.object.key.id;
    tracing::error!(%id, %error, "an object cannot be read: its download is cut off");
}

/// A piece of an object's body.
pub enum Segment {
    /// Bytes of ours.
    Bytes(Bytes),
    /// Bytes of the object.
    Range(Range<u64>),
}

impl Body {
    /// No byte.
    pub fn empty() -> Self {
        Self::from(Bytes::new())
    }

    /// An object's range; from the disk it is read in the claimant's turn.
    pub fn range(file: Arc<OpenFile>, range: Range<u64>, claimant: Claimant) -> Self {
        // Small and warm: one piece of memory, which the kernel copies anyway, needs no state to be sent by.
        if range.end - range.start <= SMALL_BYTES && file.object.is_warm(&range) {
            let slice = file.object.slice(range.clone());
            return Self::Mapped(Full::new(slice), file, range, claimant);
        }
        Self::segments(file, VecDeque::from([Segment::Range(range)]), claimant)
    }

    /// Several pieces of one object; from the disk they are read in the claimant's turn.
    pub fn segments(file: Arc<OpenFile>, segments: VecDeque<Segment>, claimant: Claimant) -> Self {
        let remaining = segments.iter().map(Segment::len).sum();
        Self::Object(Box::new(ObjectBody {
            file,
            claimant,
            segments,
            remaining,
            warming: None,
            loans: None,
            copies: None,
            reading: None,
        }))
    }
}

impl Segment {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Range(range) => range.end.saturating_sub(range.start),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Full::new(bytes))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(whole) | Self::Mapped(whole, ..) => Pin::new(whole)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Self::Object(object) => object
                .poll_chunk(cx)
                .map(|chunk| chunk.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) | Self::Mapped(whole, ..) => whole.is_end_stream(),
            Self::Object(object) => object.remaining == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) | Self::Mapped(whole, ..) => whole.size_hint(),
            Self::Object(object) => SizeHint::with_exact(object.remaining),
        }
    }
}

impl FileBody for Body {
    fn lend_to(&mut self, loans: &Arc<Loans>) {
        if let Self::Object(object) = self {
            object.loans = Some(loans.clone());
        }
    }

    fn copy_out(&mut self, client: &Arc<Client>) {
        if let Self::Mapped(_, file, range, claimant) = self {
            let segments = [Segment::Range(range.clone())].into();
            *self = Self::segments(file.clone(), segments, *claimant);
        }
        if let Self::Object(object) = self {
            object.copies = Some(Copies::new(client.clone()));
        }
    }
}

impl ObjectBody {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let range = loop {
            match self.segments.front_mut() {
                None => return Poll::Ready(None),
                Some(Segment::Bytes(bytes)) => {
                    let bytes = std::mem::take(bytes);
                    self.segments.pop_front();
                    self.remaining -= bytes.len() as u64;
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Some(Segment::Range(range)) if range.is_empty() => {
                    self.segments.pop_front();
                }
                Some(Segment::Range(range)) => break range,
            }
        };
        let claimant = self.claimant;
        let up_to = |unit: u64| {
            let end = (range.start / unit + 1).saturating_mul(unit);
            range.start..end.min(range.end)
        };
        if let Some(copies) = &self.copies {
            let (read, end) = match &mut self.reading {
                Some(reading) => {
                    let read = ready!(reading.read.poll(cx));
                    let Some(Reading { range, room, .. }) = self.reading.take() else {
                        return Poll::Ready(None);
                    };
                    (read.map(|bytes| room.keep(bytes)), range.end)
                }
                None => {
                    let mut chunk = up_to(COPY_BYTES);
                    let room = ready!(copies.poll_room(cx, chunk.end - chunk.start));
                    chunk.end = chunk.end.min(chunk.start + room.bytes);
                    // At once where the kernel has it in memory.
                    match self.file.object.read_cached(&chunk).transpose() {
                        Some(read) => (read.map(|bytes| room.keep(bytes)), chunk.end),
                        None => {
                            let (file, range) = (self.file.clone(), chunk.clone());
                            self.reading = Some(Reading {
                                range,
                                room,
                                read: OnDisk::begin(claimant, move || {
                                    file.object.read_range(&chunk)
                                }),
                            });
                            return self.poll_chunk(cx);
                        }
                    }
                }
            };
            if read.is_ok() {
                self.remaining -= end - range.start;
                range.start = end;
            }
            let file = &self.file;
            return Poll::Ready(Some(read.inspect_err(|error| cut_off(file, error))));
        }
        // What is warm is lent in large pieces, what is cold is brought in and sent piece by piece. Both end at
        // multiples of their size, where the object's warmed units end too.
        let mut chunk = up_to(LOAN_BYTES);
        if !self.file.object.is_warm(&chunk) {
            chunk = up_to(CHUNK_BYTES);
        }
        while !self.file.object.is_warm(&chunk) {
            let warming = self.warming.get_or_insert_with(|| {
                let (file, cold) = (self.file.clone(), chunk.clone());
                OnDisk::begin(claimant, move || file.object.warm(cold))
            });
            let warmed = ready!(warming.poll(cx));
            self.warming = None;
            if let Err(error) = warmed {
                cut_off(&self.file, &error);
                return Poll::Ready(Some(Err(error)));
            }
        }
        // Somebody else may have brought it in while this one waited.
        self.warming = None;
        if let Some(loans) = &self.loans {
            loans.add(&self.file);
        }
        range.start = chunk.end;
        self.remaining -= chunk.end - chunk.start;
        Poll::Ready(Some(Ok(self.file.object.slice(chunk))))
    }
}
