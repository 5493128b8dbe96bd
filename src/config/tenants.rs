//! `[[tenant]]`: who is served, what the settings of a tenant may be, and what they need of each other.
//!
//! Secrets that are not configured are generated. They are neither read nor written here: see `app/secrets.rs`.

mod backend_auth;

use std::collections::{HashMap, HashSet};

use jiff::civil::DateTime;
use serde::Deserialize;
use uuid::Uuid;

use super::document::{Document, Section};
use crate::{
    api,
    auth::{is_user_name, password},
    error::{Error, Result},
    secret::SecretKey,
    settings::{number, seconds_list},
    tenant::{
        Account, BackendAuth, DownloadAuth, Hook, Lanying, Limits, Processing, Retention, Tenant,
    },
    time::Timestamp,
};

/// Tenants of one server.
const TENANTS_MAX: usize = 10_000;
/// Bytes of the name of an org or an app.
const NAME_BYTES_MAX: usize = 64;
/// Seconds that a dynamic token may be valid: up to nine digits.
const DYNAMIC_TTL_SECS: std::ops::RangeInclusive<i64> = 1..=999_999_999;
/// Bytes of a URL in the configuration. The request line that holds it is limited to 8 KiB.
const URL_BYTES_MAX: usize = 4096;
/// The placeholders that `api/lanying/process.rs` fills in.
const PLACEHOLDERS: [&str; 5] = ["{object}", "{app_id}", "{w}", "{h}", "{source}"];
/// First segments of paths of the APIs, which no org may have as its name.
const RESERVED_ORGS: [&str; 1] = ["file"];

/// One tenant. A secret that is `None` is generated, if the tenant needs it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
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
    #[serde(deserialize_with = "seconds_list")]
    pub dynamic_token_ttl_seconds: Option<Vec<i64>>,
    pub download_auth: Option<DownloadAuthKind>,
    pub strict_restrict_access: bool,
    pub url_key: Option<SecretKey>,
    pub link_key: Option<SecretKey>,
    pub upload_key: Option<SecretKey>,
    pub sdk_sign_key: Option<SecretKey>,
    pub strict_recipients: bool,
    pub image_process_url: Option<String>,
    pub video_process_url: Option<String>,
    pub hook_url: Option<String>,
    pub hook_secret: Option<SecretKey>,
    pub auth: BackendAuth,
    pub tokens_not_before: Option<Moment>,
    pub users_not_before: HashMap<String, Moment>,
    pub account: Vec<Account>,
    /// Numbers of the tenant, over those of `[limits]` and `[retention]`.
    #[serde(skip)]
    pub limits: Limits,
}

/// `download_auth`; see [`DownloadAuth`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "`tenant::DownloadAuth` says what each is")]
pub enum DownloadAuthKind {
    #[default]
    Token,
    Secret,
    Signed,
}

/// A moment: a TOML date-time with an offset, or seconds since 1970.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "WrittenMoment")]
pub struct Moment(Timestamp);

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenMoment {
    Seconds(i64),
    DateTime(toml::value::Datetime),
}

impl TryFrom<WrittenMoment> for Moment {
    type Error = String;

    fn try_from(written: WrittenMoment) -> Result<Self, String> {
        let text = match written {
            WrittenMoment::Seconds(secs) => return Ok(Self(Timestamp::from_secs(secs))),
            WrittenMoment::DateTime(moment) => moment.to_string(),
        };
        if let Ok(moment) = text.parse::<jiff::Timestamp>() {
            return Ok(Self(Timestamp::from_ms(moment.as_millisecond())));
        }
        let hint = match text.parse::<DateTime>() {
            Ok(_) => " without an offset such as Z",
            Err(_) => "",
        };
        Err(format!(
            "expected a moment such as 2026-11-21T08:00:00Z, found {text}{hint}"
        ))
    }
}

