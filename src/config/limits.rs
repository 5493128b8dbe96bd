//! What uploads may bring: one of them, all in flight, all of a day.

use std::ops::RangeInclusive;

use super::{
    Config, TenantConfig,
    values::{bad, range},
};
use crate::{error::Result, files, http::multipart::FORM_OVERHEAD_BYTES, tenant::Limits};

/// Of all uploads in flight: up to a terabyte, 2 GiB where nothing is said.
const IN_FLIGHT_BYTES: RangeInclusive<u64> = 1..=1 << 40;
const IN_FLIGHT_BYTES_DEFAULT: u64 = 2 << 30;
/// Of a day: up to a petabyte; 0 = any.
const BYTES_PER_DAY: RangeInclusive<u64> = 0..=1 << 50;

/// Unfinished uploads in parts: 16 at the least, so that a client's share, a quarter, is more than one.
const PART_UPLOADS: RangeInclusive<u64> = 16..=1_000_000;
const USER_PART_UPLOADS: RangeInclusive<u64> = 1..=10_000;

/// A quota of a day; none where nothing is said.
pub(super) fn bytes_per_day(key: &str, value: Option<u64>) -> Result<u64> {
    range(key, value, 0, BYTES_PER_DAY)
}

/// How many uploads in parts may be unfinished, in all and of one user.
pub(super) fn part_uploads(
    config: files::Config,
    all: Option<u64>,
    of_user: Option<u64>,
) -> Result<files::Config> {
    let files::Config {
        part_uploads_max,
        user_part_uploads_max,
        ..
    } = config;
    let (all_key, user_key) = ("limits.part_uploads_max", "limits.user_part_uploads_max");
    Ok(files::Config {
        part_uploads_max: range(all_key, all, part_uploads_max, PART_UPLOADS)?,
        user_part_uploads_max: range(user_key, of_user, user_part_uploads_max, USER_PART_UPLOADS)?,
        ..config
    })
}

/// What all uploads in flight may announce together.
pub(super) fn in_flight(
    value: Option<u64>,
    tenants: &[TenantConfig],
    defaults: &Limits,
) -> Result<u64> {
    let bytes = range(
        "limits.upload_bytes_in_flight_max",
        value,
        IN_FLIGHT_BYTES_DEFAULT,
        IN_FLIGHT_BYTES,
    )?;
    check_in_flight(bytes, "", tenants, defaults).map(|()| bytes)
}

impl Config {
    /// Whether the largest upload of its tenants has room in a server that was started with such a bound.
    ///
    /// # Errors
    /// `InvalidArgument` with what is needed.
    pub fn check_in_flight(&self, bytes_in_force: u64) -> Result<()> {
        let note = " (in force until the server is started anew)";
        check_in_flight(bytes_in_force, note, &self.tenants, &self.tenant_defaults)
    }
}

/// An upload that never fits would be told to come again for ever.
fn check_in_flight(
    bytes: u64,
    note: &str,
    tenants: &[TenantConfig],
    defaults: &Limits,
) -> Result<()> {
    let of_tenant =
        |tenant: &TenantConfig| tenant.upload_bytes_max.unwrap_or(defaults.upload_bytes_max);
    let largest = tenants.iter().map(of_tenant).max().unwrap_or(0);
    let needed = largest.saturating_add(FORM_OVERHEAD_BYTES);
    if bytes >= needed {
        return Ok(());
    }
    let allowed = format!(
        "at least {needed}: the largest upload_bytes_max of a tenant, and {FORM_OVERHEAD_BYTES} for its form"
    );
    let key = "limits.upload_bytes_in_flight_max";
    Err(bad(key, format!("{bytes}{note}"), &allowed))
}
