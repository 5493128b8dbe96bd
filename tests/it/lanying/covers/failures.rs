//! An ffmpeg that misbehaves, and invalid videos: each failure has its own error, is bounded, and affects nothing else.

use std::{net::TcpListener, time::Duration};

use chatfiles::time::Clock;

use crate::support::{
    TestServer, assert_error, head,
    lanying::{APP_ID, Client, assert_code, ticket_form},
    media::{AMR, FORK, H264, JPEG, MP3, MP4, Program, assert_first_frame, made, playlists, video},
    photo,
};

const NO_FRAME: &str = "the first frame of this video cannot be decoded";
const NO_VOICE: &str = "this voice message cannot be decoded";
const NO_PICTURE: &str = "the file has no picture";
const MISSING: &str = "this server has no ffmpeg, which video covers and voice conversion need: install the Debian \
                       packages ffmpeg and libavcodec-extra";
const BROKEN: &str =
    "the ffmpeg of this server does not run, which video covers and voice conversion need";
const OFF: &str =
    "video covers and voice conversion are switched off on this server (media.ffmpeg = \"\")";
/// Maximum duration of each case on a busy machine.
const BOUND: Duration = Duration::from_secs(20);

/// Sends a video and voices, and requests everything that needs ffmpeg in both APIs, and something that does not.
#[track_caller]
fn check(about: &str, server: &TestServer, cover_text: &str, voice_text: &str) {
    let clock = Clock::system();
    let alice = server.lanying("alice");
    // An impossible derivative does not fail the upload.
    let video = alice.send("103", "bob", "a.mp4", &MP4);
    let (amr, mp3) = (
        alice.send("101", "bob", "a.amr", &AMR),
        alice.send("104", "bob", "a.mp3", &MP3),
    );
    let id = server.store_file("a.mp4", "video/mp4", &MP4);
    let voice_id = server.store_file("a.amr", "audio/amr", &AMR);
    let picture = alice.send("102", "bob", "a.jpg", &photo());
    for (url, more, text) in [
        (&video, "&image_type=3", cover_text),
        (&video, "&image_type=2&w=50", cover_text),
        (&amr, "&format=mp3", voice_text),
        (&mp3, "&format=amr", voice_text),
    ] {
        let begun = clock.monotonic();
        let message = assert_code(&alice.open(url, more), 20022);
        assert_eq!(message, text, "{about}{more}");
        let took = clock.monotonic() - begun;
        assert!(took < BOUND, "{about}{more}: {took:?}");
    }
    // The Easemob API begins with the vendor's text.
    let no_thumbnail = match cover_text {
        NO_PICTURE => "no thumbnail for this file".to_owned(),
        why => format!("no thumbnail for this file: {why}"),
    };
    for (id, header, text) in [
        (&id, ("thumbnail", "true"), &*no_thumbnail),
        (&voice_id, ("Accept", "audio/mp3"), voice_text),
    ] {
        let answer = assert_error(&server.download(id, &[header]), 404, "entity_not_found");
        assert_eq!(answer["error_description"], text, "{about}");
    }
    for (url, more, bytes) in [
        (&video, "", &MP4[..]),
        (&amr, "&format=amr", &AMR),
        (&mp3, "&format=mp3", &MP3),
        (&picture, "", &photo()),
    ] {
        assert!(alice.open(url, more).body == bytes, "{about}{more}");
    }
    assert_eq!(alice.open(&picture, "&image_type=2").status, 200, "{about}");
    let kept = server.files_in("derived");
    assert_eq!(kept.len(), 1, "{about}: of the picture alone: {kept:?}");
}

