//! A store in memory, written against the traits alone: an engine needs no files.

use std::{
    collections::{HashMap, HashSet},
    io,
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use chatfiles::{
    derivative::Derivative,
    error::{Kind, Result},
    store::*,
    time::{Day, Timestamp},
};
use futures_util::stream::{self, BoxStream};
use parking_lot::Mutex;

/// Cheap to clone; the clones are one store.
#[derive(Clone, Default)]
pub struct InMemory(Arc<Mutex<State>>);
#[derive(Default)]
struct State {
    objects: HashMap<Key, Arc<Object>>,
    taken_down: HashSet<ObjectId>,
    derived: HashMap<(Key, Derivative), Derived>,
    unfinished: HashMap<ObjectId, Unfinished>,
    last_sweep: Option<Timestamp>,
}
/// Metadata, payload, and the store that knows whether it was taken down.
struct Object(Meta, Bytes, ObjectId, InMemory);
/// An upload under its key, or a part, on its way in.
struct Draft(InMemory, Option<Key>, Vec<u8>);
/// An upload in parts with the bytes of its parts.
type Unfinished = (UnfinishedUpload, HashMap<u32, Bytes>);
struct Claimed(InMemory, ObjectId, Unfinished);

fn now<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(value))
}
fn ok<'a, T: Send + 'a>(value: T) -> StoreFuture<'a, T> {
    now(Ok(value))
}

impl Store for InMemory {
    fn begin(&self, key: Key, _: UploadSize) -> StoreFuture<'_, Box<dyn Upload>> {
        ok(Box::new(Draft(self.clone(), Some(key), Vec::new())))
    }
    fn open(&self, key: Key) -> StoreFuture<'_, Option<Opened>> {
        let object = self.0.lock().objects.get(&key).cloned();
        ok(object.map(|object| Opened::stream(key, object.0.clone(), object)))
    }
    fn is_taken_down(&self, key: Key) -> StoreFuture<'_, bool> {
        ok(self.0.lock().taken_down.contains(&key.id))
    }
    fn extend_life(&self, key: Key, day: Day) -> StoreFuture<'_, bool> {
        let objects = &mut self.0.lock().objects;
        let found = objects.get(&key).cloned();
        let later = found.map(|object| objects.insert(Key { day, ..key }, object));
        ok(later.is_some())
    }
    fn remove(&self, id: ObjectId) -> StoreFuture<'_, bool> {
        let mut state = self.0.lock();
        let before = state.objects.len();
        state.objects.retain(|key, _| key.id != id);
        state.derived.retain(|(key, _), _| key.id != id);
        let was_there = state.objects.len() < before;
        state.taken_down.extend(was_there.then_some(id));
        ok(was_there)
    }
    fn derived(&self, key: Key, name: Derivative) -> StoreFuture<'_, Option<Derived>> {
        ok(self.0.lock().derived.get(&(key, name)).cloned())
    }
    fn put_derived(&self, key: Key, name: Derivative, new: Derived) -> StoreFuture<'_, ()> {
        self.0.lock().derived.insert((key, name), new);
        ok(())
    }
    fn parts(&self) -> &dyn PartStore {
        self
    }
    fn maintenance(&self) -> &dyn Maintenance {
        self
    }
}

impl ReadRange for Object {
    fn read_range(self: Arc<Self>, range: Range<u64>) -> BoxFuture<'static, io::Result<Bytes>> {
        now(Ok(self.1.slice(range.start as usize..range.end as usize)))
    }
    fn is_removed(&self) -> bool {
        self.3.0.lock().taken_down.contains(&self.2)
    }
}

impl Sink for Draft {
    fn write(&mut self, chunk: Bytes) -> StoreFuture<'_, ()> {
        self.2.extend(chunk);
        ok(())
    }
}

impl Upload for Draft {
    fn commit(self: Box<Self>, mut meta: Meta) -> StoreFuture<'static, Meta> {
        let (key, mut state) = (self.1.unwrap(), self.0.0.lock());
        if state.objects.contains_key(&key) || state.taken_down.contains(&key.id) {
            return now(Err(Kind::AlreadyExists.into()));
        }
        (meta.len, meta.crc) = (self.2.len() as u64, crc32fast::hash(&self.2));
        let object = Object(meta.clone(), self.2.clone().into(), key.id, self.0.clone());
        now(meta.encode().map(|_| {
            state.objects.insert(key, Arc::new(object));
            meta
        }))
    }
}

