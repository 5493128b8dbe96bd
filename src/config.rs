//! The configuration: a TOML file, then the environment, then flags (`cli.rs`), made into one validated
//! struct of the modules' own `Config`s.
//!
//! Unknown keys are errors that name the key; a bad value says which key, what it was and what is allowed.

mod file;
mod limits;
mod listeners;
mod tenants;
mod values;
mod weak;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    api,
    auth::hook,
    error::Result,
    files,
    http::{body::Pace, cors::AllowedOrigins},
    limit::{self, Rate},
    logging, retention,
    server::{access::Sample, listener, service, tls::CertificateFiles},
    store::local,
    tenant::Days,
};

pub(crate) use self::values::bad;
pub use self::{
    file::File,
    tenants::{DownloadAuthKind, TenantConfig, existing_tenant, tenants, tenants_after},
};
use self::{
    file::{HookSection, LogSection, MediaSection, RetentionSection, ThumbnailsSection},
    values::{base_url, networks, origins, range, seconds},
};

/// Everything that is in force.
#[derive(Debug, Clone)]
pub struct Config {
    /// Listeners and connections.
    pub listener: listener::Config,
    /// The certificates of the listeners that speak TLS.
    pub certificates: Vec<CertificateFiles>,
    /// Where the operator's listener is; none where it is off.
    pub operator: Option<SocketAddr>,
    /// The pipeline.
    pub service: service::Config,
    /// The dialects.
    pub api: api::Config,
    /// Origins that browsers may call from.
    pub origins: AllowedOrigins,
    /// The embedded store.
    pub store: local::Config,
    /// The use cases.
    pub files: files::Config,
    /// The chat backends' hooks.
    pub hook: hook::Config,
    /// The limiter.
    pub limit: limit::Config,
    /// Logging.
    pub log: logging::Config,
    /// Numbers of tenants that set none of their own.
    pub tenant_defaults: crate::tenant::Limits,
    /// Tenants, secrets not yet filled in.
    pub tenants: Vec<TenantConfig>,
}

impl File {
    /// Checks every value and fills in the defaults.
    ///
    /// # Errors
    /// `InvalidArgument` with the key, the value, and what is allowed.
    pub fn validate(self) -> Result<Config> {
        let Self {
            server,
            tls,
            cdn,
            operator,
            store,
            limits,
            retention,
            thumbnails,
            media,
            hook,
            cors,
            log,
            tenant,
        } = self;
        let tenant_defaults = crate::tenant::Limits {
            calls_per_second: range(
                "limits.calls_per_second",
                limits.calls_per_second,
                30,
                0..=1_000_000,
            )?,
            calls_burst: range("limits.calls_burst", limits.calls_burst, 30, 1..=1_000_000)?,
            upload_bytes_max: range(
                "limits.upload_bytes_max",
                limits.upload_bytes_max,
                10 << 20,
                UPLOAD_BYTES,
            )?,
            upload_bytes_per_day: limits::bytes_per_day(
                "limits.upload_bytes_per_day",
                limits.upload_bytes_per_day,
            )?,
            user_upload_bytes_per_day: limits::bytes_per_day(
                "limits.user_upload_bytes_per_day",
                limits.user_upload_bytes_per_day,
            )?,
            days: days("retention", &retention, &Days::default())?,
        };
        let limit_defaults = limit::Config::default();
        let cdn = listeners::cdn(cdn)?;
        let mut tenants = tenants::validate(tenant)?;
        if cdn.url.is_some() {
            // Whoever names a CDN wants files to come from there.
            for tenant in &mut tenants {
                tenant.download_auth.get_or_insert(DownloadAuthKind::Signed);
            }
        }
        let mut listener = listeners::public(&server)?;
        let trusted_proxies = networks("limits.trusted_proxies", limits.trusted_proxies)?;
        let exempt = networks("limits.exempt", limits.exempt)?;
        // Proxies and the backend's own servers stand for many clients.
        let shared = [&trusted_proxies[..], &exempt].concat();
        listener.connections_exempt = shared.clone();
        let certificates = listeners::certificates(tls, &listener.listen)?;
        Ok(Config {
            operator: listeners::operator(operator.listen, &listener.listen)?,
            listener,
            certificates,
            service: service::Config {
                upload_share_exempt: shared,
                trusted_proxies,
                forwarded_header: limits.forwarded_header.unwrap_or_default(),
                default_rate: Rate {
                    per_second: tenant_defaults.calls_per_second,
                    burst: tenant_defaults.calls_burst,
                },
                upload_bytes_in_flight_max: limits::in_flight(
                    limits.upload_bytes_in_flight_max,
                    &tenants,
                    &tenant_defaults,
                )?,
                cdn_secret: cdn.secret,
                body_pace: Pace {
                    idle_timeout: seconds(
                        "server.body_idle_timeout_seconds",
                        server.body_idle_timeout_seconds,
                        60,
                    )?,
                    bytes_per_second_min: range(
                        "server.body_bytes_per_second_min",
                        server.body_bytes_per_second_min,
                        1000,
                        0..=1_000_000,
                    )?,
                    whole_timeout: seconds(
                        "server.request_timeout_seconds",
                        server.request_timeout_seconds,
                        3600,
                    )?,
                },
                access: range("log.access_sample", log.access_sample, 0, 0..=1_000_000)
                    .map(Sample::new)?,
            },
            api: api::Config {
                public_url: server
                    .public_url
                    .map(|url| base_url("server.public_url", url))
                    .transpose()?,
                cdn_url: cdn.url,
                url_ttl_secs: cdn.url_ttl_secs,
                limit_status_429: match limits.status {
                    None | Some(503) => false,
                    Some(429) => true,
                    Some(other) => return Err(bad("limits.status", other, "503 or 429")),
                },
            },
            origins: origins(cors.allowed_origins)?,
            store: local::Config {
                path: store_path(store.path)?,
                durability: store.durability.unwrap_or_default(),
                free_space_min_bytes: store.free_space_min_bytes.unwrap_or(1 << 30),
            },
            files: limits::part_uploads(
                files_config(store.open_objects_max, &thumbnails, media)?,
                limits.part_uploads_max,
                limits.user_part_uploads_max,
            )?,
            hook: hook_config(&hook)?,
            limit: limit::Config {
                addresses_max: range(
                    "limits.addresses_max",
                    limits.addresses_max,
                    limit_defaults.addresses_max,
                    1..=16_777_216,
                )?,
                exempt,
            },
            log: log_config(log)?,
            tenants,
            tenant_defaults,
        })
    }
}

