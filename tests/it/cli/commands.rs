//! Each command, with and without a running server.

use std::{io::Read, path::Path};

use chatfiles::time::Clock;
use rustix::process::Signal;

use crate::support::{
    BASE, Connection, Form, photo,
    process::{Process, Terminal, assert_fails, chatfiles, command, id, run, stdout},
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
    assert_fails(
        &command(&store, &["rm", &id]),
        1,
        &[&format!("there is no file {id}")],
    );
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
    let gone = format!("there is no file {id}");
    assert_fails(&command(&store, &["rm", &id]), 1, &[&gone, text(&store)]);
}

#[test]
fn store_token_checks_its_object() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let config = directory.path().join("chatfiles.toml");
    let tenant =
        |app| format!("[[tenant]]\norg = \"easemob-demo\"\napp = \"{app}\"\napp_id = \"{app}\"\n");
    std::fs::write(&config, tenant("chatdemoui") + &tenant("other")).unwrap();
    let flags = ["--config", text(&config)];
    let server = Process::start(&store, &flags);
    let id = upload(&server, &token(&store));
    let day = chatfiles::store::ObjectId::parse(&id).unwrap().created();
    let object = format!("chatfile.{}.{id}", day.day());
    let missing = "image.2026-11-25.019aa000-0000-7000-8000-000000000000";
    let issue = |object: &str, tenant: &str| {
        let tenant = ["--tenant", tenant, "--user", "bob"];
        let arguments = [&["store-token", object], &tenant[..], &flags[..]].concat();
        command(&store, &arguments)
    };
    for (object, tenant, expected) in [
        (missing, "chatdemoui", [missing, text(&store)]),
        (&object, "chatdemoui", [&object, "Easemob API"]),
        (
            &object,
            "other",
            [&object, "--tenant easemob-demo/chatdemoui"],
        ),
    ] {
        assert_fails(
            &issue(object, &format!("easemob-demo/{tenant}")),
            1,
            &expected,
        );
    }
}

#[test]
fn scrub_lists_damaged_files() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &[]);
    let token = token(&store);
    let (good, bad) = (upload(&server, &token), upload(&server, &token));
    let scrub = || command(&store, &["scrub"]);
    let bytes = |id: &str| {
        let mut paths = crate::support::files_below(&store).into_iter();
        let path = paths.find(|path| path.ends_with(id)).unwrap();
        std::fs::metadata(store.join(path)).unwrap().len()
    };
    let kib = (bytes(&good) + bytes(&bad)) as f64 / 1024.0;
    let summary = format!("verified 2 files ({kib:.2} KiB), 0 damaged");
    assert_eq!(stdout(&scrub()), summary);
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
        text.contains(&bad)
            && !text.contains(&good)
            && text.contains("checksum")
            && text.contains("verified 2 files")
            && text.contains("1 damaged"),
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
    let flags = ["serve", "--listen", "0", "--store-path", text(&store)];
    let expected = [text(&store), "in use by another server", "process"];
    assert_fails(&run(&flags, ""), 1, &expected);
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
    const HOUR_MS: i64 = 3_600_000;
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let old = store.join("objects/chatfile/2020-01-01/00");
    let days = ["--store-path", text(&store), "--chatfile-days", "7"];
    let with = |command: &[&'static str]| run(&[command, &days[..]].concat(), "");
    let now = Clock::system().now().ms();
    for (last_sweep, why) in [
        (None, "there is no record of an earlier sweep"),
        (Some(now - 100 * HOUR_MS), "the last sweep was 4 days ago"),
        (
            Some(now + 51 * HOUR_MS - 1),
            "the last sweep is 50 hours in the future",
        ),
    ] {
        std::fs::create_dir_all(&old).unwrap();
        std::fs::write(old.join("x"), "x").unwrap();
        if let Some(ms) = last_sweep {
            std::fs::write(store.join("last-sweep"), ms.to_string()).unwrap();
        }
        // Both commands say the same.
        let planned = stdout(&with(&["check-config"]));
        let swept = with(&["sweep"]);
        assert_eq!(swept.status.code(), Some(1));
        let swept = String::from_utf8_lossy(&swept.stdout).into_owned();
        assert!(planned.ends_with(swept.trim_end()), "{planned}\n{swept}");
        for part in [
            why,
            "sweep --yes",
            "1 file (1 B), all of chatfile/2020-01-01",
        ] {
            assert!(swept.contains(part), "{part} in {swept}");
        }
        assert!(old.join("x").exists());
        let removed = stdout(&with(&["sweep", "--yes"]));
        assert_eq!(removed, "removed: 1 file (1 B), all of chatfile/2020-01-01");
        assert!(!old.exists());
        assert_eq!(stdout(&with(&["sweep"])), "removed: nothing");
        let planned = stdout(&with(&["check-config"]));
        assert!(
            planned.ends_with("a sweep would remove: nothing"),
            "{planned}"
        );
    }
}

#[test]
fn shows_progress_on_terminal_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    drop(Process::start(&store, &[]));
    let old = store.join("objects/chatfile/2020-01-01/00");
    for arguments in [&["scrub"][..], &["sweep", "--chatfile-days", "7", "--yes"]] {
        for is_terminal in [false, true] {
            std::fs::create_dir_all(&old).unwrap();
            std::fs::write(old.join("x"), vec![1; 4096]).unwrap();
            let mut command = chatfiles(arguments);
            command.args(["--store-path", text(&store)]);
            // Without it, indicatif draws nothing.
            command.env("TERM", "xterm");
            let shown = match is_terminal {
                false => command.output().unwrap().stderr,
                true => {
                    let terminal = Terminal::open();
                    command
                        .stderr(terminal.end)
                        .stdout(std::process::Stdio::null());
                    let mut child = command.spawn().unwrap();
                    // The last descriptor of the program's end.
                    drop(command);
                    child.wait().unwrap();
                    let mut shown = Vec::new();
                    // Linux reports the closed end as an error, after everything was read.
                    let _ = { terminal.screen }.read_to_end(&mut shown);
                    shown
                }
            };
            let shown = String::from_utf8_lossy(&shown);
            match is_terminal {
                false => assert_eq!(shown, "", "{arguments:?}"),
                true => {
                    for part in ["1/1 files", "4.00 KiB/4.00 KiB", "left"] {
                        assert!(shown.contains(part), "{arguments:?}: {part} in {shown:?}");
                    }
                }
            }
        }
    }
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
