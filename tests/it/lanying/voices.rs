//! Voices in the requested format: what is converted, what is not, and the duration.

mod failures;

use crate::support::{
    TestServer,
    lanying::{assert_code, success, text},
    media::{
        AMR, AMR_WB, MP3, MP4, Program, assert_served_as_a_file, crowd, played_ms, probed, voice,
    },
};

/// The expected response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// The original bytes with this type.
    Original(&'static str),
    /// Five seconds of MP3.
    Mp3,
    Amr,
}
use Comes::{Amr, Mp3, Original};

const AUDIO_AMR: &str = "audio/amr";
const AUDIO_AMR_WB: &str = "audio/amr-wb";
const AUDIO_MPEG: &str = "audio/mpeg";

/// Other files come unchanged.
#[test]
fn converts_voice_to_requested_format() {
    let server = TestServer::start();
    let (alice, bob) = (server.lanying("alice"), server.lanying("bob"));
    let (as_amr, as_wide, as_mp3) = (
        Original(AUDIO_AMR),
        Original(AUDIO_AMR_WB),
        Original(AUDIO_MPEG),
    );
    let as_video = Original("video/mp4");
    // (file type, bytes; response without a format, with amr, with mp3)
    let table = [
        ("101", &AMR, as_amr, as_amr, Mp3),
        ("101", &AMR_WB, as_wide, as_wide, Mp3),
        ("104", &MP3, as_mp3, Amr, as_mp3),
        // The bytes decide the format, not the file type.
        ("104", &AMR, as_amr, as_amr, Mp3),
        ("101", &MP3, as_mp3, Amr, as_mp3),
        ("201", &AMR, as_amr, as_amr, Mp3),
        ("201", &MP3, as_mp3, Amr, as_mp3),
        // Not voices by their file type.
        ("100", &AMR, as_amr, as_amr, as_amr),
        ("100", &MP3, as_mp3, as_mp3, as_mp3),
        ("102", &AMR, as_amr, as_amr, as_amr),
        ("102", &MP3, as_mp3, as_mp3, as_mp3),
        ("103", &AMR_WB, as_wide, as_wide, as_wide),
        ("200", &AMR, as_amr, as_amr, as_amr),
        ("202", &MP3, as_mp3, as_mp3, as_mp3),
        ("203", &MP3, as_mp3, as_mp3, as_mp3),
        // Not voices by their bytes.
        ("101", &MP4, as_video, as_video, as_video),
    ];
    for (file_type, bytes, plain, amr, mp3) in table {
        let url = alice.send(file_type, "bob", "voice", bytes);
        for (more, comes) in [("", plain), ("&format=amr", amr), ("&format=mp3", mp3)] {
            let about = format!("{file_type} of {plain:?}{more}");
            let answer = bob.open(&url, more);
            assert_eq!(answer.status, 200, "{about}: {}", answer.text());
            let content_type = answer.header("content-type").unwrap();
            let (expected_type, codec, hertz) = match comes {
                Original(expected) => {
                    assert_eq!(content_type, expected, "{about}");
                    assert!(answer.body == **bytes, "{about}");
                    continue;
                }
                Mp3 => (AUDIO_MPEG, "mp3", "16000"),
                Amr => (AUDIO_AMR, "amr_nb", "8000"),
            };
            assert_eq!(content_type, expected_type, "{about}");
            let stream = probed(&answer.body);
            assert_eq!(stream["codec_name"], codec, "{about}");
            assert_eq!(stream["sample_rate"], hertz, "{about}");
            assert_eq!(stream["channels"], 1, "{about}");
            let ms = played_ms(&answer.body);
            assert!(ms.abs_diff(5000) < 200, "{about}: {ms} ms");
        }
    }
}

#[test]
fn conversion_keeps_length() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    for (name, seconds, arguments, more) in [
        ("a.amr", "0.5", "-ar 8000 -b:a 4.75k", "&format=mp3"),
        ("a.amr", "1", "-ar 8000 -b:a 7.95k", "&format=mp3"),
        ("a.amr", "60", "-ar 8000 -b:a 12.2k", "&format=mp3"),
        ("a.mp3", "0.5", "-ar 8000 -b:a 8k", "&format=amr"),
        ("a.mp3", "7", "-ar 22050 -q:a 4", "&format=amr"),
        ("a.mp3", "20", "-ac 2 -ar 48000 -b:a 128k", "&format=amr"),
    ] {
        let arguments: Vec<_> = arguments.split(' ').collect();
        let bytes = voice(name, seconds, &arguments);
        let url = alice.send("101", "bob", name, &bytes);
        let answer = alice.open(&url, more);
        assert_eq!(answer.status, 200, "{arguments:?}: {}", answer.text());
        let (is_ms, was_ms) = (played_ms(&answer.body), played_ms(&bytes));
        let asked_ms = seconds.parse::<f64>().unwrap() * 1000.0;
        assert!(is_ms.abs_diff(asked_ms as u64) < 200, "{is_ms} {asked_ms}");
        assert!(is_ms.abs_diff(was_ms) < 200, "{is_ms} {was_ms}");
    }
}

