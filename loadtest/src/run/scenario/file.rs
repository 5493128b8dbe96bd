//! The TOML of a scenario and its checks. Each message starts with the key that is wrong.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Action, Class, Grant, Kind, Scenario, TokenSource};
use crate::run::{
    api::{Api, Endpoint, Upload},
    template::{Template, Variable},
};

/// Maximum number of files; a few hundred bytes of each are kept in memory.
pub(crate) const FILES_MAX: usize = 1_000_000;
/// Maximum length of a file.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Maximum number of requests in a burst.
const BURST_CALLS_MAX: u32 = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    name: String,
    dialect: Dialect,
    files: usize,
    zipf_exponent: f64,
    token_command: Option<Vec<String>>,
    token_grant: Option<GrantEntry>,
    easemob: Option<EasemobEntry>,
    api: Option<ApiEntry>,
    class: Vec<ClassEntry>,
    request: Vec<RequestEntry>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Dialect {
    Easemob,
    Generic,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantEntry {
    client_id: Option<String>,
    client_secret: Option<String>,
    user: Option<String>,
    password: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EasemobEntry {
    org: String,
    app: String,
    restricted: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiEntry {
    upload: UploadEntry,
    download: EndpointEntry,
    thumbnail: Option<EndpointEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UploadEntry {
    method: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    multipart: Option<String>,
    id: Option<String>,
    secret: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointEntry {
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassEntry {
    name: String,
    weight: f64,
    bytes: [u64; 2],
    #[serde(default = "octet_stream")]
    content_type: String,
    #[serde(default = "file_name")]
    file_name: String,
    #[serde(default)]
    starts_with: String,
    #[serde(default)]
    picture: bool,
}

fn octet_stream() -> String {
    "application/octet-stream".to_owned()
}

fn file_name() -> String {
    "file.bin".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestEntry {
    kind: KindName,
    name: Option<String>,
    weight: f64,
    expect: Vec<u16>,
    classes: Option<Vec<String>>,
    range_bytes: Option<[u64; 2]>,
    calls: Option<u32>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum KindName {
    Upload,
    Download,
    Thumbnail,
    Range,
    Conditional,
    Head,
    WrongToken,
    Burst,
}

impl KindName {
    /// The name in TOML.
    fn text(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Thumbnail => "thumbnail",
            Self::Range => "range",
            Self::Conditional => "conditional",
            Self::Head => "head",
            Self::WrongToken => "wrong_token",
            Self::Burst => "burst",
        }
    }
}

impl File {
    pub(super) fn check(self) -> Result<Scenario, String> {
        if !(1..=FILES_MAX).contains(&self.files) {
            return Err(format!("files: from 1 to {FILES_MAX}"));
        }
        if !(self.zipf_exponent.is_finite() && (0.0..=10.0).contains(&self.zipf_exponent)) {
            return Err("zipf_exponent: from 0 (uniform) to 10".to_owned());
        }
        let api = match (self.dialect, self.easemob, self.api) {
            (Dialect::Easemob, Some(entry), None) => entry.check()?,
            (Dialect::Generic, None, Some(entry)) => entry.check()?,
            (Dialect::Easemob, None, _) => {
                return Err("easemob: needed where dialect is \"easemob\"".to_owned());
            }
            (Dialect::Generic, _, None) => {
                return Err("api: needed where dialect is \"generic\"".to_owned());
            }
            (Dialect::Easemob, _, Some(_)) => {
                return Err("api: only where dialect is \"generic\"".to_owned());
            }
            (Dialect::Generic, Some(_), _) => {
                return Err("easemob: only where dialect is \"easemob\"".to_owned());
            }
        };
        let token = token_source(&api, self.token_command, self.token_grant)?;
        let classes = check_classes(self.class)?;
        let kinds = check_requests(self.request, &classes, &api)?;
        Ok(Scenario {
            name: self.name,
            files: self.files,
            zipf_exponent: self.zipf_exponent,
            api,
            token,
            classes,
            kinds,
        })
    }
}

impl EasemobEntry {
    fn check(self) -> Result<Api, String> {
        for (key, value) in [("org", &self.org), ("app", &self.app)] {
            let is_segment = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if value.is_empty() || !value.chars().all(is_segment) {
                return Err(format!("easemob.{key}: letters, digits, - _ and . only"));
            }
        }
        Ok(Api::easemob(&self.org, &self.app, self.restricted))
    }
}

impl ApiEntry {
    fn check(self) -> Result<Api, String> {
        let UploadEntry {
            method,
            path,
            headers,
            multipart,
            id,
            secret,
        } = self.upload;
        if method.is_empty() || !method.chars().all(|c| c.is_ascii_uppercase()) {
            return Err("api.upload.method: capital letters, such as PUT".to_owned());
        }
        let endpoint = EndpointEntry { path, headers }.check("api.upload")?;
        for variable in [Variable::Id, Variable::Secret] {
            if endpoint.needs(variable) {
                let has = "{name}, {content_type} and {token}";
                return Err(format!(
                    "api.upload.path: {variable} is not known here; available: {has}"
                ));
            }
        }
        for (key, pointer) in [("id", &id), ("secret", &secret)] {
            if pointer
                .as_ref()
                .is_some_and(|pointer| !pointer.starts_with('/'))
            {
                return Err(format!(
                    "api.upload.{key}: a JSON pointer, such as /files/0/id"
                ));
            }
        }
        if multipart.as_ref().is_some_and(|field| !is_quotable(field)) {
            return Err("api.upload.multipart: no quotes or control characters".to_owned());
        }
        let thumbnail = self.thumbnail.map(|entry| entry.check("api.thumbnail"));
        Ok(Api {
            upload: Upload {
                method,
                endpoint,
                multipart,
                id,
                secret,
            },
            download: self.download.check("api.download")?,
            thumbnail: thumbnail.transpose()?,
            token_path: None,
        })
    }
}

impl EndpointEntry {
    fn check(self, key: &str) -> Result<Endpoint, String> {
        if !self.path.starts_with('/') || self.path.contains(' ') {
            return Err(format!("{key}.path: starts with / and has no spaces"));
        }
        let path = Template::parse(&self.path).map_err(|error| format!("{key}.path: {error}"))?;
        let header = |(name, value): (String, String)| {
            let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
            if name.is_empty() || !name.chars().all(is_token) {
                return Err(format!("{key}.headers.{name}: not a header's name"));
            }
            let framing = ["content-length", "transfer-encoding", "host", "connection"];
            if framing.contains(&&*name.to_ascii_lowercase()) {
                return Err(format!("{key}.headers.{name}: set by loadtest itself"));
            }
            let value = Template::parse(&value);
            let value = value.map_err(|error| format!("{key}.headers.{name}: {error}"))?;
            Ok((name, value))
        };
        let headers: Result<_, _> = self.headers.into_iter().map(header).collect();
        Ok(Endpoint {
            path,
            headers: headers?,
        })
    }
}

fn is_quotable(text: &str) -> bool {
    !text.is_empty()
        && !text
            .chars()
            .any(|c| c == '"' || c == '\\' || c.is_control())
}

fn token_source(
    api: &Api,
    command: Option<Vec<String>>,
    grant: Option<GrantEntry>,
) -> Result<TokenSource, String> {
    if let Some(command) = command {
        if grant.is_some() {
            return Err("token_grant: not beside token_command".to_owned());
        }
        if command.is_empty() {
            return Err("token_command: a program and its arguments".to_owned());
        }
        return Ok(TokenSource::Command(command));
    }
    let Some(grant) = grant else {
        let needs = api
            .endpoints()
            .any(|endpoint| endpoint.needs(Variable::Token));
        return Ok(if needs {
            TokenSource::Given
        } else {
            TokenSource::None
        });
    };
    if api.token_path.is_none() {
        return Err("token_grant: only where dialect is \"easemob\"".to_owned());
    }
    let GrantEntry {
        client_id,
        client_secret,
        user,
        password,
    } = grant;
    match (client_id, client_secret, user, password) {
        (Some(client_id), Some(client_secret), user, None) => {
            Ok(TokenSource::Grant(Grant::Client { client_id, client_secret, user }))
        }
        (None, None, Some(user), Some(password)) => {
            Ok(TokenSource::Grant(Grant::Password { user, password }))
        }
        _ => Err("token_grant: client_id and client_secret, with or without a user; or user and password".to_owned()),
    }
}

fn check_weights(key: &str, weights: impl Iterator<Item = f64> + Clone) -> Result<(), String> {
    for (index, weight) in weights.clone().enumerate() {
        if !(weight.is_finite() && weight >= 0.0) {
            return Err(format!("{key}[{index}].weight: a number from 0"));
        }
    }
    let sum: f64 = weights.sum();
    if !(sum.is_finite() && sum > 0.0) {
        return Err(format!("{key}: at least one, with a weight above 0"));
    }
    Ok(())
}

fn check_classes(entries: Vec<ClassEntry>) -> Result<Vec<Class>, String> {
    check_weights("class", entries.iter().map(|entry| entry.weight))?;
    let mut classes: Vec<Class> = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let wrong = |key: &str, what: &str| Err(format!("class[{index}].{key}: {what}"));
        if entry.name.is_empty() || classes.iter().any(|class| class.name == entry.name) {
            return wrong("name", "must be unique");
        }
        let [min, max] = entry.bytes;
        if !(1 <= min && min <= max && max <= FILE_BYTES_MAX) {
            return wrong(
                "bytes",
                &format!("[least, greatest], from 1 to {FILE_BYTES_MAX}"),
            );
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if entry.file_name.is_empty() || !entry.file_name.chars().all(is_name) {
            return wrong(
                "file_name",
                "only letters, digits, - _ and ., because it appears in paths",
            );
        }
        if entry.content_type.is_empty() || entry.content_type.chars().any(char::is_control) {
            return wrong("content_type", "such as image/jpeg");
        }
        if entry.picture && !entry.starts_with.is_empty() {
            return wrong("starts_with", "not beside picture = true, which is a JPEG");
        }
        classes.push(Class {
            name: entry.name,
            weight: entry.weight,
            bytes: entry.bytes,
            content_type: entry.content_type,
            file_name: entry.file_name,
            // Each character stands for one byte, for example \u00ff.
            start: match entry
                .starts_with
                .chars()
                .map(u8::try_from)
                .collect::<Result<Vec<_>, _>>()
            {
                Ok(start) => start.into(),
                Err(_) => return wrong("starts_with", "characters up to \\u00ff, each one byte"),
            },
            is_picture: entry.picture,
        });
    }
    Ok(classes)
}

fn check_requests(
    entries: Vec<RequestEntry>,
    classes: &[Class],
    api: &Api,
) -> Result<Vec<Kind>, String> {
    check_weights("request", entries.iter().map(|entry| entry.weight))?;
    let mut kinds: Vec<Kind> = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let kind = entry
            .check(classes, api)
            .map_err(|(key, what)| format!("request[{index}].{key}: {what}"))?;
        if kinds.iter().any(|other| other.name == kind.name) {
            return Err(format!(
                "request[{index}].name: {} is not unique",
                kind.name
            ));
        }
        kinds.push(kind);
    }
    Ok(kinds)
}

impl RequestEntry {
    /// An error contains a key of this entry and the reason.
    fn check(self, classes: &[Class], api: &Api) -> Result<Kind, (&'static str, String)> {
        let wrong = |key, what: &str| Err((key, what.to_owned()));
        let action = match (self.kind, self.range_bytes, self.calls) {
            (KindName::Range, Some(bytes), None) if 1 <= bytes[0] && bytes[0] <= bytes[1] => {
                Action::Range { bytes }
            }
            (KindName::Range, _, None) => return wrong("range_bytes", "[least, greatest], from 1"),
            (KindName::Burst, None, Some(calls)) if (1..=BURST_CALLS_MAX).contains(&calls) => {
                Action::Burst { calls }
            }
            (KindName::Burst, None, _) => {
                return wrong("calls", &format!("from 1 to {BURST_CALLS_MAX}"));
            }
            (_, Some(_), _) => return wrong("range_bytes", "only where kind is \"range\""),
            (_, _, Some(_)) => return wrong("calls", "only where kind is \"burst\""),
            (KindName::Upload, ..) => Action::Upload,
            (KindName::Download, ..) => Action::Download,
            (KindName::Thumbnail, ..) => Action::Thumbnail,
            (KindName::Conditional, ..) => Action::Conditional,
            (KindName::Head, ..) => Action::Head,
            (KindName::WrongToken, ..) => Action::WrongToken,
        };
        if action == Action::Thumbnail && api.thumbnail.is_none() {
            return wrong("kind", "\"thumbnail\" needs api.thumbnail");
        }
        if action == Action::WrongToken && !api.download.needs(Variable::Token) {
            return wrong("kind", "\"wrong_token\" needs a {token} in api.download");
        }
        if self.expect.is_empty() || !self.expect.iter().all(|status| (200..600).contains(status)) {
            return wrong("expect", "the expected statuses, each from 200 to 599");
        }
        let chosen = match self.classes {
            None => classes
                .iter()
                .map(|class| action != Action::Thumbnail || class.is_picture)
                .collect(),
            Some(names) => {
                if let Some(name) = names
                    .iter()
                    .find(|name| classes.iter().all(|class| class.name != **name))
                {
                    return wrong("classes", &format!("there is no class {name:?}"));
                }
                classes
                    .iter()
                    .map(|class| names.contains(&class.name))
                    .collect::<Vec<_>>()
            }
        };
        let weight = |(class, chosen): (&Class, &bool)| if *chosen { class.weight } else { 0.0 };
        if classes.iter().zip(&chosen).map(weight).sum::<f64>() <= 0.0 {
            return wrong(
                "classes",
                "names none that has a weight above 0; thumbnails need a class with picture = true",
            );
        }
        Ok(Kind {
            name: self.name.unwrap_or_else(|| self.kind.text().to_owned()),
            action,
            weight: self.weight,
            // Leaked once per kind and run of the program, because the engine takes `'static` lists.
            expect: Vec::leak(self.expect),
            classes: chosen,
        })
    }
}
