//! Unusual but valid forms: their details do not change the stored file.

use super::{
    FORM_PATH, assert_nothing_stays, assert_stored, assert_xml, fields_of, file, form_of, post,
    ticket,
};
use crate::support::{Answer, Form, Random, TestServer, lanying::ticket_form};

const FILE_HEAD: &str = "Content-Disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\n";

fn post_bytes(server: &TestServer, content_type: &str, body: &[u8]) -> Answer {
    let headers = [("Content-Type", content_type)];
    server.request("POST", FORM_PATH, &headers, body)
}

#[test]
fn file_like_form_end_is_stored() {
    let server = TestServer::start();
    let boundary = Form::new().boundary;
    let mut inner = Form::new();
    inner.boundary = "inner".into();
    let inner = file(inner.field("key", "x")).bytes();
    let almost = format!("\r\n--{}", &boundary[..boundary.len() - 1]);
    for bytes in [
        &b"\r\n"[..],
        b"\r\n--",
        b"--",
        b"\r",
        b"\r\n\r\n",
        b"\0",
        format!("--{boundary}--").as_bytes(),
        format!("x--{boundary}\r\n").as_bytes(),
        format!("\n--{boundary}--\n").as_bytes(),
        format!("\r--{boundary}--\r").as_bytes(),
        format!("\r\n-{boundary}--\r\n").as_bytes(),
        almost.as_bytes(),
        almost.repeat(10_000).as_bytes(),
        "\r\n--".repeat(50_000).as_bytes(),
        &inner,
    ] {
        let ticket = ticket(&server);
        let form = ticket_form(&ticket).part(FILE_HEAD, bytes);
        let answer = post(&server, &form);
        let download = assert_stored(&server, &ticket, &answer, bytes);
        assert_ne!(download.header("content-type"), Some("application/json"));
    }
}

#[test]
fn accepts_quoted_and_long_boundary() {
    let server = TestServer::start();
    for (boundary, content_type) in [
        ("b".repeat(70), "multipart/form-data; boundary=*"),
        (
            "a 'b'(c)+_,-./:=?d".into(),
            "Multipart/Form-Data; charset=utf-8; Boundary=\"*\"",
        ),
        ("--".into(), "multipart/form-data; boundary=*"),
        (
            "file".into(),
            "multipart/form-data;boundary=*;charset=utf-8",
        ),
    ] {
        let ticket = ticket(&server);
        let mut form = Form::new();
        form.boundary.clone_from(&boundary);
        let form = fields_of(&ticket)
            .iter()
            .fold(form, |form, (name, value)| form.field(name, value));
        let content_type = content_type.replace('*', &boundary);
        let answer = post_bytes(&server, &content_type, &file(form).bytes());
        assert_stored(&server, &ticket, &answer, b"hello");
    }
    for (content_type, body) in [
        (
            format!("multipart/form-data; boundary={}", "b".repeat(71)),
            "b".repeat(71),
        ),
        (
            "multipart/form-data; boundary=\"a\r\n\"".replace("\r\n", "\t"),
            "a\t".into(),
        ),
        ("multipart/form-data; boundary=a*b".into(), "a*b".into()),
    ] {
        let answer = post_bytes(&server, &content_type, format!("--{body}--\r\n").as_bytes());
        assert_xml(&answer, 400, "MalformedPOSTRequest");
    }
}

#[test]
fn special_characters_change_nothing() {
    let server = TestServer::start();
    let part = |name: &str| format!("Content-Disposition: form-data; name=\"{name}\"\r\n");
    for (what, name, value) in [
        ("a space behind a name", "key ", "other"),
        ("an escaped line end in a name", "key%0D%0AX-A: b", "other"),
        ("another letter that looks alike", "\u{43a}ey", "other"),
        ("line ends in a value", "x", "a\r\nb\r\n\r\nc\n\r"),
        ("a NUL in a value", "x", "\0\0"),
        ("a value that is XML", "x", "<Key>&amp;]]></Key>"),
    ] {
        println!("{what}");
        let ticket = ticket(&server);
        let form = ticket_form(&ticket).part(&part(name), value.as_bytes());
        let answer = post(&server, &file(form));
        assert_stored(&server, &ticket, &answer, b"hello");
        assert_eq!(answer.header("x-a"), None);
    }
    // A header cannot contain NUL, and a line end in a name starts another header or none.
    for name in [
        "ke\0y",
        "key\0",
        "key\r\nX-A: b",
        "key\r\n\r\n",
        "\r\n",
        "key\n",
    ] {
        let ticket = ticket(&server);
        let answer = post(
            &server,
            &file(ticket_form(&ticket).part(&part(name), b"other")),
        );
        if answer.status == 200 {
            assert_stored(&server, &ticket, &answer, b"hello");
        } else {
            assert_xml(&answer, 400, "MalformedPOSTRequest");
        }
        assert_eq!(answer.header("x-a"), None);
    }
}

