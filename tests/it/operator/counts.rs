//! Counters grow by exactly what was done, and others do not change.

use std::{collections::BTreeMap, io::Read};

use super::OPERATOR;
use crate::support::{
    BASE, Exposition, Form, TestServer, head,
    media::{MP4, Program},
    photo, poll,
};

const REQUESTS: &str = "chatfiles_http_requests_total";
const DURATIONS: &str = "chatfiles_http_request_duration_seconds_count";
const RECEIVED: &str = "chatfiles_http_request_body_bytes_total";
const SENT: &str = "chatfiles_http_response_body_bytes_total";
const REFUSALS: &str = "chatfiles_limiter_refusals_total";
const OPENED: &str = "chatfiles_open_object_lookups_total";
const DERIVED: &str = "chatfiles_derivative_lookups_total";
const ACCEPTED: &str = "chatfiles_connections_accepted_total";
const UPLOADS: &str = "chatfiles_uploads_in_flight";
const SYNCS: &str = "chatfiles_fsync_duration_seconds_count";

/// Expected growth by series.
#[derive(Default)]
struct Growth(BTreeMap<String, u64>);

impl Growth {
    fn more(mut self, name: &str, labels: &[(&str, &str)], by: usize) -> Self {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        let series = match labels.is_empty() {
            true => name.to_owned(),
            false => format!("{name}{{{}}}", labels.join(",")),
        };
        *self.0.entry(series).or_default() += by as u64;
        self
    }

    /// `count` requests of a route, each over a new connection, with this status.
    fn requests(self, route: &str, status: &str, times: usize) -> Self {
        self.more(REQUESTS, &[("route", route), ("status", status)], times)
            .more(DURATIONS, &[("route", route)], times)
            .more(ACCEPTED, &[], times)
    }

    fn received(self, route: &str, bytes: usize) -> Self {
        self.more(RECEIVED, &[("route", route)], bytes)
    }

    fn sent(self, route: &str, bytes: usize) -> Self {
        self.more(SENT, &[("route", route)], bytes)
    }
}

/// Runs `action` and fails the test unless exactly this grew.
#[track_caller]
fn check<T>(
    server: &TestServer,
    act: impl FnOnce() -> T,
    expected: impl FnOnce(&T) -> Growth,
) -> T {
    let before = server.scrape();
    let done = act();
    let after = server.scrape();
    let mut grown = after.growth(&before);
    check_tenants(&mut grown);
    assert_eq!(grown, expected(&done).0);
    done
}

/// Removes the growth by tenant, and checks that its sums are those by route.
#[track_caller]
fn check_tenants(grown: &mut BTreeMap<String, u64>) {
    let sum = |grown: &BTreeMap<String, u64>, name: &str| -> u64 {
        let is_of = |series: &str| {
            series
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('{'))
        };
        grown
            .iter()
            .filter(|(series, _)| is_of(series))
            .map(|(_, count)| count)
            .sum()
    };
    for (of_tenants, of_routes) in [
        ("chatfiles_tenant_requests_total", REQUESTS),
        ("chatfiles_tenant_request_body_bytes_total", RECEIVED),
        ("chatfiles_tenant_response_body_bytes_total", SENT),
        ("chatfiles_tenant_refusals_total", REFUSALS),
    ] {
        assert_eq!(
            sum(grown, of_tenants),
            sum(grown, of_routes),
            "{of_tenants}: {grown:?}"
        );
    }
    grown.retain(|series, _| !series.starts_with("chatfiles_tenant_"));
}

fn derived(scrape: &Exposition, source: &str) -> u64 {
    scrape.get(DERIVED, &[("kind", "thumbnail"), ("source", source)])
}

#[test]
fn transfers_are_counted_with_bytes() {
    let server = TestServer::with(OPERATOR);
    let form = Form::new().file("a.bin", "application/octet-stream", &[7; 300_000]);
    let upload = || server.upload(&form, &[]);
    let stored = check(&server, upload, |answer| {
        Growth::default()
            .requests("easemob_upload", "200", 1)
            .received("easemob_upload", form.bytes().len())
            .sent("easemob_upload", answer.body.len())
    });
    let id = stored.json()["entities"][0]["uuid"]
        .as_str()
        .unwrap()
        .to_owned();
    let downloads = || [0; 3].map(|_| server.download(&id, &[]));
    check(&server, downloads, |answers| {
        assert!(answers.iter().all(|answer| answer.body == [7; 300_000]));
        Growth::default()
            .requests("easemob_download", "200", 3)
            .sent("easemob_download", 3 * 300_000)
            .more(OPENED, &[("result", "miss")], 1)
            .more(OPENED, &[("result", "hit")], 2)
    });
    assert_eq!(server.scrape().get("chatfiles_open_objects", &[]), 1);
    let range = || server.download(&id, &[("Range", "bytes=5-104")]);
    check(&server, range, |answer| {
        assert_eq!(answer.body.len(), 100);
        Growth::default()
            .requests("easemob_download", "206", 1)
            .sent("easemob_download", 100)
            .more(OPENED, &[("result", "hit")], 1)
    });
    let token = format!("Bearer {}", server.token("alice"));
    let path = format!("{BASE}/chatfiles/{id}");
    let head = || server.request("HEAD", &path, &[("Authorization", &token)], b"");
    check(&server, head, |answer| {
        assert_eq!(answer.header("content-length"), Some("300000"));
        // None of these is an HTTP request.
        Growth::default()
            .requests("easemob_download", "200", 1)
            .more(OPENED, &[("result", "hit")], 1)
    });
}

