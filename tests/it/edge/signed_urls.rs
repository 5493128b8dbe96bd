//! Downloads through signed URLs, which open a file for a limited time and may be stored by a CDN.

use chatfiles::auth::Subject;

use crate::support::{
    Answer, BASE, Form, TestServer, assert_error,
    lanying::{APP_ID, assert_code, file_sign},
    media, photo,
};

const CDN: &str = "https://cdn.example.com";
const HOUR_MS: i64 = 3_600_000;

fn server(more: &str) -> TestServer {
    TestServer::with(&format!("[cdn]\nurl = \"{CDN}/\"\n{more}"))
}

/// The target of a redirect, without the CDN's name.
#[track_caller]
fn target(answer: &Answer) -> String {
    assert_eq!(answer.status, 302, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.body.is_empty());
    let location = answer.header("location").expect("a location");
    location.strip_prefix(CDN).expect("the CDN's").to_owned()
}

/// Downloads from a signed URL; returns its `max-age`.
#[track_caller]
fn kept_seconds(answer: &Answer) -> i64 {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("vary"), None);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert!(answer.header("etag").is_some() && answer.header("date").is_some());
    let text = answer.header("cache-control").expect("a duration");
    let seconds = text.strip_prefix("public, max-age=").expect(text);
    seconds
        .strip_suffix(", immutable")
        .expect(text)
        .parse()
        .expect(text)
}

#[test]
fn redirects_to_signed_url() {
    let server = server("");
    let photo = photo();
    let id = server.store_file("a.jpg", "image/jpeg", &photo);
    let path = format!("{BASE}/chatfiles/{id}");
    let first = target(&server.download(&id, &[]));
    assert!(first.starts_with(&format!("{path}?expires=")), "{first}");
    // The URL is the same for everybody and for a range. It fixes the representation.
    let bob = format!("Bearer {}", server.token("bob"));
    let of_bob = server.get(&path, &[("Authorization", &bob), ("Range", "bytes=0-1")]);
    assert_eq!(target(&of_bob), first);
    let thumbnail = target(&server.download(&id, &[("thumbnail", "true")]));
    assert!(thumbnail.starts_with(&format!("{path}?thumbnail=true&expires=")));

    let opened = server.get(&first, &[]);
    assert!((900..=3600).contains(&kept_seconds(&opened)));
    assert_eq!(opened.body, photo);
    let small = server.get(&thumbnail, &[("Origin", "null")]);
    kept_seconds(&small);
    assert!(small.body.len() < photo.len());
    // Headers select nothing there; otherwise a cache would serve one client's representation to another.
    for headers in [
        &[("thumbnail", "true")],
        &[("Accept", "audio/mp3")],
        &[("Authorization", "Bearer x")],
    ] {
        assert_eq!(server.get(&first, headers).body, photo);
    }
    // Conditions and ranges work.
    let etag = opened.header("etag").unwrap();
    let same = server.get(&first, &[("If-None-Match", etag)]);
    assert_eq!((same.status, same.header("vary")), (304, None));
    let part = server.get(&first, &[("Range", "bytes=1-4")]);
    assert_eq!((part.status, &part.body[..]), (206, &photo[1..5]));
    assert_eq!(server.request("HEAD", &first, &[], b"").status, 200);
}

