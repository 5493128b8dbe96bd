//! A store that fails when it is told to.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use chatfiles::{
    derivative::Derivative,
    error::{Kind, Result},
    store::{
        Derived, Key, Maintenance, Meta, ObjectId, Opened, PartStore, Sink, Store, StoreFuture,
        Upload, UploadSize,
    },
    time::Day,
};

use super::TestServer;

/// A call of the store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin,
    Write,
    Commit,
    Open,
    ExtendLife,
    Derived,
    PutDerived,
}

/// What fails next, and what was called so far; shared with the store.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    fault: Option<(Step, Kind)>,
    called: Vec<Step>,
    content_type: Option<String>,
}

impl Faults {
    /// Every call of the step fails from now on.
    pub fn set(&self, fault: Option<(Step, Kind)>) {
        self.0.lock().unwrap().fault = fault;
    }

    /// Every object is stored with this content type from now on, as an older version may have stored it.
    pub fn store_as(&self, content_type: &str) {
        self.0.lock().unwrap().content_type = Some(content_type.to_owned());
    }

    pub fn count(&self, step: Step) -> usize {
        self.0
            .lock()
            .unwrap()
            .called
            .iter()
            .filter(|called| **called == step)
            .count()
    }

    fn call(&self, step: Step) -> Result<()> {
        let mut state = self.0.lock().unwrap();
        state.called.push(step);
        match state.fault {
            Some((faulty, kind)) if faulty == step => {
                Err(chatfiles::error::Error::new(kind).source("/secret/path: Input/output error"))
            }
            _ => Ok(()),
        }
    }
}

/// A store that fails when it is told to.
pub struct FaultyStore<S> {
    pub inner: S,
    pub faults: Faults,
}

struct FaultyUpload {
    inner: Box<dyn Upload>,
    faults: Faults,
}

impl<S: Store> Store for FaultyStore<S> {
    fn begin(&self, key: Key, size: UploadSize) -> StoreFuture<'_, Box<dyn Upload>> {
        Box::pin(async move {
            self.faults.call(Step::Begin)?;
            let inner = self.inner.begin(key, size).await?;
            let faults = self.faults.clone();
            Ok(Box::new(FaultyUpload { inner, faults }) as Box<dyn Upload>)
        })
    }

    fn open(&self, key: Key) -> StoreFuture<'_, Option<Opened>> {
        Box::pin(async move {
            self.faults.call(Step::Open)?;
            self.inner.open(key).await
        })
    }

    fn extend_life(&self, key: Key, day: Day) -> StoreFuture<'_, bool> {
        Box::pin(async move {
            self.faults.call(Step::ExtendLife)?;
            self.inner.extend_life(key, day).await
        })
    }

    fn is_taken(&self, key: Key) -> StoreFuture<'_, bool> {
        Box::pin(async move {
            self.faults.call(Step::Open)?;
            self.inner.is_taken(key).await
        })
    }

    fn is_taken_down(&self, key: Key) -> StoreFuture<'_, bool> {
        self.inner.is_taken_down(key)
    }

    fn remove(&self, id: ObjectId) -> StoreFuture<'_, bool> {
        self.inner.remove(id)
    }

    fn derived(&self, key: Key, derivative: Derivative) -> StoreFuture<'_, Option<Derived>> {
        Box::pin(async move {
            self.faults.call(Step::Derived)?;
            self.inner.derived(key, derivative).await
        })
    }

    fn put_derived(
        &self,
        key: Key,
        derivative: Derivative,
        derived: Derived,
    ) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.faults.call(Step::PutDerived)?;
            self.inner.put_derived(key, derivative, derived).await
        })
    }

    fn parts(&self) -> &dyn PartStore {
        self.inner.parts()
    }

    fn maintenance(&self) -> &dyn Maintenance {
        self.inner.maintenance()
    }
}

impl Sink for FaultyUpload {
    fn write(&mut self, chunk: Bytes) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.faults.call(Step::Write)?;
            self.inner.write(chunk).await
        })
    }
}

impl Upload for FaultyUpload {
    fn commit(self: Box<Self>, mut meta: Meta) -> StoreFuture<'static, Meta> {
        Box::pin(async move {
            self.faults.call(Step::Commit)?;
            if let Some(content_type) = self.faults.0.lock().unwrap().content_type.clone() {
                meta.content_type = content_type;
            }
            self.inner.commit(meta).await
        })
    }
}

/// A server over a store that fails when `Faults` says so.
pub fn faulty_server(directory: &Path) -> (TestServer, Faults) {
    super::openapi::stop_checking();
    let faults = Faults::default();
    let moved = faults.clone();
    let server = TestServer::over(directory, "", |inner| {
        Arc::new(FaultyStore {
            inner,
            faults: moved,
        })
    });
    (server, faults)
}
