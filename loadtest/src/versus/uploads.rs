//! Uploads to chatfiles, with and without sync, compared with nginx's `dav PUT`, which never syncs.
//!
//! Each turn has a new server over a new directory. The directory is emptied and synced afterwards, so that the disk
//! does not fill and no server's data is written during the turn of another one. No name is used twice, because a `PUT`
//! that replaces a file would also have to free the old one.

use std::{fs, time::Instant};

use bytes::Bytes;

use super::{
    Bench,
    aims::Figure,
    nginx::{self, Nginx, Variant},
    noise,
    ours::Store,
    report::Report,
    rounds::{Sample, Spread, settings, turn},
    size_text,
};
use crate::{
    Error,
    client::{Engine, Request},
};

/// Number of connections, except when sync is compared with no sync.
const CONNECTIONS: usize = 16;
const CONNECTIONS_MANY: usize = 64;

/// A participant of a turn.
#[derive(Clone, Copy)]
enum Turn {
    Ours {
        durability: &'static str,
        connections: usize,
    },
    Nginx(Variant),
}

impl Turn {
    fn all() -> Vec<Self> {
        let ours = |durability, connections| Self::Ours {
            durability,
            connections,
        };
        let mut all = vec![
            ours("none", CONNECTIONS),
            ours("full", CONNECTIONS),
            ours("none", CONNECTIONS_MANY),
            ours("full", CONNECTIONS_MANY),
        ];
        all.extend(nginx::UPLOADS.map(Self::Nginx));
        all
    }

    fn name(self) -> String {
        match self {
            Self::Ours {
                durability,
                connections: CONNECTIONS,
            } => format!("chatfiles {durability}"),
            Self::Ours {
                durability,
                connections,
            } => format!("chatfiles {durability}, {connections} connections"),
            Self::Nginx(variant) => variant.name.to_owned(),
        }
    }

    fn take(self, bench: &Bench, file: &Bytes) -> Result<Sample, Error> {
        match self {
            Self::Ours {
                durability,
                connections,
            } => {
                let store = Store::new(bench, durability)?;
                let server = store.serve(bench, true)?;
                let mut engine = Engine::new(settings(bench, server.address, connections))?;
                let request = server.upload("file.bin", "application/octet-stream", file.clone());
                turn(bench, &server.process, &mut engine, |_| request.clone())
            }
            Self::Nginx(variant) => {
                let directory = bench.fresh_dir()?;
                let root = directory.path().join("files");
                fs::create_dir(&root)?;
                let nginx = Nginx::start(bench, directory.path(), &root, &[variant])?;
                let address = nginx.addresses[0];
                let mut engine = Engine::new(settings(bench, address, CONNECTIONS))?;
                turn(bench, &nginx.process, &mut engine, |number| {
                    let head = format!(
                        "PUT /{number} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n",
                        file.len()
                    );
                    let mut request = Request::new(head, Instant::now());
                    request.body = vec![file.clone()];
                    request
                })
            }
        }
    }
}

pub(crate) fn run(bench: &Bench, sizes: &[u64], report: &mut Report) -> Result<(), Error> {
    for &size in sizes {
        bench.say(format_args!("   {}", size_text(size)));
        let file = Bytes::from(noise(size, size as usize));
        let turns = Turn::all();
        let mut samples = vec![Vec::new(); turns.len()];
        for _ in 0..bench.rounds {
            for (turn, samples) in turns.iter().zip(&mut samples) {
                samples.push(turn.take(bench, &file)?);
                // Remaining writes reach the disk before the next turn starts.
                let directory = fs::File::open(bench.dir.path())?;
                rustix::fs::syncfs(&directory)?;
            }
        }
        tell(size, &turns, &samples, report);
    }
    Ok(())
}

fn tell(size: u64, turns: &[Turn], samples: &[Vec<Sample>], report: &mut Report) {
    let cpu = |sample: &Sample| sample.cpu_us;
    let what = size_text(size);
    for (turn, samples) in turns.iter().zip(samples) {
        report.measured("upload", size, &what, &turn.name(), samples);
    }
    let [none, full, none_many, full_many, nginx @ ..] = samples else {
        return;
    };
    let median = |samples: &[Sample]| Spread::of(samples.iter().map(cpu)).median;
    let cheapest =
        (0..nginx.len()).min_by(|a, b| median(&nginx[*a]).total_cmp(&median(&nginx[*b])));
    if let Some(cheapest) = cheapest {
        let name = nginx::UPLOADS[cheapest].name;
        for (figure, ours) in [
            (Figure::UploadCpuToNginx, none),
            (Figure::UploadFullCpuToNginx, full),
        ] {
            report.row(
                figure,
                size,
                &what,
                Spread::ratio(ours, &nginx[cheapest], cpu),
                name,
            );
        }
    }
    let rate = Spread::ratio(full_many, none_many, |sample| sample.per_second);
    report.row(Figure::UploadFullRateToNone, size, &what, rate, "");
}
