//! The arithmetic of deadlines, without a socket.

use super::*;

fn progress() -> Arc<Progress> {
    Arc::new(Progress::new(
        Clock::system(),
        Duration::from_secs(10),
        Duration::from_secs(30),
    ))
}

fn cut(progress: &Progress) -> Option<(u64, Cut)> {
    // Seconds from the opening, rounded: the test runs far faster than one.
    progress
        .deadline()
        .map(|(at, cut)| ((at - progress.opened).as_millis() as u64 / 1000, cut))
}

#[test]
fn a_head_is_timed_from_its_first_byte_and_a_request_is_not_timed() {
    let progress = progress();
    let timer = HeadTimer(progress.clone());
    assert_eq!(cut(&progress), None);
    let mut wait = timer.sleep(Duration::from_secs(90));
    assert_eq!(cut(&progress), Some((90, Cut::Idle)));
    progress.received(0);
    assert_eq!(cut(&progress), Some((90, Cut::Idle)));
    progress.received(1);
    let first = progress.deadline();
    assert_eq!(cut(&progress), Some((10, Cut::Header)));
    progress.received(100);
    assert_eq!(progress.deadline(), first, "further bytes buy no time");
    timer.reset(&mut wait, timer.now() + Duration::from_secs(90));
    assert_eq!(cut(&progress), Some((90, Cut::Idle)));
    drop(wait);
    progress.received(100);
    assert_eq!(cut(&progress), None);
    assert_eq!(progress.received_bytes(), 201);
}

#[test]
fn a_stall_is_timed_from_the_first_refusal_and_ends_with_the_next_byte_taken() {
    let progress = progress();
    progress.sent(&Poll::Ready(Ok(5)));
    assert_eq!(cut(&progress), None);
    progress.sent(&Poll::Pending);
    let first = progress.deadline();
    assert_eq!(cut(&progress), Some((30, Cut::WriteStall)));
    progress.sent(&Poll::Pending);
    assert_eq!(progress.deadline(), first);
    progress.sent(&Poll::Ready(Ok(1)));
    assert_eq!((cut(&progress), progress.sent_bytes()), (None, 6));
}

#[tokio::test]
async fn the_watchdog_waits_for_the_deadline_of_the_moment() {
    let start = Clock::system().monotonic();
    let at = |ms| start + Duration::from_millis(ms);
    // Set far too late, then to what comes; set too early, then to what comes.
    for set in [60_000, 1] {
        let mut dog = Watchdog::new(at(set));
        std::future::poll_fn(|cx| dog.poll_passed(cx, Some(at(60)))).await;
        assert!(Clock::system().monotonic() >= at(60));
    }
}
