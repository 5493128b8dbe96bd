//! Tests the real program with generated files, and every limit with a fake program that exceeds it.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    pin::pin,
    process::Command,
};

use tempfile::TempDir;

use super::*;
use crate::time::Clock;

const PIXELS_MAX: u64 = 64_000_000;
/// Much longer than any test takes. Only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(30);
/// Long enough for a fake program to reach its goal on a busy machine.
const FAKE_TIMEOUT: Duration = Duration::from_secs(2);

fn claimant() -> Claimant {
    Claimant::new(0, std::net::Ipv4Addr::LOCALHOST.into())
}

fn real() -> Ffmpeg {
    let ffmpeg = Ffmpeg::probe(&Config {
        timeout: Duration::from_secs(60),
        ..Config::default()
    });
    let all = Capabilities {
        frames: true,
        to_mp3: true,
        to_amr: true,
    };
    assert_eq!(ffmpeg.capabilities, all, "ffmpeg with libavcodec-extra");
    ffmpeg
}

/// A file of the store: a payload and a trailer.
struct Stored {
    path: PathBuf,
    len: u64,
    _dir: TempDir,
}

impl Stored {
    fn new(payload: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("object");
        let mut file = File::create(&path).unwrap();
        file.write_all(payload).unwrap();
        // The trailer has valid frames of AMR: a decoder that reads it would play them.
        let trailer: Vec<u8> = (0..700_u32).map(|at| at as u8).collect();
        file.write_all(&trailer).unwrap();
        Self {
            path,
            len: payload.len() as u64,
            _dir: dir,
        }
    }

    fn open(&self) -> File {
        File::open(&self.path).unwrap()
    }

    /// Opens the file when a run asks for it.
    fn opener(&self) -> impl FnOnce() -> Result<File> + Send + 'static {
        let file = self.open();
        move || Ok(file)
    }
}

/// Runs ffmpeg, and returns the contents of the file `name` that it writes.
fn made(name: &str, arguments: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error"])
        .args(arguments)
        .arg(&path)
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {log}");
    fs::read(path).unwrap()
}

/// A video with audio whose first frame is red and whose other frames are blue.
fn video(name: &str, width: u32, height: u32, arguments: &[&str]) -> Vec<u8> {
    let source =
        |color: &str, seconds: &str| format!("color=c={color}:s={width}x{height}:r=10:d={seconds}");
    let (first, others) = (source("red", "0.1"), source("blue", "0.9"));
    let mut all = vec!["-f", "lavfi", "-i", &first, "-f", "lavfi", "-i", &others];
    all.extend(["-f", "lavfi", "-i", "sine=d=1", "-filter_complex"]);
    all.extend(["[0:v][1:v]concat[v]", "-map", "[v]", "-map", "2:a"]);
    all.extend(arguments);
    made(name, &all)
}

const H264: &[&str] = &["-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac"];

fn mp4(width: u32, height: u32) -> Vec<u8> {
    video("a.mp4", width, height, H264)
}

fn voice_of(name: &str, seconds: &str, arguments: &[&str]) -> Vec<u8> {
    let source = format!("sine=f=440:d={seconds}");
    let mut all = vec!["-f", "lavfi", "-i", &source, "-ac", "1"];
    all.extend(arguments);
    made(name, &all)
}

fn amr(seconds: &str) -> Vec<u8> {
    voice_of("a.amr", seconds, &["-ar", "8000", "-b:a", "12.2k"])
}

fn mp3(seconds: &str) -> Vec<u8> {
    voice_of("a.mp3", seconds, &["-ar", "44100", "-b:a", "64k"])
}

/// The only stream of a file, by ffprobe.
fn ffprobe(bytes: &[u8]) -> serde_json::Value {
    let file = Stored::new(&[]);
    fs::write(&file.path, bytes).unwrap();
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "json", "-show_streams"])
        .arg(&file.path)
        .output()
        .unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["streams"].as_array().unwrap().len(), 1, "{found}");
    found["streams"][0].clone()
}

