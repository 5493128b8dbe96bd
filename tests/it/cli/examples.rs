//! The example configurations are valid, and the settings that they suggest work.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use crate::support::{
    BASE, Connection, TestServer,
    certificates::Certificate,
    head, open_from, poll,
    process::{run, stdout},
};

const EXAMPLE: &str = include_str!("../../../deploy/examples/chatfiles.toml");
const HAPROXY: &str = include_str!("../../../deploy/examples/haproxy.cfg");
const NGINX: &str = include_str!("../../../deploy/examples/nginx.conf");

/// The output of `check-config` with a store of the test.
#[track_caller]
fn checked(toml: &str) -> String {
    stdout(&check_config(toml))
}

fn check_config(toml: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chatfiles.toml");
    fs::write(&file, toml).unwrap();
    let store = directory.path().join("store");
    let (file, store) = (file.to_str().unwrap(), store.to_str().unwrap());
    run(
        &["check-config", "--config", file, "--store-path", store],
        "",
    )
}

/// The example with every suggested setting enabled.
fn with_suggestions() -> String {
    let is_setting = |rest: &&str| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let mut suggested = 0;
    let lines = EXAMPLE.lines().map(|line| {
        let setting = line.strip_prefix('#').filter(is_setting);
        suggested += usize::from(setting.is_some());
        setting.unwrap_or(line)
    });
    let toml = lines.collect::<Vec<_>>().join("\n");
    assert!(suggested > 10, "{suggested}");
    toml
}

#[test]
fn example_configuration_is_valid() {
    let said = checked(EXAMPLE);
    for expected in ["10GiB", "127.0.0.1:9090", "127.0.0.1/32"] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
}

#[test]
fn example_is_valid_with_suggestions_enabled() {
    let said = checked(&with_suggestions());
    for expected in ["https://files.example.com", "acme/chat", "10.0.0.0/24"] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
}

#[test]
fn example_listeners_are_accepted() {
    // Lines such as `#   "tls:0.0.0.0:8443"   HTTPS by this server`.
    let listed = EXAMPLE.lines().filter_map(|line| {
        let (endpoint, about) = line.strip_prefix("#   \"")?.split_once('"')?;
        about.starts_with("   ").then_some(endpoint)
    });
    let endpoints: Vec<&str> = listed.collect();
    for kind in ["unix:", "tls:", "proxy:", "proxy:tls:"] {
        let is_listed = endpoints.iter().any(|endpoint| endpoint.starts_with(kind));
        assert!(is_listed, "{kind} in {endpoints:?}");
    }
    let directory = tempfile::tempdir().unwrap();
    let certificate = Certificate::write(directory.path(), "files", &["files.example.com"]);
    let quoted = endpoints.iter().map(|endpoint| format!("\"{endpoint}\""));
    let listen = format!("listen = [{}]", quoted.collect::<Vec<_>>().join(", "));
    let toml = replaced(
        &with_suggestions(),
        &[
            ("listen = [\"127.0.0.1:8080\"]", &listen),
            (
                "/etc/chatfiles/chain.pem",
                certificate.chain.to_str().unwrap(),
            ),
            ("/etc/chatfiles/key.pem", certificate.key.to_str().unwrap()),
        ],
    );
    checked(&toml);
    // The listeners are really checked: without the networks of proxies, they are refused.
    let missing = replaced(&toml, &[("proxy_protocol_from = [\"10.0.0.0/8\"]", "")]);
    let output = check_config(&missing);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("proxy_protocol_from"),
        "{said}"
    );
}

#[test]
fn examples_name_only_existing_files() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap().to_lowercase();
        for promise in ["not there yet", "not have yet", "when the server has"] {
            assert!(!text.contains(promise), "{}: {promise}", path.display());
        }
    }
}

/// A proxy in front of the server. Killed on drop.
struct Front {
    child: Child,
    _directory: tempfile::TempDir,
}

