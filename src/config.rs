//! The configuration: a TOML file, then the environment, then flags (`cli.rs`), made into one validated
//! struct of the modules' own `Config`s.
//!
//! Unknown keys are errors that name the key; a bad value says which key, what it was and what is allowed.

mod file;
mod tenants;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

use crate::{
    api,
    error::{Error, Result},
    files,
    http::cors::AllowedOrigins,
    limit::{self, Rate},
    logging, retention,
    server::{listener, service},
    store::local,
};

use self::file::{LogSection, ServerSection, ThumbnailsSection};
pub use self::{
    file::File,
    tenants::{TenantConfig, tenants},
};

/// Everything that is in force.
#[derive(Debug, Clone)]
pub struct Config {
    /// Listeners and connections.
    pub listener: listener::Config,
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
            store,
            limits,
            retention,
            thumbnails,
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
            chatfile_days: range("retention.chatfile_days", retention.chatfile_days, 0, DAYS)?,
        };
        let limit_defaults = limit::Config::default();
        Ok(Config {
            listener: listener_config(&server)?,
            service: service::Config {
                trusted_proxies: networks("limits.trusted_proxies", limits.trusted_proxies)?,
                forwarded_header: limits.forwarded_header.unwrap_or_default(),
                default_rate: Rate {
                    per_second: tenant_defaults.calls_per_second,
                    burst: tenant_defaults.calls_burst,
                },
                body_idle_timeout: seconds(
                    "server.body_idle_timeout_seconds",
                    server.body_idle_timeout_seconds,
                    30,
                )?,
            },
            api: api::Config {
                public_url: server.public_url.map(public_url).transpose()?,
                limit_status_429: match limits.status {
                    None | Some(503) => false,
                    Some(429) => true,
                    Some(other) => return Err(bad("limits.status", other, "503 or 429")),
                },
            },
            origins: origins(cors.allowed_origins)?,
            store: local::Config {
                path: store
                    .path
                    .unwrap_or_else(|| PathBuf::from("chatfiles-data")),
                durability: store.durability.unwrap_or_default(),
                free_space_min_bytes: store.free_space_min_bytes.unwrap_or(1 << 30),
            },
            files: files_config(store.open_objects_max, &thumbnails)?,
            limit: limit::Config {
                addresses_max: range(
                    "limits.addresses_max",
                    limits.addresses_max,
                    limit_defaults.addresses_max,
                    1..=16_777_216,
                )?,
                exempt: networks("limits.exempt", limits.exempt)?,
            },
            log: log_config(log)?,
            tenants: tenants::validate(tenant)?,
            tenant_defaults,
        })
    }
}

/// The contract's documented range for raising the limit ends at 200 MB.
const UPLOAD_BYTES: std::ops::RangeInclusive<u64> = 1..=200 << 20;
/// A hundred years.
const DAYS: std::ops::RangeInclusive<u32> = 0..=36_500;

fn listener_config(server: &ServerSection) -> Result<listener::Config> {
    let mut config = listener::Config::default();
    if let Some(listen) = &server.listen {
        let address = |text: &String| -> Result<SocketAddr> {
            text.parse().map_err(|_| {
                bad(
                    "server.listen",
                    text,
                    "an address and a port, such as 127.0.0.1:8080",
                )
            })
        };
        config.listen = listen.iter().map(address).collect::<Result<_>>()?;
        if config.listen.is_empty() {
            return Err(bad("server.listen", "[]", "at least one address"));
        }
    }
    config.connections_max = range(
        "server.connections_max",
        server.connections_max,
        config.connections_max,
        1..=1_000_000,
    )?;
    config.shutdown_grace = seconds(
        "server.shutdown_grace_seconds",
        server.shutdown_grace_seconds,
        30,
    )?;
    let connection = &mut config.connection;
    connection.header_timeout = seconds(
        "server.header_timeout_seconds",
        server.header_timeout_seconds,
        10,
    )?;
    connection.idle_timeout = seconds(
        "server.idle_timeout_seconds",
        server.idle_timeout_seconds,
        90,
    )?;
    connection.write_stall_timeout = seconds(
        "server.write_stall_timeout_seconds",
        server.write_stall_timeout_seconds,
        30,
    )?;
    Ok(config)
}

