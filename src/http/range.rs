//! Parses `Range: bytes=…` (RFC 9110 §14.1, §14.2) against the length of a representation.
//!
//! `plan.rs` decides whether the header is honored, by the method and `If-Range`.

use std::ops::Range;

/// The most ranges of one request, satisfiable or not; a request with more gets everything. Players and download
/// managers ask for a few, and each part has a head of its own.
const RANGES_MAX: usize = 16;

/// The ranges of a `Range` header, within the length of the representation. None is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ranges {
    /// The header is ignored: another unit, malformed (including an empty set), or more than [`RANGES_MAX`] ranges.
    /// RFC 9110 §14.2 allows that, and every client understands a full response.
    Ignored,
    /// One range, after coalescing: nearly every request. Needs no allocation.
    One(Range<u64>),
    /// Two to [`RANGES_MAX`] ranges in ascending order. None overlaps or touches another, so their sum is less than the
    /// length of the representation.
    Many(Vec<Range<u64>>),
    /// Well-formed, but none of its bytes exists: 416 (RFC 9110 §15.5.17).
    Unsatisfiable,
}

impl Ranges {
    /// Parses the value of one `Range` header for a representation of `len` bytes.
    ///
    /// Coalesces ranges that overlap or touch, and sorts the rest. RFC 9110 §15.3.7.2 allows the first and prefers the
    /// order of the request; sorting keeps the response within `len` bytes, however often a byte is requested. Numbers
    /// beyond `u64` saturate.
    pub(super) fn parse(value: &[u8], len: u64) -> Self {
        let Some(set) = strip_unit(value) else {
            return Self::Ignored;
        };
        let mut found = [const { 0..0 }; RANGES_MAX];
        let mut found_count = 0;
        let mut named_count = 0;
        let mut suffix_of_nothing = false;
        for spec in set.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if spec.is_empty() {
                // RFC 9110 §5.6.1.2: a recipient ignores empty list elements.
                continue;
            }
            named_count += 1;
            if named_count > RANGES_MAX {
                return Self::Ignored;
            }
            match parse_spec(spec, len) {
                Spec::Malformed => return Self::Ignored,
                Spec::Outside => {}
                Spec::SuffixOfNothing => suffix_of_nothing = true,
                Spec::Inside(range) => {
                    found[found_count] = range;
                    found_count += 1;
                }
            }
        }
        match coalesce(&mut found[..found_count]) {
            // `bytes=` without a range is malformed (§14.1.1).
            [] if named_count == 0 => Self::Ignored,
            // A suffix of an empty representation is satisfiable, but no Content-Range can express it.
            [] if suffix_of_nothing => Self::Ignored,
            [] => Self::Unsatisfiable,
            [range] => Self::One(range.clone()),
            ranges => Self::Many(ranges.to_vec()),
        }
    }
}

/// A range-spec, checked against the length.
enum Spec {
    Malformed,
    Outside,
    SuffixOfNothing,
    Inside(Range<u64>),
}

fn parse_spec(spec: &[u8], len: u64) -> Spec {
    let Some(dash) = spec.iter().position(|&byte| byte == b'-') else {
        return Spec::Malformed;
    };
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    if first.is_empty() {
        return match parse_number(last) {
            None => Spec::Malformed,
            Some(0) => Spec::Outside,
            Some(_) if len == 0 => Spec::SuffixOfNothing,
            Some(suffix) => Spec::Inside(len.saturating_sub(suffix)..len),
        };
    }
    let Some(start) = parse_number(first) else {
        return Spec::Malformed;
    };
    let end = match parse_number(last) {
        _ if last.is_empty() => len,
        // RFC 9110 §14.1.1: a last position before the first makes the range invalid.
        Some(last) if last >= start => last.saturating_add(1).min(len),
        _ => return Spec::Malformed,
    };
    match start < len {
        true => Spec::Inside(start..end),
        false => Spec::Outside,
    }
}

