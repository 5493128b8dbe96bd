//! Derivatives of videos and voices in the Easemob API: thumbnails from first frames, and `Accept`.

use crate::support::{
    Answer, BASE, TestServer, assert_error,
    media::{
        AMR, AMR_WB, H264, MP3, MP4, Program, assert_first_frame, crowd, played_ms, probed, video,
    },
    photo,
};

const VARY: &str = "Authorization, share-secret, thumbnail, Accept";

#[test]
fn video_thumbnail_is_first_frame() {
    let program = Program::real();
    let server = TestServer::with(&program.toml(""));
    let token = server.token("alice");
    let webm = video("a.webm", (320, 240), &["-c:v", "libvpx", "-an"]);
    let mov = video("a.mov", (320, 240), H264);
    for (at, (name, declared, bytes)) in [
        ("a.mp4", "video/mp4", &*MP4),
        ("a.mp4", "application/octet-stream", &*MP4),
        ("a.mov", "video/quicktime", &mov),
        ("a.webm", "video/webm", &webm),
    ]
    .into_iter()
    .enumerate()
    {
        let id = server.store_file(name, declared, bytes);
        let mut etags = Vec::new();
        for (query, header) in [
            ("?vframe=true", None),
            ("?thumbnail=true", None),
            ("", Some("true")),
            ("", Some("TRUE")),
            ("?vframe=true&thumbnail=true&em-redirect=true", Some("true")),
            ("?vframe=true", Some("false")),
        ] {
            let authorization = format!("Bearer {token}");
            let mut headers = vec![("Authorization", authorization.as_str())];
            headers.extend(header.map(|value| ("thumbnail", value)));
            let answer = server.get(&format!("{BASE}/chatfiles/{id}{query}"), &headers);
            let size = assert_first_frame(&answer, &format!("{name} {query} {header:?}"));
            assert!(matches!(size, (170, 127 | 128)), "{size:?}");
            assert_eq!(answer.header("vary"), Some(VARY));
            etags.push(answer.header("etag").unwrap().to_owned());
        }
        etags.dedup();
        assert_eq!(etags.len(), 1, "{etags:?}");
        for query in ["?vframe=false", "?thumbnail=", "?vframe=1"] {
            let authorization = format!("Bearer {token}");
            let headers = [("Authorization", authorization.as_str())];
            let answer = server.get(&format!("{BASE}/chatfiles/{id}{query}"), &headers);
            assert!(answer.body == *bytes, "{query}");
        }
        assert_eq!(program.starts(), at + 1);
    }
}

#[test]
fn video_thumbnail_has_upload_size() {
    let server = TestServer::start();
    let form = crate::support::Form::new()
        .file("a.mp4", "video/mp4", &MP4)
        .field("thumbnail-width", "64")
        .field("thumbnail-height", "64");
    let answer = server.upload(&form, &[]);
    let id = crate::support::process::id(&answer);
    let answer = server.download(&id, &[("thumbnail", "true")]);
    assert_eq!(assert_first_frame(&answer, "64 × 64"), (64, 48));
}

/// Only an explicit `audio/mpeg` counts, not a wildcard.
#[test]
fn amr_becomes_mp3_when_accepted() {
    let server = TestServer::start();
    let accepted: &[&[&str]] = &[
        &["audio/mp3"],
        &["audio/mpeg"],
        &["Audio/MP3"],
        &["audio/mp3;q=0.9"],
        &["audio/mpeg ; q=1.0"],
        &["image/png, audio/mp3"],
        &["audio/mp3,*/*;q=0.1"],
        &["text/html", "audio/mpeg"],
        &["*/*;q=0.8 ,\taudio/mp3;q=0.5"],
    ];
    let others: &[&[&str]] = &[
        &[],
        &[""],
        &["*/*"],
        &["audio/*"],
        &["application/octet-stream"],
        &["audio/amr"],
        &["audio/mp3;q=0"],
        &["*/*, audio/mp3 ; q=0.000"],
        &["audio/mp34"],
        &["application/audio/mp3"],
        &["audio/mp3x, ,;"],
        &["text/plain;x=audio/mp3"],
    ];
    for (bytes, content_type) in [(&AMR, "audio/amr"), (&AMR_WB, "audio/amr-wb")] {
        let id = server.store_file("a.amr", content_type, bytes);
        for (lines, is_mp3) in accepted
            .iter()
            .map(|lines| (lines, true))
            .chain(others.iter().map(|lines| (lines, false)))
        {
            let headers: Vec<_> = lines.iter().map(|line| ("Accept", *line)).collect();
            let answer = server.download(&id, &headers);
            assert_eq!(answer.status, 200, "{lines:?}: {}", answer.text());
            assert_eq!(answer.header("vary"), Some(VARY));
            if !is_mp3 {
                assert!(answer.body == **bytes, "{lines:?}");
                assert_eq!(answer.header("content-type"), Some(content_type));
                continue;
            }
            assert_eq!(answer.header("content-type"), Some("audio/mpeg"));
            assert_eq!(probed(&answer.body)["codec_name"], "mp3", "{lines:?}");
            assert!(played_ms(&answer.body).abs_diff(5000) < 200);
        }
    }
}

