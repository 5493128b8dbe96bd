//! The configuration: flags and environment variables over a TOML file, read into the `Config` structs of the modules.
//!
//! A setting is a field of such a struct, with its bounds and its default. Here is which section each struct is read
//! from, and what settings of different modules need of each other.

mod document;
mod tenants;
mod weak;

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    api,
    auth::{hook, introspection},
    error::{Error, Result},
    files,
    http::{cors::Cors, multipart::FORM_OVERHEAD_BYTES},
    limit::{self, Rate},
    logging, retention,
    server::{cdn, endpoint::At, listener, operator, service, tls::CertificateFiles},
    settings::format_bytes,
    store::local,
    tenant::Limits,
};

use self::document::Document;
pub use self::{
    document::Source,
    tenants::{DownloadAuthKind, TenantConfig},
};

/// All settings of a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`: listeners and connections.
    pub listener: listener::Config,
    /// `tls.certificates`: the certificates of the listeners that speak TLS.
    pub certificates: Vec<CertificateFiles>,
    /// `[operator]`: the operator listener.
    pub operator: operator::Config,
    /// The pipeline of a request.
    pub service: service::Config,
    /// The APIs.
    pub api: api::Config,
    /// `cors.allowed_origins`: the origins whose pages may call.
    pub cors: Cors,
    /// `[store]`: the local store.
    pub store: local::Config,
    /// `[thumbnails]`, `[media]` and others: the use cases.
    pub files: files::Config,
    /// `[hook]`: how the hooks of chat backends are called.
    pub hook: hook::Config,
    /// `[introspection]`: how the introspection servers of chat backends are called.
    pub introspection: introspection::Config,
    /// The rate limiter.
    pub limit: limit::Config,
    /// `[log]`
    pub log: logging::Config,
    /// `[limits]` and `[retention]`: the limits of tenants that set none of their own.
    pub tenant_defaults: Limits,
    /// `[[tenant]]`
    pub tenants: Vec<TenantConfig>,
}

impl Config {
    /// Reads sources, of which an earlier one overrides a later one, and checks all settings.
    ///
    /// # Errors
    /// `InvalidArgument` with the setting, its value, and what is allowed.
    pub fn read(sources: &[Source]) -> Result<Self> {
        let document = Document::parse(sources)?;
        let config = Self::read_document(&document)?;
        document.check_known()?;
        config.check_listeners()?;
        let bytes_max = config.service.upload_bytes_in_flight_max;
        config.check_in_flight(bytes_max, "")?;
        Ok(config)
    }

    fn read_document(document: &Document<'_>) -> Result<Self> {
        let server = document.section("server")?;
        let limits = document.section("limits")?;
        let days = document.section("retention")?;
        let tenant_defaults = Limits {
            retention: tenants::retention(&days, &Limits::default().retention)?,
            ..limits.read()?
        };
        let limit: limit::Config = limits.read()?;
        let mut service = read_service(document, &tenant_defaults)?;
        // Proxies and the backend's own servers stand for many clients.
        let shared = [&service.trusted_proxies[..], &limit.exempt].concat();
        service.upload_share_exempt = shared.clone();
        let api = read_api(document)?;
        Ok(Self {
            listener: listener::Config {
                connections_exempt: shared,
                connection: server.read()?,
                ..server.read()?
            },
            certificates: document.section("tls")?.get_or_default("certificates")?,
            operator: document.section("operator")?.read()?,
            service,
            tenants: tenants::read(document, &limits, &tenant_defaults, &api)?,
            api,
            cors: document
                .section("cors")?
                .get_or_default("allowed_origins")?,
            files: read_files(document)?,
            store: document.section("store")?.read()?,
            hook: document.section("hook")?.read()?,
            introspection: document.section("introspection")?.read()?,
            limit,
            log: document.section("log")?.read()?,
            tenant_defaults,
        })
    }

