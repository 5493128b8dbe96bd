//! The real program as a process of its own: to be killed, traced, measured, and run on small disks.

#![allow(clippy::print_stdout, reason = "shown when a test fails")]

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use chatfiles::time::Clock;
use rustix::process::{Pid, Signal, kill_process};

use super::{Answer, BASE, Connection, Form, head};

/// Longer than anything here takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(2);

/// `chatfiles serve` on a free port. Killed when dropped.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    listening: Vec<String>,
    operator: Option<SocketAddr>,
    pub store: PathBuf,
    pub token: String,
}

impl Process {
    /// Starts a server; what `flags` does not set is: no limit of calls, no free-space floor.
    #[track_caller]
    pub fn start(store: &Path, flags: &[&str]) -> Self {
        let mut child = serve(store, flags)
            .stdout(Stdio::piped())
            .stderr(log(store))
            .spawn()
            .expect("the program starts");
        let said = lines(child.stdout.take().expect("piped"));
        let (mut listening, mut operator) = (Vec::new(), None);
        // Before the first empty line.
        while let Ok(line) = said.recv_timeout(TIMEOUT) {
            match line.strip_prefix("listening on ") {
                Some(at) => listening.push(at.to_owned()),
                None => {
                    let at = line.strip_prefix("metrics and probes on http://");
                    operator = at.and_then(|at| at.split(": ").next()?.parse().ok());
                    break;
                }
            }
        }
        let address = listening
            .first()
            .and_then(|at| at.strip_prefix("http://")?.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            let log = std::fs::read_to_string(log_path(store)).unwrap_or_default();
            panic!("no address in {listening:?}; the log: {log}");
        };
        let token = command(store, &["token", "--user", "alice"]);
        assert!(token.status.success(), "{token:?}");
        let token = String::from_utf8(token.stdout).expect("a token is text");
        let server = Self {
            child,
            address,
            listening,
            operator,
            store: store.to_owned(),
            token: token.trim().to_owned(),
        };
        // The first sweep writes to the store as well; what is traced or counted comes after it.
        poll("the first sweep", || store.join("last-sweep").exists());
        server
    }

    /// The address that it listens at and shows with this scheme.
    #[track_caller]
    pub fn listening(&self, scheme: &str) -> SocketAddr {
        let found = self.listening.iter().find_map(|at| at.strip_prefix(scheme));
        let address = found.and_then(|at| at.parse().ok());
        address.unwrap_or_else(|| panic!("no {scheme} in {:?}", self.listening))
    }

    /// What the operator's listener answers, for a server that was started with one.
    #[track_caller]
    pub fn ask_operator(&self, path: &str) -> Answer {
        let address = self.operator.expect("an operator's listener");
        Connection::open(address).request("GET", path, &[], b"")
    }

    /// Everything that it has logged, by this process and those before it on the same store.
    pub fn log(&self) -> String {
        std::fs::read_to_string(log_path(&self.store)).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.child.kill().expect("a process that lives");
        self.child.wait().expect("a child");
    }

