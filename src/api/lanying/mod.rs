//! Lanying's `/file` API: six GET calls, and the form POST of an upload ticket.
//!
//! No state is kept between a ticket and its upload, or for a link: both are signed. Only `wire.rs` knows the JSON, only
//! `oss.rs` the XML of the form POST.

pub(crate) mod download;
mod form;
mod forward;
mod link;
mod oss;
mod policy;
mod process;
mod sdk_sign;
mod signed;
pub mod store_token;
pub(crate) mod upload;
pub mod wire;

use std::{borrow::Cow, sync::Arc};

use self::{link::ToType, store_token::Viewer};
use super::{Api, Call};
use crate::{
    auth::{
        Subject,
        hook::{Action as HookAction, Question},
    },
    error::{Error, Kind, Result},
    files::Scope,
    store::{Dialect, Key},
    tenant::{Lanying, Tenant, Tenants},
    trace_parent::TraceParent,
};

pub use self::oss::error as form_error;
pub(crate) use self::{download::view, form::post as post_form, forward::forward};

/// The `app_id` of a call. A form POST has it in its path instead.
pub fn app_id<'c>(call: &'c Call<'_>) -> Option<Cow<'c, str>> {
    parameter(call, "app_id")
}

/// The tenant of an `app_id`.
///
/// # Errors
/// `TenantNotFound`.
pub fn tenant<'t>(tenants: &'t Tenants, app_id: Option<&str>) -> Result<&'t Arc<Tenant>> {
    let not_found = |text: &'static str| Error::new(Kind::TenantNotFound).public(text);
    let app_id = app_id.ok_or_else(|| not_found("app_id is missing"))?;
    tenants
        .find_app_id(app_id)
        .ok_or_else(|| not_found("app_id is unknown"))
}

/// What every call of a tenant needs.
pub(crate) struct Context<'a> {
    api: &'a Api,
    call: &'a Call<'a>,
    tenant: &'a Arc<Tenant>,
    lanying: &'a Lanying,
}

/// The credential of a download, before the object is known.
enum Credential {
    /// A user with a valid token.
    User(String),
    /// A store token that was not checked yet, and the reason why there is no user.
    StoreToken { token: String, no_user: Error },
}

impl<'a> Context<'a> {
    /// The context of a call.
    ///
    /// # Errors
    /// `TenantNotFound` without a tenant that has this API.
    pub(crate) fn new(
        api: &'a Api,
        call: &'a Call<'a>,
        tenant: Option<&'a Arc<Tenant>>,
    ) -> Result<Self> {
        let tenant = tenant.ok_or(Kind::TenantNotFound)?;
        let lanying = tenant.lanying.as_ref().ok_or(Kind::TenantNotFound)?;
        Ok(Self {
            api,
            call,
            tenant,
            lanying,
        })
    }

    fn scope(&self) -> Scope<'_> {
        Scope {
            tenant: self.tenant,
            dialect: Dialect::Lanying,
        }
    }

    /// Identifies the user who calls, or for whom the backend calls (header `user_id`).
    async fn authenticate(&self) -> Result<String> {
        let token = parameter(self.call, "access-token").ok_or(Kind::TokenMissing)?;
        let identity = self.api.identify(self.call, self.tenant, &token).await?;
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

    /// The credential of a download: a user, else a store token. With a store token, an invalid access token is ignored,
    /// because a client that follows a redirect sends its headers again.
    async fn credential(&self) -> Result<Credential> {
        match (self.authenticate().await, self.query("store_token")) {
            (Ok(user), _) => Ok(Credential::User(user)),
            (Err(no_user), Some(token)) => Ok(Credential::StoreToken {
                token: token.into_owned(),
                no_user,
            }),
            (Err(no_user), None) => Err(no_user),
        }
    }

    /// Checks that the credential permits access to this object.
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

    /// Asks the chat backend, if it wants to be asked, whether a user may do this with the recipient of a file. `from` is the
    /// sender of an existing file.
    async fn ask_backend(
        &self,
        user: &str,
        action: HookAction,
        (to_type, to_id): (ToType, &str),
        from: Option<&str>,
    ) -> Result<()> {
        let is_asked = self.tenant.hook.is_some();
        let question = Question {
            user,
            action,
            to_type: to_type.number(),
            to_id,
            from,
            trace: is_asked
                .then(|| TraceParent::of(self.call.headers))
                .flatten(),
        };
        self.api.hooks.ask(self.tenant, &question).await
    }

    /// An optional query parameter; an empty one counts as absent.
    fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        self.call.query(name).filter(|value| !value.is_empty())
    }

    /// A mandatory query parameter.
    fn required(&self, name: &'static str) -> Result<Cow<'_, str>> {
        self.query(name)
            .ok_or_else(|| Error::invalid(format!("{name} is missing")))
    }

    /// A mandatory id.
    fn required_id(&self, name: &'static str) -> Result<String> {
        let id = self.required(name)?;
        checked_id(name, &id).map(str::to_owned)
    }
}

/// `access-token` and `app_id` are headers or, because `<img src>` cannot set headers, query parameters. The query takes
/// precedence, since it was written for this request. An empty value counts as absent.
fn parameter<'a>(call: &'a Call<'_>, name: &str) -> Option<Cow<'a, str>> {
    call.query(name)
        .filter(|value| !value.is_empty())
        .or_else(|| call.header(name).map(str::trim).map(Cow::Borrowed))
        .filter(|value| !value.is_empty())
}

/// Upper limit of bytes in the id of a user or group in this API.
const ID_BYTES_MAX: usize = 64;

/// Whether a text is a valid id of a user or group. Ids are parts of links and must not contain their separators.
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