impl PartStore for InMemory {
    fn begin(&self, id: ObjectId, owner: PartsOwner) -> StoreFuture<'_, ()> {
        let new = (UnfinishedUpload::new(owner), HashMap::new());
        self.0.lock().unfinished.insert(id, new);
        ok(())
    }
    fn find(&self, id: ObjectId) -> StoreFuture<'_, Option<UnfinishedUpload>> {
        let found = self.0.lock().unfinished.get(&id).cloned();
        ok(found.map(|(upload, _)| upload))
    }
    fn begin_part(&self, _: u64) -> StoreFuture<'_, Box<dyn PartWriter>> {
        ok(Box::new(Draft(self.clone(), None, Vec::new())))
    }
    fn claim(&self, id: ObjectId, key: Key) -> StoreFuture<'_, ClaimedUpload> {
        let found = self.0.lock().unfinished.remove(&id);
        now(found.ok_or(Kind::ObjectNotFound.into()).map(|upload| {
            let found = Some(upload.0.clone());
            let parts = Box::new(Claimed(self.clone(), id, upload));
            ClaimedUpload::new(id, key, found, parts)
        }))
    }
    fn abort(&self, id: ObjectId) -> StoreFuture<'_, ()> {
        self.0.lock().unfinished.remove(&id);
        ok(())
    }
    fn list(&self) -> StoreFuture<'_, UnfinishedUploads> {
        let mut all = UnfinishedUploads::default();
        all.open.extend(self.0.lock().unfinished.keys());
        ok(all)
    }
}

impl PartWriter for Draft {
    fn put(self: Box<Self>, id: ObjectId, number: u32, max: u64) -> StoreFuture<'static, PutPart> {
        let mut state = self.0.0.lock();
        let Some((upload, bytes)) = state.unfinished.get_mut(&id) else {
            return now(Err(Kind::ObjectNotFound.into()));
        };
        let put = upload.put(StoredPart::new(number, &self.2), max);
        now(put.inspect(|_| drop(bytes.insert(number, self.2.clone().into()))))
    }
}

impl ClaimedParts for Claimed {
    fn read(&self, part: StoredPart) -> BoxStream<'static, Result<Bytes>> {
        Box::pin(stream::iter(self.2.1.get(&part.number).cloned().map(Ok)))
    }
    fn give_back(self: Box<Self>) -> StoreFuture<'static, ()> {
        self.0.0.lock().unfinished.insert(self.1, self.2.clone());
        ok(())
    }
    fn discard(self: Box<Self>) -> StoreFuture<'static, ()> {
        ok(())
    }
}

impl Maintenance for InMemory {
    fn expire(
        &self,
        class: Class,
        kept: Cutoffs,
        mode: ExpireMode,
        progress: Arc<Progress>,
    ) -> StoreFuture<'_, Expired> {
        let mut expired = Expired::default();
        self.0.lock().objects.retain(|key, object| {
            let is_whole = key.class == class && kept.all_have_ended(key.day);
            let has_ended = key.class == class && kept.has_ended(&object.0.tenant, key.day);
            expired.days.extend(is_whole.then_some(key.day));
            expired.objects += u64::from(has_ended && !is_whole);
            if has_ended {
                expired.volume.add(object.0.len);
                progress.count(object.0.len);
            }
            !has_ended || mode == ExpireMode::Report
        });
        ok(expired)
    }
    fn last_sweep(&self) -> StoreFuture<'_, Option<Timestamp>> {
        ok(self.0.lock().last_sweep)
    }
    fn record_sweep(&self, at: Timestamp) -> StoreFuture<'_, ()> {
        self.0.lock().last_sweep = Some(at);
        ok(())
    }
    fn verify(&self, progress: Arc<Progress>) -> StoreFuture<'_, Verified> {
        let mut verified = Verified::default();
        for object in self.0.lock().objects.values() {
            verified.volume.add(object.0.len);
            progress.count(object.0.len);
        }
        progress.expect(verified.volume);
        ok(verified)
    }
}
