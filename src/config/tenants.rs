//! `[[tenant]]`: who is served, and the secrets that are made where none is given.

use std::{collections::HashMap, path::Path};

use jiff::civil::DateTime;
use serde::Deserialize;
use uuid::Uuid;

use super::{
    UPLOAD_BYTES, days,
    file::RetentionSection,
    values::{bad, range},
};
use crate::{
    auth::{is_user_name, keyring, password},
    error::{Error, Result},
    secret::Secret,
    tenant::{Account, Days, DownloadAuth, Hook, Lanying, Limits, Processing, Tenant, Tenants},
    time::Timestamp,
};

/// Tenants of one server.
const TENANTS_MAX: usize = 10_000;
/// Bytes of an org's or app's name.
const NAME_BYTES_MAX: usize = 64;
/// The dialects' paths: no org may take them.
const RESERVED_ORGS: [&str; 1] = ["file"];

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
    pub client_secret: Option<Secret>,
    pub download_auth: DownloadAuth,
    pub strict_restrict_access: bool,
    pub calls_per_second: Option<u32>,
    pub calls_burst: Option<u32>,
    pub upload_bytes_max: Option<u64>,
    pub chatfile_days: Option<u32>,
    pub voice_days: Option<u32>,
    pub image_days: Option<u32>,
    pub video_days: Option<u32>,
    pub shared_days: Option<u32>,
    pub shared_voice_days: Option<u32>,
    pub shared_image_days: Option<u32>,
    pub shared_video_days: Option<u32>,
    pub avatar_days: Option<u32>,
    pub link_key: Option<Secret>,
    pub upload_key: Option<Secret>,
    pub sdk_sign_key: Option<Secret>,
    pub strict_recipients: bool,
    pub image_process_url: Option<String>,
    pub video_process_url: Option<String>,
    pub hook_url: Option<String>,
    pub hook_secret: Option<Secret>,
    pub tokens_not_before: Option<Moment>,
    pub users_not_before: HashMap<String, Moment>,
    pub account: Vec<AccountConfig>,
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
    /// The tenant of the seed: what is served where nothing is configured.
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

    fn key(&self, name: &str) -> String {
        format!("tenant {}: {name}", self.name())
    }

    fn check(&self) -> Result<()> {
        let is_name = |name: &str| {
            (1..=NAME_BYTES_MAX).contains(&name.len())
                && !name.starts_with('.')
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let rule = "1 to 64 of letters, digits, - _ . and not begin with a dot";
        for (key, value) in [("org", &self.org), ("app", &self.app)] {
            if !is_name(value) {
                return Err(bad(&self.key(key), format!("\"{value}\""), rule));
            }
        }
        if let Some(app_id) = self.app_id.as_ref().filter(|app_id| !is_name(app_id)) {
            return Err(bad(&self.key("app_id"), format!("\"{app_id}\""), rule));
        }
        if RESERVED_ORGS.contains(&self.org.as_str()) {
            return Err(bad(
                &self.key("org"),
                &self.org,
                "another name: this one is a path of the server",
            ));
        }
        let secrets = [
            ("client_secret", &self.client_secret),
            ("link_key", &self.link_key),
            ("upload_key", &self.upload_key),
            ("sdk_sign_key", &self.sdk_sign_key),
            ("hook_secret", &self.hook_secret),
        ];
        for (key, secret) in secrets {
            if secret
                .as_ref()
                .is_some_and(|secret| secret.expose().is_empty())
            {
                return Err(bad(&self.key(key), "\"\"", "a text, or left out"));
            }
        }
        self.check_urls()?;
        range(
            &self.key("calls_per_second"),
            self.calls_per_second,
            0,
            0..=1_000_000,
        )?;
        range(&self.key("calls_burst"), self.calls_burst, 1, 1..=1_000_000)?;
        range(
            &self.key("upload_bytes_max"),
            self.upload_bytes_max,
            1,
            UPLOAD_BYTES,
        )?;
        days(
            &format!("tenant {}", self.name()),
            &self.retention(),
            &Days::default(),
        )?;
        self.moments()?;
        for account in &self.account {
            let key = self.key(&format!("account {}", account.name));
            if !is_user_name(&account.name) {
                return Err(bad(
                    &key,
                    "name",
                    "1 to 128 bytes without /, white space and control characters",
                ));
            }
            password::check_hash(&account.password_hash).map_err(|_| {
                bad(
                    &key,
                    "password_hash",
                    "what `chatfiles hash-password` prints: $argon2id$…",
                )
            })?;
        }
        Ok(())
    }
}

