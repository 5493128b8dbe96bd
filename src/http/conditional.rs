//! Conditional requests (RFC 9110 §13): `If-Match`, `If-None-Match`, `If-Modified-Since`,
//! `If-Unmodified-Since`, `If-Range`, and the order in which they count (§13.2.2).
//!
//! Only for a resource that has a current representation; what to do then is `plan`'s.

use hyper::{
    HeaderMap, Method,
    header::{
        self, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
    },
};

use crate::time::Timestamp;

/// The validators of the current representation.
#[derive(Debug, Clone, Copy)]
pub struct Validators<'a> {
    /// The entity-tag as it stands in `ETag`: in double quotes and strong.
    pub etag: &'a str,
    /// What `Last-Modified` says; counted in whole seconds, as the header is.
    pub last_modified: Timestamp,
    /// Whose date that is.
    pub forms: Forms,
}

/// How many forms of a file (original, thumbnail, MP3) may share a URL, and with it the date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forms {
    /// The file itself.
    One,
    /// Others too, so the date does not tell which of them a client holds.
    Several,
}

/// The outcome of a request's conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Do what the method says: there are no conditions, or those that must hold do.
    Proceed,
    /// Do what the method says. The client holds something else than the current representation: its
    /// `If-None-Match` or `If-Modified-Since` names no match.
    HoldsAnother,
    /// 304 (RFC 9110 §15.4.5).
    NotModified,
    /// 412 (RFC 9110 §15.5.13).
    PreconditionFailed,
}

/// Evaluates the conditions in the order of RFC 9110 §13.2.2, steps 1 to 4.
///
/// With [`Forms::Several`], `If-Modified-Since` never gives 304. A cache that has lost the entity-tag on the way
/// (proxies that compress drop it) and holds the thumbnail would take that 304 for the original (§13.1.3: SHOULD).
#[must_use]
pub fn evaluate(method: &Method, headers: &HeaderMap, validators: Validators<'_>) -> Outcome {
    let reads = method == Method::GET || method == Method::HEAD;
    if headers.contains_key(IF_MATCH) {
        if !any_tag_matches(headers, &IF_MATCH, validators.etag, Comparison::Strong) {
            return Outcome::PreconditionFailed;
        }
    } else if let Some(date_secs) = single_date_secs(headers, &IF_UNMODIFIED_SINCE)
        && validators.last_modified.secs() > date_secs
    {
        return Outcome::PreconditionFailed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if any_tag_matches(headers, &IF_NONE_MATCH, validators.etag, Comparison::Weak) {
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
            let is_current = validators.last_modified.secs() <= date_secs;
            if is_current && validators.forms == Forms::One {
                Outcome::NotModified
            } else {
                Outcome::HoldsAnother
            }
        }
        _ => Outcome::Proceed,
    }
}

/// Step 5: whether `Range` counts.
///
/// With `If-Range`, its entity-tag must match strongly (RFC 9110 §13.1.5). A date never matches: every form of a file
/// (original, thumbnail, MP3) has the same `Last-Modified` under the same URL, so the date is no strong validator
/// (§8.8.1). Every answer with a file has an entity-tag to use instead.
///
/// Without `If-Range`, a range of a client that holds something else is ignored, as §14.2 allows. Chromium revalidates
/// one form's cache entry for another form: it sends the first form's tag in `If-None-Match` and a `Range` of the bytes
/// that it holds, and takes the 206 for the whole file.
#[must_use]
pub fn range_counts(headers: &HeaderMap, etag: &str, outcome: Outcome) -> bool {
    let mut lines = headers.get_all(IF_RANGE).iter();
    match (lines.next(), lines.next()) {
        (None, _) => outcome != Outcome::HoldsAnother,
        (Some(value), None) => parse_tag(value.as_bytes())
            .is_some_and(|(tag, rest)| rest.is_empty() && tag.matches(etag, Comparison::Strong)),
        // Two lines of it name nothing, and the full representation is always right.
        (Some(_), Some(_)) => false,
    }
}

/// RFC 9110 §8.8.3.2.
#[derive(Clone, Copy)]
enum Comparison {
    Strong,
    Weak,
}

/// An entity-tag of a request, its quotes included.
struct EntityTag<'a> {
    weak: bool,
    quoted: &'a [u8],
}

