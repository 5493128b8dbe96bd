//! `--version`, and the build script that finds the commit.

use std::{fs, path::Path, process::Command};

use crate::support::process::{run, stdout};

#[test]
fn version_names_commit_and_features() {
    let short = stdout(&run(&["-V"], ""));
    assert_eq!(short, concat!("chatfiles ", env!("CARGO_PKG_VERSION")));
    let long = stdout(&run(&["--version"], ""));
    let lines: Vec<&str> = long.lines().collect();
    assert_eq!(lines[0], short);
    for (line, name) in lines[1..].iter().zip(["commit:", "features:", "target:"]) {
        let value = line
            .strip_prefix(name)
            .unwrap_or_else(|| panic!("{name} in {long}"));
        assert!(!value.trim().is_empty(), "{long}");
    }
    assert_eq!(lines.len(), 4);
}

/// Runs the build script for a source tree, and returns its output.
fn build_script(program: &Path, root: &Path, environment: &[(&str, &str)]) -> String {
    let output = Command::new(program)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        // No repository above a temporary directory, and no configuration of the user.
        .env("GIT_CEILING_DIRECTORIES", root.parent().unwrap())
        .env("CARGO_MANIFEST_DIR", root)
        .env("PROFILE", "release")
        .env("TARGET", "x86_64-unknown-linux-gnu")
        .envs(environment.iter().copied())
        .current_dir(root)
        .output()
        .unwrap();
    stdout(&output)
}

fn git(root: &Path, arguments: &[&str]) -> String {
    let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"];
    let output = Command::new("git")
        .args(identity)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .current_dir(root)
        .output()
        .unwrap();
    stdout(&output)
}

fn commit_of(output: &str) -> &str {
    let mut lines = output.lines();
    let commit = lines.find_map(|line| line.strip_prefix("cargo:rustc-env=CHATFILES_COMMIT="));
    commit.unwrap_or_else(|| panic!("{output}"))
}

#[test]
fn build_script_finds_commit() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("build-script");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/build.rs");
    let compiled = Command::new("rustc")
        .args(["--edition", "2024", "-o"])
        .args([&program, Path::new(source)])
        .output()
        .unwrap();
    stdout(&compiled);
    let root = directory.path().join("tree");
    fs::create_dir(&root).unwrap();
    let script = |root: &Path, environment: &[_]| build_script(&program, root, environment);

    // A source archive.
    assert_eq!(commit_of(&script(&root, &[])), "unknown");
    // As packagers do.
    let given = script(&root, &[("CHATFILES_COMMIT", "abc 2026-01-01")]);
    assert_eq!(commit_of(&given), "abc 2026-01-01");
    // It cannot add lines to the script's output.
    let forged = script(&root, &[("CHATFILES_COMMIT", "a\ncargo:rustc-env=X=1")]);
    assert_eq!(commit_of(&forged), "unknown");
    // A machine without git.
    let no_git = script(&root, &[("PATH", "/nowhere")]);
    assert_eq!(commit_of(&no_git), "unknown");

    git(&root, &["init", "--quiet"]);
    assert_eq!(commit_of(&script(&root, &[])), "unknown", "no commit yet");
    git(&root, &["commit", "--quiet", "--allow-empty", "-m", "one"]);
    let expected = git(&root, &["log", "-1", "--abbrev=12", "--format=%h %cs"]);
    let output = script(&root, &[]);
    assert_eq!(commit_of(&output), expected);
    assert!(
        expected.len() == "0123456789ab 2026-01-01".len(),
        "{expected}"
    );
    // Cargo runs a script again if a named file does not exist, at each call.
    let watched: Vec<_> = output
        .lines()
        .filter_map(|line| line.strip_prefix("cargo:rerun-if-changed="))
        .collect();
    assert!(watched.len() >= 3, "{watched:?}");
    for path in &watched[1..] {
        assert!(Path::new(path).is_file(), "{path}");
    }
    // A new commit changes one of them.
    let log = watched
        .iter()
        .find(|path| path.ends_with("logs/HEAD"))
        .unwrap();
    let before = fs::read(log).unwrap();
    git(&root, &["commit", "--quiet", "--allow-empty", "-m", "two"]);
    assert_ne!(fs::read(log).unwrap(), before);

    // A debug build does not ask git, so that a commit does not compile everything again.
    let debug = script(&root, &[("PROFILE", "debug")]);
    assert_eq!(commit_of(&debug), "not recorded in a debug build");
    // The tree is vendored in the repository of another project.
    let vendored = root.join("vendor");
    fs::create_dir(&vendored).unwrap();
    assert_eq!(commit_of(&script(&vendored, &[])), "unknown");
    // A shallow clone.
    let clone = directory.path().join("clone");
    let url = format!("file://{}", root.display());
    git(
        directory.path(),
        &[
            "clone",
            "--quiet",
            "--depth",
            "1",
            &url,
            clone.to_str().unwrap(),
        ],
    );
    let second = git(&clone, &["log", "-1", "--abbrev=12", "--format=%h %cs"]);
    assert_eq!(commit_of(&script(&clone, &[])), second);
    // A linked worktree, whose .git is a file.
    let worktree = directory.path().join("worktree");
    git(
        &root,
        &["worktree", "add", "--quiet", worktree.to_str().unwrap()],
    );
    assert_eq!(commit_of(&script(&worktree, &[])), second);

    let features = script(
        &root,
        &[("CARGO_FEATURE_ONE_TWO", "1"), ("CARGO_FEATURE_A", "1")],
    );
    assert!(
        features.contains("cargo:rustc-env=CHATFILES_FEATURES=a one-two\n"),
        "{features}"
    );
}
