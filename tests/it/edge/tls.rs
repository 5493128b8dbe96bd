//! TLS: real clients, several certificates, and reloads while clients are served.

use std::io::{Read, Write};

use super::curl;
use rustix::process::Signal;

use crate::support::{
    BASE, Connection, Form, Random, TestServer,
    certificates::{Certificate, Stream, configuration, connect, healthy},
    poll,
    process::Process,
};

struct Served {
    server: TestServer,
    certificate: Certificate,
    _directory: tempfile::TempDir,
}

fn served() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let certificate = Certificate::write(directory.path(), "first", &["files.test"]);
    let server = TestServer::with(&configuration(&[&certificate], ""));
    Served {
        server,
        certificate,
        _directory: directory,
    }
}

impl Served {
    fn address(&self) -> std::net::SocketAddr {
        self.server.endpoints[1].address().unwrap()
    }

    /// Runs curl over TLS with these options.
    fn curl(&self, options: &[&str], path: &str) -> Vec<u8> {
        let port = self.address().port();
        let resolve = format!("files.test:{port}:127.0.0.1");
        let url = format!("https://files.test:{port}{path}");
        let token = format!("Authorization: Bearer {}", self.server.token("alice"));
        let chain = self.certificate.chain.to_str().unwrap();
        let mut args = vec!["--cacert", chain, "--resolve", &resolve, "--header", &token];
        args.extend(options);
        args.push(&url);
        curl(&args)
    }
}

#[test]
fn curl_works_with_all_versions() {
    let served = served();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.bin");
    let bytes = Random::new().bytes(3_000_000);
    std::fs::write(&file, &bytes).unwrap();
    let form = format!("file=@{}", file.display());
    for versions in [
        ["--tlsv1.2", "--tls-max", "1.2"],
        ["--tlsv1.3", "--tls-max", "1.3"],
    ] {
        for http in ["--http1.1", "--http2"] {
            let options = [&versions[..], &[http]].concat();
            let uploaded = [&options[..], &["--form", &form]].concat();
            let answer = served.curl(&uploaded, &format!("{BASE}/chatfiles"));
            let json: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            let uri = json["uri"].as_str().unwrap();
            assert!(uri.starts_with("https://files.test:"), "{uri}");
            let id = json["entities"][0]["uuid"].as_str().unwrap();
            let path = format!("{BASE}/chatfiles/{id}");
            assert!(served.curl(&options, &path) == bytes, "{options:?}");
            let range = [&options[..], &["--range", "1000000-1999999"]].concat();
            assert!(served.curl(&range, &path) == bytes[1_000_000..2_000_000]);
            let version = [
                &options[..],
                &["--output", "/dev/null", "--write-out", "%{http_version}"],
            ];
            let version = served.curl(&version.concat(), &path);
            assert_eq!(version, if http == "--http2" { &b"2"[..] } else { b"1.1" });
        }
    }
}

#[test]
fn certificate_follows_sni() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, names: &[&str]| Certificate::write(directory.path(), name, names);
    let a = write("a", &["a.test", "also-a.test"]);
    let b = write("b", &["b.test", "*.b.test"]);
    let server = TestServer::with(&configuration(&[&a, &b], ""));
    let address = server.endpoints[1].address().unwrap();
    for (name, right, wrong) in [
        ("a.test", &a, &b),
        ("also-a.test", &a, &b),
        ("b.test", &b, &a),
        ("B.Test", &b, &a),
        ("x.b.test", &b, &a),
    ] {
        let mut stream = connect(address, name, right, &[]).unwrap();
        assert!(healthy(&mut stream), "{name}");
        assert!(connect(address, name, wrong, &[]).is_err(), "{name}");
    }
    // A wildcard covers one label only. Other names get the first certificate, which is not valid for them.
    for name in ["x.y.b.test", "c.test"] {
        for root in [&a, &b] {
            assert!(connect(address, name, root, &[]).is_err(), "{name}");
        }
    }
}