    /// Waits until it has ended by itself; `None` where it lives on.
    pub fn wait(&mut self) -> Option<ExitStatus> {
        let clock = Clock::system();
        let deadline = clock.monotonic() + TIMEOUT;
        while clock.monotonic() < deadline {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return Some(status);
            }
            std::thread::sleep(PAUSE);
        }
        None
    }

    /// One request; an error where the server goes away before it has answered.
    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let authorization = format!("Bearer {}", self.token);
        let mut all = vec![("Authorization", authorization.as_str())];
        all.extend_from_slice(headers);
        let mut bytes = head(method, path, &all, (!body.is_empty()).then_some(body.len()));
        bytes.extend_from_slice(body);
        let mut connection = Connection::try_open(self.address)?;
        // An early refusal may close while the body is still on its way.
        let _ = connection.send(&bytes);
        connection.answer(method)
    }

    /// The same, where the server must live.
    #[track_caller]
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.try_request(method, path, headers, body)
            .expect("an answer")
    }

    /// Uploads bytes as `alice`.
    pub fn try_upload(&self, bytes: &[u8]) -> io::Result<Answer> {
        let form = Form::new().file("f.bin", "application/octet-stream", bytes);
        let content_type = form.content_type();
        self.try_request(
            "POST",
            &format!("{BASE}/chatfiles"),
            &[("Content-Type", &content_type)],
            &form.bytes(),
        )
    }

    /// Uploads bytes and returns the id.
    #[track_caller]
    pub fn upload(&self, bytes: &[u8]) -> String {
        id(&self.try_upload(bytes).expect("an answer"))
    }

    #[track_caller]
    pub fn download(&self, id: &str, headers: &[(&str, &str)]) -> Answer {
        self.request("GET", &format!("{BASE}/chatfiles/{id}"), headers, b"")
    }

    /// Runs another command on the same store.
    pub fn command(&self, arguments: &[&str]) -> Output {
        command(&self.store, arguments)
    }

    /// A number of kilobytes out of `/proc/<pid>/status`.
    pub fn status_kb(&self, field: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no {field} in {status}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, perhaps: that is what some tests are about.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The id in an upload's answer; fails the test on anything but 200.
#[track_caller]
pub fn id(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let json = answer.json();
    json["entities"][0]["uuid"]
        .as_str()
        .expect("an id")
        .to_owned()
}

/// Runs a command of the program on a store, to its end.
pub fn command(store: &Path, arguments: &[&str]) -> Output {
    program(store)
        .args(arguments)
        .output()
        .expect("the program starts")
}

/// `serve`, not started yet.
pub fn serve(store: &Path, flags: &[&str]) -> Command {
    let mut command = program(store);
    command.arg("serve").args(flags);
    for (flag, value) in [
        ("--listen", "127.0.0.1:0"),
        ("--free-space-min-bytes", "0"),
        ("--calls-per-second", "0"),
    ] {
        if !flags.contains(&flag) {
            command.args([flag, value]);
        }
    }
    command
}

fn program(store: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatfiles"));
    command.env_clear().arg("--store-path").arg(store);
    command
}

fn log_path(store: &Path) -> PathBuf {
    store.with_extension("log")
}

fn log(store: &Path) -> File {
    File::options()
        .create(true)
        .append(true)
        .open(log_path(store))
        .expect("a log beside the store")
}

/// Reads lines as they come, so that the writer is never held up.
fn lines(stream: impl io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // Nobody may want any more of them.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// Looks again until `is_so`; fails the test when it takes too long.
#[track_caller]
pub fn poll(what: &str, mut is_so: impl FnMut() -> bool) {
    let clock = Clock::system();
    let deadline = clock.monotonic() + TIMEOUT;
    while !is_so() {
        assert!(clock.monotonic() < deadline, "waited too long for {what}");
        std::thread::sleep(PAUSE);
    }
}

/// strace on a running process: changes what its system calls do.
pub struct Strace {
    child: Child,
    log: PathBuf,
}

impl Strace {
    /// Attaches to every thread of a process. `inject` is strace's own, such as
    /// `fdatasync:error=EIO:when=1`; calls are counted for each thread.
    #[track_caller]
    pub fn attach(process: &Process, inject: &str) -> Self {
        let log = process.store.with_extension("strace");
        let mut child = strace(&log, inject)
            .arg(format!("--attach={}", process.pid()))
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed");
        let said = lines(child.stderr.take().expect("piped"));
        let attached = std::iter::from_fn(|| said.recv_timeout(TIMEOUT).ok())
            .any(|line| line.contains(" attached"));
        assert!(attached, "strace does not attach: is ptrace allowed?");
        Self { child, log }
    }

    /// Lets the process go; returns the log of the calls.
    pub fn detach(mut self) -> String {
        send(self.child.id(), Signal::INT);
        self.child.wait().expect("a child");
        read(&self.log)
    }

    /// As [`Strace::detach`], once the log is so: what a client sees may come before the call that did it has
    /// returned, and a call that has not is logged without its result.
    #[track_caller]
    pub fn detach_when(self, is_so: impl Fn(&str) -> bool) -> String {
        poll("the traced calls", || is_so(&read(&self.log)));
        self.detach()
    }

    /// Waits for the end of a traced process, and returns the line of the call that it was killed in.
    pub fn last_call(mut self) -> String {
        self.child.wait().expect("a child");
        killed_in(&self.log)
    }
}

/// strace with a log, not started yet: it wants a process or a program.
pub fn strace(log: &Path, inject: &str) -> Command {
    let (calls, _) = inject.split_once(':').expect("calls, a colon, what to do");
    let mut command = Command::new("strace");
    command
        .args(["-f", "-y", "-s", "1024", "-o"])
        .arg(log)
        .args(["-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={inject}")]);
    command
}

/// The last call in a log before the process was killed. strace writes `???(` for another thread that died before
/// its call could be read.
pub fn killed_in(log: &Path) -> String {
    read(log)
        .lines()
        .rfind(|line| line.contains('(') && !line.contains("???("))
        .unwrap_or_default()
        .to_owned()
}

fn read(log: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(log).expect("strace's log")).into_owned()
}

