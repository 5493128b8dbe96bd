//! Decides whether a request may begin: first the rate limit of its client, then room for the bytes of an upload.
//!
//! Both are checked before the credential, so that a refused request costs next to nothing. No body is read here.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::routing::Routed;
use crate::{
    api::{self, Call},
    client_network::network,
    error::{Error, Kind, Result},
    http::{body::RequestBody, multipart::FORM_OVERHEAD_BYTES},
    limit::{Budget, Limiter, Rate, RateClass, UploadPermit, Uploader},
    metrics::UploadLevels,
    routes::Action,
    tenant::{Tenant, Tenants},
};

/// The rate limiter's key for requests without a tenant.
const NO_TENANT: u32 = u32::MAX;

/// Admits or refuses requests.
pub(super) struct Admission {
    pub(super) limiter: Arc<Limiter>,
    pub(super) uploads: Arc<Budget>,
    /// The rate limit of requests without a tenant.
    pub(super) default_rate: Rate,
    /// Networks without a share of the upload budget: proxies and the backend's own servers.
    pub(super) exempt: Vec<IpNet>,
}

impl Admission {
    /// Admits a request and reserves room for an upload. The permit holds the room until the upload is answered.
    ///
    /// # Errors
    /// `RateLimited`; `Unavailable` if there is no room for the upload.
    pub(super) fn admit(
        &self,
        call: &Call<'_>,
        routed: &Routed<'_>,
        tenants: &Tenants,
        body: &mut RequestBody,
    ) -> Result<Option<UploadPermit<'_>>> {
        let Some(rate_class) = routed.rate_class else {
            return Ok(None);
        };
        let (index, rate) = match routed.tenant {
            Some(tenant) => (tenant.index, Rate::from(&tenant.limits)),
            None => (NO_TENANT, self.default_rate),
        };
        self.limiter
            .check(index, rate_class, call.client, rate, call.started)
            .map_err(|after| Error::new(Kind::RateLimited(after)))?;
        match (rate_class, &routed.action, routed.tenant) {
            (RateClass::Upload, Ok((action, _)), Some(tenant)) => {
                let uploader = Uploader {
                    tenant: tenants.has_several().then_some(tenant.index),
                    client: self.limited_network(call.client),
                };
                self.reserve(tenant, *action, uploader, body).map(Some)
            }
            // No tenant matched, so the body will not be read: reserve nothing.
            _ => Ok(None),
        }
    }

    /// Bytes of uploads in flight.
    pub(super) fn upload_levels(&self) -> UploadLevels {
        self.uploads.levels()
    }

    /// Reserves the bytes that the body announces, or the most that is read of a chunked body; no body is read beyond that.
    /// The more bytes its client holds, the faster the body must arrive.
    ///
    /// A form has its credential in the body, so little is reserved until its policy was checked. Otherwise clients that
    /// announce much and send nothing could block all others.
    fn reserve(
        &self,
        tenant: &Tenant,
        action: Action,
        uploader: Uploader,
        body: &mut RequestBody,
    ) -> Result<UploadPermit<'_>> {
        let bytes_max = tenant
            .limits
            .upload_bytes_max
            .saturating_add(FORM_OVERHEAD_BYTES);
        let bytes = body.announced().unwrap_or(u64::MAX).min(bytes_max);
        let client = uploader.client;
        let permit = match action {
            Action::LanyingPostForm => self.uploads.hold_some(uploader, bytes, FORM_OVERHEAD_BYTES),
            _ => self.uploads.hold(uploader, bytes),
        };
        let permit = permit.ok_or_else(api::no_room)?;
        if client.is_some() {
            let uploads = self.uploads.clone();
            body.hurry(Box::new(move || uploads.urgency(client)));
        }
        Ok(permit)
    }

    /// The network whose share of the upload budget a client uses; `None` if the client is exempt.
    fn limited_network(&self, client: IpAddr) -> Option<IpAddr> {
        let address = client.to_canonical();
        let is_exempt = self.exempt.iter().any(|net| net.contains(&address));
        (!is_exempt).then(|| network(address))
    }
}