impl EntityTag<'_> {
    fn matches(&self, current: &str, comparison: Comparison) -> bool {
        match comparison {
            // A weak `current` begins with `W/` and so equals nothing quoted.
            Comparison::Strong => !self.weak && self.quoted == current.as_bytes(),
            Comparison::Weak => {
                self.quoted == current.strip_prefix("W/").unwrap_or(current).as_bytes()
            }
        }
    }
}

/// Whether a list of entity-tags, over all lines of the header, holds `*` or the current tag. What follows
/// a malformed member of a line is not read.
fn any_tag_matches(
    headers: &HeaderMap,
    name: &HeaderName,
    current: &str,
    comparison: Comparison,
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
            if !after.is_empty() && after[0] != b',' {
                return false;
            }
            if tag.matches(current, comparison) {
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

/// The entity-tag that `text` begins with, and what follows it. Read as bytes up to the closing quote: a
/// tag may hold commas and obs-text, and has no escapes (RFC 9110 §8.8.3).
fn parse_tag(text: &[u8]) -> Option<(EntityTag<'_>, &[u8])> {
    let (weak, quoted) = match text.strip_prefix(b"W/") {
        Some(quoted) => (true, quoted),
        None => (false, text),
    };
    let inside = quoted.strip_prefix(b"\"")?;
    let end = inside.iter().position(|&byte| byte == b'"')? + 2;
    Some((
        EntityTag {
            weak,
            quoted: &quoted[..end],
        },
        &quoted[end..],
    ))
}

/// The one date of a header; a list or what is no HTTP-date is ignored (RFC 9110 §13.1.3, §13.1.4).
fn single_date_secs(headers: &HeaderMap, name: &HeaderName) -> Option<i64> {
    let mut lines = headers.get_all(name).iter();
    let value = lines.next()?;
    if lines.next().is_some() {
        return None;
    }
    date_secs(value)
}

/// Seconds since 1970 of an HTTP-date in any of its three forms (RFC 9110 §5.6.7).
fn date_secs(value: &header::HeaderValue) -> Option<i64> {
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
    /// Of `EXACT`, and 500 ms: the header cannot say them.
    const VALIDATORS: Validators<'static> = Validators {
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
                evaluate(&method, &map(lines), VALIDATORS),
                expected,
                "{method} {lines:?}"
            );
        }
    }

    #[test]
    fn if_none_match_compares_weakly_over_lists_and_lines() {
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
    fn if_none_match_that_matches_fails_methods_that_write() {
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
        let weak = Validators {
            etag: "W/\"a\"",
            ..VALIDATORS
        };
        for value in ["\"a\"", "W/\"a\""] {
            let headers = map(&[("if-match", value)]);
            assert_eq!(
                evaluate(&Method::GET, &headers, weak),
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
    fn date_of_several_forms_matches_none() {
        let several = Validators {
            forms: Forms::Several,
            ..VALIDATORS
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
                evaluate(&Method::GET, &headers, several),
                expected,
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn what_is_no_single_http_date_is_ignored() {
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
    fn if_modified_since_counts_for_get_and_head_alone() {
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
    fn if_none_match_takes_precedence_over_if_modified_since() {
        let changed = [("if-none-match", "\"x\""), ("if-modified-since", AFTER)];
        check(Method::GET, Outcome::HoldsAnother, &[&changed]);
        let same = [("if-none-match", "\"a,b\""), ("if-modified-since", BEFORE)];
        check(Method::GET, Outcome::NotModified, &[&same]);
    }

    #[test]
    fn if_match_takes_precedence_over_if_unmodified_since() {
        let same = [("if-match", "\"a,b\""), ("if-unmodified-since", BEFORE)];
        check(Method::GET, Outcome::Proceed, &[&same]);
    }

    #[test]
    fn if_match_and_if_unmodified_since_come_before_if_none_match() {
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
                    range_counts(&map(&lines), VALIDATORS.etag, outcome),
                    expected,
                    "{values:?}"
                );
            }
        }
    }

    #[test]
    fn a_range_beside_another_tag_is_ignored() {
        let none = HeaderMap::new();
        assert!(range_counts(&none, VALIDATORS.etag, Outcome::Proceed));
        assert!(!range_counts(&none, VALIDATORS.etag, Outcome::HoldsAnother));
    }
}
