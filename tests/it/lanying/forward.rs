//! Forwarding: a new link to the same bytes, with little cost and the retention of a new file.

use std::{
    collections::HashSet,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use chatfiles::time::MS_PER_DAY;

use super::apps::{Stored, app, at_noon, fields, id_of, object_of};
use crate::support::{
    Random, TestServer,
    lanying::{APP_ID, Client, assert_code, file_sign, success, text},
    photo,
};

/// Forwards by a link and returns the new one.
#[track_caller]
pub(crate) fn forward(client: &Client<'_>, sign: &str, to: &str, to_type: &str) -> String {
    let call = format!("upload/forward?file_sign={sign}&to_id={to}&to_type={to_type}");
    text(&success(&client.get(&call)))
}

/// Disk usage of a directory as `du` counts it, and the files in it.
fn usage(root: &Path) -> (u64, usize) {
    let mut inodes = HashSet::new();
    let (mut bytes, mut files) = (0, 0);
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        if inodes.insert(metadata.ino()) {
            bytes += metadata.blocks() * 512;
        }
        if metadata.is_dir() {
            waiting.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            files += 1;
        }
    }
    (bytes, files)
}

/// The names of a file in the store.
pub(super) fn names_of(server: &TestServer, object: &str) -> Vec<PathBuf> {
    let mut names = server.files_in("objects");
    names.retain(|path| path.ends_with(id_of(object)));
    names
}

fn inode(server: &TestServer, name: &Path) -> u64 {
    std::fs::metadata(server.store.join("objects").join(name))
        .unwrap()
        .ino()
}

#[test]
fn forwarded_file_opens_by_new_link() {
    let server = TestServer::start();
    at_noon(&server);
    let Stored { sign, .. } = Stored::at(&server);
    let bob = server.lanying("bob");
    for (to, to_type) in [("carol", "1"), ("g1", "2"), ("bob", "1"), ("alice", "1")] {
        let url = forward(&bob, &sign, to, to_type);
        let (path, query) = url.split_once('?').unwrap();
        assert_eq!(path, "http://files.test/file/download/chat");
        assert_eq!(query, format!("file_sign={}", file_sign(&url)));
        let (old, new) = (fields(&sign), fields(file_sign(&url)));
        assert_eq!(new[..2], ["bob", to]);
        assert_eq!(
            (&new[2], &*new[3]),
            (&old[2], to_type),
            "the same object on the same day"
        );
        assert!(server.lanying(to).open(&url, "").body == photo());
        // And once more from there.
        let again = forward(&server.lanying(to), file_sign(&url), "dave", "1");
        assert!(server.lanying("dave").open(&again, "").body == photo());
        assert_eq!(fields(file_sign(&again))[..2], [to, "dave"]);
    }
    let original = bob.get(&format!("download/chat?file_sign={sign}"));
    assert!(original.body == photo());
    assert_eq!(names_of(&server, &object_of(&sign)).len(), 1);
}

#[test]
fn forwards_copy_no_bytes() {
    let server = TestServer::with(&app("strict_recipients = true"));
    at_noon(&server);
    let mut random = Random::new();
    let bytes = random.bytes(8 << 20);
    let url = server.lanying("alice").send("100", "bob", "a.bin", &bytes);
    let sign = file_sign(&url);
    let object = object_of(sign);
    let (before_bytes, before_files) = usage(&server.store);
    let mut links = Vec::new();
    for day in 0..2 {
        let token = server.token("bob");
        let headers = [("access-token", &*token), ("app_id", APP_ID)];
        let mut connection = server.connect();
        for to in 0..500 {
            let path = format!("/file/upload/forward?to_id=user{to}&file_sign={sign}");
            let url = text(&success(&connection.request("GET", &path, &headers, b"")));
            links.push((to, url));
        }
        assert_eq!(
            names_of(&server, &object).len(),
            day + 1,
            "one name per day"
        );
        server.clock.advance(MS_PER_DAY);
    }
    let (after_bytes, after_files) = usage(&server.store);
    let grown_bytes = after_bytes.saturating_sub(before_bytes);
    assert!(grown_bytes < 1 << 20, "{grown_bytes} bytes");
    assert_eq!(after_files, before_files + 1);
    let names = names_of(&server, &object);
    assert_eq!(inode(&server, &names[0]), inode(&server, &names[1]));
    // Each one opens for its recipient, and not for the next one.
    let tokens: Vec<String> = (0..500)
        .map(|to| server.token(&format!("user{to}")))
        .collect();
    let mut connection = server.connect();
    assert_eq!(links.len(), 1000);
    for (to, url) in links {
        let path = &url[url.find("/file/").unwrap()..];
        for (user, may) in [(to, true), ((to + 1) % 500, false)] {
            let headers = [
                ("access-token", &*tokens[user]),
                ("app_id", APP_ID),
                ("Range", "bytes=1000-1999"),
            ];
            let answer = connection.request("GET", path, &headers, b"");
            if may {
                assert_eq!(answer.status, 206, "{to}: {}", answer.text());
                assert!(answer.body == bytes[1000..2000]);
            } else {
                assert_code(&answer, 20023);
            }
        }
    }
}

