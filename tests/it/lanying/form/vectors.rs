//! Forms signed by the vendor's own signer; `tests/data/oss/make.mjs` generates them.

use serde_json::Value;

use super::{
    Fields, STORED, assert_nothing_stays, assert_xml, form_of, post,
    signed::{self, UPLOAD_KEY},
};
use crate::support::{Answer, Form, TestServer, lanying::APP_ID};

const VECTORS: &str = include_str!("../../../data/oss/vectors.json");
/// A length that every policy allows.
const FILE: &[u8] = b"a file of some thirty bytes ...";

/// The files are of a day of 2026 and have unlimited retention.
fn server() -> TestServer {
    TestServer::with(&signed::configuration("", "chatfile_days = 0"))
}

fn vectors() -> Vec<Value> {
    let all: Value = serde_json::from_str(VECTORS).unwrap();
    assert_eq!(all["accessKeyId"], APP_ID);
    assert_eq!(all["accessKeySecret"], UPLOAD_KEY);
    let cases = all["cases"].as_array().unwrap().clone();
    assert!(cases.len() >= 9, "{}", cases.len());
    cases
}

fn fields(vector: &Value) -> Fields {
    let fields = vector["fields"].as_object().unwrap();
    fields
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect()
}

fn is_free(vector: &Value, name: &str) -> bool {
    let free = vector["free"].as_array().unwrap();
    free.iter().any(|free| free == name)
}

fn form(fields: &Fields) -> Form {
    form_of(fields).file("a.bin", "application/octet-stream", FILE)
}

/// Checks the expected success of a vector, and that the file opens with a link signed here.
#[track_caller]
fn assert_success(server: &TestServer, vector: &Value, answer: &Answer) {
    let (name, status) = (&vector["name"], &vector["expect"]["success"]);
    let body = answer.text();
    assert_eq!(Value::from(answer.status), *status, "{name}: {body}");
    let key = vector["fields"]["key"].as_str().unwrap();
    let etag = answer.header("etag").unwrap().replace('"', "&quot;");
    let (content_type, expected) = match answer.status {
        201 => (
            Some("application/xml"),
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<PostResponse><Bucket>{APP_ID}</Bucket>\
                 <Location>http://files.test/file/oss/{APP_ID}/{key}</Location><Key>{key}</Key>\
                 <ETag>{etag}</ETag></PostResponse>"
            ),
        ),
        204 => (None, String::new()),
        _ => (Some("application/json"), STORED.to_owned()),
    };
    assert_eq!(answer.header("content-type"), content_type, "{name}");
    assert_eq!(body, expected, "{name}");
    let call = format!("download/chat?file_sign={}", signed::file_sign(key));
    let download = server.lanying("bob").get(&call);
    assert_eq!(download.status, 200, "{name}: {}", download.text());
    assert!(download.body == FILE, "{name}: {}", download.text());
}

#[test]
fn accepts_forms_signed_by_vendor() {
    let server = server();
    for vector in vectors() {
        let answer = post(&server, &form(&fields(&vector)));
        if vector["expect"]["error"] == "AccessDenied" {
            let message = assert_xml(&answer, 403, "AccessDenied");
            assert_eq!(message, "Invalid according to Policy: Policy expired.");
        } else {
            assert_success(&server, &vector, &answer);
        }
    }
}

#[test]
fn changed_bound_field_is_refused() {
    for vector in vectors() {
        if vector["expect"]["error"].is_string() {
            continue;
        }
        let server = server();
        let fields = fields(&vector);
        for (name, value) in fields.iter().filter(|(name, _)| !is_free(&vector, name)) {
            let shorter: String = value.chars().skip(1).collect();
            for changed in [format!("~{value}"), shorter, String::new()] {
                let changed = super::with(&fields, name, &changed);
                let answer = post(&server, &form(&changed));
                let code = match name.to_ascii_lowercase().as_str() {
                    "ossaccesskeyid" => "InvalidAccessKeyId",
                    "policy" | "signature" => "SignatureDoesNotMatch",
                    _ => "AccessDenied",
                };
                let message = assert_xml(&answer, 403, code);
                assert!(
                    code != "AccessDenied"
                        || message.starts_with("Invalid according to Policy: Policy Condition"),
                    "{message}"
                );
                assert_nothing_stays(&server);
            }
        }
        let answer = post(&server, &form(&fields));
        assert_success(&server, &vector, &answer);
    }
}

#[test]
fn changed_unbound_field_is_ignored() {
    let mut changed = 0;
    for vector in vectors() {
        let fields = fields(&vector);
        for (name, value) in fields.iter().filter(|(name, _)| is_free(&vector, name)) {
            let server = server();
            let other = super::with(&fields, name, &format!("~{value}"));
            let answer = post(&server, &form(&other));
            assert_success(&server, &vector, &answer);
            changed += 1;
        }
    }
    assert!(changed >= 4, "{changed}");
}

#[test]
fn vendor_policy_range_is_enforced() {
    let server = server();
    let vector = vectors()
        .into_iter()
        .find(|vector| vector["expect"]["bytes"] == serde_json::json!([10, 1000]));
    let fields = fields(&vector.expect("a vector with a range"));
    for (bytes, status, code) in [
        (0, 400, "EntityTooSmall"),
        (9, 400, "EntityTooSmall"),
        (1001, 400, "EntityTooLarge"),
        (200_000, 400, "EntityTooLarge"),
    ] {
        let form = form_of(&fields).file("a", "image/jpeg", &vec![7; bytes]);
        assert_xml(&post(&server, &form), status, code);
        assert_nothing_stays(&server);
    }
    let form = form_of(&fields).file("a", "image/jpeg", &[7; 1000]);
    assert_eq!(post(&server, &form).status, 200);
}
