//! The metric for the expiry of certificates.

use std::{fs, path::Path};

use super::OPERATOR;
use crate::support::{
    TestServer,
    certificates::{Certificate, configuration},
    poll,
};

const ENDS: &str = "chatfiles_certificate_expiry_timestamp_seconds";

fn write(directory: &Path, name: &str, year: i32) -> Certificate {
    Certificate::write_until(directory, name, &[&format!("{name}.test")], year)
}

/// It follows the files after a reload.
#[test]
fn shows_earliest_expiry() {
    let directory = tempfile::tempdir().unwrap();
    let first = write(directory.path(), "first", 2100);
    let second = write(directory.path(), "second", 2090);
    let server = TestServer::with(&configuration(&[&first, &second], OPERATOR));
    let ends = || server.scrape().get(ENDS, &[]);
    // `date -u -d 2090-01-01 +%s`, and so on.
    assert_eq!(ends(), 3_786_912_000);
    // Years before 2050 have another encoding (RFC 5280 §4.1.2.5).
    write(directory.path(), "second", 2040);
    server.reloader().certificates().unwrap();
    assert_eq!(ends(), 2_208_988_800);
    write(directory.path(), "second", 2110);
    server.reloader().certificates().unwrap();
    assert_eq!(ends(), 4_102_444_800);
    // An expired one is shown as well.
    write(directory.path(), "second", 2000);
    server.reloader().certificates().unwrap();
    assert_eq!(ends(), 946_684_800);
    // An invalid one is not loaded.
    fs::write(&second.chain, "").unwrap();
    assert!(server.reloader().certificates().is_err());
    assert_eq!(ends(), 946_684_800);
    // Detected automatically, as after a renewal.
    write(directory.path(), "second", 2095);
    poll("the new expiry is shown", || ends() == 3_944_678_400);
}

#[test]
fn issuer_certificate_counts_too() {
    let directory = tempfile::tempdir().unwrap();
    let own = write(directory.path(), "own", 2100);
    let other = write(directory.path(), "other", 2090);
    let chain = [&own.chain, &other.chain].map(|path| fs::read_to_string(path).unwrap());
    fs::write(&own.chain, chain.concat()).unwrap();
    let server = TestServer::with(&configuration(&[&own], OPERATOR));
    assert_eq!(server.scrape().get(ENDS, &[]), 3_786_912_000);
}

#[test]
fn without_tls_there_is_no_expiry() {
    let server = TestServer::with(OPERATOR);
    let scrape = server.scrape();
    assert!(scrape.families.contains_key(ENDS));
    assert!(!scrape.samples.contains_key(ENDS));
}
