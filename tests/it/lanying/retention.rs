//! Validity of links: to the end of the class's retention, counted from the end of the day in the link; and the sweep
//! that removes days.

use std::path::Path;

use chatfiles::{
    retention::{self, Report},
    time::{Day, MS_PER_DAY, MS_PER_SECOND},
};

use super::{
    apps::{app, id_of, object_name, object_of, store_avatar},
    forward::{forward, names_of},
};
use crate::support::{
    TestServer, configuration,
    lanying::{Client, assert_code, file_sign, success, text},
    last_sweep, photo, poll,
};

/// The setting of each class, and how a file gets there.
const SETTINGS: [(&str, &str); 9] = [
    ("chatfile_days", "100"),
    ("voice_days", "101"),
    ("voice_days", "104"),
    ("image_days", "102"),
    ("video_days", "103"),
    ("shared_days", "200"),
    ("shared_voice_days", "201"),
    ("shared_image_days", "202"),
    ("shared_video_days", "203"),
];

/// A server whose first sweep has ended.
fn swept_server(toml: &str) -> TestServer {
    let server = TestServer::with(toml);
    poll("the first sweep", || last_sweep(&server.store).is_some());
    server
}

fn sweep(server: &TestServer, toml: &str) -> Report {
    let policy = configuration(Path::new("unused"), toml).retention();
    crate::support::sweep(
        &server.store,
        &policy,
        server.clock.now(),
        chatfiles::retention::SweepMode::RemoveConfirmed,
    )
}

fn set_clock(server: &TestServer, to_ms: i64) {
    server.clock.advance(to_ms - server.clock.now().ms());
}

/// The day in an object's name.
fn day_of(object: &str) -> Day {
    Day::parse(object.split('.').nth(1).unwrap()).unwrap()
}

