//! Evaluates conditional requests (RFC 9110 §13): `If-Match`, `If-None-Match`, `If-Modified-Since`,
//! `If-Unmodified-Since` and `If-Range`, in the order of §13.2.2.
//!
//! Only for a resource that has a current representation. `plan.rs` turns the outcome into a response.

use hyper::{
    HeaderMap, Method,
    header::{
        HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
    },
};

use crate::time::Timestamp;

/// The representation that a request without conditions and ranges gets.
#[derive(Debug, Clone, Copy)]
pub struct Representation<'a> {
    /// Length in bytes.
    pub len: u64,
    /// The value of `ETag`: a strong entity tag in double quotes.
    pub etag: &'a str,
    /// The value of `Last-Modified`, compared in whole seconds as in the header.
    pub last_modified: Timestamp,
    /// Whether other forms of the file share the URL and the date.
    pub forms: Forms,
}

/// How many forms of a file (original, thumbnail, MP3) may share a URL, and therefore a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forms {
    /// The file itself.
    One,
    /// Others too, so the date does not tell which of them the client has.
    Several,
}

/// The outcome of a request's conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Perform the method: there are no conditions, or they are true.
    Proceed,
    /// Perform the method. The client has something other than the current representation, because its `If-None-Match`
    /// or `If-Modified-Since` does not match.
    HoldsAnother,
    /// 304 (RFC 9110 §15.4.5).
    NotModified,
    /// 412 (RFC 9110 §15.5.13).
    PreconditionFailed,
}

/// Evaluates the conditions in the order of RFC 9110 §13.2.2, steps 1 to 4.
///
/// With [`Forms::Several`], `If-Modified-Since` never yields a 304, which §13.1.3 only recommends. A proxy that
/// compresses may have dropped the entity tag; a cache behind it that has the thumbnail would then use it as the
/// original.
pub(super) fn evaluate(
    method: &Method,
    headers: &HeaderMap,
    current: &Representation<'_>,
) -> Outcome {
    let reads = method == Method::GET || method == Method::HEAD;
    if headers.contains_key(IF_MATCH) {
        if !any_tag(headers, &IF_MATCH, |tag| tag.equals_strongly(current.etag)) {
            return Outcome::PreconditionFailed;
        }
    } else if let Some(date_secs) = single_date_secs(headers, &IF_UNMODIFIED_SINCE)
        && current.last_modified.secs() > date_secs
    {
        return Outcome::PreconditionFailed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if any_tag(headers, &IF_NONE_MATCH, |tag| {
            tag.equals_weakly(current.etag)
        }) {
            return if reads {
                Outcome::NotModified
            } else {
                Outcome::PreconditionFailed
            };
        }
        return Outcome::HoldsAnother;
    }
    match single_date_secs(headers, &IF_MODIFIED_SINCE) {
        Some(date_secs) if reads => {
            let is_current = current.last_modified.secs() <= date_secs;
            if is_current && current.forms == Forms::One {
                Outcome::NotModified
            } else {
                Outcome::HoldsAnother
            }
        }
        _ => Outcome::Proceed,
    }
}

/// Step 5: whether to honor `Range`.
///
/// The entity tag of an `If-Range` must match strongly (RFC 9110 §13.1.5). A date never matches: all forms of a file
/// (original, thumbnail, MP3) have the same `Last-Modified` under the same URL, so it is not a strong validator
/// (§8.8.1). Every response with a file has an entity tag to use instead.
///
/// Without `If-Range`, the range is ignored if the client has something else, as §14.2 allows. Chromium revalidates the
/// cache entry of one form for another form: it sends the tag of the first form in `If-None-Match` with a `Range` of
/// the bytes that it has, and takes the 206 for the whole file.
pub(super) fn range_counts(headers: &HeaderMap, etag: &str, outcome: Outcome) -> bool {
    let mut lines = headers.get_all(IF_RANGE).iter();
    match (lines.next(), lines.next()) {
        (None, _) => outcome != Outcome::HoldsAnother,
        (Some(value), None) => parse_tag(value.as_bytes())
            .is_some_and(|(tag, rest)| rest.is_empty() && tag.equals_strongly(etag)),
        // Two lines are invalid, and the full representation is always correct.
        (Some(_), Some(_)) => false,
    }
}

/// An entity tag of a request, with its quotes.
struct EntityTag<'a> {
    weak: bool,
    quoted: &'a [u8],
}

/// The two comparisons of RFC 9110 §8.8.3.2.
impl EntityTag<'_> {
    fn equals_strongly(&self, current: &str) -> bool {
        // A weak `current` begins with `W/`, so it equals no quoted tag.
        !self.weak && self.quoted == current.as_bytes()
    }

    fn equals_weakly(&self, current: &str) -> bool {
        self.quoted == current.strip_prefix("W/").unwrap_or(current).as_bytes()
    }
}

