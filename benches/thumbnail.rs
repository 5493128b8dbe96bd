//! Thumbnails: made from each format, read from memory, and requested over a socket.

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    unused_imports,
    clippy::unwrap_used
)]

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::{hint::black_box, path::Path, sync::Arc};

use chatfiles::{
    app::SecretStore,
    derivative::{BoundingBox, Derivative},
    fair_queue::Claimant,
    files::{self, Files, Rendition, Scope},
    media::thumbnail::{PictureLimits, thumbnail},
    store::{Class, Dialect, Key, ObjectId, local::LocalStore},
    tenant::Tenants,
    time::Clock,
};
use criterion::{Criterion, criterion_group, criterion_main};

use support::{BASE, TestServer, configuration, photo};

/// One thread, from the file's bytes to the thumbnail's bytes.
fn miss(c: &mut Criterion) {
    let mut group = c.benchmark_group("thumbnail miss");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for name in [
        "photo.jpg",
        "images/baseline.jpg",
        "images/progressive.jpg",
        "images/cmyk_adobe.jpg",
        "images/rgb.png",
        "images/rgba.png",
        "images/interlaced.png",
        "images/animated.gif",
        "images/lossy.webp",
        "images/lossless.webp",
        "images/rgb.bmp",
    ] {
        let source = std::fs::read(data.join(name)).unwrap();
        group.bench_function(name, |b| {
            b.iter(|| {
                let limits = PictureLimits::default();
                thumbnail(black_box(&source), BoundingBox::DEFAULT, &limits, &|| false).unwrap()
            });
        });
    }
    group.finish();
}

/// From memory: through the use cases only, and as a request on a kept connection.
fn hit(c: &mut Criterion) {
    let mut group = c.benchmark_group("thumbnail hit");
    let directory = tempfile::tempdir().unwrap();
    let mut server = TestServer::in_directory(directory.path(), "");
    let id = server.store_file("photo.jpg", "image/jpeg", &photo());
    let authorization = format!("Bearer {}", server.token("alice"));
    let headers = [
        ("Authorization", authorization.as_str()),
        ("thumbnail", "true"),
    ];
    let path = format!("{BASE}/chatfiles/{id}");
    let mut connection = server.connect();
    assert_eq!(connection.request("GET", &path, &headers, b"").status, 200);
    group.bench_function("over a socket", |b| {
        b.iter(|| connection.request("GET", &path, &headers, b"").body.len());
    });
    drop(connection);
    server.stop();

    let config = configuration(directory.path(), "");
    let tenants = SecretStore::new(config.keys_path())
        .tenants(&Tenants::default(), &config.tenants)
        .unwrap();
    let tenant = tenants.iter().next().unwrap();
    let store = LocalStore::open(&config.store, None).unwrap();
    let clock = Clock::system();
    let files = Files::new(Arc::new(store), &files::Config::default(), clock.clone());
    let (id, now) = (ObjectId::parse(&id).unwrap(), clock.now());
    let scope = Scope {
        tenant,
        dialect: Dialect::Easemob,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let claimant = Claimant::new(tenant.index, std::net::Ipv4Addr::LOCALHOST.into());
    let get = || async {
        let key = Key::of(Class::Chatfile, id);
        let file = files.open(scope, key, now).await.unwrap();
        let thumbnail = Derivative::Thumbnail(file.object.meta.thumbnail);
        match files.derivative(&file, thumbnail, claimant).await.unwrap() {
            Rendition::Made(derived) => derived.bytes.len(),
            Rendition::Original => panic!("the photo is larger than its thumbnail"),
        }
    };
    assert!(runtime.block_on(get()) > 0);
    group.bench_function("through files/", |b| b.iter(|| runtime.block_on(get())));
    group.finish();
}

criterion_group!(benches, miss, hit);
criterion_main!(benches);
