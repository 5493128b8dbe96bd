//! The one place that runs ffmpeg: first frames of videos, and voices in another format.
//!
//! A decoder written in C reads what anybody uploads, so it runs as a process of its own, which is limited in
//! time, memory, output and number, and is killed whole (`process.rs`); `arguments.rs` says how the input is
//! named so that nothing else can be opened. There is no sandbox around it: it has the rights of this
//! process's user.
//!
//! What was made is kept by the caller; nothing is cached here.

mod arguments;
mod probe;
mod process;
#[cfg(test)]
mod tests;

use std::{fs::File, io, os::unix::fs::FileExt, path::PathBuf, time::Duration};

use serde::Deserialize;

use self::{
    arguments::Conversion,
    process::{Failure, Limits},
};
use super::pool::{Pool, RETRY_AFTER};
use crate::{
    error::{Error, Kind, Result},
    fair_queue::{self, Claimant},
    media::{
        sniff::Sniffed,
        voice::{
            AMR_FRAME_BYTES_MAX, AMR_FRAME_MS, AMR_MAGIC_BYTES_MAX, VoiceFormat, amr_duration_ms,
        },
    },
    metrics::PoolLevels,
    settings::{number, seconds},
};

/// Bytes of a picture or a voice that is made. A frame of 2048 × 2048 pixels of noise has 4.3 MB, half an hour
/// of MP3 7.2 MB.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;
/// What an encoder may add to a voice by filling up its frames, in milliseconds.
const PADDING_MS_MAX: u64 = 500;

/// A call waits for its run for a third of the run's own time at the most: by default 5 s and 15 s, since clients
/// wait for 20 s.
const WAIT_SHARE: u32 = 3;
/// A first frame may take this part of a run's time as CPU: by default 5 s. One of 7680 × 4320 pixels takes 0.3 to 0.6 s.
/// So a place is free again before those who wait for it give up.
const FRAME_CPU_SHARE: u64 = 3;

const OFF: &str = "this server has no ffmpeg: covers of videos and voices in other formats need it";
const NO_FRAMES: &str = "this server's ffmpeg can make no pictures of videos";
const NO_FRAME: &str = "the first frame of this video cannot be decoded";
const NO_VIDEO: &str = "a file of this kind has no frame to show: mp4, mov, 3gp and webm have";
const NO_MP3: &str = "this server has no encoder for mp3: install ffmpeg with libmp3lame";
const NO_AMR: &str = "this server has no encoder for amr: install ffmpeg with libavcodec-extra";
const NO_VOICE: &str = "this voice cannot be decoded";
const BROKEN_VOICE: &str = "this voice is not amr from its first byte to its last";
const OTHER_VOICE: &str = "only voices in amr become mp3, and mp3 becomes amr";

/// Which ffmpeg, and what each run of it may take: `[media]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The program: a path, or a name that is looked for in `PATH` at the start. Empty switches covers of
    /// videos and conversions of voices off.
    #[serde(rename = "ffmpeg")]
    pub program: PathBuf,
    /// Wall time of one run, from its start to its end; then it is killed. A frame takes 0.1 to 0.25 s, half an
    /// hour of voice 4 s to MP3 and 9 s to AMR.
    #[serde(rename = "timeout_seconds", deserialize_with = "seconds")]
    pub timeout: Duration,
    /// Bytes of address space that one run may have. A first frame was seen to take 306 MiB at 1080p, 384 MiB
    /// at 4K and 369 MiB at 8K, a voice 265 MiB; 264 MiB of each are the libraries. What is in memory of it is
    /// 55 to 160 MB.
    #[serde(deserialize_with = "number::<{ 256 << 20 }, { 1 << 40 }, _, _>")]
    pub memory_bytes_max: u64,
    /// Runs at once, each with one busy thread.
    #[serde(deserialize_with = "number::<1, 256, _, _>")]
    pub processes_max: usize,
    /// Calls that wait for a run; more are refused with `Unavailable`.
    #[serde(deserialize_with = "number::<1, 100_000, _, _>")]
    pub queue_max: usize,
    /// How long a voice may play that is converted.
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

/// What the ffmpeg that was found can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abilities {
    /// First frames of videos as JPEG.
    pub frames: bool,
    /// Voices as MP3.
    pub to_mp3: bool,
    /// Voices as AMR.
    pub to_amr: bool,
}

