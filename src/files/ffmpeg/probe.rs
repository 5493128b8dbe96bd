//! What there is: the program, its encoders and its decoders. Once, at the start; never fails.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Capabilities,
    process::{self, Failure, Limits},
};

/// Of each of the two questions. The first start after a boot reads 200 libraries from the disk.
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(5),
    cpu_seconds_max: 5,
    memory_bytes_max: 1 << 30,
    // The lists have 20 KB.
    output_bytes_max: 1 << 20,
};

/// The program's absolute path, where it answers, and what it can do. Blocking.
pub(super) fn probe(program: &Path) -> (Option<PathBuf>, Capabilities) {
    let nothing = (None, Capabilities::default());
    if program.as_os_str().is_empty() {
        tracing::info!("ffmpeg is switched off: videos have no covers, voices are not converted");
        return nothing;
    }
    let Some(found) = find(program, std::env::var_os("PATH").as_deref()) else {
        tracing::warn!(
            ?program,
            "ffmpeg was not found: videos have no covers, voices are not converted"
        );
        return nothing;
    };
    match ask(&found) {
        Ok((encoders, decoders)) => {
            let capabilities = capabilities(&names(&encoders), &names(&decoders));
            warn_of_what_is_missing(&found, capabilities);
            (Some(found), capabilities)
        }
        Err(error) => {
            tracing::warn!(
                program = ?found, %error,
                "ffmpeg does not say what it can: videos have no covers, voices are not converted"
            );
            nothing
        }
    }
}

/// An absolute path, since the program is started elsewhere and without our environment.
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

/// Both lists. On a thread and a runtime of their own, since a start may or may not be inside of one.
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

/// The names in a list of ffmpeg's: lines of flags, a name, a description.
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
        // Phones record H.264, or what they can record it instead of.
        frames: encoders.contains("mjpeg") && decodes(&["h264"]),
        to_mp3: encoders.contains("libmp3lame") && decodes(&["amrnb", "libopencore_amrnb"]),
        to_amr: encoders.contains("libopencore_amrnb") && decodes(&["mp3float", "mp3"]),
    }
}

fn warn_of_what_is_missing(program: &Path, capabilities: Capabilities) {
    let Capabilities {
        frames,
        to_mp3,
        to_amr,
    } = capabilities;
    for (is_there, what) in [
        (frames, "no covers of videos: it has no mjpeg, or no h264"),
        (
            to_mp3,
            "no voices as mp3: it has no libmp3lame, or no amrnb",
        ),
        (
            to_amr,
            "no voices as amr: it has no libopencore_amrnb (Debian: libavcodec-extra), or no mp3",
        ),
    ] {
        if !is_there {
            tracing::warn!(?program, "ffmpeg makes {what}");
        }
    }
}
