//! `Range` and `If-Range` (RFC 9110 §14, §13.1.5), compared byte by byte.

use std::ops::Range;

use super::{Random, Reader, new_seed};
use crate::support::{Answer, TestServer, assert_error, photo};

/// Several chunks, and a partial last one.
const LEN: usize = 1_572_864 + 12_345;

/// The expected response.
#[derive(Debug, Clone, PartialEq)]
enum Expected {
    Whole,
    One(Range<usize>),
    Many(Vec<Range<usize>>),
    Unsatisfiable,
}
use Expected::{Many, One, Unsatisfiable, Whole};

/// Checks the response to a GET against the whole body; `about` appears in every message.
#[track_caller]
fn check(answer: &Answer, whole: &[u8], content_type: &str, expected: &Expected, about: &str) {
    let len = whole.len();
    let content_range =
        |range: &Range<usize>| format!("bytes {}-{}/{len}", range.start, range.end - 1);
    match expected {
        Whole => {
            assert_eq!(answer.status, 200, "{about}");
            assert_eq!(answer.header("content-range"), None, "{about}");
            assert_eq!(answer.header("content-type"), Some(content_type), "{about}");
            assert!(answer.body == whole, "{about}: other bytes");
        }
        One(range) => {
            assert_eq!(answer.status, 206, "{about}");
            assert_eq!(
                answer.header("content-range"),
                Some(content_range(range).as_str()),
                "{about}"
            );
            assert_eq!(
                answer.header("content-length"),
                Some(range.len().to_string().as_str()),
                "{about}"
            );
            assert_eq!(answer.header("content-type"), Some(content_type), "{about}");
            assert!(answer.body == whole[range.clone()], "{about}: other bytes");
        }
        Many(ranges) => {
            assert_eq!(answer.status, 206, "{about}");
            assert_eq!(answer.header("content-range"), None, "{about}");
            let parts = parts(answer, about);
            let found: Vec<_> = parts
                .iter()
                .map(|part| part.content_range.clone())
                .collect();
            assert_eq!(
                found,
                ranges.iter().map(content_range).collect::<Vec<_>>(),
                "{about}"
            );
            for (part, range) in parts.iter().zip(ranges) {
                assert_eq!(part.content_type, content_type, "{about}");
                assert!(
                    part.bytes == whole[range.clone()],
                    "{about}, {range:?}: other bytes"
                );
            }
        }
        Unsatisfiable => {
            assert_error(answer, 416, "range_not_satisfiable");
            assert_eq!(
                answer.header("content-range"),
                Some(format!("bytes */{len}").as_str()),
                "{about}"
            );
        }
    }
    if !matches!(expected, Unsatisfiable) {
        for name in [
            "etag",
            "last-modified",
            "cache-control",
            "vary",
            "x-content-type-options",
        ] {
            assert!(answer.header(name).is_some(), "{about}: no {name}");
        }
        assert_eq!(answer.header("accept-ranges"), Some("bytes"), "{about}");
    }
}

/// A part of `multipart/byteranges`.
struct Part {
    content_type: String,
    content_range: String,
    bytes: Vec<u8>,
}

/// Parses the body strictly: nothing before the first delimiter or after the last.
#[track_caller]
fn parts(answer: &Answer, about: &str) -> Vec<Part> {
    let kind = answer.header("content-type").expect(about);
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .expect(about);
    assert!((1..=70).contains(&boundary.len()), "{about}: {boundary}");
    let (delimiter, closing) = (format!("--{boundary}\r\n"), format!("--{boundary}--\r\n"));
    let mut parts = Vec::new();
    let mut rest = answer.body.as_slice();
    while rest != closing.as_bytes() {
        rest = rest.strip_prefix(delimiter.as_bytes()).expect(about);
        let mut headers = Vec::new();
        loop {
            let end = rest
                .windows(2)
                .position(|window| window == b"\r\n")
                .expect(about);
            let line = std::str::from_utf8(&rest[..end]).expect(about);
            rest = &rest[end + 2..];
            if line.is_empty() {
                break;
            }
            headers.push(line.to_owned());
        }
        let [content_type, content_range] = headers.as_slice() else {
            panic!("{about}: {headers:?}");
        };
        let content_type = content_type
            .strip_prefix("Content-Type: ")
            .expect(about)
            .to_owned();
        let content_range = content_range
            .strip_prefix("Content-Range: ")
            .expect(about)
            .to_owned();
        let numbers = content_range.strip_prefix("bytes ").expect(about);
        let (first, last) = numbers
            .split('/')
            .next()
            .unwrap()
            .split_once('-')
            .expect(about);
        let len = last.parse::<usize>().unwrap() + 1 - first.parse::<usize>().unwrap();
        let bytes = rest[..len].to_vec();
        rest = rest[len..].strip_prefix(b"\r\n").expect(about);
        parts.push(Part {
            content_type,
            content_range,
            bytes,
        });
    }
    parts
}

