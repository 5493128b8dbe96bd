//! What a command does to the store of a server, beside the server.

use std::{path::Path, sync::Arc};

use chatfiles::{
    retention::{self, Policy, Report, SweepMode},
    store::{
        ExpireMode, Maintenance, Store, Verified,
        local::{Config, LocalStore},
    },
    time::Timestamp,
};

/// Runs a future to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// Opens the store in a directory as a command does.
pub fn attach(path: &Path) -> LocalStore {
    let config = Config {
        path: path.to_owned(),
        ..Config::default()
    };
    let store = LocalStore::attach(&config).expect("the directory opens");
    store.expect("the directory has a store")
}

pub fn sweep(path: &Path, policy: &Policy, now: Timestamp, mode: SweepMode) -> Report {
    let store = attach(path);
    let idle = Arc::default();
    block_on(retention::sweep(&store, policy, now, mode, &idle)).expect("a sweep")
}

/// When the last sweep was recorded.
pub fn last_sweep(path: &Path) -> Option<Timestamp> {
    block_on(attach(path).last_sweep()).expect("a record")
}

pub fn verify(path: &Path) -> Verified {
    block_on(attach(path).verify(Arc::default())).expect("a list of objects")
}

/// Removes expired uploads in parts; returns how many.
pub fn expire_parts(path: &Path, now: Timestamp) -> u64 {
    let store = attach(path);
    let expired = store.parts().expire(now, ExpireMode::Remove);
    block_on(expired).expect("a list of parts")
}
