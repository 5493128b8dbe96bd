//! Policies by the vendor's signer, by ours and by nobody's. `tests/data/oss/make.mjs` makes the vectors.

use serde_json::Value;

use super::{
    document::{CONDITIONS_MAX, POLICY_BYTES_MAX},
    fields::FIELDS_BYTES_MAX,
    *,
};
use crate::secret::Secret;

const VECTORS: &str = include_str!("../../../../tests/data/oss/vectors.json");
const BUCKET: &str = "welovemaxim";
const ACCESS_KEY: &str = "welovemaxim";
const KEY: &str = "chatfile.2026-11-25.01a21037-7680-711d-92b1-561d1a151141";
/// 2026-11-25T12:00:00Z
const NOW: Timestamp = Timestamp::from_secs(1_795_608_000);

fn secret() -> SecretKey {
    key("upload-key-of-the-tests-0123456789")
}

fn key(text: &str) -> SecretKey {
    SecretKey::new(Secret::new(text)).unwrap()
}

fn fields<'a>(list: impl IntoIterator<Item = (&'a str, &'a str)>) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in list {
        fields.insert(name, value.to_owned()).unwrap();
    }
    fields
}

fn check_at(fields: &Fields, now: Timestamp) -> Result<Accepted> {
    check(fields, BUCKET, ACCESS_KEY, &secret(), now)
}

/// A form with this policy, well signed, and these fields beside `key`.
fn post(policy: &str, more: &[(&str, &str)]) -> Result<Accepted> {
    let policy = STANDARD.encode(policy);
    let signature = sign(&policy, &secret());
    let own = [
        ("OSSAccessKeyId", ACCESS_KEY),
        ("policy", &policy),
        ("signature", &signature),
        ("key", KEY),
    ];
    check_at(&fields(own.into_iter().chain(more.iter().copied())), NOW)
}

/// As [`post`], with these conditions.
fn conditions(conditions: &str, more: &[(&str, &str)]) -> Result<Accepted> {
    let policy =
        format!(r#"{{"expiration":"2099-01-01T00:00:00.000Z","conditions":{conditions}}}"#);
    post(&policy, more)
}

fn kind<T>(result: Result<T>) -> Option<Kind> {
    result.err().map(|error| error.kind())
}

const DOCUMENT: Option<Kind> = Some(Kind::Policy(PolicyFault::Document));
const DENIED: Option<Kind> = Some(Kind::Policy(PolicyFault::Denied));
const SIGNATURE: Option<Kind> = Some(Kind::Policy(PolicyFault::Signature));
const ACCESS: Option<Kind> = Some(Kind::Policy(PolicyFault::AccessKey));

fn vectors() -> Vec<Value> {
    let all: Value = serde_json::from_str(VECTORS).unwrap();
    assert_eq!(all["accessKeyId"], ACCESS_KEY);
    assert!(secret().equals(all["accessKeySecret"].as_str().unwrap()));
    all["cases"].as_array().unwrap().clone()
}

fn vector_fields(vector: &Value) -> Vec<(&str, &str)> {
    let fields = vector["fields"].as_object().unwrap();
    fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
        .collect()
}

#[test]
fn accepts_form_of_vendors_signer() {
    let vectors = vectors();
    assert!(vectors.len() >= 8);
    for vector in &vectors {
        let (name, expect) = (&vector["name"], &vector["expect"]);
        assert_eq!(vector["bucket"], BUCKET);
        let result = check_at(&fields(vector_fields(vector)), NOW);
        if expect["error"] == "AccessDenied" {
            assert_eq!(kind(result), DENIED, "{name}");
            continue;
        }
        let accepted = result.unwrap();
        assert_eq!(vector["fields"]["key"], accepted.object, "{name}");
        let status = match accepted.success {
            Success::Ok200 => 200,
            Success::Created201 => 201,
            Success::NoContent204 => 204,
        };
        assert_eq!(expect["success"], status, "{name}");
        let bytes = match expect["bytes"].as_array() {
            Some(range) => range[0].as_u64().unwrap()..=range[1].as_u64().unwrap(),
            None => 0..=u64::MAX,
        };
        assert_eq!(accepted.bytes, bytes, "{name}");
        assert_eq!(
            expect["owner"].as_str(),
            accepted.owner.as_deref(),
            "{name}"
        );
        assert_eq!(
            expect["recipient"].as_str(),
            accepted.recipient.as_deref(),
            "{name}"
        );
    }
}

#[test]
fn rejects_changed_bound_field() {
    for vector in vectors() {
        if vector["expect"]["error"].is_string() {
            continue;
        }
        let list = vector_fields(&vector);
        for (at, (name, value)) in list.iter().enumerate() {
            let changed = format!("~{value}");
            let mut list = list.clone();
            list[at].1 = &changed;
            let is_free = vector["free"]
                .as_array()
                .unwrap()
                .contains(&Value::from(*name));
            let expected = match name.to_ascii_lowercase().as_str() {
                "ossaccesskeyid" => ACCESS,
                "policy" | "signature" => SIGNATURE,
                _ if is_free => None,
                _ => DENIED,
            };
            let result = check_at(&fields(list), NOW);
            assert_eq!(kind(result), expected, "{}: {name}", vector["name"]);
        }
    }
}

#[test]
fn names_missing_field() {
    for vector in vectors() {
        let list = vector_fields(&vector);
        for name in ["OSSAccessKeyId", "policy", "signature", "key"] {
            let rest = list
                .iter()
                .copied()
                .filter(|(field, _)| !field.eq_ignore_ascii_case(name));
            let error = check_at(&fields(rest), NOW).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument);
            let text = error.public_text().unwrap();
            assert_eq!(text, format!("the field {name} is missing."));
        }
    }
}

