//! Derivatives of videos and voices in the Easemob API: thumbnails from first frames, and `Accept`.

use crate::support::{
    BASE, TestServer, assert_error,
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
