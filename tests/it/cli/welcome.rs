//! The commands that a starting server prints work, and so do those of the vendor and of the quick start.

use std::{path::Path, process::Command};

use crate::support::process::{Launch, Process, run, stdout};

fn shell(script: &str, directory: &Path) -> String {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(directory)
        .output()
        .unwrap();
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{script}\n{out}{error}");
    out.into_owned()
}

#[track_caller]
fn assert_thumbnail(path: &Path) {
    let picture = image::open(path).unwrap();
    assert!(
        picture.width() <= 170 && picture.height() <= 170,
        "{} × {}",
        picture.width(),
        picture.height()
    );
    assert!(picture.width() == 170 || picture.height() == 170);
}

#[test]
fn printed_commands_work() {
    assert_printed_commands_work("");
}

#[test]
fn printed_commands_work_with_signed_urls() {
    assert_printed_commands_work("download_auth = \"signed\"");
}

fn assert_printed_commands_work(tenant: &str) {
    let directory = tempfile::tempdir().unwrap();
    // A space in the path: the printed commands must quote it for a shell.
    let store = directory.path().join("my data");
    let config = directory.path().join("chatfiles.toml");
    let demo =
        "[[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\napp_id = \"welovemaxim\"\n";
    std::fs::write(&config, format!("{demo}{tenant}\n")).unwrap();
    let flags = match tenant {
        // No configuration.
        "" => vec![],
        _ => vec!["--config", config.to_str().unwrap()],
    };
    let server = Launch::new(&store).flags(&flags).on_terminal().start();
    let (_, commands) = server.welcome.split_once("TOKEN=").unwrap();
    let out = shell(&format!("TOKEN={commands}"), directory.path());
    for (copy, thumbnail) in [("copy.jpg", "thumbnail.jpg"), ("sent.jpg", "small.jpg")] {
        assert!(
            out.contains(&format!("{copy} is the photo, byte for byte")),
            "{out}"
        );
        assert!(std::fs::read(directory.path().join(copy)).unwrap() == crate::support::photo());
        assert_thumbnail(&directory.path().join(thumbnail));
    }
    // The last command prints a link for another user.
    let forwarded = out.trim_end().lines().last().unwrap();
    assert!(
        forwarded.contains("/file/download/chat?file_sign="),
        "{out}"
    );
}

#[test]
fn vendor_curl_commands_work() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &[]);
    let token = stdout(&server.command(&["token", "--user", "stliu"]));
    let photo = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/photo.jpg");
    // Copied from the vendor's document.
    let upload = r#"curl --verbose --header "Authorization: Bearer YWMtz1hFWOZpEeOPpcmw1FB0RwAAAUZnAv0D7y9-i4c9_c4rcx1qJDduwylRe7Y" --header "restrict-access:true" --form file=@/Users/stliu/a.jpg https://a1.easemob.com/easemob-demo/chatdemoui/chatfiles"#;
    let download = r#"curl -O -H "share-secret: DRGM8OZrEeO1vafuJSo2IjHBeKlIhDp0GCnFu54xOF3M6KLr" --header "Authorization: Bearer YWMtz1hFWOZpEeOPpcmw1FB0RwAAAUZnAv0D7y9-i4c9_c4rcx1qJDduwylRe7Y" -H "Accept: application/octet-stream" https://a1.easemob.com/easemob-demo/chatdemoui/chatfiles/0c0f5f3a-e66b-11e3-8863-f1c202c2b3ae"#;
    let thumbnail = r#"curl -O -H "thumbnail: true" -H "share-secret: DRGM8OZrEeO1vafuJSo2IjHBeKlIhDp0GCnFu54xOF3M6KLr" -H "Authorization: Bearer YWMtz1hFWOZpEeOPpcmw1FB0RwAAAUZnAv0D7y9-i4c9_c4rcx1qJDduwylRe7Y" -H "Accept: application/octet-stream" https://a1.easemob.com/easemob-demo/chatdemoui/chatfiles/0c0f5f3a-e66b-11e3-8863-f1c202c2b3ae"#;
    let replaced = |command: &str, id: &str, secret: &str| {
        command
            .replace(
                "YWMtz1hFWOZpEeOPpcmw1FB0RwAAAUZnAv0D7y9-i4c9_c4rcx1qJDduwylRe7Y",
                &token,
            )
            .replace(
                "https://a1.easemob.com",
                &format!("http://{}", server.address),
            )
            .replace("/Users/stliu/a.jpg", photo)
            .replace("0c0f5f3a-e66b-11e3-8863-f1c202c2b3ae", id)
            .replace("DRGM8OZrEeO1vafuJSo2IjHBeKlIhDp0GCnFu54xOF3M6KLr", secret)
    };
    let answer: serde_json::Value =
        serde_json::from_str(&shell(&replaced(upload, "", ""), directory.path())).unwrap();
    let entity = &answer["entities"][0];
    let (id, secret) = (
        entity["uuid"].as_str().unwrap(),
        entity["share-secret"].as_str().unwrap(),
    );
    assert_eq!(secret.len(), 48);
    shell(&replaced(download, id, secret), directory.path());
    let file = directory.path().join(id);
    assert!(std::fs::read(&file).unwrap() == crate::support::photo());
    shell(&replaced(thumbnail, id, secret), directory.path());
    assert_thumbnail_without_extension(&file);
}

