//! Rate limits, quotas, and bounds on what clients use of the server.
//!
//! Reading order: `gcra` is one token bucket and `limiter` the bounded table of them; `budget` limits bytes of
//! uploads in flight and [`quota`] bytes per day; [`clients`] limits connections and memory by client, `shares` what
//! is occupied for a long time. Authentication (`auth/`), the client's address behind a proxy (`server/`) and the
//! rendering of refusals (`api/`) are elsewhere.

mod gcra;
mod limiter;

mod budget;
pub mod clients;
pub mod quota;
mod shares;

pub use budget::{Budget, UploadPermit, Uploader};
pub use clients::{Client, ClientLimiter};
pub use gcra::Rate;
pub use limiter::{Config, Limiter, RateClass};
pub use quota::{PartsPermit, Quota, QuotaPermit, Quotas};
pub use shares::{Owner, Shares};
