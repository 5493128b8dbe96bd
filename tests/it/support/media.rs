//! Videos and voices made by the real ffmpeg, checks of responses with them, and replacements of ffmpeg: one that
//! counts its starts, and fakes that misbehave.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Output},
    sync::{Barrier, LazyLock},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    Answer,
    lanying::{APP_ID, Client, envelope},
    poll,
};

/// H.264 and AAC, as phones record.
pub const H264: &[&str] = &["-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac"];

/// A video of 320 × 240 in which only the first frame is red.
pub static MP4: LazyLock<Vec<u8>> = LazyLock::new(|| video("a.mp4", (320, 240), H264));
/// Five seconds at 12.2 kbit/s.
pub static AMR: LazyLock<Vec<u8>> =
    LazyLock::new(|| voice("a.amr", "5", &["-ar", "8000", "-b:a", "12.2k"]));
/// Five seconds, wide-band.
pub static AMR_WB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let wide = ["-ar", "16000", "-c:a", "libvo_amrwbenc", "-f", "amr"];
    voice("a.awb", "5", &wide)
});
/// Five seconds, as a recorder encodes it.
pub static MP3: LazyLock<Vec<u8>> =
    LazyLock::new(|| voice("a.mp3", "5", &["-ar", "44100", "-b:a", "64k"]));

/// The output of ffmpeg in a file named `name`.
#[track_caller]
pub fn made(name: &str, arguments: &[&str]) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join(name);
    let mut command = Command::new("ffmpeg");
    command
        .args(["-nostdin", "-v", "error"])
        .args(arguments)
        .arg(&path);
    succeed(&mut command);
    fs::read(path).expect("the output of ffmpeg")
}

/// A video with sound whose first frame is red and whose nine others are blue.
pub fn video(name: &str, (width, height): (u32, u32), arguments: &[&str]) -> Vec<u8> {
    let source =
        |color: &str, seconds: &str| format!("color=c={color}:s={width}x{height}:r=10:d={seconds}");
    let (first, others) = (source("red", "0.1"), source("blue", "0.9"));
    let mut all = vec!["-f", "lavfi", "-i", &first, "-f", "lavfi", "-i", &others];
    all.extend(["-f", "lavfi", "-i", "sine=d=1", "-filter_complex"]);
    all.extend(["[0:v][1:v]concat[v]", "-map", "[v]", "-map", "2:a"]);
    all.extend(arguments);
    made(name, &all)
}

/// A tone of `seconds` seconds.
pub fn voice(name: &str, seconds: &str, arguments: &[&str]) -> Vec<u8> {
    let source = format!("sine=f=440:d={seconds}");
    let mut all = vec!["-f", "lavfi", "-i", &source, "-ac", "1"];
    all.extend(arguments);
    made(name, &all)
}