#[test]
fn rejects_strangers_and_changed_urls() {
    let server = server("");
    let form = Form::new().file("a.jpg", "image/jpeg", &photo());
    let uploaded = server.upload(&form, &[("restrict-access", "true")]).json();
    let entity = &uploaded["entities"][0];
    let (id, secret) = (
        entity["uuid"].as_str().unwrap(),
        entity["share-secret"].as_str().unwrap(),
    );
    let path = format!("{BASE}/chatfiles/{id}");
    assert_error(&server.get(&path, &[]), 401, "unauthorized");
    assert_error(&server.download(id, &[]), 403, "forbidden_op");
    let url = target(&server.download(id, &[("share-secret", secret)]));
    // Access was decided before: the secret is not required again.
    kept_seconds(&server.get(&url, &[]));

    let (before, signature) = url.rsplit_once("&signature=").unwrap();
    let other_id = server.store_file("b.jpg", "image/jpeg", b"another one");
    let later = before.replace("expires=1", "expires=2");
    for forged in [
        format!("{before}&signature={}", "0".repeat(64)),
        format!("{before}&signature="),
        format!("{before}&signature={}", &signature[..32]),
        format!("{before}&signature={}", signature.to_uppercase()),
        format!("{later}&signature={signature}"),
        format!("{before}&thumbnail=true&signature={signature}"),
        format!(
            "{path}?thumbnail=true&{}&signature={signature}",
            before.rsplit_once('?').unwrap().1
        ),
        url.replace(id, &other_id),
        url.replace("expires=", "expires=+"),
        url.replace("chatfiles/", "chatfiles/%2e/"),
        format!("{url}&x=1"),
    ] {
        let answer = server.get(&forged, &[]);
        assert!(
            matches!(answer.status, 403 | 404),
            "{forged}: {}",
            answer.text()
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    // Without a signature, it is an ordinary request.
    assert_error(&server.get(before, &[]), 401, "unauthorized");
    // Another tenant's key does not work here.
    let others = TestServer::with(
        "[[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\ndownload_auth = \"signed\"",
    );
    assert_error(&others.get(&url, &[]), 403, "forbidden_op");
}

/// No cache keeps a response beyond the end of its URL.
#[test]
fn url_is_stable_until_near_end() {
    let server = server("[retention]\nchatfile_days = 1");
    let id = server.store_file("a.bin", "application/octet-stream", b"some bytes");
    let mut urls = vec![target(&server.download(&id, &[]))];
    // A whole validity period in steps of 36 s: the URL changes when three quarters have passed, so at most twice.
    for _ in 0..100 {
        server.clock.advance(HOUR_MS / 100);
        let url = target(&server.download(&id, &[]));
        let left = kept_seconds(&server.get(&url, &[]));
        assert!((900..=3600).contains(&left), "{left}");
        if urls.last() != Some(&url) {
            urls.push(url);
        }
    }
    assert!((2..=3).contains(&urls.len()), "{urls:?}");
    server.clock.advance(HOUR_MS);
    let answer = server.get(&urls[0], &[]);
    let json = assert_error(&answer, 403, "forbidden_op");
    assert!(
        json["error_description"]
            .as_str()
            .unwrap()
            .contains("expired")
    );
    // Near the file's own end, that counts.
    server.clock.advance(22 * HOUR_MS - HOUR_MS / 6);
    let url = target(&server.download(&id, &[]));
    let left = kept_seconds(&server.get(&url, &[]));
    assert!((590..=600).contains(&left), "{left}");
    server.clock.advance(HOUR_MS / 6);
    assert_eq!(server.get(&url, &[]).status, 404);
}

#[test]
fn voices_have_url_per_format() {
    let server = server("");
    let id = server.store_file("a.amr", "audio/amr", &media::AMR);
    let only = target(&server.download(&id, &[("Accept", "audio/mp3")]));
    let rather = target(&server.download(&id, &[("Accept", "audio/mp3, */*")]));
    assert!(
        only.contains("?voice=mp3&") && rather.contains("?voice=mp3-or-stored&"),
        "{only} {rather}"
    );
    for url in [&only, &rather] {
        let answer = server.get(url, &[]);
        kept_seconds(&answer);
        assert_eq!(answer.header("content-type"), Some("audio/mpeg"));
    }
    // A query leads to the same URL as the header, and AMR has one, too.
    let authorization = format!("Bearer {}", server.token("alice"));
    let of_query = |id: &str, query: &str, headers: &[(&str, &str)]| {
        let all = [&[("Authorization", &*authorization)], headers].concat();
        server.get(&format!("{BASE}/chatfiles/{id}?{query}"), &all)
    };
    let stored = [("Accept", "audio/amr")];
    assert_eq!(target(&of_query(&id, "voice=mp3", &stored)), only);
    assert_eq!(
        target(&of_query(&id, "voice=mp3-or-stored&x=1", &[])),
        rather
    );
    let mp3 = server.store_file("a.mp3", "audio/mpeg", &media::MP3);
    let amr = target(&of_query(&mp3, "voice=amr", &[]));
    assert!(amr.contains("?voice=amr&expires="), "{amr}");
    // The URL alone chooses the format there.
    for accept in ["audio/mp3", "*/*", "text/html"] {
        let headers = [("Accept", accept), ("thumbnail", "true")];
        let answer = server.get(&amr, &headers);
        kept_seconds(&answer);
        assert_eq!(answer.header("content-type"), Some("audio/amr"));
    }
    // What is stored in the format already, and what is no voice, has the URL of the file.
    let plain = target(&server.download(&id, &[]));
    assert_eq!(target(&of_query(&id, "voice=amr", &[])), plain);
    assert!(plain.contains(&format!("{id}?expires=")), "{plain}");
    assert_error(&of_query(&id, "voice=x", &[]), 400, "illegal_argument");
    // An invalid format with a forged signature: the signature is checked first.
    let forged = format!("{BASE}/chatfiles/{id}?voice=x&expires=1&signature=0");
    assert_error(&server.get(&forged, &[]), 403, "forbidden_op");
    // A file that is not a voice has one URL, whatever `Accept` says.
    let other = server.store_file("a.txt", "text/plain", b"no voice");
    assert_eq!(
        target(&server.download(&other, &[("Accept", "audio/mp3")])),
        target(&server.download(&other, &[]))
    );
    // A broken voice: either the stored file or an error, and neither is cached for long.
    let broken = server.store_file("b.amr", "audio/amr", b"#!AMR\nno frames in here");
    let rather = target(&server.download(&broken, &[("Accept", "audio/mp3, */*")]));
    kept_seconds(&server.get(&rather, &[]));
    let only = target(&server.download(&broken, &[("Accept", "audio/mp3")]));
    assert_error(&server.get(&only, &[]), 404, "entity_not_found");
}

#[test]
fn lanying_redirects_to_one_url() {
    let server = server("");
    let (alice, bob) = (server.lanying("alice"), server.lanying("bob"));
    let photo = photo();
    let url = alice.send("102", "bob", "a.jpg", &photo);
    let plain = target(&alice.open(&url, ""));
    assert_eq!(target(&bob.open(&url, "")), plain);
    assert!(
        !plain.contains(file_sign(&url))
            && plain.contains(&format!("?app_id={APP_ID}&object_name=image.")),
        "{plain}"
    );
    let opened = server.get(&plain, &[]);
    kept_seconds(&opened);
    assert_eq!(opened.body, photo);
    let small = target(&bob.open(&url, "&image_type=2&w=50&h=60"));
    assert!(
        small.contains("&image_type=2&w=50&h=60&expires="),
        "{small}"
    );
    let thumbnail = server.get(&small, &[]);
    kept_seconds(&thumbnail);
    assert!(thumbnail.body.len() < photo.len());
    // WeChat does not follow redirects and gets the file itself, privately.
    let direct = bob.open(&url, "&source=miniprogram");
    assert_eq!(
        (direct.status, direct.header("vary")),
        (200, Some("access-token, app_id, user_id"))
    );
    assert!(
        direct
            .header("cache-control")
            .unwrap()
            .starts_with("private")
    );
    // A client without rights gets an error and no URL.
    assert_code(
        &server.get(&url[url.find("/file/").unwrap()..], &[("app_id", APP_ID)]),
        10003,
    );
    assert_code(&server.get(&plain.replace("image.", "video."), &[]), 20023);
    assert_code(&server.get(&format!("{plain}0"), &[]), 20023);
    // Avatars as well.
    let ticket = crate::support::lanying::success(&alice.get("upload/avatar/user"));
    let avatar = alice.store(&ticket, "me.jpg", &photo);
    let at = target(&bob.open(&avatar, ""));
    assert!(at.starts_with("/file/download/avatar?"), "{at}");
    assert_eq!(server.get(&at, &[]).body, photo);
}

/// A tenant may keep tokens; without a CDN, the URL is this server's.
#[test]
fn tokens_and_own_urls_are_options() {
    let toml = "[[tenant]]\norg = \"a\"\napp = \"b\"\ndownload_auth = \"token\"\n[[tenant]]\norg = \"c\"\napp = \"d\"\ndownload_auth = \"signed\"\n";
    for (cdn, base) in [
        ("", "http://files.test"),
        ("[cdn]\nurl = \"https://cdn.example.com\"\n", CDN),
    ] {
        let server = TestServer::with(&format!("{cdn}{toml}"));
        for (org, app, is_signed) in [("a", "b", false), ("c", "d", true)] {
            let token = format!(
                "Bearer {}",
                server.token_of(org, app, Subject::User("alice".into()))
            );
            let form = Form::new().file("a.txt", "text/plain", b"text");
            let uploaded = form.upload(server.address, &format!("/{org}/{app}/chatfiles"), &token);
            let id = uploaded.json()["entities"][0]["uuid"]
                .as_str()
                .expect("an id")
                .to_owned();
            let answer = server.get(
                &format!("/{org}/{app}/chatfiles/{id}"),
                &[("Authorization", &*token)],
            );
            match is_signed {
                true => assert!(
                    answer
                        .header("location")
                        .unwrap()
                        .starts_with(&format!("{base}/c/d/chatfiles/"))
                ),
                false => assert_eq!((answer.status, answer.text()), (200, "text".into())),
            }
        }
    }
}
