//! The key file: made once, refused when wrong, followed when it changes.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::{
    auth::{Subject, Verifier, testing, token},
    error::Kind,
};

const NOW: Timestamp = Timestamp::from_secs(1_795_305_599);
const HOUR: Duration = Duration::from_secs(3600);

fn secs(count: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(count))
}

#[test]
fn files_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("store/keys");
    let first = KeyRing::load_or_create(&keys, NOW).unwrap();
    let again = KeyRing::load_or_create(&keys, NOW).unwrap();
    assert_eq!(
        first.current(NOW).signing().kid,
        again.current(NOW).signing().kid
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&keys), mode(&keys.join(FILE))), (0o700, 0o600));
    assert_eq!(fs::read_dir(&keys).unwrap().count(), 1, "no draft is left");
}

#[test]
fn concurrent_loads_share_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let load = || {
        let ring = KeyRing::load_or_create(dir.path(), NOW).unwrap();
        let secret = load_or_create_secret(dir.path(), "client-secret").unwrap();
        (
            ring.current(NOW).signing().kid.clone(),
            secret.expose().to_owned(),
        )
    };
    let mut made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(load)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    made.dedup();
    assert_eq!(made.len(), 1);
}

#[test]
fn refuses_file_readable_by_others() {
    let dir = tempfile::tempdir().unwrap();
    KeyRing::load_or_create(dir.path(), NOW).unwrap();
    let path = dir.path().join(FILE);
    for mode in [0o640, 0o604, 0o620, 0o601] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let text = KeyRing::load_or_create(dir.path(), NOW)
            .err()
            .unwrap()
            .causes();
        assert!(text.contains(FILE) && text.contains("chmod 600"), "{text}");
    }
}

