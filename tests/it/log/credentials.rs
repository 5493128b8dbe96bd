//! An id that opens a file by itself never appears in the log; its fingerprint does.

use chatfiles::secret::hex;
use sha2::{Digest, Sha256};

use crate::support::{
    Connection, Form, photo,
    process::{Process, id, run, stdout},
};

/// Two tenants: in the first one, an id opens an unrestricted file. Log lines of the store name no tenant, so the ids
/// of both are hashed.
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

const FINEST: &[&str] = &["--log-level", "trace", "--log-access-sample", "1"];

#[test]
fn ids_that_open_files_are_hashed() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let config = directory.path().join("chatfiles.toml");
    std::fs::write(&config, TENANTS).unwrap();
    let flags = ["--config", config.to_str().unwrap()];
    let mut server = Process::start(&store, &[&flags[..], FINEST].concat());
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
            let answer = form.upload(server.address, &format!("/{tenant}/chatfiles"), &bearer);
            let id = id(&answer);
            ids.push((tenant, bearer.clone(), id));
        }
    }
    for (tenant, bearer, id) in &ids {
        let is_open = *tenant == "open/app";
        let file = format!("/{tenant}/chatfiles/{id}");
        assert_eq!(get(&file, &[]).status, if is_open { 200 } else { 401 });
        let by_token = [("Authorization", &**bearer)];
        assert_eq!(get(&file, &by_token).status, 200);
        // Other errors, and almost correct paths.
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
    // An unreadable file, for the log lines of the store and the decoders.
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
    server.stop();

    let log = server.log();
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