#[test]
fn range_has_exact_bytes() {
    let seed = new_seed();
    let whole = Random::from_seed(seed).bytes(LEN);
    let server = TestServer::start();
    let id = server.store_file("noise.bin", "application/x-noise", &whole);
    let mut reader = Reader::of(&server, &id);
    let end = LEN - 1;
    let ones = |count: usize| {
        let specs: Vec<_> = (0..count)
            .map(|at| format!("{}-{}", at * 10, at * 10))
            .collect();
        format!("bytes={}", specs.join(","))
    };
    let single_bytes = |count: usize| Many((0..count).map(|at| at * 10..at * 10 + 1).collect());
    let table: &[(&str, Expected)] = &[
        // Safari's probe.
        ("bytes=0-1", One(0..2)),
        ("bytes=0-0", One(0..1)),
        ("bytes=262143-262144", One(262_143..262_145)),
        ("bytes=262144-524287", One(262_144..524_288)),
        ("bytes=1000-1000000", One(1000..1_000_001)),
        (&format!("bytes={end}-{end}"), One(end..LEN)),
        // Open ranges.
        ("bytes=0-", One(0..LEN)),
        ("bytes=1572864-", One(1_572_864..LEN)),
        (&format!("bytes={end}-"), One(end..LEN)),
        // An end past the file is cut, even numbers that no integer holds.
        ("bytes=1000000-99999999", One(1_000_000..LEN)),
        ("bytes=5-18446744073709551615", One(5..LEN)),
        ("bytes=5-99999999999999999999999999", One(5..LEN)),
        // Suffix ranges.
        ("bytes=-1", One(end..LEN)),
        ("bytes=-300000", One(LEN - 300_000..LEN)),
        ("bytes=-99999999999999999999999999", One(0..LEN)),
        // Several ranges.
        ("bytes=0-99,200-299", Many(vec![0..100, 200..300])),
        ("bytes=0-0,-1", Many(vec![0..1, end..LEN])),
        (
            "bytes=0-300000,600000-1200000,-5",
            Many(vec![0..300_001, 600_000..1_200_001, LEN - 5..LEN]),
        ),
        ("bytes= 0-99 ,\t200-299 , ", Many(vec![0..100, 200..300])),
        ("bytes=,,0-99,,200-299,", Many(vec![0..100, 200..300])),
        (&ones(16), single_bytes(16)),
        // Overlapping and adjacent ranges are merged.
        ("bytes=0-99,50-149", One(0..150)),
        ("bytes=0-99,100-199", One(0..200)),
        ("bytes=0-,0-,0-,-1,5-", One(0..LEN)),
        // Only some of them exist.
        ("bytes=0-9,99999999-", One(0..10)),
        ("bytes=99999999-,0-9,20-29,-0", Many(vec![0..10, 20..30])),
        // None of them exists.
        ("bytes=-0", Unsatisfiable),
        (&format!("bytes={LEN}-"), Unsatisfiable),
        (&format!("bytes={LEN}-{LEN}"), Unsatisfiable),
        ("bytes=99999999999999999999999999-", Unsatisfiable),
        ("bytes=99999999-,99999999-,-0", Unsatisfiable),
        // Unit names are case-insensitive.
        ("BYTES=0-1", One(0..2)),
        ("items=0-1", Whole),
        ("seconds=1-2", Whole),
        // Too many ranges, and invalid sets.
        (&ones(17), Whole),
        (&ones(5000), Whole),
        ("bytes=", Whole),
        ("bytes= ", Whole),
        ("bytes=,", Whole),
        ("bytes=, ,", Whole),
        ("bytes", Whole),
        ("bytes 0-1", Whole),
        ("bytes=0", Whole),
        ("bytes=-", Whole),
        ("bytes=1-0", Whole),
        ("bytes=a-b", Whole),
        ("bytes=0x0-0x5", Whole),
        ("bytes=--5", Whole),
        ("bytes=+0-1", Whole),
        ("bytes=0-1-2", Whole),
        ("bytes=0-1;2-3", Whole),
        ("bytes=0-1,x", Whole),
        ("", Whole),
    ];
    for (range, expected) in table {
        let about = format!("Range: {range:.60}, seed {seed:#x}");
        let answer = reader.get(&[("Range", range)]);
        check(&answer, &whole, "application/x-noise", expected, &about);
    }
    // Two `Range` lines are ignored as well.
    let answer = reader.get(&[("Range", "bytes=0-1"), ("Range", "bytes=4-5")]);
    check(&answer, &whole, "application/x-noise", &Whole, "two lines");
    // A plain GET is always 200: the web SDK treats 206 as a failure.
    check(
        &reader.get(&[]),
        &whole,
        "application/x-noise",
        &Whole,
        "no range",
    );
}

#[test]
fn head_ignores_range() {
    let server = TestServer::start();
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let mut reader = Reader::of(&server, &id);
    for range in ["bytes=0-1", "bytes=0-1,4-5", "bytes=99999999-"] {
        let answer = reader.ask("HEAD", &[("Range", range)]);
        assert_eq!(
            (answer.status, answer.header("content-range")),
            (200, None),
            "{range}"
        );
        assert_eq!(
            answer.header("content-length"),
            Some(photo().len().to_string().as_str()),
            "{range}"
        );
    }
}