/// The `max-age` in seconds.
#[track_caller]
fn max_age(client: &Client<'_>, url: &str) -> i64 {
    let answer = client.open(url, "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let rule = answer.header("cache-control").unwrap();
    let age = rule
        .strip_prefix("private, max-age=")
        .and_then(|rest| rest.strip_suffix(", immutable"));
    age.unwrap_or_else(|| panic!("{rule}")).parse().unwrap()
}

#[test]
fn each_class_has_own_days() {
    for (setting, file_type) in SETTINGS {
        let mut days = String::new();
        let mut others: Vec<_> = SETTINGS.iter().map(|(other, _)| *other).collect();
        others.dedup();
        for other in others.iter().filter(|other| **other != setting) {
            days.push_str(&format!("{other} = 0\n"));
        }
        let server = TestServer::with(&app(&format!("{days}{setting} = 2")));
        let alice = server.lanying("alice");
        let mine = alice.send(file_type, "bob", "a.bin", b"mine");
        let others: Vec<_> = SETTINGS
            .iter()
            .filter(|(other, _)| *other != setting)
            .map(|(_, file_type)| alice.send(file_type, "bob", "a.bin", b"other"))
            .collect();
        let end_ms = day_of(&object_of(file_sign(&mine))).end().ms() + 2 * MS_PER_DAY;
        set_clock(&server, end_ms - 30 * MS_PER_SECOND);
        let bob = server.lanying("bob");
        let age_secs = max_age(&bob, &mine);
        assert!(
            (0..=30).contains(&age_secs),
            "{age_secs}: no cache may keep it past its end"
        );
        set_clock(&server, end_ms);
        let message = assert_code(&bob.open(&mine, ""), 20022);
        assert!(message.contains("expired"), "{message}");
        for more in ["&image_type=2", "&format=mp3"] {
            assert_code(&bob.open(&mine, more), 20022);
        }
        assert_code(
            &bob.get(&format!(
                "upload/forward?to_id=c&file_sign={}",
                file_sign(&mine)
            )),
            20022,
        );
        for url in &others {
            assert_eq!(bob.open(url, "").body, b"other");
            assert_eq!(max_age(&bob, url), 365 * 86_400);
        }
    }
}

#[test]
fn chat_and_shared_files_end_apart() {
    for (setting, ending) in [("chatfile_days", "1"), ("shared_days", "2")] {
        let server = TestServer::with(&app(&format!("{setting} = 1")));
        let alice = server.lanying("alice");
        let sent = SETTINGS
            .map(|(_, file_type)| (file_type, alice.send(file_type, "bob", "a.bin", b"hello")));
        let avatar = store_avatar(&alice, &photo());
        server.clock.advance(3 * MS_PER_DAY);
        let bob = server.lanying("bob");
        for (file_type, url) in &sent {
            let answer = bob.open(url, "");
            if file_type.starts_with(ending) {
                assert_code(&answer, 20022);
            } else {
                assert_eq!(answer.body, b"hello", "{file_type}");
            }
        }
        let avatar = bob.get(&format!("download/avatar?object_name={avatar}"));
        assert!(avatar.body == photo());
    }
}

#[test]
fn forwarded_file_outlives_first_day() {
    let everybody = "[retention]\nvoice_days = 5\nimage_days = 5".to_owned();
    let one_app = app("voice_days = 5\nimage_days = 5");
    // If all apps have the same retention, days are removed whole, otherwise file by file.
    for (toml, file_type, is_whole) in [
        (&everybody, "101", true),
        (&everybody, "102", true),
        (&one_app, "102", false),
    ] {
        let server = swept_server(toml);
        let first = server
            .lanying("alice")
            .send(file_type, "bob", "a.jpg", &photo());
        let object = object_of(file_sign(&first));
        let start = day_of(&object);
        set_clock(&server, start.end().ms() + 4 * MS_PER_DAY + 1000);
        let bob = server.lanying("bob");
        let second = forward(&bob, file_sign(&first), "carol", "1");
        let second_object = object_of(file_sign(&second));
        assert_eq!(day_of(&second_object), server.clock.now().day());
        assert!(bob.open(&first, "").body == photo() && bob.open(&second, "").body == photo());
        assert!((86_400 - 60..86_400).contains(&max_age(&bob, &first)));
        assert!((6 * 86_400 - 60..6 * 86_400).contains(&max_age(&bob, &second)));
        // The first link expires, the file does not.
        set_clock(&server, start.end().ms() + 5 * MS_PER_DAY);
        let carol = server.lanying("carol");
        assert_code(&carol.open(&first, ""), 20022);
        assert!(carol.open(&second, "").body == photo());
        assert_eq!(sweep(&server, toml), Report::default());
        // Two days later, the first day is removed.
        set_clock(&server, start.end().ms() + 7 * MS_PER_DAY);
        let report = sweep(&server, toml);
        let class = object.split('.').next().unwrap();
        if is_whole {
            assert_eq!(report.days, [format!("{class}/{start}")]);
        } else {
            assert_eq!((report.days.len(), report.objects), (0, 1));
        }
        let names = names_of(&server, &object);
        assert_eq!(names.len(), 1);
        assert!(names[0].starts_with(format!("{class}/{}", day_of(&second_object))));
        let carol = server.lanying("carol");
        assert_code(&carol.open(&first, ""), 20022);
        assert!(carol.open(&second, "").body == photo());
        if file_type == "102" {
            assert_eq!(carol.open(&second, "&image_type=2&w=90").status, 200);
        }
        // It can still be forwarded from there.
        let third = forward(&carol, file_sign(&second), "dave", "1");
        assert!(server.lanying("dave").open(&third, "").body == photo());
        // The last link expires, and then the file.
        set_clock(
            &server,
            day_of(&object_of(file_sign(&third))).end().ms() + 7 * MS_PER_DAY,
        );
        let report = sweep(&server, toml);
        let removed = (report.days.len(), report.objects);
        assert_eq!(removed, if is_whole { (2, 0) } else { (0, 2) });
        assert!(names_of(&server, &object).is_empty());
        for url in [&first, &second, &third] {
            assert_code(&server.lanying("dave").open(url, ""), 20022);
        }
    }
}

#[test]
fn avatars_and_shared_files_stay() {
    let toml = "[retention]\nchatfile_days = 1\n";
    let server = swept_server(toml);
    let alice = server.lanying("alice");
    let chat = alice.send("102", "bob", "a.jpg", &photo());
    let shared = alice.send("202", "bob", "a.jpg", &photo());
    let avatar = store_avatar(&alice, &photo());
    set_clock(&server, server.clock.now().ms() + 1000 * MS_PER_DAY);
    assert_eq!(sweep(&server, toml).days.len(), 1);
    let bob = server.lanying("bob");
    assert_code(&bob.open(&chat, ""), 20022);
    assert!(bob.open(&shared, "").body == photo());
    assert!(
        bob.get(&format!("download/avatar?object_name={avatar}"))
            .body
            == photo()
    );
}

#[test]
fn avatars_end_when_configured() {
    let toml = "[retention]\navatar_days = 3\n";
    let server = swept_server(toml);
    let alice = server.lanying("alice");
    let chat = alice.send("102", "bob", "a.jpg", &photo());
    let url = alice.store(
        &success(&alice.get("upload/avatar/group?group_id=g")),
        "a.jpg",
        &photo(),
    );
    let object = object_name(&url);
    let end_ms = day_of(&object).end().ms() + 3 * MS_PER_DAY;
    set_clock(&server, end_ms - 30 * MS_PER_SECOND);
    let bob = server.lanying("bob");
    assert!((0..=30).contains(&max_age(&bob, &url)));
    set_clock(&server, end_ms);
    let message = assert_code(&bob.open(&url, ""), 20022);
    assert!(message.contains("expired"), "{message}");
    set_clock(&server, end_ms + 2 * MS_PER_DAY);
    assert_eq!(
        sweep(&server, toml).days,
        [format!("avatar/{}", day_of(&object))]
    );
    let bob = server.lanying("bob");
    assert_code(&bob.open(&url, ""), 20022);
    assert!(bob.open(&chat, "").body == photo());
    assert!(
        server
            .files_in("objects")
            .iter()
            .all(|path| !path.ends_with(id_of(&object)))
    );
}

#[test]
fn late_ticket_belongs_to_its_day() {
    let server = TestServer::with(&app("chatfile_days = 1"));
    let midnight_ms = server.clock.now().day().end().ms();
    set_clock(&server, midnight_ms - 60 * MS_PER_SECOND);
    let alice = server.lanying("alice");
    let ticket = alice.ticket("100", "bob", "1");
    let day = server.clock.now().day();
    set_clock(&server, midnight_ms + 60 * MS_PER_SECOND);
    let url = alice.store(&ticket, "a.txt", b"hello");
    assert_eq!(day_of(&text(&ticket["oss_body_param"]["key"])), day);
    let bob = server.lanying("bob");
    assert_eq!(bob.open(&url, "").body, b"hello");
    let left = 86_400 - max_age(&bob, &url);
    assert!((0..=120).contains(&left), "{left}");
    // Forwarded now, it belongs to today.
    let new = forward(&bob, file_sign(&url), "carol", "1");
    assert_eq!(
        day_of(&object_of(file_sign(&new))),
        server.clock.now().day()
    );
}