fn store_path(path: Option<PathBuf>) -> Result<PathBuf> {
    match path {
        None => Ok("chatfiles-data".into()),
        Some(path) if path.as_os_str().is_empty() => {
            Err(bad("store.path", "\"\"", "a directory, or left out"))
        }
        Some(path) => Ok(path),
    }
}

/// The contract's documented range for raising the limit ends at 200 MB.
const UPLOAD_BYTES: std::ops::RangeInclusive<u64> = 1..=200 << 20;
/// The days of a section over those of `above`. What is sent in a chat lives as the section's
/// `chatfile_days` say unless it has days of its own, what is shared as `shared_days` say.
fn days(section: &str, days: &RetentionSection, above: &Days) -> Result<Days> {
    let checked = |key: &str, own: Option<u32>, or: Option<u32>, above: u32| {
        range(&format!("{section}.{key}"), own, or.unwrap_or(above), DAYS)
    };
    let (chat, shared) = (days.chatfile_days, days.shared_days);
    Ok(Days {
        chatfile: checked("chatfile_days", chat, None, above.chatfile)?,
        voice: checked("voice_days", days.voice_days, chat, above.voice)?,
        image: checked("image_days", days.image_days, chat, above.image)?,
        video: checked("video_days", days.video_days, chat, above.video)?,
        shared: checked("shared_days", shared, None, above.shared)?,
        shared_voice: checked(
            "shared_voice_days",
            days.shared_voice_days,
            shared,
            above.shared_voice,
        )?,
        shared_image: checked(
            "shared_image_days",
            days.shared_image_days,
            shared,
            above.shared_image,
        )?,
        shared_video: checked(
            "shared_video_days",
            days.shared_video_days,
            shared,
            above.shared_video,
        )?,
        avatar: checked("avatar_days", days.avatar_days, None, above.avatar)?,
    })
}

/// A hundred years.
const DAYS: std::ops::RangeInclusive<u32> = 0..=36_500;

