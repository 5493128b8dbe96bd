//! Compares small downloads from a store with few objects and from one with many.
//!
//! Two servers over two stores take turns. Each store has the same hot files, uploaded first; one store also has many
//! other files that are never requested. The difference is the cost of their presence.

use bytes::Bytes;

use super::{
    Bench,
    aims::Figure,
    noise,
    ours::Store,
    report::Report,
    rounds::{Contender, Spread, rounds},
};
use crate::Error;

const CONNECTIONS: usize = 64;
/// Number of hot files; the small store has no others.
const HOT: usize = 1000;
const HOT_BYTES: usize = 4096;
const OTHER_BYTES: usize = 512;

/// Measures with `count` objects in the full store.
pub(crate) fn run(bench: &Bench, count: usize, report: &mut Report) -> Result<(), Error> {
    if count <= HOT {
        return Err(format!("--objects must be above {HOT}").into());
    }
    let stores = [Store::new(bench, "none")?, Store::new(bench, "none")?];
    let mut hot = Vec::new();
    for (store, others) in stores.iter().zip([0, count - HOT]) {
        // Not pinned to one core, because filling is not measured.
        let ours = store.serve(bench, false)?;
        hot.push(ours.fill(bench, HOT, 16, |number| {
            let bytes = Bytes::from(noise(number as u64, HOT_BYTES));
            ("application/octet-stream", bytes)
        })?);
        bench.say(format_args!("   {others} other objects"));
        ours.fill(bench, others, 64, |number| {
            let bytes = Bytes::from(noise((HOT + number) as u64, OTHER_BYTES));
            ("application/octet-stream", bytes)
        })?;
    }
    let servers = [stores[0].serve(bench, true)?, stores[1].serve(bench, true)?];
    let mut contenders = Vec::new();
    for ((server, ids), stored) in servers.iter().zip(&hot).zip([HOT, count]) {
        let length = HOT_BYTES as u64;
        let requests = ids.iter().map(|id| server.download(id, length)).collect();
        let name = format!("chatfiles, {stored} objects");
        let (process, address) = (&server.process, server.address);
        contenders.push(Contender::new(
            bench,
            name,
            process,
            address,
            CONNECTIONS,
            requests,
        )?);
    }
    let samples = rounds(bench, &mut contenders)?;
    for (contender, samples) in contenders.iter().zip(&samples) {
        report.measured("objects", count as u64, "4 KB", &contender.name, samples);
    }
    let spread = Spread::ratio(&samples[1], &samples[0], |sample| sample.cpu_us);
    let note = format!("{HOT} hot files of 4 KB, requested in turn");
    let what = format!("{count} ÷ {HOT} objects");
    report.row(Figure::ObjectsManyToFew, count as u64, &what, spread, &note);
    Ok(())
}
