//! Both APIs, served from a store that has no files: everything that clients do, through sockets.

use std::sync::Arc;

use chatfiles::{
    server::control::{self, Command},
    time::MS_PER_DAY,
};

use super::in_memory::InMemory;
use crate::{
    easemob::parts::{begin, complete, listed, ok, put, put_raw},
    lanying::forward::forward,
    support::{
        Random, TestServer,
        lanying::{assert_code, file_sign},
        photo,
    },
};

fn server() -> (tempfile::TempDir, TestServer) {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::over_store(directory.path(), "", |_| Arc::new(InMemory::default()));
    (directory, server)
}

/// Takes an object down, as `chatfiles rm` asks the server to.
fn take_down(server: &TestServer, id: &str) {
    let command = Command::Remove(id.to_owned());
    let answer = control::request(&server.store, &command).unwrap();
    assert_eq!(answer, Some(format!("removed {id}")));
}

#[test]
fn serves_easemob_api() {
    let (_directory, server) = server();
    let bytes = Random::new().bytes(1_000_000);
    let id = server.store_file("a.bin", "application/octet-stream", &bytes);
    assert!(server.download(&id, &[]).body == bytes);
    for (range, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=300000-699999", 300_000..700_000),
        ("bytes=-1", 999_999..1_000_000),
    ] {
        let answer = server.download(&id, &[("Range", range)]);
        assert_eq!(answer.status, 206, "{range}");
        assert!(answer.body == bytes[expected], "{range}");
    }
    let several = server.download(&id, &[("Range", "bytes=0-9,500000-500009")]);
    assert_eq!(several.status, 206);
    let has = |part: &[u8]| several.body.windows(10).any(|found| found == part);
    assert!(has(&bytes[..10]) && has(&bytes[500_000..500_010]));

    let picture = server.store_file("a.jpg", "image/jpeg", &photo());
    for _ in 0..2 {
        let thumbnail = server.download(&picture, &[("thumbnail", "true")]);
        assert_eq!(thumbnail.status, 200);
        assert!(thumbnail.body.starts_with(b"\xff\xd8") && thumbnail.body.len() < photo().len());
    }
    take_down(&server, &picture);
    assert_eq!(server.download(&picture, &[]).status, 404);
    assert_eq!(
        server.download(&picture, &[("thumbnail", "true")]).status,
        404
    );
    assert_eq!(server.download(&id, &[]).status, 200);
}

#[test]
fn serves_uploads_in_parts() {
    let (_directory, server) = server();
    let (first, second) = (vec![1; 300_000], vec![2; 1]);
    let id = begin(&server);
    ok(&put(&server, &id, "2", &second));
    ok(&put_raw(&server, &id, "1", b"replaced"));
    ok(&put_raw(&server, &id, "1", &first));
    assert_eq!(listed(&server, &id).as_array().unwrap().len(), 2);
    let file = complete(&server, &id, "");
    assert_eq!(complete(&server, &id, ""), file);
    let downloaded = server.download(file["uuid"].as_str().unwrap(), &[]);
    assert!(downloaded.body == [first, second].concat());
}

#[test]
fn serves_lanying_api() {
    let (_directory, server) = server();
    let alice = server.lanying("alice");
    let url = alice.send("101", "bob", "a.jpg", &photo());
    let bob = server.lanying("bob");
    assert!(bob.open(&url, "").body == photo());
    let thumbnail = bob.open(&url, "&image_type=2");
    assert!(thumbnail.body.starts_with(b"\xff\xd8") && thumbnail.body.len() < photo().len());

    server.clock.advance(MS_PER_DAY);
    let (alice, bob) = (server.lanying("alice"), server.lanying("bob"));
    let forwarded = forward(&bob, file_sign(&url), "carol", "1");
    let carol = server.lanying("carol");
    assert!(carol.open(&forwarded, "").body == photo());

    let ticket = alice.ticket("100", "bob", "1");
    let sent = alice.store(&ticket, "a.txt", b"hello");
    let key = ticket["oss_body_param"]["key"].as_str().unwrap();
    let id = key.rsplit('.').next().unwrap();
    assert_eq!(bob.open(&sent, "").body, b"hello");
    take_down(&server, id);
    assert_code(&bob.open(&sent, ""), 20022);
    // The ticket is still valid, and must not bring the file back.
    let again = crate::support::lanying::ticket_form(&ticket).file("a.txt", "text/plain", b"again");
    assert_eq!(alice.post(&ticket, &again).status, 409);
    assert!(bob.open(&url, "").body == photo());
}
