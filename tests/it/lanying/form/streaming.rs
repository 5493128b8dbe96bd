//! Peak resident memory of the real program during forms. `memory.rs` tests uploads of the other API.

use std::sync::Barrier;

use super::FORM_PATH;
use crate::support::{
    Connection, Form, files_below, head,
    lanying::{APP_ID, success, ticket_form},
    process::Process,
};

/// The limit for every kind of upload.
const PEAK_KB_MAX: u64 = 150 * 1024;
const FORMS: usize = 50;
const CLIENTS: usize = 2;
const FILE_BYTES: usize = 10 << 20;
const PIECE_BYTES: usize = 64 * 1024;

#[test]
fn fifty_forms_stay_under_150_mb() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("data");
    let server = Process::start(&store, &["--durability", "none"]);
    let idle_kb = server.status_kb("VmHWM");
    let bytes: Vec<u8> = (0..FILE_BYTES).map(|at| (at / 251) as u8).collect();
    // Individual fields, but the same file for all.
    let after = Form::new()
        .file("a.bin", "application/octet-stream", &bytes)
        .bytes();
    let heads: Vec<Vec<u8>> = (0..FORMS)
        .map(|_| {
            let headers = [("access-token", server.token()), ("app_id", APP_ID)];
            let call = "/file/upload/chat?file_type=100&to_id=bob";
            let ticket = success(&server.request("GET", call, &headers, b""));
            let form = ticket_form(&ticket);
            let fields = form.bytes();
            let fields = &fields[..fields.len() - form.boundary.len() - 6];
            let headers = [("Content-Type", &*form.content_type())];
            let length = fields.len() + after.len();
            [
                head("POST", FORM_PATH, &headers, Some(length)),
                fields.to_vec(),
            ]
            .concat()
        })
        .collect();
    let halfway = Barrier::new(CLIENTS);
    let half = after.len() / 2 / PIECE_BYTES;
    std::thread::scope(|scope| {
        for (client, heads) in heads.chunks(FORMS / CLIENTS).enumerate() {
            let (server, after, halfway) = (&server, &after, &halfway);
            scope.spawn(move || {
                let mut connections: Vec<Connection> = heads
                    .iter()
                    .map(|head| {
                        let mut connection = Connection::open(server.address);
                        connection.send(head).unwrap();
                        connection
                    })
                    .collect();
                // Piece by piece, so that all forms are in progress all the time.
                for (number, piece) in after.chunks(PIECE_BYTES).enumerate() {
                    if number == half {
                        halfway.wait();
                        if client == 0 {
                            let begun = files_below(&server.store.join("tmp")).len();
                            assert_eq!(begun, FORMS, "are in progress");
                        }
                        halfway.wait();
                    }
                    for connection in &mut connections {
                        connection.send(piece).unwrap();
                    }
                }
                for connection in &mut connections {
                    let answer = connection.answer("POST").unwrap();
                    assert_eq!(answer.text(), super::STORED);
                }
            });
        }
    });
    let peak_kb = server.status_kb("VmHWM");
    println!("peak of resident memory: {peak_kb} kB, idle {idle_kb} kB");
    assert!(peak_kb < PEAK_KB_MAX, "{peak_kb} kB");
    assert_eq!(files_below(&store.join("objects")).len(), FORMS);
}
