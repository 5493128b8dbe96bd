//! `chatfiles rm` for a file of this API: removes all names, derivatives and cached copies.

use std::path::{Path, PathBuf};

use chatfiles::{store::Class, time::MS_PER_DAY};

use super::{
    apps::{Stored, at_noon, id_of, object_of},
    forward::{forward, names_of},
};
use crate::support::{
    TestServer, files_below,
    lanying::{APP_ID, assert_code, envelope, file_sign, ticket_form},
    photo, poll,
    process::{run, stdout},
};

/// A file with a name in three days and derivatives in each; returns its object and its links.
fn forwarded(server: &TestServer) -> (String, Vec<String>) {
    at_noon(server);
    let mut signs = vec![Stored::at(server).sign];
    for _ in 0..2 {
        server.clock.advance(MS_PER_DAY);
        let url = forward(&server.lanying("bob"), &signs[0], "carol", "1");
        signs.push(file_sign(&url).to_owned());
    }
    let object = object_of(&signs[0]);
    assert_eq!(names_of(server, &object).len(), 3);
    for call in calls(&signs) {
        assert_eq!(server.lanying("carol").get(&call).status, 200);
    }
    // The three names share the derivative in memory, so it is stored once. After a restart, each name has its own.
    let [derived] = &derived_of(&server.store, &object)[..] else {
        panic!("one derivative")
    };
    let root = server.store.join("derived");
    for name in names_of(server, &object) {
        let copy = root.join(name.with_file_name(derived.file_name().unwrap()));
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        if !copy.exists() {
            std::fs::copy(root.join(derived), copy).unwrap();
        }
    }
    assert_eq!(derived_of(&server.store, &object).len(), 3);
    (object, signs)
}

/// Originals and thumbnails, stored and not stored.
fn calls(signs: &[String]) -> Vec<String> {
    let of = |sign: &String| {
        ["", "&image_type=2", "&image_type=2&w=99"]
            .map(|more| format!("download/chat?file_sign={sign}{more}"))
    };
    signs.iter().flat_map(of).collect()
}

fn derived_of(store: &Path, object: &str) -> Vec<PathBuf> {
    let mut derived = files_below(&store.join("derived"));
    derived.retain(|path| path.to_string_lossy().contains(id_of(object)));
    derived
}

fn remove(store: &Path, name: &str) -> std::process::Output {
    run(&["rm", name, "--store-path", store.to_str().unwrap()], "")
}

#[test]
fn removal_covers_all_names_and_memory() {
    // By its id, by its object name, and by its name in a later day.
    for by in ["id", "first day", "last day"] {
        let server = TestServer::start();
        let (object, signs) = forwarded(&server);
        let (other, other_signs) = {
            let Stored { sign, .. } = Stored::at(&server);
            (object_of(&sign), vec![sign])
        };
        let name = match by {
            "id" => id_of(&object).to_owned(),
            "first day" => object.clone(),
            _ => object_of(&signs[2]),
        };
        assert!(stdout(&remove(&server.store, &name)).contains(id_of(&object)));
        let carol = server.lanying("carol");
        for call in calls(&signs) {
            assert_code(&carol.get(&call), 20022);
        }
        for sign in &signs {
            assert_code(
                &carol.get(&format!("upload/forward?to_id=dave&file_sign={sign}")),
                20022,
            );
        }
        let left = files_below(&server.store);
        let is_left = |path: &&PathBuf| path.to_string_lossy().contains(id_of(&object));
        assert_eq!(left.iter().find(is_left), None, "{by}");
        // Other files stay.
        assert_eq!(names_of(&server, &other).len(), 1);
        for call in calls(&other_signs) {
            assert_eq!(carol.get(&call).status, 200);
        }
        assert_eq!(
            remove(&server.store, &name).status.code(),
            Some(1),
            "there is nothing left"
        );
    }
}