/// Reads and checks all tenants. Without any, there is the demonstration tenant.
pub(super) fn read(
    document: &Document<'_>,
    limits: &Section<'_, '_>,
    defaults: &Limits,
    api: &api::Config,
) -> Result<Vec<TenantConfig>> {
    let sections = document.sections("tenant")?;
    let count = sections.len();
    if count > TENANTS_MAX {
        let message = format!("expected at most {TENANTS_MAX} tenants, found {count}");
        return Err(Error::invalid(message));
    }
    let tenant = |section: Section<'_, '_>| TenantConfig::read(section, limits, defaults);
    let mut tenants: Vec<_> = sections.into_iter().map(tenant).collect::<Result<_>>()?;
    if tenants.is_empty() {
        tenants.push(TenantConfig::demo(*defaults));
    }
    if api.cdn_url.is_some() {
        // Files are meant to come from the CDN.
        for tenant in &mut tenants {
            tenant.download_auth.get_or_insert(DownloadAuthKind::Signed);
        }
    }
    check_names(&tenants)?;
    check_dynamic_tokens(&tenants)?;
    backend_auth::check_shared_keys(&tenants)?;
    Ok(tenants)
}

/// Checks that no two tenants share a name, an app id or the file of a generated secret.
fn check_names(tenants: &[TenantConfig]) -> Result<()> {
    let (mut names, mut app_ids, mut files) = (HashSet::new(), HashSet::new(), HashMap::new());
    for tenant in tenants {
        let name = tenant.name();
        if !names.insert(name.clone()) {
            return Err(Error::invalid(format!("tenant {name} is given twice")));
        }
        if let Some(app_id) = tenant.app_id.as_ref().filter(|id| !app_ids.insert(*id)) {
            let message = format!("\"{app_id}\" is the app_id of another tenant, too");
            return Err(tenant.error("app_id", message));
        }
        // Generated client secrets of `a.b/c` and `a/b.c` would be in the same file.
        if tenant.client_secret.is_none()
            && let Some(other) = files.insert(tenant.client_secret_file(), name.clone())
        {
            return Err(Error::invalid(format!(
                "tenants {other} and {name} would share a generated secret: give one of them a client_secret"
            )));
        }
    }
    Ok(())
}

/// A dynamic token signs `client_id`, `org#app`, the user and two numbers without separators, with the client secret.
/// Where two tenants have the same secret, and the first two texts of one begin with those of the other, a token for a
/// user `2bob` of `acme#chat` would be one for `bob` of `acme#chat2`.
fn check_dynamic_tokens(tenants: &[TenantConfig]) -> Result<()> {
    let mut signed: Vec<(&str, String, &TenantConfig)> = tenants
        .iter()
        .filter_map(|tenant| {
            let secret = tenant.client_secret.as_ref()?.expose();
            let appkey = format!("{}#{}", tenant.org, tenant.app);
            Some((secret, tenant.client_id() + &appkey, tenant))
        })
        .collect();
    signed.sort_by(|(secret, text, _), (other, other_text, _)| {
        (secret, text).cmp(&(other, other_text))
    });
    // Sorted, a text is followed at once by the ones that begin with it.
    for pair in signed.windows(2) {
        let [(secret, text, tenant), (next_secret, next_text, next)] = pair else {
            continue;
        };
        if secret == next_secret && next_text.starts_with(text) {
            return Err(Error::invalid(format!(
                "tenants {} and {} have the same client_secret and client_id: a dynamic token of one would be accepted \
                 by the other; give one of them a client_secret of its own",
                tenant.name(),
                next.name()
            )));
        }
    }
    Ok(())
}

impl TenantConfig {
    /// The tenant of a server without any in its configuration.
    fn demo(limits: Limits) -> Self {
        Self {
            org: "easemob-demo".into(),
            app: "chatdemoui".into(),
            app_id: Some("welovemaxim".into()),
            limits,
            ..Self::default()
        }
    }

    fn read(section: Section<'_, '_>, limits: &Section<'_, '_>, defaults: &Limits) -> Result<Self> {
        let org: String = section.get_or_default("org")?;
        let app: String = section.get_or_default("app")?;
        let section = section.named(&format!("tenant {org}/{app}"));
        let mut tenant: Self = section.read()?;
        tenant.limits = section.over(limits).read()?;
        tenant.limits.retention = retention(&section, &defaults.retention)?;
        tenant.check()?;
        Ok(tenant)
    }

    /// `org/app`
    pub fn name(&self) -> String {
        format!("{}/{}", self.org, self.app)
    }

    /// The OAuth client id, made of the names if none is configured.
    fn client_id(&self) -> String {
        let of_names = || format!("{}.{}", self.org, self.app);
        self.client_id.clone().unwrap_or_else(of_names)
    }

