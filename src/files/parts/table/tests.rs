//! Who makes room for whom, what parts count for, and who completes.

use super::*;
use crate::{
    derivative::BoundingBox,
    fair_queue::Claimant,
    store::{Class, Dialect, Key, Meta},
    time::{Clock, Timestamp},
};

const BOUNDS: Bounds = Bounds {
    uploads_max: 64,
    user_uploads_max: 4,
};
const MIB: u64 = 1 << 20;
/// So much room that shares of bytes are no matter.
const ROOM: u64 = 1 << 40;

fn table() -> (Table, Instant) {
    (Table::new(BOUNDS), Clock::system().monotonic())
}

fn id(number: u8) -> ObjectId {
    ObjectId::new(Timestamp::from_secs(1_800_000_000), &[number; 10])
}

fn owner(user: &str) -> Owner {
    Owner {
        tenant: "org/app".into(),
        user: user.into(),
        client: Some(Claimant::new(1, [10, 0, 0, 1].into())),
    }
}

#[track_caller]
fn assert_refused<T>(result: Result<T>, kind: Kind) {
    assert_eq!(result.map(drop).map_err(|error| error.kind()), Err(kind));
}

/// Begins an upload and ends that call.
#[track_caller]
fn begin(table: &mut Table, number: u8, user: &str, now: Instant) -> Vec<ObjectId> {
    let replaced = table.begin(id(number), owner(user), now).unwrap();
    table.leave(id(number), now);
    replaced
}

#[test]
fn longest_idle_upload_makes_room() {
    let (mut table, start) = table();
    let at = |seconds| start + Duration::from_secs(seconds);
    for number in 0..4 {
        begin(&mut table, number, "alice", at(u64::from(number)));
    }
    // All of them were used a moment ago.
    let refused = table.begin(id(4), owner("alice"), at(59));
    assert_refused(refused, Kind::Unavailable(AGAIN_AFTER));
    assert!(begin(&mut table, 100, "bob", at(59)).is_empty());
    // One call is under way, one upload is being completed: neither is idle.
    table.enter(id(0)).unwrap();
    table.claim(id(1)).unwrap();
    assert_eq!(begin(&mut table, 4, "alice", at(120)), [id(2)]);
    assert_eq!(begin(&mut table, 5, "alice", at(120)), [id(3)]);
    let refused = table.begin(id(6), owner("alice"), at(120));
    assert_refused(refused, Kind::Unavailable(AGAIN_AFTER));
    table.leave(id(0), at(120));
    assert_refused(
        table.begin(id(6), owner("alice"), at(179)),
        Kind::Unavailable(AGAIN_AFTER),
    );
    assert_eq!(begin(&mut table, 6, "alice", at(180)), [id(0)]);
    let levels = table.levels();
    assert_eq!((levels.uploads, levels.replaced), (5, 3));
    assert_eq!(levels.refusals[ShareRefusal::User.index()], 3);
}

#[test]
fn a_refused_user_keeps_its_uploads() {
    let (mut table, now) = table();
    // A tenant that has more than its share since an earlier process, alice four of them.
    for number in 0..40 {
        let user = if number < 4 { "alice" } else { "others" };
        table.adopt(id(number), owner(user), &[MIB], now);
    }
    let later = now + IDLE_BEFORE_REPLACED;
    let refused = table.begin(id(50), owner("alice"), later);
    assert_refused(refused, Kind::Unavailable(AGAIN_AFTER));
    let levels = table.levels();
    assert_eq!((levels.uploads, levels.replaced), (40, 0));
    assert_eq!(levels.bytes, 40 * MIB);
    assert_eq!(levels.refusals[ShareRefusal::Tenant.index()], 1);
    assert!((0..4).all(|number| table.contains(id(number))));
}

#[test]
fn uploads_of_an_earlier_process_count() {
    let (mut table, now) = table();
    for number in 0..6 {
        table.adopt(id(number), owner("alice"), &[MIB, 1], now);
        table.adopt(id(number), owner("alice"), &[MIB, 1], now);
    }
    assert_eq!(table.levels().bytes, 6 * (MIB + PART_CHARGE_MIN));
    let later = now + IDLE_BEFORE_REPLACED;
    // More than the user may have: as many make room as are needed, the oldest first.
    assert_eq!(begin(&mut table, 9, "alice", later), [id(0), id(1), id(2)]);
    assert_eq!(table.levels().uploads, 4);
    assert_eq!(table.levels().bytes, 3 * (MIB + PART_CHARGE_MIN));
}

