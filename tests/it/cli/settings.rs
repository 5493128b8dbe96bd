//! Configuration keys, variables and flags. An error names the key, the value and the rule.

use crate::support::process::{chatfiles, run};

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn bad_value_names_key_and_range() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chatfiles.toml");
    for (toml, expected) in [
        (
            "[limits]\ncalls_burst = 0",
            vec!["line 2", "limits.calls_burst", "0", "from 1 to 1000000"],
        ),
        (
            "[limits]\nupload_bytes_max = 209715201",
            vec!["limits.upload_bytes_max", "209715201", "200MiB"],
        ),
        (
            "[limits]\nupload_bytes_in_flight_max = 1099511627777",
            vec!["limits.upload_bytes_in_flight_max", "from 1B to 1TiB"],
        ),
        (
            "[limits]\nupload_bytes_in_flight_max = 10551295",
            vec![
                "limits.upload_bytes_in_flight_max",
                "10551295B",
                "at least \"10304KiB\"",
            ],
        ),
        (
            "[limits]\nupload_bytes_in_flight_max = 10551296\n[[tenant]]\norg = \"a\"\napp = \"b\"\nupload_bytes_max = 209715200",
            vec![
                "limits.upload_bytes_in_flight_max",
                "10304KiB",
                "at least \"204864KiB\": the largest upload_bytes_max of a tenant",
            ],
        ),
        (
            "[limits]\nuser_upload_bytes_per_day = 1125899906842625",
            vec!["limits.user_upload_bytes_per_day", "from 0B to 1024TiB"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\nupload_bytes_per_day = 1125899906842625",
            vec!["a/b: upload_bytes_per_day", "from 0B to 1024TiB"],
        ),
        (
            "[server]\nrequest_timeout_seconds = 86401",
            vec!["server.request_timeout_seconds", "from 1s to 24h"],
        ),
        (
            "[limits]\nexempt = [\"10.0.0.0/33\"]",
            vec!["limits.exempt", "10.0.0.0/33", "10.0.0.0/8"],
        ),
        (
            "[limits]\nstatus = 500",
            vec!["limits.status", "500", "503 or 429"],
        ),
        (
            "[server]\nlisten = [\"localhost\"]",
            vec!["server.listen", "localhost", "127.0.0.1:8080"],
        ),
        (
            "[operator]\nlisten = \"metrics:9090\"",
            vec!["operator.listen", "metrics:9090", "localhost:8080"],
        ),
        (
            "[operator]\nlisten = \"localhost\"",
            vec!["operator.listen", "localhost", "127.0.0.1:8080"],
        ),
        (
            "[operator]\nlisten = \"127.0.0.1:8080\"",
            vec!["operator.listen", "127.0.0.1:8080", "server.listen"],
        ),
        ("[operator]\nport = 9090", vec!["line 2", "port", "listen"]),
        (
            "[operator]\nauthentication = \"password\"",
            vec!["operator.authentication", "password", "token"],
        ),
        (
            "[operator]\nhosts = [\"a.test\", \"https://b.test\"]",
            vec!["operator.hosts", "https://b.test", "ops.example.com"],
        ),
        (
            "[operator]\nhosts = [\"a.test:9090\"]",
            vec!["operator.hosts", "a.test:9090", "without scheme and port"],
        ),
        (
            "[server]\npublic_url = \"ftp://a\"",
            vec!["server.public_url", "ftp://a", "https://host"],
        ),
        (
            "[server]\npublic_url = \"http://a/b\"",
            vec!["server.public_url", "http://a/b", "without a path"],
        ),
        (
            "[server]\nidle_timeout_seconds = 0",
            vec!["server.idle_timeout_seconds", "0", "from 1s to 24h"],
        ),
        (
            "[log]\nlevel = \"=,=\"",
            vec!["log.level", "=,=", "error, warn"],
        ),
        (
            "[store]\ndurability = \"half\"",
            vec!["line 2", "durability", "half", "full"],
        ),
        ("[store]\npaht = \"x\"", vec!["line 2", "paht", "path"]),
        (
            "[[tenant]]\norg = \"a/b\"\napp = \"c\"",
            vec!["org", "a/b", "letters, digits"],
        ),
        (
            "[[tenant]]\norg = \"file\"\napp = \"c\"",
            vec!["org", "file", "another name"],
        ),
        (
            "[[tenant]]\norg = \"a\"",
            vec!["app", "\"\"", "letters, digits"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\n[[tenant]]\norg = \"a\"\napp = \"b\"",
            vec!["a/b", "twice"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\n[[tenant.account]]\nname = \"u\"\npassword_hash = \"x\"",
            vec!["account u", "password_hash", "$argon2id$"],
        ),
        ("[limits", vec!["line 1"]),
        (
            "[limit]\nstatus = 429",
            vec!["line 1", "limit", "unknown section"],
        ),
        ("limits = 5", vec!["line 1", "limits", "[limits]"]),
        (
            "[tenant]\norg = \"a\"",
            vec!["line 1", "tenant", "[[tenant]]"],
        ),
        (
            "[retention]\nvideo_days = 36501",
            vec!["retention.video_days", "36501", "from 0 to 36500"],
        ),
        (
            "[media]\nmemory_bytes_max = 1000",
            vec!["media.memory_bytes_max", "1000", "from 256MiB"],
        ),
        (
            "[media]\nvoice_seconds_max = 0",
            vec!["media.voice_seconds_max", "0", "from 1s to 24h"],
        ),
        (
            "[hook]\ncache_seconds = 3601",
            vec!["hook.cache_seconds", "3601", "from 0s to 1h"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\napp_id = \"c d\"",
            vec!["a/b: app_id", "c d", "letters, digits"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\nstrict_recipients = true",
            vec!["a/b: strict_recipients", "needs app_id"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\napp_id = \"c\"\nlink_key = \"\"",
            vec!["line 5", "link_key", "at least 16 bytes"],
        ),
        // Settings that protect nothing if they are empty, or that name nothing.
        (
            "[cdn]\nsecret_header = \"x-secret\"",
            vec!["cdn.secret_header", "x-secret", "together with cdn.secret"],
        ),
        (
            "[store]\npath = \"\"",
            vec!["line 2", "store.path", "a directory"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\ndynamic_token_ttl_seconds = []",
            vec!["a/b: dynamic_token_ttl_seconds", "at least one"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\ndynamic_token_ttl_seconds = [600, 0]",
            vec!["a/b: dynamic_token_ttl_seconds", "0", "from 1 to 999999999"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\nclient_id = \"x\"\nclient_secret = \"q7Jm2ZxV0pYc9TnR4sKdW6uE\"\n\
             [[tenant]]\norg = \"a\"\napp = \"b-2\"\nclient_secret = \"q7Jm2ZxV0pYc9TnR4sKdW6uE\"\n\
             [[tenant]]\norg = \"a\"\napp = \"b2\"\nclient_id = \"x\"\nclient_secret = \"q7Jm2ZxV0pYc9TnR4sKdW6uE\"",
            vec!["a/b and a/b2", "same client_secret and client_id"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\nclient_id = \" \"",
            vec!["a/b: client_id", "or leave it out"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\nusers_not_before = { \"\" = 5 }",
            vec!["a/b: users_not_before", "1 to 128 bytes"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\n[[tenant.account]]\nname = \"u\"\npassword_hash = \"$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI\"\n[[tenant.account]]\nname = \"u\"\npassword_hash = \"$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI\"",
            vec!["account u", "twice"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\napp_id = \"c\"\navatar_days = 40000",
            vec!["line 5", "a/b: avatar_days", "40000", "36500"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\napp_id = \"c\"\nhook_url = \"ftp://x\"",
            vec!["a/b: hook_url", "http:// or https://"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\napp_id = \"c\"\nhook_secret = \"q7Jm2ZxV0pYc9TnR4sKdW6uE\"",
            vec!["a/b: hook_secret", "together with hook_url"],
        ),
        (
            "[[tenant]]\norg = \"a\"\napp = \"b\"\napp_id = \"c\"\nimage_process_url = \"http://x/{y}\"",
            vec!["a/b: image_process_url", "{source}"],
        ),
    ] {
        std::fs::write(&file, toml).unwrap();
        let output = run(&["check-config", "--config", file.to_str().unwrap()], "");
        assert_eq!(output.status.code(), Some(2), "{toml}: {}", stderr(&output));
        for part in expected {
            assert!(
                stderr(&output).contains(part),
                "{part} in {}",
                stderr(&output)
            );
        }
    }
}

#[test]
fn bad_flag_names_itself() {
    for (arguments, expected) in [
        (vec!["--calls-burst", "many"], vec!["--calls-burst", "many"]),
        (
            vec!["--durability", "half"],
            vec!["--durability", "half", "full"],
        ),
        (
            vec!["--listen", "nowhere"],
            vec!["server.listen", "nowhere"],
        ),
        (
            vec!["--operator-listen", "nowhere"],
            vec!["operator.listen", "nowhere"],
        ),
        (vec!["token"], vec!["--user"]),
        (
            vec!["token", "--user", "a b"],
            vec!["--user", "a b", "white space"],
        ),
        (
            vec!["token", "--user", "a", "--tenant", "no/where"],
            vec!["no/where", "easemob-demo/chatdemoui"],
        ),
        (
            vec!["serve", "--config", "/nowhere.toml"],
            vec!["/nowhere.toml"],
        ),
        (vec!["rm", "x"], vec!["id", "UUID"]),
        (
            vec!["store-token", "--user", "a|b", "image.2026-11-25.x"],
            vec!["object", "class.YYYY-MM-DD.uuid"],
        ),
        (vec!["store-token", "image.2026-11-25.x"], vec!["--user"]),
        (vec!["brew"], vec!["brew"]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let output = chatfiles(&arguments)
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            stderr(&output)
        );
        for part in expected {
            assert!(
                stderr(&output).contains(part),
                "{part} in {}",
                stderr(&output)
            );
        }
    }
}

#[test]
fn flag_beats_variable_beats_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chatfiles.toml");
    std::fs::write(
        &file,
        "[limits]\ncalls_per_second = 5\nupload_bytes_max = 111\n[retention]\nchatfile_days = 3\n",
    )
    .unwrap();
    let output = chatfiles(&["check-config", "--calls-per-second", "7"])
        .env("CHATFILES_CONFIG", &file)
        .env("CHATFILES_CALLS_PER_SECOND", "6")
        .env("CHATFILES_UPLOAD_BYTES_MAX", "222")
        .current_dir(directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for expected in ["7 requests per second", "222B", "3 days"] {
        assert!(
            text.contains(expected),
            "{expected} in {text}{}",
            stderr(&output)
        );
    }
}

#[test]
fn check_config_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let output = chatfiles(&["check-config"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