fn ticket(recipient: Option<&str>) -> Ticket<'_> {
    Ticket {
        bucket: BUCKET,
        object: KEY,
        bytes_max: 10_485_760,
        expires: NOW,
        owner: "alice",
        recipient,
    }
}

/// The form of an issued ticket.
fn form<'a>(signed: &'a Signed, object: &'a str) -> Fields {
    fields([
        ("OSSAccessKeyId", ACCESS_KEY),
        ("policy", &signed.policy),
        ("signature", &signed.signature),
        ("callback", ""),
        ("key", object),
    ])
}

#[test]
fn accepts_issued_policy_until_expiry() {
    for recipient in [Some("bob"), None] {
        let signed = issue(&ticket(recipient), &secret());
        let form = form(&signed, KEY);
        let accepted = check_at(&form, Timestamp::from_ms(NOW.ms() - 1)).unwrap();
        let expected = Accepted {
            object: KEY.to_owned(),
            bytes: 1..=10_485_760,
            success: Success::Ok200,
            owner: Some("alice".to_owned()),
            recipient: recipient.map(str::to_owned),
            expires: NOW,
        };
        assert_eq!(accepted, expected);
        let error = check_at(&form, NOW).unwrap_err();
        assert_eq!(Some(error.kind()), DENIED);
        assert_eq!(
            error.public_text(),
            Some("Invalid according to Policy: Policy expired.")
        );
    }
}

#[test]
fn issues_same_bytes_as_vendors_signer() {
    let vectors = vectors();
    let vector = vectors
        .iter()
        .find(|vector| vector["expect"]["owner"].is_string())
        .unwrap();
    let ticket = Ticket {
        object: vector["fields"]["key"].as_str().unwrap(),
        // A part of a second is cut.
        expires: Timestamp::from_ms(4_102_444_799_999),
        ..ticket(Some("bob"))
    };
    let signed = issue(&ticket, &secret());
    assert_eq!(vector["fields"]["policy"], signed.policy);
    assert_eq!(vector["fields"]["signature"], signed.signature);
}

#[test]
fn keeps_names_that_json_escapes() {
    let owner = "a\"\\\n/\u{1}é🎉";
    let ticket = Ticket {
        owner,
        recipient: Some("</script>"),
        expires: NOW.plus_days(1),
        ..ticket(None)
    };
    let signed = issue(&ticket, &secret());
    let accepted = check_at(&form(&signed, KEY), NOW).unwrap();
    assert_eq!(accepted.owner.as_deref(), Some(owner));
    assert_eq!(accepted.recipient.as_deref(), Some("</script>"));
}

