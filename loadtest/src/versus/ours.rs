//! Starts chatfiles as its documentation describes, fills it, and makes requests to its API.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;

use super::{Bench, Fresh, batch::batch, get_head, process::Process, rounds::settings};
use crate::{
    Error,
    client::{Answer, Engine, Request},
};

/// Path of the default tenant, which needs no configuration.
const FILES: &str = "/easemob-demo/chatdemoui/chatfiles";
const BOUNDARY: &str = "loadtest-5b1f0f3c9a";

/// A running chatfiles server over a store.
pub(crate) struct Ours {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    /// Headers of every request: the token.
    headers: String,
}

/// A store on disk with its configuration file. It outlives its servers.
pub(crate) struct Store {
    directory: Fresh,
    durability: &'static str,
}

impl Store {
    pub(crate) fn new(bench: &Bench, durability: &'static str) -> Result<Self, Error> {
        Ok(Self {
            directory: bench.fresh_dir()?,
            durability,
        })
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Starts a server over the store, pinned to the servers' core or on all cores.
    pub(crate) fn serve(&self, bench: &Bench, is_pinned: bool) -> Result<Ours, Error> {
        let address = bench.network.listen()?;
        let file = self.directory.path().join("chatfiles.toml");
        fs::write(&file, configuration(&self.data(), address, self.durability))?;
        let file = file.to_str().ok_or("the path is not UTF-8")?;
        let log = self.directory.path().join("chatfiles.log");
        let arguments = ["serve", "--config", file];
        let process = Process::spawn(bench, &bench.chatfiles, &arguments, is_pinned, log)?;
        let process = process.wait_for(address)?;
        let token = token(&bench.chatfiles, file)?;
        Ok(Ours {
            process,
            address,
            headers: format!("Authorization: Bearer {token}\r\n"),
        })
    }
}

/// The rate limiter is active, as in production, with a rate that these clients never reach.
fn configuration(data: &Path, address: SocketAddr, durability: &str) -> String {
    format!(
        "[server]
listen = [\"{address}\"]
connections_max = 10000
[store]
path = \"{}\"
durability = \"{durability}\"
[limits]
calls_per_second = 1000000
calls_burst = 1000000
",
        data.display()
    )
}

fn token(program: &Path, config: &str) -> Result<String, Error> {
    let arguments = ["token", "--user", "alice", "--config", config];
    let done = Command::new(program).args(arguments).output()?;
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).into_owned().into());
    }
    Ok(String::from_utf8(done.stdout)?.trim().to_owned())
}

impl Ours {
    /// A download whose body is discarded and whose length is checked.
    pub(crate) fn download(&self, id: &str, length: u64) -> Request {
        let path = format!("{FILES}/{id}");
        let head = get_head(&path, &self.address.to_string(), &self.headers);
        let mut request = Request::new(head, Instant::now());
        request.answer = Answer::Discard {
            length: Some(length),
        };
        request
    }

    /// A thumbnail request whose body is discarded.
    pub(crate) fn thumbnail(&self, id: &str) -> Request {
        let headers = format!("{}thumbnail: true\r\n", self.headers);
        let path = format!("{FILES}/{id}");
        Request::new(
            get_head(&path, &self.address.to_string(), &headers),
            Instant::now(),
        )
    }

    /// An upload as a form with one part.
    pub(crate) fn upload(&self, name: &str, content_type: &str, file: Bytes) -> Request {
        let before = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: {content_type}\r\n\r\n"
        );
        let after = format!("\r\n--{BOUNDARY}--\r\n");
        let head = format!(
            "POST {FILES} HTTP/1.1\r\nHost: {}\r\n{}Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            self.headers,
            before.len() + file.len() + after.len()
        );
        let mut request = Request::new(head, Instant::now());
        request.body = vec![before.into(), file, after.into()];
        request.answer = Answer::Collect { bytes_max: 4096 };
        request
    }

    /// Uploads files and returns their ids in order.
    pub(crate) fn fill(
        &self,
        bench: &Bench,
        count: usize,
        connections: usize,
        file: impl Fn(usize) -> (&'static str, Bytes),
    ) -> Result<Vec<Arc<str>>, Error> {
        let mut ids: Vec<Arc<str>> = vec![Arc::from(""); count];
        let mut engine = Engine::new(settings(bench, self.address, connections))?;
        let uploads = (0..count).map(|number| {
            let (content_type, bytes) = file(number);
            let mut request = self.upload(&format!("{number}.bin"), content_type, bytes);
            request.tag = number as u64;
            request
        });
        batch(&mut engine, uploads, |outcome| {
            ids[outcome.request.tag as usize] = id_of(outcome.body)?.into();
            Ok(())
        })?;
        Ok(ids)
    }
}

/// The id in the response to an upload.
fn id_of(body: &[u8]) -> Result<String, Error> {
    let answer: serde_json::Value = serde_json::from_slice(body)?;
    let id = answer
        .pointer("/entities/0/uuid")
        .and_then(|id| id.as_str());
    Ok(id.ok_or("the response to an upload has no id")?.to_owned())
}
