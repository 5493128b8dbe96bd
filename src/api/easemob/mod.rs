//! Easemob's chatfiles REST API, as `POST /{org}/{app}/chatfiles` and the calls around it.
//!
//! Only `wire.rs` knows the JSON. How often a client calls was settled before (`server/service.rs`).

mod download;
mod parts;
mod token;
mod upload;
pub mod wire;

use std::sync::Arc;

use hyper::Response;

use super::{Api, Call};
use crate::{
    auth::{Identity, verifier::bearer},
    delivery::Body,
    error::{Error, Kind, Result},
    files::Scope,
    http::body::RequestBody,
    limit::{Interface, Reserved},
    store::Dialect,
    tenant::{Tenant, Tenants},
};

pub use self::download::view;

/// A call of this API: what `server/router.rs` makes of method and path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<'a> {
    /// First segment.
    pub org: &'a str,
    /// Second segment.
    pub app: &'a str,
    /// The rest, with the method.
    pub action: Action<'a>,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// `POST chatfiles`
    Upload,
    /// `GET chatfiles/{uuid}`, also HEAD
    Download(&'a str),
    /// `POST token`
    Token,
    /// `POST sdk/chatfiles/part-upload`
    PartsBegin,
    /// `PUT sdk/chatfiles/part-upload/{uuid}`
    PartsPut(&'a str),
    /// `GET sdk/chatfiles/part-upload/{uuid}/parts`
    PartsList(&'a str),
    /// `POST sdk/chatfiles/part-upload/{uuid}`
    PartsComplete(&'a str),
    /// `DELETE sdk/chatfiles/part-upload/{uuid}`
    PartsAbort(&'a str),
}

impl Action<'_> {
    /// Which rate this call counts against.
    pub fn interface(self, call: &Call<'_>) -> Interface {
        match self {
            Self::Upload | Self::PartsBegin | Self::PartsPut(_) | Self::PartsComplete(_) => {
                Interface::Upload
            }
            Self::Download(_) if download::wants_derivative(call) => Interface::Thumbnail,
            Self::Download(_) => Interface::Download,
            Self::Token | Self::PartsList(_) | Self::PartsAbort(_) => Interface::Other,
        }
    }
}

/// Answers a call of a tenant that exists.
///
/// # Errors
/// Of any kind; [`wire::error`] renders them.
pub async fn handle(
    api: &Api,
    call: &Call<'_>,
    tenant: &Arc<Tenant>,
    action: Action<'_>,
    body: &mut RequestBody,
) -> Result<Response<Body>> {
    let context = Context { api, call, tenant };
    match action {
        Action::Upload => upload::upload(&context, body).await,
        Action::Download(id) => download::download(&context, id, view(call, tenant)).await,
        Action::Token => token::token(&context, body).await,
        Action::PartsBegin => parts::begin(&context, body).await,
        Action::PartsPut(id) => parts::put(&context, id, body).await,
        Action::PartsList(id) => parts::list(&context, id).await,
        Action::PartsComplete(id) => parts::complete(&context, id, body).await,
        Action::PartsAbort(id) => parts::abort(&context, id).await,
    }
}

/// The tenant of a path, or the vendor's error for one that is not there.
///
/// # Errors
/// `TenantNotFound`.
pub fn tenant<'t>(tenants: &'t Tenants, route: &Route<'_>, path: &str) -> Result<&'t Arc<Tenant>> {
    tenants.find(route.org, route.app).ok_or_else(|| {
        let Route { org, app, .. } = route;
        let text = format!("Could not find application for {org}/{app} from URI: {path}");
        Error::new(Kind::TenantNotFound).public(text)
    })
}

/// What every call of a tenant needs.
struct Context<'a> {
    api: &'a Api,
    call: &'a Call<'a>,
    tenant: &'a Arc<Tenant>,
}

impl Context<'_> {
    fn scope(&self) -> Scope<'_> {
        Scope {
            tenant: self.tenant,
            dialect: Dialect::Easemob,
        }
    }

    /// Takes so many bytes out of the day's quotas.
    fn reserve(&self, identity: &Identity, bytes: u64) -> Result<Reserved> {
        let user = identity.user().unwrap_or_default();
        self.api.reserve(self.call, self.tenant, user, bytes)
    }

    /// Who calls, by the token in `Authorization`.
    fn authenticate(&self) -> Result<Identity> {
        let token = bearer(self.call.headers).ok_or(Kind::TokenMissing)?;
        self.api.verifier.verify(self.tenant, token, self.call.now)
    }
}
