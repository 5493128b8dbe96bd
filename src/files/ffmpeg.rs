//! Runs ffmpeg, for the first frames of videos and for voice messages in another format.
//!
//! ffmpeg is a decoder in C that reads untrusted uploads, so it runs in processes of its own. Their number, time, memory
//! and output are limited, and they are killed together with their children (`process.rs`). The arguments name the input in
//! such a way that nothing else can be opened (`arguments.rs`). There is no sandbox: ffmpeg has the rights of the server's
//! user.
//!
//! Nothing is cached here; the caller does that.

mod arguments;
mod probe;
mod process;
#[cfg(test)]
mod tests;

use std::{fs::File, io, os::unix::fs::FileExt, path::PathBuf, time::Duration};

use serde::Deserialize;

use self::process::{Failure, Limits};
use super::pool::{Pool, RETRY_AFTER};
use crate::{
    derivative::VoiceFormat,
    error::{Error, Kind, Result},
    fair_queue::{self, Claimant, Permit},
    media::{
        sniff::Sniffed,
        voice::{AMR_FRAME_BYTES_MAX, AMR_FRAME_MS, AMR_MAGIC_BYTES_MAX, amr_duration_ms},
    },
    settings::{number, seconds, size},
    store::blocking,
};

/// The largest output. A frame of 2048 × 2048 pixels of noise has 4.3 MB, half an hour of MP3 7.2 MB.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;
/// The longest silence that an encoder adds to fill its last frame, in milliseconds.
const PADDING_MS_MAX: u64 = 500;

/// A request waits for a free place for at most 1 / 3 of the time-out of a run: by default 5 s and 15 s, since clients wait
/// for 20 s.
const WAIT_SHARE: u32 = 3;
/// A first frame may take 1 / 3 of the time-out of a run as CPU time: by default 5 s. A frame of 7680 × 4320 pixels takes
/// 0.3 to 0.6 s. So a place is free again before the waiting requests give up.
const FRAME_CPU_SHARE: u64 = 3;

/// The program, and the encoder of AMR.
macro_rules! packages {
    () => {
        "the Debian packages ffmpeg and libavcodec-extra"
    };
}

/// What to install if ffmpeg or one of its encoders is missing.
pub const PACKAGES: &str = packages!();
const MISSING: &str = concat!(
    "this server has no ffmpeg, which video covers and voice conversion need: install ",
    packages!()
);
const OFF: &str =
    "video covers and voice conversion are switched off on this server (media.ffmpeg = \"\")";
const BROKEN: &str =
    "the ffmpeg of this server does not run, which video covers and voice conversion need";
const NO_FRAMES: &str = "the ffmpeg of this server cannot make video covers";
const NO_FRAME: &str = "the first frame of this video cannot be decoded";
const NO_VIDEO: &str = "only mp4, mov, 3gp and webm files have a video cover";
const NO_MP3: &str = "this server has no encoder for mp3: install ffmpeg with libmp3lame";
const NO_AMR: &str = "this server has no encoder for amr: install ffmpeg with libavcodec-extra";
const NO_VOICE: &str = "this voice message cannot be decoded";
const BROKEN_VOICE: &str = "this voice message is not a valid amr file";
const OTHER_VOICE: &str = "only amr can be converted to mp3, and mp3 to amr";

/// Settings of `[media]`: the ffmpeg program, and the bounds of each run.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The program: a path, or a name that is looked up in `PATH` at the start. Empty: no video covers and no voice
    /// conversion.
    #[serde(rename = "ffmpeg")]
    pub program: PathBuf,
    /// The longest time of one run, after which it is killed. A frame takes 0.1 to 0.25 s, half an hour of voice 4 s to
    /// MP3 and 9 s to AMR.
    #[serde(rename = "timeout_seconds", deserialize_with = "seconds")]
    pub timeout: Duration,
    /// Bytes of address space of one run. Measured: 306 MiB for a first frame at 1080p, 384 MiB at 4K, 369 MiB at 8K, and
    /// 265 MiB for a voice message; 264 MiB of each are the libraries. Of that, 55 to 160 MB are in memory.
    #[serde(deserialize_with = "size::<{ 256 << 20 }, { 1 << 40 }, _, _>")]
    pub memory_bytes_max: u64,
    /// Concurrent runs, each with one busy thread.
    #[serde(deserialize_with = "number::<1, 256, _, _>")]
    pub processes_max: usize,
    /// Requests that wait for a run. More are refused with `Unavailable`.
    #[serde(deserialize_with = "number::<1, 100_000, _, _>")]
    pub queue_max: usize,
    /// The longest duration of a voice message that is converted.
    #[serde(rename = "voice_seconds_max", deserialize_with = "seconds")]
    pub voice_duration_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            program: "ffmpeg".into(),
            timeout: Duration::from_secs(15),
            memory_bytes_max: 1 << 30,
            processes_max: std::thread::available_parallelism().map_or(1, usize::from),
            queue_max: 64,
            voice_duration_max: Duration::from_secs(10 * 60),
        }
    }
}

