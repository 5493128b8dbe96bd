//! Tenants with their limits and retention, and the table of them.
//!
//! A tenant is `{org}/{app}` in the Easemob API and `app_id` in the Lanying API. Credentials are checked in `auth/`, and
//! limits are enforced in `limit/`.

mod backend_auth;

use std::{collections::HashMap, sync::Arc};

use serde::Deserialize;
use uuid::Uuid;

pub use self::backend_auth::{BackendAuth, IntrospectionServer, JwtAlgorithm, JwtIssuer};

use crate::{
    secret::{Secret, SecretKey},
    settings::{number, size},
    store::Class,
    time::Timestamp,
};

/// What a download needs.
#[derive(Debug, Clone)]
pub enum DownloadAuth {
    /// A valid token, and the share-secret if the file is restricted, as in the vendor's document.
    Token,
    /// In the Easemob API, only the share-secret of a restricted file. An unrestricted file opens by its id alone.
    Secret,
    /// As `Token`, but the response redirects to a URL that is signed with this key and valid for a limited time
    /// (`api/signed_url.rs`).
    Signed(SecretKey),
}

/// An account that may obtain a token by password: `[[tenant.account]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The user name.
    pub name: String,
    /// A hash in PHC format: `$argon2id$…`.
    pub password_hash: Secret,
}

/// The HTTP endpoint of a chat backend that decides what a user may do.
#[derive(Debug, Clone)]
pub struct Hook {
    /// An `http://` or `https://` URL, called with POST.
    pub url: String,
    /// Signs the calls, so that the backend can authenticate this server.
    pub secret: Option<SecretKey>,
}

/// URLs of a server that scales pictures. `api/lanying/process.rs` fills in the placeholders `{…}`.
#[derive(Debug, Clone, Default)]
pub struct Processing {
    /// For thumbnails of pictures.
    pub image_url: Option<String>,
    /// For covers of videos.
    pub video_url: Option<String>,
}

/// The settings of a tenant in the Lanying API.
#[derive(Debug, Clone)]
pub struct Lanying {
    /// The name of the tenant.
    pub app_id: String,
    /// Signs the links to files. Links live as long as the files, so the key must, too.
    pub link_key: SecretKey,
    /// Signs upload policies and store tokens. It is the `AccessKeySecret` of OSS; the `AccessKeyId` is `app_id`.
    pub upload_key: SecretKey,
    /// Verifies `sdk_sign`, the signature of the clients' requests. `None`: requests need no signature.
    pub sdk_sign_key: Option<SecretKey>,
    /// Only the sender and the recipient may open a file that was sent to one user.
    pub strict_recipients: bool,
    /// The server that makes thumbnails and covers; this one for URLs that are `None`.
    pub processing: Processing,
}

/// Limits of a tenant: from `[[tenant]]`, or else from `[limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Requests per second per client and rate class; 0 = unlimited.
    #[serde(deserialize_with = "number::<0, 1_000_000, _, _>")]
    pub calls_per_second: u32,
    /// Maximum burst of requests.
    #[serde(deserialize_with = "number::<1, 1_000_000, _, _>")]
    pub calls_burst: u32,
    /// Maximum size of a file. The vendor documents up to 200 MB.
    #[serde(deserialize_with = "size::<1, { 200 << 20 }, _, _>")]
    pub upload_bytes_max: u64,
    /// Bytes that the tenant may upload per day; 0 = unlimited.
    #[serde(deserialize_with = "size::<0, { 1 << 50 }, _, _>")]
    pub upload_bytes_per_day: u64,
    /// Bytes that each of its users may upload per day; 0 = unlimited.
    #[serde(deserialize_with = "size::<0, { 1 << 50 }, _, _>")]
    pub user_upload_bytes_per_day: u64,
    /// How long files are kept: from `[[tenant]]`, or else from `[retention]`.
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

/// How many days files are kept, by class; 0 = unlimited, the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention([u32; Class::ALL.len()]);

impl Retention {
    /// The days of a class.
    pub fn days(&self, class: Class) -> u32 {
        self.0[class as usize]
    }

    /// Sets the days of one class.
    #[must_use]
    pub fn with(mut self, class: Class, days: u32) -> Self {
        self.0[class as usize] = days;
        self
    }

    /// The name of the setting of a class, for example `shared_voice_days`.
    pub fn setting(class: Class) -> String {
        format!("{}_days", class.name().replace('-', "_"))
    }

