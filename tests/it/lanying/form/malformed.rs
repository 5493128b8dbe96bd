//! Invalid forms, and forms whose file is in the wrong place.

use super::{
    FORM_PATH, assert_nothing_stays, assert_xml, fields_of, file, form_of, post,
    recorded::Recorded, ticket, with,
};
use crate::support::{Form, TestServer, lanying::ticket_form, photo};

#[test]
fn malformed_forms_are_refused() {
    const NO_FILE: &str = "the form has no file: the part with the file must be named `file`.";
    let recorded = Recorded::start();
    let server = &recorded.server;
    let fields = fields_of(&ticket(server));
    let good = || form_of(&fields);
    let twice = |name: &str, value: &str| good().field(name, value);
    let parts = |count: usize| {
        (fields.len()..count).fold(good(), |form, n| form.field(&format!("f{n}"), ""))
    };
    let long = |bytes: usize| good().field("x", &"y".repeat(bytes));
    let other_name = |bytes: &[u8]| {
        let head = "Content-Disposition: form-data; name=\"photo\"; filename=\"a.jpg\"\r\n";
        good().part(head, bytes)
    };
    for (what, form, text) in [
        ("no file", good(), NO_FILE),
        ("nothing", Form::new(), NO_FILE),
        (
            "a small file of another name",
            other_name(b"small"),
            NO_FILE,
        ),
        (
            "a small binary file of another name",
            other_name(b"\xff"),
            NO_FILE,
        ),
        (
            "a large file of another name",
            other_name(&photo()),
            NO_FILE,
        ),
        (
            "the file first",
            fields
                .iter()
                .fold(file(Form::new()), |form, (name, value)| {
                    form.field(name, value)
                }),
            "",
        ),
        (
            "a key twice",
            file(twice("Key", "other")),
            "the field Key is given twice.",
        ),
        (
            "a policy twice",
            file(twice("policy", "other")),
            "the field policy is given twice.",
        ),
        (
            "a callback twice",
            file(twice("callback", "other")),
            "the field callback is given twice.",
        ),
        (
            "a name with NUL",
            file(twice("a\0b", "1")),
            "the form is malformed: failed to read headers.",
        ),
        (
            "over 32 KiB in one field",
            file(long(32 * 1024)),
            "a form field may have at most",
        ),
        (
            "over 32 KiB in many",
            file((0..40).fold(good(), |form, n| {
                form.field(&format!("x{n}"), &"y".repeat(1000))
            })),
            "",
        ),
        (
            "over 32 KiB in names",
            file((0..40).fold(good(), |form, n| {
                form.field(&format!("{n}{}", "x".repeat(1000)), "")
            })),
            "",
        ),
        (
            "over 32 KiB in one repeated",
            file((0..40).fold(good(), |form, _| form.field("x", &"y".repeat(1000)))),
            "",
        ),
        (
            "65 parts",
            file(parts(64)),
            "a form may have at most 64 parts.",
        ),
        (
            "no UTF-8",
            file(good().part("Content-Disposition: form-data; name=\"x\"\r\n", b"\xff")),
            "a form field is not UTF-8.",
        ),
        (
            "a policy of 1 MB",
            file(form_of(&with(&fields, "policy", &"A".repeat(1 << 20)))),
            "",
        ),
    ] {
        let message = recorded.check(what, &post(server, &form), 400, "MalformedPOSTRequest");
        assert!(message.starts_with(text), "{what}: {message}");
    }
    let form = file(good());
    for content_type in [
        None,
        Some(""),
        Some("application/json"),
        Some("application/x-www-form-urlencoded"),
        Some("multipart/mixed; boundary=a"),
        Some("multipart/form-data"),
        Some("multipart/form-data; boundary="),
        Some("multipart/form-data; boundary=a; boundary=a"),
        Some("multipart/form-data; boundary=another"),
    ] {
        let headers: Vec<_> = content_type
            .map(|value| ("Content-Type", value))
            .into_iter()
            .collect();
        let answer = server.request("POST", FORM_PATH, &headers, &form.bytes());
        recorded.check(
            &format!("{content_type:?}"),
            &answer,
            400,
            "MalformedPOSTRequest",
        );
    }
    // 64 parts and nearly 32 KiB are allowed.
    assert_eq!(post(server, &file(parts(63))).status, 200);
    let fields = fields_of(&ticket(server));
    assert_eq!(
        post(
            server,
            &file(form_of(&fields).field("x", &"y".repeat(31_000)))
        )
        .status,
        200
    );
}

#[test]
fn field_after_file_is_refused() {
    let server = TestServer::start();
    let ticket = ticket(&server);
    for (what, form) in [
        ("a field", file(ticket_form(&ticket)).field("x", "y")),
        ("the key", file(ticket_form(&ticket)).field("key", "y")),
        ("a second file", file(file(ticket_form(&ticket)))),
        (
            "after the button",
            file(ticket_form(&ticket))
                .field("submit", "")
                .field("x", ""),
        ),
        (
            "a button of 1 MB",
            file(ticket_form(&ticket)).field("submit", &"x".repeat(1 << 20)),
        ),
    ] {
        println!("{what}");
        assert_xml(&post(&server, &form), 400, "MalformedPOSTRequest");
        assert_nothing_stays(&server);
    }
    // The ticket is still valid.
    assert_eq!(post(&server, &file(ticket_form(&ticket))).status, 200);
}
