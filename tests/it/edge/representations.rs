//! Representations of one file under one URL, selected by a header: a cached one is never mistaken for another.

use std::collections::BTreeMap;

use crate::support::{
    Answer, BASE, Connection, TestServer,
    lanying::APP_ID,
    media::{AMR, MP4},
    photo,
};

type Header = (&'static str, &'static str);

/// A representation of a file, and the response to a plain GET.
struct Form {
    name: &'static str,
    chosen_by: &'static [Header],
    plain: Answer,
}

struct File {
    connection: Connection,
    authorization: String,
    path: String,
    forms: Vec<Form>,
}

impl File {
    fn store(
        server: &TestServer,
        (name, content_type, bytes): (&str, &str, &[u8]),
        forms: &[(&'static str, &'static [Header])],
    ) -> Self {
        let id = server.store_file(name, content_type, bytes);
        let mut file = Self {
            connection: server.connect(),
            authorization: format!("Bearer {}", server.token("alice")),
            path: format!("{BASE}/chatfiles/{id}"),
            forms: Vec::new(),
        };
        for (name, chosen_by) in forms {
            let plain = file.ask("GET", chosen_by, &[]);
            assert_eq!(plain.status, 200, "{name}: {}", plain.text());
            file.forms.push(Form {
                name,
                chosen_by,
                plain,
            });
        }
        file
    }

    fn ask(&mut self, method: &str, chosen_by: &[Header], more: &[(&str, &str)]) -> Answer {
        let mut headers = vec![("Authorization", self.authorization.as_str())];
        headers.extend_from_slice(chosen_by);
        headers.extend_from_slice(more);
        self.connection.request(method, &self.path, &headers, b"")
    }
}

/// A photo, a voice and a video with their derivatives.
fn files(server: &TestServer) -> [File; 3] {
    const THUMBNAIL: &[Header] = &[("thumbnail", "true")];
    [
        File::store(
            server,
            ("a.jpg", "image/jpeg", &photo()),
            &[("original", &[]), ("thumbnail", THUMBNAIL)],
        ),
        File::store(
            server,
            ("a.amr", "audio/amr", &AMR),
            &[
                ("AMR", &[("Accept", "*/*")]),
                ("MP3", &[("Accept", "audio/mp3")]),
            ],
        ),
        File::store(
            server,
            ("a.mp4", "video/mp4", &MP4),
            &[("video", &[]), ("cover", THUMBNAIL)],
        ),
    ]
}

/// Ranges that a cache with `held` bytes requests: the bytes it has, those it lacks, and the last ones.
fn ranges(held: usize) -> [String; 6] {
    [
        "bytes=0-1".into(),
        format!("bytes=0-{}", held - 1),
        format!("bytes={}-", held / 2),
        format!("bytes={held}-"),
        "bytes=-100".into(),
        "bytes=0-0,5-9".into(),
    ]
}

#[track_caller]
fn assert_whole(answer: &Answer, form: &Form, about: &str) {
    assert_eq!(answer.status, 200, "{about}");
    assert_eq!(answer.header("content-range"), None, "{about}");
    assert!(answer.body == form.plain.body, "{about}: other bytes");
    assert_eq!(answer.header("etag"), form.plain.header("etag"), "{about}");
}

#[test]
fn other_forms_validator_gets_whole() {
    let server = TestServer::start();
    for mut file in files(&server) {
        let forms = std::mem::take(&mut file.forms);
        let pairs = forms
            .iter()
            .flat_map(|held| forms.iter().map(move |asked| (held, asked)));
        for (held, asked) in pairs.filter(|(held, asked)| held.name != asked.name) {
            let (etag, date) = (
                held.plain.header("etag").unwrap(),
                held.plain.header("last-modified").unwrap(),
            );
            let weak = format!("W/{etag}");
            let both = format!("\"x\", {etag}");
            // Conditions that browsers, proxies and players send.
            let conditions: [&[(&str, &str)]; 9] = [
                &[("If-None-Match", etag)],
                // The entity tag was lost on the way.
                &[("If-Modified-Since", date)],
                &[("If-None-Match", &weak)],
                &[("If-None-Match", &both)],
                &[("If-None-Match", etag), ("If-Modified-Since", date)],
                &[("If-Range", etag)],
                &[("If-Range", &weak)],
                // All representations of a file have the same date.
                &[("If-Range", date)],
                &[("If-None-Match", etag), ("If-Range", etag)],
            ];
            for condition in conditions {
                let about = format!(
                    "{} held, {} asked for, {condition:?}",
                    held.name, asked.name
                );
                let answer = file.ask("GET", asked.chosen_by, condition);
                assert_whole(&answer, asked, &about);
                for range in ranges(held.plain.body.len()) {
                    let headers = [condition, &[("Range", &range)]].concat();
                    let answer = file.ask("GET", asked.chosen_by, &headers);
                    assert_whole(&answer, asked, &format!("{about}, {range}"));
                }
                let answer = file.ask("HEAD", asked.chosen_by, condition);
                assert_eq!(answer.status, 200, "HEAD, {about}");
            }
            // A failed precondition: nothing is sent.
            let must_hold = [("If-Match", etag), ("Range", "bytes=0-1")];
            let answer = file.ask("GET", asked.chosen_by, &must_hold);
            assert_eq!(answer.status, 412, "{} of {}", held.name, asked.name);
        }
    }
}

