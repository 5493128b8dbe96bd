//! Resident memory of this server with 10,000 connections: that say nothing, and that wait after an answer.

use std::{thread, time::Duration};

use bytes::Bytes;

use super::{
    Bench, aims::Figure, batch::batch, noise, ours::Store, report::Report, rounds::Spread,
    rounds::settings,
};
use crate::{Error, client::Engine};

const CONNECTIONS: usize = 10_000;
const DOWNLOAD_BYTES: usize = 4096;
/// What is freed after an answer is freed by then, and no silent connection is closed yet.
const SETTLE: Duration = Duration::from_secs(3);

/// Measures both, each with a fresh server.
pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<(), Error> {
    for figure in [Figure::MemorySilentMb, Figure::MemoryIdleMb] {
        let store = Store::new(bench, "none")?;
        let ours = store.serve(bench, true)?;
        let empty = ours.process.resident_bytes()?;
        // Filled first: the server takes 10,000 connections, and not one more.
        let ids = ours.fill(bench, 1, 1, |_| {
            let bytes = Bytes::from(noise(1, DOWNLOAD_BYTES));
            ("application/octet-stream", bytes)
        })?;
        let mut engine = Engine::new(settings(bench, ours.address, CONNECTIONS))?;
        engine.connect_all()?;
        if figure == Figure::MemoryIdleMb {
            let request = ours.download(&ids[0], DOWNLOAD_BYTES as u64);
            // As many requests as connections, all of which are asked before the first one is asked again.
            let requests = std::iter::repeat_n(request, CONNECTIONS);
            batch(&mut engine, requests, |_| Ok(()))?;
        }
        thread::sleep(SETTLE);
        let open = engine.open_connections();
        let bytes = ours.process.resident_bytes()?;
        // The server's word counts too: a connection in its backlog costs it nothing.
        let descriptors = ours.process.descriptors()?;
        if open != CONNECTIONS || descriptors < CONNECTIONS {
            let text =
                format!("{open} connections are open, {descriptors} descriptors of the server");
            return Err(text.into());
        }
        let mb = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let note = format!("{:.1} MB without connections", mb(empty));
        report.row(figure, 0, "", Spread::once(mb(bytes)), &note);
    }
    Ok(())
}
