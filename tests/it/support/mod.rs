//! Shared by all tests: servers in this process or in their own, clients that control each byte, and test data.

mod attached;
pub mod certificates;
mod client;
mod exposition;
mod faulty;
mod forms;
pub mod lanying;
pub mod lossless;
pub mod media;
pub mod mount;
pub mod openapi;
pub mod process;
mod random;
pub mod scans;
mod sockets;
pub mod strace;

pub use attached::{attach, block_on, expire_parts, last_sweep, sweep, verify};
pub use client::{Answer, Connection, head, read_answer};
pub use exposition::Exposition;
pub use faulty::{Faults, FaultyStore, Step, faulty_server};
pub use forms::{Form, chunk, chunked, photo};
pub use process::poll;
pub use random::Random;
pub use sockets::open_from;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use chatfiles::{
    app::{App, Reloader, SecretStore},
    auth::{KeyRing, Subject, token},
    config::{Config, Source},
    server::{endpoint::Endpoint, shutdown::Shutdown},
    store::{Store, local::LocalStore},
    tenant::Tenants,
    time::Clock,
};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

/// Path prefix of the default tenant.
pub const BASE: &str = "/easemob-demo/chatdemoui";

/// A server in this process with its own store. Stops on drop.
pub struct TestServer {
    pub address: SocketAddr,
    /// All configured listeners in order.
    pub endpoints: Vec<Endpoint>,
    /// The operator listener, if configured.
    pub operator: Option<SocketAddr>,
    pub clock: Clock,
    pub store: PathBuf,
    reloader: Reloader,
    shutdown: Shutdown,
    thread: Option<JoinHandle<()>>,
    keys: KeyRing,
    tenants: Tenants,
    /// Owned here unless the test provided a directory.
    _directory: Option<tempfile::TempDir>,
}

impl TestServer {
    /// Starts a server without a rate limit and without sync. Tests of the rate limit turn it on.
    pub fn start() -> Self {
        Self::with("")
    }

    /// Starts a server with TOML settings on top of the tests' defaults.
    pub fn with(toml: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut server = Self::in_directory(directory.path(), toml);
        server._directory = Some(directory);
        server
    }

    /// Starts a server in a directory that outlives it.
    pub fn in_directory(directory: &Path, toml: &str) -> Self {
        Self::over(directory, toml, |store| Arc::new(store))
    }

    /// Starts a server over a wrapper of the local store.
    pub fn over(
        directory: &Path,
        toml: &str,
        wrap: impl FnOnce(LocalStore) -> Arc<dyn Store> + Send + 'static,
    ) -> Self {
        Self::over_store(directory, toml, |config| {
            wrap(LocalStore::open(&config.store, None).expect("the store opens"))
        })
    }

