//! Easemob's chatfiles REST API: `POST /{org}/{app}/chatfiles` and the calls around it.
//!
//! Only `wire.rs` knows the JSON. The rate limit was checked before (`server/admission.rs`).

mod download;
pub(crate) mod parts;
mod token;
mod upload;
pub mod wire;

use std::sync::Arc;

pub(crate) use self::{
    download::{download, view},
    token::token,
    upload::upload,
};

use super::{Api, Call};
use crate::{
    auth::{Identity, verifier::bearer},
    error::{Error, Kind, Result},
    files::Scope,
    limit::QuotaPermit,
    store::Dialect,
    tenant::{Tenant, Tenants},
};

/// The tenant of a path.
///
/// # Errors
/// `TenantNotFound` with the vendor's text.
pub fn tenant<'t>(
    tenants: &'t Tenants,
    org: &str,
    app: &str,
    path: &str,
) -> Result<&'t Arc<Tenant>> {
    tenants.find(org, app).ok_or_else(|| {
        let text = format!("Could not find application for {org}/{app} from URI: {path}");
        Error::new(Kind::TenantNotFound).public(text)
    })
}

/// What every call of a tenant needs.
pub(crate) struct Context<'a> {
    api: &'a Api,
    call: &'a Call<'a>,
    tenant: &'a Arc<Tenant>,
}

impl<'a> Context<'a> {
    /// The context of a call.
    ///
    /// # Errors
    /// `TenantNotFound` without a tenant.
    pub(crate) fn new(
        api: &'a Api,
        call: &'a Call<'a>,
        tenant: Option<&'a Arc<Tenant>>,
    ) -> Result<Self> {
        let tenant = tenant.ok_or(Kind::TenantNotFound)?;
        Ok(Self { api, call, tenant })
    }

    fn scope(&self) -> Scope<'_> {
        Scope {
            tenant: self.tenant,
            dialect: Dialect::Easemob,
        }
    }

    /// Reserves bytes of the daily quotas.
    fn reserve(&self, identity: &Identity, bytes: u64) -> Result<QuotaPermit> {
        let user = identity.user().unwrap_or_default();
        self.api.reserve(self.call, self.tenant, user, bytes)
    }

    /// Identifies the caller by the token in `Authorization`.
    async fn authenticate(&self) -> Result<Identity> {
        let token = bearer(self.call.headers).ok_or(Kind::TokenMissing)?;
        self.api.identify(self.call, self.tenant, token).await
    }
}