#[track_caller]
fn assert_picture(jpeg: &[u8], width: u32, height: u32) {
    let stream = ffprobe(jpeg);
    assert_eq!(stream["codec_name"], "mjpeg");
    assert_eq!(
        (&stream["width"], &stream["height"]),
        (&width.into(), &height.into())
    );
    let says = |text: &[u8]| jpeg.windows(text.len()).any(|at| at == text);
    assert!(!says(b"Lavc") && !says(b"Exif"), "no metadata");
    let picture = image::load_from_memory(jpeg).unwrap().to_rgb8();
    let [red, green, blue] = picture.get_pixel(width / 2, height / 2).0;
    assert!(
        red > 230 && green < 40 && blue < 40,
        "{red} {green} {blue}: the first frame"
    );
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T>, kind: Kind, text: &str) {
    let error = result.expect_err("refused");
    assert_eq!(
        (error.kind(), error.public_text()),
        (kind, Some(text)),
        "{error}"
    );
}

async fn frame_of(ffmpeg: &Ffmpeg, video: &[u8], kind: Sniffed) -> Result<Vec<u8>> {
    let file = Stored::new(video);
    let input = file.opener();
    ffmpeg
        .first_frame(input, file.len, kind, PIXELS_MAX, claimant())
        .await
}

async fn voice_from(
    ffmpeg: &Ffmpeg,
    voice: &[u8],
    from: Sniffed,
    to: VoiceFormat,
) -> Result<Vec<u8>> {
    let file = Stored::new(voice);
    ffmpeg
        .voice(file.opener(), file.len, from, to, claimant())
        .await
}

#[tokio::test]
async fn first_frame_of_each_video_kind() {
    let ffmpeg = real();
    let faststart = [H264, &["-movflags", "+faststart"]].concat();
    let webm = ["-c:v", "libvpx", "-c:a", "libopus"];
    let h263 = [
        "-c:v",
        "h263",
        "-c:a",
        "libopencore_amrnb",
        "-ar",
        "8000",
        "-ac",
        "1",
    ];
    for (video, kind, size) in [
        (mp4(320, 240), Sniffed::Mp4, (320, 240)),
        (
            video("a.mp4", 320, 240, &faststart),
            Sniffed::Mp4,
            (320, 240),
        ),
        (video("a.mov", 322, 242, H264), Sniffed::Mov, (322, 242)),
        (video("a.webm", 320, 180, &webm), Sniffed::Webm, (320, 180)),
        (
            video("a.3gp", 352, 288, &h263),
            Sniffed::ThreeGp,
            (352, 288),
        ),
    ] {
        assert_eq!(crate::media::sniff::sniff(&video), kind);
        let frame = frame_of(&ffmpeg, &video, kind).await.unwrap();
        assert_picture(&frame, size.0, size.1);
    }
}

#[tokio::test]
async fn fits_and_turns_frames() {
    let ffmpeg = real();
    let wide = mp4(2560, 1440);
    let frame = frame_of(&ffmpeg, &wide, Sniffed::Mp4).await.unwrap();
    assert_picture(&frame, 2048, 1152);

    let frame = frame_of(&ffmpeg, &turned(wide), Sniffed::Mp4)
        .await
        .unwrap();
    assert_picture(&frame, 1152, 2048);
    let frame = frame_of(&ffmpeg, &turned(mp4(320, 240)), Sniffed::Mp4)
        .await
        .unwrap();
    assert_picture(&frame, 240, 320);

    let narrow = [H264, &["-aspect", "8:3"]].concat();
    let narrow = video("a.mp4", 320, 240, &narrow);
    let frame = frame_of(&ffmpeg, &narrow, Sniffed::Mp4).await.unwrap();
    assert_picture(&frame, 640, 240);
}

