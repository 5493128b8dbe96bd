//! The budget for uploads in flight: uploads without room are told to retry in both APIs, room returns when an upload
//! ends, and one client or tenant leaves room for others.

use std::net::Ipv4Addr;

use chatfiles::auth::Subject;

use super::OTHER_TENANT;
use crate::support::{
    Answer, BASE, Connection, Form, TestServer, assert_error, chunked, configuration, head,
    lanying::ticket_form, open_from, poll,
};

/// One upload of four million bytes and one minimal upload, with a small reserve.
const BYTES_MAX: u64 = 5_200_000;
const LIMITS: &str = "[operator]\nlisten = \"127.0.0.1:0\"\n[limits]\nupload_bytes_max = 4000000\n\
                      upload_bytes_in_flight_max = 5200000\nexempt = [\"127.0.0.1\"]\n";
/// A budget with shares: an eighth, 8 MiB, per client, and half per tenant.
const SHARES: &str = "[operator]\nlisten = \"127.0.0.1:0\"\n[limits]\nupload_bytes_max = 4000000\n\
                      upload_bytes_in_flight_max = 67108864\n";

fn form(bytes: usize) -> Form {
    Form::new().file("a.bin", "application/octet-stream", &vec![7; bytes])
}

fn in_flight(server: &TestServer) -> u64 {
    let scrape = server.scrape();
    assert_eq!(
        scrape.get("chatfiles_upload_bytes_in_flight_max", &[]),
        BYTES_MAX
    );
    scrape.get("chatfiles_upload_bytes_in_flight", &[])
}

fn refusals(server: &TestServer) -> u64 {
    let scrape = server.scrape();
    scrape.get("chatfiles_upload_budget_refusals_total", &[])
}

/// The head of an upload by alice with further headers.
fn upload_head(server: &TestServer, form: &Form, headers: &[(&str, &str)]) -> Vec<u8> {
    server.upload_head("alice", form, headers)
}

/// An upload that has sent part of its body and reserves all of it.
fn stalled(server: &TestServer, form: &Form, sent: usize) -> Connection {
    let body = form.bytes();
    let length = body.len().to_string();
    let mut connection = server.connect();
    let mut first = upload_head(server, form, &[("Content-Length", &length)]);
    first.extend_from_slice(&body[..sent]);
    connection.send(&first).unwrap();
    poll("the upload holds its bytes", || {
        in_flight(server) == body.len() as u64
    });
    connection
}

#[track_caller]
fn assert_no_room(answer: &Answer) {
    let error = assert_error(answer, 503, "service_unavailable");
    let text = error["error_description"].as_str().unwrap();
    assert!(text.contains("uploaded just now"), "{text}");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

/// The head of an upload of 3,600,000 bytes and a little of its body, from a loopback address.
fn begin_from(server: &TestServer, last: u8, org: &str, app: &str) -> Connection {
    let form = form(3_600_000);
    let (body, content_type) = (form.bytes(), form.content_type());
    let token = server.token_of(org, app, Subject::User("alice".into()));
    let authorization = format!("Bearer {token}");
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", &content_type),
    ];
    let path = format!("/{org}/{app}/chatfiles");
    let mut bytes = head("POST", &path, &headers, Some(body.len()));
    bytes.extend_from_slice(&body[..1000]);
    let mut connection = open_from(server.address, Ipv4Addr::new(127, 0, 0, last), None);
    connection.send(&bytes).unwrap();
    connection
}

/// Sends the rest of an upload of [`begin_from`]; returns the status.
fn finish(mut begun: Connection) -> u16 {
    // A cut upload may already be closed.
    let _ = begun.send(&form(3_600_000).bytes()[1000..]);
    begun.answer("POST").unwrap().status
}

/// Starts uploads until one is refused; returns those in progress.
fn begin_all(server: &TestServer, last: u8, org: &str, app: &str) -> Vec<Connection> {
    let mut begun = Vec::new();
    loop {
        let (held, refused) = (in_flight_of(server), share_refusals(server));
        let mut connection = begin_from(server, last, org, app);
        poll("it to be accepted or refused", || {
            in_flight_of(server) > held || share_refusals(server) > refused
        });
        if share_refusals(server) > refused {
            assert_no_room(&connection.answer("POST").unwrap());
            return begun;
        }
        begun.push(connection);
    }
}

