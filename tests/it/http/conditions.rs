//! Conditional requests (RFC 9110 §13), through the socket.

use super::Reader;
use crate::support::{BASE, TestServer, assert_error, photo};

/// `{etag}` and `{date}` stand for the validators of the requested representation.
type Headers = &'static [(&'static str, &'static str)];

const EARLIER: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATER: &str = "Sat, 06 Nov 2094 08:49:37 GMT";

const TABLE: &[(Headers, u16)] = &[
    (&[], 200),
    // If-None-Match: weak comparison, in lists and over several lines.
    (&[("If-None-Match", "{etag}")], 304),
    (&[("If-None-Match", "W/{etag}")], 304),
    (&[("If-None-Match", "*")], 304),
    (&[("If-None-Match", "\"a\", {etag}")], 304),
    (&[("If-None-Match", "\"a,b\",W/\"c\" ,{etag}")], 304),
    (
        &[("If-None-Match", "\"a\""), ("If-None-Match", "{etag}")],
        304,
    ),
    (&[("If-None-Match", "\"a\"")], 200),
    (&[("If-None-Match", "")], 200),
    (&[("If-None-Match", "unquoted")], 200),
    // If-Match: strong comparison.
    (&[("If-Match", "{etag}")], 200),
    (&[("If-Match", "*")], 200),
    (&[("If-Match", "\"a\", {etag}")], 200),
    (&[("If-Match", "W/{etag}")], 412),
    (&[("If-Match", "\"a\"")], 412),
    (&[("If-Match", "")], 412),
    // Dates.
    (&[("If-Modified-Since", "{date}")], 304),
    (&[("If-Modified-Since", LATER)], 304),
    (&[("If-Modified-Since", EARLIER)], 200),
    (&[("If-Modified-Since", "no date")], 200),
    (&[("If-Unmodified-Since", "{date}")], 200),
    (&[("If-Unmodified-Since", LATER)], 200),
    (&[("If-Unmodified-Since", EARLIER)], 412),
    (&[("If-Unmodified-Since", "no date")], 200),
    // RFC 850's and asctime's forms.
    (
        &[("If-Unmodified-Since", "Sunday, 06-Nov-94 08:49:37 GMT")],
        412,
    ),
    (&[("If-Unmodified-Since", "Sun Nov  6 08:49:37 1994")], 412),
    // Entity tags take precedence over dates (§13.2.2).
    (
        &[("If-None-Match", "\"a\""), ("If-Modified-Since", "{date}")],
        200,
    ),
    (
        &[("If-None-Match", "{etag}"), ("If-Modified-Since", EARLIER)],
        304,
    ),
    (
        &[("If-Match", "{etag}"), ("If-Unmodified-Since", EARLIER)],
        200,
    ),
    (
        &[("If-Match", "\"a\""), ("If-Unmodified-Since", LATER)],
        412,
    ),
    // Preconditions are evaluated before cache validation.
    (&[("If-Match", "\"a\""), ("If-None-Match", "{etag}")], 412),
    (&[("If-Match", "{etag}"), ("If-None-Match", "{etag}")], 304),
    (
        &[
            ("If-Unmodified-Since", EARLIER),
            ("If-None-Match", "{etag}"),
        ],
        412,
    ),
    (
        &[
            ("If-Unmodified-Since", EARLIER),
            ("If-Modified-Since", "{date}"),
        ],
        412,
    ),
    (
        &[("If-Match", "{etag}"), ("If-Modified-Since", "{date}")],
        304,
    ),
];

/// Conditions are evaluated before ranges.
const WITH_RANGES: &[(Headers, u16)] = &[
    (&[("Range", "bytes=0-1")], 206),
    (&[("Range", "bytes=0-1"), ("If-None-Match", "{etag}")], 304),
    // A client with another tag has another representation or an older one: the whole response is correct for both.
    (&[("Range", "bytes=0-1"), ("If-None-Match", "\"a\"")], 200),
    (&[("Range", "bytes=0-1"), ("If-None-Match", "")], 200),
    (
        &[("Range", "bytes=99999999-"), ("If-None-Match", "\"a\"")],
        200,
    ),
    (
        &[
            ("Range", "bytes=0-1"),
            ("If-None-Match", "\"a\""),
            ("If-Range", "{etag}"),
        ],
        206,
    ),
    (
        &[("Range", "bytes=0-1"), ("If-Modified-Since", EARLIER)],
        200,
    ),
    (
        &[
            ("Range", "bytes=0-1"),
            ("If-Modified-Since", EARLIER),
            ("If-Range", "{etag}"),
        ],
        206,
    ),
    // An invalid date is not a condition.
    (
        &[("Range", "bytes=0-1"), ("If-Modified-Since", "no date")],
        206,
    ),
    (
        &[("Range", "bytes=0-1"), ("If-Unmodified-Since", "{date}")],
        206,
    ),
    // All representations of a file have the same date, so it is not a strong validator (RFC 9110 §8.8.1).
    (&[("Range", "bytes=0-1"), ("If-Range", "{date}")], 200),
    (&[("Range", "bytes=0-1"), ("If-Match", "\"a\"")], 412),
    (&[("Range", "bytes=0-1"), ("If-Match", "{etag}")], 206),
    (
        &[
            ("Range", "bytes=0-1"),
            ("If-Match", "{etag}"),
            ("If-Range", "\"a\""),
        ],
        200,
    ),
    (
        &[("Range", "bytes=0-1"), ("If-Modified-Since", "{date}")],
        304,
    ),
    (
        &[("Range", "bytes=99999999-"), ("If-None-Match", "{etag}")],
        304,
    ),
    (&[("Range", "bytes=99999999-"), ("If-Match", "\"a\"")], 412),
    (&[("Range", "bytes=99999999-"), ("If-Match", "{etag}")], 416),
];

