//! What a tenant's settings may be, and what they need of each other.

use std::collections::{HashMap, HashSet};

use super::{TenantConfig, days};
use crate::{
    auth::{is_user_name, password},
    config::{
        UPLOAD_BYTES, limits,
        values::{bad, range},
    },
    error::{Error, Result},
    tenant::Days,
};

/// Tenants of one server.
const TENANTS_MAX: usize = 10_000;
/// Bytes of an org's or app's name.
const NAME_BYTES_MAX: usize = 64;
/// Seconds that a dynamic token may last: up to nine digits.
const DYNAMIC_TTL_SECS: std::ops::RangeInclusive<i64> = 1..=999_999_999;
/// Bytes of a URL in the configuration: a request's line has room for it.
const URL_BYTES_MAX: usize = 4096;
/// What `api/lanying/process.rs` fills in.
const PLACEHOLDERS: [&str; 5] = ["{object}", "{app_id}", "{w}", "{h}", "{source}"];
/// The dialects' paths: no org may take them.
const RESERVED_ORGS: [&str; 1] = ["file"];

/// Checks all tenants; without any, the default one.
pub(in crate::config) fn validate(tenants: Vec<TenantConfig>) -> Result<Vec<TenantConfig>> {
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
    let (mut names, mut app_ids, mut files) = (HashMap::new(), HashMap::new(), HashMap::new());
    for tenant in &tenants {
        tenant.check()?;
        if names.insert(tenant.name(), ()).is_some() {
            return Err(Error::invalid(format!(
                "tenant {} is given twice",
                tenant.name()
            )));
        }
        // The file of a generated client secret is named so: `a.b/c` and `a/b.c` would share it.
        let file = tenant.name().replace('/', ".");
        if tenant.client_secret.is_none()
            && let Some(other) = files.insert(file, tenant.name())
        {
            return Err(Error::invalid(format!(
                "tenants {other} and {} would share a generated secret: give one of them a client_secret",
                tenant.name()
            )));
        }
        if let Some(app_id) = &tenant.app_id
            && app_ids.insert(app_id.clone(), ()).is_some()
        {
            return Err(bad("app_id", app_id, "given to one tenant only"));
        }
    }
    check_dynamic_tokens(&tenants)?;
    Ok(tenants)
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
        // A variable that was not set, most likely.
        if self
            .client_id
            .as_ref()
            .is_some_and(|id| id.trim().is_empty())
        {
            return Err(bad(&self.key("client_id"), "\"\"", "a text, or left out"));
        }
        if let Some(ttls) = &self.dynamic_token_ttl_seconds {
            let key = self.key("dynamic_token_ttl_seconds");
            if ttls.is_empty() {
                return Err(bad(&key, "[]", "at least one ttl, or left out"));
            }
            for ttl in ttls {
                range(&key, Some(*ttl), 1, DYNAMIC_TTL_SECS)?;
            }
        }
        self.check_urls()?;
        self.check_app_id()?;
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
        let of_users = self.user_upload_bytes_per_day;
        limits::bytes_per_day(&self.key("upload_bytes_per_day"), self.upload_bytes_per_day)?;
        limits::bytes_per_day(&self.key("user_upload_bytes_per_day"), of_users)?;
        days(
            &format!("tenant {}", self.name()),
            &self.retention(),
            &Days::default(),
        )?;
        self.moments()?;
        const USER_NAME: &str = "1 to 128 bytes without /, white space and control characters";
        // A revocation of nobody would look like one of somebody.
        if let Some(user) = self
            .users_not_before
            .keys()
            .find(|name| !is_user_name(name))
        {
            let key = self.key("users_not_before");
            return Err(bad(&key, format!("\"{user}\""), USER_NAME));
        }
        let mut accounts = HashSet::new();
        for account in &self.account {
            let key = self.key(&format!("account {}", account.name));
            if !is_user_name(&account.name) {
                return Err(bad(&key, "name", USER_NAME));
            }
            // Else an old password might be the one in force.
            if !accounts.insert(&account.name) {
                return Err(Error::invalid(format!("{key} is given twice")));
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

    fn check_urls(&self) -> Result<()> {
        let urls = [
            ("hook_url", &self.hook_url),
            ("image_process_url", &self.image_process_url),
            ("video_process_url", &self.video_process_url),
        ];
        for (key, url) in urls {
            let Some(url) = url else { continue };
            let plain = match key {
                "hook_url" => url.clone(),
                _ => PLACEHOLDERS
                    .into_iter()
                    .fold(url.clone(), |url, name| url.replace(name, "1")),
            };
            let is_url = plain.parse::<hyper::Uri>().is_ok_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
            });
            if !is_url || plain.len() > URL_BYTES_MAX || plain.contains(['{', '}']) {
                // Not shown: it may hold a password.
                let allowed = match key {
                    "hook_url" => "a URL that begins with http:// or https://",
                    _ => "a URL with no other {…} than {object}, {app_id}, {w}, {h} and {source}",
                };
                return Err(bad(&self.key(key), "«redacted»", allowed));
            }
        }
        if self.hook_secret.is_some() && self.hook_url.is_none() {
            let allowed = "given together with hook_url";
            return Err(bad(&self.key("hook_secret"), "«redacted»", allowed));
        }
        Ok(())
    }

    /// What means nothing without `app_id` was meant to protect something: it must not be ignored.
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
            Some((key, _)) if self.app_id.is_none() => Err(Error::invalid(format!(
                "{}: needs app_id, since it is a setting of the Lanying API",
                self.key(key)
            ))),
            _ => Ok(()),
        }
    }
}
