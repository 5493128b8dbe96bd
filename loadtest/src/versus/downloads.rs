//! Downloads of files that are in the page cache.

use std::{fs, time::Instant};

use bytes::Bytes;

use super::{
    Bench,
    aims::Figure,
    get_head,
    nginx::{self, Nginx},
    noise,
    ours::Store,
    peers,
    report::Report,
    rounds::{Contender, Sample, Spread, rounds},
    size_text,
};
use crate::{
    Error,
    client::{Answer, Request},
};

/// Number of connections: enough to keep each server busy. Fewer for large files, so that their socket buffers stay in
/// the CPU caches. All servers get the same number.
fn connections(size: u64) -> usize {
    match size {
        0..0x10_0000 => 64,
        0x10_0000..0x40_0000 => 16,
        _ => 8,
    }
}

/// Number of files of each size, requested in turn.
fn files(size: u64) -> usize {
    if size < 4 << 20 { 16 } else { 4 }
}

pub(crate) fn run(bench: &Bench, sizes: &[u64], report: &mut Report) -> Result<(), Error> {
    let directory = bench.fresh_dir()?;
    let root = directory.path().join("files");
    fs::create_dir(&root)?;
    for &size in sizes {
        for number in 0..files(size) {
            fs::write(
                root.join(name(size, number)),
                noise(size + number as u64, size as usize),
            )?;
        }
    }
    let store = Store::new(bench, "none")?;
    let ours = store.serve(bench, true)?;
    let nginx = Nginx::start(bench, directory.path(), &root, &nginx::DOWNLOADS)?;
    let mut peers = vec![peers::floor(bench, &root, directory.path())?];
    peers.extend(peers::installed(bench, &root, directory.path())?);
    for &size in sizes {
        bench.say(format_args!("   {}", size_text(size)));
        let ids = ours.fill(bench, files(size), 4, |number| {
            let bytes = noise(size + number as u64, size as usize);
            ("application/octet-stream", Bytes::from(bytes))
        })?;
        let connections = connections(size);
        let own = ids.iter().map(|id| ours.download(id, size)).collect();
        let mut contenders = vec![Contender::new(
            bench,
            "chatfiles",
            &ours.process,
            ours.address,
            connections,
            own,
        )?];
        for (variant, address) in nginx::DOWNLOADS.iter().zip(&nginx.addresses) {
            let requests = plain(&address.to_string(), size);
            contenders.push(Contender::new(
                bench,
                variant.name,
                &nginx.process,
                *address,
                connections,
                requests,
            )?);
        }
        for peer in &peers {
            let requests = plain(&peer.address.to_string(), size);
            contenders.push(Contender::new(
                bench,
                peer.name,
                &peer.process,
                peer.address,
                connections,
                requests,
            )?);
        }
        let samples = rounds(bench, &mut contenders)?;
        let names: Vec<&str> = contenders
            .iter()
            .map(|contender| &contender.name[..])
            .collect();
        tell(size, &names, &samples, report);
    }
    Ok(())
}

fn name(size: u64, number: usize) -> String {
    format!("{size}-{number}.bin")
}

/// Requests for a server of plain files.
fn plain(authority: &str, size: u64) -> Vec<Request> {
    let request = |number| {
        let head = get_head(&format!("/{}", name(size, number)), authority, "");
        let mut request = Request::new(head, Instant::now());
        request.answer = Answer::Discard { length: Some(size) };
        request
    };
    (0..files(size)).map(request).collect()
}

/// Adds the rows of one size to the report. The first server is chatfiles.
fn tell(size: u64, names: &[&str], samples: &[Vec<Sample>], report: &mut Report) {
    let cpu = |sample: &Sample| sample.cpu_us;
    let rate = |sample: &Sample| sample.per_second;
    for (name, samples) in names.iter().zip(samples) {
        report.measured("download", size, &size_text(size), name, samples);
    }
    let ours = &samples[0];
    let nginx = || (0..names.len()).filter(|index| names[*index].starts_with("nginx"));
    let median =
        |index: &usize, of: fn(&Sample) -> f64| Spread::of(samples[*index].iter().map(of)).median;
    let cheapest = nginx().min_by(|a, b| median(a, cpu).total_cmp(&median(b, cpu)));
    let fastest = nginx().max_by(|a, b| median(a, rate).total_cmp(&median(b, rate)));
    let mut row = |figure, other: usize, of| {
        let spread = Spread::ratio(ours, &samples[other], of);
        report.row(figure, size, &size_text(size), spread, names[other]);
    };
    if let (Some(cheapest), Some(fastest)) = (cheapest, fastest) {
        row(Figure::DownloadCpuToNginx, cheapest, cpu);
        row(Figure::DownloadRateToNginx, fastest, rate);
    }
    for (figure, name) in [
        (Figure::DownloadCpuToFloor, "floor"),
        (Figure::DownloadCpuToDufs, "dufs"),
        (Figure::DownloadCpuToMiniserve, "miniserve"),
    ] {
        if let Some(other) = names.iter().position(|has| *has == name) {
            row(figure, other, cpu);
        }
    }
}