#[test]
fn refusals_are_counted_by_status() {
    let server = TestServer::with(OPERATOR);
    let id = server.store_file("a.txt", "text/plain", b"text");
    let nobody = || server.get(&format!("{BASE}/chatfiles/{id}"), &[]);
    check(&server, nobody, |answer| {
        Growth::default()
            .requests("easemob_download", "401", 1)
            .sent("easemob_download", answer.body.len())
    });
    let unknown = || server.download("01000000-0000-7000-8000-000000000000", &[]);
    check(&server, unknown, |answer| {
        Growth::default()
            .requests("easemob_download", "404", 1)
            .sent("easemob_download", answer.body.len())
            .more(OPENED, &[("result", "miss")], 1)
    });
    for (method, path, route, status) in [
        ("GET", "/nowhere", "none", "404"),
        ("PUT", "/healthz", "none", "405"),
        ("OPTIONS", "/nowhere", "preflight", "204"),
        ("GET", "/healthz", "health", "200"),
        ("POST", "/nobody/nothing/token", "easemob_token", "404"),
        (
            "GET",
            "/file/upload/chat?app_id=welovemaxim",
            "lanying_upload_chat",
            "200",
        ),
    ] {
        let call = || server.request(method, path, &[], b"");
        check(&server, call, |answer| {
            assert_eq!(answer.status.to_string(), status, "{method} {path}");
            let growth = Growth::default().requests(route, status, 1);
            match answer.body.len() {
                0 => growth,
                bytes => growth.sent(route, bytes),
            }
        });
    }
    // Without a Host, it counts for no route.
    let no_host = || {
        let mut connection = server.connect();
        connection.send(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
        connection.answer("GET").unwrap()
    };
    check(&server, no_host, |answer| {
        Growth::default()
            .requests("none", "400", 1)
            .sent("none", answer.body.len())
    });
}

#[test]
fn rate_refusals_are_counted_by_class() {
    let limits = "[limits]\ncalls_per_second = 1\ncalls_burst = 1\n";
    for (status, toml) in [("503", ""), ("429", "status = 429\n")] {
        let server = TestServer::with(&format!("{OPERATOR}{limits}{toml}"));
        let path = format!("{BASE}/chatfiles/01000000-0000-7000-8000-000000000000");
        let burst = || {
            let mut connection = server.connect();
            let call = head("GET", &path, &[], None);
            connection.send(&call.repeat(3)).unwrap();
            [0; 3].map(|_| connection.answer("GET").unwrap())
        };
        let route = ("route", "easemob_download");
        let answers = check(&server, burst, |answers| {
            let of = |status: u16| {
                answers
                    .iter()
                    .filter(|answer| answer.status == status)
                    .count()
            };
            let (passed, refused) = (of(401), of(status.parse().unwrap()));
            assert_eq!(passed + refused, 3);
            let bytes = answers.iter().map(|answer| answer.body.len()).sum();
            Growth::default()
                .more(REQUESTS, &[route, ("status", "401")], passed)
                .more(REQUESTS, &[route, ("status", status)], refused)
                .more(DURATIONS, &[route], 3)
                .more(ACCEPTED, &[], 1)
                .sent("easemob_download", bytes)
                .more(REFUSALS, &[route], refused)
        });
        let refused = answers.iter().filter(|answer| answer.status != 401);
        assert!(refused.count() > 0, "the machine is too slow for this test");
        assert_eq!(server.scrape().get("chatfiles_limiter_addresses", &[]), 1);
    }
}

/// Made, from memory, and after a restart from disk.
#[test]
fn thumbnail_sources_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let thumbnail = [("thumbnail", "true")];
    let mut server = TestServer::in_directory(directory.path(), OPERATOR);
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let fetch = |server: &TestServer, source: &str, lookup: &str| {
        let labels = [("kind", "thumbnail"), ("source", source)];
        let act = || server.download(&id, &thumbnail);
        check(server, act, |answer| {
            Growth::default()
                .requests("easemob_derivative", "200", 1)
                .sent("easemob_derivative", answer.body.len())
                .more(OPENED, &[("result", lookup)], 1)
                .more(DERIVED, &labels, 1)
        });
    };
    fetch(&server, "made", "miss");
    for _ in 0..2 {
        fetch(&server, "memory", "hit");
    }
    assert!(server.scrape().get("chatfiles_derivative_cache_bytes", &[]) > 1000);
    server.stop();
    drop(server);
    let server = TestServer::in_directory(directory.path(), OPERATOR);
    assert_eq!(
        server.scrape().get("chatfiles_derivative_cache_bytes", &[]),
        0
    );
    fetch(&server, "disk", "miss");
    fetch(&server, "memory", "hit");
}