fn in_flight_of(server: &TestServer) -> u64 {
    server.scrape().get("chatfiles_upload_bytes_in_flight", &[])
}

fn share_refusals(server: &TestServer) -> u64 {
    let scrape = server.scrape();
    let of = |of| scrape.get("chatfiles_upload_share_refusals_total", &[("of", of)]);
    of("client") + of("tenant")
}

#[test]
fn one_address_leaves_room_for_others() {
    let server = TestServer::with(SHARES);
    let (org, app) = ("easemob-demo", "chatdemoui");
    let first = begin_all(&server, 1, org, app);
    assert_eq!(first.len(), 9, "a single client has half");
    // Other clients have an eighth each.
    let second = begin_all(&server, 2, org, app);
    let third = begin_all(&server, 3, org, app);
    assert_eq!((second.len(), third.len()), (2, 2));
    // One upload per address is always accepted while there is room.
    assert_eq!(finish(begin_from(&server, 4, org, app)), 200);
    drop((first, second, third));
    poll("nothing is reserved", || in_flight_of(&server) == 0);
}

#[test]
fn one_tenant_leaves_half_for_others() {
    let server = TestServer::with(&format!("{SHARES}{OTHER_TENANT}"));
    let (org, app) = ("easemob-demo", "chatdemoui");
    let mut held: Vec<Connection> = (1..=9)
        .map(|last| begin_from(&server, last, org, app))
        .collect();
    poll("all are accepted", || in_flight_of(&server) > 9 * 3_600_000);
    assert!(begin_all(&server, 10, org, app).is_empty());
    let others = begin_all(&server, 11, "other-org", "other-app");
    assert_eq!(others.len(), 2);
    held.extend(others);
    drop(held);
    poll("nothing is reserved", || in_flight_of(&server) == 0);
}

#[test]
fn large_holders_must_be_fast() {
    let pace = "[server]\nbody_idle_timeout_seconds = 60\nbody_bytes_per_second_min = 1000\n";
    let server = TestServer::with(&format!("{SHARES}{pace}"));
    let (org, app) = ("easemob-demo", "chatdemoui");
    let slow = begin_all(&server, 1, org, app);
    assert_eq!(slow.len(), 9);
    // Now others want room as well: as many of the nine are cut as reduce the share to less than half.
    let others: Vec<_> = [2, 3]
        .into_iter()
        .flat_map(|last| begin_all(&server, last, org, app))
        .collect();
    poll("less than half is reserved", || {
        in_flight_of(&server) <= 67_108_864 / 2
    });
    for other in others {
        assert_eq!(finish(other), 200);
    }
    // Another thread may cut one more at the same moment.
    let cut = slow.into_iter().map(finish).filter(|status| *status == 408);
    let cut = cut.count();
    assert!((4..9).contains(&cut), "{cut} of 9");
}

