//! Uploads of 9 MB through a real server over loopback: form, checksum, file and response, without fsync (`durability =
//! "none"`), which would measure the disk.

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    unused_imports,
    clippy::unwrap_used
)]

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::time::Duration;

use chatfiles::time::Clock;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

use support::{BASE, Form, TestServer};

const FILE_BYTES: usize = 9_000_000;

fn multipart(c: &mut Criterion) {
    let server = TestServer::start();
    let clock = Clock::system();
    let bytes: Vec<u8> = (0..FILE_BYTES)
        .map(|at| (at * 31 + at / 251) as u8)
        .collect();
    let form = Form::new().file("a.bin", "application/octet-stream", &bytes);
    let authorization = format!("Bearer {}", server.token("alice"));
    let content_type = form.content_type();
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", content_type.as_str()),
    ];
    let (path, body) = (format!("{BASE}/chatfiles"), form.bytes());
    let mut connection = server.connect();

    let mut group = c.benchmark_group("multipart");
    group
        .throughput(Throughput::Bytes(body.len() as u64))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(20);
    group.bench_function("upload of 9 MB", |b| {
        b.iter_custom(|times| {
            let mut took = Duration::ZERO;
            for _ in 0..times {
                let started = clock.monotonic();
                let answer = connection.request("POST", &path, &headers, &body);
                took += clock.monotonic() - started;
                assert_eq!(answer.status, 200, "{}", answer.text());
                // Not measured. Without it, the disk fills up.
                std::fs::remove_dir_all(server.store.join("objects/chatfile")).unwrap();
                std::fs::create_dir(server.store.join("objects/chatfile")).unwrap();
            }
            took
        });
    });
    group.finish();
}

criterion_group!(benches, multipart);
criterion_main!(benches);
