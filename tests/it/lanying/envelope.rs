//! The response envelope, its error codes, the parameters that cause them, and unknown calls.

use std::time::Duration;

use chatfiles::{error::Kind, time::MS_PER_DAY};

use super::apps::{PATHS, Stored, assert_success, fields};
use crate::support::{
    Step, TestServer, faulty_server,
    lanying::{assert_code, envelope, file_sign, success, text},
    photo,
};

#[test]
fn success_uses_envelope() {
    let server = TestServer::start();
    let stored = Stored::at(&server);
    let alice = server.lanying("alice");
    for call in &stored.calls()[..4] {
        let answer = alice.get(call);
        let json = envelope(&answer, 200);
        assert_eq!(
            (&json["code"], json["message"].is_string()),
            (&200.into(), true)
        );
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(json["data"].is_string(), call.contains("forward"), "{call}");
        assert_eq!(
            json["data"].is_object(),
            !call.contains("forward"),
            "{call}"
        );
    }
}

/// Checks that a call is refused because of one parameter.
#[track_caller]
fn check(server: &TestServer, call: &str, parameter: &str) {
    let message = assert_code(&server.lanying("alice").get(call), 10002);
    assert!(message.contains(parameter), "{call}: {message}");
}

#[test]
fn bad_parameter_is_named() {
    let server = TestServer::start();
    let Stored { sign, avatar } = Stored::at(&server);
    for value in [
        "",
        "99",
        "105",
        "204",
        "0",
        "1e2",
        "0100",
        "100%20",
        "%20100",
        "+100",
        "-100",
        "1",
        "2",
        "99999999999",
        "%EF%BC%91%EF%BC%90%EF%BC%90",
        "100,101",
        "100.0",
    ] {
        check(
            &server,
            &format!("upload/chat?to_id=bob&file_type={value}"),
            "file_type",
        );
    }
    check(&server, "upload/chat?to_id=bob", "file_type");
    let (chat, forward) = (
        "upload/chat?file_type=100".to_owned(),
        format!("upload/forward?file_sign={sign}"),
    );
    for call in [&chat, &forward] {
        for value in ["0", "3", "x", "01", "1.0", "-1", "%20", "user"] {
            check(
                &server,
                &format!("{call}&to_id=bob&to_type={value}"),
                "to_type",
            );
        }
    }
    let group = "upload/avatar/group?a=b".to_owned();
    for (call, name) in [(&chat, "to_id"), (&forward, "to_id"), (&group, "group_id")] {
        check(&server, call, name);
        for value in [
            "",
            &"a".repeat(65),
            &"a".repeat(5000),
            "a%7Cb",
            "a|b",
            "a/b",
            "a%2Fb",
            "a%20b",
            "%20",
            "a+b",
            "a~b",
            "a%3Eb",
            "a%3Fb",
            "a%7Fb",
            "a%00b",
            "a%0Ab",
            "%E6%97%A5",
            "%ff",
            "a%26b",
            "a:b",
            "a,b",
            "a*",
        ] {
            check(&server, &format!("{call}&{name}={value}"), name);
        }
        let alice = server.lanying("alice");
        for value in [
            "a",
            &"a".repeat(64),
            "-",
            ".",
            "..",
            "aZ09._@-",
            "%61",
            "a%40b",
        ] {
            success(&alice.get(&format!("{call}&{name}={value}")));
        }
    }
    for (path, name) in [
        ("upload/forward?to_id=bob", "file_sign"),
        ("download/chat?a=b", "file_sign"),
        ("download/avatar?a=b", "object_name"),
    ] {
        check(&server, path, name);
        check(&server, &format!("{path}&{name}"), name);
        check(&server, &format!("{path}&{name}="), name);
    }
    for call in [
        format!("download/chat?file_sign={sign}"),
        format!("download/avatar?object_name={avatar}"),
    ] {
        for (name, values) in [
            ("image_type", &["0", "4", "x", "2.0", "%20"][..]),
            ("format", &["wav", "AMR", "x"]),
            ("thumbnail_strategy", &["0", "3", "x"]),
            ("w", &["0", "2049", "65536", "-1", "x", "1.5", "1e2"]),
            ("h", &["0", "2049", "99999999999999999999", "-1", "x"]),
        ] {
            for value in values {
                for picture in ["", "&image_type=2"] {
                    check(&server, &format!("{call}&{name}={value}{picture}"), name);
                }
            }
        }
    }
}

/// Unknown parameters are ignored.
#[test]
fn first_of_repeated_parameters_counts() {
    let server = TestServer::start();
    let Stored { sign, avatar } = Stored::at(&server);
    let alice = server.lanying("alice");
    let original = photo();
    for call in [
        format!("download/chat?file_sign={sign}"),
        format!("download/avatar?object_name={avatar}"),
    ] {
        for (more, is_original) in [
            ("&image_type=3&image_type=2", false),
            ("&image_type=2&image_type=1", false),
            ("&image_type=1&image_type=2", true),
            ("&image_type=2&image_type=x", false),
            ("&imgage_type=2", true),
            ("&imgage_type=9&image_type=3", false),
            ("&image_type=1&imgage_type=2", true),
            ("&IMAGE_TYPE=2", true),
            ("&&=&a&a=b&%zz=%ff", true),
            ("&file_sign=x&object_name=y", true),
            ("&_t=1700000000000", true),
        ] {
            let answer = alice.get(&format!("{call}{more}"));
            assert_eq!(answer.status, 200, "{more}: {}", answer.text());
            assert_eq!(answer.header("content-type"), Some("image/jpeg"), "{more}");
            assert_eq!(answer.body == original, is_original, "{call}{more}");
        }
    }
    let chat =
        "upload/chat?file_type=100&file_type=99&to_id=bob&to_id=carol&to_type=2&to_type=1&to=x";
    let url = text(&success(&alice.get(chat))["download_url"]);
    let found = fields(file_sign(&url));
    assert!(
        found[1] == "bob" && found[2].starts_with("chatfile.") && found[3] == "2",
        "{found:?}"
    );
    assert_code(
        &alice.get("upload/chat?file_type=99&file_type=100&to_id=bob"),
        10002,
    );
}

