//! Which key a token may be signed with, and files that change, break, vanish, or are open to others.

use std::os::unix::fs::PermissionsExt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;

use super::*;
use crate::{auth::testing, tenant::JwtAlgorithm};

const EC: &str = include_str!("../../../tests/data/keys/ec.pem");

/// A JWK set of HMAC secrets with these kids.
fn secrets(kids: &[Option<&str>]) -> String {
    let key = |(index, kid): (usize, &Option<&str>)| {
        let secret: Vec<u8> = (0..32).map(|byte| byte + index as u8).collect();
        json!({ "kty": "oct", "kid": kid, "k": BASE64_URL_SAFE_NO_PAD.encode(secret) })
    };
    json!({ "keys": kids.iter().enumerate().map(key).collect::<Vec<_>>() }).to_string()
}

struct Setup {
    dir: tempfile::TempDir,
    issuer: JwtIssuer,
}

impl Setup {
    fn new(files: &[&str], algorithms: &[JwtAlgorithm]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issuer = JwtIssuer {
            issuer: "backend".into(),
            audience: vec!["chatfiles".into()],
            keys: (0..files.len())
                .map(|index| dir.path().join(index.to_string()))
                .collect(),
            algorithms: algorithms.to_vec(),
            subject_claim: "sub".into(),
            app_claim: None,
        };
        let setup = Self { dir, issuer };
        for (index, text) in files.iter().enumerate() {
            setup.write(index, text);
        }
        setup
    }

    /// Replaces a file, with the mode 0600.
    fn write(&self, index: usize, text: &str) {
        let draft = self.dir.path().join("draft");
        fs::write(&draft, text).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(draft, &self.issuer.keys[index]).unwrap();
    }

    fn read(&self) -> Result<NewKeys> {
        let mut tenant = testing::tenant("acme", "chat");
        tenant.auth.jwt = Some(self.issuer.clone());
        BackendKeys::read(&Tenants::new(vec![tenant]))
    }

    fn keys(&self) -> BackendKeys {
        let keys = BackendKeys::default();
        keys.install(self.read().unwrap());
        keys
    }

    /// The kids of the candidates.
    fn candidates(&self, keys: &BackendKeys, kid: Option<&str>) -> Vec<String> {
        let found = keys.candidates(&self.issuer, kid);
        found
            .iter()
            .map(|key| key.kid.clone().unwrap_or_default())
            .collect()
    }
}

#[test]
fn kid_selects_key() {
    use JwtAlgorithm::{ES256, HS256};
    let (two, one) = (secrets(&[Some("1"), Some("2")]), secrets(&[Some("1")]));
    let mixed = secrets(&[Some("1"), None]);
    for (files, kid, expected) in [
        (vec![&*two], Some("2"), vec!["2"]),
        (vec![&two], Some("3"), vec![]),
        (vec![&two], Some(""), vec![]),
        (vec![&two], None, vec![]),
        (vec![&one], None, vec!["1"]),
        (vec![&one], Some("2"), vec![]),
        (vec![&mixed], None, vec![""]),
        (vec![&mixed], Some("2"), vec![]),
        // Keys in PEM have no kid.
        (vec![EC], None, vec![""]),
        (vec![EC], Some("2"), vec![""]),
        (vec![EC, &one], Some("1"), vec!["1"]),
        (vec![EC, &one], Some("2"), vec![]),
        (vec![EC, &one], None, vec![""]),
    ] {
        let setup = Setup::new(&files, &[ES256, HS256]);
        let keys = setup.keys();
        assert_eq!(
            setup.candidates(&keys, kid),
            expected,
            "{kid:?} of {files:?}"
        );
    }
    // Keys of other algorithms are as if they were not there.
    let setup = Setup::new(&[EC], &[ES256]);
    let (keys, mut other) = (setup.keys(), setup.issuer.clone());
    other.algorithms = vec![HS256];
    assert!(keys.candidates(&other, None).is_empty());
}

#[test]
fn start_needs_usable_private_files() {
    use JwtAlgorithm::{ES256, HS256};
    let secret = secrets(&[Some("1")]);
    for (text, algorithms, mode, about) in [
        (&*secret, [HS256], 0o604, "chmod o-rwx"),
        (&secret, [HS256], 0o642, "chmod o-rwx"),
        (&secret, [HS256], 0o640, ""),
        (EC, [ES256], 0o644, ""),
        (EC, [ES256], 0o646, "chmod o-rwx"),
        (EC, [HS256], 0o600, "no key for any of jwt.algorithms"),
        (&secret, [ES256], 0o600, "no key for any of jwt.algorithms"),
        (
            r#"{"keys":[]}"#,
            [ES256],
            0o600,
            "no key for any of jwt.algorithms",
        ),
        ("nothing", [ES256], 0o600, "neither PEM"),
    ] {
        let setup = Setup::new(&[text], &algorithms);
        let path = &setup.issuer.keys[0];
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        match setup.read() {
            Ok(_) => assert_eq!(about, "", "{mode:o} {text}"),
            Err(error) => {
                let text = error.to_string();
                assert!(!about.is_empty() && text.contains(about), "{text}");
                for name in [
                    "tenant acme/chat: auth: jwt.keys",
                    &*path.display().to_string(),
                ] {
                    assert!(text.contains(name), "{text}");
                }
            }
        }
    }
    let setup = Setup::new(&[EC], &[ES256]);
    fs::remove_file(&setup.issuer.keys[0]).unwrap();
    assert!(
        setup
            .read()
            .err()
            .unwrap()
            .to_string()
            .contains("No such file")
    );
    setup.write(0, &" ".repeat(FILE_BYTES_MAX as usize + 1));
    assert!(setup.read().err().unwrap().to_string().contains("256 KiB"));
}

#[test]
fn broken_file_keeps_keys() {
    let setup = Setup::new(&[&secrets(&[Some("1")])], &[JwtAlgorithm::HS256]);
    let keys = setup.keys();
    let look = |kid| {
        keys.look();
        (setup.candidates(&keys, Some(kid)).len(), keys.stale_files())
    };
    let generation = keys.generation();
    assert_eq!(look("1"), (1, 0));
    assert_eq!(keys.generation(), generation, "nothing has changed");
    setup.write(0, "{\"keys\":[{\"kty\"");
    assert_eq!(look("1"), (1, 1));
    setup.write(0, &secrets(&[Some("2")]));
    assert_eq!((look("1"), look("2")), ((0, 0), (1, 0)));
    assert!(keys.generation() > generation);
    fs::remove_file(&setup.issuer.keys[0]).unwrap();
    assert_eq!(look("2"), (1, 1));
    setup.write(0, &secrets(&[Some("3")]));
    fs::set_permissions(&setup.issuer.keys[0], fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!((look("2"), look("3")), ((1, 1), (0, 1)));
    // Only the mode changes.
    fs::set_permissions(&setup.issuer.keys[0], fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!((look("2"), look("3")), ((0, 0), (1, 0)));
    // A set without keys withdraws all keys.
    setup.write(0, r#"{"keys":[]}"#);
    assert_eq!(look("3"), (0, 0));
}