#[test]
fn removal_beats_concurrent_forwards() {
    const DAYS_MAX: usize = 100;
    for _ in 0..5 {
        let server = TestServer::start();
        at_noon(&server);
        let Stored { sign, .. } = Stored::at(&server);
        let object = object_of(&sign);
        let signs = std::thread::scope(|scope| {
            let forwarding = scope.spawn(|| {
                let mut signs = vec![sign.clone()];
                // Each link is made from the previous one until that fails. Not on new days forever: a day that passes
                // faster than the removal can visit it would never end.
                loop {
                    if signs.len() < DAYS_MAX {
                        server.clock.advance(MS_PER_DAY);
                    }
                    let last = signs.last().unwrap();
                    let call = format!("upload/forward?to_id=carol&file_sign={last}");
                    let json = envelope(&server.lanying("bob").get(&call), 200);
                    let Some(url) = json["data"].as_str() else {
                        assert_eq!(json["code"], 20022);
                        return signs;
                    };
                    signs.push(file_sign(url).to_owned());
                }
            });
            poll("several days to pass", || {
                names_of(&server, &object).len() > 3
            });
            stdout(&remove(&server.store, &object));
            forwarding.join().unwrap()
        });
        assert!(signs.len() > 3);
        assert_eq!(names_of(&server, &object), Vec::<PathBuf>::new());
        let carol = server.lanying("carol");
        for sign in &signs {
            assert_code(
                &carol.get(&format!("download/chat?file_sign={sign}")),
                20022,
            );
        }
    }
}

#[test]
fn removal_works_without_server() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = TestServer::in_directory(directory.path(), "");
    let (object, signs) = forwarded(&server);
    server.stop();
    assert!(stdout(&remove(&server.store, &object_of(&signs[1]))).contains(id_of(&object)));
    assert_eq!(names_of(&server, &object), Vec::<PathBuf>::new());
    assert_eq!(derived_of(&server.store, &object), Vec::<PathBuf>::new());
    assert_eq!(remove(&server.store, &object).status.code(), Some(1));
    // The avatar is a different file.
    assert_eq!(server.files_in("objects").len(), 1);
}

#[test]
fn removes_avatar_by_object_name() {
    let server = TestServer::start();
    let Stored { avatar, sign } = Stored::at(&server);
    let alice = server.lanying("alice");
    let call = format!("download/avatar?object_name={avatar}");
    for more in ["", "&image_type=2"] {
        assert_eq!(alice.get(&format!("{call}{more}")).status, 200);
    }
    stdout(&remove(&server.store, &avatar));
    for more in ["", "&image_type=2"] {
        assert_code(&alice.get(&format!("{call}{more}")), 20022);
    }
    assert!(alice.get(&format!("download/chat?file_sign={sign}")).body == photo());
    for bad in [
        "avatar.2026-01-01",
        "avatar.2026-1-1.x",
        "../keys",
        "avatar",
    ] {
        assert_eq!(remove(&server.store, bad).status.code(), Some(2), "{bad}");
    }
}

#[test]
fn ticket_does_not_restore_removed_file() {
    for is_running in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let mut server = TestServer::in_directory(directory.path(), "");
        let alice = server.lanying("alice");
        let ticket = alice.ticket("102", "bob", "1");
        let url = alice.store(&ticket, "a.jpg", &photo());
        let object = object_of(file_sign(&url));
        if is_running {
            stdout(&remove(&server.store, &object));
        } else {
            server.stop();
            stdout(&remove(&server.store, &object));
            server = TestServer::in_directory(directory.path(), "");
        }
        let alice = server.lanying("alice");
        for bytes in [photo(), b"something else".to_vec()] {
            let form = ticket_form(&ticket).file("a.jpg", "image/jpeg", &bytes);
            let answer = alice.post(&ticket, &form);
            assert_eq!(answer.status, 409, "{}", answer.text());
            assert!(answer.text().contains("FileAlreadyExists"));
            assert_code(&alice.open(&url, ""), 20022);
        }
        // A tombstone is not an object: nothing to verify, remove or forward.
        let found = crate::support::verify(&server.store);
        assert_eq!((found.volume.objects, found.damaged.len()), (0, 0));
        assert!(!remove(&server.store, &object).status.success());
        server.clock.advance(MS_PER_DAY);
        let sign = file_sign(&url);
        let token = server.token("bob");
        let headers = [("access-token", &*token), ("app_id", APP_ID)];
        let path = format!("/file/upload/forward?to_id=carol&file_sign={sign}");
        assert_code(&server.get(&path, &headers), 20022);
    }
}

