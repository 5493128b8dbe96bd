//! The format of `file_sign`, and how clients change it.

use base64::{Engine, prelude::BASE64_STANDARD};
use chatfiles::auth::Subject;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::apps::{Stored, assert_success, at_noon, fields};
use crate::support::{
    Random, TestServer,
    lanying::{APP_ID, assert_code, envelope, file_sign, success, text},
};

const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@-";

/// Checks that a link has five fields, the first two as given, and no character that a URL must encode.
#[track_caller]
fn check(sign: &str, from: &str, to: &str, to_type: &str) {
    assert!(
        sign.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{sign}"
    );
    let fields = fields(sign);
    let [is_from, is_to, object, is_to_type, signature] = &fields[..] else {
        panic!("{fields:?}");
    };
    assert_eq!((&**is_from, &**is_to, &**is_to_type), (from, to, to_type));
    let [class, day, id] = &object.splitn(3, '.').collect::<Vec<_>>()[..] else {
        panic!("{object}");
    };
    assert_eq!(
        (*class, day.len(), id.len()),
        ("chatfile", 10, 36),
        "{object}"
    );
    let is_hex = signature
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    assert!(
        (32..=34).contains(&signature.len()) && is_hex,
        "{signature}"
    );
}

#[test]
fn link_needs_no_percent_encoding() {
    let mut random = Random::new();
    let server = TestServer::start();
    let token = server.token_of("easemob-demo", "chatdemoui", Subject::App);
    let mut connection = server.connect();
    let mut id = |len: usize| -> String {
        let characters = std::iter::repeat_with(|| ALPHABET[random.below(ALPHABET.len())]);
        characters.take(len).map(char::from).collect()
    };
    let all: Vec<String> = ALPHABET
        .chunks(64)
        .map(|ids| String::from_utf8(ids.to_vec()).unwrap())
        .collect();
    let repeated = ALPHABET
        .iter()
        .map(|byte| char::from(*byte).to_string().repeat(64));
    let mut pairs: Vec<_> = repeated.map(|id| (id.clone(), id)).collect();
    pairs.push((all[0].clone(), all[1].clone()));
    for len in 1..=64 {
        pairs.extend([(id(len), id(1)), (id(1), id(len)), (id(len), id(65 - len))]);
    }
    for (from, to) in pairs {
        for to_type in ["1", "2"] {
            let path = format!("/file/upload/chat?file_type=100&to_id={to}&to_type={to_type}");
            let headers = [
                ("access-token", &*token),
                ("app_id", APP_ID),
                ("user_id", &*from),
            ];
            let ticket = success(&connection.request("GET", &path, &headers, b""));
            check(
                file_sign(&text(&ticket["download_url"])),
                &from,
                &to,
                to_type,
            );
        }
    }
}

#[test]
fn link_survives_client_rewrites() {
    let server = TestServer::start();
    let Stored { sign, .. } = Stored::at(&server);
    let bob = server.lanying("bob");
    let encoded = utf8_percent_encode(&sign, NON_ALPHANUMERIC).to_string();
    let twice = utf8_percent_encode(&encoded, NON_ALPHANUMERIC).to_string();
    let tuple = BASE64_STANDARD.decode(&sign).unwrap();
    let every_byte = |upper: bool| -> String {
        let hex = |byte: u8| {
            if upper {
                format!("%{byte:02X}")
            } else {
                format!("%{byte:02x}")
            }
        };
        sign.bytes().map(hex).collect()
    };
    for (what, sent) in [
        ("as it is", sign.clone()),
        ("encoded once", encoded),
        ("encoded twice", twice),
        ("every byte encoded", every_byte(true)),
        ("the same in lower case", every_byte(false)),
        ("decoded and encoded again", BASE64_STANDARD.encode(&tuple)),
    ] {
        for call in [
            "download/chat?",
            "download/chat?image_type=1&",
            "upload/forward?to_id=carol&",
        ] {
            let call = format!("{call}file_sign={sent}");
            let answer = bob.get(&call);
            assert_eq!(answer.status, 200, "{what}");
            assert_success(&answer, &call);
        }
    }
    // The web SDK takes it from the URL and puts it into another one.
    let url = format!("https://elsewhere.example/file/download/chat?file_sign={sign}");
    let cut = url.split("sign=").nth(1).unwrap();
    assert_success(
        &bob.get(&format!("download/chat?file_sign={cut}&image_type=1")),
        "download",
    );
}

#[test]
fn same_day_gives_same_link() {
    let server = TestServer::start();
    at_noon(&server);
    let alice = server.lanying("alice");
    let (one, two) = (
        alice.ticket("100", "bob", "1"),
        alice.ticket("100", "bob", "1"),
    );
    let [one, two] = [one, two].map(|ticket| text(&ticket["download_url"]));
    assert_ne!(fields(file_sign(&one))[4], fields(file_sign(&two))[4]);
    // At any later time of the day.
    let url = alice.send("100", "bob", "a.txt", b"hello");
    let sign = file_sign(&url);
    server.clock.advance(3_600_000);
    let again = format!("upload/forward?to_id=bob&file_sign={sign}");
    assert_eq!(text(&success(&alice.get(&again))), url);
    // A missing parameter has a different code than a wrong one.
    assert_code(&alice.get("download/chat"), 10002);
    assert_eq!(
        envelope(&alice.get("download/chat?file_sign=x"), 200)["code"],
        20023
    );
}
