//! A JavaScript application over TLS, like real chat applications; `node.mjs` describes its requests.

use std::process::{Command, Output};

use crate::support::{
    BASE, Random, TestServer,
    certificates::{Certificate, configuration},
};

/// As in `node.mjs`: one by fetch, one by node:https, ten by node:http2.
const UPLOADS: usize = 1 + 1 + 10;

struct Served {
    server: TestServer,
    certificate: Certificate,
    file: Vec<u8>,
    directory: tempfile::TempDir,
}

fn served() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str| Certificate::write(directory.path(), name, &[name]);
    // The client asks for the name of the second certificate.
    let (other, certificate) = (write("other.test"), write("localhost"));
    let server = TestServer::with(&configuration(&[&other, &certificate], ""));
    let file = Random::new().bytes(1_500_000);
    std::fs::write(directory.path().join("file"), &file).unwrap();
    Served {
        server,
        certificate,
        file,
        directory,
    }
}

impl Served {
    /// Runs the application, which trusts `root`.
    fn run(&self, root: &Certificate) -> Output {
        let port = self.server.endpoints[1].address().unwrap().port();
        Command::new("node")
            .env("NODE_EXTRA_CA_CERTS", &root.chain)
            // Certificates are verified, whatever the environment says.
            .env_remove("NODE_TLS_REJECT_UNAUTHORIZED")
            .env_remove("NODE_OPTIONS")
            // The server listens on 127.0.0.1.
            .arg("--dns-result-order=ipv4first")
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/it/edge/node.mjs"
            ))
            .arg(format!("https://localhost:{port}{BASE}"))
            .arg(self.server.token("alice"))
            .arg(self.directory.path().join("file"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/photo.jpg"))
            .output()
            .expect("node is installed")
    }
}

#[test]
fn node_works_over_all_protocols() {
    let served = served();
    let output = served.run(&served.certificate);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let ids: Vec<String> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(ids.len(), UPLOADS);
    // Another client finds the uploaded files.
    for id in ids {
        let answer = served.server.download(&id, &[]);
        assert!(answer.status == 200 && answer.body == served.file, "{id}");
    }
}

#[test]
fn node_rejects_unknown_certificate() {
    let served = served();
    let stranger = Certificate::write(served.directory.path(), "stranger", &["localhost"]);
    let output = served.run(&stranger);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("certificate"), "{said}");
    assert!(served.server.files_in("objects").is_empty());
}
