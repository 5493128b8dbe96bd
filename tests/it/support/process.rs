//! The real program in its own process: commands that run to their end, and servers.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{OnceLock, mpsc},
    time::Duration,
};

use chatfiles::time::Clock;
use rustix::process::{Pid, Signal, kill_process};

use super::{Answer, BASE, Connection, Form, head};

/// Longer than any operation takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The last line that a server prints when it is ready.
const READY: &str = "# Ctrl-C stops the server.";

/// The program with these arguments and an empty environment, not started.
pub fn chatfiles(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatfiles"));
    command.env_clear().args(arguments);
    command
}

/// Runs the program to its end, with `input` on its standard input.
pub fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = chatfiles(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A command that reads nothing may have closed its input.
    let _ = child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes());
    child.wait_with_output().expect("the program ends")
}

/// Runs a command on a store to its end.
pub fn command(store: &Path, arguments: &[&str]) -> Output {
    let store = ["--store-path", store.to_str().expect("an ASCII path")];
    run(&[&store, arguments].concat(), "")
}

/// Standard output of a successful run, without the last newline.
#[track_caller]
pub fn stdout(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

/// Checks the exit code of a failed run, that it prints nothing on standard output, and what its error contains.
#[track_caller]
pub fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(output.stdout.is_empty(), "{output:?}");
    for part in parts {
        assert!(error.contains(part), "{part} in {error}");
    }
}

/// Builds a [`Process`]: `chatfiles serve` on a free port, without a rate limit and without a free-space floor, unless
/// `flags` say otherwise. The log is appended to `<store>.log`.
pub struct Launch<'a> {
    store: &'a Path,
    flags: Vec<&'a str>,
    log: Option<Stdio>,
    is_on_terminal: bool,
}

impl<'a> Launch<'a> {
    pub fn new(store: &'a Path) -> Self {
        Self {
            store,
            flags: Vec::new(),
            log: None,
            is_on_terminal: false,
        }
    }

    /// Makes a terminal of the standard output.
    pub fn on_terminal(mut self) -> Self {
        self.is_on_terminal = true;
        self
    }

    /// Adds command line flags.
    pub fn flags(mut self, flags: &[&'a str]) -> Self {
        self.flags.extend(flags);
        self
    }

    /// Sends the log elsewhere, for example to a pipe.
    pub fn log_to(mut self, log: impl Into<Stdio>) -> Self {
        self.log = Some(log.into());
        self
    }

    /// The command line, for tests that start it themselves, under strace or to see it fail.
    pub fn command(&self) -> Command {
        let mut command = chatfiles(&["--store-path"]);
        command.arg(self.store).arg("serve").args(&self.flags);
        for (flag, value) in [
            ("--listen", "127.0.0.1:0"),
            ("--free-space-min-bytes", "0"),
            ("--calls-per-second", "0"),
        ] {
            if !self.flags.contains(&flag) {
                command.args([flag, value]);
            }
        }
        command
    }

    /// Starts the server and waits until it accepts connections and its first sweep has ended.
    #[track_caller]
    pub fn start(self) -> Process {
        let command = self.command();
        self.start_command(command)
    }

    /// Like [`Launch::start`], with a command line of the caller.
    #[track_caller]
    pub fn start_command(self, mut command: Command) -> Process {
        let log_path = self.store.with_extension("log");
        let log = self.log.unwrap_or_else(|| {
            let log = File::options().create(true).append(true).open(&log_path);
            log.expect("a log beside the store").into()
        });
        command.stderr(log);
        let (mut child, lines) = match self.is_on_terminal {
            true => {
                let terminal = Terminal::open();
                let child = command.stdout(terminal.end).spawn();
                (child.expect("the program starts"), lines(terminal.screen))
            }
            false => {
                let child = command.stdout(Stdio::piped()).spawn();
                let mut child = child.expect("the program starts");
                let stdout = child.stdout.take().expect("piped");
                (child, lines(stdout))
            }
        };
        // It holds the terminal open.
        drop(command);
        let mut welcome = String::new();
        while !welcome.contains(READY) && !welcome.starts_with('{') {
            let Ok(line) = lines.recv_timeout(TIMEOUT) else {
                let _ = child.kill();
                let _ = child.wait();
                let log = fs::read_to_string(log_path).unwrap_or_default();
                panic!("the server did not start: {welcome}\nlog: {log}");
            };
            welcome.push_str(line.trim_end_matches('\r'));
            welcome.push('\n');
        }
        let server = Process {
            child,
            address: listening(&welcome, "http://").expect("an HTTP address"),
            welcome,
            store: self.store.to_owned(),
            token: OnceLock::new(),
        };
        // The first sweep also writes to the store. Tests trace or count what comes after it.
        poll("the first sweep", || {
            server.store.join("last-sweep").exists()
        });
        server
    }
}

/// The address that a server prints with this scheme, as text or in JSON.
fn listening(welcome: &str, scheme: &str) -> Option<SocketAddr> {
    let json = serde_json::from_str::<serde_json::Value>(welcome).unwrap_or_default();
    let of_json = json["listen"].as_array().into_iter().flatten();
    let of_json = of_json.filter_map(|address| address.as_str());
    let of_text = welcome
        .lines()
        .filter_map(|line| line.strip_prefix("listening on "));
    let mut addresses = of_json.chain(of_text);
    addresses.find_map(|address| address.strip_prefix(scheme)?.parse().ok())
}

/// A pseudo-terminal.
pub struct Terminal {
    /// Yields what is written to the terminal, with carriage returns before line feeds.
    pub screen: File,
    /// For the program that runs in the terminal.
    pub end: File,
}

impl Terminal {
    pub fn open() -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&screen).expect("permission for the pseudo-terminal");
        unlockpt(&screen).expect("a pseudo-terminal that can be opened");
        let name = ptsname(&screen, Vec::new()).expect("its name");
        let name = name.to_str().expect("an ASCII name");
        let end = File::options().read(true).write(true).open(name);
        Self {
            screen: screen.into(),
            end: end.expect("the end for the program"),
        }
    }
}