/// Turns a video a quarter to the right, with the matrix in the first track's header (ISO/IEC 14496-12 §8.3.2).
pub fn turned(mut mp4: Vec<u8>) -> Vec<u8> {
    let header = mp4.windows(4).position(|name| name == b"tkhd");
    let matrix = header.expect("a track") + 44;
    let quarter: [i32; 9] = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x4000_0000];
    for (at, value) in quarter.iter().enumerate() {
        let at = matrix + 4 * at;
        mp4[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    mp4
}

/// The only stream of a file, according to ffprobe.
#[track_caller]
pub fn probed(bytes: &[u8]) -> Value {
    let output = with_file(bytes, "ffprobe", &["-of", "json", "-show_streams"], &[]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        found["streams"].as_array().map(Vec::len),
        Some(1),
        "{found}"
    );
    found["streams"][0].clone()
}

/// The duration of a voice, counted in decoded samples, because ffprobe guesses that of an AMR from its size.
#[track_caller]
pub fn played_ms(bytes: &[u8]) -> u64 {
    let samples = ["-ac", "1", "-ar", "8000", "-f", "s16le", "pipe:1"];
    let output = with_file(bytes, "ffmpeg", &["-nostdin", "-i"], &samples);
    output.stdout.len() as u64 / 16
}

/// Checks that the picture shows the red first frame completely; returns its size.
#[track_caller]
pub fn assert_first_frame(answer: &Answer, about: &str) -> (u32, u32) {
    assert_eq!(answer.status, 200, "{about}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("image/jpeg"), "{about}");
    let picture = image::load_from_memory(&answer.body).unwrap_or_else(|error| {
        panic!("{about}: {error}: {}", answer.text());
    });
    let picture = picture.to_rgb8();
    let (width, height) = picture.dimensions();
    for (x, y) in [
        (width / 2, height / 2),
        (0, 0),
        (width - 1, 0),
        (0, height - 1),
    ] {
        let [red, green, blue] = picture.get_pixel(x, y).0;
        assert!(
            red > 225 && green < 45 && blue < 45,
            "{about}: {red} {green} {blue} at {x}, {y}"
        );
    }
    (width, height)
}

fn with_file(bytes: &[u8], program: &str, before: &[&str], behind: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("file");
    fs::write(&path, bytes).expect("a file");
    let mut command = Command::new(program);
    command
        .args(["-v", "error"])
        .args(before)
        .arg(path)
        .args(behind);
    succeed(&mut command)
}

#[track_caller]
fn succeed(command: &mut Command) -> Output {
    let output = command
        .output()
        .expect("ffmpeg and ffprobe are installed, with libavcodec-extra");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {log}");
    output
}

/// Checks that the derivative at `url` follows the rules for files.
#[track_caller]
pub fn assert_served_as_a_file(client: &Client<'_>, url: &str, more: &str) {
    let path = &url[url.find("/file/").expect("a URL of this API")..];
    let path = format!("{path}{more}");
    let ask = |method: &str, header: (&str, &str)| {
        let headers = [
            ("access-token", client.token.as_str()),
            ("app_id", APP_ID),
            header,
        ];
        client.server.request(method, &path, &headers, b"")
    };
    let none = ("x-nothing", "");
    let whole = ask("GET", none);
    assert_eq!(whole.status, 200, "{more}: {}", whole.text());
    let len = whole.body.len();
    let etag = whole.header("etag").expect("an entity tag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    let original = client.open(url, "");
    assert_ne!(Some(etag.as_str()), original.header("etag"));
    for (name, value) in [
        ("accept-ranges", "bytes"),
        ("content-disposition", "inline"),
        ("vary", "access-token, app_id, user_id"),
        ("x-content-type-options", "nosniff"),
        ("content-length", &len.to_string()),
    ] {
        assert_eq!(whole.header(name), Some(value), "{name}");
    }
    let same = ["etag", "content-type", "cache-control", "last-modified"];
    let end = len - 5;
    let (from_end, in_middle) = (
        format!("bytes {end}-{}/{len}", len - 1),
        format!("bytes 3-9/{len}"),
    );
    // (method, header, status, part of the body, Content-Range)
    let table = [
        ("GET", none, 200, 0..len, None),
        ("GET", ("Range", "bytes=3-9"), 206, 3..10, Some(&in_middle)),
        ("GET", ("Range", "bytes=-5"), 206, end..len, Some(&from_end)),
        ("HEAD", none, 200, 0..0, None),
        ("GET", ("If-None-Match", &etag), 304, 0..0, None),
        ("GET", ("If-None-Match", "\"x\""), 200, 0..len, None),
        ("GET", ("If-Match", &etag), 200, 0..len, None),
    ];
    for (method, header, status, part, range) in table {
        let answer = ask(method, header);
        assert_eq!(answer.status, status, "{method} {header:?}");
        assert!(answer.body == whole.body[part], "{method} {header:?}");
        let found = answer.header("content-range");
        assert_eq!(found, range.map(String::as_str), "{header:?}");
        for name in same {
            if status != 304 || name != "content-type" {
                assert_eq!(answer.header(name), whole.header(name), "{name}");
            }
        }
    }
    let length = ask("HEAD", none)
        .header("content-length")
        .map(str::to_owned);
    assert_eq!(length, Some(len.to_string()));
    for (header, status) in [
        (("Range", format!("bytes={len}-")), 416),
        (("If-Match", "\"x\"".to_owned()), 412),
    ] {
        let refused = ask("GET", (header.0, &header.1));
        let json = envelope(&refused, status);
        assert_eq!(json["code"], status, "{header:?}");
    }
}

/// Lets `clients` clients make a request at the same time.
pub fn crowd(clients: usize, ask: impl Fn() -> Answer + Sync) -> Vec<Answer> {
    let barrier = Barrier::new(clients);
    std::thread::scope(|scope| {
        let ask = || {
            barrier.wait();
            ask()
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(ask)).collect();
        let answers = threads.into_iter().map(|thread| thread.join());
        answers
            .map(|answer| answer.expect("a client that succeeds"))
            .collect()
    })
}

/// A program in place of ffmpeg. It records each start, except the server's checks of its capabilities, as an empty
/// file, because programs that the server starts may not write any bytes.
pub struct Program {
    directory: TempDir,
}

/// Matches the arguments of the server's checks of ffmpeg's capabilities.
const AS_IT_IS: &str = "*-encoders|*-decoders) exec ffmpeg \"$@\";;";
const EVERYTHING: &str = "\
*-encoders) for name in mjpeg libmp3lame libopencore_amrnb; do echo \" V $name x\"; done; exit;;
*-decoders) for name in h264 amrnb mp3; do echo \" V $name x\"; done; exit;;";
const WORK: &str = "exec ffmpeg \"$@\"";

impl Program {
    /// Runs the real ffmpeg.
    pub fn real() -> Self {
        Self::new(AS_IT_IS, WORK)
    }

    /// Runs the real ffmpeg once [`Program::release`] is called.
    pub fn held() -> Self {
        let wait = "until [ -e released ]; do sleep 0.01; done";
        Self::new(AS_IT_IS, &format!("{wait}\n{WORK}"))
    }

    /// Runs the real ffmpeg, but hides an encoder.
    pub fn without(encoder: &str) -> Self {
        let lists = format!("*-encoders) ffmpeg \"$@\" | grep -v {encoder}; exit;;\n{AS_IT_IS}");
        Self::new(&lists, WORK)
    }

    /// Claims all capabilities, and then runs a shell script. [`FORK`] records the processes it starts.
    pub fn fake(body: &str) -> Self {
        Self::new(EVERYTHING, body)
    }

    fn new(lists: &str, body: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let text = format!(
            "#!/bin/sh\n\
             case \"$*\" in\n{lists}\nesac\n\
             for argument in \"$@\"; do\n\
             case $argument in subfile,*) input=${{argument%%:*}};; esac\n\
             done\n\
             cd '{}'\n\
             : > \"start.$$.$input\"\n\
             {body}\n",
            directory.path().display()
        );
        let source = directory.path().join("source");
        fs::write(&source, text).expect("a script");
        // Copied by another program: a file open for writing in this process, and so for a moment in a child started by
        // another test, cannot be executed.
        let copy = "cp \"$0\" \"$1\" && chmod 755 \"$1\"";
        let program = directory.path().join("ffmpeg");
        let copied = Command::new("sh")
            .args(["-c", copy])
            .arg(source)
            .arg(program)
            .status();
        assert!(copied.expect("a shell").success());
        Self { directory }
    }

    /// The section `[media]` with this program and further settings.
    pub fn toml(&self, more: &str) -> String {
        let program = self.directory.path().join("ffmpeg");
        format!("[media]\nffmpeg = {:?}\n{more}\n", program.display())
    }

    /// Lets the runs of [`Program::held`] continue.
    pub fn release(&self) {
        fs::write(self.directory.path().join("released"), "").expect("a file");
    }

    /// Number of starts.
    pub fn starts(&self) -> usize {
        self.inputs().len()
    }

    /// The inputs: the part of a file, not the file.
    pub fn inputs(&self) -> Vec<String> {
        let noted = self.noted("start.");
        let inputs = noted.iter().filter_map(|note| note.split_once('.'));
        inputs.map(|(_, input)| input.to_owned()).collect()
    }

    /// The processes that were started, directly or indirectly.
    pub fn pids(&self) -> BTreeSet<u32> {
        let mut notes = self.noted("start.");
        notes.extend(self.noted("child."));
        let pids = notes
            .iter()
            .filter_map(|note| note.split('.').next()?.parse().ok());
        pids.collect()
    }

    #[track_caller]
    pub fn await_starts(&self, starts: usize) {
        poll("it is started", || self.starts() >= starts);
    }

    /// Fails the test if a started process is still running.
    #[track_caller]
    pub fn await_end(&self) {
        poll("all its processes have ended", || {
            !self.pids().into_iter().any(is_alive)
        });
    }

    fn noted(&self, prefix: &str) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).expect("the directory");
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| Some(name.strip_prefix(prefix)?.to_owned()))
            .collect()
    }
}

/// For [`Program::fake`]: a child that holds the pipes for a quarter of an hour.
pub const FORK: &str = "sleep 1000 & : > child.$!";
/// For [`Program::fake`]: the part of a picture that the server examines.
pub const JPEG: &str = "printf '\\377\\330\\377'";

/// Whether the process exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

/// Scripts that refer to `target`, in the languages that ffmpeg knows.
pub fn playlists(target: &str) -> [String; 3] {
    [
        format!("#EXTM3U\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"),
        format!("ffconcat version 1.0\nfile '{target}'\n"),
        format!("<?xml version=\"1.0\"?><MPD><BaseURL>{target}</BaseURL></MPD>"),
    ]
}
