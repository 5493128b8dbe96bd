//! External thumbnails and covers: when and where a client is redirected, and what the external server may fetch.

use chatfiles::auth::Subject;
use percent_encoding::percent_decode_str;

use crate::support::{
    Answer, TestServer,
    lanying::{APP_ID, Client, assert_code, file_sign, text},
    photo,
};

const IMAGE: &str = "https://img.example.com/{app_id}/{object}?x-oss-process=image/resize,m_lfit,w_{w},h_{h}&src={source}";
const VIDEO: &str = "http://video.example.com/{object}?x-oss-process=video/snapshot,t_0,f_jpg,w_{w},h_{h},m_fast&src={source}";
/// Lifetime of a store token and validity of one URL, in milliseconds.
const HOUR_MS: i64 = 3_600_000;

/// A server with these templates and further tenant settings.
fn server(image: Option<&str>, video: Option<&str>, more: &str) -> TestServer {
    let line = |key: &str, url: Option<&str>| {
        url.map(|url| format!("{key} = \"{url}\"\n"))
            .unwrap_or_default()
    };
    TestServer::with(&format!(
        "[[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\napp_id = \"{APP_ID}\"\n{}{}{more}\n",
        line("image_process_url", image),
        line("video_process_url", video)
    ))
}

/// A file with the magic bytes of an MP4 that cannot be played.
fn video() -> Vec<u8> {
    let mut bytes = b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2".to_vec();
    bytes.resize(20_000, 0);
    bytes
}

/// The redirect target; also checks the headers of every redirect.
#[track_caller]
fn location(answer: &Answer) -> String {
    assert_eq!(answer.status, 302, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.body.is_empty());
    answer.header("location").expect("a location").to_owned()
}

/// The path of the original in a redirect target.
fn source(location: &str) -> String {
    let (_, encoded) = location.split_once("src=").expect("a source");
    assert!(
        encoded
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'%'),
        "{encoded}"
    );
    let url = percent_decode_str(encoded)
        .decode_utf8()
        .unwrap()
        .into_owned();
    let path = url
        .strip_prefix("http://files.test")
        .expect("this server's");
    path.to_owned()
}

/// The object of a link.
fn object(url: &str) -> String {
    let tuple = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, file_sign(url)).unwrap();
    let tuple = String::from_utf8(tuple).unwrap();
    tuple.split('|').nth(2).unwrap().to_owned()
}

/// Requests a link with a query and checks the redirect target, including the source.
#[track_caller]
fn check(client: &Client<'_>, url: &str, more: &str, expected: &str) -> String {
    let location = location(&client.open(url, more));
    let (before, _) = location.split_once("&src=").expect("a source");
    assert_eq!(before, expected, "{more}");
    location
}

#[test]
fn redirects_pictures_and_covers() {
    let server = server(Some(IMAGE), Some(VIDEO), "");
    let (alice, bob) = (server.lanying("alice"), server.lanying("bob"));
    let picture = alice.send("102", "bob", "a.jpg", &photo());
    let film = alice.send("103", "bob", "a.mp4", &video());
    let (of_picture, of_film) = (object(&picture), object(&film));
    let image = |w: u16, h: u16| {
        format!(
            "https://img.example.com/{APP_ID}/{of_picture}?x-oss-process=image/resize,m_lfit,w_{w},h_{h}"
        )
    };
    let cover = |w: u16, h: u16| {
        format!(
            "http://video.example.com/{of_film}?x-oss-process=video/snapshot,t_0,f_jpg,w_{w},h_{h},m_fast"
        )
    };
    for client in [&alice, &bob] {
        for (more, (w, h)) in [
            ("&image_type=2", (170, 170)),
            ("&image_type=2&thumbnail_strategy=1", (170, 170)),
            (
                "&image_type=2&thumbnail_strategy=1&thumbnail_strategy=2",
                (170, 170),
            ),
            ("&image_type=3", (170, 170)),
            ("&image_type=2&w=320&h=240", (320, 240)),
            ("&image_type=2&w=320", (320, 2048)),
            ("&image_type=2&h=1", (2048, 1)),
            ("&image_type=2&source=web", (170, 170)),
            ("&image_type=2&format=mp3", (170, 170)),
        ] {
            check(client, &picture, more, &image(w, h));
            check(client, &film, more, &cover(w, h));
        }
    }
    let path = &picture[picture.find("/file/").unwrap()..];
    let headers = [("access-token", bob.token.as_str()), ("app_id", APP_ID)];
    let answer = server.request("HEAD", &format!("{path}&image_type=2"), &headers, b"");
    assert!(location(&answer).starts_with(&image(170, 170)));
}