#[test]
fn forms_out_of_bounds_are_refused() {
    let server = TestServer::start();
    let fields = fields_of(&ticket(&server));
    let good = || form_of(&fields);
    let whole = file(good()).bytes();
    let without = |from: &[u8], what: &[u8]| {
        let at = from.windows(what.len()).position(|part| part == what);
        let at = at.expect("a part of the form");
        [&from[..at], &from[at + what.len()..]].concat()
    };
    let long_header = format!("{FILE_HEAD}X-Long: {}\r\n", "y".repeat(16 * 1024));
    let many_headers: String = (0..2000).map(|n| format!("X-{n}: yyyy\r\n")).collect();
    let open = format!("--{}\r\n{FILE_HEAD}\r\n", Form::new().boundary);
    let fields_only = {
        let bytes = good().bytes();
        bytes[..bytes.len() - Form::new().boundary.len() - 6].to_vec()
    };
    let endless = |fill: &str| {
        let fill = fill.repeat(1_000_000 / fill.len());
        [&fields_only, open.as_bytes(), fill.as_bytes()].concat()
    };
    let boundary = Form::new().boundary;
    for (what, body) in [
        ("nothing", Vec::new()),
        ("no boundary", b"x".repeat(1 << 20)),
        (
            "a preamble of 1 MB",
            [b"p".repeat(1 << 20), b"\r\n".to_vec(), whole.clone()].concat(),
        ),
        (
            "an epilogue of 1 MB",
            [whole.clone(), b"e".repeat(1 << 20)].concat(),
        ),
        (
            "a part header of 16 KiB",
            good().part(&long_header, b"x").bytes(),
        ),
        (
            "the same before the file",
            file(good().part(&long_header.replace("\"file\"", "\"x\""), b"x")).bytes(),
        ),
        (
            "2,000 part headers",
            good()
                .part(&format!("{FILE_HEAD}{many_headers}"), b"x")
                .bytes(),
        ),
        (
            "a header that is none",
            good().part("Content-Disposition\r\n", b"x").bytes(),
        ),
        ("a part without headers", good().part("", b"x").bytes()),
        (
            "10,000 parts",
            (0..10_000)
                .fold(good(), |form, n| form.field(&format!("f{n}"), ""))
                .bytes(),
        ),
        (
            "no last boundary",
            whole[..whole.len() - boundary.len() - 6].to_vec(),
        ),
        (
            "half of the last boundary",
            whole[..whole.len() - 10].to_vec(),
        ),
        (
            "lines that end in LF alone",
            whole
                .iter()
                .copied()
                .filter(|byte| *byte != b'\r')
                .collect(),
        ),
        (
            "one line end less before the file",
            without(&whole, b"\r\nhello"),
        ),
        ("a file without an end", endless("x")),
        ("a file of line ends without an end", endless("\r\n--")),
        (
            "a file of almost boundaries",
            endless(&format!("\r\n--{}", &boundary[1..])),
        ),
        (
            "another boundary at the end",
            whole[..whole.len() - 5].to_vec(),
        ),
    ] {
        println!("{what}");
        let answer = post_bytes(&server, &Form::new().content_type(), &body);
        assert_xml(&answer, 400, "MalformedPOSTRequest");
        assert_nothing_stays(&server);
    }
    assert_eq!(post(&server, &file(good())).status, 200);
}

/// Number of mutations.
const ROUNDS: usize = 600;

#[test]
fn damaged_form_is_refused_or_exact() {
    let server = TestServer::start();
    let mut random = Random::new();
    let (mut stored, mut refused) = (0, 0);
    let mut ticket = ticket(&server);
    for round in 0..ROUNDS {
        let len = 1 + random.below(2000);
        let sent = random.bytes(len);
        let form = ticket_form(&ticket).file("a.bin", "application/x-own", &sent);
        let body = damaged(&form.bytes(), &mut random);
        let answer = post_bytes(&server, &form.content_type(), &body);
        assert!(answer.status < 500, "round {round}: {}", answer.text());
        if answer.status != 200 {
            refused += 1;
            assert!(answer.text().starts_with("<?xml"), "{}", answer.text());
            continue;
        }
        stored += 1;
        let url = super::text(&ticket["download_url"]);
        let download = server.lanying("bob").open(&url, "");
        assert_eq!(download.status, 200, "round {round}: {}", download.text());
        assert!(!download.body.is_empty());
        // The stored bytes appear in the body between a part head and a boundary.
        let ends = format!("\r\n--{}", form.boundary);
        let framed = [b"\r\n\r\n", &download.body[..], ends.as_bytes()].concat();
        assert!(
            body.windows(framed.len()).any(|part| part == framed),
            "round {round}: stored {} of {len} bytes",
            download.body.len()
        );
        ticket = super::ticket(&server);
    }
    println!("{stored} were stored, {refused} refused");
    assert!(stored > ROUNDS / 20 && refused > ROUNDS / 20);
    super::poll("tmp/ to be empty", || server.files_in("tmp").is_empty());
    assert_eq!(server.files_in("objects").len(), stored);
}

fn damaged(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => bytes[at] = random.next() as u8,
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, b"\r\n\0;=\"-: "[random.below(9)]),
            3 => {
                let end = (at + random.below(200)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, again);
            }
            _ => {
                let end = (at + random.below(20)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
    bytes
}
