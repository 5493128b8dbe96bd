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
    auth::hook,
    error::{Error, Result},
    files,
    http::{cors::AllowedOrigins, multipart::FORM_OVERHEAD_BYTES},
    limit::{self, Rate},
    logging, retention,
    server::{
        cdn,
        endpoint::{At, Endpoint},
        listener, operator, service,
        tls::CertificateFiles,
    },
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
    /// `operator.listen`: the address of the operator listener, if there is one.
    pub operator: Option<SocketAddr>,
    /// The pipeline of a request.
    pub service: service::Config,
    /// The APIs.
    pub api: api::Config,
    /// `cors.allowed_origins`: the origins whose pages may call.
    pub origins: AllowedOrigins,
    /// `[store]`: the local store.
    pub store: local::Config,
    /// `[thumbnails]`, `[media]` and others: the use cases.
    pub files: files::Config,
    /// `[hook]`: how the hooks of chat backends are called.
    pub hook: hook::Config,
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
        let cdn = document.section("cdn")?;
        let store = document.section("store")?;
        let limits = document.section("limits")?;
        let log = document.section("log")?;
        let tenant_defaults = Limits {
            retention: tenants::retention(
                &document.section("retention")?,
                &Limits::default().retention,
            )?,
            ..limits.read()?
        };
        let limiter: limit::Config = limits.read()?;
        let proxies: service::Config = limits.read()?;
        // Proxies and the backend's own servers stand for many clients.
        let shared = [&proxies.trusted_proxies[..], &limiter.exempt].concat();
        let api = api::Config {
            public_url: server.get("public_url")?,
            limit_status_429: limits
                .get_with("status", api::limit_status_429)?
                .unwrap_or_default(),
            ..cdn.read()?
        };
        Ok(Self {
            listener: listener::Config {
                connections_exempt: shared.clone(),
                connection: server.read()?,
                ..server.read()?
            },
            certificates: document
                .section("tls")?
                .get("certificates")?
                .unwrap_or_default(),
            operator: document
                .section("operator")?
                .get_with("listen", operator::address)?
                .flatten(),
            service: service::Config {
                default_rate: Rate::from(&tenant_defaults),
                upload_share_exempt: shared,
                cdn_secret: cdn.read::<cdn::Config>()?.secret()?,
                body_pace: server.read()?,
                access: log.get("access_sample")?.unwrap_or_default(),
                ..proxies
            },
            tenants: tenants::read(document, &limits, &tenant_defaults, &api)?,
            api,
            origins: document
                .section("cors")?
                .get("allowed_origins")?
                .unwrap_or_default(),
            files: files::Config {
                open: store.read()?,
                parts: limits.read()?,
                ffmpeg: document.section("media")?.read()?,
                ..document.section("thumbnails")?.read()?
            },
            store: store.read()?,
            hook: document.section("hook")?.read()?,
            limit: limiter,
            log: log.read()?,
            tenant_defaults,
        })
    }

    /// Checks that the listeners have what their protocols need, and that no two use one address.
    fn check_listeners(&self) -> Result<()> {
        let refuse = |endpoint: &Endpoint, why: &str| {
            Err(Error::invalid(format!(
                "server.listen: \"{endpoint}\" {why}"
            )))
        };
        for endpoint in &self.listener.listen {
            if endpoint.is_proxied
                && matches!(endpoint.at, At::Tcp(_))
                && self.listener.proxies.is_empty()
            {
                return refuse(
                    endpoint,
                    "needs networks of proxies, but server.proxy_protocol_from is empty",
                );
            }
            if endpoint.is_tls && self.certificates.is_empty() {
                return refuse(
                    endpoint,
                    "needs a certificate, but tls.certificates is empty",
                );
            }
            if self
                .operator
                .is_some_and(|own| own.port() != 0 && endpoint.at == At::Tcp(own))
            {
                return refuse(
                    endpoint,
                    "is the address of operator.listen, too: choose another one",
                );
            }
        }
        Ok(())
    }

    /// Checks that the largest upload of a tenant fits into `limits.upload_bytes_in_flight_max`; a client would
    /// otherwise be told to retry for ever. `note` says in the message where the value `bytes_max` is from.
    ///
    /// # Errors
    /// `InvalidArgument` with the smallest value that is enough.
    pub fn check_in_flight(&self, bytes_max: u64, note: &str) -> Result<()> {
        let of_tenants = self
            .tenants
            .iter()
            .map(|tenant| tenant.limits.upload_bytes_max);
        let needed = of_tenants
            .max()
            .unwrap_or(0)
            .saturating_add(FORM_OVERHEAD_BYTES);
        if bytes_max >= needed {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "limits.upload_bytes_in_flight_max = {bytes_max}{note}: must be at least {needed}: the largest \
             upload_bytes_max of a tenant, and {FORM_OVERHEAD_BYTES} for its form"
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
}