#[test]
fn no_room_answers_in_api_format() {
    let server = TestServer::with(LIMITS);
    let alice = server.lanying("alice");
    let id = server.store_file("a.txt", "text/plain", b"text");
    let ticket = alice.ticket("100", "bob", "1");
    let part = |method: &str, path: &str, body: &[u8]| {
        let authorization = format!("Bearer {}", server.token("alice"));
        let path = format!("{BASE}/sdk/chatfiles/part-upload{path}");
        server.request(method, &path, &[("Authorization", &authorization)], body)
    };
    let parts = part("POST", "", b"").json()["entities"][0]["uuid"].clone();
    let parts = format!("/{}?part_number=1", parts.as_str().unwrap());
    let large = form(3_600_000);
    let mut first = stalled(&server, &large, 1000);

    assert_no_room(&server.upload(&form(1_700_000), &[]));
    assert_no_room(&part("PUT", &parts, &[1; 1_700_000]));
    let posted = ticket_form(&ticket).file("a.bin", "text/plain", &[7; 1_700_000]);
    let refused = alice.post(&ticket, &posted);
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    let xml = refused.text();
    assert!(
        xml.contains("<Code>ServiceUnavailable</Code><Message>too much is being uploaded just now"),
        "{xml}"
    );
    assert_eq!(refusals(&server), 3);
    assert_eq!(in_flight(&server), large.bytes().len() as u64);
    assert_eq!(server.files_in("objects").len(), 1);

    // Smaller uploads pass, and downloads are exempt.
    server.store_file("b.bin", "text/plain", &[1; 100_000]);
    assert_eq!(server.download(&id, &[]).body, b"text");
    assert_eq!(part("PUT", &parts, &[1; 100_000]).status, 200);

    first.send(&large.bytes()[1000..]).unwrap();
    let stored = first.answer("POST").unwrap().json();
    let stored = stored["entities"][0]["uuid"].as_str().unwrap();
    assert_eq!(server.download(stored, &[]).body, [7; 3_600_000]);
    assert_eq!(server.upload(&form(1_700_000), &[]).status, 200);
    assert_eq!(part("PUT", &parts, &[1; 1_700_000]).status, 200);
    assert_eq!(alice.post(&ticket, &posted).status, 200);
    assert_eq!((in_flight(&server), refusals(&server)), (0, 3));
}

