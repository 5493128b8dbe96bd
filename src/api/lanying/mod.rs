//! Lanying's `/file` API: six GETs, and the form POST that an upload ticket leads to.
//!
//! Nothing is kept between a ticket and its upload, nor for a link: both carry a signature. Only `wire.rs`
//! knows the JSON, only `oss.rs` the XML of the form POST.

mod download;
mod form;
mod forward;
mod link;
mod oss;
mod policy;
mod process;
mod sdk_sign;
mod signed;
pub mod store_token;
mod upload;
pub mod wire;

use std::{borrow::Cow, sync::Arc};

use hyper::Response;

use self::{link::ToType, store_token::Viewer};
use super::{Api, Call};
use crate::{
    auth::{
        Subject,
        hook::{Action as HookAction, Question},
    },
    delivery::Body,
    error::{Error, Kind, Result},
    files::Scope,
    http::body::RequestBody,
    limit::{Held, Interface},
    store::{Dialect, Key},
    tenant::{Lanying, Tenant, Tenants},
};

pub use self::{download::Parameters as DownloadParameters, oss::error as form_error};

/// A call of this API: what `server/router.rs` makes of method and path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// `GET upload/avatar/user`
    UploadUserAvatar,
    /// `GET upload/avatar/group`
    UploadGroupAvatar,
    /// `GET upload/chat`
    UploadChat,
    /// `GET upload/forward`
    Forward,
    /// `GET download/avatar`, also HEAD
    DownloadAvatar,
    /// `GET download/chat`, also HEAD
    DownloadChat,
    /// `POST oss/{app_id}`
    Form(&'a str),
}

impl Action<'_> {
    /// Which rate this call counts against.
    pub fn interface(self, call: &Call<'_>) -> Interface {
        match self {
            Self::Form(_) => Interface::Upload,
            Self::DownloadAvatar | Self::DownloadChat => match DownloadParameters::parse(call) {
                Ok(parameters) if !parameters.view.is_derivative() => Interface::Download,
                _ => Interface::Thumbnail,
            },
            Self::UploadUserAvatar | Self::UploadGroupAvatar | Self::UploadChat | Self::Forward => {
                Interface::Other
            }
        }
    }
}

/// The tenant of a call: `app_id` in a header or the query, or in the path of a form POST.
///
/// # Errors
/// `TenantNotFound`.
pub fn tenant<'t>(
    tenants: &'t Tenants,
    call: &Call<'_>,
    action: Action<'_>,
) -> Result<&'t Arc<Tenant>> {
    let app_id = match action {
        Action::Form(app_id) => Some(Cow::Borrowed(app_id)),
        _ => parameter(call, "app_id"),
    };
    let missing = |text: &'static str| Error::new(Kind::TenantNotFound).public(text);
    let app_id = app_id.ok_or_else(|| missing("app_id is missing"))?;
    tenants
        .find_app_id(&app_id)
        .ok_or_else(|| missing("app_id is unknown"))
}

/// Answers a call of a tenant that exists. `held` is what a form has of the budget of uploads.
///
/// # Errors
/// Of any kind; [`wire::error`] renders them, and [`form_error`] those of the form POST.
pub async fn handle(
    api: &Api,
    call: &Call<'_>,
    tenant: &Arc<Tenant>,
    action: Action<'_>,
    body: &mut RequestBody,
    held: Option<&mut Held<'_>>,
) -> Result<Response<Body>> {
    let lanying = tenant.lanying.as_ref().ok_or(Kind::TenantNotFound)?;
    let context = Context {
        api,
        call,
        tenant,
        lanying,
    };
    match action {
        Action::UploadUserAvatar => upload::user_avatar(&context),
        Action::UploadGroupAvatar => upload::group_avatar(&context).await,
        Action::UploadChat => upload::chat(&context).await,
        Action::Forward => forward::forward(&context).await,
        Action::DownloadAvatar => download::avatar(&context, DownloadParameters::parse(call)).await,
        Action::DownloadChat => download::chat(&context, DownloadParameters::parse(call)).await,
        Action::Form(_) => form::post(&context, body, held).await,
    }
}