impl Front {
    /// Starts the proxy with a configuration file (`{}` in the arguments) and waits until it listens.
    fn start(program: &str, arguments: &[&str], configuration: &str, address: SocketAddr) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = directory.path().to_str().expect("an ASCII path");
        let file = directory.path().join("configuration");
        fs::write(&file, configuration.replace("{directory}", at)).expect("written");
        let arguments = arguments.iter().map(|argument| match *argument {
            "{}" => file.to_str().expect("an ASCII path").to_owned(),
            argument => argument.replace("{directory}", at),
        });
        let log = directory.path().join("log");
        let mut child = Command::new(program)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("a log file"))
            .spawn()
            .unwrap_or_else(|error| panic!("{program} (scripts/setup installs it): {error}"));
        poll("it listens", || {
            let ended = child.try_wait().expect("a child");
            let said = || fs::read_to_string(&log);
            assert!(ended.is_none(), "{program}: {ended:?} {:?}", said());
            TcpStream::connect(address).is_ok()
        });
        Self {
            child,
            _directory: directory,
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> SocketAddr {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    free.local_addr().expect("an address")
}

/// Replaces each text, which must occur exactly once.
#[track_caller]
fn replaced(example: &str, pairs: &[(&str, &str)]) -> String {
    pairs
        .iter()
        .fold(example.to_owned(), |text, (theirs, ours)| {
            assert_eq!(text.matches(theirs).count(), 1, "{theirs}");
            text.replace(theirs, ours)
        })
}

/// The statuses of requests of one client, each on a new connection.
fn calls(server: &TestServer, front: SocketAddr, client: &str, calls: usize) -> Vec<u16> {
    let token = format!("Bearer {}", server.token("alice"));
    let path = format!("{BASE}/chatfiles/00000000-0000-7000-8000-000000000000");
    let request = head("GET", &path, &[("Authorization", &token)], None);
    let call = |_| {
        let mut connection: Connection = open_from(front, client.parse().unwrap(), None);
        connection.send(&request).unwrap();
        connection.answer("GET").unwrap().status
    };
    (0..calls).map(call).collect()
}

/// Two requests at once, then one per second and client.
const RATE: &str = "calls_per_second = 1\ncalls_burst = 2\n";

/// In both ways: the PROXY protocol and a header.
#[test]
fn haproxy_forwards_client_addresses() {
    let server = TestServer::with(&format!(
        "[server]\nlisten = [\"127.0.0.1:0\", \"proxy:127.0.0.1:0\"]\n\
         proxy_protocol_from = [\"127.0.0.1/32\"]\n\
         [limits]\ntrusted_proxies = [\"127.0.0.1/32\"]\n{RATE}"
    ));
    let behind = server.endpoints[1].address().unwrap();
    let (http, tcp) = (free_address(), free_address());
    // The second way is commented out, up to the end of the file.
    let (first, second) = HAPROXY
        .split_once("#frontend files_tcp\n")
        .expect("its permit");
    let second: String = second
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix('#').expect("a comment")))
        .collect();
    let example = replaced(
        &format!("{first}frontend files_tcp\n{second}"),
        &[
            ("bind :80\n", &format!("bind {http}\n")),
            ("bind :8443", &format!("bind {tcp}")),
            (
                "    server files1 127.0.0.1:8080",
                &format!("    server files1 {}", server.address),
            ),
            (
                "    server files1 10.0.0.5:8081",
                &format!("    server files1 {behind}"),
            ),
        ],
    );
    let _front = Front::start("haproxy", &["-db", "-f", "{}"], &example, tcp);
    // `RATE` applies to the client that HAProxy names.
    for (front, clients) in [
        (http, ["127.0.0.2", "127.0.0.3"]),
        (tcp, ["127.0.0.4", "127.0.0.5"]),
    ] {
        poll("haproxy has seen the server", || {
            Connection::open(front)
                .request("GET", "/healthz", &[], b"")
                .status
                == 200
        });
        for client in clients {
            assert_eq!(
                calls(&server, front, client, 3),
                [404, 404, 503],
                "{client}"
            );
        }
    }
}

#[test]
fn nginx_forwards_clients_over_socket() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("http.sock");
    let socket = socket.to_str().unwrap();
    let server = TestServer::with(&format!(
        "[server]\nlisten = [\"127.0.0.1:0\", \"unix:{socket}\"]\n[limits]\n{RATE}"
    ));
    let front = free_address();
    let example = replaced(
        NGINX,
        &[
            ("    server 127.0.0.1:8080;\n", ""),
            (
                "    #server unix:/run/chatfiles/http.sock;",
                &format!("    server unix:{socket};"),
            ),
            ("    listen 80", &format!("    listen {front}")),
        ],
    );
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {{directory}}/{name};\n"))
        .concat();
    let whole = format!(
        "daemon off; master_process off; pid {{directory}}/pid; error_log {{directory}}/log;\n\
         events {{}}\nhttp {{ access_log off;\n{temporary}{example}}}\n"
    );
    assert!(Path::new(socket).exists());
    let arguments = ["-p", "{directory}", "-e", "{directory}/log", "-c", "{}"];
    let _front = Front::start("nginx", &arguments, &whole, front);
    for client in ["127.0.0.2", "127.0.0.3"] {
        assert_eq!(
            calls(&server, front, client, 3),
            [404, 404, 503],
            "{client}"
        );
    }
}
