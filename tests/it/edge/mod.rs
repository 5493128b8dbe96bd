//! Everything between the internet and HTTP/1: TLS, HTTP/2, proxies, Unix sockets.

mod caches;
mod cdn;
pub mod frames;
mod http2;
mod http2_bounds;
mod http2_sum;
mod node;
mod proxy_protocol;
mod representations;
mod signed_urls;
mod slow_readers;
mod sockets;
mod tls;

use std::process::Command;

/// Runs curl and returns its standard output.
#[track_caller]
fn curl(args: &[&str]) -> Vec<u8> {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "60"])
        .args(args)
        .output()
        .expect("curl is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {args:?}: {said}");
    output.stdout
}
