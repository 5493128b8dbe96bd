//! `/{org}/{app}/sdk/chatfiles/part-upload`: limits of unfinished uploads per user, client and tenant, so that others
//! find room.

use std::net::Ipv4Addr;

use chatfiles::auth::Subject;
use serde_json::Value;

use super::parts::{PATH, begin, call, complete, ok, put_raw};
use crate::support::{Answer, TestServer, assert_error, head, open_from};

const TENANTS: &str = "[operator]\nlisten = \"127.0.0.1:0\"\n\
                       [[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\n\
                       [[tenant]]\norg = \"other\"\napp = \"app\"\n";

fn server(limits: &str) -> TestServer {
    TestServer::with(&format!("{TENANTS}[limits]\n{limits}"))
}

/// Starts an upload as a user of a tenant, from a loopback address.
fn begin_as(server: &TestServer, org: &str, app: &str, user: &str, client: u8) -> Answer {
    let token = server.token_of(org, app, Subject::User(user.into()));
    let authorization = format!("Bearer {token}");
    let path = format!("/{org}/{app}/sdk/chatfiles/part-upload");
    let headers = [("Authorization", authorization.as_str())];
    let mut connection = open_from(server.address, Ipv4Addr::new(127, 0, 0, client), None);
    connection
        .send(&head("POST", &path, &headers, None))
        .unwrap();
    connection.answer("POST").unwrap()
}

fn begin_here(server: &TestServer, user: &str, client: u8) -> Answer {
    begin_as(server, "easemob-demo", "chatdemoui", user, client)
}

/// How many users of a client can start one until one is refused.
fn begin_all(server: &TestServer, client: u8) -> usize {
    let begun = |number: usize| {
        let answer = begin_here(server, &format!("user{client}-{number}"), client);
        if answer.status != 200 {
            assert_refused(&answer, "this address has");
        }
        answer.status == 200
    };
    (0..).take_while(|number| begun(*number)).count()
}

#[track_caller]
fn assert_refused(answer: &Answer, whose: &str) {
    let error = assert_error(answer, 503, "service_unavailable");
    let text = error["error_description"].as_str().unwrap();
    assert!(text.starts_with(whose), "{text}");
    assert_eq!(answer.header("retry-after"), Some("60"));
}

fn metric(server: &TestServer, name: &str, labels: &[(&str, &str)]) -> u64 {
    server.scrape().get(name, labels)
}

#[test]
fn user_has_sixteen_unfinished_uploads() {
    let server = server("part_uploads_max = 1000");
    let ids: Vec<String> = (0..16).map(|_| begin(&server)).collect();
    for _ in 0..3 {
        assert_refused(&call(&server, "POST", ""), "this user has");
    }
    assert_eq!(server.files_in("parts").len(), 16);
    assert_eq!(begin_here(&server, "bob", 1).status, 200);
    assert_eq!(begin_as(&server, "other", "app", "alice", 1).status, 200);
    // An abort or a completion makes room.
    ok(&call(&server, "DELETE", &format!("/{}", ids[0])));
    ok(&put_raw(&server, &ids[1], "1", b"hello"));
    complete(&server, &ids[1], "");
    begin(&server);
    begin(&server);
    assert_refused(&call(&server, "POST", ""), "this user has");
    assert_eq!(metric(&server, "chatfiles_part_uploads", &[]), 18);
    let refusals = "chatfiles_part_upload_refusals_total";
    assert_eq!(metric(&server, refusals, &[("share", "user")]), 4);
}

#[test]
fn client_leaves_room_for_others() {
    let server = server("part_uploads_max = 64");
    assert_eq!(begin_all(&server, 1), 16);
    // The next client of the tenant, another tenant, and a user from before.
    assert_eq!(begin_all(&server, 2), 8);
    assert_eq!(begin_as(&server, "other", "app", "alice", 1).status, 200);
    assert_eq!(begin_here(&server, "user1-0", 3).status, 200);
    assert_eq!(metric(&server, "chatfiles_part_uploads_max", &[]), 64);
    assert_eq!(metric(&server, "chatfiles_part_uploads", &[]), 26);
}