/// Turns a video by 90° to the right, by the matrix in the header of the first track (ISO/IEC 14496-12 §8.3.2).
fn turned(mut mp4: Vec<u8>) -> Vec<u8> {
    let header = mp4.windows(4).position(|name| name == b"tkhd").unwrap();
    let quarter: [i32; 9] = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x4000_0000];
    for (at, value) in quarter.iter().enumerate() {
        let at = header + 44 + 4 * at;
        mp4[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    mp4
}

#[tokio::test]
async fn rejects_broken_and_large_videos() {
    let ffmpeg = real();
    for kind in [
        Sniffed::Jpeg,
        Sniffed::Mkv,
        Sniffed::Avi,
        Sniffed::Text,
        Sniffed::M4a,
    ] {
        assert_refused(
            frame_of(&ffmpeg, b"x", kind).await,
            Kind::NoThumbnail,
            NO_VIDEO,
        );
    }
    let whole = mp4(320, 240);
    let sound = made("a.mp4", &["-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac"]);
    for broken in [&whole[..whole.len() / 2], &sound, &[0; 4096], b""] {
        let refused = frame_of(&ffmpeg, broken, Sniffed::Mp4).await;
        assert_refused(refused, Kind::NoThumbnail, NO_FRAME);
    }
    let file = Stored::new(&whole);
    for (pixels_max, is_made) in [(320 * 240, true), (320 * 239, false)] {
        let frame = ffmpeg
            .first_frame(
                file.opener(),
                file.len,
                Sniffed::Mp4,
                pixels_max,
                claimant(),
            )
            .await;
        assert_eq!(frame.is_ok(), is_made, "{pixels_max}: {frame:?}");
    }
}

#[tokio::test]
async fn reads_file_without_moving_offset() {
    use std::io::{Seek, SeekFrom};
    let ffmpeg = real();
    let file = Stored::new(&mp4(320, 240));
    let mut ours = file.open();
    ours.seek(SeekFrom::Start(5)).unwrap();
    fs::remove_file(&file.path).unwrap();
    let input = ours.try_clone().unwrap();
    let frame = ffmpeg
        .first_frame(|| Ok(input), file.len, Sniffed::Mp4, PIXELS_MAX, claimant())
        .await;
    assert_picture(&frame.unwrap(), 320, 240);
    assert_eq!(ours.stream_position().unwrap(), 5);
}

#[tokio::test]
async fn voice_keeps_its_duration() {
    let ffmpeg = real();
    let wb = voice_of(
        "a.awb",
        "5",
        &["-ar", "16000", "-c:a", "libvo_amrwbenc", "-f", "amr"],
    );
    for (voice, from) in [(amr("5"), Sniffed::AmrNb), (wb, Sniffed::AmrWb)] {
        assert_eq!(crate::media::sniff::sniff(&voice), from);
        let mp3 = voice_from(&ffmpeg, &voice, from, VoiceFormat::Mp3)
            .await
            .unwrap();
        let stream = ffprobe(&mp3);
        assert_eq!(stream["codec_name"], "mp3");
        assert_eq!(
            (&stream["sample_rate"], &stream["channels"]),
            (&"16000".into(), &1.into())
        );
        assert_eq!(stream["bit_rate"], "32000");
        let seconds: f64 = stream["duration"].as_str().unwrap().parse().unwrap();
        assert!((seconds - 5.0).abs() < 0.2, "{from:?}: {seconds}");
    }
    let cover = made(
        "a.png",
        &["-f", "lavfi", "-i", "color=red:s=64x64", "-frames:v", "1"],
    );
    for voice in [mp3("5"), with_cover(&mp3("5"), &cover)] {
        let amr = voice_from(&ffmpeg, &voice, Sniffed::Mp3, VoiceFormat::Amr)
            .await
            .unwrap();
        let stream = ffprobe(&amr);
        assert_eq!(stream["codec_name"], "amr_nb");
        assert_eq!(
            (&stream["sample_rate"], &stream["channels"]),
            (&"8000".into(), &1.into())
        );
        // Not by ffprobe, which assumes 12.4 kbit/s and computes the duration from the size.
        let ms = amr_duration_ms(&amr).unwrap();
        assert!(ms.abs_diff(5000) < 200, "{ms}");
        assert_eq!(
            (amr.len() as u64 - 6) / 32 * 20,
            ms,
            "frames of 12.2 kbit/s"
        );
    }
}

/// An MP3 with a cover picture, as music files have.
fn with_cover(mp3: &[u8], png: &[u8]) -> Vec<u8> {
    let (sound, cover) = (Stored::new(&[]), Stored::new(&[]));
    fs::write(&sound.path, mp3).unwrap();
    fs::write(&cover.path, png).unwrap();
    let [sound, cover] = [&sound, &cover].map(|file| file.path.to_str().unwrap());
    let maps = ["-map", "0:a", "-map", "1:v", "-c", "copy"];
    let inputs = ["-f", "mp3", "-i", sound, "-f", "png_pipe", "-i", cover];
    made("b.mp3", &[&inputs[..], &maps].concat())
}

#[tokio::test]
async fn converts_only_amr_and_mp3() {
    let ffmpeg = real();
    for (from, to) in [
        (Sniffed::AmrNb, VoiceFormat::Amr),
        (Sniffed::AmrWb, VoiceFormat::Amr),
        (Sniffed::Mp3, VoiceFormat::Mp3),
        (Sniffed::M4a, VoiceFormat::Mp3),
        (Sniffed::Mp4, VoiceFormat::Amr),
    ] {
        let refused = voice_from(&ffmpeg, b"x", from, to).await;
        assert_refused(refused, Kind::NotConvertible, OTHER_VOICE);
    }
    for broken in [&b"ID3\x04\0\0\0\0\0\0"[..], &[0xff; 1000], b""] {
        let refused = voice_from(&ffmpeg, broken, Sniffed::Mp3, VoiceFormat::Amr).await;
        assert_refused(refused, Kind::NotConvertible, NO_VOICE);
    }
}

#[tokio::test]
async fn rejects_long_mp3() {
    let ffmpeg = Ffmpeg::probe(&Config {
        voice_duration_max: Duration::from_millis(2500),
        ..Config::default()
    });
    for (seconds, is_made) in [("2.5", true), ("3.2", false), ("60", false)] {
        let amr = voice_from(&ffmpeg, &mp3(seconds), Sniffed::Mp3, VoiceFormat::Amr).await;
        match is_made {
            true => assert!(amr_duration_ms(&amr.unwrap()).unwrap() >= 2500),
            false => {
                let text = "the voice message is longer than 2.5 s";
                assert_refused(amr, Kind::NotConvertible, text);
            }
        }
    }
}

#[tokio::test]
async fn playlists_open_nothing() {
    let ffmpeg = real();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/a.ts");
    let secret = Stored::new(&mp4(320, 240));
    for target in [&url, "/etc/passwd", secret.path.to_str().unwrap()] {
        for text in [
            format!("#EXTM3U\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"),
            format!("ffconcat version 1.0\nfile '{target}'\n"),
            format!("<?xml version=\"1.0\"?><MPD><BaseURL>{target}</BaseURL></MPD>"),
        ] {
            for kind in [Sniffed::Mp4, Sniffed::Mov, Sniffed::ThreeGp, Sniffed::Webm] {
                let refused = frame_of(&ffmpeg, text.as_bytes(), kind).await;
                assert_refused(refused, Kind::NoThumbnail, NO_FRAME);
            }
            let refused =
                voice_from(&ffmpeg, text.as_bytes(), Sniffed::Mp3, VoiceFormat::Amr).await;
            assert_refused(refused, Kind::NotConvertible, NO_VOICE);
        }
    }
    let nobody = listener.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

/// A QuickTime file with its samples in another file, by an alias record (QuickTime File Format, `dref`).
fn with_external_data(mut mov: Vec<u8>, path: &str) -> Vec<u8> {
    let mut alias = vec![0; 150];
    alias.extend(2_u16.to_be_bytes());
    alias.extend(u16::try_from(path.len()).unwrap().to_be_bytes());
    alias.extend(path.as_bytes());
    alias.resize(alias.len() + path.len() % 2, 0);
    alias.extend([0xff, 0xff, 0, 0]);
    let mut entry = u32::try_from(12 + alias.len())
        .unwrap()
        .to_be_bytes()
        .to_vec();
    entry.extend(b"alis\0\0\0\0");
    entry.extend(alias);
    let mut at = 0;
    let mut end = mov.len();
    let mut parents = Vec::new();
    // The path of boxes to the reference of the first track.
    for name in [&b"moov"[..], b"trak", b"mdia", b"minf", b"dinf", b"dref"] {
        loop {
            assert!(at < end, "{name:?} is there");
            let size = u32::from_be_bytes(mov[at..at + 4].try_into().unwrap()) as usize;
            if &mov[at + 4..at + 8] == name {
                parents.push(at);
                end = at + size;
                at += 8;
                break;
            }
            at += size;
        }
    }
    let old = at + 8..end;
    let grown = entry.len() - old.len();
    mov.splice(old, entry);
    for at in parents {
        let size = u32::from_be_bytes(mov[at..at + 4].try_into().unwrap());
        let size = size + u32::try_from(grown).unwrap();
        mov[at..at + 4].copy_from_slice(&size.to_be_bytes());
    }
    mov
}

#[tokio::test]
async fn videos_cannot_reference_files() {
    let ffmpeg = real();
    let whole = video("a.mov", 320, 240, H264);
    let other = Stored::new(&whole);
    let path = other.path.to_str().unwrap();
    let referring = with_external_data(whole, path);
    // The file is valid: without the restrictions, ffmpeg finds the other file.
    let file = Stored::new(&referring);
    let shown = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-enable_drefs", "1"])
        .args(["-use_absolute_path", "1", "-f", "mov", "-i"])
        .arg(&file.path)
        .args([
            "-map",
            "0:v",
            "-frames:v",
            "1",
            "-f",
            "image2pipe",
            "-c:v",
            "mjpeg",
            "pipe:1",
        ])
        .output()
        .unwrap();
    assert!(shown.stdout.starts_with(b"\xff\xd8\xff"), "{shown:?}");
    let refused = frame_of(&ffmpeg, &referring, Sniffed::Mov).await;
    assert_refused(refused, Kind::NoThumbnail, NO_FRAME);
}

/// A program that claims all encoders and decoders, and executes `body` for a conversion. It reports facts as empty files,
/// since it may not write to files.
struct Fake {
    dir: TempDir,
    config: Config,
}

impl Fake {
    fn new(body: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "#!/bin/sh\n\
             case \"$*\" in\n\
             *-encoders) for name in mjpeg libmp3lame libopencore_amrnb; do echo \" V $name x\"; done; exit;;\n\
             *-decoders) for name in h264 amrnb mp3; do echo \" V $name x\"; done; exit;;\n\
             esac\n\
             cd '{}'\n\
             : > pid.$$\n\
             {body}\n",
            dir.path().display()
        );
        let (source, program) = (dir.path().join("source"), dir.path().join("fake"));
        fs::write(&source, text).unwrap();
        // Copied by another program: a file that is open for writing here, and for a moment in a program that another test
        // starts, cannot be executed.
        let copy = "cp \"$0\" \"$1\" && chmod 755 \"$1\"";
        let copied = Command::new("sh")
            .args(["-c", copy])
            .arg(source)
            .arg(&program)
            .status();
        assert!(copied.unwrap().success());
        let config = Config {
            program,
            timeout: DEADLINE,
            ..Config::default()
        };
        Self { dir, config }
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    fn ffmpeg(&self) -> Ffmpeg {
        let ffmpeg = Ffmpeg::probe(&self.config);
        assert!(ffmpeg.capabilities.frames, "the fake answers");
        ffmpeg
    }

    /// The ids of the processes that it has started, its own included.
    fn pids(&self) -> BTreeSet<u32> {
        fs::read_dir(self.dir.path())
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
            .filter_map(|name| name.strip_prefix("pid.")?.parse().ok())
            .collect()
    }
}

/// Whether the process exists, and is not a zombie that its new parent has not reaped yet.
fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    !stat
        .rsplit(')')
        .next()
        .unwrap()
        .trim_start()
        .starts_with('Z')
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let poll = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, poll).await;
    waited.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"));
}

