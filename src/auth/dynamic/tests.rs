//! Dynamic tokens as backends make them, and as nobody should.

use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use super::*;
use crate::auth::testing;

const NOW_SECS: i64 = 1_795_305_599;
const NOW: Timestamp = Timestamp::from_secs(NOW_SECS);

fn sign(user: &str, time: &str, ttl: &str) -> String {
    signature(&testing::tenant("org", "app"), "org#app", user, time, ttl)
}

/// `dt-` and JSON with `time` and `ttl` as given: quoted or not.
fn token(signature: &str, appkey: &str, user: &str, time: &str, ttl: &str) -> String {
    format!(
        r#"dt-{{"signature":"{signature}","appkey":"{appkey}","userId":"{user}","curTime":{time},"ttl":{ttl}}}"#
    )
}

fn outcome(token: &str) -> Result<Verified, Kind> {
    verify(&testing::tenant("org", "app"), token, NOW).map_err(|error| error.kind())
}

fn honest(user: &str, time: i64, ttl: &str) -> String {
    let time = time.to_string();
    URL_SAFE.encode(token(&sign(user, &time, ttl), "org#app", user, &time, ttl))
}

#[test]
fn the_signature_is_the_hex_sha_256_of_the_six_fields() {
    // printf 'id-apporg#appalice1795305599600client-secret-of-app' | sha256sum
    assert_eq!(sign("alice", "1795305599", "600"), EXPECTED);
}

const EXPECTED: &str = "a8867fb843d44dc3d750098a49ad0f990285e0286fc56240d4582062b625206c";

#[test]
fn every_encoding_that_backends_use_is_read() {
    let signature = sign("张三?>", "1795305599", "600");
    for (time, ttl) in [("1795305599", "600"), ("\"1795305599\"", "\"600\"")] {
        let text = token(&signature, "org#app", "张三?>", time, ttl);
        for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
            let verified = outcome(&engine.encode(&text)).unwrap();
            assert_eq!(verified.subject.user(), Some("张三?>"));
            assert_eq!(verified.issued, NOW);
            assert_eq!(
                verified.expires,
                Some(NOW.plus(std::time::Duration::from_secs(600)))
            );
        }
    }
    let upper = token(
        &signature.to_uppercase(),
        "org#app",
        "张三?>",
        "1795305599",
        "600",
    );
    assert!(outcome(&URL_SAFE.encode(upper)).is_ok());
}

#[test]
fn it_ends_when_cur_time_and_ttl_have_passed() {
    for (time, ttl, expected) in [
        (NOW_SECS, "600", None),
        (NOW_SECS - 599, "600", None),
        (NOW_SECS - 600, "600", Some(Kind::TokenExpired)),
        (NOW_SECS, "0", Some(Kind::TokenExpired)),
        (NOW_SECS + 600, "600", None),
        (NOW_SECS + 601, "600", Some(Kind::TokenInvalid)),
        (NOW_SECS * 1000, "600", Some(Kind::TokenInvalid)),
        (NOW_SECS, "1234567890", Some(Kind::TokenInvalid)),
    ] {
        assert_eq!(
            outcome(&honest("alice", time, ttl)).err(),
            expected,
            "{time} {ttl}"
        );
    }
}

#[test]
fn whatever_was_not_signed_so_is_refused() {
    let good = sign("alice", "1795305599", "600");
    let at = "1795305599";
    for (name, text) in [
        ("user", token(&good, "org#app", "alicf", at, "600")),
        (
            "time",
            token(&good, "org#app", "alice", "1795305598", "600"),
        ),
        ("ttl", token(&good, "org#app", "alice", at, "601")),
        ("tenant", token(&good, "org#other", "alice", at, "600")),
        (
            "signature",
            token(
                &good.replace(&good[..2], "zz"),
                "org#app",
                "alice",
                at,
                "600",
            ),
        ),
        ("none", token("", "org#app", "alice", at, "600")),
        (
            "leading zero",
            token(
                &sign("alice", at, "0600"),
                "org#app",
                "alice",
                at,
                "\"0600\"",
            ),
        ),
        (
            "sign",
            token(
                &sign("alice", at, "+600"),
                "org#app",
                "alice",
                at,
                "\"+600\"",
            ),
        ),
        (
            "negative",
            token(&sign("alice", at, "-600"), "org#app", "alice", at, "-600"),
        ),
        (
            "fraction",
            token(&sign("alice", at, "600.0"), "org#app", "alice", at, "600.0"),
        ),
        (
            "null",
            token(&sign("alice", at, "null"), "org#app", "alice", at, "null"),
        ),
        (
            "slash",
            token(&sign("a/b", at, "600"), "org#app", "a/b", at, "600"),
        ),
        (
            "no user",
            token(&sign("", at, "600"), "org#app", "", at, "600"),
        ),
        ("no json", "dt-".to_owned()),
        (
            "half",
            token(&good, "org#app", "alice", at, "600")[..60].to_owned(),
        ),
    ] {
        let refused = outcome(&URL_SAFE.encode(text)).err();
        assert_eq!(refused, Some(Kind::TokenInvalid), "{name}");
    }
    for text in [
        "",
        "ZHQt",
        "ZHQt!!!!",
        "ZHQ",
        "eyJh.b.c",
        "ZHQté",
        &format!("ZHQt{}", "A".repeat(5000)),
    ] {
        assert_eq!(outcome(text).err(), Some(Kind::TokenInvalid), "{text}");
    }
}

#[test]
fn a_token_read_anew_for_a_shorter_name_is_refused() {
    // What the owner of the longer name was given, and the same signature read for the victim.
    for (owner, time, ttl, victim, time_read, ttl_read) in [
        (
            "bob1795",
            "1795305599",
            "600",
            "bob",
            "1795179530",
            "5599600",
        ),
        (
            "bob179530",
            "1795305599",
            "60",
            "bob",
            "1795301795",
            "30559960",
        ),
        (
            "bob1795",
            "1795305599",
            "86400",
            "bob",
            "1795179530",
            "559986400",
        ),
    ] {
        let signature = sign(owner, time, ttl);
        assert_eq!(
            signature,
            sign(victim, time_read, ttl_read),
            "the format's weakness"
        );
        let own = outcome(&URL_SAFE.encode(token(&signature, "org#app", owner, time, ttl)));
        assert_eq!(own.unwrap().subject.user(), Some(owner));
        let read =
            outcome(&URL_SAFE.encode(token(&signature, "org#app", victim, time_read, ttl_read)));
        assert_eq!(read.err(), Some(Kind::TokenInvalid), "{owner}");
    }
}

#[test]
fn short_lives_are_never_ambiguous_and_long_ones_seldom() {
    for (ttl, per_mille_max) in [
        ("600", 0),
        ("3600", 0),
        ("86400", 0),
        ("99999", 0),
        ("604800", 20),
        ("5184000", 20),
    ] {
        // 30,000 moments of three years.
        let hits = (0..30_000)
            .map(|step| NOW_SECS + step * 3163)
            .filter(|secs| is_ambiguous(&secs.to_string(), ttl, Timestamp::from_secs(*secs)))
            .count();
        assert!(hits <= per_mille_max * 30, "{ttl}: {hits} in 30,000");
    }
}
