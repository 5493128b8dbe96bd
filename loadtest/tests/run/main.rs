//! Runs `loadtest run` against scripted servers and checks its report.

#![allow(clippy::unwrap_used)]

mod easemob;
mod server;

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    easemob::Faults,
    server::{Answer, Files},
};

/// Path of a file for one test.
fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Downloads and uploads of small files for a plain WebDAV server.
const DAV: &str = r#"
name = "dav"
dialect = "generic"
files = 10
zipf_exponent = 1.0
[api.upload]
method = "PUT"
path = "/f/{name}"
[api.download]
path = "/f/{id}"
[[class]]
name = "small"
weight = 1
bytes = [1000, 4000]
[[request]]
kind = "download"
weight = 9
expect = [200]
[[request]]
kind = "upload"
weight = 1
expect = [201]
"#;

/// A run of `loadtest run`, with files named after the test.
struct Run {
    name: &'static str,
    command: Command,
}

impl Run {
    fn new(name: &'static str, scenario: &str, server: SocketAddr) -> Self {
        let scenario_path = path(&format!("{name}.toml"));
        fs::write(&scenario_path, scenario).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
        command
            .args(["run", &format!("http://{server}"), "--seed", "7"])
            .arg("--scenario")
            .arg(scenario_path)
            .arg("--json")
            .arg(path(&format!("{name}.json")))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self { name, command }
    }

    fn with(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    fn start(mut self) -> (Child, &'static str) {
        (self.command.spawn().unwrap(), self.name)
    }

    /// The report, and the output of the program.
    fn report(self) -> (Value, Output) {
        let (child, name) = self.start();
        report(child, name)
    }
}

fn report(child: Child, name: &str) -> (Value, Output) {
    let output = child.wait_with_output().unwrap();
    let json = fs::read_to_string(path(&format!("{name}.json"))).unwrap_or_default();
    let json =
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{name}: {error} {output:?}"));
    (json, output)
}

fn kind<'a>(report: &'a Value, name: &str) -> &'a Value {
    let kinds = report["kinds"].as_array().unwrap();
    kinds
        .iter()
        .find(|kind| kind["name"] == name)
        .unwrap_or_else(|| panic!("{name}: {kinds:?}"))
}

/// How often a kind had a fault.
fn faults(report: &Value, name: &str, what: &str) -> u64 {
    let faults = kind(report, name)["faults"].as_array().unwrap();
    let found = faults.iter().find(|fault| fault["what"] == what);
    found.map_or(0, |fault| fault["count"].as_u64().unwrap())
}

#[test]
fn open_loop_counts_server_stall() {
    let files = Files::default();
    let gets = AtomicU64::new(0);
    let stalled_until = Mutex::new(None);
    let stall = Duration::from_millis(500);
    let server = server::start(move |request| {
        let mut until = *stalled_until.lock().unwrap();
        // The server stalls once, after the fill.
        if request.method == "GET" && gets.fetch_add(1, Ordering::Relaxed) == 300 {
            until = Some(Instant::now() + stall);
            *stalled_until.lock().unwrap() = until;
        }
        if let Some(until) = until {
            thread::sleep(until.saturating_duration_since(Instant::now()));
        }
        files.answer(request)
    });
    let arguments = [
        "--rate",
        "1000",
        "--connections",
        "4",
        "--duration",
        "3s",
        "--warmup",
        "0s",
    ];
    let (report, output) = Run::new("stall", DAV, server).with(&arguments).report();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(report["errors"], 0);
    let requests = report["requests"].as_u64().unwrap();
    assert!(
        (2_800..3_200).contains(&requests),
        "Poisson, of seed 7: {requests}"
    );
    // About 500 starts lie in the stall, and four fifths of them wait for more than 100 ms. A generator that waits for
    // the server would see four.
    let delayed = requests as f64 * share_above(&report["distribution"], 100_000.0);
    assert!(
        delayed > 300.0,
        "{delayed} were delayed: {}",
        report["distribution"]
    );
    assert!(report["latency_us"]["max"].as_f64().unwrap() >= 400_000.0);
    assert!(
        report["generator"]["wait_us"]["count"].as_u64().unwrap() > 300,
        "they found no connection free"
    );
}

/// The share of requests that took longer.
fn share_above(distribution: &Value, us: f64) -> f64 {
    let points = distribution.as_array().unwrap().iter();
    let mut points = points.map(|point| (point[0].as_f64().unwrap(), point[1].as_f64().unwrap()));
    points
        .find(|(_, latency_us)| *latency_us > us)
        .map_or(0.0, |(share, _)| 1.0 - share)
}

