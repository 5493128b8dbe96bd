//! Passes the commit, the Cargo features and the target to the program, for `chatfiles --version`.
//!
//! Never fails: the build of a source archive has no repository, and possibly no git. Packagers set `CHATFILES_COMMIT`
//! then. A debug build does not ask git, because a new commit would compile everything again.

#![allow(
    clippy::print_stdout,
    reason = "a build script talks to Cargo this way"
)]

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

const COMMIT: &str = "CHATFILES_COMMIT";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={COMMIT}");
    let is_debug = env::var("PROFILE").is_ok_and(|profile| profile == "debug");
    let given = env::var(COMMIT).ok().filter(|commit| is_plain(commit));
    let commit = match given {
        Some(commit) => commit,
        None if is_debug => "not recorded in a debug build".to_owned(),
        None => commit().unwrap_or_else(|| "unknown".to_owned()),
    };
    println!("cargo:rustc-env={COMMIT}={commit}");
    println!("cargo:rustc-env=CHATFILES_FEATURES={}", features());
    let target = env::var("TARGET").unwrap_or_default();
    println!("cargo:rustc-env=CHATFILES_TARGET={target}");
}

/// One line of printable characters, so that it cannot add lines to the output of this script.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_control)
}

/// The commit that is checked out, with its date; `None` without git or a repository.
fn commit() -> Option<String> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    // A source archive may be unpacked below another project's repository.
    let top = PathBuf::from(git(&root, &["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    // Git writes the last of them at each commit and checkout. A file that does not exist would run this script at each
    // call of Cargo.
    for name in ["HEAD", "packed-refs", "logs/HEAD"] {
        let path = git(&root, &["rev-parse", "--git-path", name]).map(|path| root.join(path));
        if let Some(path) = path.filter(|path| path.is_file()) {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    let format = "--format=%h %cs";
    git(&root, &["log", "-1", "--abbrev=12", format]).filter(|commit| is_plain(commit))
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .current_dir(root)
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The enabled features of Cargo.toml, as Cargo passes them: in upper case, with underscores.
fn features() -> String {
    let name = |(name, _): (std::ffi::OsString, _)| {
        let name = name.into_string().ok()?;
        let name = name.strip_prefix("CARGO_FEATURE_")?.to_ascii_lowercase();
        Some(name.replace('_', "-"))
    };
    let mut names: Vec<String> = env::vars_os().filter_map(name).collect();
    names.sort();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(" "),
    }
}