/// All files below a directory in the form of tombstones.
fn tombstones_below(root: &Path) -> usize {
    let mut count = 0;
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            match std::fs::read_link(&path) {
                Ok(target) if target == Path::new("removed") => count += 1,
                _ if path.is_dir() => waiting.push(path),
                _ => {}
            }
        }
    }
    count
}

#[test]
fn gathered_tombstones_keep_names() {
    use super::form::signed;
    let toml = signed::configuration("[retention]\nchatfile_days = 0\nimage_days = 0\n", "");
    let server = TestServer::with(&toml);
    at_noon(&server);
    let alice = server.lanying("alice");
    // A policy signed by a third party may be valid for any time.
    let keys: Vec<_> = (0..20)
        .map(|_| signed::new_key(&server).to_string())
        .collect();
    let post = |key: &str| {
        let conditions = serde_json::json!([["eq", "$key", key]]);
        let fields = signed::with_conditions(key, conditions);
        let form = fields
            .iter()
            .fold(crate::support::Form::new(), |form, (name, value)| {
                form.field(name, value)
            });
        let form = form.file("a.bin", "application/octet-stream", b"taken down");
        let content_type = form.content_type();
        let path = format!("/file/oss/{APP_ID}");
        server.request(
            "POST",
            &path,
            &[("Content-Type", &content_type)],
            &form.bytes(),
        )
    };
    for key in &keys {
        assert_eq!(post(key).status, 200);
    }
    let url = alice.send("102", "bob", "a.jpg", &photo());
    let kept = object_of(file_sign(&url));
    let inodes = || {
        let all = std::process::Command::new("find")
            .arg(&server.store)
            .args(["-printf", "%i\n"])
            .output();
        let all = String::from_utf8(all.unwrap().stdout).unwrap();
        all.lines().collect::<std::collections::BTreeSet<_>>().len()
    };
    let before = inodes();
    for key in &keys {
        stdout(&remove(&server.store, key));
    }
    // One more name each, without an inode.
    let objects = server.store.join("objects");
    assert_eq!(tombstones_below(&objects), keys.len());
    assert_eq!(inodes(), before - keys.len());
    // Before and after tombstones are gathered into lists.
    for days in [0, 4] {
        for _ in 0..days {
            server.clock.advance(MS_PER_DAY);
            let policy = crate::support::configuration(Path::new("unused"), &toml).retention();
            let now = server.clock.now();
            let swept = crate::support::sweep(
                &server.store,
                &policy,
                now,
                chatfiles::retention::SweepMode::RemoveConfirmed,
            );
            assert!(swept.is_empty(), "{swept:?}");
        }
        let expected = if days == 0 { keys.len() } else { 0 };
        assert_eq!(tombstones_below(&objects), expected, "{days} days later");
        for key in &keys {
            let answer = post(key);
            assert_eq!(answer.status, 409, "{days} days later: {}", answer.text());
            assert!(answer.text().contains("FileAlreadyExists"));
        }
        assert_eq!(server.files_in("objects").len(), 1);
    }
    // One list per day, and nothing else.
    assert_eq!(inodes(), before - keys.len() + 1);
    let found = crate::support::verify(&server.store);
    assert_eq!((found.volume.objects, found.damaged.len()), (1, 0));
    // Later removals are gathered into the same lists, and a list is removed with its day.
    stdout(&remove(&server.store, &kept));
    let forget = crate::support::configuration(
        Path::new("unused"),
        "[retention]\nchatfile_days = 1\nimage_days = 1\n",
    );
    for policy in [
        crate::support::configuration(Path::new("unused"), &toml).retention(),
        forget.retention(),
        forget.retention(),
    ] {
        assert_eq!(
            tombstones_below(&objects),
            usize::from(policy.days_default.days(Class::Image) == 0)
        );
        let now = server.clock.now();
        crate::support::sweep(
            &server.store,
            &policy,
            now,
            chatfiles::retention::SweepMode::RemoveConfirmed,
        );
        assert_eq!(tombstones_below(&objects), 0);
    }
    let left: Vec<_> = std::fs::read_dir(server.store.join("tombstones"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["shared"]);
}
