//! `[[tenant]]`: who is served, and the secrets that are made where none is given.

mod check;

use std::{collections::HashMap, path::Path};

use jiff::civil::DateTime;
use serde::Deserialize;
use uuid::Uuid;

pub(super) use self::check::validate;
use super::{days, file::RetentionSection, values::bad};
use crate::{
    auth::keyring,
    error::Result,
    secret::{Secret, SecretKey},
    tenant::{Account, Days, DownloadAuth, Hook, Lanying, Limits, Processing, Tenant, Tenants},
    time::Timestamp,
};

/// One tenant, as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the keys are documented once, in docs/configuration.md"
)]
pub struct TenantConfig {
    pub org: String,
    pub app: String,
    pub app_id: Option<String>,
    pub client_id: Option<String>,
    pub client_secret: Option<SecretKey>,
    pub dynamic_token_ttl_seconds: Option<Vec<i64>>,
    pub download_auth: Option<DownloadAuthKind>,
    pub strict_restrict_access: bool,
    pub calls_per_second: Option<u32>,
    pub calls_burst: Option<u32>,
    pub upload_bytes_max: Option<u64>,
    pub upload_bytes_per_day: Option<u64>,
    pub user_upload_bytes_per_day: Option<u64>,
    pub chatfile_days: Option<u32>,
    pub voice_days: Option<u32>,
    pub image_days: Option<u32>,
    pub video_days: Option<u32>,
    pub shared_days: Option<u32>,
    pub shared_voice_days: Option<u32>,
    pub shared_image_days: Option<u32>,
    pub shared_video_days: Option<u32>,
    pub avatar_days: Option<u32>,
    pub url_key: Option<SecretKey>,
    pub link_key: Option<SecretKey>,
    pub upload_key: Option<SecretKey>,
    pub sdk_sign_key: Option<SecretKey>,
    pub strict_recipients: bool,
    pub image_process_url: Option<String>,
    pub video_process_url: Option<String>,
    pub hook_url: Option<String>,
    pub hook_secret: Option<SecretKey>,
    pub tokens_not_before: Option<Moment>,
    pub users_not_before: HashMap<String, Moment>,
    pub account: Vec<AccountConfig>,
}

/// `download_auth`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "`tenant::DownloadAuth` says what each is")]
pub enum DownloadAuthKind {
    Token,
    Secret,
    Signed,
}

/// `[[tenant.account]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the keys are documented once, in docs/configuration.md"
)]
pub struct AccountConfig {
    pub name: String,
    pub password_hash: Secret,
}

/// A moment: a TOML date-time with an offset, or seconds since 1970.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the two forms say themselves what they are")]
pub enum Moment {
    Seconds(i64),
    DateTime(toml::value::Datetime),
}

impl Moment {
    fn timestamp(&self, key: &str) -> Result<Timestamp> {
        match self {
            Self::Seconds(secs) => Ok(Timestamp::from_secs(*secs)),
            Self::DateTime(text) => {
                let text = text.to_string();
                let with_offset = text.parse::<jiff::Timestamp>().ok();
                let is_local = with_offset.is_none() && text.parse::<DateTime>().is_ok();
                let hint = if is_local {
                    " (an offset such as Z is missing)"
                } else {
                    ""
                };
                with_offset
                    .map(|moment| Timestamp::from_ms(moment.as_millisecond()))
                    .ok_or_else(|| {
                        bad(
                            key,
                            text,
                            &format!("a moment such as 2026-11-21T08:00:00Z{hint}"),
                        )
                    })
            }
        }
    }
}

impl TenantConfig {
    /// The default tenant: what is served where nothing is configured.
    pub fn demo() -> Self {
        Self {
            org: "easemob-demo".into(),
            app: "chatdemoui".into(),
            app_id: Some("welovemaxim".into()),
            ..Self::default()
        }
    }

    /// `org/app`
    pub fn name(&self) -> String {
        format!("{}/{}", self.org, self.app)
    }

    /// The OAuth client id, made of the names where none is given.
    fn client_id(&self) -> String {
        self.client_id
            .clone()
            .unwrap_or_else(|| format!("{}.{}", self.org, self.app))
    }

    pub(super) fn key(&self, name: &str) -> String {
        format!("tenant {}: {name}", self.name())
    }
}

/// The table of tenants. Secrets that are not configured are made once and kept in `keys`. Blocking.
///
/// # Errors
/// `InvalidArgument` for a bad moment; `Internal` where a secret cannot be kept.
pub fn tenants(configs: &[TenantConfig], defaults: &Limits, keys: &Path) -> Result<Tenants> {
    tenants_after(&Tenants::default(), configs, defaults, keys)
}

/// The same in the place of another table. Blocking.
///
/// # Errors
/// As [`tenants`].
pub fn tenants_after(
    before: &Tenants,
    configs: &[TenantConfig],
    defaults: &Limits,
    keys: &Path,
) -> Result<Tenants> {
    configs
        .iter()
        .map(|config| {
            tenant(config, defaults, |name| {
                keyring::load_or_create_secret(keys, name)
            })
        })
        .collect::<Result<_>>()
        .map(|tenants| before.followed_by(tenants))
}

