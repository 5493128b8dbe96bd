//! `POST /file/oss/{app_id}`: valid forms and the successful response.

mod bounds;
mod crash;
mod forwarded;
mod hostile;
mod malformed;
mod policy;
mod recorded;
mod refused;
mod repeated;
pub(super) mod signed;
mod streaming;
mod unavailable;
mod unusual;
mod vectors;

use serde_json::Value;

use crate::support::{
    Answer, Form, Random, TestServer,
    lanying::{APP_ID, text, ticket_form},
    photo,
    process::poll,
};

/// Where the default tenant's forms go.
const FORM_PATH: &str = "/file/oss/welovemaxim";
/// The exact successful response.
const STORED: &str = r#"{"code":200,"data":true,"Status":"OK","message":null}"#;

/// Names and values, in the order of the form.
type Fields = Vec<(String, String)>;

/// A ticket for a file from alice to bob.
#[track_caller]
fn ticket(server: &TestServer) -> Value {
    server.lanying("alice").ticket("100", "bob", "1")
}

/// The fields of a ticket as observed from clients.
fn fields_of(ticket: &Value) -> Fields {
    let fields = &ticket["oss_body_param"];
    ["OSSAccessKeyId", "policy", "signature", "callback", "key"]
        .map(|name| (name.to_owned(), text(&fields[name])))
        .into()
}

fn form_of(fields: &Fields) -> Form {
    fields
        .iter()
        .fold(Form::new(), |form, (name, value)| form.field(name, value))
}

/// The fields with one value changed.
fn with(fields: &Fields, name: &str, value: &str) -> Fields {
    let mut fields = fields.clone();
    let field = fields.iter_mut().find(|(given, _)| given == name);
    field.expect("a field of the form").1 = value.to_owned();
    fields
}

/// The file of most tests.
fn file(form: Form) -> Form {
    form.file("a.bin", "application/octet-stream", b"hello")
}

/// Posts a form without any further headers: no token, no `app_id`.
fn post(server: &TestServer, form: &Form) -> Answer {
    let content_type = form.content_type();
    let headers = [("Content-Type", content_type.as_str())];
    server.request("POST", FORM_PATH, &headers, &form.bytes())
}

/// Checks a success, and that bob can open the sent file with the ticket's link; returns that download.
#[track_caller]
fn assert_stored(server: &TestServer, ticket: &Value, answer: &Answer, bytes: &[u8]) -> Answer {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.text(), STORED);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(
        answer.header("x-oss-request-id"),
        answer.header("x-request-id")
    );
    let etag = answer.header("etag").expect("an entity tag");
    assert!(etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"'));
    let download = server
        .lanying("bob")
        .open(&text(&ticket["download_url"]), "");
    assert_eq!(download.status, 200, "{}", download.text());
    assert!(download.body == bytes, "is not what was sent");
    assert_eq!(download.header("etag"), Some(etag));
    download
}

