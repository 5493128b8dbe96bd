//! What a starting server prints: its address, what is in force, and commands that work when pasted.

use std::{
    fmt::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::commands::is_file;
use crate::{
    config::{Config, TenantConfig},
    http::cors::AllowedOrigins,
    tenant::DownloadAuth,
};

/// The photo of the repository.
const PHOTO: &str = "tests/data/photo.jpg";

/// Everything. The first line is for programs that wait for it.
pub(super) fn text(config: &Config, file: Option<&Path>, addresses: &[SocketAddr]) -> String {
    let mut text = String::new();
    for address in addresses {
        let _ = writeln!(text, "listening on http://{address}");
    }
    let _ = writeln!(text, "\n{}", policy(config));
    if let Some(address) = addresses.first() {
        text.push_str(&commands(config, file, *address));
    }
    text
}

/// What is in force: what is let in, and what is refused.
pub(super) fn policy(config: &Config) -> String {
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
    line(
        "free space at least",
        format!(
            "{} bytes, below it uploads get 507",
            config.store.free_space_min_bytes
        ),
    );
    let limits = &config.tenant_defaults;
    line("file at most", format!("{} bytes", limits.upload_bytes_max));
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
    line("chat files live", days(limits.chatfile_days));
    let pixels = config.files.decode_pixels_max;
    line(
        "thumbnails",
        format!(
            "of pictures up to {pixels} pixels, {} at once",
            config.files.decode_threads
        ),
    );
    let origins = match &config.origins {
        AllowedOrigins::Any => "any".to_owned(),
        AllowedOrigins::List(origins) => list(origins),
    };
    line("browsers from", origins);
    for tenant in &config.tenants {
        let download = match tenant.download_auth {
            DownloadAuth::Token => "a token, and the secret of a restricted file",
            DownloadAuth::Secret => {
                "the secret of a restricted file, an unrestricted one opens by its id"
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
        ("chatfile_days", tenant.chatfile_days.map(u64::from)),
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

fn days(days: u32) -> String {
    match days {
        0 => "for ever".into(),
        n => format!("{n} days"),
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
    format!(
        r#"Paste this into another terminal: it uploads a photo, downloads it and fetches its thumbnail.

  TOKEN=$({token})
  ANSWER=$(curl -sS --header "Authorization: Bearer $TOKEN" --header "restrict-access:true" --form file=@{photo} {url}); echo "$ANSWER"
  UUID=$(echo "$ANSWER" | sed -E 's/.*"uuid":"([^"]*)".*/\1/'); SECRET=$(echo "$ANSWER" | sed -E 's/.*"share-secret":"([^"]*)".*/\1/')
  curl -sS -o copy.jpg -H "share-secret: $SECRET" --header "Authorization: Bearer $TOKEN" -H "Accept: application/octet-stream" {url}/$UUID && cmp copy.jpg {photo} && echo "copy.jpg is the photo, byte for byte"
  curl -sS -o thumbnail.jpg -H "thumbnail: true" -H "share-secret: $SECRET" -H "Authorization: Bearer $TOKEN" -H "Accept: application/octet-stream" {url}/$UUID && ls -l thumbnail.jpg
"#
    )
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