#[test]
fn failed_and_small_pictures_are_counted() {
    let server = TestServer::with(OPERATOR);
    let fixture = |name: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/images/");
        std::fs::read(format!("{folder}{name}")).unwrap()
    };
    let broken = server.store_file("a.jpg", "image/jpeg", &fixture("truncated.jpg"));
    let mut small = Vec::new();
    let picture = image::DynamicImage::new_rgb8(8, 8);
    let png = image::ImageFormat::Png;
    picture
        .write_to(&mut std::io::Cursor::new(&mut small), png)
        .unwrap();
    let small = server.store_file("a.png", "image/png", &small);
    let ask = |id: &str| server.download(id, &[("thumbnail", "true")]).status;
    assert_eq!((ask(&broken), ask(&broken), ask(&broken)), (404, 404, 404));
    assert_eq!((ask(&small), ask(&small)), (200, 200));
    let scrape = server.scrape();
    for (source, times) in [
        ("made", 1),
        ("failed_before", 2),
        ("original", 1),
        ("memory", 1),
        ("disk", 0),
    ] {
        assert_eq!(derived(&scrape, source), times, "{source}");
    }
}

#[test]
fn decode_queue_is_shown() {
    let program = Program::held();
    let toml = program.toml("processes_max = 1\nqueue_max = 5\ntimeout_seconds = 60");
    let server = TestServer::with(&format!("{OPERATOR}{toml}[thumbnails]\nthreads = 3\n"));
    let alice = server.lanying("alice");
    let urls = [0; 3].map(|_| alice.send("103", "bob", "a.mp4", &MP4));
    let level = |name: &str, pool: &str| {
        server
            .scrape()
            .get(&format!("chatfiles_decode_{name}"), &[("pool", pool)])
    };
    assert_eq!(
        (level("places", "picture"), level("places", "ffmpeg")),
        (3, 1)
    );
    std::thread::scope(|scope| {
        for url in &urls {
            let alice = &alice;
            scope.spawn(move || assert_eq!(alice.open(url, "&image_type=3").status, 200));
        }
        poll("one runs and two wait", || {
            level("queue_length", "ffmpeg") == 2
        });
        assert_eq!(level("places_busy", "ffmpeg"), 1);
        assert_eq!(
            (
                level("queue_length", "picture"),
                level("places_busy", "picture")
            ),
            (0, 0)
        );
        program.release();
    });
    assert_eq!(
        (
            level("queue_length", "ffmpeg"),
            level("places_busy", "ffmpeg")
        ),
        (0, 0)
    );
    let scrape = server.scrape();
    assert_eq!(
        scrape.get(DERIVED, &[("kind", "frame"), ("source", "made")]),
        3
    );
    program.await_end();
}

#[test]
fn uploads_and_connections_are_shown() {
    let server = TestServer::with(OPERATOR);
    let form = Form::new().file("a.bin", "application/octet-stream", &[1; 100_000]);
    let (bytes, content_type) = (form.bytes(), form.content_type());
    let authorization = format!("Bearer {}", server.token("alice"));
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", &content_type),
        ("Expect", "100-continue"),
    ];
    let path = format!("{BASE}/chatfiles");
    let begin = || {
        let mut connection = server.connect();
        connection
            .send(&head("POST", &path, &headers, Some(bytes.len())))
            .unwrap();
        connection.stream().read_exact(&mut [0; 25]).unwrap();
        connection.send(&bytes[..1000]).unwrap();
        connection
    };
    let levels = || {
        let scrape = server.scrape();
        (
            scrape.get(UPLOADS, &[]),
            scrape.get("chatfiles_connections_open", &[]),
        )
    };
    assert_eq!(levels(), (0, 0));
    let (mut one, other) = (begin(), begin());
    assert_eq!(levels(), (2, 2));
    one.send(&bytes[1000..]).unwrap();
    assert_eq!(one.answer("POST").unwrap().status, 200);
    assert_eq!(levels(), (1, 2));
    // The client disconnects in the middle.
    drop(other);
    poll("one is left", || levels() == (0, 1));
    drop(one);
    poll("none is left", || levels() == (0, 0));
    assert_eq!(server.scrape().get(ACCEPTED, &[]), 2);
    let stored = [("route", "easemob_upload"), ("status", "200")];
    assert_eq!(server.scrape().get(REQUESTS, &stored), 1);
}

#[test]
fn every_sync_is_timed() {
    for (durability, is_synced) in [("full", true), ("none", false)] {
        let toml = format!("{OPERATOR}[store]\ndurability = \"{durability}\"\n");
        let server = TestServer::with(&toml);
        let syncs = |of: &str| server.scrape().get(SYNCS, &[("of", of)]);
        assert_eq!((syncs("file"), syncs("directory")), (0, 0));
        for uploads in 1..=3 {
            server.store_file("a.bin", "application/octet-stream", b"bytes");
            if is_synced {
                assert_eq!(syncs("file"), uploads);
                // The directory of the name, and the first time those above it.
                assert!(syncs("directory") >= uploads + 3);
            } else {
                assert_eq!((syncs("file"), syncs("directory")), (0, 0));
            }
        }
    }
}