    /// Reads the settings of a section. `setting` looks up the days by the name of a setting.
    ///
    /// For files of a chat, `chatfile_days` replaces a missing `voice_days`, `image_days` or `video_days`; for shared
    /// files, `shared_days` does the same. All that is left is taken from `defaults`.
    ///
    /// # Errors
    /// `setting` fails.
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
    /// The number of the tenant, for example in keys of the limiter. Stable while the process runs.
    pub index: u32,
    /// The generation of its table. Another generation may have other secrets.
    pub generation: u64,
    /// The organization, the first segment of the path.
    pub org: String,
    /// The application, the second segment of the path.
    pub app: String,
    /// Settings of the Lanying API; `None` if the tenant is not served there.
    pub lanying: Option<Lanying>,
    /// The UUID of the application in responses. It is derived from org and app, so it is the same on every node.
    pub application: Uuid,
    /// The OAuth client id.
    pub client_id: String,
    /// The OAuth client secret, which also signs dynamic tokens.
    pub client_secret: SecretKey,
    /// The lifetimes that the chat backend gives to dynamic tokens, in seconds. Not empty; `None` = unknown.
    pub dynamic_ttls: Option<Vec<i64>>,
    /// What a download needs.
    pub download_auth: DownloadAuth,
    /// The header `restrict-access` restricts a file with any value, as in the oldest document of the vendor. Otherwise
    /// the value `false` does not.
    pub strict_restrict_access: bool,
    /// The hook that also decides; `None` = signatures alone decide.
    pub hook: Option<Hook>,
    /// The tokens of the chat backend that are accepted besides those of this server.
    pub auth: BackendAuth,
    /// Limits and retention.
    pub limits: Limits,
    /// Credentials issued before this time are revoked.
    pub tokens_not_before: Option<Timestamp>,
    /// Credentials of a user that were issued before this time are revoked, by user.
    pub users_not_before: HashMap<String, Timestamp>,
    /// Accounts by name.
    pub accounts: HashMap<String, Account>,
}

impl Tenant {
    /// `org/app`: the tenant's name in tokens and in stored metadata.
    pub fn name(&self) -> String {
        format!("{}/{}", self.org, self.app)
    }

    /// Whether a credential that was issued at this time is revoked, for the whole application or for its user.
    ///
    /// Used for all credentials with a time of issue: both kinds of tokens, store tokens, upload tickets.
    pub fn is_revoked(&self, user: Option<&str>, issued: Timestamp) -> bool {
        let of_user = user.and_then(|name| self.users_not_before.get(name).copied());
        let not_before = self.tokens_not_before.max(of_user);
        not_before.is_some_and(|moment| issued < moment)
    }
}

/// All tenants. A look-up by name does not allocate.
#[derive(Debug, Clone, Default)]
pub struct Tenants {
    by_org: HashMap<String, HashMap<String, Arc<Tenant>>>,
    by_app_id: HashMap<String, Arc<Tenant>>,
    in_order: Vec<Arc<Tenant>>,
    generation: u64,
    /// The index of the next new tenant.
    next_index: u32,
}

impl Tenants {
    /// Makes a table, and numbers the tenants. Names must be unique; the configuration checks that.
    pub fn new(tenants: Vec<Tenant>) -> Self {
        Self::default().followed_by(tenants)
    }

    /// Whether there is more than one tenant.
    pub fn has_several(&self) -> bool {
        self.in_order.len() > 1
    }

    /// Makes the table that replaces this one. A tenant with the same name keeps its index, and an index is never
    /// reused, so that counters and caches by index stay with their tenant.
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
            let of_org = table.by_org.entry(tenant.org.clone()).or_default();
            of_org.insert(tenant.app.clone(), tenant.clone());
            if let Some(lanying) = &tenant.lanying {
                let app_id = lanying.app_id.clone();
                table.by_app_id.insert(app_id, tenant.clone());
            }
            table.in_order.push(tenant);
        }
        table
    }

    /// Finds a tenant by `{org}/{app}`.
    pub fn find(&self, org: &str, app: &str) -> Option<&Arc<Tenant>> {
        self.by_org.get(org)?.get(app)
    }

    /// Finds a tenant by its `app_id` in the Lanying API.
    pub fn find_app_id(&self, app_id: &str) -> Option<&Arc<Tenant>> {
        self.by_app_id.get(app_id)
    }

    /// Whether a file of any tenant opens by its id, without a token.
    pub fn has_open_ids(&self) -> bool {
        let is_open = |tenant: &Arc<Tenant>| matches!(tenant.download_auth, DownloadAuth::Secret);
        self.in_order.iter().any(is_open)
    }

    /// The tenants in the order of the configuration. The first one is the default of the command line.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.in_order.iter()
    }
}
