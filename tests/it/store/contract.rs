//! The contract of a `Store`, run against each there is. A new store adds itself to [`check`].

use bytes::Bytes;
use chatfiles::{
    error::Kind,
    store::{
        BoundingBox, Derived, DerivedName, Key, META_BYTES_MAX, Meta, Store, UploadSize,
        local::{Durability, LocalStore},
    },
};

use super::{
    UNANNOUNCED, bare_meta, config, full_meta, new_key, put, read, read_checked, read_range, run,
};
use crate::support::files_below;

/// Runs one rule against every store; whatever the rule did, nothing unfinished is left.
#[track_caller]
fn check(rule: impl AsyncFn(&dyn Store)) {
    for durability in [Durability::Full, Durability::None] {
        println!("the local store, durability {durability:?}");
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::open(&config(directory.path(), durability)).unwrap();
        // The runtime ends with its last blocking work, so what a dropped upload leaves to do is done.
        run(rule(&store));
        assert_eq!(
            files_below(&directory.path().join("tmp")),
            Vec::<std::path::PathBuf>::new()
        );
        let (_, bad) = chatfiles::store::local::scrub(directory.path()).unwrap();
        assert!(bad.is_empty(), "{bad:?}");
    }
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
fn what_was_committed_is_opened_with_all_its_bytes_and_metadata() {
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
fn a_payload_of_any_size_comes_back_whatever_was_announced() {
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
fn a_payload_in_thousands_of_small_chunks_is_written_in_order() {
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
fn nothing_is_seen_of_an_upload_before_its_commit() {
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
fn an_upload_that_is_dropped_leaves_nothing() {
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
fn a_commit_whose_caller_goes_away_is_whole_or_absent() {
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
fn a_commit_never_replaces_what_is_there() {
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
fn a_commit_with_metadata_over_its_bound_stores_nothing() {
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
fn an_unknown_key_is_nothing_and_no_error() {
    check(async |store| {
        let key = new_key();
        assert!(store.open(key).await.unwrap().is_none());
        assert!(!store.remove(key.id).await.unwrap());
        let name = thumbnail(170);
        assert!(store.derived(key, name).await.unwrap().is_none());
    });
}

#[test]
fn a_removed_object_is_gone_with_its_derivatives_and_an_open_one_can_be_read_on() {
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
fn a_derivative_is_kept_by_its_name_and_the_last_one_counts() {
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
fn many_uploads_at_once_are_kept_apart() {
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

fn thumbnail(side: u16) -> DerivedName {
    DerivedName::Thumbnail(BoundingBox {
        width: side,
        height: side,
    })
}

fn derived(bytes: &'static [u8]) -> Derived {
    Derived {
        content_type: "image/jpeg".into(),
        bytes: Bytes::from_static(bytes),
    }
}

#[test]
fn an_object_that_is_kept_longer_is_found_under_each_of_its_days_and_is_one_file() {
    check(async |store| {
        let key = new_key();
        put(store, key, b"forwarded").await;
        let later = |days| key.day.start().plus_days(days).day();
        for day in [later(3), later(3), later(400), key.day] {
            assert!(store.keep_until(key, day).await.unwrap(), "{day}");
            let object = store.open(Key { day, ..key }).await.unwrap().unwrap();
            assert_eq!(read(&object).await, b"forwarded");
            read_checked(&object).await;
        }
        // From a later day on as well.
        let third = Key {
            day: later(3),
            ..key
        };
        assert!(store.keep_until(third, later(5)).await.unwrap());
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
fn what_is_not_there_cannot_be_kept_longer() {
    check(async |store| {
        let key = new_key();
        let day = key.day.start().plus_days(1).day();
        assert!(!store.keep_until(key, day).await.unwrap());
        assert!(store.open(Key { day, ..key }).await.unwrap().is_none());
        // The day of another name counts, not the id alone.
        put(store, key, b"x").await;
        assert!(!store.keep_until(Key { day, ..key }, day).await.unwrap());
    });
}

#[test]
fn an_object_taken_down_while_it_is_kept_longer_leaves_no_name_behind() {
    check(async |store| {
        for _ in 0..20 {
            let key = new_key();
            put(store, key, b"raced").await;
            let days = (1..=8).map(|days| key.day.start().plus_days(days).day());
            let keep =
                futures_util::future::join_all(days.clone().map(|day| store.keep_until(key, day)));
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
