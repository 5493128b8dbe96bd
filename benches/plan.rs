//! Planning the response to a download: conditions and ranges, without I/O.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::hint::black_box;

use chatfiles::{
    http::{
        conditional::{Forms, Representation},
        plan::plan,
    },
    time::Timestamp,
};
use criterion::{Criterion, criterion_group, criterion_main};
use hyper::{
    HeaderMap, Method,
    header::{HeaderName, HeaderValue},
};

fn plans(c: &mut Criterion) {
    let representation = Representation {
        len: 10 << 20,
        etag: "\"019aa000-0000-7000-8000-000000000000\"",
        last_modified: Timestamp::from_secs(1_795_305_599),
        forms: Forms::Several,
    };
    let mut group = c.benchmark_group("plan");
    for (name, lines) in [
        ("nothing asked", &[][..]),
        ("one range", &[("range", "bytes=1048576-2097151")]),
        (
            "ten ranges",
            &[(
                "range",
                "bytes=0-9,100-109,200-209,300-309,400-409,500-509,600-609,700-709,800-809,-10",
            )],
        ),
        (
            "if-none-match",
            &[("if-none-match", "\"019aa000-0000-7000-8000-000000000000\"")],
        ),
        (
            "if-range and a range",
            &[
                ("if-range", "\"019aa000-0000-7000-8000-000000000000\""),
                ("range", "bytes=0-1"),
            ],
        ),
    ] {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        group.bench_function(name, |b| {
            b.iter(|| {
                plan(
                    &Method::GET,
                    black_box(&headers),
                    black_box(&representation),
                )
            });
        });
    }
    group.finish();
}

criterion_group!(benches, plans);
criterion_main!(benches);