/// What the installed ffmpeg can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Makes the first frame of a video as JPEG.
    pub frames: bool,
    /// Converts voice messages to MP3.
    pub to_mp3: bool,
    /// Converts voice messages to AMR.
    pub to_amr: bool,
}

/// Runs ffmpeg, with a limit of concurrent runs.
pub(super) struct Ffmpeg {
    /// An absolute path, or why there is none.
    program: Result<PathBuf, &'static str>,
    pub(super) capabilities: Capabilities,
    pub(super) pool: Pool,
    limits: Limits,
    voice_duration_max: Duration,
}

impl Ffmpeg {
    /// Looks for the program, and asks it for its encoders and decoders, which takes at most 10 s. What is missing is
    /// logged once, and refused at each request. Blocking.
    pub(super) fn probe(config: &Config) -> Self {
        let (program, capabilities) = probe::probe(&config.program);
        Self {
            program,
            capabilities,
            pool: Pool::new(fair_queue::Config {
                // Memory is bounded for each process instead.
                jobs_max: config.processes_max,
                waiting_max: config.queue_max,
                wait_max: config.timeout / WAIT_SHARE,
                ..fair_queue::Config::default()
            }),
            limits: Limits {
                timeout: config.timeout,
                // One thread cannot use more CPU time than wall time. This limit stops a program that outlives the server.
                cpu_seconds_max: config.timeout.as_secs().saturating_add(1),
                memory_bytes_max: config.memory_bytes_max,
                output_bytes_max: OUTPUT_BYTES_MAX,
            },
            voice_duration_max: config.voice_duration_max,
        }
    }

    /// Makes the first frame of a video as JPEG: turned upright, fitted into 2048 × 2048 pixels, never enlarged, at most
    /// 16 MiB. The first `len` bytes of the input are the video. `open` is called when a place is free, and the offset of
    /// its file is neither read nor moved.
    ///
    /// # Errors
    /// `NoThumbnail` for a kind that is not a video, for a frame of more than `pixels_max` pixels, and for a video that
    /// ffmpeg cannot decode within its limits; `Unavailable` where too many requests wait.
    ///
    /// # Cancel safety
    /// Dropping the future kills ffmpeg. The place is free when the process has ended.
    pub(super) async fn first_frame(
        &self,
        open: impl FnOnce() -> Result<File> + Send + 'static,
        len: u64,
        kind: Sniffed,
        pixels_max: u64,
        claimant: Claimant,
    ) -> Result<Vec<u8>> {
        let refuse = |text: &'static str| Error::new(Kind::NoThumbnail).public(text);
        let arguments =
            arguments::first_frame(kind, len, pixels_max).ok_or_else(|| refuse(NO_VIDEO))?;
        let program = self.program.as_ref().map_err(|why| refuse(why))?;
        if !self.capabilities.frames {
            return Err(refuse(NO_FRAMES));
        }
        // For `subfile`, an end of 0 means the end of the file, which includes the trailer.
        if len == 0 {
            return Err(refuse(NO_FRAME));
        }
        let permit = self.pool.enter(claimant, 0).await?;
        let (input, permit) = opened(open, permit).await?;
        let limits = Limits {
            cpu_seconds_max: (self.limits.timeout.as_secs() / FRAME_CPU_SHARE).max(1),
            ..self.limits
        };
        let frame = process::run(program, &arguments, Some(input), limits, permit)
            .await
            .map_err(|failure| failed(Kind::NoThumbnail, NO_FRAME, failure))?;
        // For a video without frames, ffmpeg succeeds without output.
        match frame.starts_with(b"\xff\xd8\xff") {
            true => Ok(frame),
            false => Err(refuse(NO_FRAME).source("ffmpeg wrote no JPEG")),
        }
    }

    /// Converts a voice message: AMR and AMR-WB to MP3 (16 kHz, mono, 32 kbit/s), MP3 to AMR (narrow-band, 12.2 kbit/s).
    /// The first `len` bytes of the input are the message; `open` as in [`Ffmpeg::first_frame`].
    ///
    /// # Errors
    /// `NotConvertible` for other pairs of formats, for a message that is longer than [`Config::voice_duration_max`], and
    /// for one that ffmpeg cannot convert within its limits; `Unavailable` where too many requests wait; `Internal` where
    /// the file cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future kills ffmpeg. The place is free when the process has ended.
    pub(super) async fn voice(
        &self,
        open: impl FnOnce() -> Result<File> + Send + 'static,
        len: u64,
        from: Sniffed,
        to: VoiceFormat,
        claimant: Claimant,
    ) -> Result<Vec<u8>> {
        let refuse = |text: &'static str| Error::new(Kind::NotConvertible).public(text);
        if !from.converts_to(to) {
            return Err(refuse(OTHER_VOICE));
        }
        let program = self.program.as_ref().map_err(|why| refuse(why))?;
        match to {
            VoiceFormat::Mp3 if !self.capabilities.to_mp3 => return Err(refuse(NO_MP3)),
            VoiceFormat::Amr if !self.capabilities.to_amr => return Err(refuse(NO_AMR)),
            VoiceFormat::Mp3 | VoiceFormat::Amr => {}
        }
        if len == 0 {
            return Err(refuse(NO_VOICE));
        }
        let permit = self.pool.enter(claimant, 0).await?;
        let (input, play_ms, permit) = self.open_voice(open, len, to, permit).await?;
        let arguments = arguments::voice(to, len, play_ms);
        let voice = process::run(program, &arguments, Some(input), self.limits, permit)
            .await
            .map_err(|failure| failed(Kind::NotConvertible, NO_VOICE, failure))?;
        if to == VoiceFormat::Amr {
            self.check_duration(&voice, PADDING_MS_MAX)?;
        }
        match voice.is_empty() {
            true => Err(refuse(NO_VOICE).source("ffmpeg wrote no output")),
            false => Ok(voice),
        }
    }

