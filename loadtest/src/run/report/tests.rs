//! Tests of a report made from invented samples.

use std::time::Instant;

use super::*;
use crate::{
    client::Failure,
    run::stats::{Sample, Window},
};

const SECONDS: u64 = 12;

fn setup(mode: &'static str) -> Setup {
    Setup {
        scenario: "<b>chat & co</b>".to_owned(),
        target: "http://127.0.0.1:1".to_owned(),
        mode,
        rate: (mode == "open").then_some(100.0),
        arrivals: (mode == "open").then_some("poisson"),
        connections: 4,
        threads: 1,
        sources: 0,
        seed: 7,
        verified: true,
        files: 10,
        file_bytes: 1_234_567,
        fill_s: 0.5,
        warmup_s: 1.0,
        started_unix_s: 1_800_000_000,
        started: "Fri, 15 Jan 2027 08:00:00 GMT".to_owned(),
        notes: vec!["a note".to_owned()],
    }
}

/// 100 requests per second with latencies of 1 to 100 ms; every tenth request of the second kind is refused.
fn stats(window: Window) -> Stats {
    let mut stats = Stats::new(3, window);
    for index in 0..SECONDS as u32 * 100 {
        let intended = window.from + index * Duration::from_millis(10);
        let is_refused = index % 20 == 1;
        stats.record(&Sample {
            kind: (index % 2) as usize,
            intended,
            finished: intended + Duration::from_millis(1 + u64::from(index % 100)),
            status: if is_refused { 500 } else { 200 },
            result: if is_refused {
                Err(Fault::Status(500))
            } else {
                Ok(())
            },
            bytes_up: 100,
            bytes_down: 10_000,
            example: if is_refused {
                b"<script>alert('x')</script>"
            } else {
                b""
            },
        });
        stats.record_start(intended, intended + Duration::from_micros(20), true);
    }
    stats
}

fn window() -> Window {
    let from = Instant::now();
    Window {
        from,
        to: from + Duration::from_secs(SECONDS),
    }
}

fn report(change: impl FnOnce(&mut Stats, Window)) -> Report {
    let window = window();
    let mut stats = stats(window);
    change(&mut stats, window);
    let measured = Duration::from_secs(SECONDS);
    Report::new(
        setup("open"),
        &["get", "put", "never"],
        &stats,
        measured,
        window.interval(),
    )
}

#[test]
fn figures_match_samples() {
    let report = report(|_, _| {});
    assert_eq!((report.requests, report.errors), (1200, 60));
    let names: Vec<_> = report.kinds.iter().map(|kind| &*kind.name).collect();
    assert_eq!(names, ["get", "put"], "what never came has no row");
    let put = &report.kinds[1];
    assert_eq!(
        (put.requests, put.errors, put.statuses[&500]),
        (600, 60, 60)
    );
    let get = report.kinds[0].latency_us;
    assert!((48_000.0..51_000.0).contains(&get.p50), "{get:?}");
    assert!((98_000.0..100_000.0).contains(&get.max), "{get:?}");
    // Responses in the last tenth of a second ended too late: a few of the 1140 correct ones.
    assert!(
        (94.0..95.0).contains(&report.per_second),
        "{}",
        report.per_second
    );
    assert_eq!(report.timeline.len(), 120);
    assert_eq!(report.warnings, Vec::<String>::new());
}

#[test]
fn stopped_run_uses_its_own_time() {
    let window = window();
    let stats = stats(window);
    let half = Duration::from_secs(SECONDS / 2);
    let report = Report::new(
        setup("open"),
        &["get", "put", "never"],
        &stats,
        half,
        window.interval(),
    );
    assert_eq!(report.timeline.len(), 60);
    let none = Report::new(
        setup("open"),
        &["a", "b", "c"],
        &Stats::new(3, window),
        Duration::ZERO,
        window.interval(),
    );
    assert_eq!(
        (none.requests, none.per_second, none.timeline.len()),
        (0, 0.0, 0)
    );
    table::render(&none);
    html::render(&none).unwrap();
}

#[test]
fn warns_of_doubtful_figures() {
    let warned =
        |report: &Report, with: &str| report.warnings.iter().any(|text| text.contains(with));
    let late = report(|stats, window| {
        for _ in 0..100 {
            stats.record_start(window.from, window.from + Duration::from_millis(3), true);
        }
    });
    assert!(
        warned(&late, "The generator was late"),
        "{:?}",
        late.warnings
    );
    let waiting = |stats: &mut Stats, window: Window| {
        for _ in 0..100 {
            stats.record_start(window.from, window.from + Duration::from_millis(3), false);
        }
    };
    assert!(warned(&report(waiting), "found every connection busy"));
    let busy = report(|stats, window| {
        waiting(stats, window);
        stats.busy = 0.99;
    });
    assert!(warned(&busy, "busy for 99 %") && !warned(&busy, "found every connection busy"));
    let lost = report(|stats, window| {
        for (fault, status) in [
            (Fault::NotSent, 0),
            (Fault::Status(503), 503),
            (Fault::Failure(Failure::Reset), 0),
        ] {
            stats.record(&Sample {
                kind: 0,
                intended: window.from,
                finished: window.to,
                status,
                result: Err(fault),
                bytes_up: 0,
                bytes_down: 0,
                example: b"",
            });
        }
    });
    assert!(
        warned(&lost, "1 requests were never sent")
            && warned(&lost, "1 requests were refused with 503")
    );
}

#[test]
fn table_has_rows_per_kind() {
    let text = table::render(&report(|_, _| {}));
    for part in [
        "p99.99",
        "get",
        "put",
        "all",
        "seed 7",
        "put: 60 × status 500, such as <script>",
        "note   a note",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn page_has_plots_and_no_links() {
    let page = html::render(&report(|_, _| {})).unwrap();
    // Each plot for a wide and for a narrow screen.
    assert_eq!(page.matches("<svg").count(), 8);
    assert!(
        page.matches("<polyline").count() >= 2 * 9,
        "a line for each series"
    );
    for outside in [
        "src=", "href=", "url(", "@import", "<link", "<script", "xmlns",
    ] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(
        page.contains("&lt;script&gt;alert(&#39;x&#39;)")
            && page.contains("&lt;b&gt;chat &amp; co")
    );
}

#[test]
fn formats_numbers_for_people() {
    for (us, text) in [
        (12.3, "12 µs"),
        (1234.0, "1.23 ms"),
        (12_345.0, "12.3 ms"),
        (2_500_000.0, "2.50 s"),
    ] {
        assert_eq!(time(us), text);
    }
    for (count, text) in [
        (0.0, "0 B"),
        (999.0, "999 B"),
        (1500.0, "1.5 kB"),
        (250e6, "250 MB"),
        (3.2e15, "3200 TB"),
    ] {
        assert_eq!(bytes(count), text);
    }
}
