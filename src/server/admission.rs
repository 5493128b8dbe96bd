//! Whether a call may begin: the rate of its client, then room for the bytes that it brings.
//!
//! Both before the credential is looked at: a refused call must cost next to nothing. Nothing here reads a body.

use std::{net::IpAddr, sync::Arc};

use crate::{
    api::{self, Call},
    error::{Error, Kind, Result},
    http::{body::RequestBody, multipart::FORM_OVERHEAD_BYTES},
    limit::{Budget, Held, Interface, Limiter, Rate},
    metrics::UploadLevels,
    tenant::Tenant,
};

/// The limiter's key of calls that belong to no tenant.
const NO_TENANT: u32 = u32::MAX;

/// Lets calls in, or not.
pub(super) struct Admission {
    limiter: Arc<Limiter>,
    uploads: Budget,
    /// The rate of calls that belong to no tenant.
    default_rate: Rate,
}

impl Admission {
    pub(super) fn new(limiter: Arc<Limiter>, default_rate: Rate, upload_bytes_max: u64) -> Self {
        Self {
            limiter,
            uploads: Budget::new(upload_bytes_max),
            default_rate,
        }
    }

    /// An upload is let in with what it holds until it is answered, however it ends. Where its credential comes in
    /// its body (`is_form`), that is little until the credential is good: else whoever announces much and sends
    /// nothing could keep everybody out.
    ///
    /// # Errors
    /// `RateLimited`; `Unavailable` where there is no room.
    pub(super) fn admit(
        &self,
        tenant: Option<&Arc<Tenant>>,
        interface: Interface,
        client: IpAddr,
        call: &Call<'_>,
        body: &RequestBody,
        is_form: bool,
    ) -> Result<Option<Held<'_>>> {
        let (index, rate) = match tenant {
            Some(tenant) => (tenant.index, Rate::from(&tenant.limits)),
            None => (NO_TENANT, self.default_rate),
        };
        self.limiter
            .check(index, interface, client, rate, call.started)
            .map_err(|after| Error::new(Kind::RateLimited(after)))?;
        match (interface, tenant) {
            (Interface::Upload, Some(tenant)) => self.hold(tenant, body, is_form).map(Some),
            // Nothing is received for nobody.
            _ => Ok(None),
        }
    }

    /// Bytes of uploads in flight.
    pub(super) fn upload_levels(&self) -> UploadLevels {
        self.uploads.levels()
    }

    /// What the body announces, a chunked one the most that is taken of it; of no body is more taken than that.
    fn hold(&self, tenant: &Tenant, body: &RequestBody, is_form: bool) -> Result<Held<'_>> {
        let bytes_max = tenant
            .limits
            .upload_bytes_max
            .saturating_add(FORM_OVERHEAD_BYTES);
        let bytes = body.announced().unwrap_or(u64::MAX).min(bytes_max);
        let held = match is_form {
            true => self.uploads.hold_some(bytes, FORM_OVERHEAD_BYTES),
            false => self.uploads.hold(bytes),
        };
        held.ok_or_else(api::no_room)
    }
}