/// A child of the fake program that inherits its pipes, and would keep them open for 15 minutes.
const FORKS: &str = "sleep 1000 & : > pid.$!";
/// The limits are set after the program has started, the one of open files last.
const UNTIL_LIMITED: &str = "until [ \"$(ulimit -n)\" = 32 ]; do :; done";
/// The start of a JPEG, which is all that is checked.
const JPEG: &str = "printf '\\377\\330\\377'";

async fn fake_frame(ffmpeg: &Ffmpeg) -> Result<Vec<u8>> {
    frame_of(ffmpeg, b"video", Sniffed::Mp4).await
}

#[tokio::test]
async fn kills_hanging_program_with_children() {
    let fake = Fake::new(&format!("{FORKS}; wait")).with(|config| config.timeout = FAKE_TIMEOUT);
    let ffmpeg = fake.ffmpeg();
    let start = Clock::system().monotonic();
    let refused = fake_frame(&ffmpeg).await;
    assert_refused(refused, Kind::NoThumbnail, "ffmpeg took longer than 2 s");
    assert!((FAKE_TIMEOUT..FAKE_TIMEOUT * 4).contains(&start.elapsed()));
    let pids = fake.pids();
    assert_eq!(pids.len(), 2, "it has forked");
    until("both are gone", || !pids.iter().any(|pid| is_alive(*pid))).await;
}

