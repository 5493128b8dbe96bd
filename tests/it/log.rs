//! The log of the real program: it holds nobody up, says of each request what came of it, and tells no secret.

mod access;
mod credentials;
mod level;
mod stuck;

use std::{net::SocketAddr, path::PathBuf};

use serde_json::Value;

use crate::support::{Answer, Connection, command::Served};

/// A server in a process of its own, its log in a file.
struct Logged {
    served: Served,
    log: PathBuf,
    _directory: tempfile::TempDir,
}

impl Logged {
    fn start(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let all = [&["--calls-per-second", "0", "--durability", "none"], flags].concat();
        let served = Served::start(&directory.path().join("data"), &log, &all);
        Self {
            served,
            log,
            _directory: directory,
        }
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        Connection::open(self.served.address).request(method, path, headers, body)
    }

    fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    /// Where its operator's listener is.
    fn operator(&self) -> SocketAddr {
        operator(&self.served)
    }

    /// Its store's directory.
    fn store(&self) -> String {
        let store = self.log.with_file_name("data");
        store.to_str().expect("a path of ASCII").to_owned()
    }

    /// The log so far; the last lines may still be on their way.
    fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Stops it, and returns the whole log.
    fn end(mut self) -> String {
        self.served.signal("TERM");
        assert!(self.served.wait().success());
        self.text()
    }
}

/// The address of the operator's listener, as it was printed.
fn operator(served: &Served) -> SocketAddr {
    let line = served.welcome.lines().find_map(|line| {
        let rest = line.strip_prefix("metrics and probes on http://")?;
        rest.split(": ").next()?.parse().ok()
    });
    line.expect("an operator's listener")
}

/// The fields of the access log's lines, in JSON.
fn access_lines(log: &str) -> Vec<Value> {
    log.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect(line)["fields"].take())
        .filter(|fields| fields["message"] == "access")
        .collect()
}
