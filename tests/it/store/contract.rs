//! The contract of a `Store`, in terms of its traits alone, run against every engine. A new engine adds itself to
//! [`check`].

use std::sync::Arc;

use bytes::Bytes;
use chatfiles::{
    derivative::{BoundingBox, Derivative},
    error::{Kind, Result},
    store::{
        Access, ClaimedUpload, Class, Cutoffs, Derived, ExpireMode, Expired, Health, Key,
        META_BYTES_MAX, Meta, ObjectId, PartsOwner, Progress, PutPart, Store, StoredPart,
        UnfinishedUpload, UploadSize,
        local::{Durability, LocalStore},
    },
    time::Timestamp,
};
use futures_util::TryStreamExt;

use super::{
    UNANNOUNCED, bare_meta, config, full_meta, in_memory::InMemory, new_key, put, read,
    read_checked, read_range, run,
};
use crate::support::{Faults, FaultyStore, files_below};

/// Runs one rule against every engine. Whatever the rule did, nothing is damaged, and nothing unfinished is left.
#[track_caller]
fn check(rule: impl AsyncFn(&dyn Store)) {
    for durability in [Durability::Full, Durability::None] {
        println!("the local store, durability {durability:?}");
        check_local(durability, |store| Box::new(store), &rule);
    }
    println!("the faulty store, without a fault");
    let faulty = |inner| {
        let faults = Faults::default();
        Box::new(FaultyStore { inner, faults }) as Box<dyn Store>
    };
    check_local(Durability::None, faulty, &rule);
    println!("the store in memory");
    let store = InMemory::default();
    run(rule(&store));
    check_verified(&store);
}

#[track_caller]
fn check_local(
    durability: Durability,
    wrap: impl FnOnce(LocalStore) -> Box<dyn Store>,
    rule: &impl AsyncFn(&dyn Store),
) {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::open(&config(directory.path(), durability), None).unwrap();
    let store = wrap(store);
    // The runtime ends after its blocking work, so the file of a dropped upload is removed by then.
    run(rule(&*store));
    let unfinished = files_below(&directory.path().join("tmp"));
    assert_eq!(unfinished, Vec::<std::path::PathBuf>::new());
    check_verified(&*store);
}

#[track_caller]
fn check_verified(store: &dyn Store) {
    let progress = Arc::<Progress>::default();
    let verified = run(store.maintenance().verify(progress.clone())).unwrap();
    assert!(verified.damaged.is_empty(), "{verified:?}");
    assert_eq!(progress.done(), verified.volume);
    assert_eq!(progress.total(), verified.volume);
}

