//! Decides from the head of a request what it asks for, of which tenant, and how it is limited and counted.
//!
//! Checks no credential and reads no body.

use std::sync::Arc;

use crate::{
    api::{Call, easemob, lanying},
    delivery::View,
    error::{Error, Kind, Result},
    limit::RateClass,
    metrics::RouteLabel,
    routes::{self, Action, Match, Params},
    tenant::{Tenant, Tenants},
};

/// A request after routing.
pub(super) struct Routed<'r> {
    /// The action to run, or the error to answer if the rate limit admits the request.
    pub(super) action: Result<(Action, Params<'r>)>,
    /// What a download asks for.
    pub(super) download: Download,
    /// The tenant that the request names; `None` if it names none or an unknown one.
    pub(super) tenant: Option<&'r Arc<Tenant>>,
    /// The rate limit that the request counts against; `None`: exempt.
    pub(super) rate_class: Option<RateClass>,
    /// The label that the request is counted under.
    pub(super) label: RouteLabel,
}

impl<'r> Routed<'r> {
    /// A request that has a route.
    pub(super) fn new(found: Match<'r>, call: &Call<'_>, tenants: &'r Tenants) -> Self {
        let tenant = tenant(&found, call, tenants);
        let download = Download::parse(&found, call, tenant.as_ref().ok().copied().flatten());
        let found = match download.is_derivative() {
            true => found.of_derivative(),
            false => found,
        };
        Self {
            download,
            tenant: tenant.as_ref().ok().copied().flatten(),
            action: tenant.map(|_| (found.action, found.params)),
            rate_class: found.rate_class,
            label: found.label,
        }
    }

    /// A request without a route. It is limited like any other.
    pub(super) fn without_route(error: Error) -> Self {
        Self {
            action: Err(error),
            download: Download::No,
            tenant: None,
            rate_class: Some(RateClass::Other),
            label: routes::NO_ROUTE,
        }
    }

    /// Whether the request brings a file or a part of one.
    pub(super) fn is_upload(&self) -> bool {
        self.rate_class == Some(RateClass::Upload)
    }
}

/// What a download asks for. It is parsed once: it decides the rate limit and the label of the request, and the action
/// gets it.
pub(super) enum Download {
    /// Not a download.
    No,
    /// A download of the Easemob API.
    Easemob(View),
    /// A download of the Lanying API; `Err` if a parameter is invalid.
    Lanying(Result<lanying::download::Parameters>),
}

impl Download {
    fn parse(found: &Match<'_>, call: &Call<'_>, tenant: Option<&Arc<Tenant>>) -> Self {
        match (found.action, tenant) {
            (Action::EasemobDownload, Some(tenant)) => Self::Easemob(easemob::view(call, tenant)),
            (Action::LanyingDownloadAvatar | Action::LanyingDownloadChat, _) => {
                Self::Lanying(lanying::download::Parameters::parse(call))
            }
            _ => Self::No,
        }
    }

    fn is_derivative(&self) -> bool {
        match self {
            Self::Easemob(view) => view.is_derivative(),
            Self::Lanying(Ok(parameters)) => parameters.view.is_derivative(),
            Self::No | Self::Lanying(Err(_)) => false,
        }
    }

    /// The view of a download of the Easemob API.
    pub(super) fn easemob(self) -> View {
        match self {
            Self::Easemob(view) => view,
            Self::No | Self::Lanying(_) => View::Original,
        }
    }

    /// The parameters of a download of the Lanying API.
    ///
    /// # Errors
    /// `InvalidArgument` if one of them is invalid.
    pub(super) fn lanying(self) -> Result<lanying::download::Parameters> {
        match self {
            Self::Lanying(parameters) => parameters,
            Self::No | Self::Easemob(_) => Err(Kind::RouteNotFound.into()),
        }
    }
}

/// The tenant that a call names; `None` if the call belongs to no tenant.
///
/// # Errors
/// `TenantNotFound`.
fn tenant<'t>(
    found: &Match<'_>,
    call: &Call<'_>,
    tenants: &'t Tenants,
) -> Result<Option<&'t Arc<Tenant>>> {
    use Action::*;
    let Params { org, app, .. } = found.params;
    let tenant = match found.action {
        Preflight | Health => return Ok(None),
        EasemobUpload | EasemobDownload | EasemobToken | EasemobBeginParts | EasemobPutPart
        | EasemobListParts | EasemobCompleteParts | EasemobAbortParts => {
            easemob::tenant(tenants, org, app, call.target.path())
        }
        LanyingUserAvatarTicket
        | LanyingGroupAvatarTicket
        | LanyingChatTicket
        | LanyingForward
        | LanyingDownloadAvatar
        | LanyingDownloadChat => lanying::tenant(tenants, lanying::app_id(call).as_deref()),
        LanyingPostForm => lanying::tenant(tenants, Some(found.params.app_id)),
    };
    tenant.map(Some)
}
