//! The text that a starting server prints: its addresses, its settings, and commands to paste into a shell.

use std::{
    fmt::Write,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::arguments::VERSION;
use crate::{
    config::{Config, DownloadAuthKind, TenantConfig},
    files::{Capabilities, PACKAGES},
    http::{cors::Cors, forwarded::ForwardedHeader},
    logging::Format,
    server::{endpoint::Endpoint, operator::Authentication},
    settings::{format_bytes, format_seconds},
    store::{Class, local::Durability},
    tenant::{Limits, Retention},
};

/// A photo in the repository, for the commands.
const PHOTO: &str = "tests/data/photo.jpg";

/// A server that has just started.
pub(super) struct Started<'a> {
    pub(super) config: &'a Config,
    /// The configuration file.
    pub(super) file: Option<&'a Path>,
    pub(super) endpoints: Vec<&'a Endpoint>,
    pub(super) operator: Option<SocketAddr>,
    pub(super) capabilities: Capabilities,
}

impl Started<'_> {
    /// What the server prints on standard output when it has started, without the last line feed.
    ///
    /// On a terminal: addresses, settings, and commands to paste. Otherwise, for programs and logs: one line of JSON if
    /// `log.format = "json"`, and else the addresses and settings. The lines `listening on …` come first in each text,
    /// and [`LAST_LINE`] comes last.
    pub(super) fn banner(&self, is_terminal: bool) -> String {
        if !is_terminal && self.config.log.format == Format::Json {
            return self.json();
        }
        let mut text = String::new();
        for address in self.addresses() {
            let _ = writeln!(text, "listening on {address}");
        }
        if let Some(address) = self.operator {
            let _ = writeln!(
                text,
                "metrics and probes on http://{address}: /metrics /livez /readyz /log-level"
            );
            let _ = writeln!(text, "console on http://{address}/");
        }
        let _ = writeln!(text, "\n{}", policy(self.config, self.capabilities));
        let mut endpoints = self.endpoints.iter();
        if is_terminal
            && let Some(address) = endpoints.find_map(|endpoint| endpoint.plain_address())
        {
            text.push_str(&commands(self.config, self.file, address));
            text.push('\n');
        }
        text + LAST_LINE
    }

    /// Where clients connect: URLs, or endpoints as in the configuration where a proxy connects.
    fn addresses(&self) -> Vec<String> {
        let address = |endpoint: &&Endpoint| match (endpoint.plain_address(), endpoint.address()) {
            (Some(address), _) => format!("http://{address}"),
            (None, Some(address)) if !endpoint.is_proxied => format!("https://{address}"),
            _ => endpoint.to_string(),
        };
        self.endpoints.iter().map(address).collect()
    }

    fn json(&self) -> String {
        let store = &self.config.store.path;
        serde_json::json!({
            "message": "started",
            "version": VERSION,
            "listen": self.addresses(),
            "operator": self.operator.map(|address| format!("http://{address}")),
            "store": std::path::absolute(store).as_ref().unwrap_or(store),
        })
        .to_string()
    }
}

/// The last line of the text of a starting server.
const LAST_LINE: &str = "# Ctrl-C stops the server.";

/// The settings that decide what is accepted and what is refused, one on each line.
pub(super) fn policy(config: &Config, capabilities: Capabilities) -> String {
    let lines = [
        storage(config),
        limits(config),
        media(config, capabilities),
        tenants(config),
    ];
    let line = |(name, value): (&str, String)| format!("{name:<24}{value}\n");
    lines.into_iter().flatten().map(line).collect()
}

