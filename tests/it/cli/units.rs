//! Sizes, times and addresses with units and short forms: in the file, in flags and in variables.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use crate::support::{
    Connection,
    process::{Launch, assert_fails, chatfiles, run, stdout},
};

fn checked(toml: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chatfiles.toml");
    std::fs::write(&file, toml).unwrap();
    let output = chatfiles(&["check-config", "--config", file.to_str().unwrap()])
        .current_dir(directory.path())
        .output();
    stdout(&output.unwrap())
}

/// The value of a line of `check-config`.
fn value(said: &str, name: &str) -> String {
    let line = said.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} in {said}"))
        .trim()
        .to_owned()
}

const SIZES: &str = "upload size limit";

#[test]
fn sizes_take_units() {
    for (written, shown) in [
        ("20971520", "20MiB"),
        ("\"20971520\"", "20MiB"),
        ("\"20MiB\"", "20MiB"),
        ("\"20 MiB\"", "20MiB"),
        ("\"20mib\"", "20MiB"),
        ("\"20MB\"", "20MB"),
        ("\"64KiB\"", "64KiB"),
        ("1000", "1kB"),
        ("1001", "1001B"),
    ] {
        let said = checked(&format!("[limits]\nupload_bytes_max = {written}\n"));
        assert_eq!(value(&said, SIZES), shown, "{written}");
        let plain = written.trim_matches('"');
        let flag = run(&["check-config", "--upload-bytes-max", plain], "");
        assert_eq!(value(&stdout(&flag), SIZES), shown, "{written}");
        let variable = chatfiles(&["check-config"])
            .env("CHATFILES_UPLOAD_BYTES_MAX", plain)
            .output();
        assert_eq!(
            value(&stdout(&variable.unwrap()), SIZES),
            shown,
            "{written}"
        );
        // What is printed can be read back.
        let again = run(&["check-config", "--upload-bytes-max", shown], "");
        assert_eq!(value(&stdout(&again), SIZES), shown);
    }
}

#[test]
fn tenant_values_are_printed_as_toml() {
    let tenant = "[[tenant]]\norg = \"a\"\napp = \"b\"\n";
    let own = "upload_bytes_max = \"1536KiB\"\nupload_bytes_per_day = \"5GB\"\ncalls_burst = 7\n";
    let said = checked(&format!("{tenant}{own}"));
    let line = value(&said, "tenant");
    for setting in own.lines() {
        assert!(line.contains(setting), "{setting} in {line}");
    }
}

