//! Daily quotas of users and tenants: what counts, what is returned, and the refusal.

use std::{io::Write as _, path::Path};

use chatfiles::{
    auth::Subject,
    error::Kind,
    store::{Store, local::LocalStore},
};
use serde_json::Value;

use crate::support::{
    Answer, BASE, Connection, Faults, FaultyStore, Form, Step, TestServer, assert_error, chunked,
    configuration, head,
    lanying::{success, ticket_form},
    poll,
};

const OPERATOR: &str = "[operator]\nlisten = \"127.0.0.1:0\"\n";
/// A form is some two hundred bytes longer than its file.
const USER: &str = "[limits]\nuser_upload_bytes_per_day = 5000\n";

fn form(bytes: usize) -> Form {
    Form::new().file("a.bin", "application/octet-stream", &vec![7; bytes])
}

fn upload_head(server: &TestServer, user: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    server.upload_head(user, &form(0), headers)
}

/// Uploads `bytes` bytes as a user.
fn upload(server: &TestServer, user: &str, bytes: usize) -> Answer {
    let body = form(bytes).bytes();
    let length = body.len().to_string();
    let mut connection = server.connect();
    let mut sent = upload_head(server, user, &[("Content-Length", &length)]);
    sent.extend_from_slice(&body);
    let _ = connection.send(&sent);
    connection.answer("POST").unwrap()
}