type Lines = Vec<(&'static str, String)>;

fn storage(config: &Config) -> Lines {
    let store = &config.store;
    let durability = match store.durability {
        Durability::Full => "full",
        Durability::None => "none",
    };
    let path = store.path.display();
    let floor = format_bytes(store.free_space_min_bytes);
    let public_url = config.api.public_url.as_ref().map(ToString::to_string);
    let from_host = || "from the Host header of each request".into();
    let mut lines = vec![
        ("store", format!("{path} (durability = \"{durability}\")")),
        (
            "free space floor",
            format!("{floor}; below it, uploads get 507"),
        ),
        ("retention", kept(&config.tenant_defaults.retention)),
        ("public URL", public_url.unwrap_or_else(from_host)),
    ];
    if let Some(url) = &config.api.cdn_url {
        let valid = format_seconds(config.api.url_ttl_secs.unsigned_abs());
        let value =
            format!("redirected to {url}, with signed URLs that are valid for up to {valid}");
        lines.push(("downloads", value));
    }
    lines
}

fn limits(config: &Config) -> Lines {
    let limits = &config.tenant_defaults;
    let in_flight = format_bytes(config.service.upload_bytes_in_flight_max);
    let quota = |quota: u64| match quota {
        0 => "unlimited".to_owned(),
        quota => format_bytes(quota),
    };
    let per_tenant = quota(limits.upload_bytes_per_day);
    let per_user = quota(limits.user_upload_bytes_per_day);
    let header = match config.service.forwarded_header {
        ForwardedHeader::XForwardedFor => "X-Forwarded-For",
        ForwardedHeader::Forwarded => "Forwarded",
    };
    let proxies = list(&config.service.trusted_proxies);
    let operator = match (config.operator.listen, config.operator.authentication()) {
        (Some(address), Some(Authentication::Token)) => {
            let file = config.operator.token_file(&config.keys_path());
            format!("at {address}, with the token in {}", file.display())
        }
        (Some(address), _) => format!("at {address}, without authentication"),
        (None, _) => "none, because operator.listen is not set".into(),
    };
    let origins = match &config.cors {
        Cors::Any => "any".to_owned(),
        Cors::List(origins) => list(origins),
    };
    vec![
        ("upload size limit", format_bytes(limits.upload_bytes_max)),
        ("uploads in flight", format!("up to {in_flight}")),
        (
            "daily quota",
            format!("{per_tenant} per tenant, {per_user} per user"),
        ),
        ("rate limit", rate(config)),
        ("exempt from rate limit", list(&config.limit.exempt)),
        ("trusted proxies", format!("{proxies}; they write {header}")),
        ("metrics and probes", operator),
        ("allowed origins", origins),
    ]
}

fn rate(config: &Config) -> String {
    let limits = &config.tenant_defaults;
    let status = if config.api.limit_status_429 {
        429
    } else {
        503
    };
    match limits.calls_per_second {
        0 => "unlimited".into(),
        n => format!(
            "{n} requests per second per client address, with bursts of up to {}, for each of upload, download, \
             thumbnails and other requests; above it, {status} with Retry-After",
            limits.calls_burst
        ),
    }
}

fn media(config: &Config, capabilities: Capabilities) -> Lines {
    let ffmpeg = [
        (capabilities.frames, "video covers"),
        (capabilities.to_mp3, "AMR to MP3"),
        (capabilities.to_amr, "MP3 to AMR"),
    ];
    let is_complete = ffmpeg.iter().all(|(can, _)| *can);
    let ffmpeg = ffmpeg.map(|(can, what)| match can {
        true => what.to_owned(),
        false => format!("no {what}"),
    });
    let hint = match is_complete || config.files.ffmpeg.program.as_os_str().is_empty() {
        true => String::new(),
        false => format!(" (install {PACKAGES})"),
    };
    let (pixels_max, threads) = (config.files.decode_pixels_max, config.files.decode_threads);
    let pictures = format!("of pictures up to {pixels_max} pixels, {threads} decoded at once");
    vec![
        ("thumbnails", pictures),
        ("ffmpeg", ffmpeg.join(", ") + &hint),
    ]
}

fn tenants(config: &Config) -> Lines {
    let tenant = |tenant: &TenantConfig| {
        let download = match tenant.download_auth.unwrap_or_default() {
            DownloadAuthKind::Token => {
                "downloads need a token, and the share-secret of a restricted file"
            }
            DownloadAuthKind::Secret => {
                "downloads need the share-secret of a restricted file; others open by their id"
            }
            DownloadAuthKind::Signed => {
                "downloads need a token, and the share-secret of a restricted file, and are redirected to signed URLs"
            }
        };
        let (name, differences) = (tenant.name(), differences(tenant, &config.tenant_defaults));
        let text = format!("{name}: uploads need a token, {download}{differences}");
        ("tenant", text)
    };
    config.tenants.iter().map(tenant).collect()
}

/// The settings in which a tenant differs from the defaults.
fn differences(tenant: &TenantConfig, defaults: &Limits) -> String {
    let mut text = String::new();
    for (own, default) in numbers(&tenant.limits).iter().zip(numbers(defaults)) {
        if *own != default {
            let _ = write!(text, ", {} = {}", own.0, own.1);
        }
    }
    match &tenant.app_id {
        Some(id) => {
            let _ = write!(
                text,
                "; in the Lanying API as {id}, where links need a token"
            );
        }
        None => text.push_str("; not in the Lanying API, because app_id is not set"),
    }
    let is_strict = tenant.strict_restrict_access;
    let is_processed = tenant.image_process_url.is_some() || tenant.video_process_url.is_some();
    let is_revoked = tenant.tokens_not_before.is_some() || !tenant.users_not_before.is_empty();
    let switches = [
        (is_strict, "strict_restrict_access = true"),
        (tenant.strict_recipients, "strict_recipients = true"),
        (tenant.hook_url.is_some(), "a hook decides"),
        (
            tenant.auth.jwt.is_some(),
            "JWTs of the backend are accepted",
        ),
        (
            tenant.auth.introspection.is_some(),
            "tokens are introspected",
        ),
        (tenant.sdk_sign_key.is_some(), "requests need sdk_sign"),
        (is_processed, "pictures are processed by another server"),
        (is_revoked, "some tokens are revoked"),
    ];
    for (_, what) in switches.into_iter().filter(|(is_on, _)| *is_on) {
        let _ = write!(text, ", {what}");
    }
    text
}

/// The limits and days, by the names of their settings, with values as in the configuration.
fn numbers(limits: &Limits) -> Vec<(String, String)> {
    let days = |class| limits.retention.days(class).to_string();
    let days = Class::ALL.map(|class| (Retention::setting(class), days(class)));
    let size = |bytes| format!("\"{}\"", format_bytes(bytes));
    let limits = [
        ("calls_per_second", limits.calls_per_second.to_string()),
        ("calls_burst", limits.calls_burst.to_string()),
        ("upload_bytes_max", size(limits.upload_bytes_max)),
        ("upload_bytes_per_day", size(limits.upload_bytes_per_day)),
        (
            "user_upload_bytes_per_day",
            size(limits.user_upload_bytes_per_day),
        ),
    ];
    let limits = limits.map(|(name, number)| (name.to_owned(), number));
    limits.into_iter().chain(days).collect()
}

/// The classes that are not kept without limit, with their days.
fn kept(retention: &Retention) -> String {
    let days = |class: Class| match retention.days(class) {
        0 => None,
        days => Some(format!("{} {days} days", class.name())),
    };
    let limited: Vec<_> = Class::ALL.into_iter().filter_map(days).collect();
    match limited.len() {
        0 => "unlimited".into(),
        n if n == Class::ALL.len() => limited.join(", "),
        _ => format!("{}, others unlimited", limited.join(", ")),
    }
}

fn list(items: &[impl ToString]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    match &items[..] {
        [] => "none".into(),
        items => items.join(", "),
    }
}

/// Shell commands that upload a photo, download it, and download its thumbnail. They get the token from
/// `chatfiles token`: this text may be in a log, which must not hold a token.
fn commands(config: &Config, file: Option<&Path>, address: SocketAddr) -> String {
    let Some(tenant) = config.tenants.first() else {
        return String::new();
    };
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("chatfiles"));
    let absolute = |path: &Path| quoted(&std::path::absolute(path).unwrap_or(path.to_owned()));
    let file = file.map_or(String::new(), |file| {
        format!(" --config {}", absolute(file))
    });
    let store = absolute(&config.store.path);
    let token = format!(
        "{} token --user alice{file} --store-path {store}",
        quoted(&program)
    );
    let photo = quoted(&photo(&program));
    let host = match address.ip().is_unspecified() {
        true => format!("http://127.0.0.1:{}", address.port()),
        false => format!("http://{address}"),
    };
    let url = format!("{host}/{}/chatfiles", tenant.name());
    let app_id = tenant.app_id.as_ref();
    let lanying = app_id.map(|app_id| lanying_commands(app_id, &host, &photo));
    format!(
        r#"Paste this into another terminal. It uploads a photo, downloads it, and downloads its thumbnail.

  # With the Easemob API:
  TOKEN=$({token})
  ANSWER=$(curl -sS --header "Authorization: Bearer $TOKEN" --header "restrict-access:true" --form file=@{photo} {url}); echo "$ANSWER"
  UUID=$(echo "$ANSWER" | sed -E 's/.*"uuid":"([^"]*)".*/\1/'); SECRET=$(echo "$ANSWER" | sed -E 's/.*"share-secret":"([^"]*)".*/\1/')
  curl -sSL -o copy.jpg -H "share-secret: $SECRET" --header "Authorization: Bearer $TOKEN" -H "Accept: application/octet-stream" {url}/$UUID && cmp copy.jpg {photo} && echo "copy.jpg is the photo, byte for byte"
  curl -sSL -o thumbnail.jpg -H "thumbnail: true" -H "share-secret: $SECRET" -H "Authorization: Bearer $TOKEN" -H "Accept: application/octet-stream" {url}/$UUID && ls -l thumbnail.jpg
"#
    ) + &lanying.unwrap_or_default()
}