#[test]
fn times_take_units() {
    let toml = "\
[server]
header_timeout_seconds = \"5s\"
idle_timeout_seconds = \"1m30s\"
body_idle_timeout_seconds = \"2m\"
body_bytes_per_second_min = \"2kB\"
request_timeout_seconds = \"2h\"
shutdown_grace_seconds = \"1 minute\"
handover_grace_seconds = 300
[cdn]
url = \"https://cdn.example.com\"
url_ttl_seconds = \"1h30m\"
[thumbnails]
failure_memory_seconds = \"10s\"
cache_bytes_max = \"128MiB\"
decode_bytes_max = \"1GiB\"
[media]
timeout_seconds = \"20s\"
voice_seconds_max = \"5m\"
memory_bytes_max = \"2GiB\"
[hook]
timeout_seconds = \"3s\"
cache_seconds = \"0s\"
[store]
free_space_min_bytes = \"10GiB\"
[limits]
upload_bytes_in_flight_max = \"1GiB\"
user_upload_bytes_per_day = \"1GB\"
[[tenant]]
org = \"a\"
app = \"b\"
dynamic_token_ttl_seconds = [\"10m\", 3600]
";
    let said = checked(toml);
    for shown in [
        "valid for up to 1h30m",
        "10GiB; below it",
        "up to 1GiB",
        "1GB per user",
    ] {
        assert!(said.contains(shown), "{shown} in {said}");
    }
    // The lifetime of a token is a time, too.
    let output = run(&["token", "--user", "a", "--ttl-seconds", "soon"], "");
    assert_fails(&output, 2, &["--ttl-seconds", "such as 30s"]);
}

#[test]
fn bad_units_are_refused() {
    for (section, key, written, parts) in [
        (
            "limits",
            "upload_bytes_max",
            "\"10M\"",
            ["ambiguous", "10MiB or 10MB"],
        ),
        (
            "limits",
            "upload_bytes_max",
            "\"ten\"",
            ["whole number", "10MiB"],
        ),
        (
            "limits",
            "upload_bytes_max",
            "\"1.5MiB\"",
            ["whole number", "1.5MiB"],
        ),
        (
            "limits",
            "upload_bytes_max",
            "\"201MiB\"",
            ["from 1B to 200MiB", "201MiB"],
        ),
        (
            "limits",
            "upload_bytes_max",
            "-1",
            ["from 1B to 200MiB", "-1"],
        ),
        (
            "limits",
            "upload_bytes_max",
            "true",
            ["a whole number or a text", "true"],
        ),
        (
            "limits",
            "upload_bytes_max",
            "\"99999999TiB\"",
            ["too large", "99999999TiB"],
        ),
        (
            "server",
            "idle_timeout_seconds",
            "\"25h\"",
            ["from 1s to 24h", "25h"],
        ),
        (
            "server",
            "idle_timeout_seconds",
            "\"500ms\"",
            ["whole seconds", "500ms"],
        ),
        (
            "server",
            "idle_timeout_seconds",
            "\"soon\"",
            ["such as 30s", "soon"],
        ),
        (
            "server",
            "idle_timeout_seconds",
            "1.5",
            ["a whole number or a text", "1.5"],
        ),
        (
            "server",
            "idle_timeout_seconds",
            "\"999999999999h\"",
            ["such as", "999999999999h"],
        ),
        (
            "cdn",
            "url_ttl_seconds",
            "\"30s\"",
            ["from 1m to 168h", "30s"],
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("chatfiles.toml");
        std::fs::write(&file, format!("[{section}]\n{key} = {written}\n")).unwrap();
        let output = run(&["check-config", "--config", file.to_str().unwrap()], "");
        let name = format!("line 2: {section}.{key}: ");
        assert_fails(&output, 2, &[&name, parts[0], parts[1]]);
    }
    for (flag, written, part) in [
        ("--upload-bytes-max", "10M", "10MiB or 10MB"),
        ("--free-space-min-bytes", "lots", "such as 10MiB"),
    ] {
        assert_fails(
            &run(&["check-config", flag, written], ""),
            2,
            &[flag, written, part],
        );
    }
    let variable = chatfiles(&["check-config"])
        .env("CHATFILES_UPLOAD_BYTES_MAX", "10X")
        .output();
    assert_fails(
        &variable.unwrap(),
        2,
        &["--upload-bytes-max", "10X", "such as 10MiB"],
    );
}

#[track_caller]
fn answers(ip: impl Into<std::net::IpAddr>, port: u16) {
    let address = SocketAddr::new(ip.into(), port);
    assert_eq!(
        Connection::open(address)
            .request("GET", "/healthz", &[], b"")
            .status,
        200
    );
}

/// Starts a server with this address on a free port.
fn start(store: &Path, listen: &str) -> crate::support::process::Process {
    Launch::new(store).flags(&["--listen", listen]).start()
}

#[test]
fn listens_on_short_addresses() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    for listen in ["0", "localhost:0"] {
        let server = start(&store, listen);
        assert_eq!(server.address.ip(), Ipv4Addr::LOCALHOST, "{listen}");
        answers(Ipv4Addr::LOCALHOST, server.address.port());
    }
    // All addresses, of both kinds.
    let server = start(&store, ":0");
    assert_eq!(server.address.ip(), Ipv6Addr::UNSPECIFIED);
    for ip in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)] {
        answers(ip, server.address.port());
    }
    answers(Ipv6Addr::LOCALHOST, server.address.port());
}

#[test]
fn file_takes_short_addresses() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chatfiles.toml");
    let store = directory.path().join("data");
    for (listen, operator) in [
        ("[0]", "0"),
        ("[\"localhost:0\"]", "\"localhost:0\""),
        ("[\"0\"]", "\"0\""),
    ] {
        let toml = format!("[server]\nlisten = {listen}\n[operator]\nlisten = {operator}\n");
        std::fs::write(&file, toml).unwrap();
        // The flag of other tests would win.
        let mut command = chatfiles(&["serve", "--config", file.to_str().unwrap()]);
        command.args([
            "--store-path",
            store.to_str().unwrap(),
            "--calls-per-second",
            "0",
        ]);
        let server = Launch::new(&store).start_command(command);
        assert_eq!(server.address.ip(), Ipv4Addr::LOCALHOST, "{listen}");
        assert_eq!(server.ask_operator("/livez").status, 200, "{operator}");
    }
    // After a prefix.
    for (written, expected) in [
        ("tls:8443", "\"tls:127.0.0.1:8443\" needs a certificate"),
        ("proxy::8443", "\"proxy:[::]:8443\" needs networks"),
        (
            "proxy:tls:localhost:8443",
            "\"proxy:tls:127.0.0.1:8443\" needs networks",
        ),
        ("example.com:80", "such as"),
    ] {
        std::fs::write(&file, format!("[server]\nlisten = [\"{written}\"]\n")).unwrap();
        let output = run(&["check-config", "--config", file.to_str().unwrap()], "");
        let expected = match written {
            "example.com:80" => "localhost:8080",
            _ => expected,
        };
        assert_fails(&output, 2, &["server.listen", expected]);
    }
}
