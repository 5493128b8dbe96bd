//! Each command, with and without a running server.

use std::path::Path;

use rustix::process::Signal;

use crate::support::{
    BASE, Connection, Form, photo,
    process::{Process, chatfiles, command, id, run, stdout},
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn token(store: &Path) -> String {
    stdout(&command(store, &["token", "--user", "alice"]))
}

fn upload(server: &Process, token: &str) -> String {
    let form = Form::new().file("a.jpg", "image/jpeg", &photo());
    let answer = form.upload(
        server.address,
        &format!("{BASE}/chatfiles"),
        &format!("Bearer {token}"),
    );
    id(&answer)
}

fn status(server: &Process, token: &str, id: &str, thumbnail: bool) -> u16 {
    let authorization = format!("Bearer {token}");
    let mut headers = vec![("Authorization", authorization.as_str())];
    if thumbnail {
        headers.push(("thumbnail", "true"));
    }
    Connection::open(server.address)
        .request("GET", &format!("{BASE}/chatfiles/{id}"), &headers, b"")
        .status
}

#[test]
fn rm_clears_disk_and_running_caches() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &[]);
    let token = token(&store);
    let (id, other) = (upload(&server, &token), upload(&server, &token));
    for thumbnail in [false, true] {
        assert_eq!(status(&server, &token, &id, thumbnail), 200);
        assert_eq!(status(&server, &token, &other, thumbnail), 200);
    }
    assert!(stdout(&command(&store, &["rm", &id])).contains(&id));
    for thumbnail in [false, true] {
        assert_eq!(status(&server, &token, &id, thumbnail), 404);
        assert_eq!(status(&server, &token, &other, thumbnail), 200);
    }
    let left = crate::support::files_below(&store);
    assert!(
        left.iter()
            .all(|path| !path.to_string_lossy().contains(&id)),
        "{left:?}"
    );
    // A second removal reports that there is nothing.
    assert_eq!(command(&store, &["rm", &id]).status.code(), Some(2));
}

#[test]
fn rm_works_without_server() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let id = {
        let server = Process::start(&store, &[]);
        upload(&server, &token(&store))
    };
    stdout(&command(&store, &["rm", &id]));
    assert!(crate::support::files_below(&store.join("objects")).is_empty());
}

#[test]
fn scrub_lists_damaged_files() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &[]);
    let token = token(&store);
    let (good, bad) = (upload(&server, &token), upload(&server, &token));
    let scrub = || command(&store, &["scrub"]);
    assert!(stdout(&scrub()).contains("2 objects verified, 0 damaged"));
    let path = crate::support::files_below(&store)
        .into_iter()
        .find(|path| path.ends_with(&bad))
        .unwrap();
    let mut bytes = std::fs::read(store.join(&path)).unwrap();
    bytes[70_000] ^= 1;
    std::fs::write(store.join(&path), bytes).unwrap();
    let output = scrub();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains(&bad) && !text.contains(&good) && text.contains("checksum"),
        "{text}"
    );
}

#[test]
fn hashes_password_from_standard_input() {
    let hash = stdout(&run(&["hash-password"], "hunter2\n"));
    assert!(hash.starts_with("$argon2id$"));
    assert_ne!(run(&["hash-password"], "\n").status.code(), Some(0));
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("chatfiles.toml");
    let toml = format!(
        "[[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\n[[tenant.account]]\nname = \"u1\"\npassword_hash = \"{hash}\"\n"
    );
    std::fs::write(&config, toml).unwrap();
    let server = Process::start(&directory.path().join("data"), &["--config", text(&config)]);
    for (password, expected) in [("hunter2", 200), ("hunter3", 400)] {
        let body =
            format!(r#"{{"grant_type":"password","username":"u1","password":"{password}"}}"#);
        let answer = Connection::open(server.address).request(
            "POST",
            &format!("{BASE}/token"),
            &[],
            body.as_bytes(),
        );
        assert_eq!(answer.status, expected, "{}", answer.text());
    }
}

#[test]
fn probe_tells_servers_apart() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| directory.path().join(name));
    let server = Process::start(&one, &[]);
    let _other = Process::start(&two, &[]);
    let url = format!("http://{}", server.address);
    let probe = |store: &Path, url: &str| {
        let arguments = [
            "check-config",
            "--probe",
            "--store-path",
            text(store),
            "--public-url",
            url,
        ];
        run(&arguments, "").status.code()
    };
    assert_eq!(probe(&one, &url), Some(0));
    assert_eq!(probe(&two, &url), Some(1));
    assert_eq!(probe(&one, "http://127.0.0.1:1"), Some(1));
    assert_eq!(
        run(&["check-config", "--probe", "--store-path", text(&one)], "")
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn second_server_names_lock_owner() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &[]);
    let output = run(
        &[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--store-path",
            text(&store),
        ],
        "",
    );
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("in use by another server") && error.contains("process"),
        "{error}"
    );
    assert_eq!(status(&server, &token(&store), "x", false), 404);
}