#[test]
fn redirects_avatars() {
    let server = server(Some(IMAGE), None, "");
    let alice = server.lanying("alice");
    let ticket = crate::support::lanying::success(&alice.get("upload/avatar/user"));
    let url = alice.store(&ticket, "a.jpg", &photo());
    let [location, other] =
        ["bob", "carol"].map(|user| location(&server.lanying(user).open(&url, "&image_type=2")));
    assert!(location.contains("/avatar."), "{location}");
    assert_eq!(location, other, "one cache serves all clients");
    let original = server.get(&source(&location), &[]);
    assert_eq!(original.status, 200, "{}", original.text());
    assert!(original.body == photo());
}

#[test]
fn serves_clients_that_cannot_follow() {
    let server = server(Some(IMAGE), Some(VIDEO), "");
    let (alice, bob) = (server.lanying("alice"), server.lanying("bob"));
    let url = alice.send("102", "bob", "a.jpg", &photo());
    for more in [
        "&image_type=2&source=miniprogram",
        "&image_type=3&source=miniprogram&thumbnail_strategy=1",
        "&image_type=2&thumbnail_strategy=2",
        "&image_type=2&thumbnail_strategy=2&thumbnail_strategy=1",
    ] {
        let answer = bob.open(&url, more);
        assert_eq!(answer.status, 200, "{more}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("image/jpeg"), "{more}");
        assert!(answer.body.len() < 40_000, "{more}: made smaller");
        assert_eq!(answer.header("location"), None);
    }
    for more in [
        "",
        "&image_type=1",
        "&image_type=1&thumbnail_strategy=1",
        "&image_type=1&image_type=2",
    ] {
        let answer = bob.open(&url, more);
        assert_eq!(answer.status, 200, "{more}: {}", answer.text());
        assert!(answer.body == photo(), "{more}");
    }
    for more in [
        "&image_type=4",
        "&image_type=2&w=0",
        "&image_type=2&thumbnail_strategy=3",
    ] {
        assert_code(&bob.open(&url, more), 10002);
    }
    let words = alice.send("100", "bob", "a.txt", b"no picture at all");
    let voice = alice.send("101", "bob", "a.amr", b"#!AMR\n\x3c\x00\x00\x00");
    for url in [&words, &voice] {
        assert_code(&bob.open(url, "&image_type=2"), 20022);
    }
}

#[test]
fn missing_or_forbidden_is_no_redirect() {
    let server = server(Some(IMAGE), Some(VIDEO), "strict_recipients = true");
    let (alice, bob) = (server.lanying("alice"), server.lanying("bob"));
    let url = alice.send("102", "bob", "a.jpg", &photo());
    location(&bob.open(&url, "&image_type=2"));
    let never_sent = text(&alice.ticket("102", "bob", "1")["download_url"]);
    let sign = file_sign(&url);
    let forged = url.replace(sign, &sign.replacen(&sign[..1], "Z", 1));
    let no_token = &url[url.find("/file/").unwrap()..];
    assert_code(&bob.open(&never_sent, "&image_type=2"), 20022);
    assert_code(&bob.open(&forged, "&image_type=2"), 20023);
    assert_code(&server.lanying("carol").open(&url, "&image_type=2"), 20023);
    let headers = [("app_id", APP_ID)];
    assert_code(
        &server.get(&format!("{no_token}&image_type=2"), &headers),
        10003,
    );
}

#[test]
fn unconfigured_kinds_are_made_here() {
    for (image, film) in [(None, None), (None, Some(VIDEO))] {
        let server = server(image, film, "");
        let url = server
            .lanying("alice")
            .send("102", "bob", "a.jpg", &photo());
        let answer = server.lanying("bob").open(&url, "&image_type=2");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("image/jpeg"));
    }
    let server = server(Some(IMAGE), None, "");
    let url = server
        .lanying("alice")
        .send("103", "bob", "a.mp4", &video());
    // No cover can be made of this file, and no external server is asked.
    assert_code(&server.lanying("bob").open(&url, "&image_type=2"), 20022);
}