#[test]
fn rejects_any_changed_byte() {
    let ticket = Ticket {
        expires: NOW.plus_days(1),
        ..ticket(Some("bob"))
    };
    let signed = issue(&ticket, &secret());
    let accepted = |policy: &str, signature: &str| {
        let form = fields([
            ("OSSAccessKeyId", ACCESS_KEY),
            ("policy", policy),
            ("signature", signature),
            ("key", KEY),
        ]);
        kind(check_at(&form, NOW))
    };
    assert_eq!(accepted(&signed.policy, &signed.signature), None);
    for at in 0..signed.policy.len() {
        let policy = changed(&signed.policy, at);
        assert_eq!(accepted(&policy, &signed.signature), SIGNATURE, "{at}");
    }
    for at in 0..signed.signature.len() {
        let signature = changed(&signed.signature, at);
        assert_eq!(accepted(&signed.policy, &signature), SIGNATURE, "{at}");
        assert_eq!(accepted(&signed.policy, &signed.signature[..at]), SIGNATURE);
    }
    let longer = format!("{}=", signed.signature);
    assert_eq!(accepted(&signed.policy, &longer), SIGNATURE);
    let other = key("another-upload-key-of-the-tests");
    let result = check(&form(&signed, KEY), BUCKET, ACCESS_KEY, &other, NOW);
    assert_eq!(kind(result), SIGNATURE);
}

/// The text with one byte turned into another of base64.
fn changed(text: &str, at: usize) -> String {
    let other = if text.as_bytes()[at] == b'A' {
        "B"
    } else {
        "A"
    };
    format!("{}{other}{}", &text[..at], &text[at + 1..])
}

#[test]
fn checks_signature_before_policy() {
    let form = fields([
        ("OSSAccessKeyId", ACCESS_KEY),
        ("policy", "no policy at all"),
        ("signature", "AAAA"),
        ("key", KEY),
    ]);
    assert_eq!(kind(check_at(&form, NOW)), SIGNATURE);
}

#[test]
fn compares_field_names_without_case() {
    let signed = issue(&ticket(None), &secret());
    let form = fields([
        ("ossaccesskeyid", ACCESS_KEY),
        ("POLICY", &signed.policy),
        ("Signature", &signed.signature),
        ("Key", KEY),
    ]);
    let before = Timestamp::from_ms(NOW.ms() - 1);
    assert_eq!(check_at(&form, before).unwrap().object, KEY);
}

