//! SIGHUP: the configuration is reloaded completely or not at all, without effect on running requests.

use std::path::Path;

use rustix::process::Signal;

use crate::support::{
    BASE, Form,
    process::{Process, poll},
};

fn write(config: &Path, limits: &str, more: &str) {
    let text = format!(
        "[limits]\n{limits}\n[[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\napp_id = \"welovemaxim\"\n{more}"
    );
    std::fs::write(config, text).unwrap();
}

/// A bad file changes nothing.
#[test]
fn reload_reads_tenants() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("chatfiles.toml");
    let store = directory.path().join("data");
    write(&config, "", "");
    let server = Process::start(&store, &["--config", config.to_str().unwrap()]);
    let stored = server.upload(&[7; 2000]);
    let status = |server: &Process, token: &str, path: &str| {
        let authorization = format!("Bearer {token}");
        let mut connection = crate::support::Connection::open(server.address);
        connection
            .request("GET", path, &[("Authorization", &authorization)], b"")
            .status
    };
    let file = format!("{BASE}/chatfiles/{stored}");
    assert_eq!(status(&server, server.token(), &file), 200);
    // A smaller limit and a second tenant.
    let second = "[[tenant]]\norg = \"other\"\napp = \"app\"\n";
    write(&config, "upload_bytes_max = 1000", second);
    assert_eq!(status(&server, "x", "/other/app/chatfiles/x"), 404);
    server.signal(Signal::HUP);
    poll("the second tenant", || {
        status(&server, "x", "/other/app/chatfiles/x") == 401
    });
    assert_eq!(server.try_upload(&[7; 2000]).unwrap().status, 413);
    // The cache of verified tokens is not reused: a token of the first tenant is invalid for the second one.
    assert_eq!(status(&server, server.token(), &file), 200);
    let other = format!("/other/app/chatfiles/{stored}");
    assert_eq!(status(&server, server.token(), &other), 401);
    // An invalid file: everything stays.
    write(&config, "upload_bytes_max = 0", "");
    server.signal(Signal::HUP);
    let log = || std::fs::read_to_string(store.with_extension("log")).unwrap();
    poll("the error message", || {
        log().contains("limits.upload_bytes_max: expected")
    });
    assert_eq!(server.try_upload(&[7; 2000]).unwrap().status, 413);
    assert_eq!(status(&server, "x", "/other/app/chatfiles/x"), 401);
    // A reload can also revoke tokens.
    write(&config, "", "tokens_not_before = 2100-01-01T00:00:00Z\n");
    server.signal(Signal::HUP);
    poll("the revocation", || {
        status(&server, server.token(), &file) == 401
    });
    let form = Form::new().file("a", "text/plain", b"x");
    let answer = server
        .try_request(
            "POST",
            &format!("{BASE}/chatfiles"),
            &[("Content-Type", &form.content_type())],
            &form.bytes(),
        )
        .unwrap();
    assert_eq!(answer.status, 401);
}
