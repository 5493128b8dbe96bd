//! The arithmetic of deadlines, without a socket.

use super::*;

fn progress() -> Arc<Progress> {
    Arc::new(Progress::new(Clock::system(), Duration::from_secs(10)))
}

fn guard(progress: &Progress) -> Guard {
    let watchdog = Watchdog::new(progress.now());
    let (idle, stall) = (Duration::from_secs(90), Duration::from_secs(30));
    Guard::new(watchdog, progress, idle, stall)
}

fn due(guard: &Guard, progress: &Progress) -> Option<(f64, Due)> {
    // Seconds since the start in tenths; the test runs much faster than a tenth.
    let deadline = guard.deadline(progress);
    deadline.map(|(at, due)| {
        let tenths = (at - progress.opened).as_millis() / 100;
        (tenths as f64 / 10.0, due)
    })
}

#[tokio::test]
async fn times_heads_from_first_byte() {
    let progress = progress();
    let guard = guard(&progress);
    let timer = HeadTimer(progress.clone());
    assert_eq!(due(&guard, &progress), None);
    let mut wait = timer.sleep(Duration::from_secs(90));
    assert_eq!(due(&guard, &progress), Some((90.0, Due::Idle)));
    progress.received(0);
    assert_eq!(due(&guard, &progress), Some((90.0, Due::Idle)));
    progress.received(1);
    let first = progress.head_deadline();
    assert_eq!(due(&guard, &progress), Some((10.0, Due::Header)));
    progress.received(100);
    assert_eq!(progress.head_deadline(), first, "further bytes buy no time");
    timer.reset(&mut wait, timer.now() + Duration::from_secs(90));
    assert_eq!(due(&guard, &progress), Some((90.0, Due::Idle)));
    drop(wait);
    progress.received(100);
    assert_eq!(due(&guard, &progress), None);
}

#[tokio::test]
async fn checks_blocked_writes_until_they_end() {
    let progress = progress();
    let guard = guard(&progress);
    progress.wrote(&Poll::Ready(()));
    assert_eq!(due(&guard, &progress), None);
    progress.wrote(&Poll::<()>::Pending);
    let first = progress.blocked_since();
    assert_eq!(due(&guard, &progress), Some((7.5, Due::Look)));
    progress.wrote(&Poll::<()>::Pending);
    assert_eq!(progress.blocked_since(), first);
    progress.wrote(&Poll::Ready(()));
    assert_eq!(due(&guard, &progress), None);
}

#[tokio::test]
async fn transport_answers_only_when_asked() {
    let progress = progress();
    let queues = Queues {
        written_bytes: 5,
        acked_bytes: 3,
        unacked_bytes: 2,
        is_in_flight: true,
        unread_bytes: 0,
    };
    progress.answer(|| panic!("nothing was asked"));
    assert!(progress.take_answer().is_none());
    progress.ask();
    assert!(progress.take_answer().is_none(), "hyper did not call it");
    progress.ask();
    progress.answer(|| Some(queues));
    assert_eq!(progress.take_answer().unwrap().acked_bytes, 3);
    assert!(progress.take_answer().is_none());
}

#[tokio::test]
async fn watchdog_waits_for_the_current_deadline() {
    let start = Clock::system().monotonic();
    let at = |ms| start + Duration::from_millis(ms);
    // Set too late, then to the deadline; set too early, then to the deadline.
    for set in [60_000, 1] {
        let mut dog = Watchdog::new(at(set));
        std::future::poll_fn(|cx| dog.poll_passed(cx, Some(at(60)))).await;
        assert!(Clock::system().monotonic() >= at(60));
    }
}
