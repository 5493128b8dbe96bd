//! Runs nginx with a configuration in its own directory. Needs no root and no installed service.

use std::{fmt::Write as _, fs, net::SocketAddr, path::Path};

use super::{Bench, process::Process};
use crate::Error;

/// One nginx configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    directives: &'static str,
}

/// Ways to send files. The best one depends on the size, so all are measured. `aio threads` is not among them, because
/// it helps only with files that are not in memory.
pub(crate) const DOWNLOADS: [Variant; 4] = [
    Variant {
        name: "nginx sendfile nopush",
        directives: "sendfile on; tcp_nopush on;",
    },
    Variant {
        name: "nginx sendfile",
        directives: "sendfile on; tcp_nopush off;",
    },
    Variant {
        name: "nginx buffers 2 32k",
        directives: "sendfile off; output_buffers 2 32k;",
    },
    Variant {
        name: "nginx buffers 2 512k",
        directives: "sendfile off; output_buffers 2 512k;",
    },
];

/// Ways to receive bodies: a larger buffer needs fewer writes.
pub(crate) const UPLOADS: [Variant; 3] = [
    Variant {
        name: "nginx PUT buffer 16k",
        directives: "client_body_buffer_size 16k;",
    },
    Variant {
        name: "nginx PUT buffer 128k",
        directives: "client_body_buffer_size 128k;",
    },
    Variant {
        name: "nginx PUT buffer 1m",
        directives: "client_body_buffer_size 1m;",
    },
];

/// A running nginx, with one address for each variant.
pub(crate) struct Nginx {
    pub(crate) process: Process,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Nginx {
    /// Serves `root` and accepts `PUT` into it. Its own files are in `prefix`, on the same disk.
    pub(crate) fn start(
        bench: &Bench,
        prefix: &Path,
        root: &Path,
        variants: &[Variant],
    ) -> Result<Self, Error> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        while addresses.len() < variants.len() {
            let address = bench.network.listen()?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let file = prefix.join("nginx.conf");
        fs::write(&file, configuration(prefix, root, variants, &addresses))?;
        let (prefix_text, file) = (prefix.to_string_lossy(), file.to_string_lossy());
        let arguments = ["-p", &prefix_text, "-c", &file, "-e", "stderr"];
        let log = prefix.join("nginx.log");
        let process = Process::spawn(bench, &bench.nginx, &arguments, true, log)?;
        let process = process.wait_for(addresses[0])?;
        Ok(Self { process, addresses })
    }
}

fn configuration(
    prefix: &Path,
    root: &Path,
    variants: &[Variant],
    addresses: &[SocketAddr],
) -> String {
    let prefix = prefix.display();
    // If root starts nginx, its workers run as `nobody`, which cannot read a directory of mode 0700.
    let user = if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let mut text = format!(
        "{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {prefix}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 10000; }}
http {{
    access_log off;
    default_type application/octet-stream;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    open_file_cache max=10000 inactive=60s;
    client_max_body_size 20m;
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
"
    );
    for (variant, address) in variants.iter().zip(addresses) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(
            text,
            "    server {{ listen {address} backlog=4096; root {}; dav_methods PUT; {} }}",
            root.display(),
            variant.directives
        );
    }
    text.push_str("}\n");
    text
}