/// Old connections go on.
#[test]
fn reloads_good_certificates_only() {
    let served = served();
    let address = served.address();
    let directory = served.certificate.chain.parent().unwrap();
    let mut kept = connect(address, "files.test", &served.certificate, &[]).unwrap();
    assert!(healthy(&mut kept));
    // A key that belongs to another certificate: the old pair stays.
    let good = std::fs::read(&served.certificate.key).unwrap();
    let other = Certificate::write(directory, "other", &["files.test"]);
    std::fs::copy(&other.key, &served.certificate.key).unwrap();
    let error = served.server.reloader().certificates().unwrap_err();
    assert!(
        error.public_text().unwrap().contains("first.key"),
        "{error}"
    );
    assert!(connect(address, "files.test", &served.certificate, &[]).is_ok());
    std::fs::write(&served.certificate.key, good).unwrap();
    // A new pair is detected automatically within seconds.
    let new = Certificate::write(directory, "first", &["files.test"]);
    poll("the new certificate is shown", || {
        connect(address, "files.test", &new, &[]).is_ok()
    });
    assert!(connect(address, "files.test", &served.certificate, &[]).is_err());
    assert!(healthy(&mut kept), "an existing connection continues");
}

#[test]
fn certificates_are_unread_without_tls() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = Certificate::write(directory.path(), "gone", &["files.test"]);
    for path in [&certificate.chain, &certificate.key] {
        std::fs::remove_file(path).unwrap();
    }
    let toml = format!("[tls]\ncertificates = [{}]\n", certificate.toml());
    let server = TestServer::with(&toml);
    assert_eq!(server.get("/healthz", &[]).status, 200);
    server.reloader().certificates().unwrap();
}

#[test]
fn hangup_reloads_without_failed_requests() {
    let directory = tempfile::tempdir().unwrap();
    let first = Certificate::write(directory.path(), "first", &["files.test"]);
    let config = directory.path().join("chatfiles.toml");
    std::fs::write(&config, configuration(&[&first], "")).unwrap();
    let store = directory.path().join("data");
    let config = config.to_str().unwrap();
    let flags = [
        "--config",
        config,
        "--listen",
        "127.0.0.1:0",
        "--listen",
        "tls:127.0.0.1:0",
    ];
    let server = Process::start(&store, &flags);
    let address = server.listening("https://");
    let mut known = vec![first];
    for round in 0..5 {
        // Clients that connect meanwhile get the old or the new certificate, and never an error.
        let new = Certificate::write(directory.path(), "new", &["files.test"]);
        let old = known.last().unwrap();
        std::fs::copy(&new.chain, &old.chain).unwrap();
        std::fs::copy(&new.key, &old.key).unwrap();
        server.signal(Signal::HUP);
        let is_known = |one: &Certificate| match connect(address, "files.test", one, &[]) {
            Ok(mut stream) => healthy(&mut stream),
            Err(_) => false,
        };
        poll("the new certificate", || {
            let is_new = is_known(&new);
            assert!(is_new || is_known(old) || is_known(&new), "round {round}");
            is_new
        });
        known.push(Certificate {
            chain: old.chain.clone(),
            key: old.key.clone(),
            der: new.der,
        });
    }
}

#[test]
fn bad_handshakes_are_closed() {
    let served = served();
    let mut plain = Connection::open(served.address());
    plain
        .send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let answer = plain.rest();
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    // Closed after `header_timeout_seconds`.
    let mut silent = Connection::open(served.address());
    silent.send(&[0x16, 3, 1]).unwrap();
    assert!(silent.rest().is_empty());
    assert_eq!(
        served.server.request("GET", "/healthz", &[], b"").status,
        200
    );
}

#[test]
fn truncated_file_ends_only_its_answer() {
    let served = served();
    let bytes = Random::new().bytes(2 << 20);
    let id = served
        .server
        .store_file("a.bin", "application/octet-stream", &bytes);
    let path = format!("{BASE}/chatfiles/{id}");
    assert!(served.curl(&[], &path) == bytes);
    let object = served.server.files_in("objects").pop().unwrap();
    let object = std::fs::OpenOptions::new()
        .write(true)
        .open(served.server.store.join("objects").join(object))
        .unwrap();
    object.set_len(1 << 20).unwrap();
    let token = format!("Bearer {}", served.server.token("alice"));
    let mut stream = connect(served.address(), "files.test", &served.certificate, &[]).unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: files.test\r\nAuthorization: {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received);
    assert!(received.starts_with(b"HTTP/1.1 200") && received.len() < 2 << 20);
    assert_eq!(
        served.server.request("GET", "/healthz", &[], b"").status,
        200
    );
}
