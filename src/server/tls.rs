//! TLS 1.3 and 1.2 by rustls. Selects one of several certificates by the name that the client requests, and reloads them
//! without affecting open connections.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer, UnixTime,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::socket::Socket;
use crate::error::{Error, Result};

/// The application protocols in order of preference (RFC 7301).
const ALPN_HTTP2: &[u8] = b"h2";
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The files of a certificate, both PEM.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate, followed by its intermediate certificates.
    pub chain: PathBuf,
    /// Its private key: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// The state that TLS listeners share. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certificates: Arc<Certificates>,
    files: Arc<[CertificateFiles]>,
    /// Stamps of the files at the last attempt to load them.
    stamps: Arc<Mutex<Vec<Stamp>>>,
}

/// Changes when a file is written or replaced: device, inode, length, modification time.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

#[derive(Debug)]
struct Certificates(RwLock<Arc<Loaded>>);

#[derive(Debug)]
struct Loaded {
    /// By lower-case name; a leading `*.` stands for one label.
    by_name: HashMap<String, Arc<CertifiedKey>>,
    /// For clients that request no name or an unknown one.
    first: Arc<CertifiedKey>,
    /// Expiry of the first certificate to expire, including intermediate certificates, in Unix time.
    end_secs: Option<u64>,
}

impl Tls {
    /// Reads the certificates. The first one is the default. Blocking.
    ///
    /// # Errors
    /// `InvalidArgument` with the file and the reason; `Internal` if a permission is missing.
    pub fn load(files: &[CertificateFiles]) -> Result<Self> {
        let stamps = stamps(files);
        let certificates = Arc::new(Certificates(RwLock::new(Arc::new(Loaded::read(files)?))));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::internal)?
            .with_no_client_auth()
            .with_cert_resolver(certificates.clone());
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
        // Clients resume with tickets, so the server stores no sessions.
        config.ticketer = ring::Ticketer::new().map_err(Error::internal)?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificates,
            files: files.into(),
            stamps: Arc::new(Mutex::new(stamps)),
        })
    }

    /// Reads the certificates again, for new connections. Blocking.
    ///
    /// # Errors
    /// As [`Tls::load`]; the current certificates stay in use.
    pub fn reload(&self) -> Result<()> {
        // The lock serializes reloads. Otherwise the one that read first could install its older certificates last, with
        // the stamps of the newer ones, and they would stay until the next change.
        let mut known = self.stamps.lock();
        *known = stamps(&self.files);
        let loaded = Arc::new(Loaded::read(&self.files)?);
        *self.certificates.0.write() = loaded;
        Ok(())
    }

    /// Expiry of the first certificate to expire, including intermediate certificates, in Unix time.
    pub(super) fn end_secs(&self) -> Option<u64> {
        self.certificates.0.read().end_secs
    }

    /// Whether a file has changed since it was last read. Blocking.
    pub fn is_changed(&self) -> bool {
        *self.stamps.lock() != stamps(&self.files)
    }

    /// Performs the handshake.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub(super) async fn accept(&self, socket: Socket) -> io::Result<TlsStream<Socket>> {
        self.acceptor.accept(socket).await
    }
}

/// Whether the client selected HTTP/2 in the handshake.
pub(super) fn is_http2(stream: &TlsStream<Socket>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2)
}

impl Loaded {
    fn read(files: &[CertificateFiles]) -> Result<Self> {
        let mut by_name = HashMap::new();
        let mut first = None;
        let mut ends = Vec::new();
        for CertificateFiles { chain, key } in files {
            let certified = Arc::new(read_one(chain, key)?);
            for name in names(&certified, chain)? {
                // If two certificates have the same name, the first one in the list is used.
                by_name.entry(name).or_insert_with(|| certified.clone());
            }
            ends.extend(certified.cert.iter().filter_map(end_secs));
            first.get_or_insert(certified);
        }
        let first = first.ok_or_else(|| Error::invalid("tls.certificates: is empty"))?;
        Ok(Self {
            by_name,
            first,
            end_secs: ends.into_iter().min(),
        })
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let wildcard = || Some(format!("*{}", &name[name.find('.')?..]));
        self.by_name
            .get(&name)
            .or_else(|| self.by_name.get(&wildcard()?))
    }
}

fn read_one(chain: &Path, key: &Path) -> Result<CertifiedKey> {
    let at = |path: &Path, what: &dyn std::fmt::Display| {
        Error::invalid(format!("tls.certificates: {}: {what}", path.display()))
    };
    let unreadable = |path: &Path, error: pem::Error| match &error {
        // The permission may be granted, so the service manager should retry.
        pem::Error::Io(why) if why.kind() == io::ErrorKind::PermissionDenied => {
            Error::internal(format!("tls.certificates: {}: {why}", path.display()))
        }
        _ => at(path, &error),
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(chain, error))?;
    if certificates.is_empty() {
        return Err(at(chain, &"the file contains no certificate"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
    // Also checks that the key belongs to the certificate.
    CertifiedKey::from_der(certificates, private, &ring::default_provider())
        .map_err(|error| at(key, &error))
}

/// The DNS names of a certificate.
fn names(certified: &CertifiedKey, chain: &Path) -> Result<Vec<String>> {
    let end_entity = certified.end_entity_cert().map_err(Error::internal)?;
    let parsed = webpki::EndEntityCert::try_from(end_entity).map_err(|error| {
        Error::invalid(format!("tls.certificates: {}: {error}", chain.display()))
    })?;
    Ok(parsed
        .valid_dns_names()
        .map(str::to_ascii_lowercase)
        .collect())
}

/// Expiry of a certificate in Unix time; `None` if the certificate cannot be parsed.
///
/// webpki reports the expiry only when it rejects an expired certificate, so it is asked with the largest time. It checks
/// the dates before it looks for an issuer, and there is none here.
fn end_secs(certificate: &CertificateDer<'_>) -> Option<u64> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    let never = UnixTime::since_unix_epoch(Duration::MAX);
    let usage = webpki::KeyUsage::server_auth();
    match parsed.verify_for_usage(&[], &[], &[], never, usage, None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after.as_secs()),
        // The dates are invalid or reversed: no client accepts the certificate.
        _ => Some(0),
    }
}

fn stamps(files: &[CertificateFiles]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        ))
    };
    files
        .iter()
        .flat_map(|files| [stamp(&files.chain), stamp(&files.key)])
        .collect()
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let loaded = self.0.read().clone();
        let found = hello.server_name().and_then(|name| loaded.find(name));
        Some(found.unwrap_or(&loaded.first).clone())
    }
}