/// What every call of a tenant needs.
struct Context<'a> {
    api: &'a Api,
    call: &'a Call<'a>,
    tenant: &'a Arc<Tenant>,
    lanying: &'a Lanying,
}

/// What a download shows of its caller, before the object is known.
enum Credential {
    /// A user, by a token that was good.
    User(String),
    /// A store token, not looked at yet, and why there is no user.
    StoreToken { token: String, no_user: Error },
}

impl Context<'_> {
    fn scope(&self) -> Scope<'_> {
        Scope {
            tenant: self.tenant,
            dialect: Dialect::Lanying,
        }
    }

    /// The user who calls, or on whose behalf the backend does (header `user_id`).
    fn authenticate(&self) -> Result<String> {
        let token = parameter(self.call, "access-token").ok_or(Kind::TokenMissing)?;
        let identity = self
            .api
            .verifier
            .verify(self.tenant, &token, self.call.now)?;
        let user = match &identity.subject {
            Subject::User(name) => name,
            Subject::App => self
                .call
                .header("user_id")
                .filter(|user| !user.is_empty())
                .ok_or(Kind::UserMissing)?,
        };
        checked_id("user_id", user).map(str::to_owned)
    }

    /// Who downloads: a user, or else whoever has a store token. What is wrong with an access token that comes
    /// along is then ignored: a client that follows a redirect carries its headers over.
    fn credential(&self) -> Result<Credential> {
        match (self.authenticate(), self.query("store_token")) {
            (Ok(user), _) => Ok(Credential::User(user)),
            (Err(no_user), Some(token)) => Ok(Credential::StoreToken {
                token: token.into_owned(),
                no_user,
            }),
            (Err(no_user), None) => Err(no_user),
        }
    }

    /// Whom the credential lets see this object.
    fn viewer(&self, credential: Credential, key: Key) -> Result<Viewer> {
        match credential {
            Credential::User(user) => Ok(Viewer::User(user)),
            Credential::StoreToken { token, no_user } => {
                let viewer =
                    store_token::verify(self.tenant, self.lanying, &token, key, self.call.now);
                viewer.map_err(|wrong| match no_user.kind() {
                    Kind::TokenMissing => wrong,
                    _ => no_user,
                })
            }
        }
    }

    /// Whether the chat backend lets a user do this to the recipient of a file, where it wants to be asked.
    /// `from` is the sender of a file that there is already.
    async fn ask_backend(
        &self,
        user: &str,
        action: HookAction,
        (to_type, to_id): (ToType, &str),
        from: Option<&str>,
    ) -> Result<()> {
        let question = Question {
            user,
            action,
            to_type: to_type.number(),
            to_id,
            from,
        };
        self.api.hooks.ask(self.tenant, &question).await
    }

    /// A parameter that may be left out; empty is left out.
    fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        self.call.query(name).filter(|value| !value.is_empty())
    }

    /// One that may not.
    fn required(&self, name: &'static str) -> Result<Cow<'_, str>> {
        self.query(name)
            .ok_or_else(|| Error::invalid(format!("{name} is missing")))
    }

    /// An id that may not be left out.
    fn required_id(&self, name: &'static str) -> Result<String> {
        let id = self.required(name)?;
        checked_id(name, &id).map(str::to_owned)
    }
}

/// `access-token` and `app_id` come as headers or, because `<img src>` sets none, in the query, which goes before:
/// it was written for this very request. Empty is absent.
fn parameter<'a>(call: &'a Call<'_>, name: &str) -> Option<Cow<'a, str>> {
    call.query(name)
        .filter(|value| !value.is_empty())
        .or_else(|| call.header(name).map(str::trim).map(Cow::Borrowed))
        .filter(|value| !value.is_empty())
}

/// The most bytes of a user's or a group's id in this API.
const ID_BYTES_MAX: usize = 64;

/// Whether a text may be a user's or a group's id: ids are part of links, whose separators they must not hold.
pub fn is_id(text: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte))
}

fn checked_id<'t>(name: &str, text: &'t str) -> Result<&'t str> {
    if is_id(text) {
        return Ok(text);
    }
    Err(Error::invalid(format!(
        "{name} must have 1 to {ID_BYTES_MAX} of letters, digits and . _ @ -"
    )))
}