#[test]
fn other_files_are_never_converted() {
    let program = Program::real();
    let server = TestServer::with(&program.toml(""));
    for (name, declared, bytes) in [
        ("a.mp3", "audio/mpeg", &MP3[..]),
        ("a.jpg", "image/jpeg", &photo()),
        ("a.mp4", "video/mp4", &MP4),
        ("a.amr", "audio/amr", b"not a voice at all"),
        ("a.bin", "application/octet-stream", &[0; 100]),
    ] {
        let id = server.store_file(name, declared, bytes);
        let answer = server.download(&id, &[("Accept", "audio/mp3")]);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.body == bytes, "{name}");
        assert_eq!(answer.header("vary"), Some(VARY));
    }
    assert_eq!(program.starts(), 0);
}

/// The bytes decide, not the sender's type.
#[test]
fn voice_is_detected_by_bytes() {
    let server = TestServer::start();
    for declared in ["audio/amr", "application/octet-stream", "audio/mpeg", "x"] {
        let id = server.store_file("voice", declared, &AMR);
        let answer = server.download(&id, &[("Accept", "audio/mp3")]);
        assert_eq!(answer.header("content-type"), Some("audio/mpeg"));
        assert_eq!(probed(&answer.body)["codec_name"], "mp3", "{declared}");
        // A missing thumbnail is reported before the format.
        let headers = [("Accept", "audio/mp3"), ("thumbnail", "true")];
        let none = assert_error(&server.download(&id, &headers), 404, "entity_not_found");
        assert_eq!(none["error_description"], "no thumbnail for this file");
    }
}

#[test]
fn ranges_and_conditions_apply_to_mp3() {
    let server = TestServer::start();
    let id = server.store_file("a.amr", "audio/amr", &AMR);
    let mp3 = ("Accept", "audio/mp3");
    let whole = server.download(&id, &[mp3]);
    let etag = whole.header("etag").unwrap();
    let range = server.download(&id, &[mp3, ("Range", "bytes=10-19"), ("If-Range", etag)]);
    assert_eq!((range.status, &range.body[..]), (206, &whole.body[10..20]));
    let same = server.download(&id, &[mp3, ("If-None-Match", etag)]);
    assert_eq!(same.status, 304);
    // The AMR has a different one.
    let other = server.download(&id, &[("If-None-Match", etag)]);
    assert!(other.status == 200 && other.body == *AMR);
    let other = server.download(&id, &[("Range", "bytes=10-19"), ("If-Range", etag)]);
    assert!(other.status == 200 && other.body == *AMR);
}

#[test]
fn concurrent_requests_start_ffmpeg_once() {
    let program = Program::real();
    let server = TestServer::with(&program.toml(""));
    let id = server.store_file("a.amr", "audio/amr", &AMR);
    let answers = crowd(100, || server.download(&id, &[("Accept", "audio/mp3")]));
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    assert_eq!(answers[0].header("content-type"), Some("audio/mpeg"));
    assert_eq!((answers.len(), program.starts()), (100, 1));
}