/// Bytes in which no two places look alike.
fn payload(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn opens_what_was_committed() {
    check(async |store| {
        for meta in [full_meta(), bare_meta()] {
            let key = new_key();
            let mut upload = store.begin(key, UNANNOUNCED).await.unwrap();
            upload.write(Bytes::from_static(b"one ")).await.unwrap();
            upload.write(Bytes::new()).await.unwrap();
            upload.write(Bytes::from_static(b"two")).await.unwrap();
            let committed = upload.commit(meta.clone()).await.unwrap();
            let expected = Meta {
                len: 7,
                crc: crc32fast::hash(b"one two"),
                ..meta
            };
            assert_eq!(committed, expected);
            let object = store.open(key).await.unwrap().unwrap();
            assert_eq!((object.key, &object.meta), (key, &expected));
            assert_eq!(read(&object).await, b"one two");
            assert_eq!(read_range(&object, 4..7).await, b"two");
        }
    });
}

#[test]
fn stores_any_size_whatever_was_announced() {
    const BATCH: usize = 128 * 1024;
    check(async |store| {
        for len in [0, 1, 4095, 4096, BATCH - 1, BATCH, BATCH + 1, 5 << 20] {
            let exact = len as u64;
            for size in [
                UploadSize::AtMost(exact),
                UploadSize::AtMost(exact + 100_000),
                UploadSize::Announced(0),
                UploadSize::Announced(exact),
                UploadSize::Announced(exact + 100_000),
            ] {
                let (key, bytes) = (new_key(), payload(len));
                let mut upload = store.begin(key, size).await.unwrap();
                for chunk in bytes.chunks(60_001) {
                    upload.write(chunk.to_vec().into()).await.unwrap();
                }
                let meta = upload.commit(bare_meta()).await.unwrap();
                assert_eq!(meta.len, len as u64, "{size:?}");
                let object = store.open(key).await.unwrap().unwrap();
                assert_eq!(
                    (object.len(), object.is_empty()),
                    (len as u64, len == 0),
                    "{size:?}"
                );
                assert!(read(&object).await == bytes, "{len} {size:?}");
            }
        }
    });
}

#[test]
fn writes_small_chunks_in_order() {
    check(async |store| {
        let (key, bytes) = (new_key(), payload(300_000));
        let mut upload = store.begin(key, UNANNOUNCED).await.unwrap();
        for chunk in bytes.chunks(37) {
            upload.write(chunk.to_vec().into()).await.unwrap();
        }
        upload.commit(bare_meta()).await.unwrap();
        let object = store.open(key).await.unwrap().unwrap();
        assert!(read(&object).await == bytes);
    });
}

#[test]
fn upload_is_invisible_before_commit() {
    check(async |store| {
        let key = new_key();
        let mut upload = store
            .begin(key, UploadSize::Announced(1 << 20))
            .await
            .unwrap();
        upload.write(payload(1 << 20).into()).await.unwrap();
        assert!(store.open(key).await.unwrap().is_none());
        assert!(!store.remove(key.id).await.unwrap());
        upload.commit(bare_meta()).await.unwrap();
        assert!(store.open(key).await.unwrap().is_some());
    });
}

#[test]
fn dropped_upload_leaves_nothing() {
    check(async |store| {
        for written in [0, 1, 200_000, 1_000_000] {
            let key = new_key();
            let mut upload = store
                .begin(key, UploadSize::Announced(1 << 20))
                .await
                .unwrap();
            for chunk in payload(written).chunks(64 * 1024) {
                upload.write(chunk.to_vec().into()).await.unwrap();
            }
            drop(upload);
            assert!(store.open(key).await.unwrap().is_none(), "{written}");
            // The same key is free again.
            put(store, key, b"second").await;
        }
    });
}

#[test]
fn dropped_commit_is_whole_or_absent() {
    check(async |store| {
        let key = new_key();
        let mut upload = store.begin(key, UNANNOUNCED).await.unwrap();
        upload.write(payload(200_000).into()).await.unwrap();
        let commit = upload.commit(bare_meta());
        let _ = tokio::time::timeout(std::time::Duration::ZERO, commit).await;
        if let Some(object) = store.open(key).await.unwrap() {
            read_checked(&object).await;
        }
    });
}

#[test]
fn commit_never_replaces_an_object() {
    check(async |store| {
        let key = new_key();
        // Both begun before either is there, so that only the commit can tell.
        let mut first = store.begin(key, UNANNOUNCED).await.unwrap();
        let mut second = store.begin(key, UNANNOUNCED).await.unwrap();
        first.write(Bytes::from_static(b"first")).await.unwrap();
        second.write(Bytes::from_static(b"second!")).await.unwrap();
        first.commit(bare_meta()).await.unwrap();
        let refused = second.commit(bare_meta()).await.err().unwrap();
        assert_eq!(refused.kind(), Kind::AlreadyExists);
        let object = store.open(key).await.unwrap().unwrap();
        assert_eq!(read(&object).await, b"first");
    });
}

#[test]
fn refuses_metadata_over_its_bound() {
    check(async |store| {
        let key = new_key();
        let mut upload = store.begin(key, UNANNOUNCED).await.unwrap();
        upload.write(Bytes::from_static(b"x")).await.unwrap();
        let meta = Meta {
            file_name: Some("n".repeat(META_BYTES_MAX)),
            ..bare_meta()
        };
        let refused = upload.commit(meta).await.err().unwrap();
        assert_eq!(refused.kind(), Kind::InvalidArgument);
        assert!(store.open(key).await.unwrap().is_none());
    });
}

#[test]
fn unknown_key_is_no_error() {
    check(async |store| {
        let key = new_key();
        assert!(store.open(key).await.unwrap().is_none());
        assert!(!store.remove(key.id).await.unwrap());
        let name = thumbnail(170);
        assert!(store.derived(key, name).await.unwrap().is_none());
    });
}

#[test]
fn removed_object_stays_readable_while_open() {
    check(async |store| {
        let (key, neighbour) = (new_key(), new_key());
        put(store, key, b"taken down").await;
        put(store, neighbour, b"stays").await;
        for owner in [key, neighbour] {
            store
                .put_derived(owner, thumbnail(170), derived(b"small"))
                .await
                .unwrap();
            store
                .put_derived(owner, thumbnail(90), derived(b"smaller"))
                .await
                .unwrap();
        }
        let open = store.open(key).await.unwrap().unwrap();
        assert!(!open.is_removed());
        assert!(store.remove(key.id).await.unwrap());
        assert!(!store.remove(key.id).await.unwrap());
        assert!(store.open(key).await.unwrap().is_none());
        for side in [170, 90] {
            assert!(store.derived(key, thumbnail(side)).await.unwrap().is_none());
            assert!(
                store
                    .derived(neighbour, thumbnail(side))
                    .await
                    .unwrap()
                    .is_some()
            );
        }
        assert!(open.is_removed());
        assert_eq!(read(&open).await, b"taken down");
    });
}

#[test]
fn keeps_last_derivative_of_each_name() {
    check(async |store| {
        let key = new_key();
        put(store, key, b"original").await;
        store
            .put_derived(key, thumbnail(170), derived(b"first"))
            .await
            .unwrap();
        store
            .put_derived(key, thumbnail(170), derived(b"second"))
            .await
            .unwrap();
        store
            .put_derived(key, thumbnail(90), derived(b""))
            .await
            .unwrap();
        let found = store.derived(key, thumbnail(170)).await.unwrap().unwrap();
        assert_eq!(
            (found.content_type.as_str(), &found.bytes[..]),
            ("image/jpeg", b"second".as_slice())
        );
        let empty = store.derived(key, thumbnail(90)).await.unwrap().unwrap();
        assert!(empty.bytes.is_empty());
        assert!(store.derived(key, thumbnail(91)).await.unwrap().is_none());
        let original = store.open(key).await.unwrap().unwrap();
        assert_eq!(read(&original).await, b"original");
    });
}

#[test]
fn keeps_concurrent_uploads_apart() {
    check(async |store| {
        let mut uploads = Vec::new();
        for number in 0..40_u8 {
            let key = new_key();
            uploads.push((number, key, store.begin(key, UNANNOUNCED).await.unwrap()));
        }
        for _ in 0..5 {
            for (number, _, upload) in &mut uploads {
                upload.write(vec![*number; 50_000].into()).await.unwrap();
            }
        }
        let mut keys = Vec::new();
        for (number, key, upload) in uploads {
            upload.commit(bare_meta()).await.unwrap();
            keys.push((number, key));
        }
        for (number, key) in keys {
            let object = store.open(key).await.unwrap().unwrap();
            assert!(read(&object).await == vec![number; 250_000], "{number}");
        }
    });
}

fn thumbnail(side: u16) -> Derivative {
    Derivative::Thumbnail(BoundingBox::square(side))
}

fn derived(bytes: &'static [u8]) -> Derived {
    Derived {
        content_type: "image/jpeg".into(),
        bytes: Bytes::from_static(bytes),
    }
}

#[test]
fn extended_object_has_both_days() {
    check(async |store| {
        let key = new_key();
        put(store, key, b"forwarded").await;
        let later = |days| key.day.start().plus_days(days).day();
        for day in [later(3), later(3), later(400), key.day] {
            assert!(store.extend_life(key, day).await.unwrap(), "{day}");
            let object = store.open(Key { day, ..key }).await.unwrap().unwrap();
            assert_eq!(read(&object).await, b"forwarded");
            read_checked(&object).await;
        }
        // From a later day on as well.
        let third = Key {
            day: later(3),
            ..key
        };
        assert!(store.extend_life(third, later(5)).await.unwrap());
        assert!(store.remove(key.id).await.unwrap());
        for days in [0, 3, 5, 400] {
            let key = Key {
                day: later(days),
                ..key
            };
            assert!(store.open(key).await.unwrap().is_none(), "{days}");
        }
        assert!(!store.remove(key.id).await.unwrap());
    });
}

#[test]
fn absent_object_cannot_be_extended() {
    check(async |store| {
        let key = new_key();
        let day = key.day.start().plus_days(1).day();
        assert!(!store.extend_life(key, day).await.unwrap());
        assert!(store.open(Key { day, ..key }).await.unwrap().is_none());
        // The day of another name counts, not the id alone.
        put(store, key, b"x").await;
        assert!(!store.extend_life(Key { day, ..key }, day).await.unwrap());
    });
}

#[test]
fn take_down_beats_extension() {
    check(async |store| {
        for _ in 0..20 {
            let key = new_key();
            put(store, key, b"raced").await;
            let days = (1..=8).map(|days| key.day.start().plus_days(days).day());
            let keep =
                futures_util::future::join_all(days.clone().map(|day| store.extend_life(key, day)));
            let (kept, removed) = futures_util::future::join(keep, store.remove(key.id)).await;
            assert!(removed.unwrap());
            for (day, kept) in days.zip(kept) {
                kept.unwrap();
                let open = store.open(Key { day, ..key }).await.unwrap();
                assert!(open.is_none(), "{day}");
            }
        }
    });
}

#[test]
fn taken_down_key_refuses_commits() {
    check(async |store| {
        let key = new_key();
        assert!(!store.is_taken(key).await.unwrap());
        put(store, key, b"first").await;
        assert!(store.is_taken(key).await.unwrap());
        assert!(store.remove(key.id).await.unwrap());
        assert!(store.is_taken(key).await.unwrap());
        let mut upload = store.begin(key, UNANNOUNCED).await.unwrap();
        upload.write(Bytes::from_static(b"second")).await.unwrap();
        let refused = upload.commit(bare_meta()).await.err().unwrap();
        assert_eq!(refused.kind(), Kind::AlreadyExists);
        assert!(store.open(key).await.unwrap().is_none());
    });
}

#[test]
fn reads_any_range() {
    check(async |store| {
        let (key, bytes) = (new_key(), payload(700_000));
        put(store, key, &bytes).await;
        let opened = store.open(key).await.unwrap().unwrap();
        for range in [0..0, 0..1, 4095..4097, 262_143..600_000, 699_999..700_000] {
            let expected = &bytes[range.start as usize..range.end as usize];
            assert!(
                read_range(&opened, range.clone()).await == expected,
                "{range:?}"
            );
        }
    });
}

fn owner() -> PartsOwner {
    PartsOwner {
        tenant: "easemob-demo/chatdemoui".into(),
        user: "alice".into(),
    }
}

async fn put_part(store: &dyn Store, id: ObjectId, number: u32, bytes: &[u8]) -> Result<PutPart> {
    let mut part = store.parts().begin_part(bytes.len() as u64).await?;
    for chunk in bytes.chunks(60_001) {
        part.write(chunk.to_vec().into()).await?;
    }
    part.put(id, number, 1_000_000).await
}

#[test]
fn keeps_parts_until_claimed() {
    check(async |store| {
        let (id, key, parts) = (new_key().id, new_key(), store.parts());
        assert_eq!(parts.find(id).await.unwrap(), None);
        parts.begin(id, owner()).await.unwrap();
        let (first, second) = (payload(300_000), payload(5));
        put_part(store, id, 2, &second).await.unwrap();
        let old = put_part(store, id, 1, b"old").await.unwrap();
        assert_eq!(old.replaced, []);
        let new = put_part(store, id, 1, &first).await.unwrap();
        assert_eq!(new.replaced, [old.part]);
        let refused = put_part(store, id, 3, &payload(800_000))
            .await
            .err()
            .unwrap();
        assert_eq!(refused.kind(), Kind::TooLarge);
        let expected = UnfinishedUpload {
            owner: owner(),
            parts: vec![StoredPart::new(1, &first), StoredPart::new(2, &second)],
        };
        assert_eq!(parts.find(id).await.unwrap().as_ref(), Some(&expected));
        let listed = parts.list().await.unwrap();
        assert_eq!((listed.open, listed.orphaned.len()), (vec![id], 0));

        for _ in 0..2 {
            let claimed = parts.claim(id, key).await.unwrap();
            assert_eq!((claimed.id, claimed.key), (id, key));
            assert_eq!(claimed.found.as_ref(), Some(&expected));
            assert!(read_part(&claimed, expected.parts[0]).await == first);
            assert!(read_part(&claimed, expected.parts[1]).await == second);
            for gone in [
                parts.claim(id, key).await.err().unwrap(),
                put_part(store, id, 3, b"late").await.err().unwrap(),
            ] {
                assert_eq!(gone.kind(), Kind::ObjectNotFound);
            }
            assert_eq!(parts.find(id).await.unwrap(), None);
            let listed = parts.list().await.unwrap();
            assert_eq!((listed.open, listed.orphaned.len()), (vec![], 0));
            claimed.parts.give_back().await.unwrap();
            assert_eq!(parts.find(id).await.unwrap().as_ref(), Some(&expected));
        }
        let claimed = parts.claim(id, key).await.unwrap();
        claimed.parts.discard().await.unwrap();
        assert_eq!(parts.find(id).await.unwrap(), None);
    });
}

async fn read_part(claimed: &ClaimedUpload, part: StoredPart) -> Vec<u8> {
    let chunks: Vec<Bytes> = claimed.parts.read(part).try_collect().await.unwrap();
    chunks.concat()
}

#[test]
fn aborts_and_expires_unfinished_uploads() {
    check(async |store| {
        let parts = store.parts();
        let (aborted, expired) = (new_key().id, new_key().id);
        for id in [aborted, expired] {
            parts.begin(id, owner()).await.unwrap();
            put_part(store, id, 1, b"x").await.unwrap();
        }
        for _ in 0..2 {
            parts.abort(aborted).await.unwrap();
        }
        // A part that was dropped leaves nothing.
        let mut dropped = parts.begin_part(100_000).await.unwrap();
        dropped.write(payload(100_000).into()).await.unwrap();
        drop(dropped);
        let created = expired.created();
        for (now, mode, count) in [
            (created, ExpireMode::Remove, 0),
            (created.plus_days(2), ExpireMode::Report, 1),
            (created.plus_days(2), ExpireMode::Remove, 1),
            (created.plus_days(2), ExpireMode::Remove, 0),
        ] {
            assert_eq!(parts.expire(now, mode).await.unwrap(), count);
        }
        assert_eq!(parts.list().await.unwrap().open, []);
    });
}

#[test]
fn expires_days_and_single_objects() {
    check(async |store| {
        let today = new_key();
        let key = |days| Key {
            day: today.day.start().plus_days(days).day(),
            ..new_key()
        };
        let (ended, mixed, kept) = (key(0), key(1), key(2));
        for key in [ended, mixed, kept] {
            put(store, key, b"x").await;
        }
        let other = Key {
            id: new_key().id,
            ..mixed
        };
        let mut upload = store.begin(other, UNANNOUNCED).await.unwrap();
        upload.write(Bytes::from_static(b"x")).await.unwrap();
        let tenant = "other/tenant".to_owned();
        let meta = Meta {
            tenant: tenant.clone(),
            ..bare_meta()
        };
        upload.commit(meta).await.unwrap();
        let cutoffs = Cutoffs {
            by_tenant: [(tenant, Some(mixed.day))].into(),
            others: Some(kept.day),
        };
        let expire = |mode| {
            let cutoffs = cutoffs.clone();
            let progress = Arc::<Progress>::default();
            async move {
                let maintenance = store.maintenance();
                let expired = maintenance.expire(Class::Chatfile, cutoffs, mode, progress.clone());
                (expired.await.unwrap(), progress.done())
            }
        };
        let mut volumes = Vec::new();
        for mode in [ExpireMode::Report, ExpireMode::Remove] {
            assert!(store.open(ended).await.unwrap().is_some());
            assert!(store.open(mixed).await.unwrap().is_some());
            let (expired, done) = expire(mode).await;
            assert_eq!(expired.days, [ended.day].into());
            assert_eq!((expired.objects, expired.volume.objects), (1, 2));
            assert!(expired.volume.bytes >= 2, "{expired:?}");
            if mode == ExpireMode::Remove {
                assert_eq!(done, expired.volume);
            }
            volumes.push(expired.volume);
        }
        assert_eq!(volumes[0], volumes[1]);
        for (key, is_there) in [(ended, false), (mixed, false), (other, true), (kept, true)] {
            assert_eq!(store.open(key).await.unwrap().is_some(), is_there, "{key}");
        }
        let unlimited = Cutoffs {
            by_tenant: [(bare_meta().tenant, None)].into(),
            others: Some(kept.day.start().plus_days(9).day()),
        };
        let left =
            store
                .maintenance()
                .expire(Class::Image, unlimited, ExpireMode::Remove, Arc::default());
        assert_eq!(left.await.unwrap(), Expired::default());
    });
}

#[test]
fn records_last_sweep() {
    check(async |store| {
        let maintenance = store.maintenance();
        assert_eq!(maintenance.last_sweep().await.unwrap(), None);
        for ms in [1_795_000_123_456, 1_795_000_123_000] {
            let now = Timestamp::from_ms(ms);
            maintenance.record_sweep(now).await.unwrap();
            assert_eq!(maintenance.last_sweep().await.unwrap(), Some(now));
        }
    });
}

#[test]
fn healthy_store_takes_reads_and_writes() {
    check(async |store| {
        let maintenance = store.maintenance();
        assert_eq!(maintenance.health(), Health::default());
        for access in [Access::Read, Access::Write] {
            maintenance.check(access).unwrap();
        }
        assert!(maintenance.free_bytes().await.unwrap() > 0);
        assert!(!maintenance.openings().has_changed().unwrap());
    });
}