    fn client_secret_file(&self) -> String {
        format!("client-secret.{}.{}", self.org, self.app)
    }

    /// A setting of the tenant, as messages name it.
    pub(super) fn key(&self, setting: &str) -> String {
        format!("tenant {}: {setting}", self.name())
    }

    fn error(&self, setting: &str, message: impl std::fmt::Display) -> Error {
        Error::invalid(format!("{}: {message}", self.key(setting)))
    }

    fn check(&self) -> Result<()> {
        self.check_names()?;
        for ttl in self.dynamic_token_ttl_seconds.iter().flatten() {
            if !DYNAMIC_TTL_SECS.contains(ttl) {
                let (min, max) = (DYNAMIC_TTL_SECS.start(), DYNAMIC_TTL_SECS.end());
                let message = format!("expected numbers from {min} to {max}, found {ttl}");
                return Err(self.error("dynamic_token_ttl_seconds", message));
            }
        }
        if self.dynamic_token_ttl_seconds == Some(Vec::new()) {
            let message = "expected at least one number, or leave it out";
            return Err(self.error("dynamic_token_ttl_seconds", message));
        }
        self.check_urls()?;
        self.check_auth()?;
        self.check_app_id()?;
        self.check_users()
    }

    fn check_names(&self) -> Result<()> {
        let is_name = |name: &str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            (1..=NAME_BYTES_MAX).contains(&name.len())
                && !name.starts_with('.')
                && name.bytes().all(is_plain)
        };
        let names = [
            ("org", Some(&self.org)),
            ("app", Some(&self.app)),
            ("app_id", self.app_id.as_ref()),
        ];
        for (key, name) in names {
            if let Some(name) = name.filter(|name| !is_name(name)) {
                let rule = "1 to 64 letters, digits, -, _ and ., and no . at the start";
                return Err(self.error(key, format!("expected {rule}, found \"{name}\"")));
            }
        }
        if RESERVED_ORGS.contains(&self.org.as_str()) {
            let message = format!(
                "\"{}\" is a path of the server: choose another name",
                self.org
            );
            return Err(self.error("org", message));
        }
        // Probably an environment variable that was not set.
        let client_id = self.client_id.as_ref();
        if client_id.is_some_and(|id| id.trim().is_empty()) {
            return Err(self.error("client_id", "expected a text, or leave it out"));
        }
        Ok(())
    }

    fn check_urls(&self) -> Result<()> {
        let fill = |url: String, name: &&str| url.replace(name, "1");
        let filled = |url: &String| PLACEHOLDERS.iter().fold(url.clone(), fill);
        // The messages do not show the URLs, which may hold passwords.
        if self.hook_url.as_deref().is_some_and(|url| !is_url(url)) {
            let message = "expected a URL that begins with http:// or https://";
            return Err(self.error("hook_url", message));
        }
        let process_urls = [
            ("image_process_url", &self.image_process_url),
            ("video_process_url", &self.video_process_url),
        ];
        for (key, url) in process_urls {
            if url.as_ref().map(filled).is_some_and(|url| !is_url(&url)) {
                let allowed =
                    "a URL with no other {…} than {object}, {app_id}, {w}, {h} and {source}";
                return Err(self.error(key, format!("expected {allowed}")));
            }
        }
        match self.hook_secret.is_some() && self.hook_url.is_none() {
            true => Err(self.error("hook_secret", "set it together with hook_url")),
            false => Ok(()),
        }
    }

    /// Refuses settings that have no effect without `app_id`: they were meant to protect something.
    fn check_app_id(&self) -> Result<()> {
        let settings = [
            ("link_key", self.link_key.is_some()),
            ("upload_key", self.upload_key.is_some()),
            ("sdk_sign_key", self.sdk_sign_key.is_some()),
            ("strict_recipients", self.strict_recipients),
            ("image_process_url", self.image_process_url.is_some()),
            ("video_process_url", self.video_process_url.is_some()),
            ("hook_url", self.hook_url.is_some()),
        ];
        match settings.into_iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) if self.app_id.is_none() => Err(self.error(
                key,
                "needs app_id, because it is a setting of the Lanying API",
            )),
            _ => Ok(()),
        }
    }

    fn check_users(&self) -> Result<()> {
        const RULE: &str =
            "expected user names of 1 to 128 bytes without /, white space and control characters";
        // A revocation for a name that no user can have would look like one that works.
        let mut revoked = self.users_not_before.keys();
        if let Some(user) = revoked.find(|name| !is_user_name(name)) {
            return Err(self.error("users_not_before", format!("{RULE}, found \"{user}\"")));
        }
        let mut names = HashSet::new();
        for account in &self.account {
            let key = format!("account {}", account.name);
            if !is_user_name(&account.name) {
                return Err(self.error(&key, RULE));
            }
            // Otherwise an old password might be the one in force.
            if !names.insert(&account.name) {
                return Err(self.error(&key, "is given twice"));
            }
            if password::check_hash(&account.password_hash).is_err() {
                let message =
                    "password_hash: expected the output of `chatfiles hash-password`: $argon2id$…";
                return Err(self.error(&key, message));
            }
        }
        Ok(())
    }

    /// Makes the tenant. `generated` finds a generated secret by the name of its file.
    ///
    /// # Errors
    /// Those of `generated`.
    pub fn tenant(&self, generated: impl Fn(&str) -> Result<SecretKey>) -> Result<Tenant> {
        let secret = |file: String, configured: &Option<SecretKey>| {
            configured.clone().map_or_else(|| generated(&file), Ok)
        };
        // The `@` cannot be in a name, so that `a.b/c` and `a/b.c` do not share a key.
        let key = |name: &str, configured: &Option<SecretKey>| {
            secret(format!("{name}.{}@{}", self.org, self.app), configured)
        };
        let application = format!("chatfiles:{}", self.name());
        let named = |account: &Account| (account.name.clone(), account.clone());
        let moments = self.users_not_before.iter();
        Ok(Tenant {
            // Set by the table of tenants.
            index: 0,
            generation: 0,
            org: self.org.clone(),
            app: self.app.clone(),
            lanying: self.lanying(key)?,
            application: Uuid::new_v5(&Uuid::NAMESPACE_URL, application.as_bytes()),
            client_id: self.client_id(),
            client_secret: secret(self.client_secret_file(), &self.client_secret)?,
            dynamic_ttls: self.dynamic_token_ttl_seconds.clone(),
            download_auth: match self.download_auth.unwrap_or_default() {
                DownloadAuthKind::Token => DownloadAuth::Token,
                DownloadAuthKind::Secret => DownloadAuth::Secret,
                DownloadAuthKind::Signed => DownloadAuth::Signed(key("url-key", &self.url_key)?),
            },
            strict_restrict_access: self.strict_restrict_access,
            hook: self.hook_url.clone().map(|url| Hook {
                url,
                secret: self.hook_secret.clone(),
            }),
            auth: self.auth.clone(),
            limits: self.limits,
            tokens_not_before: self.tokens_not_before.map(|moment| moment.0),
            users_not_before: moments
                .map(|(user, moment)| (user.clone(), moment.0))
                .collect(),
            accounts: self.account.iter().map(named).collect(),
        })
    }

    /// The settings of the Lanying API, if the tenant is served there. `key` finds a key by its name and its setting.
    fn lanying(
        &self,
        key: impl Fn(&str, &Option<SecretKey>) -> Result<SecretKey>,
    ) -> Result<Option<Lanying>> {
        let Some(app_id) = self.app_id.clone() else {
            return Ok(None);
        };
        Ok(Some(Lanying {
            app_id,
            link_key: key("link-key", &self.link_key)?,
            upload_key: key("upload-key", &self.upload_key)?,
            sdk_sign_key: self.sdk_sign_key.clone(),
            strict_recipients: self.strict_recipients,
            processing: Processing {
                image_url: self.image_process_url.clone(),
                video_url: self.video_process_url.clone(),
            },
        }))
    }
}

/// Whether a text is an absolute `http://` or `https://` URL without placeholders.
fn is_url(url: &str) -> bool {
    let is_http = |uri: hyper::Uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
    };
    url.len() <= URL_BYTES_MAX && !url.contains(['{', '}']) && url.parse().is_ok_and(is_http)
}

/// The days of a section, over `defaults`.
pub(super) fn retention(section: &Section<'_, '_>, defaults: &Retention) -> Result<Retention> {
    // A hundred years.
    Retention::read(defaults, |key| {
        section.get_with(key, number::<0, 36_500, _, _>)
    })
}
