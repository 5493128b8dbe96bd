//! The store that a command works on, and the runtime in which it does.

use std::sync::Arc;

use tokio::runtime::{self, Runtime};

use crate::{
    app,
    config::Config,
    error::{Error, Result},
    store::Store,
};

/// The store, which must exist. A command that created one in the wrong place would print tokens that no server accepts,
/// or report that there is nothing to remove.
pub(super) fn store(config: &Config) -> Result<Arc<dyn Store>> {
    app::attach(config)?.ok_or_else(|| {
        let path = std::path::absolute(&config.store.path);
        Error::invalid(format!(
            "store.path = \"{}\": there is no store. Is its file system mounted? To use another directory, \
             set --config FILE or --store-path DIR. Only `chatfiles serve` creates a store",
            path.as_ref().unwrap_or(&config.store.path).display()
        ))
    })
}

/// Runs an operation of the store to its end.
pub(super) fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    runtime()?.block_on(work)
}

/// A runtime on this thread.
pub(super) fn runtime() -> Result<Runtime> {
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all().build().map_err(Error::internal)
}
