//! Cost of a rate limit check: for a known client, for a refused one, and for one of a million.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::{hint::black_box, net::IpAddr, time::Duration};

use chatfiles::{
    limit::{Config, Limiter, Rate, RateClass},
    time::Clock,
};
use criterion::{Criterion, criterion_group, criterion_main};

const MILLION: u32 = 1_000_000;
const RATE: Rate = Rate {
    per_second: 30,
    burst: 30,
};

fn client(number: u32) -> IpAddr {
    std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

/// A random generator that takes a nanosecond: clients call in random order.
fn next(seed: &mut u32) -> u32 {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *seed
}

fn limiter(c: &mut Criterion) {
    let clock = Clock::system();
    let epoch = clock.monotonic();
    let config = Config {
        addresses_max: 2 * MILLION as usize,
        ..Config::default()
    };
    let limiter = Limiter::new(config, epoch);
    let check = |client, now| limiter.check(0, RateClass::Download, client, RATE, now);
    let mut group = c.benchmark_group("limiter");

    let mut now = epoch;
    group.bench_function("one client, allowed", |b| {
        b.iter(|| {
            now += Duration::from_millis(34);
            check(black_box(client(1)), now)
        });
    });
    group.bench_function("one client, refused", |b| {
        b.iter(|| check(black_box(client(2)), epoch));
    });
    group.bench_function("one client, with the clock read", |b| {
        b.iter(|| check(black_box(client(3)), clock.monotonic()));
    });

    for number in 0..MILLION {
        let _ = check(client(number), epoch);
    }
    assert!(limiter.entries() >= MILLION as usize);
    let (mut seed, mut now) = (1, now);
    group.bench_function("one of 1,000,000 clients, allowed", |b| {
        b.iter(|| {
            now += Duration::from_millis(34);
            check(client(next(&mut seed) % MILLION), now)
        });
    });
    group.bench_function("sweep of 1,000,000 clients, all kept", |b| {
        b.iter(|| limiter.sweep(black_box(epoch)));
    });
    group.finish();
}

criterion_group!(benches, limiter);
criterion_main!(benches);