#[test]
fn ffmpeg_failures_leave_no_process() {
    let hangs = format!("{FORK}; wait");
    let floods = format!("{FORK}; {JPEG}; exec cat /dev/zero");
    let complains = format!("{FORK}; echo '/var/lib/secret: no' >&2; exit 1");
    let late = "ffmpeg took longer than 1 s";
    let much = "ffmpeg wrote more than 16777216 bytes";
    // (behaviour, settings, message for a cover, message for a voice)
    let table = [
        (&*hangs, "timeout_seconds = 1", late, late),
        ("exec cat /dev/zero >&2", "timeout_seconds = 1", late, late),
        (
            "exec tail /dev/zero",
            "memory_bytes_max = 268435456",
            NO_FRAME,
            NO_VOICE,
        ),
        (&floods, "", much, much),
        (&complains, "", NO_FRAME, NO_VOICE),
        ("kill -SEGV $$", "", NO_FRAME, NO_VOICE),
    ];
    for (body, settings, cover_text, voice_text) in table {
        let program = Program::fake(body);
        let server = TestServer::with(&program.toml(settings));
        check(body, &server, cover_text, voice_text);
        // Two covers, two voices in one API, one of each in the other. The second cover of a video is a remembered
        // failure.
        assert_eq!(program.starts(), 5, "{body}");
        assert!(program.pids().len() >= 5, "{body}");
        program.await_end();
    }
}

#[test]
fn works_without_ffmpeg() {
    let directory = tempfile::tempdir().unwrap();
    let not_executable = directory.path().join("ffmpeg");
    std::fs::write(&not_executable, "#!/bin/sh\n").unwrap();
    for (program, why) in [
        ("", OFF),
        ("/nonexistent/ffmpeg", MISSING),
        ("/", MISSING),
        (not_executable.to_str().unwrap(), MISSING),
        // A program that lists no capabilities does not count as ffmpeg.
        ("/bin/false", BROKEN),
    ] {
        let server = TestServer::with(&format!("[media]\nffmpeg = {program:?}"));
        check(program, &server, why, why);
    }
}

#[test]
fn failure_is_remembered_one_minute() {
    let program = Program::real();
    let server = TestServer::with(&program.toml(""));
    let alice = server.lanying("alice");
    let broken = alice.send("103", "bob", "a.mp4", &MP4[..MP4.len() / 2]);
    let voice = alice.send("104", "bob", "a.mp3", b"ID3\x04\0\0\0\0\0\0");
    for (later_ms, attempts) in [(0, 1), (0, 1), (59_000, 1), (2_000, 2), (0, 2), (61_000, 3)] {
        server.clock.advance(later_ms);
        // The message is remembered too.
        for (url, more, text) in [
            (&broken, "&image_type=3", NO_FRAME),
            (&voice, "&format=amr", NO_VOICE),
        ] {
            assert_eq!(assert_code(&alice.open(url, more), 20022), text);
        }
        assert_eq!(program.starts(), 2 * attempts, "{later_ms} ms later");
    }
}

/// Any number of requests for any sizes cause one attempt per minute.
#[test]
fn failure_applies_to_all_sizes() {
    let program = Program::fake("exit 1");
    let settings = "[thumbnails]\nfailure_memory_seconds = 10\n";
    let server = TestServer::with(&format!("{settings}{}", program.toml("")));
    let alice = server.lanying("alice");
    let url = alice.send("103", "bob", "a.mp4", &MP4);
    for (later_ms, attempts) in [(0, 1), (9_000, 1), (2_000, 2)] {
        server.clock.advance(later_ms);
        // Sizes that were not requested before, and one that always is.
        for side in [attempts * 100 + later_ms / 1000, 170] {
            assert_code(&alice.open(&url, &format!("&image_type=3&w={side}")), 20022);
        }
        assert_eq!(program.starts() as i64, attempts, "{later_ms} ms later");
    }
}

#[test]
fn past_failure_is_forgotten() {
    let program = Program::fake("[ -e released ] || exit 1; exec ffmpeg \"$@\"");
    let server = TestServer::with(&program.toml(""));
    let alice = server.lanying("alice");
    let url = alice.send("103", "bob", "a.mp4", &MP4);
    assert_code(&alice.open(&url, "&image_type=3"), 20022);
    program.release();
    assert_code(&alice.open(&url, "&image_type=3"), 20022);
    server.clock.advance(60_001);
    assert_first_frame(&alice.open(&url, "&image_type=3"), "at last");
    assert_eq!(program.starts(), 2);
}

fn without_frames() -> Vec<u8> {
    let fragmented = [H264, &["-movflags", "+frag_keyframe+empty_moov"]].concat();
    let mut mp4 = video("a.mp4", (320, 240), &fragmented);
    let first = mp4.windows(4).position(|name| name == b"moof").unwrap();
    mp4.truncate(first - 4);
    mp4
}