/// A running server, killed on drop.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    /// Everything that it printed when it started.
    pub welcome: String,
    pub store: PathBuf,
    token: OnceLock<String>,
}

impl Process {
    /// Starts a server with the defaults of [`Launch`] and a token for `alice`.
    #[track_caller]
    pub fn start(store: &Path, flags: &[&str]) -> Self {
        let server = Launch::new(store).flags(flags).start();
        // Issued now: some tests later take the store away.
        server.token();
        server
    }

    /// The address of the listener with this scheme.
    #[track_caller]
    pub fn listening(&self, scheme: &str) -> SocketAddr {
        listening(&self.welcome, scheme)
            .unwrap_or_else(|| panic!("no {scheme} in {}", self.welcome))
    }

    /// The address of the operator listener.
    #[track_caller]
    pub fn operator(&self) -> SocketAddr {
        let json = serde_json::from_str::<serde_json::Value>(&self.welcome).unwrap_or_default();
        let of_json = json["operator"].as_str();
        let of_text = self.welcome.lines().find_map(|line| {
            let rest = line.strip_prefix("metrics and probes on ")?;
            rest.split(": ").next()
        });
        let address = of_json
            .or(of_text)
            .and_then(|url| url.strip_prefix("http://"));
        let address = address.and_then(|address| address.parse().ok());
        address.expect("an operator listener")
    }

    /// The response of the operator listener to a `GET`.
    #[track_caller]
    pub fn ask_operator(&self, path: &str) -> Answer {
        Connection::open(self.operator()).request("GET", path, &[], b"")
    }

    /// A token for `alice` of the default tenant.
    pub fn token(&self) -> &str {
        self.token
            .get_or_init(|| stdout(&self.command(&["token", "--user", "alice"])))
    }

    /// The log of this process and of earlier ones on the same store.
    pub fn log(&self) -> String {
        fs::read_to_string(self.store.with_extension("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Kills the process and waits for its end.
    pub fn kill(&mut self) {
        self.child.kill().expect("a running process");
        self.child.wait().expect("a child");
    }

    /// Waits until the process ends by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        poll("the process to end", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Asks the server to stop, and expects success.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        assert!(self.wait().success());
    }

    /// Sends one request as `alice`; fails if the server goes away before it responds.
    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let authorization = format!("Bearer {}", self.token());
        let mut all = vec![("Authorization", authorization.as_str())];
        all.extend_from_slice(headers);
        let mut bytes = head(method, path, &all, (!body.is_empty()).then_some(body.len()));
        bytes.extend_from_slice(body);
        let mut connection = Connection::try_open(self.address)?;
        // An early refusal may close the connection while the body is being sent.
        let _ = connection.send(&bytes);
        connection.answer(method)
    }

    /// Sends one request as `alice`.
    #[track_caller]
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.try_request(method, path, headers, body)
            .expect("a response")
    }

    /// Uploads a form as `alice`.
    pub fn try_upload_form(&self, form: &Form) -> io::Result<Answer> {
        let content_type = form.content_type();
        self.try_request(
            "POST",
            &format!("{BASE}/chatfiles"),
            &[("Content-Type", &content_type)],
            &form.bytes(),
        )
    }

    /// Uploads bytes as `alice`.
    pub fn try_upload(&self, bytes: &[u8]) -> io::Result<Answer> {
        self.try_upload_form(&Form::new().file("f.bin", "application/octet-stream", bytes))
    }

    /// Uploads bytes as `alice` and returns the id.
    #[track_caller]
    pub fn upload(&self, bytes: &[u8]) -> String {
        id(&self.try_upload(bytes).expect("a response"))
    }

    #[track_caller]
    pub fn download(&self, id: &str, headers: &[(&str, &str)]) -> Answer {
        self.request("GET", &format!("{BASE}/chatfiles/{id}"), headers, b"")
    }

    /// Runs another command on the same store.
    pub fn command(&self, arguments: &[&str]) -> Output {
        command(&self.store, arguments)
    }

    /// A number of kilobytes from `/proc/<pid>/status`.
    pub fn status_kb(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(path).expect("a process");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no {field} in {status}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, which is the subject of some tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The id in the response to an upload; fails the test on any status but 200.
#[track_caller]
pub fn id(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let json = answer.json();
    json["entities"][0]["uuid"]
        .as_str()
        .expect("an id")
        .to_owned()
}

/// Reads lines as they come, so that the writer never blocks.
pub(super) fn lines(stream: impl io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // The receiver may be gone.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// Waits until `is_so`; fails the test after a minute. `what` names what it waits for.
#[track_caller]
pub fn poll(what: &str, mut is_so: impl FnMut() -> bool) {
    let clock = Clock::system();
    let deadline = clock.monotonic() + TIMEOUT;
    while !is_so() {
        assert!(clock.monotonic() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a signal to a process.
pub fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a child's id"), signal).expect("a running process");
}
