//! The bytes of uploads in flight: who finds no room is told to come again, in either dialect, and room comes back
//! however an upload ends.

use crate::support::{
    Answer, BASE, Connection, Form, TestServer, assert_error, configuration, eventually, head,
    lanying::ticket_form,
};

/// A million bytes of a file and its form, and little more.
const BYTES_MAX: u64 = 1_100_000;
const LIMITS: &str = "[operator]\nlisten = \"127.0.0.1:0\"\n[limits]\nupload_bytes_max = 1000000\n\
                      upload_bytes_in_flight_max = 1100000\n";

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

/// The head of an upload by alice, with these headers more.
fn upload_head(server: &TestServer, form: &Form, headers: &[(&str, &str)]) -> Vec<u8> {
    server.upload_head("alice", form, headers)
}

/// An upload that has sent so much of its body, and holds all of it.
fn stalled(server: &TestServer, form: &Form, sent: usize) -> Connection {
    let body = form.bytes();
    let length = body.len().to_string();
    let mut connection = server.connect();
    let mut first = upload_head(server, form, &[("Content-Length", &length)]);
    first.extend_from_slice(&body[..sent]);
    connection.send(&first).unwrap();
    eventually("the upload holds its bytes", || {
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

#[test]
fn an_upload_that_finds_no_room_is_told_so_in_its_dialect_and_all_else_goes_on() {
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
    let large = form(900_000);
    let mut first = stalled(&server, &large, 1000);

    assert_no_room(&server.upload(&form(300_000), &[]));
    assert_no_room(&part("PUT", &parts, &[1; 300_000]));
    let posted = ticket_form(&ticket).file("a.bin", "text/plain", &[7; 300_000]);
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

    // What fits passes, and downloads are never asked.
    server.store_file("b.bin", "text/plain", &[1; 100_000]);
    assert_eq!(server.download(&id, &[]).body, b"text");
    assert_eq!(part("PUT", &parts, &[1; 100_000]).status, 200);

    first.send(&large.bytes()[1000..]).unwrap();
    let stored = first.answer("POST").unwrap().json();
    let stored = stored["entities"][0]["uuid"].as_str().unwrap();
    assert_eq!(server.download(stored, &[]).body, [7; 900_000]);
    assert_eq!(server.upload(&form(300_000), &[]).status, 200);
    assert_eq!(part("PUT", &parts, &[1; 300_000]).status, 200);
    assert_eq!(alice.post(&ticket, &posted).status, 200);
    assert_eq!((in_flight(&server), refusals(&server)), (0, 3));
}

#[test]
fn room_comes_back_however_an_upload_ends() {
    let toml = format!("{LIMITS}[server]\nbody_idle_timeout_seconds = 1\n");
    let server = TestServer::with(&toml);
    let large = form(900_000);
    let body = large.bytes();
    type End<'e> = &'e dyn Fn(&mut Connection) -> Option<u16>;
    let ends: [(&str, End<'_>); 4] = [
        ("complete", &|connection| {
            connection.send(&body[1000..]).unwrap();
            Some(connection.answer("POST").unwrap().status)
        }),
        ("broken", &|connection| {
            // A second part of the name, where the first has not ended: the form never ends.
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
        assert_no_room(&server.upload(&form(300_000), &[]));
        assert_eq!(end(&mut first), status, "{what}");
        eventually("nothing is held", || in_flight(&server) == 0);
        assert_eq!(server.upload(&form(300_000), &[]).status, 200, "{what}");
    }
    // Refused before the body is asked for: at once.
    let bad_token = [("Authorization", "Bearer x")];
    let mut connection = server.connect();
    let refused = connection.request("POST", &format!("{BASE}/chatfiles"), &bad_token, &body);
    assert_eq!(refused.status, 401);
    assert_eq!(in_flight(&server), 0);
    // Over what the tenant accepts, whatever is announced.
    assert_eq!(server.upload(&form(2_000_000), &[]).status, 413);
    assert_eq!(in_flight(&server), 0);
}

#[test]
fn a_client_that_waits_for_100_continue_does_not_get_it_where_there_is_no_room() {
    let server = TestServer::with(LIMITS);
    let _first = stalled(&server, &form(900_000), 1000);
    let mut connection = server.connect();
    let headers = [("Content-Length", "300000"), ("Expect", "100-continue")];
    let second = upload_head(&server, &form(0), &headers);
    connection.send(&second).unwrap();
    let text = String::from_utf8(connection.rest()).unwrap();
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    assert_eq!(text.matches("HTTP/1.1").count(), 1, "{text}");
}

#[test]
fn a_chunked_upload_holds_the_most_that_its_tenant_accepts() {
    let server = TestServer::with(LIMITS);
    let small = form(20_000);
    let mut first = server.connect();
    let chunked = [("Transfer-Encoding", "chunked")];
    first.send(&upload_head(&server, &small, &chunked)).unwrap();
    eventually("it holds all it may bring", || {
        in_flight(&server) == 1_000_000 + 65_536
    });
    assert_no_room(&server.upload(&form(100_000), &[]));
    assert_eq!(server.upload(&form(10_000), &[]).status, 200);
    let body = small.bytes();
    let mut chunk = format!("{:x}\r\n", body.len()).into_bytes();
    chunk.extend_from_slice(&body);
    chunk.extend_from_slice(b"\r\n0\r\n\r\n");
    first.send(&chunk).unwrap();
    assert_eq!(first.answer("POST").unwrap().status, 200);
    assert_eq!(in_flight(&server), 0);
    assert_eq!(server.upload(&form(100_000), &[]).status, 200);
}

#[test]
fn a_form_holds_little_until_its_policy_is_good() {
    let server = TestServer::with(LIMITS);
    let alice = server.lanying("alice");
    let ticket = alice.ticket("100", "bob", "1");
    let form = ticket_form(&ticket).file("a.bin", "text/plain", &[7; 900_000]);
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
    // Whoever sends no policy may announce what he likes, and be many.
    let silent: Vec<_> = (0..2).map(|_| begin(b"")).collect();
    eventually("they hold what a form's fields need", || {
        in_flight(&server) == 2 * 65_536
    });
    assert_eq!(server.upload(&self::form(900_000), &[]).status, 200);
    drop(silent);
    eventually("nothing is held", || in_flight(&server) == 0);
    // With a good one, it is all of it.
    let mut known = begin(&body[..5000]);
    eventually("it holds all of it", || {
        in_flight(&server) == body.len() as u64
    });
    assert_no_room(&server.upload(&self::form(300_000), &[]));
    known.send(&body[5000..]).unwrap();
    assert_eq!(known.answer("POST").unwrap().status, 200);
    // The room was there when the form began, and has gone when its policy has come.
    let ticket = alice.ticket("100", "bob", "1");
    let form = ticket_form(&ticket).file("a.bin", "text/plain", &[7; 900_000]);
    let mut late = begin(b"");
    eventually("it waits for its fields", || in_flight(&server) == 65_536);
    let large = self::form(800_000);
    let mut first = server.connect();
    let length = large.bytes().len().to_string();
    let upload = upload_head(&server, &large, &[("Content-Length", &length)]);
    first.send(&upload).unwrap();
    eventually("another has the room", || in_flight(&server) > 800_000);
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
fn a_reload_for_uploads_that_would_never_fit_changes_nothing() {
    let server = TestServer::with(LIMITS);
    let reload = |limits: &str| {
        let text = format!("[limits]\nupload_bytes_in_flight_max = 9000000\n{limits}");
        let config = configuration(std::path::Path::new("/nowhere"), &text);
        server.reloader().reload(&config)
    };
    let error = reload("upload_bytes_max = 2000000").unwrap_err();
    let text = error.public_text().unwrap();
    assert!(
        text.contains(
            "1100000 (in force until the server is started anew): must be at least 2065536"
        ),
        "{text}"
    );
    assert_eq!(server.upload(&form(1_500_000), &[]).status, 413);
    reload("upload_bytes_max = 1030000").unwrap();
    assert_eq!(server.upload(&form(1_020_000), &[]).status, 200);
}