#[track_caller]
fn assert_thumbnail_without_extension(path: &Path) {
    let renamed = path.with_extension("jpg");
    std::fs::rename(path, &renamed).unwrap();
    assert_thumbnail(&renamed);
}

/// The text of a document.
fn document(name: &str) -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    std::fs::read_to_string(format!("{root}/{name}")).unwrap()
}

/// The fenced blocks of a language.
fn blocks<'d>(document: &'d str, language: &str) -> Vec<&'d str> {
    let fence = format!("```{language}\n");
    let blocks = document.split(&*fence).skip(1);
    blocks.filter_map(|rest| rest.split("```").next()).collect()
}

/// `cargo run` and `scripts/test` are what CI and every developer run; all other commands are in the quick start.
#[test]
fn both_readmes_have_the_same_commands() {
    let commands = |name: &str| {
        let text = document(name);
        let blocks = blocks(&text, "sh").into_iter().flat_map(str::lines);
        let command = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
        blocks.map(command).collect::<Vec<_>>()
    };
    let expected = ["cargo run --release", "./scripts/test"];
    for name in ["README.md", "README.zh-CN.md"] {
        assert_eq!(commands(name), expected, "{name}");
        // Two screens.
        assert!(document(name).lines().count() <= 80, "{name}");
    }
}

#[test]
fn quick_start_configuration_is_valid() {
    let quick_start = document("docs/quickstart.md");
    let [configuration] = blocks(&quick_start, "toml")[..] else {
        panic!("one configuration");
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chatfiles.toml");
    std::fs::write(&file, configuration).unwrap();
    let store = directory.path().join("store");
    let arguments = ["check-config", "--config", file.to_str().unwrap()];
    let arguments = [&arguments[..], &["--store-path", store.to_str().unwrap()]].concat();
    let said = stdout(&run(&arguments, ""));
    for expected in ["https://files.example.com", "acme/chat", "10.0.0.0/8"] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
}

#[test]
fn quick_start_commands_work() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &[]);
    let root = env!("CARGO_MANIFEST_DIR");
    let quick_start = document("docs/quickstart.md");
    let blocks = blocks(&quick_start, "sh");
    let blocks: Vec<&str> = blocks
        .into_iter()
        .filter(|block| block.contains("curl"))
        .collect();
    assert_eq!(blocks.len(), 2, "one for each API");
    let program = format!(
        "{} --store-path {}",
        env!("CARGO_BIN_EXE_chatfiles"),
        store.display()
    );
    for (block, thumbnail) in blocks.into_iter().zip(["thumbnail.jpg", "small.jpg"]) {
        let script = block
            .replace("target/release/chatfiles", &program)
            .replace(
                "http://127.0.0.1:8080",
                &format!("http://{}", server.address),
            )
            .replace(
                "tests/data/photo.jpg",
                &format!("{root}/tests/data/photo.jpg"),
            );
        shell(&script, directory.path());
        assert_thumbnail(&directory.path().join(thumbnail));
    }
    let is_photo = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        path.is_file() && std::fs::read(path).unwrap() == crate::support::photo()
    };
    let copies = std::fs::read_dir(directory.path()).unwrap();
    assert_eq!(copies.map(is_photo).filter(|is| *is).count(), 2);
}

/// The banner of a server, for a program and on a terminal.
fn banner(flags: &[&str], is_on_terminal: bool) -> String {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let launch = Launch::new(&store).flags(flags);
    let server = match is_on_terminal {
        true => launch.on_terminal().start(),
        false => launch.start(),
    };
    server.welcome.clone()
}

#[test]
fn prints_commands_on_terminal_only() {
    for format in ["text", "json"] {
        let flags = ["--log-format", format, "--operator-listen", "0"];
        let on_terminal = banner(&flags, true);
        assert!(
            on_terminal.starts_with("listening on http://127.0.0.1:"),
            "{on_terminal}"
        );
        assert!(on_terminal.contains("TOKEN=$("), "{on_terminal}");
    }
    let piped = banner(&["--log-format", "text"], false);
    assert!(
        piped.starts_with("listening on http://127.0.0.1:"),
        "{piped}"
    );
    assert!(
        piped.contains("upload size limit") && !piped.contains("curl"),
        "{piped}"
    );
}

#[test]
fn json_banner_is_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let socket = directory.path().join("http");
    let listen = format!("127.0.0.1:0,unix:{}", socket.display());
    let flags = [
        "--log-format",
        "json",
        "--operator-listen",
        "0",
        "--listen",
        &listen,
    ];
    let mut server = Launch::new(&store).flags(&flags).start();
    assert_eq!(server.welcome.lines().count(), 1, "{}", server.welcome);
    let banner: serde_json::Value = serde_json::from_str(&server.welcome).unwrap();
    assert_eq!(banner["message"], "started");
    assert_eq!(banner["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(banner["listen"][0], format!("http://{}", server.address));
    assert_eq!(banner["listen"][1], format!("unix:{}", socket.display()));
    assert_eq!(banner["operator"], format!("http://{}", server.operator()));
    assert_eq!(banner["store"], store.to_str().unwrap());
    server.stop();
    // The log is JSON as well.
    for line in server.log().lines() {
        serde_json::from_str::<serde_json::Value>(line).expect(line);
    }
}
