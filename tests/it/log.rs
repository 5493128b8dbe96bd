//! The log of the real program: it never blocks requests, describes each of them, and contains no secrets.

mod access;
mod credentials;
mod level;
mod unread;

use serde_json::Value;

use crate::support::{Answer, Connection, process::Process};

/// A server in its own process and directory.
struct Logged {
    process: Process,
    _directory: tempfile::TempDir,
}

impl Logged {
    fn start(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let flags = [&["--durability", "none"], flags].concat();
        Self {
            process: Process::start(&directory.path().join("data"), &flags),
            _directory: directory,
        }
    }

    /// Sends a request without a token.
    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        Connection::open(self.process.address).request(method, path, headers, body)
    }

    fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    /// Stops the server and returns its log.
    fn end(mut self) -> String {
        self.process.stop();
        self.process.log()
    }
}

/// The fields of the access log lines in JSON.
fn access_lines(log: &str) -> Vec<Value> {
    log.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect(line)["fields"].take())
        .filter(|fields| fields["message"] == "access")
        .collect()
}
