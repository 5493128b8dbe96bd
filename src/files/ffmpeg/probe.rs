//! Finds ffmpeg, and asks it for its encoders and decoders, once at the start. A missing program is logged, and is not an
//! error.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    BROKEN, Capabilities, MISSING, OFF, PACKAGES,
    process::{self, Failure, Limits},
};

/// The limits of each of the two runs. The first one after a boot reads 200 libraries from the disk.
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(5),
    cpu_seconds_max: 5,
    memory_bytes_max: 1 << 30,
    // Each list has about 20 KB.
    output_bytes_max: 1 << 20,
};

/// Returns the absolute path of the program, or why it cannot be used, and what it can do. Blocking.
pub(super) fn probe(program: &Path) -> (Result<PathBuf, &'static str>, Capabilities) {
    let nothing = |why| (Err(why), Capabilities::default());
    if program.as_os_str().is_empty() {
        tracing::info!(
            "ffmpeg is switched off (media.ffmpeg is empty): no video covers, no voice conversion"
        );
        return nothing(OFF);
    }
    let Some(found) = find(program, std::env::var_os("PATH").as_deref()) else {
        tracing::warn!(
            ?program,
            "ffmpeg was not found: no video covers, no voice conversion; install {PACKAGES}, or set media.ffmpeg to its path"
        );
        return nothing(MISSING);
    };
    match ask(&found) {
        Ok((encoders, decoders)) => {
            let capabilities = capabilities(&names(&encoders), &names(&decoders));
            warn_of_missing(&found, capabilities);
            (Ok(found), capabilities)
        }
        Err(error) => {
            tracing::warn!(
                program = ?found, %error,
                "ffmpeg could not list its encoders and decoders: no video covers, no voice conversion"
            );
            nothing(BROKEN)
        }
    }
}

/// Finds the program. The path is absolute, since the program runs in another directory and without our environment.
pub(super) fn find(program: &Path, search: Option<&OsStr>) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        let metadata = fs::metadata(path);
        metadata
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    let candidates: Vec<PathBuf> = match program.components().count() {
        1 if program.is_relative() => std::env::split_paths(search?)
            .map(|dir| dir.join(program))
            .collect(),
        _ => vec![program.to_owned()],
    };
    candidates
        .into_iter()
        .filter_map(|path| std::path::absolute(path).ok())
        .find(is_program)
}

/// Returns the lists of encoders and decoders. Runs on a thread and a runtime of its own, since the caller may or may not be
/// in a runtime.
fn ask(program: &Path) -> Result<(String, String), Failure> {
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::Start)?;
        runtime.block_on(async {
            let encoders = list(program, "-encoders").await?;
            Ok((encoders, list(program, "-decoders").await?))
        })
    };
    let asked = std::thread::scope(|scope| scope.spawn(ask).join());
    asked.unwrap_or_else(|_| Err(Failure::Start(io::Error::other("the question panicked"))))
}

async fn list(program: &Path, what: &str) -> Result<String, Failure> {
    let arguments = ["-hide_banner".to_owned(), what.to_owned()];
    let output = process::run(program, &arguments, None, LIMITS, ()).await?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// Returns the names in a list of ffmpeg, whose lines have flags, a name and a description.
///
/// ```text
///  V....D libx264              libx264 H.264 / AVC / MPEG-4 AVC / MPEG-4 part 10 (codec h264)
/// ```
fn names(list: &str) -> BTreeSet<&str> {
    list.lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect()
}

fn capabilities(encoders: &BTreeSet<&str>, decoders: &BTreeSet<&str>) -> Capabilities {
    let decodes = |names: &[&str]| names.iter().any(|name| decoders.contains(name));
    Capabilities {
        // Phones record H.264 at least as an alternative.
        frames: encoders.contains("mjpeg") && decodes(&["h264"]),
        to_mp3: encoders.contains("libmp3lame") && decodes(&["amrnb", "libopencore_amrnb"]),
        to_amr: encoders.contains("libopencore_amrnb") && decodes(&["mp3float", "mp3"]),
    }
}

fn warn_of_missing(program: &Path, capabilities: Capabilities) {
    let Capabilities {
        frames,
        to_mp3,
        to_amr,
    } = capabilities;
    for (is_there, what) in [
        (
            frames,
            "video covers: it lacks the encoder mjpeg or the decoder h264",
        ),
        (
            to_mp3,
            "voice conversion to mp3: it lacks the encoder libmp3lame (Debian: ffmpeg) or the decoder amrnb",
        ),
        (
            to_amr,
            "voice conversion to amr: it lacks the encoder libopencore_amrnb (Debian: libavcodec-extra) or the decoder mp3",
        ),
    ] {
        if !is_there {
            tracing::warn!(?program, "ffmpeg cannot be used for {what}");
        }
    }
}
