//! How often a client may call: buckets, and the table of them.
//!
//! Reading order: [`gcra`] is one bucket, [`limiter`] is the bounded table of buckets by tenant, interface
//! and client. Nothing here knows who the caller is (`auth/`), which address is the client's behind a proxy
//! (`server/`), or how a refusal is rendered (`api/`).

pub mod gcra;
pub mod limiter;

pub use gcra::Rate;
pub use limiter::{Config, Interface, Limiter};
