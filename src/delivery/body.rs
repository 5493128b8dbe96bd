//! The response body: a small piece of memory, or a stored file chunk by chunk.
//!
//! Chunks of a mapped file are slices of the map, not copies. Their pages are in memory before they are yielded. A file
//! that is not mapped, or that a connection must not lend, is read into memory chunk by chunk.

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

/// Chunk size of a file whose pages are in memory. Large, because each pass through hyper ends in a TCP segment that is
/// not full. The kernel keeps the reactor thread busy while it queues one chunk.
const LOAN_BYTES: u64 = 2 << 20;
/// Chunk size of a file that is read into memory: two TLS records, and the send buffer of one HTTP/2 stream.
const COPY_BYTES: u64 = 32 << 10;
/// The longest range that is sent as one piece of memory. `sendfile` pays off only above this.
const SMALL_BYTES: u64 = 16 << 10;

/// A response body.
pub struct Body(Inner);

enum Inner {
    /// One piece of memory, possibly empty.
    Whole(Full<Bytes>),
    /// A small range of a mapped file whose pages are in memory, as one slice.
    Mapped(Full<Bytes>, Arc<OpenFile>, Range<u64>, Claimant),
    /// Ranges of a file, and bytes between them.
    File(Box<FileChunks>),
}

/// The chunks of a body made from a file.
struct FileChunks {
    file: Arc<OpenFile>,
    /// The tenant and client whose turn it is when the disk must be read.
    claimant: Claimant,
    segments: VecDeque<Segment>,
    remaining_bytes: u64,
    /// Where to add the file before a slice of it is yielded.
    loans: Option<Arc<Loans>>,
    /// Memory for chunks that are read instead of lent.
    copies: Option<Copies>,
    /// Pages of the next chunk, on their way from the disk.
    warming: Option<OnDisk<()>>,
    /// The next chunk, on its way into memory.
    reading: Option<Reading>,
}

/// A part of a body.
pub(super) enum Segment {
    /// These bytes.
    Bytes(Bytes),
    /// A range of the file.
    Range(Range<u64>),
}

/// A chunk on its way into memory.
struct Reading {
    bytes: u64,
    /// `None` if the client's memory is not counted.
    room: Option<Room>,
    source: ChunkSource,
}

enum ChunkSource {
    /// The kernel had it in memory.
    Memory(Bytes),
    Disk(OnDisk<Bytes>),
    Stream(BoxFuture<'static, io::Result<Bytes>>),
}

impl Body {
    /// A body without bytes.
    pub fn empty() -> Self {
        Self::from(Bytes::new())
    }

    /// One range of a file. Cold pages are read from the disk when it is the claimant's turn.
    pub(super) fn range(file: Arc<OpenFile>, range: Range<u64>, claimant: Claimant) -> Self {
        // The kernel copies small pieces anyway, so a slice is enough and needs no state.
        if range.end - range.start <= SMALL_BYTES
            && let Some(mapped) = file.object.mapped()
            && mapped.is_warm(&range)
        {
            let slice = mapped.slice(range.clone());
            return Self(Inner::Mapped(Full::new(slice), file, range, claimant));
        }
        Self::segments(file, VecDeque::from([Segment::Range(range)]), claimant)
    }

    /// Several segments of one file. Cold pages are read from the disk when it is the claimant's turn.
    pub(super) fn segments(
        file: Arc<OpenFile>,
        segments: VecDeque<Segment>,
        claimant: Claimant,
    ) -> Self {
        let remaining_bytes = segments.iter().map(Segment::len).sum();
        Self(Inner::File(Box::new(FileChunks {
            file,
            claimant,
            segments,
            remaining_bytes,
            loans: None,
            copies: None,
            warming: None,
            reading: None,
        })))
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
        Self(Inner::Whole(Full::new(bytes)))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.0 {
            Inner::Whole(whole) | Inner::Mapped(whole, ..) => {
                let frame = Pin::new(whole).poll_frame(cx);
                frame.map_err(|never| match never {})
            }
            Inner::File(chunks) => chunks.poll_next(cx).map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(whole) | Inner::Mapped(whole, ..) => whole.is_end_stream(),
            Inner::File(chunks) => chunks.remaining_bytes == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(whole) | Inner::Mapped(whole, ..) => whole.size_hint(),
            Inner::File(chunks) => SizeHint::with_exact(chunks.remaining_bytes),
        }
    }
}

impl FileBody for Body {
    fn lend_to(&mut self, loans: &Arc<Loans>) {
        if let Inner::File(chunks) = &mut self.0 {
            chunks.loans = Some(loans.clone());
        }
    }