#[test]
fn prefers_mp3_accepts_stored_voice() {
    let program = Program::fake("exit 1");
    let server = TestServer::with(&program.toml(""));
    let id = server.store_file("a.amr", "audio/amr", &AMR);
    for (accept, takes_it) in [
        ("audio/mp3", false),
        ("audio/mp3, */*;q=0", false),
        ("audio/mp3, image/*", false),
        ("audio/mp3, */*;q=0.1", true),
        ("audio/amr;q=0.5,audio/mp3", true),
        ("audio/*, audio/mpeg", true),
    ] {
        let answer = server.download(&id, &[("Accept", accept)]);
        if takes_it {
            assert!(answer.body == AMR[..], "{accept}: {}", answer.text());
        } else {
            assert_error(&answer, 404, "entity_not_found");
        }
    }
}

/// Downloads with a query, as `alice`.
fn query(server: &TestServer, id: &str, query: &str, headers: &[(&str, &str)]) -> Answer {
    let authorization = format!("Bearer {}", server.token("alice"));
    let all = [&[("Authorization", &*authorization)], headers].concat();
    server.get(&format!("{BASE}/chatfiles/{id}?{query}"), &all)
}

#[test]
fn query_chooses_voice_format() {
    let server = TestServer::start();
    let amr = server.store_file("a.amr", "audio/amr", &AMR);
    let mp3 = server.store_file("a.mp3", "audio/mpeg", &MP3);
    let none: &[(&str, &str)] = &[];
    // An explicit format of the URL wins over what the client sends with every request.
    let stored = &[("Accept", "audio/amr, */*")];
    for (id, asked, headers, codec, content_type) in [
        (&amr, "voice=mp3", none, "mp3", "audio/mpeg"),
        (&amr, "voice=mp3", stored, "mp3", "audio/mpeg"),
        (
            &amr,
            "em-redirect=true&voice=mp3&x",
            none,
            "mp3",
            "audio/mpeg",
        ),
        (&amr, "voice=mp3-or-stored", none, "mp3", "audio/mpeg"),
        (&amr, "voice=%6dp3", none, "mp3", "audio/mpeg"),
        (&mp3, "voice=amr", none, "amr_nb", "audio/amr"),
        (
            &mp3,
            "voice=amr",
            &[("Accept", "audio/mp3")],
            "amr_nb",
            "audio/amr",
        ),
        (
            &amr,
            "voice=amr",
            &[("Accept", "audio/mp3")],
            "amr_nb",
            "audio/amr",
        ),
        (&mp3, "voice=mp3", none, "mp3", "audio/mpeg"),
        // Absent: `Accept` decides.
        (
            &amr,
            "voice=",
            &[("Accept", "audio/mp3")],
            "mp3",
            "audio/mpeg",
        ),
        (&amr, "voices=mp3", none, "amr_nb", "audio/amr"),
    ] {
        let answer = query(&server, id, asked, headers);
        assert_eq!(answer.status, 200, "{asked}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some(content_type), "{asked}");
        assert_eq!(probed(&answer.body)["codec_name"], codec, "{asked}");
        assert_eq!(answer.header("vary"), Some(VARY));
        let cached = answer.header("cache-control").unwrap();
        assert!(cached.starts_with("private, "), "{cached}");
    }
    // The same bytes under both names, with the same validator; ranges and HEAD work.
    let by_query = query(&server, &amr, "voice=mp3", none);
    let by_header = server.download(&amr, &[("Accept", "audio/mp3")]);
    assert!(by_query.body == by_header.body);
    assert_eq!(by_query.header("etag"), by_header.header("etag"));
    let part = query(&server, &amr, "voice=mp3", &[("Range", "bytes=-100")]);
    let tail = &by_query.body[by_query.body.len() - 100..];
    assert_eq!((part.status, &*part.body), (206, tail));
    let authorization = format!("Bearer {}", server.token("alice"));
    let headers = [("Authorization", &*authorization)];
    let head = server.request(
        "HEAD",
        &format!("{BASE}/chatfiles/{amr}?voice=mp3"),
        &headers,
        b"",
    );
    let length = by_query.body.len().to_string();
    assert_eq!(head.header("content-length"), Some(&*length));
}

#[test]
fn voice_query_leaves_other_files() {
    let server = TestServer::start();
    let photo = photo();
    let id = server.store_file("a.jpg", "image/jpeg", &photo);
    for asked in ["voice=mp3", "voice=amr", "voice=mp3-or-stored"] {
        assert!(query(&server, &id, asked, &[]).body == photo, "{asked}");
    }
    // The thumbnail comes first, as with `Accept`.
    let small = query(&server, &id, "voice=mp3&thumbnail=true", &[]);
    assert!(small.status == 200 && small.body.len() < photo.len());
    let small = query(&server, &id, "voice=mp3", &[("thumbnail", "true")]);
    assert!(small.status == 200 && small.body.len() < photo.len());
}

#[test]
fn invalid_voice_query_is_refused() {
    let server = TestServer::start();
    let id = server.store_file("a.amr", "audio/amr", &AMR);
    for value in ["ogg", "MP3", "mp3,amr", "mp3%00", "undefined", "%ff"] {
        let answer = query(&server, &id, &format!("voice={value}"), &[]);
        let json = assert_error(&answer, 400, "illegal_argument");
        assert_eq!(
            json["error_description"],
            "voice must be mp3, mp3-or-stored or amr"
        );
    }
    // Only an authorized client learns that, and only of a file that exists.
    let path = format!("{BASE}/chatfiles/{id}?voice=ogg");
    assert_error(&server.get(&path, &[]), 401, "unauthorized");
    let never = "0190a5c4-5a7b-7000-8000-000000000000";
    let answer = query(&server, never, "voice=ogg", &[]);
    assert_error(&answer, 404, "entity_not_found");
    let form = crate::support::Form::new().file("a.amr", "audio/amr", &AMR);
    let restricted = server.upload(&form, &[("restrict-access", "true")]);
    let id = crate::support::process::id(&restricted);
    let answer = query(&server, &id, "voice=ogg", &[]);
    assert_error(&answer, 403, "forbidden_op");
}

#[test]
fn failed_conversion_follows_voice_query() {
    let program = Program::fake("exit 1");
    let server = TestServer::with(&program.toml(""));
    let id = server.store_file("a.amr", "audio/amr", &AMR);
    let refused = query(&server, &id, "voice=mp3", &[]);
    assert_error(&refused, 404, "entity_not_found");
    assert!(query(&server, &id, "voice=mp3-or-stored", &[]).body == *AMR);
}

/// With `download_auth = "secret"`, an element of a page needs nothing but the URL.
#[test]
fn share_secret_and_voice_in_one_url() {
    let server = TestServer::with(
        "[[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\ndownload_auth = \"secret\"",
    );
    let form = crate::support::Form::new().file("a.amr", "audio/amr", &AMR);
    let stored = server.upload(&form, &[("restrict-access", "true")]).json();
    let entity = &stored["entities"][0];
    let (id, secret) = (&entity["uuid"], &entity["share-secret"]);
    let path = |secret: &str| {
        let id = id.as_str().unwrap();
        format!("{BASE}/chatfiles/{id}?share-secret={secret}&voice=mp3")
    };
    let answer = server.get(&path(secret.as_str().unwrap()), &[]);
    assert_eq!(
        answer.header("content-type"),
        Some("audio/mpeg"),
        "{}",
        answer.text()
    );
    assert_error(&server.get(&path("x"), &[]), 403, "forbidden_op");
}

/// A conversion has the rate limit of thumbnails, not that of downloads.
#[test]
fn voice_query_counts_as_derivative() {
    let server = TestServer::with("limits.calls_per_second = 1\nlimits.calls_burst = 1");
    let form = crate::support::Form::new().file("a.amr", "audio/amr", &AMR);
    let id = crate::support::process::id(&server.upload(&form, &[]));
    let is_refused = |answer: &Answer| answer.status == 503;
    // More than two only on a machine so slow that the bucket refills in between.
    assert!((0..20).any(|_| is_refused(&server.download(&id, &[]))));
    assert_eq!(query(&server, &id, "voice=mp3", &[]).status, 200);
    assert!((0..20).any(|_| is_refused(&query(&server, &id, "voice=mp3", &[]))));
}