#[tokio::test]
async fn kills_orphaned_child() {
    let fake = Fake::new(&format!("{FORKS}; {JPEG}"));
    let frame = fake_frame(&fake.ffmpeg()).await.unwrap();
    assert_eq!(frame, b"\xff\xd8\xff");
    let pids = fake.pids();
    assert_eq!(pids.len(), 2, "it has forked");
    until("both are gone", || !pids.iter().any(|pid| is_alive(*pid))).await;
}

#[tokio::test]
async fn dropped_future_kills_program() {
    let fake = Fake::new(&format!("{FORKS}; wait")).with(|config| config.processes_max = 1);
    let ffmpeg = fake.ffmpeg();
    for runs in 1..=3 {
        // The next run starts when the place of the last one is free.
        tokio::select! {
            _ = fake_frame(&ffmpeg) => panic!("it hangs"),
            () = until("it has forked", || fake.pids().len() == 2 * runs) => {}
        }
        let pids = fake.pids();
        until("all are gone", || !pids.iter().any(|pid| is_alive(*pid))).await;
    }
}

#[tokio::test]
async fn early_drop_leaves_no_process() {
    let fake = Fake::new(&format!("{FORKS}; wait")).with(|config| config.processes_max = 1);
    let ffmpeg = fake.ffmpeg();
    for delay_us in [0, 50, 100, 200, 400, 800, 1600, 3200] {
        let delay = Duration::from_micros(delay_us);
        assert!(
            tokio::time::timeout(delay, fake_frame(&ffmpeg))
                .await
                .is_err()
        );
    }
    // The only place is free when the process was reaped.
    let place = tokio::time::timeout(DEADLINE, ffmpeg.pool.enter(claimant(), 0)).await;
    let _place = place.unwrap().unwrap();
    let pids = fake.pids();
    until("all are gone", || !pids.iter().any(|pid| is_alive(*pid))).await;
}

