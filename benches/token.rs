//! Cost of verifying a token that is cached, a new signed one and a new dynamic one, and of issuing a token.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::{hint::black_box, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chatfiles::{
    app::SecretStore,
    auth::{KeyRing, Subject, Verifier, token},
    config::Config,
    tenant::{Tenant, Tenants},
    time::{Clock, Timestamp},
};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sha2::{Digest, Sha256};

const DAY: Duration = Duration::from_secs(86_400);

/// A dynamic token of a chat backend (contract, Tokens).
fn dynamic(tenant: &Tenant, user: &str, now: Timestamp) -> String {
    let appkey = format!("{}#{}", tenant.org, tenant.app);
    let (time, secret) = (now.secs(), tenant.client_secret.expose());
    let text = format!("{}{appkey}{user}{time}600{secret}", tenant.client_id);
    let hash = Sha256::digest(text.as_bytes());
    let signature: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    BASE64_URL_SAFE_NO_PAD.encode(format!(
        r#"dt-{{"signature":"{signature}","appkey":"{appkey}","userId":"{user}","curTime":{time},"ttl":600}}"#
    ))
}

fn tokens(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let now = clock.now();
    let config = Config::read(&[]).unwrap();
    let secrets = SecretStore::new(directory.path().to_owned());
    let tenants = secrets
        .tenants(&Tenants::default(), &config.tenants)
        .unwrap();
    let tenant = tenants.iter().next().unwrap();
    let ring = Arc::new(KeyRing::load_or_create(directory.path(), now).unwrap());
    let verifier = Verifier::new(ring.clone(), Arc::default());
    let issue = |user: String| {
        let subject = Subject::User(user.into());
        token::issue(&ring, tenant.name(), &subject, Some(DAY), now).unwrap()
    };
    let mut group = c.benchmark_group("token");

    let known = issue("alice".into());
    verifier.verify(tenant, &known, now).unwrap();
    group.bench_function("verify, known", |b| {
        b.iter(|| verifier.verify(tenant, black_box(&known), now).unwrap());
    });
    group.bench_function("verify, known, with the clock read", |b| {
        b.iter(|| {
            verifier
                .verify(tenant, black_box(&known), clock.now())
                .unwrap()
        });
    });

    // Each token is new, so it is not in the cache.
    let mut number = 0_u64;
    group.bench_function("verify, signed, unknown", |b| {
        let fresh = || {
            number += 1;
            issue(format!("user-{number}"))
        };
        b.iter_batched(
            fresh,
            |token| verifier.verify(tenant, &token, now).unwrap(),
            BatchSize::SmallInput,
        );
    });
    let mut number = 0_u64;
    group.bench_function("verify, dynamic, unknown", |b| {
        let fresh = || {
            number += 1;
            dynamic(tenant, &format!("user-{number}"), now)
        };
        b.iter_batched(
            fresh,
            |token| verifier.verify(tenant, &token, now).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("issue", |b| b.iter(|| issue("alice".into())));
    group.finish();
}

criterion_group!(benches, tokens);
criterion_main!(benches);
