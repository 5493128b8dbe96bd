//! Invalid secrets are refused, weak ones cause a warning, and no value is ever shown.

use crate::support::{
    files_below,
    process::{Process, chatfiles, run},
};

/// Every configuration key of a secret, in an otherwise valid file.
const KEYS: [(&str, &str); 7] = [
    ("client_secret", ""),
    ("url_key", "download_auth = \"signed\"\n"),
    ("link_key", ""),
    ("upload_key", ""),
    ("sdk_sign_key", ""),
    ("hook_secret", "hook_url = \"http://127.0.0.1:1/may\"\n"),
    ("secret", ""),
];

/// A good secret: 32 random characters.
const GOOD: &str = "q7Jm2ZxV0pYc9TnR4sKdW6uEaHbL1fGi";

fn toml(key: &str, beside: &str, value: &str) -> String {
    match key {
        "secret" => format!("[cdn]\nsecret = {value:?}\n"),
        _ => format!(
            "[[tenant]]\norg = \"acme\"\napp = \"chat\"\napp_id = \"acme\"\n{beside}{key} = {value:?}\n"
        ),
    }
}

fn check(toml: &str) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chatfiles.toml");
    std::fs::write(&file, toml).unwrap();
    let output = run(
        &[
            "check-config",
            "--config",
            file.to_str().unwrap(),
            "--store-path",
            directory.path().join("data").to_str().unwrap(),
        ],
        "",
    );
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn rejects_empty_and_short_secrets() {
    for (key, beside) in KEYS {
        for value in [
            "",
            " ",
            "                    ",
            "\t\t",
            &GOOD[..15],
            " x             ",
        ] {
            let (code, text) = check(&toml(key, beside, value));
            assert_eq!(code, Some(2), "{key} = {value:?}: {text}");
            assert!(
                text.contains(key) && text.contains("16 bytes"),
                "{key} = {value:?}: {text}"
            );
            assert!(
                value.trim().len() < 8 || !text.contains(value.trim()),
                "{text}"
            );
        }
        for value in [GOOD, &GOOD[..16]] {
            let (code, text) = check(&toml(key, beside, value));
            assert_eq!(code, Some(0), "{key} = {value:?}: {text}");
            assert!(!text.contains(value), "{text}");
        }
    }
}

#[test]
fn names_weak_secrets_at_start() {
    for (key, beside) in KEYS {
        for (value, is_weak) in [
            (GOOD, false),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", true),
            ("abcabcabcabcabcabcabcabcabcabcabcabc", true),
            ("changeme-changeme-0f9a8b7c6d5e4f3a2b", true),
            (&GOOD[..20], true),
        ] {
            let (code, text) = check(&toml(key, beside, value));
            assert_eq!(code, Some(0), "{text}");
            let warned = text
                .lines()
                .any(|line| line.starts_with("warning:") && line.contains(key));
            assert_eq!(warned, is_weak, "{key} = {value}: {text}");
            assert!(!text.contains(value), "{text}");
        }
    }
    // The format of the vendor's console: 31 characters with 160 random bits.
    for (value, is_weak) in [
        ("YXA6jzFVg1BmTRUSJLG4KG7nZZQd0uE", false),
        ("YXB6jzFVg1BmTRUSJLG4KG7nZZQd0uE", true),
        ("YXA6jzFVg1BmTRUSJLG4KG7nZZQd0u", true),
    ] {
        let (_, text) = check(&toml("client_secret", "", value));
        assert_eq!(text.contains("warning:"), is_weak, "{text}");
    }
}

#[test]
fn warns_once_of_weak_secret() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let file = directory.path().join("chatfiles.toml");
    let value = "changeme-changeme-0f9a8b7c6d5e4f3a2b";
    std::fs::write(
        &file,
        toml("url_key", "download_auth = \"signed\"\n", value),
    )
    .unwrap();
    let server = Process::start(&store, &["--config", file.to_str().unwrap()]);
    let text = server.log();
    let warnings: Vec<_> = text
        .lines()
        .filter(|line| line.contains("url_key"))
        .collect();
    assert_eq!(warnings.len(), 1, "{text}");
    assert!(
        warnings[0].contains("WARN") && warnings[0].contains("acme/chat"),
        "{text}"
    );
    assert!(
        !text.contains(value) && !server.welcome.contains(value),
        "{text}"
    );
}

#[test]
fn short_secret_files_stop_start() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let file = directory.path().join("chatfiles.toml");
    std::fs::write(&file, "[[tenant]]\norg = \"acme\"\napp = \"chat\"\napp_id = \"acme\"\ndownload_auth = \"signed\"\n").unwrap();
    let flags = ["--config", file.to_str().unwrap()];
    drop(Process::start(&store, &flags));
    let keys = store.join("keys");
    let secrets: Vec<_> = files_below(&keys)
        .into_iter()
        .filter(|name| !name.to_str().unwrap().starts_with("token-keys"))
        .collect();
    assert_eq!(secrets.len(), 4, "{secrets:?}");
    for name in secrets {
        let path = keys.join(&name);
        let before = std::fs::read(&path).unwrap();
        for value in ["\n", "   \n", "fifteen-bytes-x\n"] {
            std::fs::write(&path, value).unwrap();
            let output = chatfiles(&["serve", "--listen", "127.0.0.1:0"])
                .args(flags)
                .args(["--store-path", store.to_str().unwrap()])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(
                text.contains(name.to_str().unwrap()) && text.contains("16 bytes"),
                "{text}"
            );
            assert!(!text.contains("fifteen"), "{text}");
        }
        std::fs::write(&path, before).unwrap();
    }
}