#[track_caller]
fn assert_stored(answer: &Answer) {
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The owner and the size of the exceeded quota, if the response is such a refusal in the API's format.
#[track_caller]
fn assert_over(server: &TestServer, answer: &Answer, whose: &str, bytes_a_day: u64) {
    let error = assert_error(answer, 429, "reach_limit");
    assert_eq!(
        error["error_description"],
        format!(
            "the {whose} may upload {bytes_a_day} bytes a day, and has fewer left today than this call needs."
        )
    );
    assert_midnight(server, answer);
}

/// `Retry-After` points to the next UTC midnight.
#[track_caller]
fn assert_midnight(server: &TestServer, answer: &Answer) {
    let after: i64 = answer.header("retry-after").unwrap().parse().unwrap();
    let now = server.clock.now();
    let left = (now.day().end().ms() - now.ms()) / 1000;
    assert!(
        (left..left + 60).contains(&after),
        "{after}, {left} are left"
    );
}

/// Noon of the next day, so that no test reaches midnight.
fn set_to_noon(server: &TestServer) {
    let now = server.clock.now();
    let half_a_day = 12 * 3_600_000;
    server
        .clock
        .advance(now.day().end().ms() - now.ms() + half_a_day);
}

fn server(toml: &str) -> TestServer {
    let server = TestServer::with(&format!("{OPERATOR}{toml}"));
    set_to_noon(&server);
    server
}

#[test]
fn daily_quota_per_user_and_tenant() {
    let server = server(&format!("{USER}upload_bytes_per_day = 12000\n"));
    assert_stored(&upload(&server, "alice", 3000));
    assert_over(&server, &upload(&server, "alice", 3000), "user", 5000);
    // The file counts, not the form around it.
    assert_stored(&upload(&server, "alice", 1700));
    assert_over(&server, &upload(&server, "alice", 200), "user", 5000);
    // Others have their own quota, until the tenant's is used up.
    assert_stored(&upload(&server, "bob", 4700));
    assert_over(
        &server,
        &upload(&server, "carol", 3000),
        "application",
        12_000,
    );
    assert_stored(&upload(&server, "carol", 1000));
    assert_over(&server, &upload(&server, "alice", 5000), "user", 5000);
    let shown = server.scrape();
    let route = [("route", "easemob_upload")];
    assert_eq!(
        shown.get("chatfiles_upload_quota_refusals_total", &route),
        4
    );
    assert_eq!(shown.get("chatfiles_limiter_refusals_total", &route), 0);
    assert_eq!(server.files_in("objects").len(), 4);
    // Ten minutes before midnight, and after it.
    server.clock.advance(12 * 3_600_000 - 600_000);
    assert_over(&server, &upload(&server, "alice", 1000), "user", 5000);
    server.clock.advance(1_200_000);
    for user in ["alice", "bob"] {
        assert_stored(&upload(&server, user, 4500));
        assert_over(&server, &upload(&server, user, 1000), "user", 5000);
    }
}

/// A forward counts for nobody.
#[test]
fn form_counts_for_ticket_owner() {
    let server = server(USER);
    let alice = server.lanying("alice");
    let url = alice.send("100", "bob", "a.bin", &[7; 3000]);
    let ticket = alice.ticket("100", "bob", "1");
    let large = ticket_form(&ticket).file("a.bin", "text/plain", &[7; 1800]);
    // The announced length includes policy and fields, a thousand bytes more.
    let refused = alice.post(&ticket, &large);
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert_midnight(&server, &refused);
    let xml = refused.text();
    assert!(
        xml.contains("<Code>QuotaExceeded</Code><Message>the user may upload 5000 bytes a day"),
        "{xml}"
    );
    let sign = crate::support::lanying::file_sign(&url);
    for _ in 0..10 {
        success(&alice.get(&format!(
            "upload/forward?file_sign={sign}&to_id=carol&to_type=1"
        )));
    }
    // One user in both APIs. A refused ticket is still valid.
    assert_stored(&upload(&server, "alice", 1500));
    assert_over(&server, &upload(&server, "alice", 500), "user", 5000);
    server
        .lanying("bob")
        .send("100", "alice", "a.bin", &[7; 3000]);
    let shown = server.scrape();
    let route = [("route", "lanying_form")];
    assert_eq!(
        shown.get("chatfiles_upload_quota_refusals_total", &route),
        1
    );
    assert_eq!(server.files_in("objects").len(), 3);
}

#[test]
fn application_counts_for_tenant_only() {
    let server = server(&format!("{USER}upload_bytes_per_day = 12000\n"));
    let token = server.token_of("easemob-demo", "chatdemoui", Subject::App);
    let upload = |bytes: usize| {
        let authorization = format!("Bearer {token}");
        let content_type = form(0).content_type();
        let headers = [
            ("Authorization", authorization.as_str()),
            ("Content-Type", &content_type),
        ];
        let path = format!("{BASE}/chatfiles");
        server.request("POST", &path, &headers, &form(bytes).bytes())
    };
    assert_stored(&upload(6000));
    assert_stored(&upload(5500));
    assert_over(&server, &upload(1000), "application", 12_000);
}

#[test]
fn pending_counts_and_failed_returns() {
    let server = server(USER);
    let body = form(4000).bytes();
    let length = body.len().to_string();
    let begin = || -> Connection {
        let mut connection = server.connect();
        let mut sent = upload_head(&server, "alice", &[("Content-Length", &length)]);
        sent.extend_from_slice(&body[..100]);
        connection.send(&sent).unwrap();
        let uploads = "chatfiles_uploads_in_flight";
        poll("it to be in progress", || {
            server.scrape().get(uploads, &[]) == 1
        });
        connection
    };
    // It has no file and stores nothing; if it is refused earlier, the quota is the reason.
    let probe = || {
        let no_file = Form::new().field("a", &"b".repeat(2000));
        server.upload(&no_file, &[]).status
    };
    for end in ["gone", "broken"] {
        let mut connection = begin();
        poll("it has reserved its bytes", || probe() == 429);
        assert_stored(&upload(&server, end, 2000));
        match end {
            "gone" => drop(connection),
            _ => {
                connection.send(&vec![b'x'; body.len() - 100]).unwrap();
                assert_eq!(connection.answer("POST").unwrap().status, 400);
            }
        }
        poll("the bytes are given back", || probe() == 400);
    }
    for _ in 0..10 {
        assert_eq!(upload(&server, "alice", 0).status, 400);
        assert_eq!(probe(), 400);
    }
    assert_stored(&upload(&server, "alice", 4700));
}

#[test]
fn failed_write_returns_quota() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let moved = faults.clone();
    let server = TestServer::over(directory.path(), USER, |inner: LocalStore| {
        std::sync::Arc::new(FaultyStore {
            inner,
            faults: moved,
        }) as std::sync::Arc<dyn Store>
    });
    set_to_noon(&server);
    for step in [Step::Begin, Step::Write, Step::Commit] {
        faults.set(Some((step, Kind::StorageFull)));
        for _ in 0..3 {
            assert_eq!(upload(&server, "alice", 4000).status, 507, "{step:?}");
        }
    }
    faults.set(None);
    assert_stored(&upload(&server, "alice", 4000));
    assert_over(&server, &upload(&server, "alice", 1000), "user", 5000);
}

