//! Counters of many threads, buckets, labels, and the rendered text.

use std::time::Duration;

use super::{cells::Sharded, durations::BOUNDS, *};

fn levels() -> Levels {
    let pool = PoolLevels {
        waiting: 1,
        busy: 2,
        places: 3,
        refused_full: 13,
        refused_late: 14,
    };
    Levels {
        tenants: vec![TenantName {
            index: 0,
            name: "org/app".to_owned(),
        }],
        files: FileLevels {
            open_objects: 4,
            parts: PartLevels {
                uploads: 14,
                uploads_max: 15,
                bytes: 16,
                replaced: 17,
                refusals: [18, 19, 20, 21],
            },
            derived_bytes: 5,
            pictures: pool.clone(),
            ffmpeg: pool,
        },
        limiter_addresses: 6,
        uploads: UploadLevels {
            in_flight_bytes: 10,
            in_flight_bytes_max: 11,
            refusals: 12,
            tenant_refusals: 13,
            client_refusals: 14,
        },
        client_memory: vec![MemoryLevels {
            of: "http2_requests",
            held_bytes: 15,
            held_bytes_max: 16,
            refusals: 17,
        }],
        disk_free_bytes: Some(7),
        store: StoreLevels {
            is_readable: true,
            is_writable: false,
            write_errors: 3,
        },
        disk_free_min_bytes: 8,
        disk_reserved_bytes: 13,
        certificates_end_secs: Some(10),
        stale_key_files: 22,
        log_lines_dropped: 9,
    }
}

fn metrics() -> Metrics {
    Metrics {
        requests: Arc::new(Requests::new(["none", "health"])),
        connections: Arc::default(),
        open_objects: Arc::default(),
        derivatives: Arc::default(),
        syncs: Arc::default(),
        logins: Arc::default(),
        introspections: Arc::default(),
    }
}

const HEALTH: RouteLabel = RouteLabel {
    index: 1,
    name: "health",
};

fn answered(route: RouteLabel, status: u16, took: Duration) -> Answered {
    Answered {
        tenant: Some(0),
        route,
        status,
        took,
        received_bytes: 10,
        sent_bytes: 100,
        refusal: None,
    }
}

/// The sample lines of a family.
fn lines<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let is_of = |line: &&str| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
    };
    text.lines().filter(is_of).collect()
}

#[test]
fn sums_counts_of_all_threads() {
    const THREADS: u64 = 40;
    const EACH: u64 = 1000;
    let metrics = metrics();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    let took = Duration::from_micros(30);
                    metrics.requests.record(&answered(HEALTH, 507, took));
                    metrics.open_objects.count(Lookup::Miss);
                    metrics.derivatives.add(Derived::Amr, Source::FailedBefore);
                }
            });
        }
    });
    let text = metrics.render(levels());
    let all = THREADS * EACH;
    for (name, labels, number) in [
        (
            "chatfiles_http_requests_total",
            "{route=\"health\",status=\"507\"}",
            all,
        ),
        (
            "chatfiles_http_request_body_bytes_total",
            "{route=\"health\"}",
            10 * all,
        ),
        (
            "chatfiles_http_response_body_bytes_total",
            "{route=\"health\"}",
            100 * all,
        ),
        ("chatfiles_limiter_refusals_total", "{route=\"health\"}", 0),
        (
            "chatfiles_http_request_duration_seconds_count",
            "{route=\"health\"}",
            all,
        ),
    ] {
        assert_eq!(lines(&text, name), [format!("{name}{labels} {number}")]);
    }
    assert!(text.contains(&format!(
        "open_object_lookups_total{{result=\"miss\"}} {all}\n"
    )));
    let amr = "derivative_lookups_total{kind=\"amr\",source=\"failed_before\"}";
    assert!(text.contains(&format!("{amr} {all}\n")), "{text}");
    let sum = lines(&text, "chatfiles_http_request_duration_seconds_sum");
    assert_eq!(
        sum,
        ["chatfiles_http_request_duration_seconds_sum{route=\"health\"} 1.2"]
    );
}

