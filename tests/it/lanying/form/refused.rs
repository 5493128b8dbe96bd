//! Refusals in OSS's format before any access to the store.

use std::time::Duration;

use super::{
    FORM_PATH, Fields, assert_nothing_stays, assert_xml, fields_of, file, form_of, post,
    recorded::Recorded, signed, ticket, with,
};
use crate::support::{TestServer, lanying::ticket_form};

#[test]
fn ticket_lasts_twenty_minutes() {
    let recorded = Recorded::start();
    let server = &recorded.server;
    let [early, late] = [ticket(server), ticket(server)];
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes).as_millis() as i64;
    server.clock.advance(minutes(20));
    let message = recorded.check_fields("late", &fields_of(&late), 403, "AccessDenied");
    assert_eq!(message, "Invalid according to Policy: Policy expired.");
    server.clock.advance(-minutes(1));
    assert_eq!(post(server, &file(ticket_form(&early))).status, 200);
}

#[test]
fn wrong_signatures_are_refused() {
    let recorded = Recorded::start();
    let server = &recorded.server;
    let (mine, other) = (fields_of(&ticket(server)), fields_of(&ticket(server)));
    let of = |fields: &Fields, name: &str| {
        let field = fields.iter().find(|(given, _)| given == name);
        field.unwrap().1.clone()
    };
    let signature = of(&mine, "signature");
    let turned: String = signature
        .chars()
        .map(|c| {
            if c.is_uppercase() {
                c.to_ascii_lowercase()
            } else {
                c.to_ascii_uppercase()
            }
        })
        .collect();
    for (what, name, value, code) in [
        (
            "another's signature",
            "signature",
            of(&other, "signature"),
            "SignatureDoesNotMatch",
        ),
        (
            "another's policy",
            "policy",
            of(&other, "policy"),
            "SignatureDoesNotMatch",
        ),
        (
            "a signature in another case",
            "signature",
            turned,
            "SignatureDoesNotMatch",
        ),
        (
            "a line end behind it",
            "signature",
            format!("{signature}\r\n"),
            "SignatureDoesNotMatch",
        ),
        (
            "a line end behind the policy",
            "policy",
            of(&mine, "policy") + "\r\n",
            "SignatureDoesNotMatch",
        ),
        (
            "no signature",
            "signature",
            String::new(),
            "SignatureDoesNotMatch",
        ),
        ("another's key", "key", of(&other, "key"), "AccessDenied"),
        (
            "the key and more",
            "key",
            of(&mine, "key") + "/x",
            "AccessDenied",
        ),
        (
            "a key with a NUL",
            "key",
            of(&mine, "key") + "\0",
            "AccessDenied",
        ),
        (
            "an unknown id",
            "OSSAccessKeyId",
            "nobody".to_owned(),
            "InvalidAccessKeyId",
        ),
        (
            "the id in another case",
            "OSSAccessKeyId",
            "WeLoveMaxim".to_owned(),
            "InvalidAccessKeyId",
        ),
        (
            "an empty id",
            "OSSAccessKeyId",
            String::new(),
            "InvalidAccessKeyId",
        ),
    ] {
        recorded.check_fields(what, &with(&mine, name, &value), 403, code);
    }
    for name in ["OSSAccessKeyId", "policy", "signature", "key"] {
        let mut fields = mine.clone();
        fields.retain(|(given, _)| given != name);
        let message = recorded.check_fields(name, &fields, 400, "MalformedPOSTRequest");
        assert_eq!(message, format!("the field {name} is missing."));
    }
}

#[test]
fn tenants_sign_with_own_keys() {
    let more = "[[tenant]]\norg = \"o\"\napp = \"a\"\napp_id = \"other\"";
    let server = TestServer::with(&signed::configuration("", more));
    let fields = fields_of(&ticket(&server));
    for (fields, code) in [
        (fields.clone(), "InvalidAccessKeyId"),
        (
            with(&fields, "OSSAccessKeyId", "other"),
            "SignatureDoesNotMatch",
        ),
    ] {
        let form = file(form_of(&fields));
        let content_type = form.content_type();
        let headers = [("Content-Type", content_type.as_str())];
        let answer = server.request("POST", "/file/oss/other", &headers, &form.bytes());
        assert_xml(&answer, 403, code);
        assert_nothing_stays(&server);
    }
}

#[test]
fn unknown_bucket_and_method_are_refused() {
    let more = "[[tenant]]\norg = \"o\"\napp = \"a\"";
    let server = TestServer::with(&signed::configuration("", more));
    let form = file(ticket_form(&ticket(&server)));
    let content_type = form.content_type();
    let headers = [("Content-Type", content_type.as_str())];
    for (path, code) in [
        ("/file/oss/nobody", "NoSuchBucket"),
        ("/file/oss/WELOVEMAXIM", "NoSuchBucket"),
        ("/file/oss/chatdemoui", "NoSuchBucket"),
        ("/file/oss/a?app_id=welovemaxim", "NoSuchBucket"),
        ("/file/oss", "NoSuchKey"),
        ("/file/oss/welovemaxim/x", "NoSuchKey"),
    ] {
        let answer = server.request("POST", path, &headers, &form.bytes());
        assert_xml(&answer, 404, code);
        assert_nothing_stays(&server);
    }
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        let answer = server.request(method, FORM_PATH, &headers, &form.bytes());
        assert_xml(&answer, 405, "MethodNotAllowed");
        assert_eq!(answer.header("allow"), Some("POST, OPTIONS"), "{method}");
        assert_nothing_stays(&server);
    }
    let answer = server.request("HEAD", FORM_PATH, &[], b"");
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, Some("POST, OPTIONS"))
    );
    assert!(answer.body.is_empty());
}
