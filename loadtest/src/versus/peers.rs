//! Other servers of plain files: the floor, and dufs and miniserve if they are installed.

use std::{env, net::SocketAddr, path::Path};

use super::{Bench, process::Process};
use crate::Error;

/// A server of a directory.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

/// Starts `loadtest floor`.
pub(crate) fn floor(bench: &Bench, root: &Path, logs: &Path) -> Result<Peer, Error> {
    let address = bench.network.listen()?;
    let (listen, root) = (address.to_string(), root.to_string_lossy());
    let arguments = ["floor", "--listen", &listen, "--root", &root];
    let program = env::current_exe()?;
    let log = logs.join("floor.log");
    let process = Process::spawn(bench, &program, &arguments, true, log)?.wait_for(address)?;
    Ok(Peer {
        name: "floor",
        process,
        address,
    })
}

/// Starts dufs and miniserve if they are in `PATH`.
pub(crate) fn installed(bench: &Bench, root: &Path, logs: &Path) -> Result<Vec<Peer>, Error> {
    let root = root.to_string_lossy();
    let mut peers = Vec::new();
    for name in ["dufs", "miniserve"] {
        let Some(program) = find(name) else {
            bench.say(format_args!("{name} is not in PATH, skipped"));
            continue;
        };
        let address = bench.network.listen()?;
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let arguments: Vec<&str> = match name {
            // An empty format turns the access log off.
            "dufs" => vec!["--bind", &host, "--port", &port, "--log-format", "", &root],
            _ => vec!["--interfaces", &host, "--port", &port, &root],
        };
        let log = logs.join(format!("{name}.log"));
        let process = Process::spawn(bench, &program, &arguments, true, log)?.wait_for(address)?;
        peers.push(Peer {
            name,
            process,
            address,
        });
    }
    Ok(peers)
}

fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}