#[test]
fn broken_video_has_no_cover() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    let sound = made("a.mp4", &["-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac"]);
    let mut noise = MP4.clone();
    let data = noise.windows(4).position(|name| name == b"mdat").unwrap();
    let index = noise.windows(4).position(|name| name == b"moov").unwrap();
    noise[data + 4..index - 4].fill(0x55);
    let mkv = video("a.mkv", (320, 240), H264);
    for (about, bytes, text) in [
        (
            "its second half is missing",
            &MP4[..MP4.len() / 2],
            NO_FRAME,
        ),
        ("nothing but its type", &MP4[..32], NO_FRAME),
        ("no frames", &without_frames(), NO_FRAME),
        ("sound alone", &sound, NO_FRAME),
        ("noise for frames", &noise, NO_FRAME),
        ("text", b"this is no video", NO_PICTURE),
        ("a voice", &AMR, NO_PICTURE),
        ("of a kind that is not taken apart", &mkv, NO_PICTURE),
    ] {
        let url = alice.send("103", "bob", "a.mp4", bytes);
        for more in ["&image_type=3", "&image_type=2&w=99"] {
            let message = assert_code(&alice.open(&url, more), 20022);
            assert_eq!(message, text, "{about}{more}");
        }
        assert!(alice.open(&url, "").body == bytes, "{about}");
    }
    assert!(server.files_in("derived").is_empty());
}

/// Sends a file with the type of a video.
fn send_as_video(alice: &Client<'_>, bytes: &[u8]) -> String {
    let ticket = alice.ticket("103", "bob", "1");
    let form = ticket_form(&ticket).file("a.mp4", "video/mp4", bytes);
    assert_eq!(alice.post(&ticket, &form).status, 200);
    ticket["download_url"].as_str().unwrap().to_owned()
}

#[test]
fn playlist_as_video_opens_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let program = Program::real();
    let server = TestServer::with(&program.toml(""));
    let alice = server.lanying("alice");
    let webm = video("a.webm", (320, 240), &["-c:v", "libvpx", "-an"]);
    let type_box = &MP4[..32];
    assert_eq!(&type_box[4..8], b"ftyp");
    let mut tried = 0;
    for target in [
        "file:///etc/passwd",
        &format!("http://127.0.0.1:{port}/a.ts"),
    ] {
        for text in playlists(target) {
            // By its bytes it is text, so ffmpeg is not started.
            let url = send_as_video(&alice, text.as_bytes());
            let message = assert_code(&alice.open(&url, "&image_type=3"), 20022);
            assert_eq!(message, NO_PICTURE, "{text}");
            assert_eq!(program.starts(), tried);
            // Behind the magic bytes of a video or a voice, a decoder has to reject it.
            for (start, more, text_of) in [
                (type_box, "&image_type=3", NO_FRAME),
                (&webm[..64], "&image_type=3", NO_FRAME),
                (b"ID3\x04\0\0\0\0\0\0", "&format=amr", NO_VOICE),
            ] {
                let bytes = [start, text.as_bytes()].concat();
                let url = match more {
                    "&format=amr" => alice.send("104", "bob", "a.mp3", &bytes),
                    _ => send_as_video(&alice, &bytes),
                };
                let message = assert_code(&alice.open(&url, more), 20022);
                assert_eq!(message, text_of, "{text}");
                tried += 1;
                assert_eq!(program.starts(), tried);
                assert!(alice.open(&url, "").body == bytes);
            }
        }
    }
    let nobody = listener.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

/// The grace period is for running transfers; started programs do not outlive the server.
#[test]
fn aborted_server_leaves_no_process() {
    let program = Program::fake(&format!("{FORK}; wait"));
    let server = TestServer::with(&program.toml("timeout_seconds = 600"));
    let url = server.lanying("alice").send("103", "bob", "a.mp4", &MP4);
    let token = server.token("alice");
    let headers = [("access-token", token.as_str()), ("app_id", APP_ID)];
    let path = format!("{}&image_type=3", &url[url.find("/file/").unwrap()..]);
    let mut connection = server.connect();
    connection
        .send(&head("GET", &path, &headers, None))
        .unwrap();
    program.await_starts(1);
    drop(server);
    program.await_end();
}
