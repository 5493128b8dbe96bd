//! What a starting server prints: its address, what is in force, and commands that work when pasted.

use std::{
    fmt::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::commands::is_file;
use crate::{
    config::{Config, DownloadAuthKind, TenantConfig},
    files::Capabilities,
    http::cors::AllowedOrigins,
    retention::days_of,
    server::endpoint::Endpoint,
    store::Class,
    tenant::Days,
};

/// The photo of the repository.
const PHOTO: &str = "tests/data/photo.jpg";

/// Everything. The first line is for programs that wait for it.
pub(super) fn text<'a>(
    config: &Config,
    file: Option<&Path>,
    endpoints: impl Iterator<Item = &'a Endpoint>,
    operator: Option<SocketAddr>,
    capabilities: Capabilities,
) -> String {
    let mut text = String::new();
    let mut plain = None;
    for endpoint in endpoints {
        let _ = match (endpoint.plain_address(), endpoint.address()) {
            (Some(address), _) => {
                plain = plain.or(Some(address));
                writeln!(text, "listening on http://{address}")
            }
            (None, Some(address)) if !endpoint.is_proxied => {
                writeln!(text, "listening on https://{address}")
            }
            _ => writeln!(text, "listening on {endpoint}"),
        };
    }
    if let Some(address) = operator {
        let _ = writeln!(
            text,
            "metrics and probes on http://{address}: /metrics /livez /readyz /log-level"
        );
    }
    let _ = writeln!(text, "\n{}", policy(config, capabilities));
    if let Some(address) = plain {
        text.push_str(&commands(config, file, address));
    }
    text.push_str("\n# Ctrl-C stops the server.\n");
    text
}

/// What is in force: what is let in, and what is refused.
pub(super) fn policy(config: &Config, capabilities: Capabilities) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<22}{value}");
    };
    line(
        "store",
        format!(
            "{} (durability {:?})",
            config.store.path.display(),
            config.store.durability
        ),
    );
    line(
        "public url",
        config
            .api
            .public_url
            .clone()
            .unwrap_or_else(|| "from the request's Host".into()),
    );
    if let Some(url) = &config.api.cdn_url {
        let minutes = config.api.url_ttl_secs / 60;
        line(
            "files come from",
            format!("{url}, by URLs that open for {minutes} minutes at the most"),
        );
    }
    line(
        "metrics and probes",
        match config.operator {
            Some(address) => format!("at {address}, without authentication"),
            None => "none: operator.listen is not set".into(),
        },
    );
    line(
        "free space at least",
        format!(
            "{} bytes, below it uploads get 507",
            config.store.free_space_min_bytes
        ),
    );
    let limits = &config.tenant_defaults;
    line("file at most", format!("{} bytes", limits.upload_bytes_max));
    line(
        "in flight at most",
        format!(
            "{} bytes of uploads",
            config.service.upload_bytes_in_flight_max
        ),
    );
    let a_day = |bytes: u64| match bytes {
        0 => "any".to_owned(),
        bytes => format!("{bytes} bytes"),
    };
    line(
        "in a day",
        format!(
            "{} of a tenant, {} of a user",
            a_day(limits.upload_bytes_per_day),
            a_day(limits.user_upload_bytes_per_day)
        ),
    );
    line("rate", rate(limits.calls_per_second, limits.calls_burst));
    let status = if config.api.limit_status_429 {
        429
    } else {
        503
    };
    line("over the rate", format!("{status} with Retry-After"));
    line("rate does not limit", list(&config.limit.exempt));
    line("trusted proxies", list(&config.service.trusted_proxies));
    line(
        "their header",
        format!("{:?}", config.service.forwarded_header),
    );
    line("files live", lives(&limits.days));
    let pixels = config.files.decode_pixels_max;
    line(
        "thumbnails",
        format!(
            "of pictures up to {pixels} pixels, {} at once",
            config.files.decode_threads
        ),
    );
    let can = |is: bool, what: &str| {
        if is {
            what.to_owned()
        } else {
            format!("no {what}")
        }
    };
    line(
        "ffmpeg gives",
        [
            can(capabilities.frames, "first frames of videos"),
            can(capabilities.to_mp3, "AMR to MP3"),
            can(capabilities.to_amr, "MP3 to AMR"),
        ]
        .join(", "),
    );
    let origins = match &config.origins {
        AllowedOrigins::Any => "any".to_owned(),
        AllowedOrigins::List(origins) => list(origins),
    };
    line("browsers from", origins);
    for tenant in &config.tenants {
        let download = match tenant.download_auth {
            None | Some(DownloadAuthKind::Token) => "a token, and the secret of a restricted file",
            Some(DownloadAuthKind::Secret) => {
                "the secret of a restricted file, an unrestricted one opens by its id"
            }
            Some(DownloadAuthKind::Signed) => {
                "a token, and the secret of a restricted file, for a URL that opens by itself for a while"
            }
        };
        line(
            "tenant",
            format!(
                "{}: uploads need a token, downloads {download}{}",
                tenant.name(),
                differences(tenant)
            ),
        );
    }
    text
}