    /// Checks that the listeners have what their protocols need, and that no two use one address.
    fn check_listeners(&self) -> Result<()> {
        for endpoint in &self.listener.listen {
            let is_proxied = endpoint.is_proxied && matches!(endpoint.at, At::Tcp(_));
            let is_operator = |own: SocketAddr| own.port() != 0 && endpoint.at == At::Tcp(own);
            let why = if is_proxied && self.listener.proxies.is_empty() {
                "needs networks of proxies, but server.proxy_protocol_from is empty"
            } else if endpoint.is_tls && self.certificates.is_empty() {
                "needs a certificate, but tls.certificates is empty"
            } else if self.operator.listen.is_some_and(is_operator) {
                "is the address of operator.listen, too: choose another one"
            } else {
                continue;
            };
            let text = format!("server.listen: \"{endpoint}\" {why}");
            return Err(Error::invalid(text));
        }
        Ok(())
    }

    /// Checks that the largest upload of a tenant fits into `limits.upload_bytes_in_flight_max`; a client would
    /// otherwise be told to retry for ever. `note` says in the message where the value `bytes_max` is from.
    ///
    /// # Errors
    /// `InvalidArgument` with the smallest value that is enough.
    pub fn check_in_flight(&self, bytes_max: u64, note: &str) -> Result<()> {
        let tenants = self.tenants.iter();
        let largest = tenants.map(|tenant| tenant.limits.upload_bytes_max).max();
        let needed = largest.unwrap_or(0).saturating_add(FORM_OVERHEAD_BYTES);
        if bytes_max >= needed {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "limits.upload_bytes_in_flight_max = \"{}\"{note}: must be at least \"{}\": the largest upload_bytes_max of \
             a tenant, and {} for its form",
            format_bytes(bytes_max),
            format_bytes(needed),
            format_bytes(FORM_OVERHEAD_BYTES)
        )))
    }

    /// How long files are kept, by tenant.
    pub fn retention(&self) -> retention::Policy {
        let of_tenant = |tenant: &TenantConfig| (tenant.name(), tenant.limits.retention);
        retention::Policy {
            days_by_tenant: self.tenants.iter().map(of_tenant).collect(),
            days_default: self.tenant_defaults.retention,
        }
    }

    /// The directory of keys and generated secrets.
    pub fn keys_path(&self) -> PathBuf {
        self.store.path.join("keys")
    }

    /// The settings with weak secrets, each with the reason.
    pub fn weak_secrets(&self) -> Vec<String> {
        weak::secrets(self)
    }

    /// Logs a warning for each weak secret.
    pub fn warn_of_weak_secrets(&self) {
        for secret in self.weak_secrets() {
            tracing::warn!(secret, "a secret in the configuration is easy to guess");
        }
    }
}

/// The pipeline's settings. [`Config::read_document`] sets the networks that several modules share.
fn read_service(document: &Document<'_>, defaults: &Limits) -> Result<service::Config> {
    let cdn: cdn::Config = document.section("cdn")?.read()?;
    let landing_page = document.section("server")?.get("landing_page")?;
    Ok(service::Config {
        landing_page: landing_page.unwrap_or(service::Config::default().landing_page),
        default_rate: Rate::from(defaults),
        cdn_secret: cdn.secret()?,
        body_pace: document.section("server")?.read()?,
        access: document.section("log")?.get_or_default("access_sample")?,
        ..document.section("limits")?.read()?
    })
}

fn read_api(document: &Document<'_>) -> Result<api::Config> {
    let limits = document.section("limits")?;
    let status = limits.get_with("status", api::limit_status_429)?;
    Ok(api::Config {
        public_url: document.section("server")?.get("public_url")?,
        limit_status_429: status.unwrap_or_default(),
        ..document.section("cdn")?.read()?
    })
}

fn read_files(document: &Document<'_>) -> Result<files::Config> {
    Ok(files::Config {
        open: document.section("store")?.read()?,
        parts: document.section("limits")?.read()?,
        ffmpeg: document.section("media")?.read()?,
        ..document.section("thumbnails")?.read()?
    })
}
