//! SIGKILL during a form and after its commit, as seen by a client that sends the form again. `crash.rs` tests the
//! steps of a commit.

use serde_json::Value;

use super::{FORM_PATH, STORED, assert_xml};
use crate::support::{
    Answer, Random, files_below,
    lanying::{APP_ID, success, text, ticket_form},
    process::Process,
    strace::Strace,
};

/// When the server is killed: the n-th call of a kind in one thread, and whether the file has its name by then.
const MOMENTS: [(&str, u32, bool); 5] = [
    ("pwritev", 3, false),
    ("fdatasync", 1, false),
    ("renameat2", 1, false),
    ("fsync", 5, true),
    ("sendto,writev", 1, true),
];

fn get(server: &Process, path: &str) -> Answer {
    let headers = [("access-token", server.token()), ("app_id", APP_ID)];
    server.request("GET", path, &headers, b"")
}

fn try_post(server: &Process, ticket: &Value, bytes: &[u8]) -> std::io::Result<Answer> {
    let form = ticket_form(ticket).file("a.bin", "application/octet-stream", bytes);
    let headers = [("Content-Type", &*form.content_type())];
    server.try_request("POST", FORM_PATH, &headers, &form.bytes())
}

#[test]
fn killed_form_can_be_sent_again() {
    let bytes = Random::new().bytes(3 << 20);
    for (call, number, is_named) in MOMENTS {
        println!("{call} {number}");
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("data");
        let mut server = Process::start(&store, &[]);
        let path = "/file/upload/chat?file_type=100&to_id=bob";
        let ticket = success(&get(&server, path));
        let strace = Strace::attach(&server, &format!("{call}:signal=KILL:when={number}"));
        let answer = try_post(&server, &ticket, &bytes);
        assert!(answer.is_err(), "{call}: never reached, {answer:?}");
        server.wait();
        let last = strace.last_call();
        assert!(call.split(',').any(|call| last.contains(call)), "{last}");

        let server = Process::start(&store, &[]);
        assert!(files_below(&store.join("tmp")).is_empty());
        let objects = files_below(&store.join("objects")).len();
        assert_eq!(objects, usize::from(is_named), "{call}: {last}");
        let again = try_post(&server, &ticket, &bytes).unwrap();
        match is_named {
            true => drop(assert_xml(&again, 409, "FileAlreadyExists")),
            false => assert_eq!(again.text(), STORED),
        }
        let url = text(&ticket["download_url"]);
        let path = &url[url.find("/file/").unwrap()..];
        assert!(get(&server, path).body == bytes, "{call}");
        assert!(server.command(&["scrub"]).status.success(), "{call}");
        assert_eq!(files_below(&store.join("objects")).len(), 1);
    }
}