/// Flips a bit in one of five GET responses, after the fill and the checks.
fn flipping() -> SocketAddr {
    let files = Files::default();
    let gets = AtomicU64::new(0);
    server::start(move |request| {
        let mut answer = files.answer(request);
        if request.method == "GET" {
            let count = gets.fetch_add(1, Ordering::Relaxed);
            if count > 10 && count.is_multiple_of(5) {
                let middle = answer.body.len() / 2;
                answer.body[middle] ^= 1;
            }
        }
        answer
    })
}

#[test]
fn verify_finds_flipped_bit() {
    let arguments = [
        "--duration",
        "500ms",
        "--warmup",
        "0s",
        "--connections",
        "4",
        "--fail-on-error",
    ];
    let (seen, output) = Run::new("flip", DAV, flipping())
        .with(&arguments)
        .with(&["--verify"])
        .report();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let wrong = faults(&seen, "download", "wrong body");
    assert!(wrong > 0);
    assert_eq!(
        seen["errors"].as_u64(),
        Some(wrong),
        "and nothing else is wrong: {seen}"
    );
    let right = kind(&seen, "download")["latency_us"]["count"]
        .as_u64()
        .unwrap();
    assert!(right > wrong, "only some were flipped");

    let (unseen, output) = Run::new("flip-unseen", DAV, flipping())
        .with(&arguments)
        .report();
    assert!(
        output.status.success(),
        "what is thrown away is not compared: {output:?}"
    );
    assert_eq!(unseen["errors"], 0);
}

#[test]
fn counts_wrong_statuses_by_kind() {
    let files = Files::default();
    let gets = AtomicU64::new(0);
    let server = server::start(move |request| {
        let count = gets.fetch_add(u64::from(request.method == "GET"), Ordering::Relaxed);
        if request.method == "GET" && count > 10 && count.is_multiple_of(4) {
            return Answer::new(500, "<out of order>");
        }
        files.answer(request)
    });
    let page = path("status.html");
    let arguments = [
        "--duration",
        "500ms",
        "--warmup",
        "0s",
        "--threads",
        "2",
        "--html",
        page.to_str().unwrap(),
    ];
    let (report, output) = Run::new("status", DAV, server).with(&arguments).report();
    assert!(
        output.status.success(),
        "errors are no failure of the tool: {output:?}"
    );
    let wrong = faults(&report, "download", "status 500");
    assert!(wrong > 0);
    assert_eq!(report["errors"].as_u64(), Some(wrong));
    assert_eq!(
        kind(&report, "download")["statuses"]["500"].as_u64(),
        Some(wrong)
    );
    assert_eq!(
        kind(&report, "download")["faults"][0]["example"],
        "<out of order>"
    );
    assert_eq!(kind(&report, "upload")["errors"], 0);

    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("p99.99")
            && table.contains(&format!("{wrong} × status 500, such as <out of order>")),
        "{table}"
    );
    let page = fs::read_to_string(page).unwrap();
    // Four plots, each for a wide and for a narrow screen.
    assert_eq!(page.matches("<svg").count(), 2 * 4);
    assert!(page.contains("&lt;out of order&gt;"));
    for outside in ["src=", "href=", "url(", "@import", "<link", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

/// The built-in scenario with the credentials that the test's server accepts.
fn chat() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["run", "--print-scenario"])
        .output()
        .unwrap();
    let chat = String::from_utf8(output.stdout).unwrap();
    let grant = "token_grant = { client_id = \"c\", client_secret = \"sesame\", user = \"alice\" }";
    let chat = chat.replacen("dialect =", &format!("{grant}\ndialect ="), 1);
    // Higher weights of rare kinds and smaller files: one second covers all kinds.
    chat.replacen("weight = 0.02", "weight = 2", 1)
        .replacen("10_485_760", "1_148_576", 1)
}

#[test]
fn chat_scenario_passes_on_good_server() {
    let server = server::start(easemob::answer(Faults::default()));
    let arguments = [
        "--files",
        "60",
        "--duration",
        "1s",
        "--verify",
        "--sources",
        "8",
        "--connections",
        "8",
    ];
    let (report, output) = Run::new("chat", &chat(), server).with(&arguments).report();
    assert!(output.status.success(), "{output:?}");
    for name in [
        "upload",
        "download",
        "thumbnail",
        "range",
        "conditional",
        "head",
        "wrong_token",
        "burst",
    ] {
        assert!(
            kind(&report, name)["requests"].as_u64().unwrap() > 0,
            "{name}"
        );
    }
    // The HEAD limit affects only the bursts.
    let burst = kind(&report, "burst");
    assert_eq!(burst["errors"], 0, "being refused is what a burst is for");
    assert!(burst["statuses"]["503"].as_u64().unwrap() > 0, "{burst}");
    let heads = faults(&report, "head", "status 503");
    assert_eq!(report["errors"].as_u64(), Some(heads), "{report}");
    assert_eq!(
        kind(&report, "wrong_token")["statuses"]["401"],
        kind(&report, "wrong_token")["requests"]
    );
}

