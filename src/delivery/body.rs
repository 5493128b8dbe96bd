//! The body of an answer: small bytes, or slices of an object's map, chunk by chunk.
//!
//! No byte of a mapped object is copied here: a chunk is an address inside the map, warmed before it is lent. An object
//! that is no file is read into memory chunk by chunk.

use std::{
    collections::VecDeque,
    io,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::Full;
use hyper::body::{Frame, SizeHint};

use super::{
    copies::{Copies, Room},
    disk::OnDisk,
    loans::{FileBody, Loans},
};
use crate::{
    fair_queue::Claimant,
    files::OpenFile,
    limit::Client,
    store::{BoxFuture, CHUNK_BYTES, MappedFile, Payload},
};

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

/// A chunk on its way into memory.
struct Reading {
    range: Range<u64>,
    /// `None` for a client whose memory is not counted.
    room: Option<Room>,
    source: ChunkSource,
}

enum ChunkSource {
    Disk(OnDisk<Bytes>),
    Stream(BoxFuture<'static, io::Result<Bytes>>),
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
        if range.end - range.start <= SMALL_BYTES
            && let Some(mapped) = file.object.mapped()
            && mapped.is_warm(&range)
        {
            let slice = mapped.slice(range.clone());
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
        let range = range.clone();
        let file = self.file.clone();
        let chunk = match (&self.copies, file.object.mapped()) {
            (None, Some(mapped)) => ready!(self.poll_lend(cx, &range, mapped)),
            _ => ready!(self.poll_copy(cx, &range)),
        };
        if let Ok(chunk) = &chunk {
            let sent = chunk.len() as u64;
            self.remaining -= sent;
            if let Some(Segment::Range(range)) = self.segments.front_mut() {
                range.start += sent;
            }
        }
        Poll::Ready(Some(chunk.inspect_err(|error| cut_off(&file, error))))
    }

    /// Reads the next chunk of `range` into memory.
    fn poll_copy(&mut self, cx: &mut Context<'_>, range: &Range<u64>) -> Poll<io::Result<Bytes>> {
        if self.reading.is_none() {
            let mut chunk = up_to_multiple(range, COPY_BYTES);
            let room = match &self.copies {
                Some(copies) => Some(ready!(copies.poll_room(cx, chunk.end - chunk.start))),
                None => None,
            };
            let bytes_max = room.as_ref().map_or(u64::MAX, |room| room.bytes);
            chunk.end = chunk.end.min(chunk.start.saturating_add(bytes_max));
            let source = match &self.file.object.payload {
                Payload::Stream(stream) => {
                    ChunkSource::Stream(stream.clone().read_range(chunk.clone()))
                }
                Payload::Mapped(mapped) => match mapped.read_cached(&chunk).transpose() {
                    // The kernel has it in memory.
                    Some(read) => return Poll::Ready(read.map(|bytes| keep(bytes, room))),
                    None => {
                        let (file, range) = (self.file.clone(), chunk.clone());
                        ChunkSource::Disk(OnDisk::begin(self.claimant, move || {
                            file.object.read_range(range)
                        }))
                    }
                },
            };
            self.reading = Some(Reading {
                range: chunk,
                room,
                source,
            });
        }
        let Some(reading) = &mut self.reading else {
            return Poll::Pending;
        };
        let read = match &mut reading.source {
            ChunkSource::Disk(read) => ready!(read.poll(cx)),
            ChunkSource::Stream(read) => ready!(read.poll_unpin(cx)),
        };
        let wanted = reading.range.end - reading.range.start;
        let room = self.reading.take().and_then(|reading| reading.room);
        Poll::Ready(match read {
            Ok(bytes) if bytes.len() as u64 != wanted => Err(io::ErrorKind::UnexpectedEof.into()),
            read => read.map(|bytes| keep(bytes, room)),
        })
    }

    /// Lends the next chunk of `range` out of the map.
    fn poll_lend(
        &mut self,
        cx: &mut Context<'_>,
        range: &Range<u64>,
        mapped: &MappedFile,
    ) -> Poll<io::Result<Bytes>> {
        // What is warm is lent in large pieces, what is cold is brought in and sent piece by piece. Both end at
        // multiples of their size, where the object's warmed units end too.
        let mut chunk = up_to_multiple(range, LOAN_BYTES);
        if !mapped.is_warm(&chunk) {
            chunk = up_to_multiple(range, CHUNK_BYTES);
        }
        while !mapped.is_warm(&chunk) {
            let claimant = self.claimant;
            let warming = self.warming.get_or_insert_with(|| {
                let (file, cold) = (self.file.clone(), chunk.clone());
                OnDisk::begin(claimant, move || match file.object.mapped() {
                    Some(mapped) => mapped.warm(cold),
                    None => Ok(()),
                })
            });
            let warmed = ready!(warming.poll(cx));
            self.warming = None;
            warmed?;
        }
        // Somebody else may have brought it in while this one waited.
        self.warming = None;
        if let Some(loans) = &self.loans {
            loans.add(&self.file);
        }
        Poll::Ready(Ok(mapped.slice(chunk)))
    }
}

/// The part of the range up to the next multiple of `unit`.
fn up_to_multiple(range: &Range<u64>, unit: u64) -> Range<u64> {
    let end = (range.start / unit + 1).saturating_mul(unit);
    range.start..end.min(range.end)
}

/// Keeps the room for as long as the bytes.
fn keep(bytes: Bytes, room: Option<Room>) -> Bytes {
    match room {
        Some(room) => room.keep(bytes),
        None => bytes,
    }
}