#[test]
fn parts_are_charged_before_they_come() {
    let (mut table, now) = table();
    begin(&mut table, 1, "alice", now);
    begin(&mut table, 2, "alice", now);
    let mut charge = |number, bytes| table.charge_part(id(number), bytes, ROOM, 5 * MIB);
    // As much as four uploads may have, over all of them.
    for _ in 0..3 {
        charge(1, 5 * MIB).unwrap();
    }
    charge(2, 5 * MIB).unwrap();
    assert_refused(charge(2, 1), Kind::Unavailable(AGAIN_AFTER));
    table.uncharge(id(1), 5 * MIB);
    let mut charge = |number, bytes| table.charge_part(id(number), bytes, ROOM, 5 * MIB);
    // A byte takes an inode too.
    for _ in 0..80 {
        charge(2, 1).unwrap();
    }
    assert_refused(charge(2, 1), Kind::Unavailable(AGAIN_AFTER));
    table.remove(id(2));
    assert_eq!(table.levels().bytes, 10 * MIB);
    table.remove(id(1));
    assert_eq!((table.levels().bytes, table.levels().uploads), (0, 0));
    assert_refused(
        table.charge_part(id(1), 1, ROOM, 5 * MIB),
        Kind::ObjectNotFound,
    );
}

#[test]
fn parts_leave_room_on_the_disk() {
    let (mut table, now) = table();
    begin(&mut table, 1, "alice", now);
    // A quarter of what is free is one client's.
    assert_refused(
        table.charge_part(id(1), 2 * MIB, 5 * MIB, 5 * MIB),
        Kind::Unavailable(AGAIN_AFTER),
    );
    table.charge_part(id(1), 2 * MIB, 6 * MIB, 5 * MIB).unwrap();
    assert_eq!(table.levels().refusals[ShareRefusal::Client.index()], 1);
}

#[test]
fn one_call_completes_an_upload() {
    let (mut table, now) = table();
    begin(&mut table, 1, "alice", now);
    table.enter(id(1)).unwrap();
    let reserved = table.claim(id(1)).unwrap();
    assert_refused(table.claim(id(1)), Kind::AlreadyExists);
    assert_refused(table.lock(id(1)), Kind::AlreadyExists);
    assert_refused(table.charge_part(id(1), 1, ROOM, MIB), Kind::AlreadyExists);
    table.give_back(id(1), reserved, now);
    assert!(table.lock(id(1)).is_ok());
    table.claim(id(1)).unwrap();
    table.complete(id(1), owner("alice"), stored(), now);
    assert_refused(table.claim(id(1)), Kind::ObjectNotFound);
    assert_eq!((table.levels().uploads, table.levels().bytes), (0, 0));
}

#[test]
fn repeats_response_to_completion() {
    let (mut table, now) = table();
    table.complete(id(1), owner("alice"), stored(), now);
    let answered = |table: &Table, user, after| {
        let now = now + Duration::from_secs(after);
        table.completed.find(id(1), &owner(user), now).is_some()
    };
    assert!(answered(&table, "alice", 0) && answered(&table, "alice", 600));
    assert!(!answered(&table, "bob", 0) && !answered(&table, "alice", 601));
    for number in 0..=u16::MAX {
        let mut random = [0; 10];
        random[8..].copy_from_slice(&number.to_be_bytes());
        let other = ObjectId::new(Timestamp::from_secs(1_800_000_001), &random);
        table.complete(other, owner("mallory"), stored(), now);
    }
    assert_eq!(table.completed.len(), 4096);
}

#[test]
fn limits_calls_of_one_upload() {
    let (mut table, now) = table();
    begin(&mut table, 1, "alice", now);
    for _ in 0..CALLS_MAX {
        table.enter(id(1)).unwrap();
        table.charge_part(id(1), 1, ROOM, 5 * MIB).unwrap();
    }
    table.enter(id(1)).unwrap();
    assert_refused(
        table.charge_part(id(1), 1, ROOM, 5 * MIB),
        Kind::Unavailable(Duration::from_secs(1)),
    );
    table.leave(id(1), now);
    assert!(table.charge_part(id(1), 1, ROOM, 5 * MIB).is_ok());
}

fn stored() -> Arc<Stored> {
    let key = Key::of(Class::Chatfile, id(9));
    let meta = Meta {
        len: 1,
        crc: 0,
        created: key.id.created(),
        tenant: "org/app".into(),
        dialect: Dialect::Easemob,
        owner: String::new(),
        content_type: "text/plain".into(),
        sniffed_type: None,
        inline: false,
        file_name: None,
        secret_hash: None,
        thumbnail: BoundingBox::DEFAULT,
        recipient: None,
    };
    Arc::new(Stored {
        key,
        meta,
        share_secret: None,
    })
}