/// Checks all tenants; without any, the seed's.
pub(super) fn validate(tenants: Vec<TenantConfig>) -> Result<Vec<TenantConfig>> {
    if tenants.is_empty() {
        return Ok(vec![TenantConfig::demo()]);
    }
    if tenants.len() > TENANTS_MAX {
        return Err(bad(
            "tenant",
            tenants.len(),
            &format!("at most {TENANTS_MAX} tenants"),
        ));
    }
    let (mut names, mut app_ids) = (HashMap::new(), HashMap::new());
    for tenant in &tenants {
        tenant.check()?;
        if names.insert(tenant.name(), ()).is_some() {
            return Err(Error::invalid(format!(
                "tenant {} is given twice",
                tenant.name()
            )));
        }
        if let Some(app_id) = &tenant.app_id
            && app_ids.insert(app_id.clone(), ()).is_some()
        {
            return Err(bad("app_id", app_id, "given to one tenant only"));
        }
    }
    Ok(tenants)
}

/// The table of tenants. A client secret that is not configured is made once and kept in `keys`. Blocking.
///
/// # Errors
/// `InvalidArgument` for a bad moment; `Internal` where a secret cannot be kept.
pub fn tenants(configs: &[TenantConfig], defaults: &Limits, keys: &Path) -> Result<Tenants> {
    configs
        .iter()
        .map(|config| tenant(config, defaults, keys))
        .collect::<Result<_>>()
        .map(Tenants::new)
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

    fn check_urls(&self) -> Result<()> {
        let urls = [
            ("hook_url", &self.hook_url),
            ("image_process_url", &self.image_process_url),
            ("video_process_url", &self.video_process_url),
        ];
        for (key, url) in urls {
            let Some(url) = url else { continue };
            // The placeholders of a template are no URL yet.
            let plain = url.replace(['{', '}'], "");
            let is_url = plain.parse::<hyper::Uri>().is_ok_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
            });
            if !is_url {
                // Not shown: it may hold a password.
                let allowed = "a URL that begins with http:// or https://";
                return Err(bad(&self.key(key), "«redacted»", allowed));
            }
        }
        if self.hook_secret.is_some() && self.hook_url.is_none() {
            let allowed = "given together with hook_url";
            return Err(bad(&self.key("hook_secret"), "«redacted»", allowed));
        }
        Ok(())
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

fn tenant(config: &TenantConfig, defaults: &Limits, keys: &Path) -> Result<Tenant> {
    let (tokens_not_before, users_not_before) = config.moments()?;
    let secret = |name: &str, configured: &Option<Secret>| match configured {
        Some(secret) => Ok(secret.clone()),
        None => {
            let file = format!("{name}.{}.{}", config.org, config.app);
            keyring::load_or_create_secret(keys, &file)
        }
    };
    let lanying = match &config.app_id {
        None => None,
        Some(app_id) => Some(Lanying {
            app_id: app_id.clone(),
            link_key: secret("link-key", &config.link_key)?,
            upload_key: secret("upload-key", &config.upload_key)?,
            sdk_sign_key: config.sdk_sign_key.clone(),
            strict_recipients: config.strict_recipients,
            processing: Processing {
                image_url: config.image_process_url.clone(),
                video_url: config.video_process_url.clone(),
            },
        }),
    };
    let client_secret = secret("client-secret", &config.client_secret)?;
    Ok(Tenant {
        // Set by the table.
        index: 0,
        org: config.org.clone(),
        app: config.app.clone(),
        lanying,
        application: Uuid::new_v5(
            &Uuid::NAMESPACE_URL,
            format!("chatfiles:{}", config.name()).as_bytes(),
        ),
        client_id: config
            .client_id
            .clone()
            .unwrap_or_else(|| format!("{}.{}", config.org, config.app)),
        client_secret,
        download_auth: config.download_auth,
        strict_restrict_access: config.strict_restrict_access,
        hook: config.hook_url.clone().map(|url| Hook {
            url,
            secret: config.hook_secret.clone(),
        }),
        limits: Limits {
            calls_per_second: config.calls_per_second.unwrap_or(defaults.calls_per_second),
            calls_burst: config.calls_burst.unwrap_or(defaults.calls_burst),
            upload_bytes_max: config.upload_bytes_max.unwrap_or(defaults.upload_bytes_max),
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
