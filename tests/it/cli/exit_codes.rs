//! Exit codes: 2 for wrong usage and configuration only, so that a service manager retries after all other failures.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use crate::support::process::{Process, assert_fails, chatfiles, run};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs the program without root's right to ignore the mode of files.
fn run_unprivileged(arguments: &[&str]) -> Output {
    let mut command = match rustix::process::geteuid().is_root() {
        false => chatfiles(arguments),
        true => {
            let mut command = Command::new("setpriv");
            command
                .env_clear()
                .args(["--bounding-set=-dac_override,-dac_read_search", "--"])
                .arg(env!("CARGO_BIN_EXE_chatfiles"))
                .args(arguments);
            command
        }
    };
    command.output().expect("setpriv of util-linux")
}

fn with_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn busy_or_absent_address_exits_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (listen, code) in [
        (&*address, 1),
        // Documentation addresses: no machine has them, but an interface that comes up later might.
        ("192.0.2.1:8080", 1),
        ("nowhere:80", 2),
    ] {
        let store = directory.path().join("data");
        let flags = ["serve", "--listen", listen, "--store-path", text(&store)];
        assert_fails(&run(&flags, ""), code, &[listen]);
        let flags = ["serve", "--listen", "0", "--operator-listen", listen];
        let flags = [&flags[..], &["--store-path", text(&store)]].concat();
        assert_fails(&run(&flags, ""), code, &[listen]);
    }
}

#[test]
fn missing_permission_exits_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let closed = directory.path().join("closed");
    let store = directory.path().join("data");
    drop(Process::start(&store, &[]));
    fs::create_dir(&closed).unwrap();
    let config = closed.join("chatfiles.toml");
    fs::write(&config, "").unwrap();
    let (below, keys) = (closed.join("data"), store.join("keys"));
    let socket = format!("unix:{}", closed.join("http").display());
    let file = format!("{}/token-keys.toml", text(&keys));
    with_mode(&closed, 0);
    with_mode(&keys, 0);
    let id = "019aa000-0000-7000-8000-000000000000";
    for (arguments, path) in [
        (
            &["serve", "--listen", "0", "--store-path", text(&below)][..],
            text(&below),
        ),
        (
            &["serve", "--listen", &socket, "--store-path", text(&store)],
            &socket,
        ),
        (
            &["serve", "--listen", "0", "--config", text(&config)],
            text(&config),
        ),
        (
            &["token", "--user", "alice", "--store-path", text(&below)],
            text(&below),
        ),
        (
            &["token", "--user", "alice", "--store-path", text(&store)],
            &file,
        ),
        (&["rotate-keys", "--store-path", text(&store)], &file),
        (&["rm", id, "--store-path", text(&below)], text(&below)),
        (&["scrub", "--store-path", text(&below)], text(&below)),
        (&["sweep", "--store-path", text(&below)], text(&below)),
        (&["check-config", "--config", text(&config)], text(&config)),
    ] {
        if arguments.contains(&&*socket) {
            with_mode(&keys, 0o700);
        }
        let output = run_unprivileged(arguments);
        with_mode(&keys, 0);
        println!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert_fails(&output, 1, &[path, "ermission denied"]);
    }
    with_mode(&closed, 0o700);
    with_mode(&keys, 0o700);
}

#[test]
fn missing_permission_on_objects_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let id = Process::start(&store, &[]).upload(b"hello");
    let objects = crate::support::files_below(&store.join("objects"));
    let folder = store.join("objects").join(objects[0].parent().unwrap());
    with_mode(&folder, 0o500);
    let output = run_unprivileged(&["rm", &id, "--store-path", text(&store)]);
    with_mode(&folder, 0o700);
    assert_fails(&output, 1, &[text(&folder), "ermission denied"]);
}

#[test]
fn usage_and_configuration_exit_with_2() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "listen = 5").unwrap();
    let missing = directory.path().join("missing");
    for arguments in [
        &["brew"][..],
        &["token"],
        &["man", "brew"],
        &["completions", "brew"],
        &["serve", "--config", text(&missing)],
        &["serve", "--config", text(&file)],
        &["serve", "--config", text(directory.path())],
        &["serve", "--listen", "0", "--store-path", text(&file)],
        &["scrub", "--store-path", text(&missing)],
        &["scrub", "--store-path", text(&file)],
    ] {
        assert_fails(&run(arguments, ""), 2, &[]);
    }
}

#[test]
fn unit_restarts_after_1_only() {
    let unit = include_str!("../../../deploy/systemd/chatfiles.service");
    let has = |line: &str| unit.lines().any(|found| found == line);
    assert!(has("Restart=on-failure") && has("RestartPreventExitStatus=2"));
    assert!(has("StartLimitIntervalSec=0"), "it never gives up");
    for help in [&["--help"][..], &["-h"], &["serve", "--help"]] {
        let output = run(help, "");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for part in [
            "Exit codes:",
            "0  success",
            "1  a failure",
            "2  wrong arguments",
        ] {
            assert!(text.contains(part), "{help:?}: {part} in {text}");
        }
    }
}