fn files_config(
    open_objects_max: Option<u64>,
    thumbnails: &ThumbnailsSection,
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
    })
}

fn log_config(log: LogSection) -> Result<logging::Config> {
    let level = log.level.unwrap_or_else(|| "info".into());
    logging::check_level(&level).map_err(|why| {
        bad(
            "log.level",
            format!("{level}: {why}"),
            "error, warn, info, debug, trace",
        )
    })?;
    Ok(logging::Config {
        level,
        format: log.format.unwrap_or_default(),
    })
}

fn origins(allowed: Option<Vec<String>>) -> Result<AllowedOrigins> {
    let Some(allowed) = allowed else {
        return Ok(AllowedOrigins::Any);
    };
    if allowed.iter().any(|origin| origin == "*") {
        return Ok(AllowedOrigins::Any);
    }
    for origin in &allowed {
        let is_origin = origin.split_once("://").is_some_and(|(scheme, host)| {
            !scheme.is_empty() && !host.is_empty() && !host.contains('/') && host.is_ascii()
        });
        if !is_origin {
            return Err(bad(
                "cors.allowed_origins",
                origin,
                "origins such as https://chat.example.com, or *",
            ));
        }
    }
    Ok(AllowedOrigins::List(allowed))
}

/// `http(s)://host[:port]`, without a path: clients append `/{org}/{app}/…`.
fn public_url(text: String) -> Result<String> {
    let uri: Option<hyper::Uri> = text.parse().ok();
    let is_base = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri
                .authority()
                .is_some_and(|authority| !authority.as_str().contains('@'))
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
    });
    if !is_base {
        return Err(bad(
            "server.public_url",
            text,
            "http://host[:port] or https://host[:port], without a path",
        ));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn networks(key: &str, texts: Option<Vec<String>>) -> Result<Vec<IpNet>> {
    let network = |text: &String| {
        let net: Option<IpNet> = text.parse().ok().or_else(|| {
            text.parse()
                .ok()
                .map(|address: std::net::IpAddr| address.into())
        });
        // Addresses are compared as IPv4 where they are mapped: such a network would never match.
        net.filter(|net| !matches!(net, IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some()))
            .ok_or_else(|| {
                bad(
                    key,
                    text,
                    "addresses or networks such as 10.0.0.0/8 or 2001:db8::/32",
                )
            })
    };
    texts.unwrap_or_default().iter().map(network).collect()
}

fn seconds(key: &str, value: Option<u64>, default: u64) -> Result<Duration> {
    range(key, value, default, 1..=86_400).map(Duration::from_secs)
}

fn range<T>(
    key: &str,
    value: Option<T>,
    default: T,
    allowed: std::ops::RangeInclusive<T>,
) -> Result<T>
where
    T: PartialOrd + std::fmt::Display,
{
    let value = value.unwrap_or(default);
    if allowed.contains(&value) {
        return Ok(value);
    }
    let allowed = format!("a number from {} to {}", allowed.start(), allowed.end());
    Err(bad(key, value, &allowed))
}

/// The message for a bad value.
pub(crate) fn bad(key: &str, value: impl std::fmt::Display, allowed: &str) -> Error {
    Error::invalid(format!("{key} = {value}: must be {allowed}"))
}

impl Config {
    /// How long files live, by tenant.
    pub fn retention(&self) -> retention::Policy {
        retention::Policy {
            days_by_tenant: self
                .tenants
                .iter()
                .map(|tenant| {
                    (
                        tenant.name(),
                        tenant
                            .chatfile_days
                            .unwrap_or(self.tenant_defaults.chatfile_days),
                    )
                })
                .collect(),
            days_default: self.tenant_defaults.chatfile_days,
        }
    }

    /// Where keys and generated secrets lie.
    pub fn keys_path(&self) -> PathBuf {
        self.store.path.join("keys")
    }
}
