//! Decides from the head of a request what it asks for, of which tenant, and how it is limited and counted.
//!
//! Checks no credential and reads no body.

use std::sync::Arc;

use crate::{
    api::{Call, easemob, lanying},
    delivery::View,
    error::{Error, Result},
    limit::RateClass,
    metrics::RouteLabel,
    routes::{self, Action, Match, Params},
    tenant::{Tenant, Tenants},
};

/// A request after routing.
pub(super) struct Routed<'r> {
    /// The action to run, or the error to answer if the rate limit admits the request.
    pub(super) action: Result<(Action, Params<'r>)>,
    /// What of a file a download asks for. Parsed once: it decides the rate limit and the label, and the action gets it,
    /// which answers an invalid parameter only to an authorized caller.
    pub(super) view: Result<View>,
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
        let known = tenant.as_ref().ok().copied().flatten();
        let view = match found.action {
            Action::EasemobDownload => easemob::view(call, known.map(AsRef::as_ref)),
            Action::LanyingDownloadAvatar | Action::LanyingDownloadChat => lanying::view(call),
            _ => Ok(View::Original),
        };
        let found = match view.as_ref().is_ok_and(|view| view.is_derivative()) {
            true => found.of_derivative(),
            false => found,
        };
        Self {
            tenant: known,
            action: tenant.map(|_| (found.action, found.params)),
            view,
            rate_class: found.rate_class,
            label: found.label,
        }
    }

    /// A request without a route. It is limited like any other.
    pub(super) fn without_route(error: Error) -> Self {
        Self {
            action: Err(error),
            view: Ok(View::Original),
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
        Preflight | LandingPage | Health => return Ok(None),
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