/// Also if they are present but empty.
#[test]
fn optional_parameters_have_defaults() {
    let server = TestServer::start();
    let Stored { sign, .. } = Stored::at(&server);
    let alice = server.lanying("alice");
    for more in ["", "&to_type=", "&to_type", "&to_type=1"] {
        for call in [
            "upload/chat?file_type=100".into(),
            format!("upload/forward?file_sign={sign}"),
        ] {
            let data = success(&alice.get(&format!("{call}&to_id=bob{more}")));
            let url = data
                .as_str()
                .unwrap_or_else(|| data["download_url"].as_str().unwrap());
            assert_eq!(fields(file_sign(url))[3], "1", "{call}{more}");
        }
    }
    for more in [
        "&image_type=&format=&thumbnail_strategy=&w=&h=&source=&sdk_sign=&store_token=",
        "&image_type&w",
    ] {
        let call = format!("download/chat?file_sign={sign}{more}");
        assert_success(&alice.get(&call), &call);
    }
}

#[test]
fn unknown_call_404_wrong_method_405() {
    let server = TestServer::start();
    let long = format!("/file/{}", "a/".repeat(100));
    for path in [
        "/file",
        "/file/",
        "/file/upload",
        "/file/upload/avatar",
        "/file/upload/avatar/user/x",
        "/file/upload/avatar/users",
        "/file/upload/Chat",
        "/file/upload/chat.json",
        "/file/upload/avatar%2Fuser",
        "/file/download",
        "/file/download/group",
        "/file/download/chat/x",
        "/file/token",
        "/file/chatfiles",
        "/file/welovemaxim/chatfiles/x",
        &long,
    ] {
        for method in ["GET", "POST"] {
            let answer = server.request(method, path, &[("app_id", "welovemaxim")], b"");
            assert_eq!(envelope(&answer, 404)["code"], 404, "{path}");
            assert_eq!(answer.header("allow"), None);
        }
    }
    for path in PATHS {
        let is_download = path.starts_with("download");
        let allow = if is_download {
            "GET, HEAD, OPTIONS"
        } else {
            "GET, OPTIONS"
        };
        // Checked before the application, and with any body.
        for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "get"] {
            let answer = server.request(method, &format!("/file/{path}?a=b"), &[], b"a=b");
            assert_eq!(envelope(&answer, 405)["code"], 405, "{method} {path}");
            assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
        }
        if !is_download {
            let answer = server.request("HEAD", &format!("/file/{path}"), &[], b"");
            assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)));
        }
        // An additional slash is ignored.
        let doubled = format!("//file//{}/", path.replace('/', "//"));
        assert_code(&server.get(&doubled, &[]), 40000);
    }
}

#[test]
fn bad_host_is_plain_400() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    for path in PATHS {
        for hosts in ["", "Host: a\r\nHost: a\r\n"] {
            let mut connection = server.connect();
            let (token, close) = (&alice.token, "Connection: close");
            let request = format!(
                "GET /file/{path}?app_id=welovemaxim&access-token={token} HTTP/1.1\r\n{hosts}{close}\r\n\r\n"
            );
            connection.send(request.as_bytes()).unwrap();
            let answer = connection.answer("GET").unwrap();
            assert_eq!(envelope(&answer, 400)["code"], 400, "{path} {hosts}");
        }
    }
}

#[test]
fn store_failure_10009_busy_503() {
    let directory = tempfile::tempdir().unwrap();
    let (server, faults) = faulty_server(directory.path());
    let stored = Stored::at(&server);
    let [.., forward, avatar, chat] = stored.calls();
    // A new day, on which a forward has to add a name.
    server.clock.advance(MS_PER_DAY);
    let alice = server.lanying("alice");
    let busy = Kind::Unavailable(Duration::from_millis(1500));
    // The files are not open yet; an open file needs no store.
    for (step, call) in [
        (Step::Open, &forward),
        (Step::Open, &avatar),
        (Step::Open, &chat),
        (Step::ExtendLife, &forward),
    ] {
        for kind in [Kind::Internal, Kind::StorageFull, busy] {
            faults.set(Some((step, kind)));
            let answer = alice.get(call);
            let message = if kind == busy {
                assert_eq!(answer.header("retry-after"), Some("2"));
                let json = envelope(&answer, 503);
                assert_eq!(json["code"], 503);
                text(&json["message"])
            } else {
                assert_code(&answer, 10009)
            };
            assert!(
                !message.contains("secret") && !message.contains("Input"),
                "{message}"
            );
            assert_eq!(answer.header("etag"), None);
        }
    }
    faults.set(None);
    for call in [&forward, &avatar, &chat] {
        assert_success(&alice.get(call), call);
    }
}