fn lanying_commands(app_id: &str, host: &str, photo: &str) -> String {
    format!(
        r#"
  # With the Lanying API, which also forwards the photo:
  lanying() {{ curl -sSL -H "access-token: $TOKEN" -H "app_id: {app_id}" "$@"; }}; get() {{ echo "$ANSWER" | sed -E "s/.*\"$1\":\"([^\"]*)\".*/\1/"; }}
  ANSWER=$(lanying "{host}/file/upload/chat?file_type=102&to_type=1&to_id=bob"); echo "$ANSWER"
  curl -sS --form "OSSAccessKeyId=$(get OSSAccessKeyId)" --form "policy=$(get policy)" --form "signature=$(get signature)" --form callback= --form "key=$(get key)" --form file=@{photo} "$(get upload_url)"; echo
  lanying -o sent.jpg "$(get download_url)" && cmp sent.jpg {photo} && echo "sent.jpg is the photo, byte for byte"
  lanying -o small.jpg "$(get download_url)&image_type=2&thumbnail_strategy=2" && ls -l small.jpg
  lanying "{host}/file/upload/forward?to_id=carol&file_sign=$(get download_url | sed 's/.*sign=//')"; echo
"#
    )
}

/// The path of the photo, below the current directory or near the program.
fn photo(program: &Path) -> PathBuf {
    let here = PathBuf::from(PHOTO);
    if is_file(&here) {
        return std::path::absolute(&here).unwrap_or(here);
    }
    let near_program = program
        .ancestors()
        .map(|ancestor| ancestor.join(PHOTO))
        .find(|path| is_file(path));
    near_program.unwrap_or_else(|| PathBuf::from("photo.jpg"))
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// Quotes a path for a POSIX shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    if is_plain {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