/// Runs ffmpeg, so many at once.
pub(super) struct Ffmpeg {
    /// An absolute path; `None` where there is none, or where it is switched off.
    program: Option<PathBuf>,
    abilities: Abilities,
    pool: Pool,
    limits: Limits,
    voice_duration_max: Duration,
}

impl Ffmpeg {
    /// Looks for the program and asks it for its encoders and decoders, for at most ten seconds. What is
    /// missing is told to the log once, and refused at each call. Blocking.
    pub(super) fn probe(config: &Config) -> Self {
        let (program, abilities) = probe::probe(&config.program);
        Self {
            program,
            abilities,
            pool: Pool::new(fair_queue::Config {
                // Memory is bounded for each process instead.
                jobs_max: config.processes_max,
                waiting_max: config.queue_max,
                wait_max: config.timeout / WAIT_SHARE,
                ..fair_queue::Config::default()
            }),
            limits: Limits {
                timeout: config.timeout,
                // One thread cannot use more CPU than wall time; this is for a program that outlives this one.
                cpu_seconds_max: config.timeout.as_secs().saturating_add(1),
                memory_bytes_max: config.memory_bytes_max,
                output_bytes_max: OUTPUT_BYTES_MAX,
            },
            voice_duration_max: config.voice_duration_max,
        }
    }

    /// How busy it is.
    pub(super) fn levels(&self) -> PoolLevels {
        self.pool.levels()
    }

    /// What this ffmpeg can do.
    pub(super) fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// The first frame of a video as JPEG: turned upright, fitted into 2048 × 2048 pixels, never enlarged, of
    /// at most 16 MiB. `input` holds the video in its first `len` bytes; its offset is neither read nor moved.
    ///
    /// # Errors
    /// `NoThumbnail` for a kind that is no video, for a frame of more than `pixels_max` pixels, and for what
    /// ffmpeg cannot decode within its limits; `Unavailable` where too many wait.
    ///
    /// # Cancel safety
    /// Dropping the future kills ffmpeg. Its place is free when it is gone.
    pub(super) async fn first_frame(
        &self,
        input: File,
        len: u64,
        kind: Sniffed,
        pixels_max: u64,
        claimant: Claimant,
    ) -> Result<Vec<u8>> {
        let refuse = |text: &'static str| Error::new(Kind::NoThumbnail).public(text);
        let arguments =
            arguments::first_frame(kind, len, pixels_max).ok_or_else(|| refuse(NO_VIDEO))?;
        let program = self.program.as_ref().ok_or_else(|| refuse(OFF))?;
        if !self.abilities.frames {
            return Err(refuse(NO_FRAMES));
        }
        // To subfile an end of 0 is the end of the file, trailer and all.
        if len == 0 {
            return Err(refuse(NO_FRAME));
        }
        let place = self.pool.enter(claimant, 0).await?;
        let limits = Limits {
            cpu_seconds_max: (self.limits.timeout.as_secs() / FRAME_CPU_SHARE).max(1),
            ..self.limits
        };
        let frame = process::run(program, &arguments, Some(input), limits, place)
            .await
            .map_err(|failure| failed(Kind::NoThumbnail, NO_FRAME, failure))?;
        // A video of no frames ends well, and without output.
        match frame.starts_with(b"\xff\xd8\xff") {
            true => Ok(frame),
            false => Err(refuse(NO_FRAME).source("ffmpeg wrote no JPEG")),
        }
    }

