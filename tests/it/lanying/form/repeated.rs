//! A second form for a key: exactly one file is stored completely, and later forms are refused.

use std::{collections::BTreeSet, sync::Barrier};

use crate::support::{
    Answer, Form, TestServer, head,
    lanying::{file_sign, success, text, ticket_form},
    process::poll,
};

use super::{FORM_PATH, assert_stored, assert_xml, file, post, ticket};

const CLIENTS: usize = 20;

#[track_caller]
fn assert_exists(answer: &Answer) {
    let message = assert_xml(answer, 409, "FileAlreadyExists");
    assert_eq!(
        message,
        "The object you specified already exists and can not be overwritten."
    );
}

#[test]
fn second_form_changes_nothing() {
    let server = TestServer::start();
    let ticket = ticket(&server);
    let first = post(&server, &file(ticket_form(&ticket)));
    assert_stored(&server, &ticket, &first, b"hello");
    for bytes in [&b"hello"[..], b"other", &[7; 300_000]] {
        let form = ticket_form(&ticket).file("b.bin", "text/plain", bytes);
        assert_exists(&post(&server, &form));
        assert_stored(&server, &ticket, &first, b"hello");
    }
    assert_eq!(server.files_in("objects").len(), 1);
    poll("tmp/ to be empty", || server.files_in("tmp").is_empty());
}

#[test]
fn failed_form_can_be_sent_again() {
    let server = TestServer::start();
    let ticket = ticket(&server);
    // One is refused at its end, one is interrupted, and one is in progress all the time.
    let bad = file(ticket_form(&ticket)).field("x", "y");
    assert_xml(&post(&server, &bad), 400, "MalformedPOSTRequest");
    let form = ticket_form(&ticket).file("a.bin", "text/plain", &[7; 300_000]);
    let [mut waits, breaks] = [(); 2].map(|()| {
        let mut connection = server.connect();
        connection.send(&whole_head(&form)).unwrap();
        connection.send(&form.bytes()[..100_000]).unwrap();
        connection
    });
    poll("both to begin", || server.files_in("tmp").len() == 2);
    drop(breaks);
    let answer = post(&server, &file(ticket_form(&ticket)));
    assert_stored(&server, &ticket, &answer, b"hello");
    waits.send(&form.bytes()[100_000..]).unwrap();
    assert_exists(&waits.answer("POST").unwrap());
    assert_stored(&server, &ticket, &answer, b"hello");
}

fn whole_head(form: &Form) -> Vec<u8> {
    let content_type = form.content_type();
    let headers = [("Content-Type", content_type.as_str())];
    head("POST", FORM_PATH, &headers, Some(form.bytes().len()))
}

#[test]
fn one_of_twenty_concurrent_forms_wins() {
    let server = TestServer::start();
    for round in 0..10 {
        // Small forms have no file before they end.
        let is_small = round % 2 == 0;
        let bytes_min = if is_small { 1000 } else { 300_000 };
        let ticket = ticket(&server);
        let forms: Vec<(Vec<u8>, Form)> = (0..CLIENTS)
            .map(|client| {
                let bytes = vec![client as u8; bytes_min + client * 5000];
                let form = ticket_form(&ticket).file("a.bin", "application/x-own", &bytes);
                (bytes, form)
            })
            .collect();
        let together = Barrier::new(CLIENTS);
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let clients: Vec<_> = forms
                .iter()
                .map(|(_, form)| {
                    let (server, together) = (&server, &together);
                    scope.spawn(move || {
                        let body = form.bytes();
                        let (most, last) = body.split_at(body.len() - 10);
                        let mut connection = server.connect();
                        connection.send(&whole_head(form)).unwrap();
                        connection.send(most).unwrap();
                        // All have passed the check for an existing file.
                        poll("all to begin", || {
                            is_small || server.files_in("tmp").len() == CLIENTS
                        });
                        together.wait();
                        connection.send(last).unwrap();
                        connection.answer("POST").unwrap()
                    })
                })
                .collect();
            clients
                .into_iter()
                .map(|client| client.join().unwrap())
                .collect()
        });
        let stored: Vec<usize> = (0..CLIENTS)
            .filter(|client| answers[*client].status == 200)
            .collect();
        assert_eq!(stored.len(), 1, "round {round}: {stored:?}");
        for (client, answer) in answers.iter().enumerate() {
            if stored.contains(&client) {
                assert_stored(&server, &ticket, answer, &forms[client].0);
            } else {
                assert_exists(answer);
            }
        }
        poll("tmp/ to be empty", || server.files_in("tmp").is_empty());
        assert_eq!(server.files_in("objects").len(), round + 1);
    }
}

#[test]
fn forwarded_file_blocks_second_form() {
    let server = TestServer::start();
    // Five minutes before midnight: the ticket is valid on both days.
    let day_ms = 86_400_000;
    let ms = server.clock.now().ms();
    server.clock.advance(day_ms - ms % day_ms - 300_000);
    let ticket = ticket(&server);
    let first = post(&server, &file(ticket_form(&ticket)));
    assert_stored(&server, &ticket, &first, b"hello");
    server.clock.advance(600_000);
    let url = text(&ticket["download_url"]);
    let call = format!("upload/forward?file_sign={}&to_id=carol", file_sign(&url));
    let forwarded = text(&success(&server.lanying("bob").get(&call)));
    assert_ne!(forwarded, url);
    assert_exists(&post(
        &server,
        &ticket_form(&ticket).file("b", "text/plain", b"other"),
    ));
    assert_stored(&server, &ticket, &first, b"hello");
    assert_eq!(server.lanying("carol").open(&forwarded, "").body, b"hello");
}

#[test]
fn tickets_have_distinct_keys() {
    let server = TestServer::start();
    let keys: BTreeSet<String> = (0..100)
        .map(|_| text(&ticket(&server)["oss_body_param"]["key"]))
        .collect();
    assert_eq!(keys.len(), 100);
}
