//! CPU of new thumbnails, compared with libvips.
//!
//! chatfiles: N photos are uploaded, the thumbnail of each is requested once, and the server's CPU is divided by N.
//! This includes HTTP, decoding, and storing the result. libvips: the CPU of `vipsthumbnail` over N files minus that
//! over a few, so that its start does not count, divided by the difference. Both run on one core with one thread. The
//! aims are for JPEG; other formats are only reported.

use std::{fs, path::Path, process::Command};

use bytes::Bytes;
use image::ImageFormat;

use super::{
    Bench,
    aims::Figure,
    batch::batch,
    ours::Store,
    photo,
    process::ended_children_cpu,
    report::Report,
    rounds::{Spread, settings},
};
use crate::{Error, client::Engine};

/// Format, width, height, and count. Counts are chosen so that the CPU of all is many ticks.
const PHOTOS: [(Kind, u32, u32, usize); 5] = [
    (Kind::Jpeg, 1600, 1200, 150),
    (Kind::Jpeg, 4000, 2250, 40),
    (Kind::Png, 1600, 1200, 40),
    (Kind::Webp, 1600, 1200, 40),
    (Kind::Gif, 800, 600, 100),
];
const FEW: usize = 5;
/// The default size of chatfiles.
const BOX: &str = "170x170";
const VIPS: &str = "vipsthumbnail";

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Jpeg,
    Png,
    /// Lossy, as chat clients send them.
    Webp,
    /// A single frame.
    Gif,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Webp => "WebP",
            Self::Gif => "GIF",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
            Self::Gif => "image/gif",
        }
    }

    fn photo(self, bench: &Bench, width: u32, height: u32) -> Result<Bytes, Error> {
        match self {
            Self::Jpeg => photo::jpeg(width, height, 1),
            Self::Png => photo::file(width, height, 1, ImageFormat::Png),
            Self::Gif => photo::file(width, height, 1, ImageFormat::Gif),
            Self::Webp => lossy_webp(bench, &Self::Png.photo(bench, width, height)?),
        }
    }

    /// Returns a distinct JPEG for each number. Other formats are uploaded unchanged, because each upload has its own
    /// id and thumbnail.
    fn numbered(self, picture: &Bytes, number: usize) -> Bytes {
        match self {
            Self::Jpeg => photo::distinct(picture, number),
            Self::Png | Self::Webp | Self::Gif => picture.clone(),
        }
    }
}

/// Measures all formats. If a picture cannot be made on this machine, it is left out with a note.
pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<(), Error> {
    for (kind, width, height, count) in PHOTOS {
        let count = if bench.is_quick { count / 4 } else { count };
        let mut what = format!("{width}×{height}");
        if kind != Kind::Jpeg {
            what = format!("{what} {}", kind.name());
        }
        bench.say(format_args!("   {what}"));
        match kind.photo(bench, width, height) {
            Ok(picture) => {
                let pixels = u64::from(width) * u64::from(height);
                measure(bench, report, kind, &picture, count, (pixels, &what))?;
            }
            Err(error) => report.note(format!("{what} was not measured: {error}")),
        }
    }
    Ok(())
}

fn measure(
    bench: &Bench,
    report: &mut Report,
    kind: Kind,
    picture: &Bytes,
    count: usize,
    (pixels, what): (u64, &str),
) -> Result<(), Error> {
    let directory = bench.fresh_dir()?;
    for number in 0..count {
        // No file suffix: both programs detect the format from the first bytes.
        let file = directory.path().join(number.to_string());
        fs::write(file, kind.numbered(picture, number))?;
    }
    let store = Store::new(bench, "none")?;
    let ours = store.serve(bench, true)?;
    let (mut made, mut vips) = (Vec::new(), Vec::new());
    for round in 0..bench.rounds {
        let ids = ours.fill(bench, count, 4, |number| {
            let file = kind.numbered(picture, round * count + number);
            (kind.content_type(), file)
        })?;
        let mut engine = Engine::new(settings(bench, ours.address, 4))?;
        let before = ours.process.cpu()?;
        let requests = ids.iter().map(|id| ours.thumbnail(id));
        batch(&mut engine, requests, |_| Ok(()))?;
        let cpu = ours.process.cpu()?.saturating_sub(before);
        made.push(cpu.as_secs_f64() * 1e6 / count as f64);
        let few = thumbnail_all(bench, directory.path(), FEW)?;
        let all = thumbnail_all(bench, directory.path(), count)?;
        vips.push((all - few) * 1e6 / (count - FEW) as f64);
    }
    let ratios = made.iter().zip(&vips).map(|(made, vips)| made / vips);
    let note = format!(
        "{} KB, {:.0} µs ÷ {:.0} µs of vipsthumbnail",
        picture.len() >> 10,
        Spread::of(made.iter().copied()).median,
        Spread::of(vips.iter().copied()).median,
    );
    let figure = match kind {
        Kind::Jpeg => Figure::ThumbnailMissToVips,
        Kind::Png | Kind::Webp | Kind::Gif => Figure::OtherMissToVips,
    };
    report.row(figure, pixels, what, Spread::of(ratios), &note);
    Ok(())
}

/// Made by libvips, because no crate used here encodes lossy WebP.
fn lossy_webp(bench: &Bench, png: &Bytes) -> Result<Bytes, Error> {
    let directory = bench.fresh_dir()?;
    fs::write(directory.path().join("from.png"), png)?;
    let done = Command::new("vips")
        .args(["webpsave", "from.png", "to.webp", "--Q", "80"])
        .current_dir(directory.path())
        .output();
    let done = done.map_err(|error| format!("vips (of libvips-tools): {error}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(format!("vips: {said}").into());
    }
    Ok(fs::read(directory.path().join("to.webp"))?.into())
}

/// CPU seconds of `vipsthumbnail` for the first `count` files.
fn thumbnail_all(bench: &Bench, directory: &Path, count: usize) -> Result<f64, Error> {
    let before = ended_children_cpu()?;
    let done = Command::new("taskset")
        .args(["-c", &bench.server_core.to_string(), VIPS])
        .args([
            "--vips-concurrency=1",
            "--size",
            BOX,
            "--output",
            "small-%s.jpg",
        ])
        .args((0..count).map(|number| number.to_string()))
        .current_dir(directory)
        .output();
    let done = done.map_err(|error| format!("{VIPS} (of libvips-tools): {error}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(format!("{VIPS}: {said}").into());
    }
    if !directory.join(format!("small-{}.jpg", count - 1)).exists() {
        return Err(format!("{VIPS} wrote no thumbnail").into());
    }
    Ok((ended_children_cpu()? - before).as_secs_f64())
}
