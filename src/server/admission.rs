//! Whether a call may begin: the rate of its client, then room for the bytes that it brings.
//!
//! Both before the credential is looked at: a refused call must cost next to nothing. Nothing here reads a body.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{
    api::{self, Call},
    client_network::network,
    error::{Error, Kind, Result},
    http::{body::RequestBody, multipart::FORM_OVERHEAD_BYTES},
    limit::{Budget, Interface, Limiter, Rate, UploadPermit, Uploader},
    metrics::UploadLevels,
    tenant::Tenant,
};

/// The limiter's key of calls that belong to no tenant.
const NO_TENANT: u32 = u32::MAX;

/// Lets calls in, or not.
pub(super) struct Admission {
    limiter: Arc<Limiter>,
    uploads: Arc<Budget>,
    /// The rate of calls that belong to no tenant.
    default_rate: Rate,
    /// Networks that have no share of the budget of uploads to keep to: proxies, the backend's own servers.
    exempt: Vec<IpNet>,
}

/// Who calls, as far as that is known before the credential is looked at.
#[derive(Clone, Copy)]
pub(super) struct Caller<'t> {
    /// The tenant that is named, where there is such a one.
    pub(super) tenant: Option<&'t Arc<Tenant>>,
    /// There are others.
    pub(super) is_one_of_many: bool,
    pub(super) client: IpAddr,
}

impl Admission {
    pub(super) fn new(
        limiter: Arc<Limiter>,
        default_rate: Rate,
        upload_bytes_max: u64,
        exempt: Vec<IpNet>,
    ) -> Self {
        Self {
            limiter,
            uploads: Arc::new(Budget::new(upload_bytes_max)),
            default_rate,
            exempt,
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
        caller: Caller<'_>,
        interface: Interface,
        call: &Call<'_>,
        body: &mut RequestBody,
        is_form: bool,
    ) -> Result<Option<UploadPermit<'_>>> {
        let (index, rate) = match caller.tenant {
            Some(tenant) => (tenant.index, Rate::from(&tenant.limits)),
            None => (NO_TENANT, self.default_rate),
        };
        self.limiter
            .check(index, interface, caller.client, rate, call.started)
            .map_err(|after| Error::new(Kind::RateLimited(after)))?;
        match (interface, caller.tenant) {
            (Interface::Upload, Some(tenant)) => self.hold(tenant, caller, body, is_form).map(Some),
            // No tenant matched, so the body will not be read: reserve nothing.
            _ => Ok(None),
        }
    }

    /// Bytes of uploads in flight.
    pub(super) fn upload_levels(&self) -> UploadLevels {
        self.uploads.levels()
    }

    /// Holds what the body announces, of a chunked one the most that is taken of it; of no body is more taken than
    /// that. The body then has to come the faster, the more its client holds.
    fn hold(
        &self,
        tenant: &Tenant,
        caller: Caller<'_>,
        body: &mut RequestBody,
        is_form: bool,
    ) -> Result<UploadPermit<'_>> {
        let bytes_max = tenant
            .limits
            .upload_bytes_max
            .saturating_add(FORM_OVERHEAD_BYTES);
        let bytes = body.announced().unwrap_or(u64::MAX).min(bytes_max);
        let address = caller.client.to_canonical();
        let is_exempt = self.exempt.iter().any(|net| net.contains(&address));
        let client = (!is_exempt).then(|| network(address));
        let uploader = Uploader {
            tenant: caller.is_one_of_many.then_some(tenant.index),
            client,
        };
        let held = match is_form {
            true => self.uploads.hold_some(uploader, bytes, FORM_OVERHEAD_BYTES),
            false => self.uploads.hold(uploader, bytes),
        };
        let held = held.ok_or_else(api::no_room)?;
        if client.is_some() {
            let uploads = self.uploads.clone();
            body.hurry(Box::new(move || uploads.urgency(client)));
        }
        Ok(held)
    }
}
