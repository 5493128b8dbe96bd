//! Dynamic tokens of real backends, and forged ones.

#![allow(clippy::print_stdout, reason = "figures, shown on request")]

use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::{prelude::*, strategy::ValueTree};

use super::{readings::PATIENCE_SECS, *};
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
    outcome_at(&KnownTtls::default(), token, NOW)
}

fn outcome_at(known: &KnownTtls, token: &str, now: Timestamp) -> Result<Verified, Kind> {
    verify(&testing::tenant("org", "app"), known, token, now).map_err(|error| error.kind())
}

fn honest(user: &str, time: i64, ttl: &str) -> String {
    let time = time.to_string();
    URL_SAFE.encode(token(&sign(user, &time, ttl), "org#app", user, &time, ttl))
}

#[test]
fn signature_is_hex_sha_256() {
    // printf 'id-apporg#appalice1795305599600client-secret-of-app' | sha256sum
    assert_eq!(sign("alice", "1795305599", "600"), EXPECTED);
}

const EXPECTED: &str = "a8867fb843d44dc3d750098a49ad0f990285e0286fc56240d4582062b625206c";

#[test]
fn reads_all_encodings_of_backends() {
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
fn expires_after_ttl() {
    for (time, ttl, expected) in [
        (NOW_SECS, "600", None),
        (NOW_SECS - 599, "600", None),
        (NOW_SECS - 600, "600", Some(Kind::TokenExpired)),
        (NOW_SECS, "0", Some(Kind::TokenExpired)),
        (NOW_SECS + 600, "600", None),
        (NOW_SECS + 601, "600", Some(Kind::TokenInvalid)),
        (NOW_SECS * 1000, "600", Some(Kind::TokenInvalid)),
        (NOW_SECS / 10, "999999999", Some(Kind::TokenInvalid)),
        (999_999_999, "999999999", Some(Kind::TokenInvalid)),
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
fn rejects_changed_tokens() {
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

/// One way to read the signed text: user, time and ttl.
type Read = (String, String, String);

fn read(user: &str, time: &str, ttl: &str) -> Read {
    (user.to_owned(), time.to_owned(), ttl.to_owned())
}

/// The token of a reading. All readings of a text have the same signature.
fn token_of((user, time, ttl): &Read) -> String {
    // As texts: a number has no leading zero.
    let (quoted_time, quoted_ttl) = (format!("\"{time}\""), format!("\"{ttl}\""));
    let signature = sign(user, time, ttl);
    URL_SAFE.encode(token(
        &signature,
        "org#app",
        user,
        &quoted_time,
        &quoted_ttl,
    ))
}

/// Every way to split the text in three, valid or not.
fn all_readings((user, time, ttl): &Read) -> Vec<Read> {
    let text = format!("{user}{time}{ttl}");
    let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).skip(1).collect();
    let parts = |(first, second): (usize, usize)| {
        read(&text[..first], &text[first..second], &text[second..])
    };
    let pairs = ends
        .iter()
        .enumerate()
        .flat_map(|(index, first)| ends[index + 1..].iter().map(|second| (*first, *second)));
    pairs.map(parts).collect()
}

#[test]
fn rejects_forged_readings() {
    // The owner's token, and the same signature read as a token of the victim.
    for (owner, victim) in [
        (
            ("bob1795", "1795305599", "600"),
            ("bob", "1795179530", "5599600"),
        ),
        (
            ("bob179530", "1795305599", "60"),
            ("bob", "1795301795", "30559960"),
        ),
        (
            ("bob1795", "1795305599", "86400"),
            ("bob", "1795179530", "559986400"),
        ),
        // A ttl below 100,000 s with three digits moved: an earlier version accepted it.
        (
            ("bob179", "1790500999", "60"),
            ("bob", "1791790500", "99960"),
        ),
        // A longer name: an earlier version accepted these.
        (
            ("bob", "1791795305", "604800"),
            ("bob179", "1795305604", "800"),
        ),
        (
            ("bob", "1795179530", "5599600"),
            ("bob1795", "1795305599", "600"),
        ),
        (
            ("bob", "1795179530", "5184000"),
            ("bob1795", "1795305184", "000"),
        ),
    ] {
        let [owner, victim] = [owner, victim].map(|(user, time, ttl)| read(user, time, ttl));
        let text = |(user, time, ttl): &Read| format!("{user}{time}{ttl}");
        assert_eq!(text(&owner), text(&victim), "the format's weakness");
        let moments = [&owner, &victim].map(|(_, time, ttl)| {
            let time: i64 = time.parse().unwrap();
            let ttl: i64 = ttl.parse().unwrap();
            (time, time + ttl - 1)
        });
        for is_known in [false, true] {
            let known = KnownTtls::default();
            let minted: i64 = owner.1.parse().unwrap();
            let warm = read("alice", &owner.1, &owner.2);
            if is_known {
                // Another user of the same backend.
                let at = Timestamp::from_secs(minted);
                assert!(outcome_at(&known, &token_of(&warm), at).is_ok());
            }
            for now in moments.iter().flat_map(|(first, last)| [*first, *last]) {
                if now < minted {
                    continue;
                }
                let now = Timestamp::from_secs(now);
                let forged = outcome_at(&known, &token_of(&victim), now);
                assert!(forged.is_err(), "{owner:?} {victim:?} {is_known} {now:?}");
            }
            let own = outcome_at(&known, &token_of(&owner), Timestamp::from_secs(minted));
            if is_known {
                assert_eq!(own.unwrap().subject.user(), Some(&*owner.0));
            }
        }
    }
}

#[test]
fn configured_ttls_decide_at_once() {
    let mut tenant = testing::tenant("org", "app");
    tenant.dynamic_ttls = Some(vec![600, 3600]);
    let known = KnownTtls::default();
    let accepts = |reading: &Read| verify(&tenant, &known, &token_of(reading), NOW).is_ok();
    assert!(accepts(&read("bob1795", "1795305599", "600")));
    assert!(!accepts(&read("bob", "1795179530", "5599600")));
    assert!(accepts(&read("bob1795", "1795305599", "3600")));
    // No other ttl is accepted, even if there is only one reading.
    assert!(!accepts(&read("alice", "1795305599", "601")));
}

#[test]
fn accepts_tokens_of_usual_backends() {
    let mut random = 1_u64;
    let mut next = |end: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % end
    };
    for ttl in [
        "10", "60", "300", "600", "1000", "1800", "3600", "7200", "43200", "86400", "604800",
        "999999", "1024000", "2592000", "5184000", "31536000",
    ] {
        let known = KnownTtls::default();
        let (mut cold, mut refused) = (0, 0);
        // 20,000 times within five years. The names end with ten digits, like phone numbers.
        for _ in 0..20_000 {
            let time = NOW_SECS + i64::try_from(next(5 * 365 * 86_400)).unwrap();
            let reading = read(
                &format!("u{:010}", next(10_000_000_000)),
                &time.to_string(),
                ttl,
            );
            let now = Timestamp::from_secs(time);
            let (user, time, ttl) = &reading;
            let own = Reading {
                time_secs: time.parse().unwrap(),
                ttl_secs: ttl.parse().unwrap(),
            };
            let tenant = testing::tenant("org", "app");
            let others = readings::others(user, time, ttl);
            refused += usize::from(!known.decide(&tenant, own, others.clone(), now));
            cold += usize::from(!KnownTtls::default().decide(&tenant, own, others, now));
        }
        // A new server refuses some, until it sees a token with only one reading.
        println!("{ttl}: {cold} of 20,000 just after a start, {refused} later");
        assert!(cold <= 1600, "{ttl}: {cold} of 20,000");
        assert!(refused <= 2, "{ttl}: {refused} of 20,000");
    }
}

#[test]
fn many_ttls_reject_ambiguous_tokens() {
    let known = KnownTtls::default();
    for ttl in 0..20 {
        let reading = read("alice", "1795305599", &(5000 + ttl).to_string());
        assert!(
            outcome_at(&known, &token_of(&reading), NOW).is_ok(),
            "{ttl}"
        );
    }
    for reading in [
        read("bob1795", "1795305599", "5001"),
        read("bob", "1795179530", "55995001"),
    ] {
        assert!(
            outcome_at(&known, &token_of(&reading), NOW).is_err(),
            "{reading:?}"
        );
    }
    assert!(outcome_at(&known, &token_of(&read("bob", "1795305599", "5001")), NOW).is_ok());
}

/// A time within the last 300 days, often one whose digits repeat those of other recent times.
fn times() -> impl Strategy<Value = String> {
    let plain = (0..300 * 86_400_i64).prop_map(|ago| (NOW_SECS - ago).to_string());
    let repeating = (3..8_usize, 0..30_000_000_i64, 0..10_000_i64).prop_map(|(from, ago, low)| {
        let recent = (NOW_SECS - ago).to_string();
        let digits = format!("{}{recent}{low:04}", &recent[..from]);
        digits[..10].to_owned()
    });
    prop_oneof![plain, repeating]
}

fn users() -> impl Strategy<Value = String> {
    let tail = (0..10_usize, 0..30_000_000_i64)
        .prop_map(|(digits, ago)| format!("bob{}", &(NOW_SECS - ago).to_string()[..digits]));
    prop_oneof![tail, "[a-z]{1,4}[0-9]{0,12}", "[0-9]{1,12}", "张[0-9]{0,6}"]
}

fn ttls() -> impl Strategy<Value = String> {
    let usual = prop::sample::select(vec![
        "60", "600", "3600", "86400", "604800", "5184000", "31536000",
    ]);
    prop_oneof![
        usual.prop_map(str::to_owned),
        (1..1_000_000_000_u32).prop_map(|ttl| ttl.to_string()),
        (1..100_000_u32).prop_map(|ttl| ttl.to_string()),
    ]
}

/// The valid readings of a text, each with all others.
fn parsed(readings: &[Read]) -> Vec<(Reading, Vec<Reading>)> {
    let parse = |(user, time, ttl): &Read| {
        let is_plain =
            |text: &str| !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
        let fits = time.len() == TIME_DIGITS && ttl.len() <= TTL_DIGITS_MAX;
        if !(fits && is_plain(time) && is_plain(ttl) && is_user_name(user)) {
            return None;
        }
        let own = Reading {
            time_secs: time.parse().unwrap(),
            ttl_secs: ttl.parse().unwrap(),
        };
        Some((own, readings::others(user, time, ttl)))
    };
    readings.iter().filter_map(parse).collect()
}

/// The decision of [`verify`] after the check of the signature.
fn is_accepted(known: &KnownTtls, own: Reading, others: &[Reading], now_secs: i64) -> bool {
    let has_come = own.time_secs <= now_secs + AHEAD_SECS_MAX;
    let is_alive = own.time_secs + own.ttl_secs > now_secs;
    let now = Timestamp::from_secs(now_secs);
    has_come && is_alive && known.decide(&testing::tenant("org", "app"), own, others.to_vec(), now)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    /// In any order, and at any time: of all readings of one signed text, at most one is ever accepted.
    #[test]
    fn accepts_at_most_one_reading(
        owner in (users(), times(), ttls()),
        learned in prop::collection::vec(1..1_000_000_i64, 0..3),
        learns_own in any::<bool>(),
        steps in prop::collection::vec((0..4_000_000_i64, any::<prop::sample::Index>()), 1..20),
    ) {
        let known = KnownTtls::default();
        let readings = parsed(&all_readings(&owner));
        let mut now_secs: i64 = owner.1.parse().unwrap();
        let own_ttl = learns_own.then(|| owner.2.parse().unwrap());
        for ttl_secs in learned.into_iter().chain(own_ttl) {
            let other_users = Reading { time_secs: now_secs, ttl_secs };
            prop_assert!(is_accepted(&known, other_users, &[], now_secs));
        }
        // Within PATIENCE_SECS of a time that may be 300 days ago.
        let end_secs = now_secs + 50 * 86_400;
        let mut accepted = Vec::new();
        for (index, (passed, which)) in steps.iter().enumerate() {
            // Mostly small steps, since otherwise every token has expired.
            now_secs = (now_secs + if index % 4 == 0 { *passed } else { *passed % 500 }).min(end_secs);
            let first = if readings.is_empty() { 0 } else { which.index(readings.len()) };
            for (own, others) in readings[first..].iter().chain(&readings[..first]) {
                if is_accepted(&known, *own, others, now_secs) && !accepted.contains(own) {
                    accepted.push(*own);
                }
            }
        }
        prop_assert!(accepted.len() <= 1, "{:?}: {:?}", owner, accepted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// The same property with whole tokens, split in every way, valid or not.
    #[test]
    fn accepts_at_most_one_split(
        owner in (users(), times(), ttls()),
        first in any::<prop::sample::Index>(),
    ) {
        let (known, readings) = (KnownTtls::default(), all_readings(&owner));
        let tokens: Vec<_> = readings.iter().map(token_of).collect();
        let now_secs: i64 = owner.1.parse().unwrap();
        let mut accepted = std::collections::HashSet::new();
        for now_secs in [now_secs, now_secs + 1000, now_secs + 100_000] {
            let first = first.index(tokens.len());
            for token in tokens[first..].iter().chain(&tokens[..first]) {
                let verified = outcome_at(&known, token, Timestamp::from_secs(now_secs));
                accepted.extend(verified.map(|verified| {
                    (verified.subject.user().map(str::to_owned), verified.issued, verified.expires)
                }));
            }
        }
        prop_assert!(accepted.len() <= 1, "{:?}: {:?}", owner, accepted);
    }
}

#[test]
fn properties_cover_ambiguous_tokens() {
    let (mut texts, mut doubtful) = (0, 0);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..2000 {
        let owner = (users(), times(), ttls())
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let readings = parsed(&all_readings(&owner));
        let now_secs: i64 = owner.1.parse().unwrap();
        let come = readings
            .iter()
            .filter(|(own, _)| own.time_secs <= now_secs + AHEAD_SECS_MAX);
        doubtful += usize::from(
            come.filter(|(own, _)| own.time_secs > now_secs - PATIENCE_SECS)
                .count()
                > 1,
        );
        texts += 1;
    }
    assert!(
        doubtful * 20 > texts,
        "{doubtful} of {texts} texts have two readings that count"
    );
}