fn files_config(
    open_objects_max: Option<u64>,
    thumbnails: &ThumbnailsSection,
    media: MediaSection,
) -> Result<files::Config> {
    let defaults = files::Config::default();
    Ok(files::Config {
        open_objects_max: range(
            "store.open_objects_max",
            open_objects_max,
            defaults.open_objects_max,
            1..=1 << 20,
        )?,
        open_bytes_max: defaults.open_bytes_max,
        derived_bytes_max: range(
            "thumbnails.cache_bytes_max",
            thumbnails.cache_bytes_max,
            defaults.derived_bytes_max,
            1 << 20..=1 << 40,
        )?,
        decode_threads: range(
            "thumbnails.threads",
            thumbnails.threads,
            defaults.decode_threads,
            1..=256,
        )?,
        decode_queue_max: range(
            "thumbnails.queue_max",
            thumbnails.queue_max,
            defaults.decode_queue_max,
            1..=100_000,
        )?,
        decode_bytes_max: range(
            "thumbnails.decode_bytes_max",
            thumbnails.decode_bytes_max,
            defaults.decode_bytes_max,
            1 << 20..=1 << 40,
        )?,
        decode_pixels_max: range(
            "thumbnails.pixels_max",
            thumbnails.pixels_max,
            defaults.decode_pixels_max,
            1..=1_000_000_000,
        )?,
        failure_memory: seconds(
            "thumbnails.failure_memory_seconds",
            thumbnails.failure_memory_seconds,
            60,
        )?,
        ffmpeg: ffmpeg_config(media)?,
        ..defaults
    })
}

fn ffmpeg_config(media: MediaSection) -> Result<files::FfmpegConfig> {
    let defaults = files::FfmpegConfig::default();
    Ok(files::FfmpegConfig {
        program: media.ffmpeg.unwrap_or(defaults.program),
        timeout: seconds(
            "media.timeout_seconds",
            media.timeout_seconds,
            defaults.timeout.as_secs(),
        )?,
        memory_bytes_max: range(
            "media.memory_bytes_max",
            media.memory_bytes_max,
            defaults.memory_bytes_max,
            256 << 20..=1 << 40,
        )?,
        processes_max: range(
            "media.processes_max",
            media.processes_max,
            defaults.processes_max,
            1..=256,
        )?,
        queue_max: range(
            "media.queue_max",
            media.queue_max,
            defaults.queue_max,
            1..=100_000,
        )?,
        voice_duration_max: seconds(
            "media.voice_seconds_max",
            media.voice_seconds_max,
            defaults.voice_duration_max.as_secs(),
        )?,
    })
}

fn hook_config(hook: &HookSection) -> Result<hook::Config> {
    let defaults = hook::Config::default();
    Ok(hook::Config {
        timeout: seconds(
            "hook.timeout_seconds",
            hook.timeout_seconds,
            defaults.timeout.as_secs(),
        )?,
        cache: range(
            "hook.cache_seconds",
            hook.cache_seconds,
            defaults.cache.as_secs(),
            0..=3600,
        )
        .map(Duration::from_secs)?,
        cache_entries_max: range(
            "hook.cache_entries_max",
            hook.cache_entries_max,
            defaults.cache_entries_max,
            1..=10_000_000,
        )?,
        in_flight_max: range(
            "hook.in_flight_max",
            hook.in_flight_max,
            defaults.in_flight_max,
            1..=64,
        )?,
        waiting_max: range(
            "hook.waiting_max",
            hook.waiting_max,
            defaults.waiting_max,
            0..=100_000,
        )?,
    })
}

fn log_config(log: LogSection) -> Result<logging::Config> {
    let level = log.level.unwrap_or_else(|| "info".into());
    logging::check_level(&level).map_err(|why| {
        bad(
            "log.level",
            format!("{level}: {why}"),
            "error, warn, info, debug, trace or off, or several as in warn,access=info",
        )
    })?;
    Ok(logging::Config {
        level,
        format: log.format.unwrap_or_default(),
    })
}

impl Config {
    /// How long files live, by tenant.
    pub fn retention(&self) -> retention::Policy {
        retention::Policy {
            days_by_tenant: self
                .tenants
                .iter()
                .map(|tenant| (tenant.name(), tenant.days(&self.tenant_defaults.days)))
                .collect(),
            days_default: self.tenant_defaults.days,
        }
    }

    /// Where keys and generated secrets lie.
    pub fn keys_path(&self) -> PathBuf {
        self.store.path.join("keys")
    }
}