#[test]
fn stopped_server_exits_with_0() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Process::start(&store, &[]);
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal:?}");
        assert!(crate::support::files_below(&store.join("tmp")).is_empty());
    }
}

#[test]
fn sweep_waits_for_trusted_clock() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let old = store.join("objects/chatfile/2020-01-01/00");
    std::fs::create_dir_all(&old).unwrap();
    std::fs::write(old.join("x"), "x").unwrap();
    let days = ["--store-path", text(&store), "--chatfile-days", "7"];
    let with = |command: &[&'static str]| run(&[command, &days[..]].concat(), "");
    let planned = String::from_utf8_lossy(&with(&["check-config"]).stdout).into_owned();
    assert!(planned.contains("chatfile/2020-01-01"), "{planned}");
    assert_eq!(with(&["sweep"]).status.code(), Some(1));
    assert!(old.join("x").exists());
    assert!(stdout(&with(&["sweep", "--yes"])).contains("chatfile/2020-01-01"));
    assert!(!old.exists());
    assert!(stdout(&with(&["sweep"])).contains("nothing"));
}

#[test]
fn rotated_keys_keep_old_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &[]);
    let old = token(&store);
    stdout(&command(&store, &["rotate-keys"]));
    let new = token(&store);
    let kid = |token: &str| token.split('.').next().unwrap().to_owned();
    assert_ne!(kid(&old), kid(&new));
    // The server checks its key file once a second.
    crate::support::poll("the server uses the new key", || {
        status(&server, &new, "x", false) != 401
    });
    assert_eq!(
        (
            status(&server, &old, "x", false),
            status(&server, &new, "x", false)
        ),
        (404, 404)
    );
}

#[test]
fn only_serve_makes_a_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let object = "image.2026-11-25.019aa000-0000-7000-8000-000000000000";
    for arguments in [
        &["token", "--user", "alice"][..],
        &["token", "--app"],
        &["store-token", object, "--user", "alice"],
        &["rotate-keys"],
        &["rm", "019aa000-0000-7000-8000-000000000000"],
        &["scrub"],
        &["sweep"],
        &["sweep", "--yes"],
    ] {
        // Without an argument, the store is below the working directory.
        for named in [true, false] {
            let mut command = chatfiles(arguments);
            if named {
                command.args(["--store-path", text(&store)]);
            }
            let output = command.current_dir(directory.path()).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
            let path = if named { "data" } else { "chatfiles-data" };
            for part in [path, "store.path", "--config", "chatfiles serve"] {
                assert!(error.contains(part), "{part}, {arguments:?}: {error}");
            }
            assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
            let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
            assert!(left.is_empty(), "{arguments:?} left {left:?}");
        }
    }
}

#[test]
fn commands_make_no_keys() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    drop(Process::start(&store, &[]));
    std::fs::remove_dir_all(store.join("keys")).unwrap();
    let object = "image.2026-11-25.019aa000-0000-7000-8000-000000000000";
    for arguments in [
        &["token", "--user", "alice"][..],
        &["store-token", object, "--user", "alice"],
        &["rotate-keys"],
    ] {
        let output = run(&[arguments, &["--store-path", text(&store)]].concat(), "");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(
            error.contains("keys") && error.contains("chatfiles serve"),
            "{arguments:?}: {error}"
        );
        assert!(!store.join("keys").exists(), "{arguments:?}");
    }
}

#[test]
fn busy_port_is_not_configuration_error() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (listen, code) in [
        (&*address, 1),
        // Documentation addresses: no machine has them, but an interface that comes up later might.
        ("192.0.2.1:8080", 1),
        ("nowhere:80", 2),
    ] {
        let store = directory.path().join("data");
        let output = run(
            &["serve", "--listen", listen, "--store-path", text(&store)],
            "",
        );
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{listen}: {error}");
        assert!(error.contains(listen), "{error}");
    }
}