/// Checks an error: status, code, XML and headers; returns the message.
#[track_caller]
fn assert_xml(answer: &Answer, status: u16, code: &str) -> String {
    let body = answer.text();
    assert_eq!(answer.status, status, "{body}");
    assert_eq!(answer.header("content-type"), Some("application/xml"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let id = answer.header("x-oss-request-id").expect("a request's id");
    assert_eq!(answer.header("x-request-id"), Some(id));
    let message = body
        .split_once("<Message>")
        .and_then(|(_, rest)| rest.split_once("</Message>"));
    let (message, _) = message.unwrap_or_else(|| panic!("no message: {body}"));
    let expected = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>{message}</Message><RequestId>{id}</RequestId><HostId>files.test</HostId></Error>"
    );
    assert_eq!(body, expected);
    assert!(!message.is_empty() && !message.contains(['<', '>', '"']));
    assert!(!body.contains(|c: char| c.is_control() && c != '\n'));
    message.to_owned()
}

/// Waits until `tmp/` is empty: a dropped upload is removed in the background.
#[track_caller]
fn assert_nothing_stays(server: &TestServer) {
    poll("tmp/ to be empty", || server.files_in("tmp").is_empty());
    let objects = server.files_in("objects");
    assert!(objects.is_empty(), "{objects:?}");
}

/// Checks that a form is stored and opens as it was sent.
#[track_caller]
fn check_stored(server: &TestServer, what: &str, change: impl FnOnce(Fields) -> Form) {
    println!("{what}");
    let ticket = ticket(server);
    let answer = post(server, &file(change(fields_of(&ticket))));
    assert_stored(server, &ticket, &answer, b"hello");
}

/// In any case too, with an empty callback or none.
#[test]
fn accepts_fields_in_any_order() {
    let server = TestServer::start();
    let mut random = Random::new();
    check_stored(&server, "as issued", |fields| form_of(&fields));
    let renamed = |to: fn(&str) -> String| {
        move |mut fields: Fields| {
            for (name, _) in &mut fields {
                *name = to(name);
            }
            form_of(&fields)
        }
    };
    check_stored(&server, "upper case", renamed(str::to_ascii_uppercase));
    check_stored(&server, "lower case", renamed(str::to_ascii_lowercase));
    check_stored(
        &server,
        "as in the vendor's samples",
        renamed(|name| match name {
            "signature" => "Signature".into(),
            "policy" => "Policy".into(),
            "key" => "KEY".into(),
            name => name.into(),
        }),
    );
    check_stored(&server, "no callback", |mut fields| {
        fields.retain(|(name, _)| name != "callback");
        form_of(&fields)
    });
    check_stored(&server, "a field twice with one value", |mut fields| {
        fields.extend(fields.clone());
        form_of(&fields)
    });
    check_stored(&server, "fields that nobody asked for", |fields| {
        form_of(&fields)
            .field("x:user", "蓝莺 <&>\"'")
            .field("success_action_redirect", "https://evil.example/")
            .field("file2", "")
            .field("", "no name")
    });
    for round in 0..20 {
        check_stored(&server, &format!("shuffled {round}"), |mut fields| {
            for end in (1..fields.len()).rev() {
                fields.swap(end, random.below(end + 1));
            }
            form_of(&fields)
        });
    }
}

#[test]
fn ignores_other_headers_and_query() {
    let server = TestServer::start();
    for (query, headers) in [
        ("?x=y", &[][..]),
        ("?app_id=other&access-token=bad&policy=x&key=y", &[]),
        ("?success_action_status=204", &[]),
        ("", &[("access-token", "nonsense"), ("app_id", "other")]),
        ("", &[("Authorization", "OSS nonsense:nonsense")]),
        ("/", &[("x-oss-forbid-overwrite", "true"), ("user_id", "?")]),
        ("", &[("Content-MD5", "x"), ("thumbnail-width", "1")]),
        ("", &[("restrict-access", "true"), ("share-secret", "x")]),
    ] {
        let ticket = ticket(&server);
        let form = file(ticket_form(&ticket));
        let content_type = form.content_type();
        let mut all = vec![("Content-Type", content_type.as_str())];
        all.extend_from_slice(headers);
        let path = format!("{FORM_PATH}{query}");
        let answer = server.request("POST", &path, &all, &form.bytes());
        assert_stored(&server, &ticket, &answer, b"hello");
    }
}

#[test]
fn reads_file_part_of_all_clients() {
    let server = TestServer::start();
    for (head, file_name) in [
        (
            "Content-Disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\nContent-Type: application/octet-stream\r\n",
            Some("filename=\"a.bin\""),
        ),
        ("Content-Disposition: form-data; name=\"file\"\r\n", None),
        (
            "content-disposition: form-data; name=\"FILE\"; filename=\"a.bin\"\r\n",
            Some("filename=\"a.bin\""),
        ),
        (
            "Content-Disposition: form-data; name=\"file\"; filename=\"照片 1.bin\"\r\n",
            Some("filename*=UTF-8''%E7%85%A7%E7%89%87%201.bin"),
        ),
        (
            "Content-Disposition: form-data; name=\"file\"; filename=\"\"\r\n",
            None,
        ),
        (
            "Content-Disposition: form-data; name=\"file\"; filename=\"../../a.bin\"\r\nContent-Transfer-Encoding: binary\r\n",
            Some("filename=\"a.bin\""),
        ),
    ] {
        let ticket = ticket(&server);
        let answer = post(&server, &ticket_form(&ticket).part(head, b"hello"));
        let download = assert_stored(&server, &ticket, &answer, b"hello");
        let disposition = download.header("content-disposition").unwrap_or_default();
        match file_name {
            Some(name) => assert!(disposition.contains(name), "{head}: {disposition}"),
            None => assert!(!disposition.contains("a.bin"), "{head}: {disposition}"),
        }
    }
}

/// The form's field, then the part's; the bytes overrule both.
#[test]
fn content_type_precedence() {
    let server = TestServer::start();
    let own = &b"\x01\x02\x03\x00\xfe"[..];
    let photo = photo();
    for (field, part, bytes, expected) in [
        (None, Some("application/x-part"), own, "application/x-part"),
        (
            Some("application/x-field"),
            None,
            own,
            "application/x-field",
        ),
        (
            Some("application/x-field"),
            Some("application/x-part"),
            own,
            "application/x-field",
        ),
        (None, None, own, "application/octet-stream"),
        // Clients recognise an error by this type, so no file is sent with it.
        (
            Some("application/json"),
            None,
            own,
            "application/octet-stream",
        ),
        (
            None,
            Some("Application/JSON; charset=utf-8"),
            own,
            "application/octet-stream",
        ),
        (Some("text/html"), Some("image/png"), &photo, "image/jpeg"),
    ] {
        let ticket = ticket(&server);
        let mut form = ticket_form(&ticket);
        if let Some(field) = field {
            form = form.field("Content-Type", field);
        }
        let mut head = "Content-Disposition: form-data; name=\"file\"\r\n".to_owned();
        if let Some(part) = part {
            head.push_str(&format!("Content-Type: {part}\r\n"));
        }
        let answer = post(&server, &form.part(&head, bytes));
        let download = assert_stored(&server, &ticket, &answer, bytes);
        assert_eq!(
            download.header("content-type"),
            Some(expected),
            "{field:?} {part:?}"
        );
    }
}

#[test]
fn accepts_submit_button_after_file() {
    let server = TestServer::start();
    for name in ["submit", "Submit"] {
        let ticket = ticket(&server);
        let form = file(ticket_form(&ticket)).field(name, "Upload to OSS");
        let answer = post(&server, &form);
        assert_stored(&server, &ticket, &answer, b"hello");
    }
}

#[test]
fn every_file_type_has_working_ticket() {
    let server = TestServer::start();
    let alice = server.lanying("alice");
    for file_type in [
        "100", "101", "102", "103", "104", "200", "201", "202", "203",
    ] {
        let ticket = alice.ticket(file_type, "bob", "1");
        let answer = post(&server, &file(ticket_form(&ticket)));
        assert_stored(&server, &ticket, &answer, b"hello");
    }
    let group = alice.ticket("100", "a-group", "2");
    let answer = post(&server, &file(ticket_form(&group)));
    assert_stored(&server, &group, &answer, b"hello");
}

#[test]
fn upload_url_states_limits() {
    let server = TestServer::start();
    let ticket = ticket(&server);
    let url = format!("http://files.test{FORM_PATH}");
    assert_eq!(ticket["upload_url"], url.as_str());
    assert_eq!(ticket["oss_body_param"]["OSSAccessKeyId"], APP_ID);
    let key = text(&ticket["oss_body_param"]["key"]);
    let policy = signed::policy_of(&ticket);
    assert_eq!(
        policy["conditions"],
        serde_json::json!([
            ["eq", "$bucket", APP_ID],
            ["eq", "$key", key],
            ["content-length-range", 1, 10_485_760]
        ])
    );
    assert_eq!(ticket["max_size"], 10_485_760);
}
