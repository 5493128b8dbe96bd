//! An id that opens a file by itself stands in no line of the log; its fingerprint does.

use chatfiles::secret::hex;
use sha2::{Digest, Sha256};

use crate::support::{
    Connection, Form,
    command::{Served, run, stdout},
    photo,
};

/// Two tenants: in the first one an id opens an unrestricted file. A line of the store names no tenant, so the ids of
/// both are hashed.
const TENANTS: &str = r#"
    [retention]
    chatfile_days = 1
    [[tenant]]
    org = "open"
    app = "app"
    download_auth = "secret"
    [[tenant]]
    org = "closed"
    app = "app"
    "#;

const FINEST: &[&str] = &[
    "--log-level",
    "trace",
    "--log-access-sample",
    "1",
    "--calls-per-second",
    "0",
];

#[test]
fn ids_that_open_files_are_hashed() {
    let directory = tempfile::tempdir().unwrap();
    let (store, log) = (directory.path().join("data"), directory.path().join("log"));
    let config = directory.path().join("chatfiles.toml");
    std::fs::write(&config, TENANTS).unwrap();
    let flags = ["--config", config.to_str().unwrap()];
    let mut server = Served::start(&store, &log, &[&flags[..], FINEST].concat());
    let get = |path: &str, headers: &[(&str, &str)]| {
        Connection::open(server.address).request("GET", path, headers, b"")
    };
    let mut ids = Vec::new();
    for tenant in ["open/app", "closed/app"] {
        let token = ["token", "--user", "alice", "--tenant", tenant];
        let store = ["--store-path", store.to_str().unwrap()];
        let token = stdout(&run(&[&token[..], &flags, &store].concat(), ""));
        let bearer = format!("Bearer {token}");
        for bytes in [&photo()[..], b"no picture"] {
            let form = Form::new().file("a.jpg", "image/jpeg", bytes);
            let headers = [
                ("Authorization", &*bearer),
                ("Content-Type", &*form.content_type()),
            ];
            let answer = Connection::open(server.address).request(
                "POST",
                &format!("/{tenant}/chatfiles"),
                &headers,
                &form.bytes(),
            );
            assert_eq!(answer.status, 200, "{}", answer.text());
            let id = answer.json()["entities"][0]["uuid"]
                .as_str()
                .unwrap()
                .to_owned();
            ids.push((tenant, bearer.clone(), id));
        }
    }
    for (tenant, bearer, id) in &ids {
        let is_open = *tenant == "open/app";
        let file = format!("/{tenant}/chatfiles/{id}");
        assert_eq!(get(&file, &[]).status, if is_open { 200 } else { 401 });
        let by_token = [("Authorization", &**bearer)];
        assert_eq!(get(&file, &by_token).status, 200);
        // What is answered otherwise, and paths that are nearly right.
        for path in [
            format!("{file}?thumbnail=true"),
            format!("{file}/"),
            format!("{file}/x"),
            format!("//{tenant}//chatfiles//{id}"),
            format!("/{tenant}/chatfiles/{}", id.to_uppercase()),
            format!("/{tenant}/chatfiles/{}", id.replace('-', "%2D")),
            format!("/{tenant}/chatfile/{id}"),
            format!("/{tenant}/{id}"),
            format!("/{id}"),
            format!("/{tenant}/chatfiles/x{id}"),
            format!("/{tenant}/sdk/chatfiles/part-upload/{id}/parts"),
        ] {
            get(&path, &by_token);
            let mut connection = Connection::open(server.address);
            connection.request("DELETE", &path, &by_token, b"");
        }
        let range = [by_token[0], ("Range", "bytes=99999999-")];
        assert_eq!(get(&file, &range).status, 416);
    }
    // A file that cannot be read: the lines of the store and of the decoders.
    let is_of = |path: &std::path::Path, id: &str| path.to_string_lossy().contains(id);
    for (_, bearer, id) in &ids {
        let found = crate::support::files_below(&store);
        let object = found.iter().find(|path| is_of(path, id)).unwrap();
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(store.join(object))
            .unwrap();
        file.set_len(100).unwrap();
        let (tenant, ..) = ids.iter().find(|(.., has)| has == id).unwrap();
        let headers = [("Authorization", &**bearer), ("thumbnail", "true")];
        get(&format!("/{tenant}/chatfiles/{id}"), &headers);
    }
    server.signal("TERM");
    assert!(server.wait().success());

    let log = std::fs::read_to_string(log).unwrap();
    for (tenant, _, id) in &ids {
        let fingerprint = hex(&Sha256::digest(id.as_bytes())[..8]);
        let plain = log.to_lowercase().replace("%2d", "-").contains(id.as_str());
        assert!(!plain, "{tenant} {id}: {log}");
        assert!(
            log.contains(&fingerprint),
            "{tenant} {id} {fingerprint}: {log}"
        );
    }
    for message in ["answered", "refused", "stored", "access"] {
        assert!(log.contains(message), "{message}: {log}");
    }
}