/// Ends a process as a crash does, without waiting for it.
pub fn kill(pid: u32) {
    send(pid, Signal::KILL);
}

/// Asks a server to stop.
pub fn terminate(pid: u32) {
    send(pid, Signal::TERM);
}

/// Asks a server to read its files anew.
pub fn hangup(pid: u32) {
    send(pid, Signal::HUP);
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a child's id"), signal).expect("a process that lives");
}

/// A mount that is taken away with this.
pub struct Mount(PathBuf);

impl Mount {
    /// A file system of a few bytes, in memory. `None`, said aloud, where mounting is not allowed.
    pub fn tmpfs(path: &Path, bytes: u64) -> Option<Self> {
        Self::tmpfs_of(path, &format!("size={bytes}"))
    }

    /// The same with options of its own.
    pub fn tmpfs_of(path: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a place to mount at");
        Self::new(path, &["-t", "tmpfs", "-o", options, "tmpfs"])
    }

    /// Another directory.
    pub fn bind(from: &Path, path: &Path) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a place to mount at");
        Self::new(path, &["--bind", &from.display().to_string()])
    }

    /// An ext4 file system in a file, which it makes if it is not there.
    pub fn ext4(image: &Path, path: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a place to mount at");
        if !image.exists() {
            let file = File::create(image).expect("a file for the file system");
            file.set_len(16 << 20).expect("room for it");
            let made = Command::new("mkfs.ext4")
                .args(["-q", "-F"])
                .arg(image)
                .output();
            if !made.as_ref().is_ok_and(|made| made.status.success()) {
                println!("SKIPPED: no ext4 can be made here: {made:?}");
                return None;
            }
        }
        let options = format!("loop,{options}");
        Self::new(path, &["-o", &options, &image.display().to_string()])
    }

    /// The same directory, read-only.
    pub fn read_only(path: &Path) -> Option<Self> {
        let mount = Self::new(path, &["--bind", &path.display().to_string()])?;
        let again = Command::new("mount")
            .args(["-o", "remount,bind,ro"])
            .arg(path)
            .status();
        assert!(again.expect("mount runs").success());
        Some(mount)
    }

    fn new(path: &Path, arguments: &[&str]) -> Option<Self> {
        let mounted = Command::new("mount").args(arguments).arg(path).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(path.to_owned())),
            refused => {
                println!("SKIPPED: mounting is not allowed here: {refused:?}");
                None
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a test that failed may still have files open in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
