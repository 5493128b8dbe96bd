//! `/{org}/{app}/sdk/chatfiles/part-upload/{uuid}`: an upload is completed once, however many clients ask and
//! disconnect.

use std::{
    collections::BTreeSet,
    sync::{Arc, Barrier},
};

use chatfiles::{
    error::Kind,
    store::{Store, local::LocalStore},
};

use super::parts::{PATH, begin, call, complete, left, listed, ok, put, put_raw};
use crate::support::{
    Faults, FaultyStore, Random, Step, TestServer, assert_error, expire_parts, head, poll,
};

/// The ids of stored files, from their names on disk.
fn objects(server: &TestServer) -> Vec<String> {
    let names = server.files_in("objects").into_iter();
    let name = |path: std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    names.map(name).collect()
}

#[test]
fn concurrent_completions_store_one_file() {
    const CALLS: usize = 28;
    let server = TestServer::start();
    let id = begin(&server);
    let bytes = vec![7; 3_000_000];
    ok(&put_raw(&server, &id, "1", &bytes));
    let barrier = Barrier::new(CALLS);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    call(&server, "POST", &format!("/{id}"))
                })
            })
            .collect();
        calls.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let mut files = BTreeSet::new();
    for answer in &answers {
        if answer.status == 200 {
            let json = answer.json();
            files.insert(json["entities"][0]["uuid"].as_str().unwrap().to_owned());
        } else {
            let json = assert_error(answer, 409, "duplicate_unique_property_exists");
            assert_eq!(json["error_description"], "this upload is being completed.");
        }
    }
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(objects(&server), Vec::from_iter(files.clone()));
    assert_eq!(left(&server), 0);
    let again = complete(&server, &id, "");
    assert_eq!(again["uuid"].as_str(), files.first().map(String::as_str));
    let file = again["uuid"].as_str().unwrap();
    assert!(server.download(file, &[]).body == bytes);
}

#[test]
fn repeated_completion_returns_secret() {
    let server = TestServer::start();
    let id = begin(&server);
    ok(&put(&server, &id, "1", b"hello"));
    let first = complete(&server, &id, "?restrict-access=true");
    let again = complete(&server, &id, "?restrict-access=true");
    assert_eq!(first, again);
    let (file, secret) = (&again["uuid"], &again["share-secret"]);
    let headers = [("share-secret", secret.as_str().unwrap())];
    let download = server.download(file.as_str().unwrap(), &headers);
    assert_eq!(download.body, b"hello");
    assert_eq!(objects(&server).len(), 1);
}

#[test]
fn failed_completion_can_be_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let moved = faults.clone();
    let server = TestServer::over(directory.path(), "", |inner: LocalStore| {
        let faults = moved;
        Arc::new(FaultyStore { inner, faults }) as Arc<dyn Store>
    });
    let id = begin(&server);
    ok(&put(&server, &id, "1", &[7; 300_000]));
    for (step, kind, status) in [
        (Step::Begin, Kind::StorageFull, 507),
        (Step::Write, Kind::Internal, 500),
        (Step::Commit, Kind::StorageFull, 507),
    ] {
        faults.set(Some((step, kind)));
        let refused = call(&server, "POST", &format!("/{id}"));
        assert_eq!(refused.status, status, "{}", refused.text());
        faults.set(None);
        assert_eq!(listed(&server, &id).as_array().unwrap().len(), 1);
        assert_eq!(objects(&server), Vec::<String>::new());
    }
    // Parts can be sent again too.
    ok(&put(&server, &id, "2", b"more"));
    let stored = complete(&server, &id, "");
    assert_eq!(stored["file-metadata"]["content-length"], 300_004);
    assert_eq!(left(&server), 0);
}

#[test]
fn disconnect_stores_no_second_file() {
    let server = TestServer::start();
    let mut random = Random::new();
    let mut expected = BTreeSet::new();
    for _ in 0..20 {
        let id = begin(&server);
        ok(&put_raw(&server, &id, "1", &[7; 1_000_000]));
        let authorization = format!("Bearer {}", server.token("alice"));
        let headers = [("Authorization", authorization.as_str())];
        let request = head("POST", &format!("{PATH}/{id}"), &headers, None);
        let mut connection = server.connect();
        connection.send(&request).unwrap();
        // Somewhere between the claim and the end of the commit.
        std::thread::sleep(std::time::Duration::from_micros(random.below(8000) as u64));
        drop(connection);
        let mut answer = call(&server, "POST", &format!("/{id}"));
        poll("the upload to be completed or returned", || {
            if answer.status == 409 {
                answer = call(&server, "POST", &format!("/{id}"));
            }
            answer.status != 409
        });
        let file = ok(&answer)["entities"][0]["uuid"].clone();
        assert!(expected.insert(file.as_str().unwrap().to_owned()));
    }
    assert_eq!(BTreeSet::from_iter(objects(&server)), expected);
    poll("nothing is left", || left(&server) == 0);
}

#[test]
fn completion_is_settled_after_crash() {
    let directory = tempfile::tempdir().unwrap();
    // A file that was stored and perhaps answered, one whose secret is lost, and one that was not stored.
    for (query, is_stored) in [("", true), ("?restrict-access=true", true), ("", false)] {
        println!("{query} {is_stored}");
        let mut server = TestServer::in_directory(directory.path(), "");
        let before = objects(&server).len();
        let id = begin(&server);
        ok(&put(&server, &id, "1", b"one "));
        ok(&put(&server, &id, "2", b"two"));
        let (parts, copy) = (server.store.join("parts"), directory.path().join("copy"));
        copy_files(&parts.join(&id), &copy);
        let file = complete(&server, &id, query)["uuid"].clone();
        let file = file.as_str().unwrap();
        server.stop();
        drop(server);
        // The state on disk if the server ends before it removes the parts.
        let object = if is_stored { file } else { &id };
        let claimed = format!("{id}.{object}.0123456789abcdef0123456789abcdef");
        std::fs::rename(&copy, parts.join(claimed)).unwrap();

        let server = TestServer::in_directory(directory.path(), "");
        let answer = complete(&server, &id, query);
        let again = answer["uuid"].as_str().unwrap();
        let is_same = is_stored && query.is_empty();
        assert_eq!(again == file, is_same);
        let files = if is_same { 1 } else { 2 };
        assert_eq!(objects(&server).len(), before + files);
        assert_eq!(answer["file-metadata"]["content-length"], b"one two".len());
        let secret = answer["share-secret"].as_str().unwrap_or("none");
        let download = server.download(again, &[("share-secret", secret)]);
        assert_eq!(download.body, b"one two");
        assert_eq!(left(&server), 0);
    }
}

fn copy_files(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn claimed_parts_expire_after_day() {
    let server = TestServer::start();
    let id = begin(&server);
    ok(&put(&server, &id, "1", b"hello"));
    let parts = server.store.join("parts");
    let claimed = parts.join(format!("{id}.{id}.0123456789abcdef0123456789abcdef"));
    std::fs::rename(parts.join(&id), claimed).unwrap();
    let path = format!("/{id}");
    assert_error(&call(&server, "POST", &path), 404, "entity_not_found");
    assert_error(&put(&server, &id, "2", b"more"), 404, "entity_not_found");
    for (hours, swept) in [(25, 0), (24, 1)] {
        server.clock.advance(hours * 3_600_000);
        let now = server.clock.now();
        assert_eq!(expire_parts(&server.store, now), swept);
    }
}
