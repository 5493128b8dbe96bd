//! Voices that are too long or invalid, and an ffmpeg that cannot convert.

use std::time::Duration;

use chatfiles::time::Clock;

use crate::support::{
    TestServer,
    lanying::assert_code,
    media::{AMR, MP3, MP4, Program, assert_first_frame, probed, voice},
};

/// The header of an AMR frame without data, which has no further bytes.
const NO_DATA: u8 = 15 << 3 | 4;
/// Maximum length of a file.
const LIMIT: usize = 10 << 20;

fn amr(frame: &[u8], frames: usize) -> Vec<u8> {
    [&b"#!AMR\n"[..], &frame.repeat(frames)].concat()
}

#[test]
fn bad_voice_starts_no_ffmpeg() {
    let program = Program::real();
    let server = TestServer::with(&program.toml(""));
    let alice = server.lanying("alice");
    let clock = Clock::system();
    // A frame at 4.75 kbit/s, repeated for four hours.
    let mut frame = [0; 13];
    frame[0] = 4;
    let four_hours = amr(&frame, 4 * 3600 * 50);
    let nothing = amr(&[NO_DATA], LIMIT - 6);
    assert!(four_hours.len() <= LIMIT && nothing.len() == LIMIT);
    let long = "the voice message is longer than 600 s";
    let broken = "this voice message is not a valid amr file";
    let empty = "this voice message cannot be decoded";
    for (bytes, text) in [
        (four_hours, long),
        (nothing, long),
        (amr(&[NO_DATA], 600 * 50 + 1), long),
        (amr(&[9 << 3 | 4], 100), broken),
        ([&AMR[..], &[14 << 3; 40]].concat(), broken),
        (amr(&[], 0), empty),
        (AMR[..20].to_vec(), empty),
    ] {
        let url = alice.send("101", "bob", "a.amr", &bytes);
        let begun = clock.monotonic();
        let message = assert_code(&alice.open(&url, "&format=mp3"), 20022);
        assert_eq!(message, text, "{} bytes", bytes.len());
        assert!(clock.monotonic() - begun < Duration::from_secs(5));
        for more in ["", "&format=amr"] {
            assert!(alice.open(&url, more).body == bytes);
        }
    }
    assert_eq!(program.starts(), 0);
    let url = alice.send("101", "bob", "a.amr", &amr(&[NO_DATA], 600 * 50));
    let answer = alice.open(&url, "&format=mp3");
    let text = answer.text();
    assert_eq!(answer.header("content-type"), Some("audio/mpeg"), "{text}");
    assert_eq!(answer.body.len() / 1000, 600 * 4, "4 KB for a second");
    assert_eq!(program.starts(), 1);
}

#[test]
fn voice_seconds_max_is_configurable() {
    let server = TestServer::with("[media]\nvoice_seconds_max = 3");
    let alice = server.lanying("alice");
    let mp3 = |seconds: &str| voice("a.mp3", seconds, &["-ar", "16000", "-b:a", "32k"]);
    let long = Some("the voice message is longer than 3 s");
    for (bytes, more, refused) in [
        (amr(&[NO_DATA], 150), "&format=mp3", None),
        (amr(&[NO_DATA], 151), "&format=mp3", long),
        (AMR.clone(), "&format=mp3", long),
        (mp3("2.9"), "&format=amr", None),
        (MP3.clone(), "&format=amr", long),
        // Longer than the time limit of ffmpeg would allow.
        (mp3("2000"), "&format=amr", long),
    ] {
        let url = alice.send("101", "bob", "voice", &bytes);
        let answer = alice.open(&url, more);
        match refused {
            None => {
                let made = answer.header("content-disposition") == Some("inline");
                assert!(made, "{more}: {}", answer.text());
            }
            Some(text) => assert_eq!(assert_code(&answer, 20022), text),
        }
        assert!(alice.open(&url, "").body == bytes);
    }
}

#[test]
fn ffmpeg_without_amr_names_package() {
    let no_amr =
        "this server has no encoder for amr: install ffmpeg with libavcodec-extra".to_owned();
    let no_mp3 = "this server has no encoder for mp3: install ffmpeg with libmp3lame".to_owned();
    let no_pictures = "the ffmpeg of this server cannot make video covers".to_owned();
    for (encoder, refused, text) in [
        ("libopencore_amrnb", "&format=amr", no_amr),
        ("libmp3lame", "&format=mp3", no_mp3),
        ("mjpeg", "&image_type=3", no_pictures),
    ] {
        let program = Program::without(encoder);
        let server = TestServer::with(&program.toml(""));
        let alice = server.lanying("alice");
        for (bytes, more) in [
            (&MP3, "&format=amr"),
            (&AMR, "&format=mp3"),
            (&MP4, "&image_type=3"),
        ] {
            let url = alice.send("101", "bob", "file", bytes);
            let answer = alice.open(&url, more);
            if more == refused {
                assert_eq!(assert_code(&answer, 20022), text);
                assert!(alice.open(&url, "").body == **bytes);
            } else if more == "&image_type=3" {
                assert_first_frame(&answer, encoder);
            } else {
                let codec = probed(&answer.body)["codec_name"].clone();
                let expected = ["amr_nb", "mp3"][usize::from(more == "&format=mp3")];
                assert_eq!(codec, expected, "{encoder}");
            }
        }
        assert_eq!(program.starts(), 2, "{encoder}");
    }
}

#[test]
fn broken_voice_comes_unchanged() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    for bytes in [
        b"ID3\x04\0\0\0\0\0\0".to_vec(),
        [b"ID3\x04\0\0\0\0\0\0", &[0; 4000][..]].concat(),
        [&b"ID3\x04\0\0\0\0\0\0"[..], &MP4].concat(),
    ] {
        let url = alice.send("104", "bob", "a.mp3", &bytes);
        let message = assert_code(&alice.open(&url, "&format=amr"), 20022);
        assert_eq!(message, "this voice message cannot be decoded");
        assert!(alice.open(&url, "&format=mp3").body == bytes);
    }
    // Phones may stop within a frame; the rest is converted.
    let cut = &MP3[..MP3.len() - 100];
    let url = alice.send("104", "bob", "a.mp3", cut);
    assert_eq!(alice.open(&url, "&format=amr").status, 200);
    let url = alice.send("101", "bob", "a.amr", &AMR[..AMR.len() - 7]);
    assert_eq!(alice.open(&url, "&format=mp3").status, 200);
}
