//! A thumbnail that is made, against libvips.
//!
//! Ours: N different photos are uploaded, each one's thumbnail is asked for once, and the server's CPU is divided by
//! N: requests, decoding, and keeping the result included. libvips: the CPU of `vipsthumbnail` over N files less that
//! over a few, so that its start is not counted, divided by the difference. Both on one core, with one thread.

use std::{fs, path::Path, process::Command};

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

/// Width and height, and how many of them; the CPU of all is to be many ticks.
const PHOTOS: [(u32, u32, usize); 2] = [(1600, 1200, 150), (4000, 2250, 40)];
const FEW: usize = 5;
/// As chatfiles makes them unless an upload asks for another size.
const BOX: &str = "170x170";
const VIPS: &str = "vipsthumbnail";

/// Measures both sizes.
pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<(), Error> {
    for (width, height, count) in PHOTOS {
        let count = if bench.is_quick { count / 4 } else { count };
        let what = format!("{width}×{height}");
        bench.say(format_args!("   {what}"));
        let picture = photo::jpeg(width, height, 1)?;
        let directory = bench.fresh_dir()?;
        for number in 0..count {
            let file = directory.path().join(format!("{number}.jpg"));
            fs::write(file, photo::distinct(&picture, number))?;
        }
        let store = Store::new(bench, "none")?;
        let ours = store.serve(bench, true)?;
        let (mut made, mut vips) = (Vec::new(), Vec::new());
        for round in 0..bench.rounds {
            let ids = ours.fill(bench, count, 4, |number| {
                (
                    "image/jpeg",
                    photo::distinct(&picture, round * count + number),
                )
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
        let pixels = u64::from(width) * u64::from(height);
        let note = format!(
            "{} KB, {:.0} µs ÷ {:.0} µs of vipsthumbnail",
            picture.len() >> 10,
            Spread::of(made.iter().copied()).median,
            Spread::of(vips.iter().copied()).median,
        );
        report.row(
            Figure::ThumbnailMissToVips,
            pixels,
            &what,
            Spread::of(ratios),
            &note,
        );
    }
    Ok(())
}

/// CPU seconds of `vipsthumbnail` over the first `count` files.
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
        .args((0..count).map(|number| format!("{number}.jpg")))
        .current_dir(directory)
        .output();
    let done = done.map_err(|error| format!("{VIPS} (of libvips-tools): {error}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(format!("{VIPS}: {said}").into());
    }
    if !directory.join(format!("small-{}.jpg", count - 1)).exists() {
        return Err(format!("{VIPS} made nothing").into());
    }
    Ok((ended_children_cpu()? - before).as_secs_f64())
}
