//! Cost of counting a request: in one thread, and in two that count the same route at once.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use chatfiles::{
    metrics::{Answered, Lookup, Lookups, Requests, RouteLabel, Synced, Syncs},
    routes,
    time::Clock,
};
use criterion::{Criterion, criterion_group, criterion_main};
use hyper::Method;

/// The label that a request is counted under.
fn label(method: &Method, path: &str) -> RouteLabel {
    routes::find(method, path).unwrap().label
}

/// A small download: the most frequent request.
fn download(route: RouteLabel, number: u64) -> Answered {
    Answered {
        tenant: Some(0),
        route,
        status: 200,
        // Spread over several buckets, as real durations are.
        took: Duration::from_nanos(5_000 + (number % 64) * 1_000),
        received_bytes: 0,
        sent_bytes: 4096,
        refusal: None,
    }
}

fn upload(route: RouteLabel, number: u64) -> Answered {
    Answered {
        took: Duration::from_micros(200 + number % 4096),
        received_bytes: 100_000,
        sent_bytes: 400,
        ..download(route, number)
    }
}

fn metrics(c: &mut Criterion) {
    let (requests, lookups, clock) = (
        Requests::new(routes::labels()),
        Lookups::default(),
        Clock::system(),
    );
    let to_download = label(&Method::GET, "/org/app/chatfiles/id");
    let to_upload = label(&Method::POST, "/org/app/chatfiles");
    let count = |number: u64| {
        lookups.count(Lookup::Hit);
        requests.record(&download(to_download, number));
    };
    let mut group = c.benchmark_group("metrics");
    let mut measure = |threads: &str| {
        let mut bench = |what: &str, count: &dyn Fn(u64)| {
            group.bench_function(format!("{what}, {threads}"), |b| {
                let mut number = 0;
                b.iter(|| {
                    number += 1;
                    count(black_box(number));
                });
            });
        };
        bench("a download", &|number| {
            requests.record(&download(to_download, number))
        });
        bench("an upload", &|number| {
            requests.record(&upload(to_upload, number))
        });
        bench("a look into a cache", &|_| lookups.count(Lookup::Hit));
        bench("all that a download counts", &count);
    };
    measure("1 thread");
    // The other thread counts from the first sample to the last. A thread keeps its counters as long as it lives, as a
    // server's threads do.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                count(black_box(number));
            }
        });
        measure("2 threads");
        stop.store(true, Ordering::Relaxed);
    });
    let syncs = Syncs::default();
    group.bench_function("a sync, with the clock read twice", |b| {
        b.iter(|| syncs.time(Synced::File, || black_box(())));
    });
    group.bench_function("one reading of the clock", |b| b.iter(|| clock.monotonic()));
    group.finish();
}

criterion_group!(benches, metrics);
criterion_main!(benches);
