//! A real browser whose cache stores several representations of one file under one URL.
//!
//! When a page requests another representation, Chromium revalidates the stored one: with `If-None-Match`, and with a
//! `Range` of the bytes that it has, without `If-Range`. It would then take a 206 for the whole file, and the page
//! would get a part of it.

use std::{
    fmt::{self, Write as _},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{
    Answer, BASE, TestServer,
    media::{AMR, MP4},
    photo,
};

/// Much more than the browser needs on a busy machine, so that the test cannot hang.
const TIMEOUT: Duration = Duration::from_secs(240);
/// The ranges that a page requests; `None` is the whole file.
const RANGES: [Option<&str>; 5] = [
    None,
    Some("bytes=0-"),
    Some("bytes=0-99"),
    Some("bytes=100-"),
    Some("bytes=-100"),
];

/// A representation of a file: the header that selects it, and its bytes.
struct Form {
    name: &'static str,
    header: Option<(&'static str, &'static str)>,
    bytes: Vec<u8>,
}

/// One request of a page.
struct Step<'f> {
    form: &'f Form,
    range: Option<&'static str>,
}

impl Step<'_> {
    /// Whether the page got this representation completely, or the part that the response names if it requested a part.
    ///
    /// The part may differ from the requested one: Chromium ends an open range at the length of the representation that
    /// it has, and `Content-Range` says so.
    fn is_met_by(&self, answer: &Value) -> bool {
        let whole = &*self.form.bytes;
        let given = match answer["status"].as_u64() {
            Some(200) => whole,
            Some(206) if self.range.is_some() => {
                let Some(part) = answer["range"]
                    .as_str()
                    .and_then(|range| part(range, whole))
                else {
                    return false;
                };
                part
            }
            _ => return false,
        };
        answer["sha256"] == *sha256(given)
    }
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.form.name, self.range.unwrap_or_default())
    }
}

/// The bytes that a `Content-Range` names, if it matches this body.
fn part<'w>(content_range: &str, whole: &'w [u8]) -> Option<&'w [u8]> {
    let (range, length) = content_range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    (length == whole.len().to_string()).then(|| whole.get(first..=last))?
}

fn sha256(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

/// Both representations of a file.
fn forms(
    server: &TestServer,
    id: &str,
    others: (&'static str, (&'static str, &'static str)),
) -> [Form; 2] {
    let get = |headers: &[(&str, &str)]| -> Answer {
        let answer = server.download(id, headers);
        assert_eq!(answer.status, 200, "{headers:?}: {}", answer.text());
        answer
    };
    let (name, header) = others;
    let (stored, made) = (get(&[]).body, get(&[header]).body);
    assert_ne!(stored, made, "{name}");
    [
        Form {
            name: "stored",
            header: None,
            bytes: stored,
        },
        Form {
            name,
            header: Some(header),
            bytes: made,
        },
    ]
}

/// A page in its own browser. The browser is killed on drop.
struct Browser {
    child: Child,
    results: Receiver<Value>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Opens a page that runs these cases, served from its own port.
    fn open(cases: &Value) -> Self {
        let page = include_str!("chromium.html").replace("__CASES__", &cases.to_string());
        let (address, results) = serve(page);
        let profile = tempfile::tempdir().expect("a temporary directory");
        let child = Command::new("chromium")
            // Chromium has no sandbox for root. The page is trusted.
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-dev-shm-usage", "--no-first-run", "--mute-audio"])
            // Allows only requests to this machine.
            .args([
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .args(["--disable-sync", "--no-proxy-server"])
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("http://{address}/"))
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromium is installed (scripts/setup)");
        Self {
            child,
            results,
            _profile: profile,
        }
    }

    /// The page's report after all cases.
    fn results(&self) -> Value {
        let results = self.results.recv_timeout(TIMEOUT);
        results.expect("the page reports in time")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves one page and receives its report.
fn serve(page: String) -> (SocketAddr, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let (page, sender) = (page.clone(), sender.clone());
            // One thread per connection: the browser opens connections that it never uses.
            std::thread::spawn(move || answer(stream, &page, &sender));
        }
    });
    (address, receiver)
}

fn answer(stream: std::net::TcpStream, page: &str, results: &mpsc::Sender<Value>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    stream.read_line(&mut first).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let (status, text) = match first.split(' ').nth(1)? {
        "/" => ("200 OK", page),
        "/results" => {
            let _ = results.send(serde_json::from_slice(&body).ok()?);
            ("200 OK", "")
        }
        _ => ("404 Not Found", ""),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    let socket = stream.get_mut();
    socket.write_all(head.as_bytes()).ok()?;
    socket.write_all(text.as_bytes()).ok()
}

#[test]
fn chromium_gets_every_form_whole() {
    let server = TestServer::start();
    let authorization = format!("Bearer {}", server.token("alice"));
    let thumbnail = ("thumbnail", "true");
    let files = [
        ("a.jpg", "image/jpeg", photo(), ("thumbnail", thumbnail)),
        (
            "a.amr",
            "audio/amr",
            AMR.clone(),
            ("MP3", ("Accept", "audio/mp3")),
        ),
        ("a.mp4", "video/mp4", MP4.clone(), ("cover", thumbnail)),
    ]
    .map(|(name, content_type, bytes, other)| {
        let id = server.store_file(name, content_type, &bytes);
        let forms = forms(&server, &id, other);
        (id, forms)
    });
    let (mut cases, mut expected) = (Vec::new(), Vec::new());
    for (id, [stored, made]) in &files {
        let pairs = [
            (stored, made),
            (made, stored),
            (stored, stored),
            (made, made),
        ];
        for (first, second) in pairs {
            for (a, b) in RANGES.iter().flat_map(|a| RANGES.map(|b| (*a, b))) {
                // The last one again without a range: the cache's combined response must be complete too.
                let steps = [(first, a), (second, b), (second, None)]
                    .map(|(form, range)| Step { form, range });
                // Unknown parameters change nothing, so each case has its own entry in the browser's cache.
                let path = format!("{BASE}/chatfiles/{id}?case={}", cases.len());
                let asked = steps.each_ref().map(|step| {
                    let mut headers = json!({ "Authorization": authorization });
                    let chosen_by = step.form.header.into_iter();
                    for (name, value) in chosen_by.chain(step.range.map(|range| ("Range", range))) {
                        headers[name] = json!(value);
                    }
                    json!({ "url": format!("http://{}{path}", server.address), "headers": headers })
                });
                cases.push(json!(asked));
                expected.push(steps);
            }
        }
    }
    let browser = Browser::open(&Value::Array(cases));
    let results = browser.results();
    let results = results.as_array().expect("a list");
    assert_eq!(results.len(), expected.len());
    let (mut wrong, mut from_cache) = (Vec::new(), 0);
    for (answers, steps) in results.iter().zip(&expected) {
        from_cache += usize::from(answers[1]["id"] == answers[2]["id"]);
        let [first, second, third] = steps;
        for (at, step) in steps.iter().enumerate() {
            if !step.is_met_by(&answers[at]) {
                let case = format!("{first}, {second}, {third}");
                wrong.push(format!("{step} of ({case}): {}", answers[at]));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} answers are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // Otherwise the browser cached nothing, and the test proves nothing.
    assert!(from_cache > 0, "the browser's cache was never used");
}