    /// Opens a voice message, and returns how many milliseconds of it are converted.
    ///
    /// The duration of AMR is checked before ffmpeg reads it: 10 MB may be two days of silence.
    async fn open_voice(
        &self,
        open: impl FnOnce() -> Result<File> + Send + 'static,
        len: u64,
        to: VoiceFormat,
        permit: Permit,
    ) -> Result<(File, u64, Permit)> {
        // A file that is longer than this number of the longest frames is too long, or not AMR. Its beginning is enough to
        // decide (5.5 MB for half an hour).
        let frames_max = self.duration_max_ms() / AMR_FRAME_MS;
        let amr_bytes_max = AMR_MAGIC_BYTES_MAX + (frames_max + 2) * AMR_FRAME_BYTES_MAX;
        let open_and_read = move || {
            let input = open()?;
            let mut start = Vec::new();
            if to == VoiceFormat::Mp3 {
                start.resize(
                    usize::try_from(len.min(amr_bytes_max)).map_err(Error::internal)?,
                    0,
                );
                input
                    .read_exact_at(&mut start, 0)
                    .map_err(Error::internal)?;
            }
            Ok((input, start))
        };
        let ((input, start), permit) = opened(open_and_read, permit).await?;
        let play_ms = match to {
            VoiceFormat::Mp3 => self.check_duration(&start, 0)?,
            // One second more than allowed is converted, so that a longer message is recognised.
            VoiceFormat::Amr => self.duration_max_ms() + 1000,
        };
        Ok((input, play_ms, permit))
    }

    /// Returns the duration of AMR in milliseconds. Refused where it is 0, or more than the limit and `tolerance_ms`.
    fn check_duration(&self, amr: &[u8], tolerance_ms: u64) -> Result<u64> {
        let refuse = |text: String| Err(Error::new(Kind::NotConvertible).public(text));
        match amr_duration_ms(amr) {
            None => refuse(BROKEN_VOICE.to_owned()),
            Some(0) => refuse(NO_VOICE.to_owned()),
            Some(ms) if ms > self.duration_max_ms() + tolerance_ms => refuse(format!(
                "the voice message is longer than {} s",
                self.voice_duration_max.as_secs_f64()
            )),
            Some(ms) => Ok(ms),
        }
    }

    /// The longest duration in milliseconds, small enough that sums do not overflow.
    fn duration_max_ms(&self) -> u64 {
        let ms = u64::try_from(self.voice_duration_max.as_millis()).unwrap_or(u64::MAX);
        ms.min(u64::from(u32::MAX))
    }
}

/// Opens the input on a blocking thread. That may copy it into memory, so the thread holds the permit: the number of
/// copies has the same limit as the runs.
async fn opened<T: Send + 'static>(
    open: impl FnOnce() -> Result<T> + Send + 'static,
    permit: Permit,
) -> Result<(T, Permit)> {
    blocking(move || Ok((open()?, permit))).await
}

/// The error for a failed run. `undecodable` is the public text where the file is the cause.
fn failed(kind: Kind, undecodable: &'static str, failure: Failure) -> Error {
    let error = Error::new(kind);
    let error = match &failure {
        Failure::Start(cause) if is_lasting(cause) => {
            error.public("ffmpeg cannot be started on this server")
        }
        // A resource of the machine is exhausted. The file is not the cause, and a retry may succeed.
        Failure::Start(_) | Failure::Pipe(_) => {
            tracing::error!(%failure, "running ffmpeg failed");
            Error::new(Kind::Unavailable(RETRY_AFTER))
        }
        Failure::TimedOut(after) => {
            error.public(format!("ffmpeg took longer than {} s", after.as_secs_f64()))
        }
        Failure::TooMuchOutput(bytes) => {
            error.public(format!("ffmpeg wrote more than {bytes} bytes"))
        }
        Failure::Failed { .. } => error.public(undecodable),
    };
    error.source(failure)
}

/// Whether a retry cannot succeed: the program is missing, or not executable for this user.
fn is_lasting(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
    )
}