/// Parses `1*DIGIT`, saturating: RFC 9110 §14.1.2 tells recipients to expect numbers of any size.
fn parse_number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        byte.is_ascii_digit().then(|| {
            number
                .saturating_mul(10)
                .saturating_add(u64::from(byte - b'0'))
        })
    })
}

/// The text after `bytes=`. Unit names are case-insensitive (RFC 9110 §14.1).
fn strip_unit(value: &[u8]) -> Option<&[u8]> {
    let (unit, set) = value.split_at_checked(b"bytes=".len())?;
    unit.eq_ignore_ascii_case(b"bytes=").then_some(set)
}

/// Sorts the ranges and joins those that overlap or touch. Returns the part of the slice with the result.
fn coalesce(ranges: &mut [Range<u64>]) -> &[Range<u64>] {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut count = 0;
    for next in 0..ranges.len() {
        let range = ranges[next].clone();
        match ranges[..count].last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => {
                ranges[count] = range;
                count += 1;
            }
        }
    }
    &ranges[..count]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `expected`: "-" ignored, "416" unsatisfiable, else `start..end` separated by spaces.
    fn check(cases: &[(&str, u64, &str)]) {
        for (value, len, expected) in cases {
            let show = |range: &Range<u64>| format!("{}..{}", range.start, range.end);
            let found = match Ranges::parse(value.as_bytes(), *len) {
                Ranges::Ignored => "-".to_owned(),
                Ranges::Unsatisfiable => "416".to_owned(),
                Ranges::One(range) => show(&range),
                Ranges::Many(ranges) => ranges.iter().map(show).collect::<Vec<_>>().join(" "),
            };
            assert_eq!(&found, expected, "{value:?} of {len}");
        }
    }

    #[test]
    fn cuts_range_at_the_end() {
        check(&[
            ("bytes=0-1", 100, "0..2"), // Safari's probe
            ("bytes=0-0", 1, "0..1"),
            ("bytes=10-19", 100, "10..20"),
            ("bytes=10-1000", 100, "10..100"),
            ("bytes=99-", 100, "99..100"),
            ("bytes=0-", 100, "0..100"),
            ("bytes=007-0009", 100, "7..10"),
        ]);
    }

    #[test]
    fn long_suffix_is_everything() {
        check(&[
            ("bytes=-1", 100, "99..100"),
            ("bytes=-100", 100, "0..100"),
            ("bytes=-101", 100, "0..100"),
        ]);
    }

    #[test]
    fn rejects_range_past_end() {
        check(&[
            ("bytes=100-", 100, "416"),
            ("bytes=100-200", 100, "416"),
            ("bytes=-0", 100, "416"),
            ("bytes=100-,200-300,-0", 100, "416"),
            ("bytes=100-,5-6", 100, "5..7"),
        ]);
    }

    #[test]
    fn an_empty_set_is_ignored() {
        check(&[
            ("bytes=", 100, "-"),
            ("bytes= ", 100, "-"),
            ("bytes=, ,", 100, "-"),
            ("bytes=", 0, "-"),
        ]);
    }

    #[test]
    fn ignores_other_units() {
        check(&[
            ("Bytes=0-1", 9, "0..2"),
            ("items=0-1", 9, "-"),
            ("bytes", 9, "-"),
            ("", 9, "-"),
            ("bytes =0-1", 9, "-"),
        ]);
    }

    #[test]
    fn ignores_malformed_ranges() {
        for spec in [
            "5-4", "a-b", "1", "-", "--1", "1--2", "1-2-3", "0 - 1", "+1-2", "-+1", "0x1-2",
            "1-2;3-4", "0-1 2-3", "é-",
        ] {
            check(&[
                (&format!("bytes={spec}"), 100, "-"),
                (&format!("bytes=0-1,{spec}"), 100, "-"),
            ]);
        }
    }

    #[test]
    fn numbers_beyond_u64_saturate() {
        check(&[
            ("bytes=0-99999999999999999999999999", 100, "0..100"),
            ("bytes=-99999999999999999999999999", 100, "0..100"),
            ("bytes=99999999999999999999999999-", 100, "416"),
            (
                "bytes=18446744073709551615-18446744073709551615",
                100,
                "416",
            ),
            (
                "bytes=0-18446744073709551615",
                u64::MAX,
                "0..18446744073709551615",
            ),
            (
                "bytes=18446744073709551614-",
                u64::MAX,
                "18446744073709551614..18446744073709551615",
            ),
        ]);
    }

    #[test]
    fn empty_representation_satisfies_suffixes_only() {
        check(&[
            ("bytes=0-", 0, "416"),
            ("bytes=0-0", 0, "416"),
            ("bytes=-0", 0, "416"),
            ("bytes=-1", 0, "-"),
        ]);
    }

    #[test]
    fn coalesces_and_sorts_ranges() {
        check(&[
            ("bytes=0-1,4-5", 100, "0..2 4..6"),
            ("bytes=0-1 ,\t, 4-5,", 100, "0..2 4..6"),
            ("bytes=50-59,0-9", 100, "0..10 50..60"),
            ("bytes=0-9,10-19", 100, "0..20"),
            ("bytes=0-9,5-19,-1", 100, "0..20 99..100"),
            ("bytes=0-,0-,0-", 100, "0..100"),
            ("bytes=0-99,5-6", 100, "0..100"),
        ]);
    }

    #[test]
    fn ignores_too_many_ranges() {
        let spaced = |count: usize| {
            let specs: Vec<_> = (0..count).map(|n| format!("{0}-{0}", n * 2)).collect();
            format!("bytes={}", specs.join(","))
        };
        assert!(matches!(
            Ranges::parse(spaced(RANGES_MAX).as_bytes(), 100),
            Ranges::Many(ranges) if ranges.len() == RANGES_MAX
        ));
        check(&[
            (&spaced(RANGES_MAX + 1), 100, "-"),
            (&"bytes=0-0,".repeat(1000), 100, "-"),
        ]);
    }

    fn assert_sound(value: &[u8], len: u64) {
        let ranges = match Ranges::parse(value, len) {
            Ranges::Ignored | Ranges::Unsatisfiable => return,
            Ranges::One(range) => vec![range],
            Ranges::Many(ranges) => {
                assert!((2..=RANGES_MAX).contains(&ranges.len()));
                ranges
            }
        };
        assert!(
            ranges
                .iter()
                .all(|range| !range.is_empty() && range.end <= len)
        );
        assert!(ranges.is_sorted_by(|a, b| a.end < b.start));
        assert!(
            ranges
                .iter()
                .map(|range| u128::from(range.end - range.start))
                .sum::<u128>()
                <= u128::from(len)
        );
    }

    proptest! {
        #[test]
        fn never_panics_on_any_bytes(value: Vec<u8>, len: u64) {
            assert_sound(&value, len);
        }

        #[test]
        fn ranges_lie_inside_sorted_and_disjoint(value in "bytes=([0-9]{0,3}-[0-9]{0,3},? ?){0,20}", len in 0_u64..600) {
            assert_sound(value.as_bytes(), len);
        }

        #[test]
        fn selects_exactly_the_named_bytes(
            named in proptest::collection::vec((0_u64..80, 0_u64..20), 1..=RANGES_MAX),
            len in 1_u64..80,
        ) {
            let specs: Vec<_> = named.iter().map(|(first, more)| format!("{first}-{}", first + more)).collect();
            let parsed = Ranges::parse(format!("bytes={}", specs.join(",")).as_bytes(), len);
            let selected = |at: u64| match &parsed {
                Ranges::One(range) => range.contains(&at),
                Ranges::Many(ranges) => ranges.iter().any(|range| range.contains(&at)),
                Ranges::Ignored | Ranges::Unsatisfiable => false,
            };
            for at in 0..len {
                prop_assert_eq!(selected(at), named.iter().any(|(first, more)| (*first..=first + more).contains(&at)));
            }
        }
    }
}