#[tokio::test]
async fn refuses_when_queue_is_full() {
    let fake = Fake::new("exec sleep 1000").with(|config| {
        config.processes_max = 1;
        config.queue_max = 1;
    });
    let ffmpeg = fake.ffmpeg();
    let third = async {
        until("the first runs", || fake.pids().len() == 1).await;
        fake_frame(&ffmpeg).await
    };
    let (first, second) = (pin!(fake_frame(&ffmpeg)), pin!(fake_frame(&ffmpeg)));
    tokio::select! {
        biased;
        _ = first => panic!("it hangs"),
        _ = second => panic!("it waits for the first"),
        refused = third => {
            let kind = refused.expect_err("the queue is full").kind();
            assert!(matches!(kind, Kind::Unavailable(_)), "{kind:?}");
        }
    }
    assert_eq!(fake.pids().len(), 1);
}

#[tokio::test]
async fn limits_output() {
    let fake = Fake::new(&format!("{JPEG}; exec cat /dev/zero"));
    let refused = fake_frame(&fake.ffmpeg()).await;
    let text = "ffmpeg wrote more than 16777216 bytes";
    assert_refused(refused, Kind::NoThumbnail, text);
    let pids = fake.pids();
    until("it is gone", || !pids.iter().any(|pid| is_alive(*pid))).await;
}

