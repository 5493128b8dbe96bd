//! Covers of videos: content, size, and when ffmpeg is started.

mod bounds;
mod failures;
mod stored;

use crate::support::{
    TestServer,
    media::{
        H264, MP4, Program, assert_first_frame, assert_served_as_a_file, crowd, turned, video,
    },
};

type Size = (u32, u32);

/// Formats of phones, cameras and browsers, and their upright size.
fn videos() -> Vec<(&'static str, Vec<u8>, Size)> {
    let faststart = [H264, &["-movflags", "+faststart"]].concat();
    let fragmented = [H264, &["-movflags", "+frag_keyframe+empty_moov"]].concat();
    let mpeg4 = ["-c:v", "mpeg4", "-c:a", "aac"];
    let h263 = "-c:v h263 -c:a libopencore_amrnb -ar 8000 -ac 1";
    let h263: Vec<_> = h263.split(' ').collect();
    let vp8 = ["-c:v", "libvpx", "-c:a", "libopus"];
    let vp9 = ["-c:v", "libvpx-vp9", "-c:a", "libopus"];
    let (wide, tall, cif) = ((320, 240), (240, 320), (352, 288));
    vec![
        ("mp4", MP4.clone(), wide),
        ("mp4, moov first", video("a.mp4", wide, &faststart), wide),
        ("mp4, in fragments", video("a.mp4", wide, &fragmented), wide),
        ("mp4, turned", turned(MP4.clone()), tall),
        ("mp4, tall", video("a.mp4", tall, H264), tall),
        (
            "mp4, large",
            video("a.mp4", (2560, 1440), H264),
            (2048, 1152),
        ),
        ("mov", video("a.mov", wide, H264), wide),
        ("mov, turned", turned(video("a.mov", wide, H264)), tall),
        ("3gp", video("a.3gp", cif, &h263), cif),
        ("3gp, MPEG-4", video("a.3gp", cif, &mpeg4), cif),
        ("webm", video("a.webm", wide, &vp8), wide),
        ("webm, VP9", video("a.webm", wide, &vp9), wide),
    ]
}

/// Whether a picture of this size was scaled down to fit, and not enlarged.
fn fits((width, height): Size, (source_width, source_height): Size, fit: Size) -> bool {
    let ratio = |fit: u32, source: u32| f64::from(fit) / f64::from(source);
    let scale = ratio(fit.0, source_width)
        .min(ratio(fit.1, source_height))
        .min(1.0);
    let is_near =
        |size: u32, source: u32| (f64::from(size) - f64::from(source) * scale).abs() < 1.0;
    width <= fit.0
        && height <= fit.1
        && is_near(width, source_width)
        && is_near(height, source_height)
}

#[test]
fn cover_is_first_frame_of_video() {
    let server = TestServer::start();
    let (alice, bob) = (server.lanying("alice"), server.lanying("bob"));
    for (about, video, source) in videos() {
        for file_type in ["103", "100"] {
            let url = alice.send(file_type, "bob", "video", &video);
            for (more, fit) in [
                ("&image_type=3", (170, 170)),
                ("&image_type=2", (170, 170)),
                ("&image_type=3&thumbnail_strategy=2", (170, 170)),
                ("&image_type=3&w=100&h=50", (100, 50)),
                ("&image_type=2&w=33", (33, 2048)),
                ("&image_type=3&h=301", (2048, 301)),
                ("&image_type=3&w=2048&h=2048", (2048, 2048)),
            ] {
                let about = format!("{about} as {file_type}{more}");
                let size = assert_first_frame(&bob.open(&url, more), &about);
                assert!(fits(size, source, fit), "{about}: {size:?}");
            }
            for more in ["", "&image_type=1"] {
                assert!(bob.open(&url, more).body == video, "{about}{more}");
            }
        }
    }
}

/// The cover of an animated avatar is its first frame as well.
#[test]
fn video_avatar_has_cover() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    let ticket = crate::support::lanying::success(&alice.get("upload/avatar/user"));
    let url = alice.store(&ticket, "a.mp4", &MP4);
    let size = assert_first_frame(&server.lanying("bob").open(&url, "&image_type=3"), "avatar");
    assert!(fits(size, (320, 240), (170, 170)), "{size:?}");
}

#[test]
fn cover_follows_rules_for_files() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    let url = alice.send("103", "bob", "a.mp4", &MP4);
    for more in ["&image_type=3", "&image_type=3&w=64&h=64"] {
        assert_served_as_a_file(&alice, &url, more);
    }
}

#[test]
fn ffmpeg_reads_only_the_video() {
    let program = Program::real();
    let server = TestServer::with(&program.toml(""));
    let alice = server.lanying("alice");
    let url = alice.send("103", "bob", "a.mp4", &MP4);
    assert_first_frame(&alice.open(&url, "&image_type=3"), "a cover");
    let len = MP4.len();
    assert_eq!(program.inputs(), [format!("subfile,,start,0,end,{len},,")]);
    let stored = server
        .store
        .join("objects")
        .join(&server.files_in("objects")[0]);
    assert!(std::fs::metadata(stored).unwrap().len() > len as u64);
}

#[test]
fn concurrent_covers_start_ffmpeg_once() {
    let program = Program::real();
    let server = TestServer::with(&program.toml(""));
    let alice = server.lanying("alice");
    let url = alice.send("103", "bob", "a.mp4", &MP4);
    let answers = crowd(100, || alice.open(&url, "&image_type=3"));
    assert_eq!(answers.len(), 100);
    for answer in &answers {
        assert_first_frame(answer, "one of many");
        assert!(answer.body == answers[0].body);
        assert_eq!(answer.header("etag"), answers[0].header("etag"));
    }
    assert_eq!(program.starts(), 1);
}

/// The frame is extracted once for all sizes.
#[test]
fn concurrent_sizes_start_ffmpeg_once() {
    let program = Program::real();
    let server = TestServer::with(&program.toml(""));
    let alice = server.lanying("alice");
    let url = alice.send("103", "bob", "a.mp4", &MP4);
    let next = std::sync::atomic::AtomicU32::new(20);
    let answers = crowd(40, || {
        let side = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        alice.open(&url, &format!("&image_type=3&w={side}&h={side}"))
    });
    let widths = answers
        .iter()
        .map(|answer| assert_first_frame(answer, "a size").0);
    let widths: std::collections::BTreeSet<_> = widths.collect();
    assert!(widths.into_iter().eq(20..60));
    assert_eq!(program.starts(), 1);
}