#[test]
fn own_validator_keeps_ranges() {
    let server = TestServer::start();
    for mut file in files(&server) {
        let forms = std::mem::take(&mut file.forms);
        for form in &forms {
            let etag = form.plain.header("etag").unwrap();
            let date = form.plain.header("last-modified").unwrap();
            let len = form.plain.body.len();
            // Safari's probe, a resumed curl, BITS: without a condition, or with one that holds.
            let conditions: [&[(&str, &str)]; 5] = [
                &[],
                &[("If-Range", etag)],
                &[("If-Match", etag)],
                &[("If-Unmodified-Since", date)],
                // RFC 9110 §13.2.2: another entity tag does not match, and `If-Range` guards the range.
                &[("If-None-Match", "\"x\""), ("If-Range", etag)],
            ];
            for condition in conditions {
                for (range, part) in [
                    ("bytes=0-1", 0..2),
                    ("bytes=100-", 100..len),
                    ("bytes=-100", len - 100..len),
                ] {
                    let about = format!("{}, {condition:?}, {range}", form.name);
                    let headers = [condition, &[("Range", range)]].concat();
                    let answer = file.ask("GET", form.chosen_by, &headers);
                    assert_eq!(answer.status, 206, "{about}");
                    assert!(answer.body == form.plain.body[part], "{about}");
                }
            }
            for headers in [
                &[("If-None-Match", etag)][..],
                &[("If-None-Match", etag), ("If-Modified-Since", date)],
            ] {
                let headers = [headers, &[("Range", "bytes=0-1")]].concat();
                let answer = file.ask("GET", form.chosen_by, &headers);
                assert_eq!(answer.status, 304, "{}, {headers:?}", form.name);
            }
        }
    }
}

/// A file in one representation through one of the APIs: the path, and the headers of an authorised client.
struct Given {
    path: String,
    headers: Vec<(String, String)>,
}

impl Given {
    fn ask(&self, server: &TestServer, method: &str, more: &[(&str, &str)]) -> Answer {
        let own = self.headers.iter();
        let mut headers: Vec<_> = own.map(|(name, value)| (&**name, &**value)).collect();
        headers.extend_from_slice(more);
        server.request(method, &self.path, &headers, b"")
    }
}

/// Every representation of every kind of file: under Easemob's URLs, Lanying's, and the signed ones that a server with
/// `[cdn]` redirects to.
fn given(server: &TestServer) -> Vec<Given> {
    let alice = server.lanying("alice");
    let owned = |headers: &[(&str, &str)]| -> Vec<(String, String)> {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        headers.iter().map(pair).collect()
    };
    let bearer = format!("Bearer {}", alice.token);
    let mut all = Vec::new();
    let photo = photo();
    for (file_type, name, bytes, chosen_by, queries) in [
        (
            "102",
            "a.jpg",
            &photo,
            ("thumbnail", "true"),
            &["", "&image_type=2", "&image_type=2&w=64&h=64"][..],
        ),
        (
            "101",
            "a.amr",
            &AMR,
            ("Accept", "audio/mp3"),
            &["", "&format=mp3"],
        ),
        (
            "103",
            "a.mp4",
            &MP4,
            ("thumbnail", "true"),
            &["", "&image_type=3", "&image_type=3&w=64&h=64"],
        ),
    ] {
        let id = server.store_file(name, "application/octet-stream", bytes);
        let path = format!("{BASE}/chatfiles/{id}");
        for more in [&[][..], &[chosen_by]] {
            let headers = owned(&[&[("Authorization", &*bearer)], more].concat());
            let path = path.clone();
            all.push(Given { path, headers });
        }
        if file_type == "101" {
            let headers = owned(&[("Authorization", &bearer)]);
            let path = format!("{path}?voice=mp3");
            all.push(Given { path, headers });
        }
        let url = alice.send(file_type, "bob", name, bytes);
        let path = &url[url.find("/file/").expect("a URL of this API")..];
        for query in queries {
            let path = format!("{path}{query}");
            let headers = owned(&[("access-token", &alice.token), ("app_id", APP_ID)]);
            all.push(Given { path, headers });
        }
    }
    // Follow the redirect to a signed URL, without any header.
    for given in &mut all {
        let answer = given.ask(server, "GET", &[]);
        if let Some(url) = answer.header("location") {
            let path = url.strip_prefix("http://cdn.test").expect("the CDN's");
            *given = Given {
                path: path.to_owned(),
                headers: Vec::new(),
            };
        }
    }
    all
}

