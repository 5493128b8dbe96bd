//! Self-signed certificates, and a client that reports the certificate it got.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};

/// A self-signed certificate in a directory.
pub struct Certificate {
    pub chain: PathBuf,
    pub key: PathBuf,
    pub der: CertificateDer<'static>,
}

impl Certificate {
    /// Writes `<name>.pem` and `<name>.key` for these DNS names; replaces existing files.
    pub fn write(directory: &Path, name: &str, names: &[&str]) -> Self {
        Self::write_until(directory, name, names, 4096)
    }

    /// Writes a certificate that expires at the beginning of a year.
    pub fn write_until(directory: &Path, name: &str, names: &[&str], year: i32) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).expect("names");
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let signing_key = rcgen::KeyPair::generate().expect("a key");
        let cert = params.self_signed(&signing_key).expect("a certificate");
        let path = |extension: &str| directory.join(format!("{name}.{extension}"));
        let (chain, key) = (path("pem"), path("key"));
        std::fs::write(&chain, cert.pem()).expect("a file");
        std::fs::write(&key, signing_key.serialize_pem()).expect("a file");
        Self {
            chain,
            key,
            der: cert.der().clone(),
        }
    }

    /// The entry in the configuration.
    pub fn toml(&self) -> String {
        format!(
            "{{ chain = \"{}\", key = \"{}\" }}",
            self.chain.display(),
            self.key.display()
        )
    }
}

/// A server with these certificates: plain HTTP first, then TLS.
pub fn configuration(certificates: &[&Certificate], more: &str) -> String {
    let certificates: Vec<String> = certificates.iter().map(|one| one.toml()).collect();
    format!(
        "{more}\n[server]\nlisten = [\"127.0.0.1:0\", \"tls:127.0.0.1:0\"]\nheader_timeout_seconds = 2\n\
         [tls]\ncertificates = [{}]\n",
        certificates.join(", ")
    )
}

pub type Stream<S = TcpStream> = StreamOwned<ClientConnection, S>;

/// Makes a handshake for `name` that trusts only `root`.
pub fn connect(
    address: SocketAddr,
    name: &str,
    root: &Certificate,
    alpn: &[&str],
) -> std::io::Result<Stream> {
    let tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(Duration::from_secs(60)))?;
    connect_over(tcp, name, root, alpn)
}

/// Makes the handshake over a stream that the test has opened.
pub fn connect_over<S: Read + Write>(
    tcp: S,
    name: &str,
    root: &Certificate,
    alpn: &[&str],
) -> std::io::Result<Stream<S>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.der.clone()).expect("a root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut stream = StreamOwned::new(connection, tcp);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// Requests the health check over a kept stream.
pub fn healthy(stream: &mut Stream) -> bool {
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: files.test\r\n\r\n")
        .expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes).expect("an answer");
        assert_ne!(read, 0, "closed");
        answer.extend_from_slice(&bytes[..read]);
    }
    answer.starts_with(b"HTTP/1.1 200")
}