#[test]
fn room_returns_after_any_end() {
    let toml = format!("{LIMITS}[server]\nbody_idle_timeout_seconds = 1\n");
    let server = TestServer::with(&toml);
    let large = form(3_600_000);
    let body = large.bytes();
    type End<'e> = &'e dyn Fn(&mut Connection) -> Option<u16>;
    let ends: [(&str, End<'_>); 4] = [
        ("complete", &|connection| {
            connection.send(&body[1000..]).unwrap();
            Some(connection.answer("POST").unwrap().status)
        }),
        ("broken", &|connection| {
            // A second part that has not ended: the form never ends.
            let _ = connection.send(&vec![b'x'; body.len() - 1000]);
            Some(connection.answer("POST").unwrap().status)
        }),
        ("given up by the server", &|connection| {
            Some(connection.answer("POST").unwrap().status)
        }),
        ("given up by the client", &|connection| {
            connection
                .stream()
                .shutdown(std::net::Shutdown::Both)
                .unwrap();
            None
        }),
    ];
    for ((what, end), status) in ends.iter().zip([Some(200), Some(400), Some(408), None]) {
        let mut first = stalled(&server, &large, 1000);
        assert_no_room(&server.upload(&form(1_700_000), &[]));
        assert_eq!(end(&mut first), status, "{what}");
        poll("nothing is reserved", || in_flight(&server) == 0);
        assert_eq!(server.upload(&form(1_700_000), &[]).status, 200, "{what}");
    }
    // Refused at once, before the body is requested.
    let bad_token = [("Authorization", "Bearer x")];
    let mut connection = server.connect();
    let refused = connection.request("POST", &format!("{BASE}/chatfiles"), &bad_token, &body);
    assert_eq!(refused.status, 401);
    assert_eq!(in_flight(&server), 0);
    // Over the tenant's limit, whatever length is announced.
    assert_eq!(server.upload(&form(8_000_000), &[]).status, 413);
    assert_eq!(in_flight(&server), 0);
}

#[test]
fn expect_continue_is_refused_without_room() {
    let server = TestServer::with(LIMITS);
    let _first = stalled(&server, &form(3_600_000), 1000);
    let mut connection = server.connect();
    let headers = [("Content-Length", "1700000"), ("Expect", "100-continue")];
    let second = upload_head(&server, &form(0), &headers);
    connection.send(&second).unwrap();
    let text = String::from_utf8(connection.rest()).unwrap();
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    assert_eq!(text.matches("HTTP/1.1").count(), 1, "{text}");
}

#[test]
fn chunked_upload_reserves_tenant_limit() {
    let server = TestServer::with(LIMITS);
    let small = form(20_000);
    let mut first = server.connect();
    let coding = [("Transfer-Encoding", "chunked")];
    first.send(&upload_head(&server, &small, &coding)).unwrap();
    poll("it reserves its maximum", || {
        in_flight(&server) == 4_000_000 + 65_536
    });
    assert_no_room(&server.upload(&form(1_700_000), &[]));
    assert_eq!(server.upload(&form(10_000), &[]).status, 200);
    let body = small.bytes();
    first.send(&chunked(&body, body.len())).unwrap();
    assert_eq!(first.answer("POST").unwrap().status, 200);
    assert_eq!(in_flight(&server), 0);
    assert_eq!(server.upload(&form(100_000), &[]).status, 200);
}

#[test]
fn form_reserves_after_policy_check() {
    let server = TestServer::with(LIMITS);
    let alice = server.lanying("alice");
    let ticket = alice.ticket("100", "bob", "1");
    let form = ticket_form(&ticket).file("a.bin", "text/plain", &[7; 3_600_000]);
    let body = form.bytes();
    let content_type = form.content_type();
    let begin = |sent: &[u8]| {
        let headers = [("Content-Type", content_type.as_str())];
        let path = "/file/oss/welovemaxim";
        let mut first = head("POST", path, &headers, Some(body.len()));
        first.extend_from_slice(sent);
        let mut connection = server.connect();
        connection.send(&first).unwrap();
        connection
    };
    // Clients without a policy may announce anything, in any number.
    let silent: Vec<_> = (0..2).map(|_| begin(b"")).collect();
    poll("they reserve the memory for form fields", || {
        in_flight(&server) == 2 * 65_536
    });
    assert_eq!(server.upload(&self::form(3_600_000), &[]).status, 200);
    drop(silent);
    poll("nothing is reserved", || in_flight(&server) == 0);
    // With a valid policy, the whole length is reserved.
    let mut known = begin(&body[..5000]);
    poll("it reserves all of it", || {
        in_flight(&server) == body.len() as u64
    });
    assert_no_room(&server.upload(&self::form(1_700_000), &[]));
    known.send(&body[5000..]).unwrap();
    assert_eq!(known.answer("POST").unwrap().status, 200);
    // The room exists when the form starts, and is gone when its policy has been read.
    let ticket = alice.ticket("100", "bob", "1");
    let form = ticket_form(&ticket).file("a.bin", "text/plain", &[7; 3_600_000]);
    let mut late = begin(b"");
    poll("it to wait for its fields", || in_flight(&server) == 65_536);
    let large = self::form(3_200_000);
    let mut first = server.connect();
    let length = large.bytes().len().to_string();
    let upload = upload_head(&server, &large, &[("Content-Length", &length)]);
    first.send(&upload).unwrap();
    poll("another upload holds the room", || {
        in_flight(&server) > 3_200_000
    });
    let _ = late.send(&form.bytes());
    let refused = late.answer("POST").unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.header("retry-after"), Some("1"));
    first.send(&large.bytes()).unwrap();
    assert_eq!(first.answer("POST").unwrap().status, 200);
    assert_eq!(alice.post(&ticket, &form).status, 200);
    assert_eq!(in_flight(&server), 0);
}

#[test]
fn bad_reload_changes_nothing() {
    let server = TestServer::with(LIMITS);
    let reload = |limits: &str| {
        let text = format!("[limits]\nupload_bytes_in_flight_max = 9000000\n{limits}");
        let config = configuration(std::path::Path::new("/nowhere"), &text);
        server.reloader().reload(&config)
    };
    let error = reload("upload_bytes_max = 8000000").unwrap_err();
    let text = error.public_text().unwrap();
    assert!(
        text.contains(
            "\"5200kB\" (in force until the server is restarted): must be at least \"8065536B\""
        ),
        "{text}"
    );
    assert_eq!(server.upload(&form(4_500_000), &[]).status, 413);
    reload("upload_bytes_max = 5000000").unwrap();
    assert_eq!(server.upload(&form(4_500_000), &[]).status, 200);
}