#[test]
fn later_day_adds_one_name() {
    let server = TestServer::start();
    at_noon(&server);
    let Stored { sign, .. } = Stored::at(&server);
    let object = object_of(&sign);
    let mut signs = vec![sign];
    for day in 1..4 {
        server.clock.advance(MS_PER_DAY);
        let today = server.clock.now().day().to_string();
        // By every link so far, to several recipients, and repeatedly.
        for sign in signs.clone() {
            for to in ["carol", "dave", "carol"] {
                let url = forward(&server.lanying("bob"), &sign, to, "1");
                let new = object_of(file_sign(&url));
                assert_eq!(new.split('.').nth(1), Some(&*today));
                assert_eq!(id_of(&new), id_of(&object));
                assert!(server.lanying(to).open(&url, "").body == photo());
                signs.push(file_sign(&url).to_owned());
            }
            assert_eq!(names_of(&server, &object).len(), day + 1);
        }
        signs.truncate(1 + day);
    }
    let inodes: HashSet<_> = names_of(&server, &object)
        .iter()
        .map(|name| inode(&server, name))
        .collect();
    assert_eq!(inodes.len(), 1);
    // A clock that goes back does not shorten the retention.
    server.clock.advance(-2 * MS_PER_DAY);
    let latest = signs.last().unwrap();
    let url = forward(&server.lanying("bob"), latest, "erin", "1");
    assert!(object_of(file_sign(&url)) >= object_of(latest));
    assert!(server.lanying("erin").open(&url, "").body == photo());
}

#[test]
fn concurrent_forwards_add_one_name() {
    let server = TestServer::start();
    at_noon(&server);
    let Stored { sign, .. } = Stored::at(&server);
    for day in 1..6 {
        server.clock.advance(MS_PER_DAY);
        let bob = server.lanying("bob");
        let urls: Vec<_> = std::thread::scope(|scope| {
            let one = |user| forward(&bob, &sign, &format!("user{user}"), "1");
            let threads: Vec<_> = (0..8).map(|user| scope.spawn(move || one(user))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        for (user, url) in urls.iter().enumerate() {
            assert!(server.lanying(&format!("user{user}")).open(url, "").body == photo());
        }
        assert_eq!(names_of(&server, &object_of(&sign)).len(), 1 + day);
    }
}

#[test]
fn missing_file_is_not_forwarded() {
    let server = TestServer::with(&app("image_days = 1"));
    at_noon(&server);
    let alice = server.lanying("alice");
    let call = |sign: &str| format!("upload/forward?to_id=carol&file_sign={sign}");
    let never = text(&alice.ticket("102", "bob", "1")["download_url"]);
    assert_code(&alice.get(&call(file_sign(&never))), 20022);
    let url = alice.send("102", "bob", "a.jpg", &photo());
    assert_code(&alice.get(&call("x")), 20023);
    forward(&alice, file_sign(&url), "carol", "1");
    // Removed without the server's knowledge, on the day before.
    let lost = alice.send("102", "bob", "a.jpg", &photo());
    let name = names_of(&server, &object_of(file_sign(&lost))).remove(0);
    std::fs::remove_file(server.store.join("objects").join(name)).unwrap();
    for days in [1, 2] {
        server.clock.advance(days * MS_PER_DAY);
        let alice = server.lanying("alice");
        assert_code(&alice.get(&call(file_sign(&lost))), 20022);
        if days == 2 {
            assert_code(&alice.get(&call(file_sign(&url))), 20022);
        }
    }
}

#[test]
fn copies_at_hard_link_limit() {
    let server = TestServer::start();
    at_noon(&server);
    let Stored { sign, .. } = Stored::at(&server);
    let object = object_of(&sign);
    let name = names_of(&server, &object).remove(0);
    let path = server.store.join("objects").join(name);
    let aside = server.store.join("names");
    std::fs::create_dir(&aside).unwrap();
    // 65,000 on ext4; other file systems allow more.
    let is_full = (0..66_000).any(|number| {
        std::fs::hard_link(&path, aside.join(number.to_string())).is_err_and(|error| {
            assert_eq!(error.raw_os_error(), Some(31), "EMLINK: {error}");
            true
        })
    });
    if !is_full {
        println!("skipped: this file system sets no limit that is cheap to reach");
        return;
    }
    server.clock.advance(MS_PER_DAY);
    for to in ["carol", "dave"] {
        let url = forward(&server.lanying("bob"), &sign, to, "1");
        assert!(server.lanying(to).open(&url, "").body == photo());
        let thumbnail = server.lanying(to).open(&url, "&image_type=2");
        assert!(thumbnail.status == 200 && thumbnail.body.len() < photo().len());
    }
    let names = names_of(&server, &object);
    assert_eq!(names.len(), 2);
    assert_ne!(inode(&server, &names[0]), inode(&server, &names[1]));
    let [one, two] =
        [0, 1].map(|at| std::fs::read(server.store.join("objects").join(&names[at])).unwrap());
    assert!(one == two, "the copy is complete, including its metadata");
    assert_eq!(server.files_in("tmp"), Vec::<PathBuf>::new());
}