#[test]
fn tenant_leaves_room_for_others() {
    let server = server("part_uploads_max = 64");
    // Each client gets half of the remaining room.
    let begun: usize = (1..=32)
        .map(|client| begin_all_or_tenant(&server, client))
        .sum();
    assert!((24..=32).contains(&begun), "{begun}");
    for client in [1, 40] {
        assert_eq!(
            begin_as(&server, "other", "app", "alice", client).status,
            200
        );
    }
}

fn begin_all_or_tenant(server: &TestServer, client: u8) -> usize {
    let begun =
        |number: usize| begin_here(server, &format!("u{client}-{number}"), client).status == 200;
    (0..).take_while(|number| begun(*number)).count()
}

#[test]
fn uploads_before_restart_count() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::in_directory(directory.path(), TENANTS);
    let ids: Vec<String> = (0..16).map(|_| begin(&server)).collect();
    ok(&put_raw(&server, &ids[3], "1", &[7; 300_000]));
    drop(server);
    let server = TestServer::in_directory(directory.path(), TENANTS);
    assert_eq!(metric(&server, "chatfiles_part_uploads", &[]), 16);
    assert_eq!(metric(&server, "chatfiles_part_upload_bytes", &[]), 300_000);
    assert_refused(&call(&server, "POST", ""), "this user has");
    ok(&call(&server, "DELETE", &format!("/{}", ids[3])));
    begin(&server);
    assert_eq!(metric(&server, "chatfiles_part_upload_bytes", &[]), 0);
}

#[test]
fn charges_end_with_uploads() {
    let server = server("upload_bytes_max = 1000000");
    let bytes = |server: &TestServer| metric(server, "chatfiles_part_upload_bytes", &[]);
    let id = begin(&server);
    for (number, part, expected) in [
        ("1", 500_000, 500_000),
        // Replaced by a smaller one, and then by one of the same size.
        ("1", 400_000, 400_000),
        ("1", 400_000, 400_000),
        // A small part counts as 64 KiB.
        ("2", 1, 465_536),
        ("2", 1, 465_536),
        ("3", 200_000, 665_536),
    ] {
        ok(&put_raw(&server, &id, number, &vec![7; part]));
        assert_eq!(bytes(&server), expected, "{number} {part}");
    }
    // Refused for its size, refused for its number, and interrupted.
    assert_eq!(put_raw(&server, &id, "4", &[7; 500_000]).status, 413);
    assert_eq!(put_raw(&server, &id, "0", &[7; 5000]).status, 400);
    assert_eq!(put_raw(&server, &id, "1", b"").status, 400);
    let authorization = format!("Bearer {}", server.token("alice"));
    let headers = [("Authorization", authorization.as_str())];
    let path = format!("{PATH}/{id}?part_number=9");
    let mut connection = server.connect();
    connection
        .send(&head("PUT", &path, &headers, Some(300_000)))
        .unwrap();
    connection.send(&[7; 1000]).unwrap();
    crate::support::poll("it to be in progress", || bytes(&server) == 965_536);
    drop(connection);
    crate::support::poll("the charge to be returned", || bytes(&server) == 665_536);
    let stored: Value = complete(&server, &id, "");
    assert_eq!(stored["file-metadata"]["content-length"], 600_001);
    assert_eq!(bytes(&server), 0);
    // Aborted while a part is being received.
    let id = begin(&server);
    let path = format!("{PATH}/{id}?part_number=1");
    let mut connection = server.connect();
    connection
        .send(&head("PUT", &path, &headers, Some(300_000)))
        .unwrap();
    crate::support::poll("it to be in progress", || bytes(&server) == 300_000);
    ok(&call(&server, "DELETE", &format!("/{id}")));
    connection.send(&[7; 300_000]).unwrap();
    assert_eq!(connection.answer("PUT").unwrap().status, 404);
    assert_eq!(bytes(&server), 0);
    assert_eq!(super::parts::left(&server), 0);
}