/// Phones send no frames during a pause. A voice may end with a pause or consist of one.
#[test]
fn conversion_keeps_pauses() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    let recorded = |name: &str, from: &str, to: &str, arguments: &str| {
        let mut all = vec!["-dtx", "1"];
        all.extend(arguments.split(' '));
        let silence = format!("volume=enable='between(t,{from},{to})':volume=0");
        all.extend(["-af", &silence]);
        voice(name, "5", &all)
    };
    let narrow = "-ar 8000 -c:a libopencore_amrnb";
    let wide = "-ar 16000 -c:a libvo_amrwbenc -f amr";
    for (about, bytes) in [
        ("in the middle", recorded("a.amr", "1", "4", narrow)),
        ("at the end", recorded("a.amr", "1", "5", narrow)),
        ("at the start", recorded("a.amr", "0", "4", narrow)),
        ("all", recorded("a.amr", "0", "5", narrow)),
        ("wide, in the middle", recorded("a.awb", "1", "4", wide)),
        ("wide, at the end", recorded("a.awb", "1", "5", wide)),
    ] {
        assert!(
            bytes.len() < 7000,
            "{about}: it has pauses: {}",
            bytes.len()
        );
        let url = alice.send("101", "bob", "voice", &bytes);
        let answer = alice.open(&url, "&format=mp3");
        let content_type = answer.header("content-type");
        assert_eq!(content_type, Some(AUDIO_MPEG), "{about}: {}", answer.text());
        let ms = played_ms(&answer.body);
        assert!(ms.abs_diff(5000) < 200, "{about}: {ms} ms");
    }
}

#[test]
fn unknown_format_is_bad_parameter() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    for (file_type, bytes) in [("101", &AMR), ("100", &MP4)] {
        let url = alice.send(file_type, "bob", "file", bytes);
        for format in ["wav", "MP3", "amr%20", "ogg", "1"] {
            let answer = alice.open(&url, &format!("&format={format}"));
            assert_eq!(assert_code(&answer, 10002), "format must be amr or mp3");
        }
        assert!(alice.open(&url, "&format=").body == **bytes, "as without");
        // The first of two parameters counts.
        assert!(alice.open(&url, "&format=amr&format=wav").body == **bytes);
        assert_code(&alice.open(&url, "&format=wav&format=amr"), 10002);
    }
}

#[test]
fn forwarded_voice_is_converted() {
    let server = TestServer::start();
    let url = server.lanying("alice").send("101", "bob", "a.amr", &AMR);
    let bob = server.lanying("bob");
    let sign = crate::support::lanying::file_sign(&url);
    let call = format!("upload/forward?file_sign={sign}&to_id=carol&to_type=1");
    let forwarded = text(&success(&bob.get(&call)));
    let answer = server.lanying("carol").open(&forwarded, "&format=mp3");
    assert_eq!(probed(&answer.body)["codec_name"], "mp3");
    assert!(answer.body == bob.open(&url, "&format=mp3").body);
}

#[test]
fn converted_voice_follows_file_rules() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    for (bytes, more) in [(&AMR, "&format=mp3"), (&MP3, "&format=amr")] {
        let url = alice.send("101", "bob", "voice", bytes);
        assert_served_as_a_file(&alice, &url, more);
    }
}

#[test]
fn ffmpeg_reads_only_the_voice() {
    let program = Program::real();
    let server = TestServer::with(&program.toml(""));
    let alice = server.lanying("alice");
    let mut expected = Vec::new();
    for (bytes, more) in [
        (&AMR, "&format=mp3"),
        (&AMR_WB, "&format=mp3"),
        (&MP3, "&format=amr"),
    ] {
        // A secret behind the voice, as long as a file name may be.
        let url = alice.send("101", "bob", &"n".repeat(200), bytes);
        let ms = played_ms(&alice.open(&url, more).body);
        assert!(ms.abs_diff(5000) < 120, "{ms}");
        expected.push(format!("subfile,,start,0,end,{},,", bytes.len()));
    }
    let mut inputs = program.inputs();
    expected.sort();
    inputs.sort();
    assert_eq!(inputs, expected);
}

#[test]
fn concurrent_voices_start_ffmpeg_once() {
    let program = Program::real();
    let server = TestServer::with(&program.toml(""));
    let alice = server.lanying("alice");
    for (starts, (bytes, more)) in (1..).zip([(&AMR, "&format=mp3"), (&MP3, "&format=amr")]) {
        let url = alice.send("101", "bob", "voice", bytes);
        let answers = crowd(100, || alice.open(&url, more));
        assert_eq!(answers.len(), 100);
        for answer in &answers {
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(answer.body == answers[0].body);
        }
        assert!(played_ms(&answers[0].body).abs_diff(5000) < 200);
        assert_eq!(program.starts(), starts);
    }
}