/// Advances the clock to the beginning of a half-hour.
fn to_half_hour(server: &TestServer) {
    let half = HOUR_MS / 2;
    server.clock.advance(half - server.clock.now().ms() % half);
}

/// It stays the same for half an hour and opens for one hour at most.
#[test]
fn source_url_is_stable_and_expires() {
    let server = server(Some(IMAGE), None, "");
    let (alice, bob) = (server.lanying("alice"), server.lanying("bob"));
    let url = alice.send("102", "bob", "a.jpg", &photo());
    let ask = |client: &Client<'_>| location(&client.open(&url, "&image_type=2"));
    to_half_hour(&server);
    let first = ask(&bob);
    assert_eq!(ask(&bob), first);
    // Shared caches: the URL is the same for everybody who may see the file.
    assert_eq!(ask(&alice), first);
    for minutes in [5, 24] {
        server.clock.advance(minutes * 60_000);
        assert_eq!(ask(&bob), first);
    }
    server.clock.advance(60_000);
    let second = ask(&bob);
    assert_ne!(second, first);
    // After 30 minutes, the first URL still opens until the end of its hour.
    let status = |location: &str| server.get(&source(location), &[]);
    assert_eq!(status(&first).status, 200);
    server.clock.advance(29 * 60_000);
    assert_eq!(status(&first).status, 200);
    assert_eq!(ask(&bob), second);
    server.clock.advance(60_000);
    assert_code(&status(&first), 10008);
    assert_eq!(status(&second).status, 200);
    assert_ne!(ask(&bob), second);
    server.clock.advance(HOUR_MS / 2);
    assert_code(&status(&second), 10008);
}

#[test]
fn source_opens_without_token() {
    let server = server(Some(IMAGE), None, "strict_recipients = true");
    let url = server
        .lanying("alice")
        .send("102", "bob", "a.jpg", &photo());
    let source = source(&location(
        &server.lanying("bob").open(&url, "&image_type=2"),
    ));
    let whole = server.get(&source, &[]);
    assert_eq!(whole.status, 200, "{}", whole.text());
    assert!(whole.body == photo());
    assert_eq!(whole.header("content-type"), Some("image/jpeg"));
    let head = server.request("HEAD", &source, &[], b"");
    let length = photo().len().to_string();
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some(&*length))
    );
    let part = server.get(&source, &[("Range", "bytes=10-19")]);
    assert_eq!((part.status, &part.body[..]), (206, &photo()[10..20]));
    let range = format!("bytes 10-19/{length}");
    assert_eq!(part.header("content-range"), Some(&*range));
    let etag = whole.header("etag").unwrap();
    let same = server.get(&source, &[("If-None-Match", etag)]);
    assert_eq!(same.status, 304);
    // It is valid only for this file and this call.
    let other = server
        .lanying("alice")
        .send("102", "bob", "b.jpg", &photo());
    let swapped = source.replace(file_sign(&url), file_sign(&other));
    assert_code(&server.get(&swapped, &[]), 10008);
    let forward = source.replace("download/chat", "upload/forward") + "&to_id=carol";
    assert_code(&server.get(&forward, &[]), 10003);
    let cut = source.replacen("store_token=", "store_token=x", 1);
    assert_code(&server.get(&cut, &[]), 10008);
}

#[test]
fn source_ignores_client_headers() {
    let server = server(Some(IMAGE), None, "");
    let url = server
        .lanying("alice")
        .send("102", "bob", "a.jpg", &photo());
    let source = source(&location(
        &server.lanying("bob").open(&url, "&image_type=2"),
    ));
    let (good, app) = (
        server.token("bob"),
        server.token_of("easemob-demo", "chatdemoui", Subject::App),
    );
    for headers in [
        &[("access-token", &*good), ("app_id", APP_ID)][..],
        &[("access-token", &good)],
        &[("app_id", APP_ID)],
        &[("access-token", ""), ("app_id", "")],
        &[("access-token", "nonsense"), ("app_id", "nobody")],
        // An application token without a user.
        &[("access-token", &app)],
    ] {
        let answer = server.get(&source, headers);
        assert!(answer.body == photo(), "{headers:?}: {}", answer.text());
    }
}