#[test]
fn each_kind_detects_wrong_answers() {
    let all = Faults {
        thumbnails: true,
        ranges: true,
        heads: true,
        tokens: true,
    };
    let server = server::start(easemob::answer(all));
    let arguments = [
        "--files",
        "60",
        "--duration",
        "1s",
        "--verify",
        "--connections",
        "8",
        "--rate",
        "500",
    ];
    let (report, output) = Run::new("faults", &chat(), server)
        .with(&arguments)
        .report();
    assert!(output.status.success(), "{output:?}");
    for (name, what) in [
        ("thumbnail", "not an image"),
        ("range", "wrong body"),
        ("head", "wrong length"),
        ("wrong_token", "status 200"),
    ] {
        assert!(
            faults(&report, name, what) > 0,
            "{name}: {}",
            kind(&report, name)
        );
    }
    for name in ["download", "upload", "conditional"] {
        assert_eq!(
            kind(&report, name)["errors"],
            0,
            "{name}: {}",
            kind(&report, name)
        );
    }
}

#[test]
fn ctrl_c_reports_partial_run() {
    let files = Files::default();
    let gets = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&gets);
    let server = server::start(move |request| {
        seen.fetch_add(u64::from(request.method == "GET"), Ordering::Relaxed);
        files.answer(request)
    });
    let arguments = ["--duration", "1h", "--warmup", "0s", "--rate", "200"];
    let (child, name) = Run::new("interrupted", DAV, server)
        .with(&arguments)
        .start();
    while gets.load(Ordering::Relaxed) < 100 {
        thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (report, output) = report(child, name);
    assert!(output.status.success(), "{output:?}");
    assert!(report["requests"].as_u64().unwrap() >= 50, "{report}");
    assert!(report["measured_s"].as_f64().unwrap() < 3600.0);
    assert_eq!(report["errors"], 0);
}

/// Its error message and exit code.
#[track_caller]
fn refused(target: &str, arguments: &[&str]) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    let output = command
        .args(["run", target])
        .args(arguments)
        .output()
        .unwrap();
    (
        String::from_utf8(output.stderr).unwrap(),
        output.status.code(),
    )
}

#[test]
fn wrong_arguments_exit_with_2() {
    let bad = path("bad.toml");
    fs::write(&bad, DAV.replace("weight = 9", "weight = -9")).unwrap();
    let bad = bad.to_str().unwrap();
    for (target, arguments, message) in [
        (
            "http://127.0.0.1:1",
            &["--scenario", bad][..],
            "request[0].weight: ",
        ),
        (
            "http://[::1]:1",
            &["--token", "t", "--sources", "4"],
            "--sources needs a server on 127.0.0.0/8",
        ),
        ("https://127.0.0.1:1", &[], "TLS is not supported"),
        ("http://127.0.0.1:1", &[], "a token is needed"),
        ("http://127.0.0.1:1", &["--rate", "0"], "--rate: "),
        ("http://127.0.0.1:1", &["--duration", "5x"], "is not a unit"),
        (
            "http://127.0.0.1:1",
            &["--threads", "9", "--connections", "8"],
            "--connections: ",
        ),
        (
            "http://127.0.0.1:1",
            &["--token", "t", "--html", "/nowhere/x.html"],
            "/nowhere/x.html: ",
        ),
    ] {
        let (said, code) = refused(target, arguments);
        assert!(said.contains(message), "{arguments:?}: {said}");
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
    }
}

#[test]
fn reports_absent_or_refusing_server() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (said, code) = refused(&format!("http://{free}"), &["--token", "t"]);
    assert!(
        said.contains("no server listens there") && code == Some(1),
        "{said}"
    );

    let server = server::start(easemob::answer(Faults::default()));
    let (said, code) = refused(&format!("http://{server}"), &["--token", "t"]);
    assert!(
        said.contains("the token is refused: status 401") && code == Some(1),
        "{said}"
    );

    let scenario = path("denied.toml");
    fs::write(&scenario, chat().replace("sesame", "open")).unwrap();
    let (said, code) = refused(
        &format!("http://{server}"),
        &["--scenario", scenario.to_str().unwrap()],
    );
    assert!(
        said.contains("the server issues no token: status 400") && code == Some(1),
        "{said}"
    );

    fs::write(
        &scenario,
        DAV.replacen("dialect", "token_command = [\"false\"]\ndialect", 1),
    )
    .unwrap();
    let (said, code) = refused(
        &format!("http://{server}"),
        &["--scenario", scenario.to_str().unwrap()],
    );
    assert!(
        said.contains("token_command \"false\": exit status: 1") && code == Some(1),
        "{said}"
    );
}
