//! Policies signed by the test, following the documentation.

use base64::{Engine, engine::general_purpose::STANDARD};
use chatfiles::store::{Class, Key, ObjectId};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::Sha256;

use super::Fields;
use crate::support::{
    TestServer,
    lanying::{APP_ID, text},
};

/// The key of `tests/data/oss/vectors.json`.
pub(super) const UPLOAD_KEY: &str = "upload-key-of-the-tests-0123456789";
const LINK_KEY: &str = "link-key-of-the-tests-0123456789";

/// A configuration with known keys: `before` has other sections, `more` tenant settings.
pub(in crate::lanying) fn configuration(before: &str, more: &str) -> String {
    format!(
        "{before}\n[[tenant]]\norg = \"easemob-demo\"\napp = \"chatdemoui\"\napp_id = \"{APP_ID}\"\n\
         upload_key = \"{UPLOAD_KEY}\"\nlink_key = \"{LINK_KEY}\"\n{more}\n"
    )
}

pub(super) fn server() -> TestServer {
    TestServer::with(&configuration("", ""))
}

/// A key for a new file at the server's time.
pub(in crate::lanying) fn new_key(server: &TestServer) -> Key {
    let mut random = [0; 10];
    getrandom::fill(&mut random).unwrap();
    Key::of(Class::Chatfile, ObjectId::new(server.clock.now(), &random))
}

/// The form of a policy with these conditions and a distant expiration.
pub(in crate::lanying) fn with_conditions(key: &str, conditions: Value) -> Fields {
    let policy = json!({ "expiration": "2999-12-31T23:59:59.000Z", "conditions": conditions });
    with_policy(key, policy.to_string().as_bytes())
}

/// The form of a policy with this text.
pub(super) fn with_policy(key: &str, policy: &[u8]) -> Fields {
    with_encoded(key, &STANDARD.encode(policy))
}

/// The form of an encoded policy.
pub(super) fn with_encoded(key: &str, policy: &str) -> Fields {
    let mut mac = Hmac::<Sha1>::new_from_slice(UPLOAD_KEY.as_bytes()).unwrap();
    mac.update(policy.as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    [
        ("OSSAccessKeyId", APP_ID),
        ("policy", policy),
        ("signature", &signature),
        ("key", key),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// The decoded policy of a ticket.
pub(super) fn policy_of(ticket: &Value) -> Value {
    let policy = text(&ticket["oss_body_param"]["policy"]);
    serde_json::from_slice(&STANDARD.decode(policy).unwrap()).unwrap()
}

/// A `file_sign` from alice to bob in the documented format.
pub(super) fn file_sign(key: &str) -> String {
    let tuple = format!("alice|bob|{key}|1");
    let mut mac = Hmac::<Sha256>::new_from_slice(LINK_KEY.as_bytes()).unwrap();
    mac.update(format!("file_sign\0lanying\0{APP_ID}\0{tuple}").as_bytes());
    let mac = mac.finalize().into_bytes();
    let digits: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    // 32 digits, plus as many as make the total a multiple of three bytes.
    let len = (32..=34)
        .find(|len| (tuple.len() + 1 + len).is_multiple_of(3))
        .unwrap();
    STANDARD.encode(format!("{tuple}|{}", &digits[..len]))
}