#[test]
fn concurrent_uploads_cannot_exceed() {
    let server = server(&format!("{USER}upload_bytes_per_day = 12000\n"));
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|number| {
                let server = &server;
                let user = ["alice", "bob"][number % 2];
                scope.spawn(move || upload(server, user, 2000).status)
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    // Two of each: a third one exceeds the quota in any order.
    let of = |status: u16| statuses.iter().filter(|found| **found == status).count();
    assert_eq!((of(200), of(429)), (4, 12), "{statuses:?}");
}

#[test]
fn chunked_upload_reserves_maximum() {
    let server = server(&format!("{USER}upload_bytes_max = 4000\n"));
    let chunked = || {
        let body = form(500).bytes();
        let mut sent = upload_head(&server, "alice", &[("Transfer-Encoding", "chunked")]);
        sent.extend(chunked(&body, body.len()));
        let mut connection = server.connect();
        connection.send(&sent).unwrap();
        connection.answer("POST").unwrap()
    };
    for _ in 0..3 {
        assert_stored(&chunked());
    }
    // 1500 bytes are stored.
    assert_over(&server, &chunked(), "user", 5000);
    assert_stored(&upload(&server, "alice", 3000));
}

#[test]
fn parts_count_as_they_come() {
    let server = server(USER);
    let call = |method: &str, path: &str, body: &[u8]| {
        let authorization = format!("Bearer {}", server.token("alice"));
        let path = format!("{BASE}/sdk/chatfiles/part-upload{path}");
        server.request(method, &path, &[("Authorization", &authorization)], body)
    };
    let begin = || {
        let id = call("POST", "", b"").json()["entities"][0]["uuid"].clone();
        format!("/{}", id.as_str().unwrap())
    };
    let put = |upload: &str, number: u32, bytes: usize| {
        let path = format!("{upload}?part_number={number}");
        call("PUT", &path, &vec![7; bytes])
    };
    let (one, other) = (begin(), begin());
    assert_stored(&put(&one, 1, 1500));
    assert_stored(&put(&one, 2, 1500));
    assert_over(&server, &put(&one, 3, 2500), "user", 5000);
    assert_over(&server, &put(&other, 1, 2500), "user", 5000);
    // Nothing of a refused part is on disk.
    assert_eq!(server.files_in("parts").len(), 4);
    assert!(server.files_in("tmp").is_empty());
    // A replaced part is returned; the stored file replaces its parts.
    assert_stored(&put(&one, 2, 500));
    assert_stored(&put(&other, 1, 2500));
    assert_stored(&call("POST", &one, b""));
    assert_over(&server, &upload(&server, "alice", 500), "user", 5000);
    // Repeating a completion counts nothing.
    assert_stored(&call("POST", &one, b""));
    // Returned on an abort and on an interruption.
    assert_stored(&call("DELETE", &other, b""));
    for _ in 0..3 {
        let upload = begin();
        assert_stored(&put(&upload, 1, 2500));
        assert_eq!(put(&upload, 0, 400).status, 400);
        assert_stored(&call("DELETE", &upload, b""));
    }
    assert_stored(&upload(&server, "alice", 2500));
    assert_over(&server, &upload(&server, "alice", 500), "user", 5000);
    // Parts count for the day of their upload; a completion on the next day counts nothing twice.
    let last = begin();
    assert_stored(&put(&last, 1, 300));
    server.clock.advance(13 * 3_600_000);
    assert_stored(&put(&last, 2, 4000));
    let stored: Value = call("POST", &last, b"").json();
    assert_eq!(
        stored["entities"][0]["file-metadata"]["content-length"], 4300,
        "{stored}"
    );
    assert_over(&server, &upload(&server, "alice", 1000), "user", 5000);
    assert_stored(&upload(&server, "alice", 700));
}

#[test]
fn reload_keeps_counts() {
    let server = server(USER);
    let reload = |toml: &str| {
        // Another tenant is inserted before it in the configuration: the counts stay with their tenant.
        let tenants = "[[tenant]]\norg = \"a\"\napp = \"b\"\n\
                       [[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\n";
        let config = configuration(Path::new("/nowhere"), &format!("{tenants}{toml}"));
        server.reloader().reload(&config).unwrap();
    };
    assert_stored(&upload(&server, "alice", 4000));
    reload("user_upload_bytes_per_day = 7000\n");
    assert_over(&server, &upload(&server, "alice", 3000), "user", 7000);
    assert_stored(&upload(&server, "alice", 2500));
    reload("user_upload_bytes_per_day = 1000\n");
    assert_over(&server, &upload(&server, "alice", 1), "user", 1000);
    reload("");
    assert_stored(&upload(&server, "alice", 100_000));
    reload("user_upload_bytes_per_day = 7000\n");
    assert_over(&server, &upload(&server, "alice", 500), "user", 7000);
}
