//! Plans the response to a GET or HEAD of an existing file. `delivery/` carries the plan out.
//!
//! The order is that of RFC 9110 §13.2.2: conditions, then `If-Range`, then `Range`. Access is checked before, because
//! a condition must not reveal that a file exists. Several forms of a file may share one URL, so a cache may ask for
//! one form with the validators of another; `conditional.rs` says when a range is ignored for that reason.

use std::ops::Range;

use hyper::{HeaderMap, Method, header::RANGE};

use super::{
    conditional::{self, Outcome, Representation},
    range::Ranges,
};

/// The planned response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// 200 with the whole representation.
    Full,
    /// 206 with one `Content-Range`.
    Single(Range<u64>),
    /// 206 as `multipart/byteranges`: two or more ranges, ascending and disjoint.
    Multi(Vec<Range<u64>>),
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
    /// 416 with `Content-Range: bytes */len`.
    Unsatisfiable,
}

/// Plans the response. Allocates only if several ranges are requested.
#[must_use]
pub fn plan(method: &Method, headers: &HeaderMap, representation: &Representation<'_>) -> Plan {
    let outcome = conditional::evaluate(method, headers, representation);
    match outcome {
        Outcome::NotModified => return Plan::NotModified,
        Outcome::PreconditionFailed => return Plan::PreconditionFailed,
        Outcome::Proceed | Outcome::HoldsAnother => {}
    }
    // RFC 9110 §14.2 defines ranges for GET alone. HEAD gets the headers of the full response.
    if method != Method::GET {
        return Plan::Full;
    }
    let mut lines = headers.get_all(RANGE).iter();
    // `Range` is not a list field. Two lines of it are malformed and therefore ignored.
    let (Some(value), None) = (lines.next(), lines.next()) else {
        return Plan::Full;
    };
    if !conditional::range_counts(headers, representation.etag, outcome) {
        return Plan::Full;
    }
    match Ranges::parse(value.as_bytes(), representation.len) {
        Ranges::Ignored => Plan::Full,
        Ranges::One(range) => Plan::Single(range),
        Ranges::Many(ranges) => Plan::Multi(ranges),
        Ranges::Unsatisfiable => Plan::Unsatisfiable,
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::{http::conditional::Forms, time::Timestamp};

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    type Lines = &'static [(&'static str, &'static str)];

    fn check(cases: &[(Method, Lines, Plan)]) {
        let representation = Representation {
            len: 100,
            etag: "\"v1\"",
            last_modified: Timestamp::from_secs(784_111_777),
            forms: Forms::One,
        };
        for (method, lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in *lines {
                headers.append(
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                );
            }
            assert_eq!(
                &plan(method, &headers, &representation),
                expected,
                "{method} {lines:?}"
            );
        }
    }

    #[test]
    fn plain_get_gets_everything() {
        check(&[
            (Method::GET, &[], Plan::Full),
            (Method::GET, &[("if-range", "\"v1\"")], Plan::Full),
            (Method::GET, &[("accept", "*/*")], Plan::Full),
        ]);
    }

    #[test]
    fn ranges_are_for_get_alone() {
        check(&[
            (Method::GET, &[("range", "bytes=0-1")], Plan::Single(0..2)),
            (
                Method::GET,
                &[("range", "bytes=0-1,9-")],
                Plan::Multi(vec![0..2, 9..100]),
            ),
            (Method::GET, &[("range", "bytes=100-")], Plan::Unsatisfiable),
            (Method::GET, &[("range", "lines=1-2")], Plan::Full),
            (Method::HEAD, &[("range", "bytes=0-1")], Plan::Full),
            (Method::HEAD, &[("range", "bytes=100-")], Plan::Full),
            (Method::POST, &[("range", "bytes=0-1")], Plan::Full),
        ]);
    }

    #[test]
    fn two_range_lines_are_ignored() {
        check(&[(
            Method::GET,
            &[("range", "bytes=0-1"), ("range", "bytes=4-5")],
            Plan::Full,
        )]);
    }

    #[test]
    fn conditions_come_before_ranges() {
        check(&[
            (
                Method::GET,
                &[("range", "bytes=100-"), ("if-none-match", "\"v1\"")],
                Plan::NotModified,
            ),
            (
                Method::GET,
                &[("range", "bytes=100-"), ("if-match", "\"v2\"")],
                Plan::PreconditionFailed,
            ),
            (
                Method::GET,
                &[("range", "bytes=0-1"), ("if-unmodified-since", DATE)],
                Plan::Single(0..2),
            ),
            (
                Method::HEAD,
                &[("if-modified-since", DATE)],
                Plan::NotModified,
            ),
        ]);
    }

    #[test]
    fn tag_of_another_form_gets_everything() {
        check(&[
            (
                Method::GET,
                &[("range", "bytes=0-1"), ("if-none-match", "\"v2\"")],
                Plan::Full,
            ),
            (
                Method::GET,
                &[("range", "bytes=100-"), ("if-none-match", "\"v2\"")],
                Plan::Full,
            ),
            (
                Method::GET,
                &[
                    ("range", "bytes=0-1"),
                    ("if-none-match", "\"v2\""),
                    ("if-range", "\"v1\""),
                ],
                Plan::Single(0..2),
            ),
            (
                Method::GET,
                &[
                    ("range", "bytes=0-1"),
                    ("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT"),
                ],
                Plan::Full,
            ),
        ]);
    }

    #[test]
    fn failed_if_range_beats_unsatisfiable_range() {
        check(&[
            (
                Method::GET,
                &[("range", "bytes=0-1"), ("if-range", "\"v1\"")],
                Plan::Single(0..2),
            ),
            (
                Method::GET,
                &[("range", "bytes=0-1"), ("if-range", DATE)],
                Plan::Full,
            ),
            (
                Method::GET,
                &[("range", "bytes=0-1"), ("if-range", "\"v2\"")],
                Plan::Full,
            ),
            (
                Method::GET,
                &[("range", "bytes=0-1"), ("if-range", "W/\"v1\"")],
                Plan::Full,
            ),
            (
                Method::GET,
                &[("range", "bytes=100-"), ("if-range", "\"v2\"")],
                Plan::Full,
            ),
        ]);
    }
}