/// Headers by name, without those that differ in every response; `max-age` counts down.
fn lasting(answer: &Answer) -> BTreeMap<&str, String> {
    let headers = answer.headers.iter();
    headers
        .map(|(name, value)| match name.as_str() {
            "cache-control" => (&**name, value.replace(|c: char| c.is_ascii_digit(), "")),
            _ => (&**name, value.clone()),
        })
        .filter(|(name, _)| !matches!(*name, "date" | "x-request-id"))
        .collect()
}

const CONFIGURATIONS: [&str; 3] = [
    "",
    "[cors]\nallowed_origins = [\"https://chat.test\"]",
    "[cdn]\nurl = \"http://cdn.test\"",
];

#[test]
fn head_and_304_carry_get_headers() {
    for toml in CONFIGURATIONS {
        let server = TestServer::with(toml);
        let mut tags = Vec::new();
        for given in given(&server) {
            let about = format!("{} {:?} {toml}", given.path, given.headers);
            let origin = ("Origin", "https://chat.test");
            let whole = given.ask(&server, "GET", &[origin]);
            assert_eq!(whole.status, 200, "{about}: {}", whole.text());
            let head = given.ask(&server, "HEAD", &[origin]);
            assert_eq!(lasting(&head), lasting(&whole), "{about}");
            let etag = whole.header("etag").unwrap().to_owned();
            let same = given.ask(&server, "GET", &[origin, ("If-None-Match", &etag)]);
            assert_eq!(same.status, 304, "{about}");
            // RFC 9110 §15.4.5, and the headers that a page may read.
            let mut expected = lasting(&whole);
            expected.retain(|name, _| {
                let of_body = ["accept-ranges", "x-content-type-options"].contains(name)
                    || name.starts_with("content-")
                    || name.starts_with("cross-origin-");
                !of_body
            });
            assert_eq!(lasting(&same), expected, "{about}");
            let same = given.ask(&server, "HEAD", &[origin, ("If-None-Match", &etag)]);
            assert_eq!((same.status, lasting(&same)), (304, expected), "{about}");
            tags.push((etag, whole.body));
        }
        // Over all representations of all files, an entity tag belongs to one body.
        for (etag, body) in &tags {
            let others = tags.iter().filter(|(other, _)| other == etag);
            assert!(others.into_iter().all(|(_, other)| other == body), "{etag}");
        }
    }
}

/// If a request header changes the response, `Vary` names it.
#[test]
fn vary_names_every_choosing_header() {
    const VALUES: &[(&str, &[&str])] = &[
        ("Authorization", &["Bearer x", "Basic eDp5"]),
        ("access-token", &["x"]),
        ("app_id", &["x"]),
        ("user_id", &["bob"]),
        ("share-secret", &["x"]),
        ("thumbnail", &["true", "false"]),
        ("thumbnail-width", &["10"]),
        ("thumbnail-height", &["10"]),
        ("restrict-access", &["true"]),
        ("Accept", &["audio/mp3", "image/webp", "*/*", "text/html"]),
        ("Accept-Encoding", &["gzip, br", "identity"]),
        ("Accept-Language", &["zh"]),
        ("Content-Type", &["application/json"]),
        (
            "Origin",
            &["https://chat.test", "https://other.test", "null"],
        ),
        ("Referer", &["https://chat.test/"]),
        ("User-Agent", &["MicroMessenger", "Chrome/100"]),
        ("X-Requested-With", &["XMLHttpRequest"]),
        ("X-Forwarded-For", &["192.0.2.1"]),
        ("X-Forwarded-Proto", &["https"]),
        ("Cookie", &["a=b"]),
        ("Save-Data", &["on"]),
        ("DPR", &["2"]),
    ];
    for toml in CONFIGURATIONS {
        let server = TestServer::with(toml);
        for given in given(&server) {
            let plain = given.ask(&server, "GET", &[]);
            assert_eq!(plain.status, 200, "{}: {}", given.path, plain.text());
            let vary = plain.headers.iter().filter(|(name, _)| name == "vary");
            let vary: Vec<String> = vary
                .flat_map(|(_, value)| value.split(','))
                .map(|name| name.trim().to_ascii_lowercase())
                .collect();
            for (name, values) in VALUES {
                for value in *values {
                    let own = given.headers.iter();
                    let others = own.filter(|(own, _)| !own.eq_ignore_ascii_case(name));
                    let mut headers: Vec<_> =
                        others.map(|(own, value)| (&**own, &**value)).collect();
                    headers.push((name, value));
                    let answer = server.get(&given.path, &headers);
                    let is_same = answer.status == 200
                        && answer.body == plain.body
                        && lasting(&answer) == lasting(&plain);
                    let is_said = vary.contains(&name.to_ascii_lowercase());
                    assert!(
                        is_same || is_said,
                        "{name}: {value} of {} {:?}, {toml}: Vary {vary:?}",
                        given.path,
                        given.headers
                    );
                }
            }
        }
    }
}
