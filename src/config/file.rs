//! The TOML file as it is written: sections, keys, and errors that name them. Nothing is checked here but
//! form; `validate` in `config.rs` does the rest.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::TenantConfig;
use crate::{
    error::{Error, Result},
    http::forwarded::ForwardedHeader,
    logging,
    secret::SecretKey,
    server::tls::CertificateFiles,
    store::local::Durability,
};

/// A file of this size is no configuration.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The file, as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// `[server]`
    pub server: ServerSection,
    /// `[tls]`
    pub tls: TlsSection,
    /// `[cdn]`
    pub cdn: CdnSection,
    /// `[operator]`
    pub operator: OperatorSection,
    /// `[store]`
    pub store: StoreSection,
    /// `[limits]`
    pub limits: LimitsSection,
    /// `[retention]`
    pub retention: RetentionSection,
    /// `[thumbnails]`
    pub thumbnails: ThumbnailsSection,
    /// `[media]`
    pub media: MediaSection,
    /// `[hook]`
    pub hook: HookSection,
    /// `[cors]`
    pub cors: CorsSection,
    /// `[log]`
    pub log: LogSection,
    /// `[[tenant]]`
    pub tenant: Vec<TenantConfig>,
}

/// `[server]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the keys are documented once, in docs/configuration.md"
)]
pub struct ServerSection {
    pub listen: Option<Vec<String>>,
    pub public_url: Option<String>,
    pub proxy_protocol_from: Option<Vec<String>>,
    pub connections_max: Option<usize>,
    pub connections_per_address_max: Option<usize>,
    pub header_timeout_seconds: Option<u64>,
    pub idle_timeout_seconds: Option<u64>,
    pub body_idle_timeout_seconds: Option<u64>,
    pub body_bytes_per_second_min: Option<u64>,
    pub request_timeout_seconds: Option<u64>,
    pub write_stall_timeout_seconds: Option<u64>,
    pub shutdown_grace_seconds: Option<u64>,
    pub handover_grace_seconds: Option<u64>,
}

/// `[tls]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the keys are documented once, in docs/configuration.md"
)]
pub struct TlsSection {
    pub certificates: Option<Vec<CertificateFiles>>,
}

/// `[cdn]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the keys are documented once, in docs/configuration.md"
)]
pub struct CdnSection {
    pub url: Option<String>,
    pub url_ttl_seconds: Option<i64>,
    pub secret: Option<SecretKey>,
    pub secret_header: Option<String>,
}

/// `[operator]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the keys are documented once, in docs/configuration.md"
)]
pub struct OperatorSection {
    pub listen: Option<String>,
}

/// `[store]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the keys are documented once, in docs/configuration.md"
)]
pub struct StoreSection {
    pub path: Option<PathBuf>,
    pub durability: Option<Durability>,
    pub free_space_min_bytes: Option<u64>,
    pub open_objects_max: Option<u64>,
}

/// `[limits]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the keys are documented once, in docs/configuration.md"
)]
pub struct LimitsSection {
    pub upload_bytes_max: Option<u64>,
    pub upload_bytes_in_flight_max: Option<u64>,
    pub upload_bytes_per_day: Option<u64>,
    pub user_upload_bytes_per_day: Option<u64>,
    pub part_uploads_max: Option<u64>,
    pub user_part_uploads_max: Option<u64>,
    pub calls_per_second: Option<u32>,
    pub calls_burst: Option<u32>,
    pub exempt: Option<Vec<String>>,
    pub trusted_proxies: Option<Vec<String>>,
    pub forwarded_header: Option<ForwardedHeader>,
    pub addresses_max: Option<usize>,
    pub status: Option<u16>,
}

/// `[retention]`; a tenant's own stand among its other keys
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the keys are documented once, in docs/configuration.md"
)]
pub struct RetentionSection {
    pub chatfile_days: Option<u32>,
    pub voice_days: Option<u32>,
    pub image_days: Option<u32>,
    pub video_days: Option<u32>,
    pub shared_days: Option<u32>,
    pub shared_voice_days: Option<u32>,
    pub shared_image_days: Option<u32>,
    pub shared_video_days: Option<u32>,
    pub avatar_days: Option<u32>,
}

/// `[thumbnails]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the keys are documented once, in docs/configuration.md"
)]
pub struct ThumbnailsSection {
    pub cache_bytes_max: Option<u64>,
    pub threads: Option<usize>,
    pub queue_max: Option<usize>,
    pub decode_bytes_max: Option<u64>,
    pub pixels_max: Option<u64>,
    pub failure_memory_seconds: Option<u64>,
}

/// `[media]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the keys are documented once, in docs/configuration.md"
)]
pub struct MediaSection {
    pub ffmpeg: Option<PathBuf>,
    pub timeout_seconds: Option<u64>,
    pub memory_bytes_max: Option<u64>,
    pub processes_max: Option<usize>,
    pub queue_max: Option<usize>,
    pub voice_seconds_max: Option<u64>,
}

/// `[hook]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the keys are documented once, in docs/configuration.md"
)]
pub struct HookSection {
    pub timeout_seconds: Option<u64>,
    pub cache_seconds: Option<u64>,
    pub cache_entries_max: Option<usize>,
    pub in_flight_max: Option<usize>,
    pub waiting_max: Option<usize>,
}

/// `[cors]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the keys are documented once, in docs/configuration.md"
)]
pub struct CorsSection {
    pub allowed_origins: Option<Vec<String>>,
}

/// `[log]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the keys are documented once, in docs/configuration.md"
)]
pub struct LogSection {
    pub level: Option<String>,
    pub format: Option<logging::Format>,
    pub access_sample: Option<u32>,
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    /// `InvalidArgument` with the file, the line and the key.
    pub fn read(path: &Path) -> Result<Self> {
        let at = |what: String| Error::invalid(format!("{}: {what}", path.display()));
        let metadata = fs::metadata(path).map_err(|error| at(error.to_string()))?;
        if metadata.len() > FILE_BYTES_MAX {
            return Err(at(format!(
                "{} bytes, at most {FILE_BYTES_MAX} are allowed",
                metadata.len()
            )));
        }
        let text = fs::read_to_string(path).map_err(|error| at(error.to_string()))?;
        Self::parse(&text).map_err(|error| at(error.public_text().unwrap_or_default().to_owned()))
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// `InvalidArgument` with the line and the key.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| Error::invalid(describe(text, &error)))
    }
}

/// Line and key of a TOML error, without the text of the line: it may be a secret.
fn describe(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map(|before| before.matches('\n').count() + 1);
    let key = before.and_then(|before| {
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let key = text[start..].lines().next()?.split_once('=')?.0.trim();
        Some(key.to_owned())
    });
    let message = error.message().lines().collect::<Vec<_>>().join(" ");
    match (line, key) {
        (Some(line), Some(key)) => format!("line {line}, {key}: {message}"),
        (Some(line), None) => format!("line {line}: {message}"),
        _ => message,
    }
}