#[tokio::test]
async fn keeps_start_of_stderr() {
    let fake = Fake::new("exec cat /dev/zero >&2").with(|config| config.timeout = FAKE_TIMEOUT);
    let refused = fake_frame(&fake.ffmpeg()).await;
    assert_refused(refused, Kind::NoThumbnail, "ffmpeg took longer than 2 s");

    let fake = Fake::new(&format!("head -c 10000000 /dev/zero >&2; {JPEG}"));
    fake_frame(&fake.ffmpeg()).await.unwrap();

    let fake =
        Fake::new("echo 'moov\natom' >&2; head -c 10000000 /dev/zero | tr '\\0' x >&2; exit 1");
    let error = fake_frame(&fake.ffmpeg()).await.unwrap_err();
    assert_eq!(error.public_text(), Some(NO_FRAME));
    let causes = error.causes();
    assert!(
        causes.contains("exit status: 1: \"moov\\natom\\nxxx"),
        "escaped: {causes:.100}"
    );
    assert!(causes.len() < 4300, "{}", causes.len());
}

#[tokio::test]
async fn limits_process_resources() {
    let fake = Fake::new("exec tail /dev/zero").with(|config| config.memory_bytes_max = 64 << 20);
    let error = fake_frame(&fake.ffmpeg()).await.unwrap_err();
    assert_eq!(error.public_text(), Some(NO_FRAME));
    assert!(error.causes().contains("memory exhausted"), "{error}");

    // The limit of open files is set last. The shell has not changed its directory before its first `cd`.
    let shown = format!(
        "{UNTIL_LIMITED}; {JPEG}; echo \"started in $OLDPWD.\"; \
         tr '\\0' '\\n' < /proc/$$/environ; cat /proc/self/limits"
    );
    let shown = fake_frame(&Fake::new(&shown).ffmpeg()).await.unwrap();
    let shown = String::from_utf8_lossy(&shown[3..]).into_owned();
    assert!(shown.contains("started in /.\n"), "{shown}");
    for (name, limit) in [
        ("Max address space", "1073741824"),
        ("Max cpu time", "10"),
        ("Max file size", "0"),
        ("Max core file size", "0"),
        ("Max open files", "32"),
    ] {
        let line = shown.lines().find(|line| line.starts_with(name)).unwrap();
        let values: Vec<_> = line[name.len()..].split_whitespace().take(2).collect();
        assert_eq!(values, [limit, limit], "{line}");
    }
    assert!(shown.contains("PATH="), "{shown}");
    assert!(
        std::env::var_os("CARGO_MANIFEST_DIR").is_some(),
        "we have it"
    );
    assert!(!shown.contains("CARGO"), "{shown}");
}

#[tokio::test]
async fn program_cannot_write_files() {
    let fake = Fake::new(&format!("{UNTIL_LIMITED}; {JPEG}; echo x > written"));
    fake_frame(&fake.ffmpeg()).await.unwrap_err();
    assert_eq!(fs::read(fake.dir.path().join("written")).unwrap(), b"");
}

#[tokio::test]
async fn reports_missing_or_failing_program() {
    for (program, why) in [
        ("/nowhere/ffmpeg", MISSING),
        ("no-such-ffmpeg", MISSING),
        ("", OFF),
    ] {
        let ffmpeg = Ffmpeg::probe(&Config {
            program: program.into(),
            ..Config::default()
        });
        assert_eq!(ffmpeg.capabilities, Capabilities::default());
        assert_refused(fake_frame(&ffmpeg).await, Kind::NoThumbnail, why);
        let refused = voice_from(&ffmpeg, b"#!AMR\n", Sniffed::AmrNb, VoiceFormat::Mp3).await;
        assert_refused(refused, Kind::NotConvertible, why);
    }

    let fake = Fake::new("exit 1");
    let ffmpeg = fake.ffmpeg();
    assert_refused(fake_frame(&ffmpeg).await, Kind::NoThumbnail, NO_FRAME);
    let refused = voice_from(&ffmpeg, b"ID3", Sniffed::Mp3, VoiceFormat::Amr).await;
    assert_refused(refused, Kind::NotConvertible, NO_VOICE);

    let fake = Fake::new("kill -SEGV $$");
    let error = fake_frame(&fake.ffmpeg()).await.unwrap_err();
    assert!(error.causes().starts_with("signal: 11"), "{error}");

    let fake = Fake::new("exit 0");
    assert_refused(
        fake_frame(&fake.ffmpeg()).await,
        Kind::NoThumbnail,
        NO_FRAME,
    );

    // The program existed at the start.
    let fake = Fake::new("exit 0");
    let ffmpeg = fake.ffmpeg();
    fs::remove_file(&fake.config.program).unwrap();
    let text = "ffmpeg cannot be started on this server";
    assert_refused(fake_frame(&ffmpeg).await, Kind::NoThumbnail, text);
    let refused = voice_from(&ffmpeg, b"ID3", Sniffed::Mp3, VoiceFormat::Amr).await;
    assert_refused(refused, Kind::NotConvertible, text);
}

