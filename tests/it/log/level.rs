//! Reads and changes the log level of a running server.

use super::{Logged, access_lines};
use crate::support::{Answer, Connection};

const FLAGS: &[&str] = &["--operator-listen", "127.0.0.1:0", "--log-format", "json"];

fn ask(server: &Logged, method: &str, body: &[u8]) -> Answer {
    let mut connection = Connection::open(server.process.operator());
    connection.request(method, "/log-level", &[], body)
}

#[test]
fn level_changes_at_once() {
    let server = Logged::start(&[FLAGS, &["--log-access-sample", "1"]].concat());
    assert_eq!(ask(&server, "GET", b"").text(), "info\n");
    assert_eq!(server.get("/one").status, 404);
    for (level, shown) in [
        (&b"off"[..], "off\n"),
        (b"warn,access=info\n", "warn,access=info\n"),
        (b"debug", "debug\n"),
    ] {
        let set = ask(&server, "PUT", level);
        assert_eq!((set.status, set.text().as_str()), (200, shown));
        assert_eq!(ask(&server, "GET", b"").text(), shown);
        let path = format!("/at-{}", &shown[..3]);
        assert_eq!(server.get(&path).status, 404);
        assert_eq!(server.get("/healthz").status, 200);
    }
    let log = server.end();
    let lines = |path: &str, message: &str| {
        let message = format!("\"message\":\"{message}\"");
        let has = |line: &&str| line.contains(path) && line.contains(&message);
        log.lines().filter(has).count()
    };
    for (path, refused, access) in [
        ("/one", 1, 1),
        ("/at-off", 0, 0),
        ("/at-war", 0, 1),
        ("/at-deb", 1, 1),
    ] {
        assert_eq!(
            (lines(path, "refused"), lines(path, "access")),
            (refused, access),
            "{path} {log}"
        );
    }
    // Only at debug, a success is logged in addition to its access line.
    assert_eq!(lines("/healthz", "answered"), 1, "{log}");
    assert_eq!(access_lines(&log).len(), 5, "{log}");
    assert_eq!(
        lines("", "the log level is changed"),
        2,
        "not from off: {log}"
    );
}

#[test]
fn bad_level_changes_nothing() {
    let server = Logged::start(FLAGS);
    let long = [b'a'; 1025];
    for (body, status, why) in [
        (&b"debgu"[..], 400, "\"debgu\" is not a level"),
        (b"", 400, "\"\" is not a level"),
        (b"access=loud", 400, "\"loud\" is not a level"),
        (b"debug,[a]=info", 400, "\"[a]\" is not a target"),
        (b"\xff", 400, "not UTF-8"),
        (&long, 413, "a level has at most 1024 bytes"),
        (&long[..1024], 400, "\"aaa"),
    ] {
        let answer = ask(&server, "PUT", body);
        assert_eq!(answer.status, status);
        assert!(answer.text().starts_with(why), "{}", answer.text());
        assert_eq!(ask(&server, "GET", b"").text(), "info\n");
    }
    for method in ["POST", "DELETE", "OPTIONS"] {
        let refused = ask(&server, method, b"");
        assert_eq!(refused.status, 405);
        assert_eq!(refused.header("allow"), Some("GET, HEAD, PUT"));
    }
    assert_eq!(ask(&server, "HEAD", b"").status, 200);
    for method in ["GET", "PUT"] {
        let public = server.request(method, "/log-level", &[], b"");
        assert!(public.status >= 404, "{method}");
    }
    assert!(!server.end().contains("level is changed"));
}
