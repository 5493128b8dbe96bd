//! What every store must do, and what the local one does when its directory is not as it should be.

mod contract;
mod faults;
mod in_memory;
mod served;

use std::{ops::Range, path::Path};

use chatfiles::{
    derivative::BoundingBox,
    store::{
        Class, Dialect, Key, Meta, ObjectId, Opened, Payload, Store, UploadSize,
        local::{Config, Durability, LocalStore},
    },
    time::{Clock, Timestamp},
};

use crate::support::process::poll;

/// As a chunked upload is begun.
const UNANNOUNCED: UploadSize = UploadSize::AtMost(10 << 20);

/// A new key, made now.
fn new_key() -> Key {
    let mut random = [0; 10];
    getrandom::fill(&mut random).expect("randomness");
    Key::of(
        Class::Chatfile,
        ObjectId::new(Clock::system().now(), &random),
    )
}

/// Metadata with every field set.
fn full_meta() -> Meta {
    Meta {
        len: 0,
        crc: 0,
        created: Timestamp::from_ms(1_795_000_123_456),
        tenant: "easemob-demo/chatdemoui".into(),
        dialect: Dialect::Easemob,
        owner: "alice".into(),
        content_type: "text/plain; charset=utf-8".into(),
        sniffed_type: Some("image/webp".into()),
        inline: true,
        file_name: Some("日落 \"x\"\\.jpg".into()),
        secret_hash: Some([7; 32]),
        thumbnail: BoundingBox::new(1, u16::MAX),
        recipient: Some("g@123".into()),
    }
}

/// Metadata with nothing set that need not be.
fn bare_meta() -> Meta {
    Meta {
        owner: String::new(),
        sniffed_type: None,
        inline: false,
        file_name: None,
        secret_hash: None,
        recipient: None,
        ..full_meta()
    }
}

fn config(path: &Path, durability: Durability) -> Config {
    Config {
        path: path.to_owned(),
        durability,
        free_space_min_bytes: 0,
    }
}

/// A store that is served, with nothing synced.
fn open(path: &Path) -> LocalStore {
    let config = config(path, Durability::None);
    let mut opened = None;
    poll("the lock", || match LocalStore::open(&config, None) {
        // A process that another test is just starting may hold a copy of the lock until its exec.
        Err(error) if error.causes().contains("in use") => false,
        result => {
            opened = Some(result);
            true
        }
    });
    opened.expect("polled").expect("the store opens")
}

/// Runs a future to its end.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// Stores a payload in one write.
async fn put(store: &dyn Store, key: Key, payload: &[u8]) {
    let mut upload = store
        .begin(key, UploadSize::Announced(payload.len() as u64))
        .await
        .expect("an upload");
    upload
        .write(payload.to_vec().into())
        .await
        .expect("a write");
    upload.commit(bare_meta()).await.expect("a commit");
}

/// Reads a range of a payload.
async fn read_range(opened: &Opened, range: Range<u64>) -> Vec<u8> {
    let bytes = match &opened.payload {
        Payload::Mapped(mapped) => mapped.read_range(&range),
        Payload::Stream(stream) => stream.clone().read_range(range).await,
    };
    bytes.expect("the payload is read").to_vec()
}

/// Reads a whole payload.
async fn read(opened: &Opened) -> Vec<u8> {
    read_range(opened, 0..opened.len()).await
}

/// Reads a whole payload and compares its checksum.
async fn read_checked(opened: &Opened) -> Vec<u8> {
    let bytes = read(opened).await;
    assert_eq!(crc32fast::hash(&bytes), opened.meta.crc);
    bytes
}