/// One tenant of a store that is there: its secrets are read and not made. Blocking.
///
/// # Errors
/// As [`tenants`]; `Internal` where a secret is missing.
pub fn existing_tenant(config: &TenantConfig, defaults: &Limits, keys: &Path) -> Result<Tenant> {
    tenant(config, defaults, |name| keyring::load_secret(keys, name))
}

impl TenantConfig {
    fn retention(&self) -> RetentionSection {
        RetentionSection {
            chatfile_days: self.chatfile_days,
            voice_days: self.voice_days,
            image_days: self.image_days,
            video_days: self.video_days,
            shared_days: self.shared_days,
            shared_voice_days: self.shared_voice_days,
            shared_image_days: self.shared_image_days,
            shared_video_days: self.shared_video_days,
            avatar_days: self.avatar_days,
        }
    }

    /// How long its files live, over the defaults.
    pub(super) fn days(&self, defaults: &Days) -> Days {
        days("tenant", &self.retention(), defaults).expect("checked by `validate`")
    }

    /// The moments before which tokens do not count: the tenant's and its users'.
    fn moments(&self) -> Result<(Option<Timestamp>, HashMap<String, Timestamp>)> {
        let key = self.key("tokens_not_before");
        let of_tenant = self
            .tokens_not_before
            .as_ref()
            .map(|at| at.timestamp(&key))
            .transpose()?;
        let of_user = |(user, at): (&String, &Moment)| {
            let key = self.key(&format!("users_not_before.{user}"));
            Ok((user.clone(), at.timestamp(&key)?))
        };
        let of_users = self
            .users_not_before
            .iter()
            .map(of_user)
            .collect::<Result<_>>()?;
        Ok((of_tenant, of_users))
    }
}

/// `generated` finds a secret by the name of its file.
fn tenant(
    config: &TenantConfig,
    defaults: &Limits,
    generated: impl Fn(&str) -> Result<SecretKey>,
) -> Result<Tenant> {
    let (tokens_not_before, users_not_before) = config.moments()?;
    // A name may hold dots: `a.b/c` and `a/b.c` must not share what a link or a policy is signed with.
    let of_app = |name: &str| format!("{name}.{}@{}", config.org, config.app);
    let secret = |name: &str, configured: &Option<SecretKey>| match configured {
        Some(secret) => Ok(secret.clone()),
        None => generated(name),
    };
    let lanying = match &config.app_id {
        None => None,
        Some(app_id) => Some(Lanying {
            app_id: app_id.clone(),
            link_key: secret(&of_app("link-key"), &config.link_key)?,
            upload_key: secret(&of_app("upload-key"), &config.upload_key)?,
            sdk_sign_key: config.sdk_sign_key.clone(),
            strict_recipients: config.strict_recipients,
            processing: Processing {
                image_url: config.image_process_url.clone(),
                video_url: config.video_process_url.clone(),
            },
        }),
    };
    let file = format!("client-secret.{}.{}", config.org, config.app);
    let client_secret = secret(&file, &config.client_secret)?;
    let download_auth = match config.download_auth {
        None | Some(DownloadAuthKind::Token) => DownloadAuth::Token,
        Some(DownloadAuthKind::Secret) => DownloadAuth::Secret,
        Some(DownloadAuthKind::Signed) => {
            DownloadAuth::Signed(secret(&of_app("url-key"), &config.url_key)?)
        }
    };
    Ok(Tenant {
        // Set by the table.
        index: 0,
        generation: 0,
        org: config.org.clone(),
        app: config.app.clone(),
        lanying,
        application: Uuid::new_v5(
            &Uuid::NAMESPACE_URL,
            format!("chatfiles:{}", config.name()).as_bytes(),
        ),
        client_id: config.client_id(),
        client_secret,
        dynamic_ttls: config.dynamic_token_ttl_seconds.clone(),
        download_auth,
        strict_restrict_access: config.strict_restrict_access,
        hook: config.hook_url.clone().map(|url| Hook {
            url,
            secret: config.hook_secret.clone(),
        }),
        limits: Limits {
            calls_per_second: config.calls_per_second.unwrap_or(defaults.calls_per_second),
            calls_burst: config.calls_burst.unwrap_or(defaults.calls_burst),
            upload_bytes_max: config.upload_bytes_max.unwrap_or(defaults.upload_bytes_max),
            upload_bytes_per_day: config
                .upload_bytes_per_day
                .unwrap_or(defaults.upload_bytes_per_day),
            user_upload_bytes_per_day: config
                .user_upload_bytes_per_day
                .unwrap_or(defaults.user_upload_bytes_per_day),
            days: config.days(&defaults.days),
        },
        tokens_not_before,
        users_not_before,
        accounts: config
            .account
            .iter()
            .map(|account| {
                let AccountConfig {
                    name,
                    password_hash,
                } = account.clone();
                (
                    name.clone(),
                    Account {
                        name,
                        password_hash,
                    },
                )
            })
            .collect(),
    })
}
