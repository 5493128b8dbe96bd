//! How often a client may call, how much may come at once, and how much in a day.
//!
//! Reading order: [`gcra`] is one bucket, [`limiter`] is the bounded table of buckets by tenant, rate class and client;
//! [`budget`] counts the bytes that are on their way in, [`quota`] those of a day; [`clients`] counts connections and
//! memory by client, [`shares`] what is held for long, by tenant, user and client. Nothing here knows who the caller is
//! (`auth/`), which address is the client's behind a proxy (`server/`), or how a refusal is rendered (`api/`).

pub mod gcra;
pub mod limiter;

pub mod budget;
pub mod clients;
pub mod quota;
pub mod shares;

pub use budget::{Budget, Held, Uploader};
pub use clients::{Client, Clients};
pub use gcra::Rate;
pub use limiter::{Config, Limiter, RateClass};
pub use quota::{PartsReserved, Quota, Quotas, Reserved};
pub use shares::{Owner, Shares};