    /// Over any store.
    pub fn over_store(
        directory: &Path,
        toml: &str,
        open: impl FnOnce(&Config) -> Arc<dyn Store> + Send + 'static,
    ) -> Self {
        let config = configuration(directory, toml);
        let keys_path = config.keys_path();
        let clock = Clock::adjustable();
        let shutdown = Shutdown::new();
        let (sender, receiver) = std::sync::mpsc::channel();
        let (moved_clock, moved_shutdown, moved_config) =
            (clock.clone(), shutdown.clone(), config.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            let store = open(&moved_config);
            let mut app =
                App::build_over(moved_config, moved_clock, store).expect("the server builds");
            runtime.block_on(async move {
                let listeners = app.bind().await.expect("a free port");
                let endpoints: Vec<Endpoint> = listeners
                    .iter()
                    .map(|listener| listener.endpoint().clone())
                    .collect();
                let bound = (endpoints, app.operator_address(), app.reloader());
                sender.send(bound).expect("the receiver exists");
                app.run(listeners, moved_shutdown).await;
            });
        });
        let (endpoints, operator, reloader) = receiver.recv().expect("the server starts");
        let keys = KeyRing::load_or_create(&keys_path, clock.now()).expect("keys");
        let tenants = SecretStore::new(keys_path)
            .tenants(&Tenants::default(), &config.tenants)
            .expect("tenants");
        Self {
            address: endpoints[0].address().expect("over TCP"),
            endpoints,
            operator,
            clock,
            store: config.store.path,
            reloader,
            shutdown,
            thread: Some(thread),
            keys,
            tenants,
            _directory: None,
        }
    }

    /// A token for a user of the default tenant.
    pub fn token(&self, user: &str) -> String {
        self.token_of("easemob-demo", "chatdemoui", Subject::User(user.into()))
    }

    /// A token for any tenant and subject, valid for a day.
    pub fn token_of(&self, org: &str, app: &str, subject: Subject) -> String {
        let tenant = self.tenants.find(org, app).expect("a configured tenant");
        let day = std::time::Duration::from_secs(86_400);
        token::issue(
            &self.keys,
            tenant.name(),
            &subject,
            Some(day),
            self.clock.now(),
        )
        .expect("a token")
    }

    /// The generated or configured client secret of a tenant.
    pub fn client_secret(&self, org: &str, app: &str) -> String {
        self.tenants
            .find(org, app)
            .expect("a configured tenant")
            .client_secret
            .expose()
            .to_owned()
    }

    /// Opens a connection.
    pub fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    /// Sends a `GET` without a body over a new connection.
    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.request("GET", path, headers, b"")
    }

    /// Sends a request over a new connection, with `Content-Length` if there is a body.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.connect().request(method, path, headers, body)
    }

    /// The head of an upload to the default tenant with further headers, one of which gives the length.
    pub fn upload_head(&self, user: &str, form: &Form, headers: &[(&str, &str)]) -> Vec<u8> {
        let authorization = format!("Bearer {}", self.token(user));
        let content_type = form.content_type();
        let mut all = vec![
            ("Authorization", authorization.as_str()),
            ("Content-Type", content_type.as_str()),
        ];
        all.extend_from_slice(headers);
        head("POST", &format!("{BASE}/chatfiles"), &all, None)
    }

    /// Uploads a form to the default tenant as `alice`, with further headers.
    pub fn upload(&self, form: &Form, headers: &[(&str, &str)]) -> Answer {
        let authorization = format!("Bearer {}", self.token("alice"));
        let content_type = form.content_type();
        let mut all = vec![
            ("Authorization", authorization.as_str()),
            ("Content-Type", content_type.as_str()),
        ];
        all.extend_from_slice(headers);
        self.request("POST", &format!("{BASE}/chatfiles"), &all, &form.bytes())
    }

    /// Uploads bytes as the part `file` and returns the id; fails the test on any status but 200.
    pub fn store_file(&self, name: &str, content_type: &str, bytes: &[u8]) -> String {
        let answer = self.upload(&Form::new().file(name, content_type, bytes), &[]);
        process::id(&answer)
    }

    /// Downloads as `alice`, with further headers.
    pub fn download(&self, id: &str, headers: &[(&str, &str)]) -> Answer {
        let authorization = format!("Bearer {}", self.token("alice"));
        let mut all = vec![("Authorization", authorization.as_str())];
        all.extend_from_slice(headers);
        self.get(&format!("{BASE}/chatfiles/{id}"), &all)
    }

    /// Every file below a directory of the store, as relative paths.
    pub fn files_in(&self, directory: &str) -> Vec<PathBuf> {
        files_below(&self.store.join(directory))
    }

    /// Triggers the graceful shutdown and waits for its end.
    pub fn stop(&mut self) {
        self.shutdown.trigger();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ends without a panic");
        }
    }

    /// Whether the server has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Reloads the configuration.
    pub fn reloader(&self) -> &Reloader {
        &self.reloader
    }

    /// The switch of the graceful shutdown.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.shutdown.abort();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the server ends without a panic");
            }
        }
    }
}

/// The tests' defaults with the test's settings.
pub fn configuration(directory: &Path, toml: &str) -> Config {
    let defaults = format!(
        "server.listen = [\"127.0.0.1:0\"]\nlimits.calls_per_second = 0\n\
         [store]\npath = {:?}\ndurability = \"none\"\nfree_space_min_bytes = 0\n",
        directory.join("data")
    );
    let sources = [Source::text(toml), Source::text(defaults)];
    Config::read(&sources).expect("a test's configuration is valid")
}

/// HMAC-SHA256 in hexadecimal with any key, also keys that the program refuses.
pub fn hmac_sha256(key: &str, text: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("any length");
    mac.update(text.as_bytes());
    chatfiles::secret::hex(&mac.finalize().into_bytes())
}

/// Every file below a directory, as relative paths; empty if it does not exist. Tombstones are left out.
pub fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("a readable directory").path();
            if path.is_dir() {
                waiting.push(path);
            } else if std::fs::read_link(&path).ok() != Some("removed".into()) {
                found.push(path.strip_prefix(root).expect("below the root").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Checks an error of the Easemob API: status, `error`, and the five fields.
#[track_caller]
pub fn assert_error(answer: &Answer, status: u16, error: &str) -> Value {
    let text = answer.text();
    assert_eq!(answer.status, status, "{text}");
    assert!(
        answer
            .header("content-type")
            .is_some_and(|value| value.starts_with("application/json")),
        "{text}"
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let json = answer.json();
    assert_eq!(json["error"], error, "{text}");
    for field in ["error_description", "exception"] {
        assert!(json[field].is_string(), "{field}: {text}");
    }
    for field in ["timestamp", "duration"] {
        assert!(json[field].is_u64(), "{field}: {text}");
    }
    json
}