#[test]
fn if_range_needs_current_validator() {
    let server = TestServer::start();
    let whole = photo();
    let id = server.store_file("a.jpg", "image/jpeg", &whole);
    let mut reader = Reader::of(&server, &id);
    let plain = reader.get(&[]);
    let etag = plain.header("etag").unwrap();
    let date = plain.header("last-modified").unwrap();
    let other_date = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (validator, expected) in [
        (etag, One(0..2)),
        // It is the same for every representation of the file.
        (date, Whole),
        ("\"another\"", Whole),
        (&format!("W/{etag}"), Whole),
        (etag.trim_matches('"'), Whole),
        (&format!("{etag}, {etag}"), Whole),
        ("*", Whole),
        (other_date, Whole),
        ("Sun, 06 Nov 2094 08:49:37 GMT", Whole),
        ("yesterday", Whole),
        ("", Whole),
    ] {
        let answer = reader.get(&[("Range", "bytes=0-1"), ("If-Range", validator)]);
        check(
            &answer,
            &whole,
            "image/jpeg",
            &expected,
            &format!("If-Range: {validator}"),
        );
    }
    // An unsatisfiable range is ignored as well, and without `Range` the header has no meaning.
    let answer = reader.get(&[("Range", "bytes=99999999-"), ("If-Range", "\"another\"")]);
    check(
        &answer,
        &whole,
        "image/jpeg",
        &Whole,
        "unsatisfiable, but not current",
    );
    check(
        &reader.get(&[("If-Range", etag)]),
        &whole,
        "image/jpeg",
        &Whole,
        "no range",
    );
}

#[test]
fn thumbnail_has_own_ranges() {
    let server = TestServer::start();
    let id = server.store_file("a.jpg", "image/jpeg", &photo());
    let mut reader = Reader::of(&server, &id);
    let thumbnail = reader.get(&[("thumbnail", "true")]);
    let (whole, len) = (thumbnail.body.as_slice(), thumbnail.body.len());
    assert!(thumbnail.status == 200 && len < 40_000);
    for (range, expected) in [
        ("bytes=0-1", One(0..2)),
        ("bytes=-7", One(len - 7..len)),
        ("bytes=10-", One(10..len)),
        (
            "bytes=0-9,100-199,-10",
            Many(vec![0..10, 100..200, len - 10..len]),
        ),
        (&format!("bytes={len}-"), Unsatisfiable),
        ("bytes=", Whole),
        ("bytes=x", Whole),
    ] {
        let answer = reader.get(&[("thumbnail", "true"), ("Range", range)]);
        check(&answer, whole, "image/jpeg", &expected, range);
    }
    let validator = thumbnail.header("etag").unwrap();
    let original = reader.get(&[]);
    for (validator, expected) in [
        (validator, One(0..2)),
        (original.header("etag").unwrap(), Whole),
    ] {
        let headers = [
            ("thumbnail", "true"),
            ("Range", "bytes=0-1"),
            ("If-Range", validator),
        ];
        check(
            &reader.get(&headers),
            whole,
            "image/jpeg",
            &expected,
            validator,
        );
    }
}

/// For any request, no byte comes twice, and no byte that was not requested.
#[test]
fn random_ranges_cover_their_union() {
    const SMALL: usize = 300_007;
    let seed = new_seed();
    let mut random = Random::from_seed(seed);
    let whole = random.bytes(SMALL);
    let server = TestServer::start();
    let id = server.store_file("noise.bin", "application/x-noise", &whole);
    let mut reader = Reader::of(&server, &id);
    for case in 0..120 {
        let mut asked = vec![false; SMALL];
        let specs: Vec<_> = (0..=random.below(15))
            .map(|_| {
                let (first, len) = (random.below(SMALL + 1000), random.below(40_000));
                let (range, spec) = match random.below(8) {
                    0 => (first..SMALL, format!("{first}-")),
                    1 => (SMALL.saturating_sub(len)..SMALL, format!("-{len}")),
                    _ => (first..first + len + 1, format!("{first}-{}", first + len)),
                };
                asked[range.start.min(SMALL)..range.end.min(SMALL)].fill(true);
                spec
            })
            .collect();
        let mut union: Vec<Range<usize>> = Vec::new();
        for at in (0..SMALL).filter(|at| asked[*at]) {
            match union.last_mut() {
                Some(last) if last.end == at => last.end += 1,
                _ => union.push(at..at + 1),
            }
        }
        let expected = match union.len() {
            0 => Unsatisfiable,
            1 => One(union.remove(0)),
            _ => Many(union),
        };
        let range = format!("bytes={}", specs.join(","));
        let answer = reader.get(&[("Range", &range)]);
        let about = format!("seed {seed:#x}, case {case}, Range: {range}");
        check(&answer, &whole, "application/x-noise", &expected, &about);
        assert!(
            answer.body.len() < SMALL + 16 * 200,
            "{about}: {} bytes",
            answer.body.len()
        );
    }
}