#[test]
fn refuses_invalid_file_without_showing_secrets() {
    let secret = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MTI";
    let key = |kid: &str, secret: &str, more: &str| {
        format!("[[key]]\nkid = \"{kid}\"\nsecret = \"{secret}\"\ncreated_ms = 1\n{more}\n")
    };
    for (text, expected) in [
        (String::new(), "no key to sign with"),
        (
            key("a", secret, "retire_after_ms = 5"),
            "no key to sign with",
        ),
        (key("a", "c2hvcnQ", ""), "key \"a\": secret is not"),
        (key("a b", secret, ""), "key \"a b\": kid is not"),
        (
            key("a", secret, "retire_after_ms = 5") + &key("a", secret, ""),
            "key \"a\": is in the file twice",
        ),
        (
            key("a", secret, "") + &key("b", secret, ""),
            "key \"b\": is after the key that signs",
        ),
        (key("a", secret, "colour = 1"), "line 5"),
        (key("a", &format!("{secret}\" \""), ""), "line 3"),
        ("#".repeat(70_000), "larger than 64 KiB"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        publish(dir.path(), FILE, &text, Publish::New).unwrap();
        let causes = KeyRing::load_or_create(dir.path(), NOW)
            .err()
            .unwrap()
            .causes();
        assert!(
            causes.contains(FILE) && causes.contains(expected),
            "{expected}: {causes}"
        );
        assert!(!causes.contains("c2V"), "{causes}");
    }
}

#[test]
fn rotation_reaches_running_server() {
    let (dir, ring) = testing::ring(NOW);
    let keys = dir.path().join("keys");
    let (verifier, tenant) = (
        Verifier::new(Arc::clone(&ring), Arc::default()),
        testing::tenant("org", "app"),
    );
    let old = token::issue(&ring, tenant.name(), &Subject::App, None, NOW).unwrap();
    verifier.verify(&tenant, &old, NOW).unwrap();

    let kid = rotate(&keys, NOW, HOUR).unwrap();
    // A token of the new key, from another process, is known as soon as a second has passed.
    let other = KeyRing::load_or_create(&keys, NOW).unwrap();
    let new = token::issue(&other, tenant.name(), &Subject::App, None, NOW).unwrap();
    verifier.verify(&tenant, &new, secs(1)).unwrap();
    assert_eq!(ring.current(secs(1)).signing().kid, kid);

    verifier.verify(&tenant, &old, secs(3599)).unwrap();
    // The old token is cached, and ends with its key all the same.
    let ended = verifier.verify(&tenant, &old, secs(3600)).unwrap_err();
    assert_eq!(ended.kind(), Kind::TokenExpired);
    verifier.verify(&tenant, &new, secs(3600)).unwrap();
}

#[test]
fn rotation_without_overlap_ends_cached_tokens() {
    let (dir, ring) = testing::ring(NOW);
    let (verifier, tenant) = (
        Verifier::new(Arc::clone(&ring), Arc::default()),
        testing::tenant("org", "app"),
    );
    let old = token::issue(&ring, tenant.name(), &Subject::App, None, NOW).unwrap();
    verifier.verify(&tenant, &old, NOW).unwrap();
    rotate(&dir.path().join("keys"), NOW, Duration::ZERO).unwrap();
    let ended = verifier.verify(&tenant, &old, secs(1)).unwrap_err();
    assert_eq!(ended.kind(), Kind::TokenExpired);
}

#[test]
fn rotation_does_not_extend_retirement() {
    let dir = tempfile::tempdir().unwrap();
    let ring = KeyRing::load_or_create(dir.path(), NOW).unwrap();
    let first = ring.current(NOW).signing().kid.clone();
    rotate(dir.path(), NOW, HOUR).unwrap();
    rotate(dir.path(), secs(60), HOUR * 24).unwrap();
    let retire = ring.current(secs(61)).find(&first).unwrap().retire_after;
    assert_eq!(retire, Some(NOW.plus(HOUR)));
}

#[test]
fn rotation_drops_only_retired_keys() {
    let dir = tempfile::tempdir().unwrap();
    KeyRing::load_or_create(dir.path(), NOW).unwrap();
    for _ in 0..KEYS_MAX - 1 {
        rotate(dir.path(), NOW, HOUR).unwrap();
    }
    let text = rotate(dir.path(), NOW, HOUR).unwrap_err().causes();
    assert!(text.contains("still valid"), "{text}");
    rotate(dir.path(), secs(3601), HOUR).unwrap();
    assert_eq!(
        KeyRing::load_or_create(dir.path(), NOW)
            .unwrap()
            .current(NOW)
            .keys
            .len(),
        KEYS_MAX
    );
}

#[test]
fn invalid_file_keeps_running_keys() {
    let (dir, ring) = testing::ring(NOW);
    let path = dir.path().join("keys").join(FILE);
    let kid = ring.current(NOW).signing().kid.clone();
    fs::write(&path, "nonsense").unwrap();
    assert_eq!(ring.current(secs(2)).signing().kid, kid);
    fs::remove_file(&path).unwrap();
    assert_eq!(ring.current(secs(4)).signing().kid, kid);
    // And a clock that was set back does not stop the looking.
    KeyRing::load_or_create(&dir.path().join("keys"), NOW).unwrap();
    rotate(&dir.path().join("keys"), NOW, HOUR).unwrap();
    assert_ne!(ring.current(Timestamp::from_secs(1_000)).signing().kid, kid);
}

#[test]
fn load_creates_no_keys() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let failures = [
        KeyRing::load(&keys, NOW).err(),
        rotate(&keys, NOW, HOUR).err(),
        load_secret(&keys, "client-secret.org.app").err(),
    ];
    for failure in failures {
        let text = failure.unwrap().causes();
        assert!(text.contains("`chatfiles serve`"), "{text}");
    }
    assert!(!keys.exists());
    let made = load_or_create_secret(&keys, "client-secret.org.app").unwrap();
    let found = load_secret(&keys, "client-secret.org.app").unwrap();
    assert!(found.equals(made.expose()));
}

#[test]
fn generated_secret_is_stable() {
    let dir = tempfile::tempdir().unwrap();
    let made = load_or_create_secret(dir.path(), "client-secret.org.app").unwrap();
    assert_eq!(
        URL_SAFE_NO_PAD.decode(made.expose()).unwrap().len(),
        SECRET_BYTES
    );
    let again = load_or_create_secret(dir.path(), "client-secret.org.app").unwrap();
    assert!(again.equals(made.expose()));
    assert!(
        load_or_create_secret(dir.path(), &format!("link-key.{0}@{0}", "x".repeat(64))).is_ok()
    );
    for name in ["", "..", "a/b", ".hidden", "a b", &"x".repeat(193)] {
        assert!(load_or_create_secret(dir.path(), name).is_err(), "{name}");
    }
}

/// RFC 7518 §3.2 asks for 32 bytes. Nothing but NUL bytes are those of the empty key (RFC 2104 §2).
#[test]
fn refuses_key_of_zeros() {
    let dir = tempfile::tempdir().unwrap();
    KeyRing::load_or_create(dir.path(), NOW).unwrap();
    let guessable = URL_SAFE_NO_PAD.encode([0; SECRET_BYTES]);
    let text = format!("[[key]]\nkid = \"a\"\nsecret = \"{guessable}\"\ncreated_ms = 1\n");
    fs::write(dir.path().join(FILE), text).unwrap();
    let error = KeyRing::load(dir.path(), NOW).err().unwrap().causes();
    assert!(
        error.contains("key \"a\"") && error.contains("zero"),
        "{error}"
    );
    assert!(!error.contains(&guessable), "{error}");
}
