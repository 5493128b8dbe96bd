//! Who is served: the table of tenants, plain data made once from the configuration.
//!
//! A tenant is Easemob's `{org}/{app}` and Lanying's `app_id` at once. Nothing here checks a credential
//! (`auth/`) or counts a call (`limit/`).

use std::{collections::HashMap, sync::Arc};

use serde::Deserialize;
use uuid::Uuid;

use crate::{
    secret::{Secret, SecretKey},
    settings::number,
    store::Class,
    time::Timestamp,
};

/// How a file opens for download.
#[derive(Debug, Clone)]
pub enum DownloadAuth {
    /// A valid token always, and the secret where the file is restricted (the vendor's document).
    Token,
    /// In the Easemob API the secret alone opens a restricted file; an unrestricted one opens by its id.
    Secret,
    /// As `Token`; and what may be had is not sent but found at a URL, signed with this key, that opens by itself
    /// for a while (`api/signed_url.rs`).
    Signed(SecretKey),
}

/// An account that may obtain a token by password: `[[tenant.account]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The user name.
    pub name: String,
    /// A PHC string, `$argon2id$…`.
    pub password_hash: Secret,
}

/// The chat backend's own decision on who may do what, asked over HTTP.
#[derive(Debug, Clone)]
pub struct Hook {
    /// `http://` or `https://`, asked by POST.
    pub url: String,
    /// Signs the questions, so that the backend knows who asks.
    pub secret: Option<SecretKey>,
}

/// URLs of a server that scales pictures, with `{…}` for what differs by file (`api/lanying/process.rs`).
#[derive(Debug, Clone, Default)]
pub struct Processing {
    /// For thumbnails of pictures.
    pub image_url: Option<String>,
    /// For covers of videos.
    pub video_url: Option<String>,
}

/// What a tenant is in the Lanying dialect.
#[derive(Debug, Clone)]
pub struct Lanying {
    /// Its name there.
    pub app_id: String,
    /// Signs the links to its files: as long-lived as they are.
    pub link_key: SecretKey,
    /// Signs its upload policies (OSS's `AccessKeySecret`; the id is `app_id`) and its store tokens.
    pub upload_key: SecretKey,
    /// Signs the calls of its clients (`sdk_sign`), where that is asked of them.
    pub sdk_sign_key: Option<SecretKey>,
    /// A file that was sent to one user opens for that user and the sender alone.
    pub strict_recipients: bool,
    /// Who makes thumbnails and covers for clients that leave it to us; `None` = we.
    pub processing: Processing,
}

/// The numbers that may differ by tenant: from `[limits]`, or from `[[tenant]]` over it.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Calls per second for one client and interface; 0 = no limit.
    #[serde(deserialize_with = "number::<0, 1_000_000, _, _>")]
    pub calls_per_second: u32,
    /// Calls that may come back to back.
    #[serde(deserialize_with = "number::<1, 1_000_000, _, _>")]
    pub calls_burst: u32,
    /// Bytes of one file. The vendor documents up to 200 MB.
    #[serde(deserialize_with = "number::<1, { 200 << 20 }, _, _>")]
    pub upload_bytes_max: u64,
    /// Bytes that it may store in a day; 0 = any.
    #[serde(deserialize_with = "number::<0, { 1 << 50 }, _, _>")]
    pub upload_bytes_per_day: u64,
    /// The same for each of its users.
    #[serde(deserialize_with = "number::<0, { 1 << 50 }, _, _>")]
    pub user_upload_bytes_per_day: u64,
    /// How long files are kept: from `[retention]`, or from `[[tenant]]` over it.
    #[serde(skip)]
    pub retention: Retention,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            calls_per_second: 30,
            calls_burst: 30,
            upload_bytes_max: 10 << 20,
            upload_bytes_per_day: 0,
            user_upload_bytes_per_day: 0,
            retention: Retention::default(),
        }
    }
}

/// How many days files are kept, by class; 0 = without limit, the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention([u32; Class::ALL.len()]);

impl Retention {
    /// The days of a class.
    pub fn days(&self, class: Class) -> u32 {
        self.0[class as usize]
    }

    /// The same with other days for one class.
    #[must_use]
    pub fn with(mut self, class: Class, days: u32) -> Self {
        self.0[class as usize] = days;
        self
    }

    /// The name of the setting of a class, for example `shared_voice_days`.
    pub fn setting(class: Class) -> String {
        format!("{}_days", class.name().replace('-', "_"))
    }

    /// Reads settings over `defaults`. `setting` finds the days by the name of the setting. A kind of file that was
    /// sent in a chat and has no days of its own takes `chatfile_days`, a shared one `shared_days`.
    ///
    /// # Errors
    /// Those of `setting`.
    pub fn read<E>(
        defaults: &Self,
        setting: impl Fn(&str) -> Result<Option<u32>, E>,
    ) -> Result<Self, E> {
        let mut retention = *defaults;
        for class in Class::ALL {
            let own = setting(&Self::setting(class))?;
            let general = match class {
                Class::Voice | Class::Image | Class::Video => Some(Class::Chatfile),
                Class::SharedVoice | Class::SharedImage | Class::SharedVideo => Some(Class::Shared),
                Class::Chatfile | Class::Shared | Class::Avatar => None,
            };
            let days = match (own, general) {
                (None, Some(general)) => setting(&Self::setting(general))?,
                (own, _) => own,
            };
            retention = days.map_or(retention, |days| retention.with(class, days));
        }
        Ok(retention)
    }
}