#[test]
fn conditions_accept_only_their_values() {
    for (list, more, is_met) in [
        (r#"{"x:a":"1"}"#, &[("x:a", "1")][..], true),
        (r#"{"X:A":"1"}"#, &[("x:a", "1")], true),
        (r#"{"x:a":"1"}"#, &[("x:a", "2")], false),
        (r#"{"x:a":"a"}"#, &[("x:a", "A")], false),
        (r#"{"x:a":"1"}"#, &[], false),
        (r#"{"x:a":""}"#, &[("x:a", "")], true),
        (r#"{"x:a":""}"#, &[], false),
        (r#"["eq","$x:a","1"]"#, &[("x:a", "1")], true),
        (r#"["eq","$X:a","1"]"#, &[("x:A", "1")], true),
        (r#"["eq","$x:a","1"]"#, &[("x:a", "11")], false),
        (r#"["eq","$x:a","1"]"#, &[], false),
        (
            r#"["starts-with","$x:a","im"]"#,
            &[("x:a", "image/png")],
            true,
        ),
        (r#"["starts-with","$x:a","im"]"#, &[("x:a", "im")], true),
        (r#"["starts-with","$x:a","im"]"#, &[("x:a", "i")], false),
        (r#"["starts-with","$x:a","im"]"#, &[("x:a", "xim")], false),
        (r#"["starts-with","$x:a",""]"#, &[("x:a", "anything")], true),
        (r#"["starts-with","$x:a",""]"#, &[("x:a", "")], true),
        (r#"["starts-with","$x:a",""]"#, &[], false),
        (r#"["in","$x:a",["1","2"]]"#, &[("x:a", "2")], true),
        (r#"["in","$x:a",["1","2"]]"#, &[("x:a", "3")], false),
        (r#"["in","$x:a",["1","2"]]"#, &[], false),
        (r#"["in","$x:a",[]]"#, &[("x:a", "")], false),
        (r#"["not-in","$x:a",["1","2"]]"#, &[("x:a", "3")], true),
        (r#"["not-in","$x:a",["1","2"]]"#, &[("x:a", "2")], false),
        (r#"["not-in","$x:a",["1","2"]]"#, &[], true),
        (r#"["not-in","$x:a",[]]"#, &[("x:a", "1")], true),
        (r#"{"bucket":"welovemaxim"}"#, &[], true),
        (r#"["eq","$Bucket","welovemaxim"]"#, &[], true),
        (r#"["starts-with","$bucket","we"]"#, &[], true),
        (r#"{"bucket":"other"}"#, &[], false),
        (r#"{"bucket":"other"}"#, &[("bucket", "other")], false),
        (r#"{"$key":"a"}"#, &[], false),
    ] {
        let expected = if is_met { None } else { DENIED };
        let result = conditions(&format!("[{list}]"), more);
        assert_eq!(kind(result), expected, "{list} {more:?}");
        // One that is not met is not made good by others.
        let both = format!(r#"[["starts-with","$key","chatfile."],{list},["not-in","$y",[]]]"#);
        assert_eq!(kind(conditions(&both, more)), expected, "{both}");
    }
}

#[test]
fn a_denial_names_the_condition() {
    for (list, expected) in [
        (r#"{"x:a":"1"}"#, r#"["eq", "$x:a", "1"]"#),
        (r#"["eq","$key","a\"b"]"#, r#"["eq", "$key", "a\"b"]"#),
        (
            r#"["starts-with","$Key","b"]"#,
            r#"["starts-with", "$Key", "b"]"#,
        ),
        (r#"["in","$x",["1","2"]]"#, r#"["in", "$x", ["1","2"]]"#),
        (
            r#"["not-in","$bucket",["welovemaxim"]]"#,
            r#"["not-in", "$bucket", ["welovemaxim"]]"#,
        ),
    ] {
        let error = conditions(&format!("[{list}]"), &[]).unwrap_err();
        let prefix = "Invalid according to Policy: Policy Condition failed: ";
        assert_eq!(error.public_text(), Some(&*format!("{prefix}{expected}")));
    }
}

#[test]
fn shortens_repeated_text() {
    for list in [
        format!(r#"["eq","$x","{}"]"#, "é".repeat(4000)),
        format!(
            r#"["eq","$x{}","\u0000\r\n\u0085\u007f"]"#,
            r"\n\u0085".repeat(100)
        ),
        format!(r#"["{}","$x","1"]"#, "a".repeat(4000)),
        format!(r#""{}\u0007""#, r"\n".repeat(2000)),
    ] {
        let error = conditions(&format!("[{list}]"), &[]).unwrap_err();
        let text = error.public_text().unwrap();
        assert!(text.len() < SHOWN_BYTES_MAX + 80, "{text}");
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
}

#[test]
fn intersects_length_ranges() {
    for (list, expected) in [
        (r#"["eq","$key","K"]"#, 0..=u64::MAX),
        (r#"["content-length-range",0,0]"#, 0..=0),
        (r#"["content-length-range",1,10]"#, 1..=10),
        (
            r#"["content-length-range",1,18446744073709551615]"#,
            1..=u64::MAX,
        ),
        (
            r#"["content-length-range",1,10],["content-length-range",5,20]"#,
            5..=10,
        ),
        (
            r#"["content-length-range",5,20],["content-length-range",1,5]"#,
            5..=5,
        ),
    ] {
        let list = format!("[{}]", list.replace('K', KEY));
        assert_eq!(conditions(&list, &[]).unwrap().bytes, expected, "{list}");
    }
    let apart = r#"[["content-length-range",1,10],["content-length-range",11,20]]"#;
    assert_eq!(kind(conditions(apart, &[])), DOCUMENT);
}

#[test]
fn success_status_needs_a_condition() {
    const STATUS: &str = "success_action_status";
    for (list, sent, expected) in [
        (
            r#"["eq","$success_action_status","201"]"#,
            Some("201"),
            Success::Created201,
        ),
        (
            r#"{"Success_Action_Status":"204"}"#,
            Some("204"),
            Success::NoContent204,
        ),
        (
            r#"{"success_action_status":"200"}"#,
            Some("200"),
            Success::Ok200,
        ),
        (
            r#"["in","$success_action_status",["201","204"]]"#,
            Some("204"),
            Success::NoContent204,
        ),
        (
            r#"["starts-with","$success_action_status","3"]"#,
            Some("302"),
            Success::Ok200,
        ),
        (
            r#"["not-in","$success_action_status",["204"]]"#,
            None,
            Success::Ok200,
        ),
        (r#"["starts-with","$key",""]"#, Some("201"), Success::Ok200),
        (r#"["starts-with","$key",""]"#, Some("204"), Success::Ok200),
    ] {
        let more: Vec<_> = sent.map(|status| (STATUS, status)).into_iter().collect();
        let accepted = conditions(&format!("[{list}]"), &more).unwrap();
        assert_eq!(accepted.success, expected, "{list} {sent:?}");
    }
}

#[test]
fn rejects_malformed_conditions() {
    for list in [
        "",
        "{}",
        r#"{"key":"a","bucket":"b"}"#,
        r#"{"key":"a","key":"a"}"#,
        r#"{"key":1}"#,
        r#"{"key":null}"#,
        r#"{"key":["a"]}"#,
        "[]",
        "123",
        "null",
        r#""eq""#,
        r#"["$key"]"#,
        r#"["eq"]"#,
        r#"["eq","$key"]"#,
        r#"["eq","$key","a","b"]"#,
        r#"["eq","$key",["a"]]"#,
        r#"["eq","$key",1]"#,
        r#"["eq","key","a"]"#,
        r#"["eq","$","a"]"#,
        r#"["eq",1,"a"]"#,
        r#"["EQ","$key","a"]"#,
        r#"["ends-with","$key","a"]"#,
        r#"["regex","$key",".*"]"#,
        r#"["starts-with","$key",null]"#,
        r#"["starts-with","$key","a","test"]"#,
        r#"["in","$key","a"]"#,
        r#"["in","$key",["a",1]]"#,
        r#"["not-in","cache-control","no-cache"]"#,
        r#"["not-in","$cache-control","no-cache"]"#,
        r#"["content-length-range"]"#,
        r#"["content-length-range",1]"#,
        r#"["content-length-range",1,2,3]"#,
        r#"["content-length-range",2,1]"#,
        r#"["content-length-range",-1,1]"#,
        r#"["content-length-range",0,1.0]"#,
        r#"["content-length-range",0,1.5]"#,
        r#"["content-length-range",0,1e3]"#,
        r#"["content-length-range","0","1"]"#,
        r#"["content-length-range",0,18446744073709551616]"#,
        r#"["content-length-range",0,1e999]"#,
        r#"["content-length-range",0,null]"#,
        r#"["content-length-range","$key",0,1]"#,
    ] {
        assert_eq!(
            kind(conditions(&format!("[{list}]"), &[])),
            DOCUMENT,
            "{list}"
        );
    }
}

#[test]
fn rejects_malformed_policies() {
    const TIME: &str = r#""expiration":"2099-01-01T00:00:00.000Z""#;
    const LIST: &str = r#""conditions":[["starts-with","$key",""]]"#;
    let good = format!("{{{TIME},{LIST}}}");
    assert_eq!(kind(post(&good, &[])), None);
    assert_eq!(kind(post(&format!(" \n{good}\t"), &[])), None);
    assert_eq!(
        kind(post(&format!("{{{TIME},{LIST},\"a\":1,\"b\":[]}}"), &[])),
        None
    );
    let deep = |open: &str| format!("{{{TIME},{LIST},\"a\":{}", open.repeat(2000));
    let number = "9".repeat(8000);
    for policy in [
        "",
        "null",
        "[]",
        "{}",
        r#""text""#,
        &good[..good.len() - 1],
        &format!("{good}x"),
        &format!("{good}{good}"),
        &format!("\u{feff}{good}"),
        &format!("{{{TIME}}}"),
        &format!("{{{LIST}}}"),
        &format!("{{{TIME},\"conditions\":{{}}}}"),
        &format!("{{{TIME},\"conditions\":123}}"),
        &format!("{{{TIME},\"conditions\":null}}"),
        &format!("{{{TIME},{LIST},{LIST}}}"),
        &format!("{{{TIME},{TIME},{LIST}}}"),
        &format!("{{{TIME},{LIST},\"owner\":\"a\",\"owner\":\"b\"}}"),
        &format!("{{{TIME},{LIST},\"owner\":1}}"),
        &format!("{{{TIME},{LIST},\"recipient\":[]}}"),
        // In order, without names.
        r#"["2099-01-01T00:00:00.000Z",[["starts-with","$key",""]],null,null]"#,
        &deep("["),
        &deep("{\"a\":"),
        &format!("{{{TIME},\"conditions\":{}", "[".repeat(2000)),
        &format!("{{{TIME},\"conditions\":[[\"content-length-range\",0,{number}]]}}"),
        &format!("{{{TIME},\"conditions\":[{{\"key\":\"\\ud800\"}}]}}"),
    ] {
        assert_eq!(kind(post(policy, &[])), DOCUMENT, "{policy:.80}");
    }
}

#[test]
fn policy_is_standard_base64() {
    let signed = |policy: &str| {
        let signature = sign(policy, &secret());
        let form = fields([
            ("OSSAccessKeyId", ACCESS_KEY),
            ("policy", policy),
            ("signature", &signature),
            ("key", KEY),
        ]);
        kind(check_at(&form, NOW))
    };
    // 62 and 63 of the alphabet, and one padding.
    let json =
        r#"{"expiration":"2099-01-01T00:00:00Z","conditions":[["in","$key",["K","??>~~?>"]]]}"#;
    let good = STANDARD.encode(json.replace('K', KEY));
    assert!(good.contains('/') && good.ends_with('='), "{good}");
    assert_eq!(signed(&good), None);
    let latin_1 = b"{\"expiration\":\"2099-01-01T00:00:00Z\",\"conditions\":[{\"key\":\"\xe9\"}]}";
    for policy in [
        "",
        "====",
        "{}",
        &good.replace('/', "_"),
        good.trim_end_matches('='),
        &format!("{good}="),
        &format!("{good}\n"),
        &format!(" {good}"),
        &format!("{}\r\n{}", &good[..8], &good[8..]),
        &STANDARD.encode(latin_1),
    ] {
        assert_eq!(signed(policy), DOCUMENT, "{policy}");
    }
}

#[test]
fn expiration_is_utc_in_milliseconds() {
    let at = |text: &str, ms: i64| {
        let policy = STANDARD.encode(format!(
            r#"{{"expiration":{},"conditions":[["starts-with","$key",""]]}}"#,
            Value::from(text)
        ));
        let form = fields([
            ("OSSAccessKeyId", ACCESS_KEY),
            ("policy", &policy),
            ("signature", &sign(&policy, &secret())),
            ("key", KEY),
        ]);
        kind(check_at(&form, Timestamp::from_ms(NOW.ms() + ms)))
    };
    for (text, last_ms) in [
        ("2026-11-25T12:00:00Z", -1),
        ("2026-11-25T12:00:00.000Z", -1),
        ("2026-11-25T12:00:00.0Z", -1),
        ("2026-11-25T12:00:00.123Z", 122),
        ("2026-11-25T12:00:00.5Z", 499),
        ("2026-11-25T12:00:00.001999999Z", 0),
        ("2026-11-25T12:00:59.999Z", 59_998),
        ("2026-11-25T11:59:59.999Z", -2),
    ] {
        assert_eq!(at(text, last_ms), None, "{text}");
        assert_eq!(at(text, last_ms + 1), DENIED, "{text}");
    }
    assert_eq!(at("9999-12-31T23:59:59.999Z", 0), None);
    assert_eq!(at("1969-12-31T23:59:59Z", 0), DENIED);
    for text in [
        "",
        "Z",
        "T",
        "2099-01-01",
        "2099-01-01T00:00:00",
        "2099-01-01T00:00Z",
        "2099-01-01T00:00:00z",
        "2099-01-01t00:00:00Z",
        "2099-01-01 00:00:00Z",
        "2099-01-01T00:00:00+00:00",
        "2099-01-01T00:00:00+08:00",
        "2099-01-01T00:00:00.Z",
        "2099-01-01T00:00:00.0000000001Z",
        "2099-01-01T00:00:00.+01Z",
        "2099-01-01T00:00:00.00éZ",
        "2099-01-01T00:00:00,000Z",
        "2099-01-01T24:00:00Z",
        "2099-01-01T23:60:00Z",
        "2099-01-01T23:59:60Z",
        "2099-01-01T+1:00:00Z",
        "2099-01-01T-1:00:00Z",
        "2099-01-01T1:00:00Z",
        "2099-01-01T00:00:00:00Z",
        "2099-02-29T00:00:00Z",
        "2099-13-01T00:00:00Z",
        "2099-1-01T00:00:00Z",
        "20990101T000000Z",
        "+012099-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        " 2099-01-01T00:00:00Z",
        "2099-01-01T00:00:00Z\n",
        "Thu, 01 Jan 2099 00:00:00 GMT",
        "4070908800",
    ] {
        assert_eq!(at(text, 0), DOCUMENT, "{text}");
    }
}

#[test]
fn limits_conditions_and_bytes() {
    let many = |count: usize| {
        let list = vec![r#"["not-in","$a",[]]"#; count].join(",");
        kind(conditions(&format!("[{list}]"), &[]))
    };
    assert_eq!(many(CONDITIONS_MAX), None);
    assert_eq!(many(CONDITIONS_MAX + 1), DOCUMENT);
    let long = |bytes: usize| {
        let policy =
            r#"{"expiration":"2099-01-01T00:00:00.000Z","conditions":[["not-in","$a",[]]]}"#;
        let spaces = " ".repeat(bytes - policy.len());
        kind(post(&format!("{policy}{spaces}"), &[]))
    };
    assert_eq!(long(POLICY_BYTES_MAX / 4 * 3), None);
    assert_eq!(long(POLICY_BYTES_MAX / 4 * 3 + 1), DOCUMENT);
}

#[test]
fn rejects_field_with_two_values() {
    let mut fields = Fields::default();
    fields.insert("key", "a".into()).unwrap();
    fields.insert("Key", "a".into()).unwrap();
    assert_eq!(fields.get("KEY"), Some("a"));
    let error = fields.insert("kEy", "b".into()).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert_eq!(error.public_text(), Some("the field kEy is given twice."));
    assert_eq!(fields.get("key"), Some("a"));
    let name = format!("\r\n{}", "x".repeat(1000));
    fields.insert(&name, "1".into()).unwrap();
    let error = fields.insert(&name, "2".into()).unwrap_err();
    assert!(error.public_text().unwrap().len() < SHOWN_BYTES_MAX + 40);
}

#[test]
fn limits_bytes_of_fields() {
    let mut fields = Fields::default();
    assert_eq!(fields.bytes_left(), FIELDS_BYTES_MAX);
    fields
        .insert("abc", "x".repeat(FIELDS_BYTES_MAX - 13))
        .unwrap();
    assert_eq!(fields.bytes_left(), 10);
    assert_eq!(
        kind(fields.insert("name", "1234567".into())),
        Some(Kind::InvalidArgument)
    );
    fields.insert("name", "1".into()).unwrap();
    fields.insert("name", "1".into()).unwrap();
    assert_eq!(fields.bytes_left(), 0);
    assert_eq!(
        kind(fields.insert("name", "1".into())),
        Some(Kind::InvalidArgument)
    );
    assert_eq!(kind(fields.insert("", String::new())), None);
    assert_eq!(fields.get("name"), Some("1"));
}

#[test]
fn rejects_other_access_key_first() {
    let signed = issue(&ticket(None), &secret());
    for key in ["", "welovemaxi", "Welovemaxim", "welovemaxim "] {
        let form = fields([("OSSAccessKeyId", key), ("policy", &signed.policy)]);
        assert_eq!(kind(check_at(&form, NOW)), ACCESS, "{key}");
    }
    // Where there is no field at all, the file came before them.
    let error = kind(check_at(&Fields::default(), NOW));
    assert_eq!(error, Some(Kind::InvalidArgument));
}
