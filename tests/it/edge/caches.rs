//! nginx as a cache with the configurations of `deploy/examples/`: what it stores and for whom.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::support::{
    Answer, BASE, Connection, TestServer, assert_error,
    lanying::{APP_ID, assert_code, file_sign},
    photo, poll,
    process::run,
};

/// nginx with one example in its `http` block. Killed on drop.
pub(super) struct Cache {
    child: Child,
    pub(super) address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Cache {
    /// In front of a server; only the addresses and the directory of the example are replaced.
    fn before(origin: &TestServer, example: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let cache = format!("{}/cache", directory.path().display());
        let addresses = [
            ("10.0.0.5:8080", origin.address.to_string()),
            ("/var/cache/nginx/chatfiles", cache),
        ];
        Self::with(directory, example, &addresses)
    }

    /// Replaces some texts of the example.
    pub(super) fn with(
        directory: tempfile::TempDir,
        example: &str,
        replaced: &[(&str, String)],
    ) -> Self {
        let at = directory.path().display().to_string();
        let address = {
            let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
            free.local_addr().expect("an address")
        };
        let mut example = example.to_owned();
        let listen = ("    listen 80", format!("    listen {address}"));
        for (theirs, ours) in replaced.iter().chain([&listen]) {
            assert_eq!(example.matches(theirs).count(), 1, "{theirs}");
            example = example.replace(theirs, ours);
        }
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {at}/{name};\n"))
            .concat();
        let whole = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;\n\
             events {{}}\nhttp {{ access_log off;\n{temporary}{example}}}\n"
        );
        let path = directory.path().join("nginx.conf");
        fs::write(&path, whole).expect("written");
        let mut child = Command::new("nginx")
            .args(["-p", &at, "-e", &format!("{at}/error.log"), "-c"])
            .arg(&path)
            .stdout(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        poll("nginx listens", || {
            let ended = child.try_wait().expect("a child");
            let said = || fs::read_to_string(format!("{at}/error.log"));
            assert!(ended.is_none(), "nginx: {ended:?} {:?}", said());
            TcpStream::connect(address).is_ok()
        });
        Self {
            child,
            address,
            _directory: directory,
        }
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        Connection::open(self.address).request("GET", path, headers, b"")
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn assert_cache(answer: &Answer, status: u16, cache: &str) {
    assert_eq!(
        (answer.status, answer.header("x-cache")),
        (status, Some(cache)),
        "{}",
        answer.text()
    );
}

#[test]
fn nginx_caches_signed_download() {
    let mut server = TestServer::with("[cdn]\nurl = \"http://cdn.test\"");
    let cache = Cache::before(
        &server,
        include_str!("../../../deploy/examples/nginx-cdn.conf"),
    );
    let photo = photo();
    let id = server.store_file("a.jpg", "image/jpeg", &photo);
    let location = |headers: &[(&str, &str)]| {
        let answer = server.download(&id, headers);
        let url = answer.header("location").expect("a redirect").to_owned();
        url.strip_prefix("http://cdn.test")
            .expect("the CDN's")
            .to_owned()
    };
    let (whole, thumbnail) = (location(&[]), location(&[("thumbnail", "true")]));

    // The first request is for a range: the cache fetches the whole file.
    let first = cache.get(&whole, &[("Range", "bytes=10-19")]);
    assert_cache(&first, 206, "MISS");
    let second = cache.get(&whole, &[]);
    assert_cache(&second, 200, "HIT");
    assert_eq!(second.body, photo);
    assert_cache(&cache.get(&thumbnail, &[]), 200, "MISS");
    let small = cache.get(&thumbnail, &[]);
    assert_cache(&small, 200, "HIT");
    assert!(small.body.len() < photo.len());
    // A changed URL is refused and not stored.
    let forged = format!("{whole}0");
    for _ in 0..2 {
        let answer = cache.get(&forged, &[]);
        assert_cache(&answer, 403, "MISS");
        assert_error(&answer, 403, "forbidden_op");
    }
    // A redirect is not shared either.
    let path = format!("{BASE}/chatfiles/{id}");
    let alice = format!("Bearer {}", server.token("alice"));
    for _ in 0..2 {
        assert_cache(&cache.get(&path, &[("Authorization", &alice)]), 302, "MISS");
    }
    assert_cache(&cache.get(&path, &[]), 401, "MISS");

    // A cached response needs no server.
    server.stop();
    let part = cache.get(&whole, &[("Range", "bytes=1-4")]);
    assert_cache(&part, 206, "HIT");
    assert_eq!(part.body, &photo[1..5]);
    let etag = second.header("etag").expect("an entity tag");
    assert_cache(&cache.get(&whole, &[("If-None-Match", etag)]), 304, "HIT");
    assert_eq!(cache.get(&thumbnail, &[]).body, small.body);
}

#[test]
fn token_download_is_never_shared() {
    let server = TestServer::start();
    let cache = Cache::before(
        &server,
        include_str!("../../../deploy/examples/nginx-cdn.conf"),
    );
    let id = server.store_file("a.txt", "text/plain", b"for alice");
    let path = format!("{BASE}/chatfiles/{id}");
    let alice = format!("Bearer {}", server.token("alice"));
    for _ in 0..2 {
        let answer = cache.get(&path, &[("Authorization", &alice)]);
        assert_cache(&answer, 200, "MISS");
        assert_eq!(answer.text(), "for alice");
    }
    assert_cache(&cache.get(&path, &[]), 401, "MISS");
}

#[test]
fn max_age_ends_with_file() {
    const HOUR_MS: i64 = 3_600_000;
    let server = TestServer::with("[retention]\nimage_days = 2");
    let cache = Cache::before(
        &server,
        include_str!("../../../deploy/examples/nginx-cache.conf"),
    );
    let url = server
        .lanying("alice")
        .send("102", "bob", "a.jpg", &photo());
    let path = &url[url.find("/file/").expect("a URL of this API")..];
    let seconds = |headers: &[(&str, &str)], status, kept: &str| -> i64 {
        let token = server.token("bob");
        let own = [("access-token", &*token), ("app_id", APP_ID)];
        let answer = cache.get(path, &[&own, headers].concat());
        assert_cache(&answer, status, kept);
        let said = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "cache-control");
        let said: Vec<_> = said.map(|(_, value)| value.as_str()).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        let seconds = said[0].strip_prefix("private, max-age=").expect(said[0]);
        seconds
            .trim_end_matches(", immutable")
            .parse()
            .expect(said[0])
    };
    let first = seconds(&[], 200, "MISS");
    assert!(first > 86_400, "{first}");
    server.clock.advance(6 * HOUR_MS);
    // The test itself takes time.
    let left = first - 6 * 3600 - 60..=first - 6 * 3600;
    for (headers, status) in [(&[][..], 200), (&[("Range", "bytes=1-4")], 206)] {
        let kept = seconds(headers, status, "HIT");
        assert!(left.contains(&kept), "{headers:?}: {kept} of {left:?}");
    }
}

#[test]
fn revalidating_cache_respects_access() {
    let server = TestServer::start();
    let cache = Cache::before(
        &server,
        include_str!("../../../deploy/examples/nginx-cache.conf"),
    );
    let photo = photo();
    let url = server.lanying("alice").send("102", "bob", "a.jpg", &photo);
    let path = &url[url.find("/file/").expect("a URL of this API")..];
    let get = |user: &str, more: &[(&str, &str)]| {
        let token = server.token(user);
        let headers = [&[("access-token", &*token), ("app_id", APP_ID)], more].concat();
        cache.get(path, &headers)
    };
    assert_cache(&get("alice", &[]), 200, "MISS");
    let hit = get("bob", &[]);
    assert_cache(&hit, 200, "HIT");
    assert_eq!(hit.body, photo);
    let part = get("bob", &[("Range", "bytes=1-4")]);
    assert_cache(&part, 206, "HIT");
    assert_eq!(part.body, &photo[1..5]);
    // Without a token, the cached file is not served.
    let answer = cache.get(path, &[("app_id", APP_ID)]);
    assert_code(&answer, 10003);
    assert_ne!(answer.header("x-cache"), Some("HIT"));
    // After its removal, the file is served to nobody.
    let link = BASE64_STANDARD.decode(file_sign(&url)).expect("base64");
    let link = String::from_utf8(link).expect("text");
    let object = link.split('|').nth(2).expect("an object");
    let store = server.store.to_str().expect("text");
    let removed = run(&["rm", object, "--store-path", store], "");
    assert!(removed.status.success(), "{removed:?}");
    assert_code(&get("bob", &[]), 20022);
}
