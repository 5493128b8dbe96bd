//! The example configuration is one that the program takes.

use crate::support::command::{run, stdout};

const EXAMPLE: &str = include_str!("../../../deploy/examples/chatfiles.toml");

/// What `check-config` says of it, with a store of the test's own.
#[track_caller]
fn checked(toml: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chatfiles.toml");
    std::fs::write(&file, toml).unwrap();
    let store = directory.path().join("store");
    let (file, store) = (file.to_str().unwrap(), store.to_str().unwrap());
    let output = run(
        &["check-config", "--config", file, "--store-path", store],
        "",
    );
    stdout(&output)
}

#[test]
fn the_example_is_taken() {
    let said = checked(EXAMPLE);
    for expected in ["10737418240", "127.0.0.1:9090", "127.0.0.1/32"] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
}

#[test]
fn the_example_is_taken_with_all_that_it_suggests() {
    let is_setting = |rest: &&str| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let mut suggested = 0;
    let lines = EXAMPLE.lines().map(|line| {
        let setting = line.strip_prefix('#').filter(is_setting);
        suggested += usize::from(setting.is_some());
        setting.unwrap_or(line)
    });
    let toml: Vec<_> = lines.collect();
    assert!(suggested > 10, "{suggested}");
    let said = checked(&toml.join("\n"));
    for expected in ["https://files.example.com", "acme/chat", "10.0.0.0/24"] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
}