/// Whether a list of entity tags, over all lines of the header, contains `*` or a current tag. The rest of a line after
/// a malformed member is ignored.
fn any_tag(
    headers: &HeaderMap,
    name: &HeaderName,
    is_current: impl Fn(&EntityTag<'_>) -> bool,
) -> bool {
    headers.get_all(name).iter().any(|line| {
        let mut rest = line.as_bytes().trim_ascii();
        if rest == b"*" {
            return true;
        }
        loop {
            rest = skip_separators(rest);
            let Some((tag, after)) = parse_tag(rest) else {
                return false;
            };
            let after = after.trim_ascii_start();
            if !matches!(after, [] | [b',', ..]) {
                return false;
            }
            if is_current(&tag) {
                return true;
            }
            rest = after;
        }
    })
}

fn skip_separators(text: &[u8]) -> &[u8] {
    let end = text
        .iter()
        .position(|byte| !matches!(byte, b',' | b' ' | b'\t'));
    &text[end.unwrap_or(text.len())..]
}

/// The entity tag at the start of `text`, and the rest. It ends at the closing quote: a tag may contain commas and
/// obs-text, and has no escapes (RFC 9110 §8.8.3).
fn parse_tag(text: &[u8]) -> Option<(EntityTag<'_>, &[u8])> {
    let (weak, quoted) = match text.strip_prefix(b"W/") {
        Some(quoted) => (true, quoted),
        None => (false, text),
    };
    let inside = quoted.strip_prefix(b"\"")?;
    let end = inside.iter().position(|&byte| byte == b'"')? + 2;
    let (quoted, rest) = quoted.split_at(end);
    Some((EntityTag { weak, quoted }, rest))
}

/// The date of a header, in seconds since 1970. A list, or a value that is not an HTTP-date, is ignored (RFC 9110 §13.1.3, §13.1.4).
fn single_date_secs(headers: &HeaderMap, name: &HeaderName) -> Option<i64> {
    let mut lines = headers.get_all(name).iter();
    let value = lines.next()?;
    if lines.next().is_some() {
        return None;
    }
    // Any of the three forms of an HTTP-date (RFC 9110 §5.6.7).
    let date = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
    let since = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const EXACT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    /// `EXACT` plus 500 ms, which the header cannot express.
    const CURRENT: Representation<'static> = Representation {
        len: 100,
        etag: "\"a,b\"",
        last_modified: Timestamp::from_ms(784_111_777_500),
        forms: Forms::One,
    };

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn check(method: Method, expected: Outcome, cases: &[&[(&str, &str)]]) {
        for lines in cases {
            assert_eq!(
                evaluate(&method, &map(lines), &CURRENT),
                expected,
                "{method} {lines:?}"
            );
        }
    }

    #[test]
    fn if_none_match_compares_weakly() {
        check(
            Method::GET,
            Outcome::NotModified,
            &[
                &[("if-none-match", "*")],
                &[("if-none-match", "\"a,b\"")],
                &[("if-none-match", "W/\"a,b\"")],
                &[("if-none-match", "\"x\", W/\"y\" ,\"a,b\"")],
                &[("if-none-match", ", ,\"x\",,\t\"a,b\",")],
                &[("if-none-match", "\"x\""), ("if-none-match", "\"a,b\"")],
                &[("if-none-match", "\"\u{e9}\", \"a,b\"")],
            ],
        );
        check(
            Method::GET,
            Outcome::HoldsAnother,
            &[
                &[("if-none-match", "\"a\", \"b\"")],
                &[("if-none-match", "a,b")],
                &[("if-none-match", "\"a,b")],
                &[("if-none-match", "w/\"a,b\"")],
                &[("if-none-match", "\"x\"\"a,b\"")],
                &[("if-none-match", "\"x, \"a,b\"")],
                &[("if-none-match", "\"*\"")],
                &[("if-none-match", "")],
            ],
        );
    }

    #[test]
    fn matching_if_none_match_fails_writes() {
        check(
            Method::HEAD,
            Outcome::NotModified,
            &[&[("if-none-match", "*")]],
        );
        check(
            Method::DELETE,
            Outcome::PreconditionFailed,
            &[&[("if-none-match", "*")]],
        );
    }

    #[test]
    fn if_match_compares_strongly() {
        check(
            Method::GET,
            Outcome::Proceed,
            &[
                &[("if-match", "*")],
                &[("if-match", "\"a,b\"")],
                &[("if-match", "W/\"a,b\", \"a,b\"")],
                &[("if-match", "\"x\""), ("if-match", "\"a,b\"")],
            ],
        );
        check(
            Method::GET,
            Outcome::PreconditionFailed,
            &[
                &[("if-match", "\"x\"")],
                &[("if-match", "W/\"a,b\"")],
                &[("if-match", "garbage")],
                &[("if-match", "")],
            ],
        );
        let weak = Representation {
            etag: "W/\"a\"",
            ..CURRENT
        };
        for value in ["\"a\"", "W/\"a\""] {
            let headers = map(&[("if-match", value)]);
            assert_eq!(
                evaluate(&Method::GET, &headers, &weak),
                Outcome::PreconditionFailed
            );
        }
    }

    #[test]
    fn dates_count_in_whole_seconds() {
        check(
            Method::GET,
            Outcome::NotModified,
            &[
                &[("if-modified-since", EXACT)],
                &[("if-modified-since", AFTER)],
                &[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")],
                &[("if-modified-since", "Sun Nov  6 08:49:37 1994")],
            ],
        );
        check(
            Method::GET,
            Outcome::Proceed,
            &[
                &[],
                &[("if-unmodified-since", EXACT)],
                &[("if-unmodified-since", AFTER)],
            ],
        );
        check(
            Method::GET,
            Outcome::HoldsAnother,
            &[&[("if-modified-since", BEFORE)]],
        );
        check(
            Method::GET,
            Outcome::PreconditionFailed,
            &[&[("if-unmodified-since", BEFORE)]],
        );
    }

    #[test]
    fn shared_date_never_matches() {
        let several = Representation {
            forms: Forms::Several,
            ..CURRENT
        };
        for (name, value, expected) in [
            ("if-modified-since", EXACT, Outcome::HoldsAnother),
            ("if-modified-since", AFTER, Outcome::HoldsAnother),
            ("if-modified-since", BEFORE, Outcome::HoldsAnother),
            ("if-none-match", "\"a,b\"", Outcome::NotModified),
            ("if-unmodified-since", EXACT, Outcome::Proceed),
        ] {
            let headers = map(&[(name, value)]);
            assert_eq!(
                evaluate(&Method::GET, &headers, &several),
                expected,
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn ignores_invalid_and_repeated_dates() {
        for value in [
            "",
            "yesterday",
            "784111777",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "\u{e9}",
        ] {
            check(
                Method::GET,
                Outcome::Proceed,
                &[
                    &[("if-modified-since", value)],
                    &[("if-unmodified-since", value)],
                ],
            );
        }
        let twice = [("if-modified-since", AFTER), ("if-modified-since", AFTER)];
        check(Method::GET, Outcome::Proceed, &[&twice]);
    }

    #[test]
    fn if_modified_since_needs_get() {
        check(
            Method::HEAD,
            Outcome::NotModified,
            &[&[("if-modified-since", AFTER)]],
        );
        check(
            Method::DELETE,
            Outcome::Proceed,
            &[&[("if-modified-since", AFTER)]],
        );
    }

    #[test]
    fn if_none_match_beats_date() {
        let changed = [("if-none-match", "\"x\""), ("if-modified-since", AFTER)];
        check(Method::GET, Outcome::HoldsAnother, &[&changed]);
        let same = [("if-none-match", "\"a,b\""), ("if-modified-since", BEFORE)];
        check(Method::GET, Outcome::NotModified, &[&same]);
    }

    #[test]
    fn if_match_beats_if_unmodified_since() {
        let same = [("if-match", "\"a,b\""), ("if-unmodified-since", BEFORE)];
        check(Method::GET, Outcome::Proceed, &[&same]);
    }

    #[test]
    fn if_match_comes_first() {
        check(
            Method::GET,
            Outcome::PreconditionFailed,
            &[
                &[("if-none-match", "\"a,b\""), ("if-match", "\"x\"")],
                &[
                    ("if-none-match", "\"a,b\""),
                    ("if-unmodified-since", BEFORE),
                ],
            ],
        );
        let both_hold = [("if-none-match", "\"a,b\""), ("if-match", "\"a,b\"")];
        check(Method::GET, Outcome::NotModified, &[&both_hold]);
    }

    #[test]
    fn if_range_needs_a_strong_match() {
        for (values, expected) in [
            (&["\"a,b\""][..], true),
            (&["W/\"a,b\""], false),
            (&["\"x\""], false),
            (&["\"a,b\", \"x\""], false),
            (&["*"], false),
            (&["a,b"], false),
            // Another form of the file has the same date.
            (&[EXACT], false),
            (&[BEFORE], false),
            (&[AFTER], false),
            (&["\"a,b\"", "\"a,b\""], false),
        ] {
            let lines: Vec<_> = values.iter().map(|value| ("if-range", *value)).collect();
            for outcome in [Outcome::Proceed, Outcome::HoldsAnother] {
                assert_eq!(
                    range_counts(&map(&lines), CURRENT.etag, outcome),
                    expected,
                    "{values:?}"
                );
            }
        }
    }

    #[test]
    fn ignores_range_beside_another_tag() {
        let none = HeaderMap::new();
        assert!(range_counts(&none, CURRENT.etag, Outcome::Proceed));
        assert!(!range_counts(&none, CURRENT.etag, Outcome::HoldsAnother));
    }
}
