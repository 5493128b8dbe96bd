//! The binary itself: commands that end, and a server in a process of its own.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
};

/// The program under test, with an environment in which no variable of ours is set.
pub fn chatfiles(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatfiles"));
    command.args(arguments);
    for (name, _) in std::env::vars() {
        if name.starts_with("CHATFILES_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command to its end, with an input.
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

/// Standard output of a run that succeeded, without the last line end.
#[track_caller]
pub fn stdout(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

/// A server in a process of its own; killed when dropped.
pub struct Served {
    pub address: SocketAddr,
    /// Everything it printed when it started.
    pub welcome: String,
    child: Child,
}

impl Served {
    /// On a free port, with its log going to `log`; further arguments as given.
    pub fn start(store: &Path, log: &Path, arguments: &[&str]) -> Self {
        let file = std::fs::File::create(log).expect("a log file");
        Self::start_to(store, file.into(), arguments).unwrap_or_else(|printed| {
            let log = std::fs::read_to_string(log).unwrap_or_default();
            panic!("no welcome: {printed} {log}")
        })
    }

    /// The same, with its log going wherever it may.
    ///
    /// # Errors
    /// All that was printed, where it does not start.
    pub fn start_to(store: &Path, log: Stdio, arguments: &[&str]) -> Result<Self, String> {
        let store = store.to_str().expect("a path of ASCII");
        let mut all = vec![
            "--listen",
            "127.0.0.1:0",
            "--store-path",
            store,
            "--free-space-min-bytes",
            "0",
        ];
        all.extend_from_slice(arguments);
        let mut child = chatfiles(&all)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut welcome = String::new();
        while !welcome.contains("# Ctrl-C stops the server.") {
            if lines.read_line(&mut welcome).expect("output") == 0 {
                // It has closed its output, but may be alive.
                let _ = child.kill();
                let _ = child.wait();
                return Err(welcome);
            }
        }
        let address = welcome
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("listening on http://"));
        let address = address
            .expect("the address comes first")
            .parse()
            .expect("an address");
        Ok(Self {
            address,
            welcome,
            child,
        })
    }

    /// Sends a signal by its name, as `kill` knows it.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("the server ends")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
