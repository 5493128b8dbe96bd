//! Forms when the rate limit is reached, the disk is full, or the store fails.

use chatfiles::error::Kind;
use std::time::Duration;

use super::{assert_nothing_stays, assert_stored, assert_xml, file, post, ticket};
use crate::support::{Step, TestServer, faulty_server, lanying::ticket_form};

#[test]
fn rate_limit_is_503() {
    let server = TestServer::with("limits.calls_per_second = 1\nlimits.calls_burst = 1");
    let form = file(ticket_form(&ticket(&server)));
    // On a slow machine, the bucket may have refilled since the previous request.
    let refused = (0..20)
        .map(|_| post(&server, &form))
        .find(|answer| answer.status == 503)
        .expect("a form over the rate");
    assert_xml(&refused, 503, "QpsLimitExceeded");
    assert_eq!(refused.header("retry-after"), Some("1"));
}

#[test]
fn free_space_floor_is_507() {
    let server = TestServer::with("store.free_space_min_bytes = 1152921504606846976");
    let form = file(ticket_form(&ticket(&server)));
    assert_xml(&post(&server, &form), 507, "InsufficientStorage");
    assert_nothing_stays(&server);
}

#[test]
fn store_failure_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (server, faults) = faulty_server(directory.path());
    let ticket = ticket(&server);
    let bytes = vec![7; 400_000];
    let form = ticket_form(&ticket).file("a.bin", "application/x-own", &bytes);
    for step in [Step::Open, Step::Begin, Step::Write, Step::Commit] {
        for (kind, status, code, retry_after) in [
            (Kind::Internal, 500, "InternalError", None),
            (Kind::StorageFull, 507, "InsufficientStorage", None),
            (
                Kind::Unavailable(Duration::from_millis(1500)),
                503,
                "ServiceUnavailable",
                Some("2"),
            ),
        ] {
            let before = faults.count(step);
            faults.set(Some((step, kind)));
            let answer = post(&server, &form);
            assert_eq!(faults.count(step), before + 1, "{step:?}");
            let message = assert_xml(&answer, status, code);
            assert!(!message.contains("secret") && !message.contains("output"));
            assert_eq!(answer.header("retry-after"), retry_after, "{step:?}");
            assert_nothing_stays(&server);
        }
    }
    faults.set(None);
    let answer = post(&server, &form);
    assert_stored(&server, &ticket, &answer, &bytes);
}