#[tokio::test]
async fn names_missing_encoder() {
    let mut ffmpeg = Fake::new("exit 1").ffmpeg();
    ffmpeg.capabilities = Capabilities::default();
    assert_refused(fake_frame(&ffmpeg).await, Kind::NoThumbnail, NO_FRAMES);
    for (from, to, text) in [
        (Sniffed::AmrNb, VoiceFormat::Mp3, NO_MP3),
        (Sniffed::Mp3, VoiceFormat::Amr, NO_AMR),
    ] {
        let refused = voice_from(&ffmpeg, b"x", from, to).await;
        assert_refused(refused, Kind::NotConvertible, text);
    }
}

#[tokio::test]
async fn bad_amr_starts_no_process() {
    let fake = Fake::new("exit 1");
    let ffmpeg = fake.ffmpeg();
    let frames =
        |magic: &[u8], frame: &[u8], seconds: usize| [magic, &frame.repeat(seconds * 50)].concat();
    let (nb, wb) = (b"#!AMR\n", b"#!AMR-WB\n");
    let long = "the voice message is longer than 600 s";
    let wide = [[8 << 3; 1].as_slice(), &[0; 60]].concat();
    for (voice, from, text) in [
        (frames(nb, &[15 << 3], 4 * 3600), Sniffed::AmrNb, long),
        (frames(wb, &[15 << 3], 1801), Sniffed::AmrWb, long),
        (frames(wb, &wide, 3600), Sniffed::AmrWb, long),
        (frames(nb, &[14 << 3], 1), Sniffed::AmrNb, BROKEN_VOICE),
        (
            b"#EXTM3U\n/etc/passwd".to_vec(),
            Sniffed::AmrNb,
            BROKEN_VOICE,
        ),
        (nb.to_vec(), Sniffed::AmrNb, NO_VOICE),
    ] {
        let refused = voice_from(&ffmpeg, &voice, from, VoiceFormat::Mp3).await;
        assert_refused(refused, Kind::NotConvertible, text);
    }
    assert_eq!(fake.pids(), BTreeSet::new());

    let allowed = frames(nb, &[15 << 3], 600);
    let failed = voice_from(&ffmpeg, &allowed, Sniffed::AmrNb, VoiceFormat::Mp3).await;
    assert_refused(failed, Kind::NotConvertible, NO_VOICE);
    assert_eq!(fake.pids().len(), 1, "the fake notes its starts");
}

#[test]
fn finds_program_in_path() {
    let fake = Fake::new("exit 0");
    let dir = fake.dir.path();
    let search = std::env::join_paths([Path::new("/nowhere"), dir]).unwrap();
    for (program, expected) in [
        (PathBuf::from("fake"), Some(dir.join("fake"))),
        // Not executable; a directory; missing.
        (PathBuf::from("source"), None),
        (PathBuf::from("."), None),
        (PathBuf::from("other"), None),
        (dir.join("fake"), Some(dir.join("fake"))),
        (dir.to_owned(), None),
    ] {
        assert_eq!(
            probe::find(&program, Some(&search)),
            expected,
            "{program:?}"
        );
    }
    assert_eq!(probe::find(Path::new("fake"), None), None);
}
