//! Resident memory of chatfiles with 10,000 connections: silent ones, and ones that are idle after a response.

use std::{thread, time::Duration};

use bytes::Bytes;

use super::{
    Bench, aims::Figure, batch::batch, noise, ours::Store, report::Report, rounds::Spread,
    rounds::settings,
};
use crate::{Error, client::Engine};

const CONNECTIONS: usize = 10_000;
const DOWNLOAD_BYTES: usize = 4096;
/// By then, memory that a response used is freed, and no silent connection has timed out.
const SETTLE: Duration = Duration::from_secs(3);

/// Measures both kinds, each with a new server.
pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<(), Error> {
    for figure in [Figure::MemorySilentMb, Figure::MemoryIdleMb] {
        let store = Store::new(bench, "none")?;
        let ours = store.serve(bench, true)?;
        let empty = ours.process.resident_bytes()?;
        // Uploaded first, because the server accepts exactly 10,000 connections.
        let ids = ours.fill(bench, 1, 1, |_| {
            let bytes = Bytes::from(noise(1, DOWNLOAD_BYTES));
            ("application/octet-stream", bytes)
        })?;
        let mut engine = Engine::new(settings(bench, ours.address, CONNECTIONS))?;
        engine.connect_all()?;
        if figure == Figure::MemoryIdleMb {
            let request = ours.download(&ids[0], DOWNLOAD_BYTES as u64);
            // As many requests as connections: each connection sends one before any sends a second.
            let requests = std::iter::repeat_n(request, CONNECTIONS);
            batch(&mut engine, requests, |_| Ok(()))?;
        }
        thread::sleep(SETTLE);
        let open = engine.open_connections();
        let bytes = ours.process.resident_bytes()?;
        // Also checks the server's descriptors: a connection in the backlog costs the server no memory.
        let descriptors = ours.process.descriptors()?;
        if open != CONNECTIONS || descriptors < CONNECTIONS {
            let text = format!(
                "the client has {open} open connections, the server {descriptors} descriptors"
            );
            return Err(text.into());
        }
        let mb = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let note = format!("{:.1} MB without connections", mb(empty));
        report.row(figure, 0, "", Spread::once(mb(bytes)), &note);
    }
    Ok(())
}