/// One tenant.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its place in the table: the limiter's key, stable while the process runs.
    pub index: u32,
    /// Of the table that it stands in: another one may have other secrets.
    pub generation: u64,
    /// The organisation, first segment of the path.
    pub org: String,
    /// The application, second segment of the path.
    pub app: String,
    /// The same tenant in the Lanying dialect.
    pub lanying: Option<Lanying>,
    /// The application's UUID in answers: derived from org and app, so the same on every node.
    pub application: Uuid,
    /// The OAuth client id.
    pub client_id: String,
    /// The OAuth client secret; also keys the dynamic tokens.
    pub client_secret: SecretKey,
    /// The ttls that its backend gives to dynamic tokens, in seconds; not empty. `None` = it is not said.
    pub dynamic_ttls: Option<Vec<i64>>,
    /// What a download needs.
    pub download_auth: DownloadAuth,
    /// Bare presence of `restrict-access` restricts, as the oldest document has it; else `false` does not.
    pub strict_restrict_access: bool,
    /// Who decides beside the signatures; `None` = they alone.
    pub hook: Option<Hook>,
    /// Numbers.
    pub limits: Limits,
    /// Tokens issued before are expired, whatever they say.
    pub tokens_not_before: Option<Timestamp>,
    /// The same, by user.
    pub users_not_before: HashMap<String, Timestamp>,
    /// Accounts by name.
    pub accounts: HashMap<String, Account>,
}

impl Tenant {
    /// `org/app`: the tenant's name in tokens and in stored metadata.
    pub fn name(&self) -> String {
        format!("{}/{}", self.org, self.app)
    }

    /// Whether a credential that was issued then is revoked, for the whole application or for its user. Every
    /// credential that names its moment asks here: tokens of both kinds, store tokens, upload tickets.
    pub fn is_revoked(&self, user: Option<&str>, issued: Timestamp) -> bool {
        let of_user = user.and_then(|name| self.users_not_before.get(name).copied());
        let not_before = self.tokens_not_before.max(of_user);
        not_before.is_some_and(|moment| issued < moment)
    }
}

/// All tenants, found by name without an allocation.
#[derive(Debug, Clone, Default)]
pub struct Tenants {
    by_org: HashMap<String, HashMap<String, Arc<Tenant>>>,
    by_app_id: HashMap<String, Arc<Tenant>>,
    in_order: Vec<Arc<Tenant>>,
    generation: u64,
    /// Of a tenant whose name is new.
    next_index: u32,
}

impl Tenants {
    /// Makes the table; `index` of each is set to its place. Names must be unique (the configuration checks).
    pub fn new(tenants: Vec<Tenant>) -> Self {
        Self::default().followed_by(tenants)
    }

    /// Whether there is more than one.
    pub fn has_several(&self) -> bool {
        self.in_order.len() > 1
    }

    /// The table that takes the place of this one. A tenant of the same name keeps its index, and no other one
    /// ever gets it: what is counted or remembered under it stays its own.
    #[must_use]
    pub fn followed_by(&self, tenants: Vec<Tenant>) -> Self {
        let mut table = Self {
            generation: self.generation + 1,
            next_index: self.next_index,
            ..Self::default()
        };
        for mut tenant in tenants {
            tenant.index = match self.find(&tenant.org, &tenant.app) {
                Some(before) => before.index,
                None => {
                    table.next_index += 1;
                    table.next_index - 1
                }
            };
            tenant.generation = table.generation;
            let tenant = Arc::new(tenant);
            table
                .by_org
                .entry(tenant.org.clone())
                .or_default()
                .insert(tenant.app.clone(), tenant.clone());
            if let Some(lanying) = &tenant.lanying {
                table
                    .by_app_id
                    .insert(lanying.app_id.clone(), tenant.clone());
            }
            table.in_order.push(tenant);
        }
        table
    }

    /// The tenant `{org}/{app}`.
    pub fn find(&self, org: &str, app: &str) -> Option<&Arc<Tenant>> {
        self.by_org.get(org)?.get(app)
    }

    /// The tenant that the Lanying dialect calls `app_id`.
    pub fn find_app_id(&self, app_id: &str) -> Option<&Arc<Tenant>> {
        self.by_app_id.get(app_id)
    }

    /// Whether the id of a file opens it somewhere, without a token.
    pub fn has_open_ids(&self) -> bool {
        let is_open = |tenant: &Arc<Tenant>| matches!(tenant.download_auth, DownloadAuth::Secret);
        self.in_order.iter().any(is_open)
    }

    /// In the order of the configuration; the first is the default of the command line.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.in_order.iter()
    }
}
