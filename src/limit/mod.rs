//! How often a client may call, and how much may come at once.
//!
//! Reading order: [`gcra`] is one bucket, [`limiter`] is the bounded table of buckets by tenant, interface
//! and client; [`budget`] counts the bytes that are on their way in. Nothing here knows who the caller is (`auth/`), which address is the client's behind a proxy
//! (`server/`), or how a refusal is rendered (`api/`).

pub mod gcra;
pub mod limiter;

pub mod budget;

pub use budget::{Budget, Held};
pub use gcra::Rate;
pub use limiter::{Config, Interface, Limiter};