#[test]
fn durations_fall_into_their_buckets() {
    let syncs = Syncs::default();
    let nanosecond = Duration::from_nanos(1);
    for bound in BOUNDS {
        syncs.observe(Synced::File, bound);
        syncs.observe(Synced::File, bound + nanosecond);
    }
    syncs.observe(Synced::File, Duration::ZERO);
    // Longer than any clock runs: the sum wraps around without further effect.
    syncs.observe(Synced::File, Duration::MAX);
    let distribution = durations::Distribution::of(&syncs.0[Synced::File.index()]);
    let numbers: Vec<u64> = distribution
        .buckets()
        .iter()
        .map(|(_, number)| *number)
        .collect();
    assert_eq!(numbers.len(), BOUNDS.len() + 1);
    assert!(numbers.iter().all(|number| *number == 2), "{numbers:?}");
    let bounds = distribution.buckets().map(|(bound, _)| bound);
    assert!(bounds.is_sorted_by(|a, b| a < b) && bounds[BOUNDS.len()] == f64::INFINITY);
    assert_eq!((bounds[0], bounds[7]), (0.000_01, 0.0025));
    assert_eq!(durations::Distribution::of(&syncs.0[1]).count(), 0);
}

#[test]
fn unusual_statuses_count_as_other() {
    let metrics = metrics();
    for status in [0, 99, 200, 299, 418, 599, 600, u16::MAX] {
        metrics
            .requests
            .record(&answered(HEALTH, status, Duration::ZERO));
    }
    let text = metrics.render(levels());
    let name = "chatfiles_http_requests_total";
    let expected =
        ["200\"} 1", "other\"} 7"].map(|rest| format!("{name}{{route=\"health\",status=\"{rest}"));
    assert_eq!(lines(&text, name), expected);
}

#[test]
fn labels_are_distinct() {
    for names in [
        Source::ALL
            .iter()
            .map(|label| label.name())
            .collect::<Vec<_>>(),
        Derived::ALL.iter().map(|label| label.name()).collect(),
        ConnectionRefusal::ALL
            .iter()
            .map(|label| label.name())
            .collect(),
    ] {
        let set: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(set.len(), names.len());
    }
    assert!(
        Source::ALL
            .iter()
            .enumerate()
            .all(|(at, source)| source.index() == at)
    );
    let derivations = Derivations::default();
    for (at, &derived) in Derived::ALL.iter().enumerate() {
        for (beside, &source) in Source::ALL.iter().enumerate() {
            for _ in 0..=at * 10 + beside {
                derivations.add(derived, source);
            }
        }
    }
    for (at, &derived) in Derived::ALL.iter().enumerate() {
        for (beside, &source) in Source::ALL.iter().enumerate() {
            assert_eq!(
                derivations.get(derived, source),
                (at * 10 + beside + 1) as u64
            );
        }
    }
}

#[test]
fn shows_known_levels_only() {
    let metrics = metrics();
    let known = metrics.render(levels());
    for line in [
        "chatfiles_open_objects 4",
        "chatfiles_part_uploads 14",
        "chatfiles_part_uploads_max 15",
        "chatfiles_part_upload_bytes 16",
        "chatfiles_part_uploads_replaced_total 17",
        "chatfiles_part_upload_refusals_total{share=\"user\"} 18",
        "chatfiles_part_upload_refusals_total{share=\"server\"} 21",
        "chatfiles_derivative_cache_bytes 5",
        "chatfiles_limiter_addresses 6",
        "chatfiles_disk_free_bytes 7",
        "chatfiles_disk_free_min_bytes 8",
        "chatfiles_disk_reserved_bytes 13",
        "chatfiles_log_lines_dropped_total 9",
        "chatfiles_certificate_expiry_timestamp_seconds 10",
        "chatfiles_decode_queue_length{pool=\"picture\"} 1",
        "chatfiles_decode_places_busy{pool=\"ffmpeg\"} 2",
        "chatfiles_decode_places{pool=\"ffmpeg\"} 3",
    ] {
        assert!(
            known.lines().any(|found| found == line),
            "{line} in {known}"
        );
    }
    let unknown = metrics.render(Levels {
        disk_free_bytes: None,
        ..levels()
    });
    assert!(lines(&unknown, "chatfiles_disk_free_bytes").is_empty());
    assert!(unknown.contains("# TYPE chatfiles_disk_free_bytes gauge\n"));
}

#[test]
fn gauge_falls_with_its_guards() {
    let gauge = Gauge::default();
    let (one, two) = (gauge.enter(), gauge.enter());
    assert_eq!(gauge.get(), 2);
    drop(one);
    assert_eq!(gauge.get(), 1);
    drop(two);
    assert_eq!(gauge.get(), 0);
}

#[test]
fn shards_do_not_share_cache_lines() {
    let sharded = Sharded::new(Counter::default);
    let places: Vec<_> = sharded
        .iter()
        .map(|cell| std::ptr::from_ref(cell).addr())
        .collect();
    assert!(places.len() >= 2 && places.len().is_power_of_two());
    assert!(
        places
            .windows(2)
            .all(|pair| pair[1] - pair[0] >= 128 && pair[0] % 128 == 0)
    );
}