    fn copy_out(&mut self, client: &Arc<Client>) {
        if let Inner::Mapped(_, file, range, claimant) = &self.0 {
            let segments = [Segment::Range(range.clone())].into();
            *self = Self::segments(file.clone(), segments, *claimant);
        }
        if let Inner::File(chunks) = &mut self.0 {
            chunks.copies = Some(Copies::new(client.clone()));
        }
    }
}

impl FileChunks {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let range = loop {
            match self.segments.front_mut() {
                None => return Poll::Ready(None),
                Some(Segment::Bytes(bytes)) => {
                    let bytes = std::mem::take(bytes);
                    self.segments.pop_front();
                    self.remaining_bytes -= bytes.len() as u64;
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Some(Segment::Range(range)) if range.is_empty() => {
                    self.segments.pop_front();
                }
                Some(Segment::Range(range)) => break range.clone(),
            }
        };
        let file = self.file.clone();
        let chunk = match (&self.copies, file.object.mapped()) {
            (None, Some(mapped)) => ready!(self.poll_lend(cx, &range, mapped)),
            _ => ready!(self.poll_copy(cx, &range)),
        };
        match &chunk {
            Ok(chunk) => {
                let sent_bytes = chunk.len() as u64;
                self.remaining_bytes -= sent_bytes;
                if let Some(Segment::Range(range)) = self.segments.front_mut() {
                    range.start += sent_bytes;
                }
            }
            Err(error) => {
                let id = file.object.key.id;
                tracing::error!(%id, %error, "download cut off: the file cannot be read");
            }
        }
        Poll::Ready(Some(chunk))
    }

    /// Lends the next chunk of `range`: a slice of the map.
    fn poll_lend(
        &mut self,
        cx: &mut Context<'_>,
        range: &Range<u64>,
        mapped: &MappedFile,
    ) -> Poll<io::Result<Bytes>> {
        // Warm pages are lent in large chunks, cold ones are read and sent chunk by chunk. Both chunk sizes end at
        // multiples of the unit that `is_warm` knows.
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
        // Another request may have read the pages while this one waited.
        self.warming = None;
        if let Some(loans) = &self.loans {
            loans.add(&self.file);
        }
        Poll::Ready(Ok(mapped.slice(chunk)))
    }

    /// Reads the next chunk of `range` into memory.
    fn poll_copy(&mut self, cx: &mut Context<'_>, range: &Range<u64>) -> Poll<io::Result<Bytes>> {
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => ready!(self.poll_begin_reading(cx, range))?,
        };
        let read = match &mut reading.source {
            ChunkSource::Memory(read) => Poll::Ready(Ok(std::mem::take(read))),
            ChunkSource::Disk(read) => read.poll(cx),
            ChunkSource::Stream(read) => read.poll_unpin(cx),
        };
        match read {
            Poll::Pending => {
                self.reading = Some(reading);
                Poll::Pending
            }
            Poll::Ready(Ok(bytes)) if bytes.len() as u64 != reading.bytes => {
                Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            Poll::Ready(Ok(bytes)) => Poll::Ready(Ok(match reading.room {
                Some(room) => room.keep(bytes),
                None => bytes,
            })),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    /// Begins to read a chunk as soon as there is room for it in memory.
    fn poll_begin_reading(
        &self,
        cx: &mut Context<'_>,
        range: &Range<u64>,
    ) -> Poll<io::Result<Reading>> {
        let mut chunk = up_to_multiple(range, COPY_BYTES);
        let room = match &self.copies {
            Some(copies) => Some(ready!(copies.poll_room(cx, chunk.end - chunk.start))),
            None => None,
        };
        if let Some(room) = &room {
            chunk.end = chunk.end.min(chunk.start + room.bytes);
        }
        let bytes = chunk.end - chunk.start;
        let source = match &self.file.object.payload {
            Payload::Stream(stream) => ChunkSource::Stream(stream.clone().read_range(chunk)),
            Payload::Mapped(mapped) => match mapped.read_cached(&chunk)? {
                Some(read) => ChunkSource::Memory(read),
                None => {
                    let file = self.file.clone();
                    ChunkSource::Disk(OnDisk::begin(self.claimant, move || {
                        file.object.read_range(chunk)
                    }))
                }
            },
        };
        Poll::Ready(Ok(Reading {
            bytes,
            room,
            source,
        }))
    }
}

/// The part of the range up to the next multiple of `unit`.
fn up_to_multiple(range: &Range<u64>, unit: u64) -> Range<u64> {
    let end = (range.start / unit + 1).saturating_mul(unit);
    range.start..end.min(range.end)
}