    /// A voice in another format: AMR and AMR-WB as MP3 (16 kHz, mono, 32 kbit/s), MP3 as AMR (narrow-band,
    /// 12.2 kbit/s). `input` holds the voice in its first `len` bytes; its offset is neither read nor moved.
    ///
    /// # Errors
    /// `NotConvertible` for other pairs of formats, for a voice that plays longer than
    /// [`Config::voice_duration_max`], and for what ffmpeg cannot convert within its limits; `Unavailable` where
    /// too many wait; `Internal` where the file cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future kills ffmpeg. Its place is free when it is gone.
    pub(super) async fn voice(
        &self,
        input: File,
        len: u64,
        from: Sniffed,
        to: VoiceFormat,
        claimant: Claimant,
    ) -> Result<Vec<u8>> {
        let refuse = |text: &'static str| Error::new(Kind::NotConvertible).public(text);
        let conversion = Conversion::of(from, to).ok_or_else(|| refuse(OTHER_VOICE))?;
        let program = self.program.as_ref().ok_or_else(|| refuse(OFF))?;
        match to {
            VoiceFormat::Mp3 if !self.abilities.to_mp3 => return Err(refuse(NO_MP3)),
            VoiceFormat::Amr if !self.abilities.to_amr => return Err(refuse(NO_AMR)),
            VoiceFormat::Mp3 | VoiceFormat::Amr => {}
        }
        if len == 0 {
            return Err(refuse(NO_VOICE));
        }
        let place = self.pool.enter(claimant, 0).await?;
        let (input, place, play_ms) = match conversion {
            Conversion::AmrToMp3 => self.admit_amr(input, len, place).await?,
            // A second more than allowed is made, so that what is longer can be told.
            Conversion::Mp3ToAmr => (input, place, self.duration_max_ms() + 1000),
        };
        let arguments = arguments::voice(conversion, len, play_ms);
        let voice = process::run(program, &arguments, Some(input), self.limits, place)
            .await
            .map_err(|failure| failed(Kind::NotConvertible, NO_VOICE, failure))?;
        if to == VoiceFormat::Amr {
            self.check_duration(&voice, PADDING_MS_MAX)?;
        }
        match voice.is_empty() {
            true => Err(refuse(NO_VOICE).source("ffmpeg wrote no voice")),
            false => Ok(voice),
        }
    }

    /// Walks an AMR file before ffmpeg sees it: 10 MB may be two days of silence. `place` goes where the work
    /// goes, and comes back with the file and the milliseconds that it plays.
    async fn admit_amr<P: Send + 'static>(
        &self,
        input: File,
        len: u64,
        place: P,
    ) -> Result<(File, P, u64)> {
        // A file that is longer than so many frames of the longest kind plays too long, or is none. Its first
        // part is enough to tell (for half an hour, 5.5 MB).
        let frames_max = self.duration_max_ms() / AMR_FRAME_MS;
        let bytes_max = AMR_MAGIC_BYTES_MAX + (frames_max + 2) * AMR_FRAME_BYTES_MAX;
        let read = move || {
            let len = usize::try_from(len.min(bytes_max)).map_err(Error::internal)?;
            let mut bytes = vec![0; len];
            input
                .read_exact_at(&mut bytes, 0)
                .map_err(Error::internal)?;
            Ok::<_, Error>((input, place, bytes))
        };
        let read = tokio::task::spawn_blocking(read).await;
        let (input, place, bytes) = read.map_err(Error::internal)??;
        let play_ms = self.check_duration(&bytes, 0)?;
        Ok((input, place, play_ms))
    }

    /// How many milliseconds AMR plays; refused where they are more than the bound and `more_ms`, or none.
    fn check_duration(&self, amr: &[u8], more_ms: u64) -> Result<u64> {
        let refuse = |text: String| Err(Error::new(Kind::NotConvertible).public(text));
        match amr_duration_ms(amr) {
            None => refuse(BROKEN_VOICE.to_owned()),
            Some(0) => refuse(NO_VOICE.to_owned()),
            Some(ms) if ms > self.duration_max_ms() + more_ms => refuse(format!(
                "the voice is longer than {} seconds",
                self.voice_duration_max.as_secs_f64()
            )),
            Some(ms) => Ok(ms),
        }
    }

    /// The bound of a voice in milliseconds, far enough from the end of the type to be reckoned with.
    fn duration_max_ms(&self) -> u64 {
        let ms = u64::try_from(self.voice_duration_max.as_millis()).unwrap_or(u64::MAX);
        ms.min(u64::from(u32::MAX))
    }
}

/// What a client is told of a failed run; `undecodable` where the file is to blame.
fn failed(kind: Kind, undecodable: &'static str, failure: Failure) -> Error {
    let error = Error::new(kind);
    let error = match &failure {
        Failure::Start(cause) if is_lasting(cause) => {
            error.public("ffmpeg cannot be started on this server")
        }
        // The machine has run out of something: not the file's fault, and not for long.
        Failure::Start(_) | Failure::Pipe(_) => {
            tracing::error!(%failure, "ffmpeg could not be run");
            Error::new(Kind::Unavailable(RETRY_AFTER))
        }
        Failure::TimedOut(after) => error.public(format!(
            "ffmpeg took longer than {} seconds",
            after.as_secs_f64()
        )),
        Failure::TooMuchOutput(bytes) => {
            error.public(format!("ffmpeg wrote more than {bytes} bytes"))
        }
        Failure::Failed { .. } => error.public(undecodable),
    };
    error.source(failure)
}

/// The program is gone, or not one that we may start.
fn is_lasting(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
    )
}