/// What a tenant has set of its own.
fn differences(tenant: &TenantConfig) -> String {
    let numbers = [
        ("calls_per_second", tenant.calls_per_second.map(u64::from)),
        ("calls_burst", tenant.calls_burst.map(u64::from)),
        ("upload_bytes_max", tenant.upload_bytes_max),
        ("upload_bytes_per_day", tenant.upload_bytes_per_day),
        (
            "user_upload_bytes_per_day",
            tenant.user_upload_bytes_per_day,
        ),
        ("chatfile_days", tenant.chatfile_days.map(u64::from)),
        ("voice_days", tenant.voice_days.map(u64::from)),
        ("image_days", tenant.image_days.map(u64::from)),
        ("video_days", tenant.video_days.map(u64::from)),
        ("shared_days", tenant.shared_days.map(u64::from)),
        ("shared_voice_days", tenant.shared_voice_days.map(u64::from)),
        ("shared_image_days", tenant.shared_image_days.map(u64::from)),
        ("shared_video_days", tenant.shared_video_days.map(u64::from)),
        ("avatar_days", tenant.avatar_days.map(u64::from)),
    ];
    let mut text = String::new();
    for (key, number) in numbers {
        if let Some(number) = number {
            let _ = write!(text, ", {key} = {number}");
        }
    }
    if tenant.strict_restrict_access {
        text.push_str(", restrict-access: false restricts");
    }
    match &tenant.app_id {
        Some(app_id) => {
            let _ = write!(text, "; Lanying's app_id {app_id}: links open with a token");
        }
        None => text.push_str("; not served in the Lanying API"),
    }
    let switches = [
        (tenant.strict_recipients, "for sender and recipient alone"),
        (tenant.hook_url.is_some(), "as the chat backend's hook says"),
        (tenant.sdk_sign_key.is_some(), "with sdk_sign"),
        (
            tenant.image_process_url.is_some() || tenant.video_process_url.is_some(),
            "pictures are made elsewhere",
        ),
    ];
    for (is_on, what) in switches {
        if is_on {
            let _ = write!(text, ", {what}");
        }
    }
    if tenant.tokens_not_before.is_some() || !tenant.users_not_before.is_empty() {
        text.push_str(", some tokens are revoked");
    }
    text
}

fn rate(per_second: u32, burst: u32) -> String {
    match per_second {
        0 => "no limit".into(),
        n => format!("{n} calls a second and {burst} back to back, for each address and interface"),
    }
}

/// `for ever` where all do, else each class that does not.
fn lives(days: &Days) -> String {
    let mut text = String::new();
    for class in Class::ALL {
        if let days @ 1.. = days_of(class, days) {
            let _ = write!(text, "{} {days} days, ", class.name());
        }
    }
    match text.as_str() {
        "" => "for ever".into(),
        _ => format!("{text}others for ever"),
    }
}

fn list(items: &[impl ToString]) -> String {
    match items {
        [] => "none".into(),
        items => items
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// Upload, download and thumbnail, for a shell. The token is made by the command itself: standard output
/// may be a log.
fn commands(config: &Config, file: Option<&Path>, address: SocketAddr) -> String {
    let Some(tenant) = config.tenants.first() else {
        return String::new();
    };
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("chatfiles"));
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut token = format!("{} token --user alice", quoted(&program));
    if let Some(file) = file {
        let _ = write!(token, " --config {}", quoted(&absolute(file)));
    }
    let _ = write!(
        token,
        " --store-path {}",
        quoted(&absolute(&config.store.path))
    );
    let photo = quoted(&photo(&program));
    let reachable = if address.ip().is_unspecified() {
        SocketAddr::new([127, 0, 0, 1].into(), address.port())
    } else {
        address
    };
    let url = format!("http://{reachable}/{}/chatfiles", tenant.name());
    let mut text = format!(
        r#"Paste this into another terminal: it uploads a photo, downloads it and fetches its thumbnail.

  # As clients of Easemob do it.
  TOKEN=$({token})
  ANSWER=$(curl -sS --header "Authorization: Bearer $TOKEN" --header "restrict-access:true" --form file=@{photo} {url}); echo "$ANSWER"
  UUID=$(echo "$ANSWER" | sed -E 's/.*"uuid":"([^"]*)".*/\1/'); SECRET=$(echo "$ANSWER" | sed -E 's/.*"share-secret":"([^"]*)".*/\1/')
  curl -sSL -o copy.jpg -H "share-secret: $SECRET" --header "Authorization: Bearer $TOKEN" -H "Accept: application/octet-stream" {url}/$UUID && cmp copy.jpg {photo} && echo "copy.jpg is the photo, byte for byte"
  curl -sSL -o thumbnail.jpg -H "thumbnail: true" -H "share-secret: $SECRET" -H "Authorization: Bearer $TOKEN" -H "Accept: application/octet-stream" {url}/$UUID && ls -l thumbnail.jpg
"#
    );
    if let Some(app_id) = &tenant.app_id {
        let url = format!("http://{reachable}/file");
        let _ = write!(
            text,
            r#"
  # The same as clients of Lanying do it, and the photo forwarded.
  lanying() {{ curl -sSL -H "access-token: $TOKEN" -H "app_id: {app_id}" "$@"; }}; get() {{ echo "$ANSWER" | sed -E "s/.*\"$1\":\"([^\"]*)\".*/\1/"; }}
  ANSWER=$(lanying "{url}/upload/chat?file_type=102&to_type=1&to_id=bob"); echo "$ANSWER"
  curl -sS --form "OSSAccessKeyId=$(get OSSAccessKeyId)" --form "policy=$(get policy)" --form "signature=$(get signature)" --form callback= --form "key=$(get key)" --form file=@{photo} "$(get upload_url)"; echo
  lanying -o sent.jpg "$(get download_url)" && cmp sent.jpg {photo} && echo "sent.jpg is the photo, byte for byte"
  lanying -o small.jpg "$(get download_url)&image_type=2&thumbnail_strategy=2" && ls -l small.jpg
  lanying "{url}/upload/forward?to_id=carol&file_sign=$(get download_url | sed 's/.*sign=//')"; echo
"#
        );
    }
    text
}

/// The repository's photo, seen from here or from where the program was built.
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

/// For a POSIX shell.
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
