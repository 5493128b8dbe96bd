//! Compares a thumbnail from memory with a download of 4 KB.

use bytes::Bytes;

use super::{
    Bench,
    aims::Figure,
    noise,
    ours::Store,
    photo,
    report::Report,
    rounds::{Contender, Spread, rounds},
};
use crate::Error;

const CONNECTIONS: usize = 64;
/// Number of pictures and of files, requested in turn.
const FILES: usize = 16;
const DOWNLOAD_BYTES: usize = 4096;

pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<(), Error> {
    let store = Store::new(bench, "none")?;
    let ours = store.serve(bench, true)?;
    let picture = photo::jpeg(1600, 1200, 1)?;
    let pictures = ours.fill(bench, FILES, 4, |number| {
        ("image/jpeg", photo::distinct(&picture, number))
    })?;
    let files = ours.fill(bench, FILES, 4, |number| {
        let bytes = noise(number as u64, DOWNLOAD_BYTES);
        ("application/octet-stream", Bytes::from(bytes))
    })?;
    let thumbnails = pictures.iter().map(|id| ours.thumbnail(id)).collect();
    let length = DOWNLOAD_BYTES as u64;
    let downloads = files.iter().map(|id| ours.download(id, length)).collect();
    let contender = |name, requests| {
        Contender::new(
            bench,
            name,
            &ours.process,
            ours.address,
            CONNECTIONS,
            requests,
        )
    };
    // The warm-up makes the thumbnails.
    let mut contenders = [
        contender("chatfiles thumbnail", thumbnails)?,
        contender("chatfiles 4 KB", downloads)?,
    ];
    let samples = rounds(bench, &mut contenders)?;
    for (contender, samples) in contenders.iter().zip(&samples) {
        report.measured("thumbnail", 0, "in memory", &contender.name, samples);
    }
    let spread = Spread::ratio(&samples[0], &samples[1], |sample| sample.cpu_us);
    let note = "of a photo of 1600×1200";
    report.row(Figure::ThumbnailHitToDownload, 0, "", spread, note);
    Ok(())
}
