//! Shares, forms that take their bytes in two steps, and concurrent threads.

use super::*;

const MIB: u64 = 1 << 20;

/// An upload of a server with one tenant.
fn client(last: u8) -> Uploader {
    Uploader {
        tenant: None,
        client: Some(IpAddr::from([192, 0, 2, last])),
    }
}

fn tenant(index: u32, last: u8) -> Uploader {
    Uploader {
        tenant: Some(index),
        ..client(last)
    }
}

/// An upload without shares.
const EXEMPT: Uploader = Uploader {
    tenant: None,
    client: None,
};

/// MiB in use, and refusals so far: for the total, for a tenant's share, for a client's share.
fn levels(budget: &Budget) -> (u64, [u64; 3]) {
    let levels = budget.levels();
    let refusals = [
        levels.refusals,
        levels.tenant_refusals,
        levels.client_refusals,
    ];
    (levels.in_flight_bytes / MIB, refusals)
}

#[track_caller]
fn assert_empty(budget: &Budget) {
    assert_eq!(budget.levels().in_flight_bytes, 0);
    assert!(budget.by_holder.is_empty(), "{:?}", budget.by_holder);
}

#[test]
fn takes_bytes_until_dropped() {
    let budget = Budget::new(100 * MIB);
    let hold = |bytes| budget.hold(EXEMPT, bytes);
    let (first, second) = (hold(60 * MIB).unwrap(), hold(40 * MIB).unwrap());
    assert!(hold(1).is_none() && hold(0).is_none());
    assert_eq!(levels(&budget), (100, [2, 0, 0]));
    drop(first);
    assert!(hold(61 * MIB).is_none());
    assert!(hold(60 * MIB).is_some());
    drop(second);
    assert_empty(&budget);
}

#[test]
fn small_upload_takes_a_mebibyte() {
    let budget = Budget::new(10 * MIB);
    let many: Vec<_> = (0..20).filter_map(|_| budget.hold(EXEMPT, 100)).collect();
    assert_eq!(many.len(), 10);
    drop(many);
    let tiny = Budget::new(1000);
    let one = tiny.hold(EXEMPT, 10).unwrap();
    assert!(tiny.hold(EXEMPT, 10).is_none());
    drop(one);
    assert!(tiny.hold(EXEMPT, 1001).is_none());
    assert_empty(&tiny);
}

#[test]
fn takes_the_rest_later() {
    let budget = Budget::new(100 * MIB);
    let some = |last: u8, whole: u64| budget.hold_some(client(last), whole * MIB, 10 * MIB);
    assert!(some(1, 101).is_none());
    let (mut first, mut other) = (some(1, 80).unwrap(), some(2, 80).unwrap());
    assert_eq!(levels(&budget), (20, [1, 0, 0]));
    assert!(first.take_rest() && first.take_rest());
    assert!(!other.take_rest());
    assert_eq!(levels(&budget).0, 90);
    drop(first);
    assert!(other.take_rest());
    assert_eq!(levels(&budget).0, 80);
    // Less than the first step, and less than the minimum.
    let mut small = budget.hold_some(EXEMPT, 5, 10 * MIB).unwrap();
    assert!(small.take_rest());
    assert_eq!(levels(&budget).0, 81);
    drop((other, small));
    assert_empty(&budget);
}

#[test]
fn limits_client_share_when_contended() {
    let budget = Budget::new(160 * MIB);
    let hold = |last: u8| budget.hold(client(last), 10 * MIB);
    // A client alone may use half.
    let first: Vec<_> = (0..20).filter_map(|_| hold(1)).collect();
    assert_eq!(levels(&budget), (80, [0, 0, 12]));
    // Others have an eighth each.
    let others: Vec<_> = [2, 2, 2, 3, 3, 3].into_iter().filter_map(hold).collect();
    assert_eq!(levels(&budget), (120, [0, 0, 14]));
    // A client without another upload is admitted, however large it is.
    assert!(budget.hold(client(4), 40 * MIB).is_some());
    let mut form = budget.hold_some(client(4), 40 * MIB, 1).unwrap();
    assert!(form.take_rest());
    assert!(hold(5).is_none(), "the budget is used up");
    drop((first, others, form));
    assert_empty(&budget);
}

#[test]
fn limits_tenant_to_half() {
    let budget = Budget::new(160 * MIB);
    let hold = |index: u32, last: u8| budget.hold(tenant(index, last), 10 * MIB);
    let first: Vec<_> = (0..20).filter_map(|last| hold(1, last)).collect();
    assert_eq!(levels(&budget), (80, [0, 12, 0]));
    // A form without a checked credential takes nothing of the tenant that it names.
    let mut form = budget.hold_some(tenant(1, 99), 10 * MIB, MIB).unwrap();
    assert!(!form.take_rest());
    let second: Vec<_> = (0..20).filter_map(|last| hold(2, last)).collect();
    assert_eq!(second.len(), 7);
    drop((first, second, form));
    assert_empty(&budget);
}

#[test]
fn urgency_rises_with_client_bytes() {
    let budget = Budget::new(640 * MIB);
    let urgency = |last: u8| budget.urgency(client(last).client);
    let held: Vec<_> = (0..32)
        .filter_map(|_| budget.hold(client(1), 10 * MIB))
        .collect();
    assert_eq!(urgency(1), 1, "the budget is not contended");
    let other = budget.hold(client(2), 10 * MIB).unwrap();
    assert_eq!((urgency(1), urgency(2), urgency(3)), (32, 1, 1));
    assert_eq!(budget.urgency(None), 1);
    drop((held, other));
    assert_empty(&budget);
}

#[test]
fn refuses_huge_sizes() {
    let budget = Budget::new(u64::MAX - 1);
    let one = budget.hold(client(1), 1).unwrap();
    assert!(budget.hold(client(1), u64::MAX).is_none());
    assert!(budget.hold(EXEMPT, u64::MAX).is_none());
    drop(one);
    assert_empty(&budget);
}

#[test]
fn bounds_hold_under_concurrency() {
    const MAX: u64 = 1000 * MIB;
    let (budget, now) = (Budget::new(MAX), AtomicU64::new(0));
    let passed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8_u8)
            .map(|thread| {
                let (budget, now) = (&budget, &now);
                scope.spawn(move || {
                    let mut passed = 0;
                    for round in 0..20_000_u64 {
                        let bytes = (1 + (u64::from(thread) * 131 + round * 17) % 400) * MIB;
                        let uploader = tenant(u32::from(thread % 2), thread % 3);
                        let held = match round % 3 {
                            0 => budget.hold_some(uploader, bytes, MIB).filter(|_| false),
                            1 => budget
                                .hold_some(uploader, bytes, MIB)
                                .and_then(|mut held| held.take_rest().then_some(held)),
                            _ => budget.hold(uploader, bytes),
                        };
                        let Some(held) = held else { continue };
                        // A second count, independent of the budget's own.
                        let sum = now.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        assert!(sum <= MAX, "{sum}");
                        now.fetch_sub(bytes, Ordering::SeqCst);
                        drop(held);
                        passed += 1;
                    }
                    passed
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert!(passed > 0);
    assert_empty(&budget);
}