/// Expected responses for a file with several representations: a date alone never gives 304.
fn of_several_forms(table: &[(Headers, u16)]) -> Vec<(Headers, u16)> {
    let answered = |(headers, status): &(Headers, u16)| {
        let has_tag = headers.iter().any(|(name, _)| *name == "If-None-Match");
        let by_date = *status == 304 && !has_tag;
        (*headers, if by_date { 200 } else { *status })
    };
    table.iter().map(answered).collect()
}

/// Checks a table for what `chosen` requests; `method` is GET or HEAD.
fn check(reader: &mut Reader, method: &str, chosen: Headers, table: &[(Headers, u16)]) {
    let plain = reader.get(chosen);
    assert_eq!(plain.status, 200, "{}", plain.text());
    let etag = plain.header("etag").unwrap();
    let date = plain.header("last-modified").unwrap();
    for (headers, status) in table {
        let filled: Vec<(&str, String)> = headers
            .iter()
            .map(|(name, value)| (*name, value.replace("{etag}", etag).replace("{date}", date)))
            .collect();
        let mut all: Vec<(&str, &str)> = chosen.to_vec();
        all.extend(filled.iter().map(|(name, value)| (*name, value.as_str())));
        let answer = reader.ask(method, &all);
        let about = format!("{method} {all:?}: {}", answer.status);
        assert_eq!(answer.status, *status, "{about}");
        match status {
            200 if method == "GET" => assert!(answer.body == plain.body, "{about}"),
            200 => assert_eq!(
                answer.header("content-length"),
                plain.header("content-length"),
                "{about}"
            ),
            304 => {
                for name in ["etag", "cache-control", "vary", "last-modified"] {
                    assert_eq!(answer.header(name), plain.header(name), "{about}: {name}");
                }
                for name in [
                    "content-type",
                    "content-disposition",
                    "content-range",
                    "transfer-encoding",
                ] {
                    assert_eq!(answer.header(name), None, "{about}: {name}");
                }
                assert!(
                    answer
                        .header("content-length")
                        .is_none_or(|length| length != "0"),
                    "{about}"
                );
            }
            412 if method == "GET" => {
                assert_error(&answer, 412, "precondition_failed");
            }
            _ => {}
        }
    }
}

#[test]
fn conditions_follow_rfc_order() {
    let server = TestServer::start();
    // A file without derivatives.
    let id = server.store_file("a.txt", "text/plain", &[b'a'; 20_000]);
    let mut reader = Reader::of(&server, &id);
    check(&mut reader, "GET", &[], TABLE);
    check(&mut reader, "HEAD", &[], TABLE);
    check(&mut reader, "GET", &[], WITH_RANGES);
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let mut reader = Reader::of(&server, &id);
    check(&mut reader, "GET", &[], &of_several_forms(TABLE));
    check(&mut reader, "HEAD", &[], &of_several_forms(TABLE));
    check(&mut reader, "GET", &[], &of_several_forms(WITH_RANGES));
}

#[test]
fn thumbnail_has_own_conditions() {
    let server = TestServer::start();
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let mut reader = Reader::of(&server, &id);
    let chosen: Headers = &[("thumbnail", "true")];
    check(&mut reader, "GET", chosen, &of_several_forms(TABLE));
    check(&mut reader, "HEAD", chosen, &of_several_forms(TABLE));
    check(&mut reader, "GET", chosen, &of_several_forms(WITH_RANGES));
    // A cached original must not be mistaken for the thumbnail.
    let original = reader.get(&[]);
    let etag = original.header("etag").unwrap();
    let answer = reader.get(&[("thumbnail", "true"), ("If-None-Match", etag)]);
    assert_eq!(answer.status, 200);
}

#[test]
fn conditions_tell_strangers_nothing() {
    let server = TestServer::start();
    let restricted = server.upload(
        &crate::support::Form::new().file("a.jpg", "image/jpeg", &photo()),
        &[("restrict-access", "true")],
    );
    let id = restricted.json()["entities"][0]["uuid"]
        .as_str()
        .unwrap()
        .to_owned();
    for (name, value) in [
        ("If-None-Match", "*".to_owned()),
        ("If-None-Match", format!("\"{id}\"")),
        ("If-Match", "\"a\"".into()),
        ("If-Modified-Since", LATER.into()),
        ("Range", "bytes=99999999-".into()),
    ] {
        let condition = (name, value.as_str());
        assert_error(
            &server.get(&format!("{BASE}/chatfiles/{id}"), &[condition]),
            401,
            "unauthorized",
        );
        assert_error(&server.download(&id, &[condition]), 403, "forbidden_op");
        let unknown = "01900000-0000-7000-8000-000000000000";
        assert_error(
            &server.download(unknown, &[condition]),
            404,
            "entity_not_found",
        );
    }
}
