//! Test support for this folder: a key ring in a directory of its own, and a tenant.

use std::{collections::HashMap, sync::Arc};

use super::KeyRing;
use crate::{
    secret::{Secret, SecretKey},
    tenant::{BackendAuth, DownloadAuth, Lanying, Limits, Processing, Tenant},
    time::Timestamp,
};

/// A key ring, and the directory that lives as long as the guard.
pub(super) fn ring(now: Timestamp) -> (tempfile::TempDir, Arc<KeyRing>) {
    let dir = tempfile::tempdir().unwrap();
    let ring = KeyRing::load_or_create(&dir.path().join("keys"), now).unwrap();
    (dir, Arc::new(ring))
}

/// The tenant `org/app` with the client `id-<app>` and `client-secret-of-<app>`, at index 0.
pub(super) fn tenant(org: &str, app: &str) -> Tenant {
    Tenant {
        index: 0,
        generation: 0,
        org: org.into(),
        app: app.into(),
        lanying: None,
        application: uuid::Uuid::nil(),
        client_id: format!("id-{app}"),
        client_secret: key(&format!("client-secret-of-{app}")),
        dynamic_ttls: None,
        download_auth: DownloadAuth::Token,
        strict_restrict_access: false,
        hook: None,
        auth: BackendAuth::default(),
        limits: Limits::default(),
        tokens_not_before: None,
        users_not_before: HashMap::new(),
        accounts: HashMap::new(),
    }
}

/// The Lanying settings of a tenant.
pub(super) fn lanying(app_id: &str) -> Lanying {
    Lanying {
        app_id: app_id.into(),
        link_key: key("link-key-of-the-tests"),
        upload_key: key("upload-key-of-the-tests"),
        sdk_sign_key: None,
        strict_recipients: false,
        processing: Processing::default(),
    }
}

fn key(text: &str) -> SecretKey {
    SecretKey::new(Secret::new(text)).unwrap()
}
