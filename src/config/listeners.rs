//! Where to listen, what is spoken there, and how long a connection may take for what.

use std::net::SocketAddr;

use hyper::header::HeaderName;

use super::{
    file::{CdnSection, ServerSection, TlsSection},
    values::{address, bad, base_url, endpoint, networks, range, seconds},
};
use crate::{
    error::Result,
    secret::SecretKey,
    server::{
        cdn::CdnSecret,
        endpoint::{At, Endpoint},
        listener,
        tls::CertificateFiles,
    },
};

/// The public listeners and what bounds their connections.
pub(super) fn public(server: &ServerSection) -> Result<listener::Config> {
    let mut config = listener::Config::default();
    if let Some(listen) = &server.listen {
        config.listen = listen.iter().map(endpoint).collect::<Result<_>>()?;
        if config.listen.is_empty() {
            return Err(bad("server.listen", "[]", "at least one address"));
        }
    }
    config.proxies = networks(
        "server.proxy_protocol_from",
        server.proxy_protocol_from.clone(),
    )?;
    if config.proxies.is_empty()
        && let Some(endpoint) = config
            .listen
            .iter()
            .find(|endpoint| endpoint.is_proxied && matches!(endpoint.at, At::Tcp(_)))
    {
        let needed = "nothing with proxy: as long as server.proxy_protocol_from is empty";
        return Err(bad("server.listen", endpoint, needed));
    }
    config.connections_max = range(
        "server.connections_max",
        server.connections_max,
        config.connections_max,
        1..=1_000_000,
    )?;
    config.connections_per_address_max = range(
        "server.connections_per_address_max",
        server.connections_per_address_max,
        config.connections_per_address_max,
        1..=1_000_000,
    )?;
    config.shutdown_grace = seconds(
        "server.shutdown_grace_seconds",
        server.shutdown_grace_seconds,
        30,
    )?;
    config.handover_grace = seconds(
        "server.handover_grace_seconds",
        server.handover_grace_seconds,
        300,
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

/// The operator's, where there is one.
pub(super) fn operator(listen: Option<String>, public: &[Endpoint]) -> Result<Option<SocketAddr>> {
    const KEY: &str = "operator.listen";
    let Some(text) = listen.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let own = address(KEY, &text, "127.0.0.1:9090")?;
    let is_taken = |endpoint: &Endpoint| endpoint.at == At::Tcp(own);
    if own.port() != 0 && public.iter().any(is_taken) {
        return Err(bad(KEY, own, "an address that is not in server.listen"));
    }
    Ok(Some(own))
}

/// The CDN in front.
pub(super) struct Cdn {
    /// Where signed URLs lead.
    pub(super) url: Option<String>,
    /// How long they live.
    pub(super) url_ttl_secs: i64,
    /// The header that only the CDN knows, and its value.
    pub(super) secret: Option<CdnSecret>,
}

pub(super) fn cdn(section: CdnSection) -> Result<Cdn> {
    let CdnSection {
        url,
        url_ttl_seconds,
        secret,
        secret_header,
    } = section;
    Ok(Cdn {
        url: url.map(|url| base_url("cdn.url", url)).transpose()?,
        url_ttl_secs: range("cdn.url_ttl_seconds", url_ttl_seconds, 3600, 60..=604_800)?,
        secret: cdn_secret(secret, secret_header)?,
    })
}

fn cdn_secret(secret: Option<SecretKey>, header: Option<String>) -> Result<Option<CdnSecret>> {
    const HEADER: &str = "cdn.secret_header";
    let Some(secret) = secret else {
        // Whoever names the header means to check it.
        return match header {
            None => Ok(None),
            Some(name) => Err(bad(HEADER, name, "given together with cdn.secret")),
        };
    };
    let name = header.unwrap_or("x-cdn-secret".into());
    let header: HeaderName = name
        .parse()
        .map_err(|_| bad(HEADER, &name, "a header's name"))?;
    // As it must arrive in a header.
    if !secret.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        let allowed = "visible ASCII characters without a space";
        return Err(bad("cdn.secret", "«redacted»", allowed));
    }
    Ok(Some(CdnSecret { header, secret }))
}

/// What TLS listeners show; each needs one at least.
pub(super) fn certificates(
    section: TlsSection,
    listen: &[Endpoint],
) -> Result<Vec<CertificateFiles>> {
    let certificates = section.certificates.unwrap_or_default();
    match listen.iter().find(|endpoint| endpoint.is_tls) {
        Some(endpoint) if certificates.is_empty() => {
            let needed = "nothing with tls: as long as tls.certificates is empty";
            Err(bad("server.listen", endpoint, needed))
        }
        _ => Ok(certificates),
    }
}
