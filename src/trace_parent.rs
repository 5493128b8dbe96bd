//! The `traceparent` header (W3C Trace Context, <https://www.w3.org/TR/trace-context/>): which trace a request is part of.
//!
//! This server makes no spans. It writes the ids of a trace into the access log and passes them on to the chat backend's
//! hook, so that both can be found beside the caller's own spans. Any client can send any ids, so they decide nothing.

use std::fmt;

use hyper::HeaderMap;

/// The name of the header.
pub const HEADER: &str = "traceparent";

/// Bytes of a header of version 00: `00-<32 digits>-<16 digits>-<2 digits>`.
const BYTES: usize = 55;
/// Upper limit of a header of a later version, which may have more fields.
const BYTES_MAX: usize = 256;

/// The ids of a valid `traceparent` header. `Display` writes a header of version 00.
///
/// Bytes instead of integers, whose alignment would cost every request 22 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    flags: u8,
}

impl TraceParent {
    /// Reads the header of a request; `None` if there is none, if there is more than one, or if it is not valid.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(HEADER).iter();
        let (value, second) = (values.next()?, values.next());
        second.is_none().then(|| Self::parse(value.as_bytes()))?
    }

    /// Parses a header (§3.2). A later version is read as version 00, as §3.2.4 requires: what follows the flags is
    /// ignored if a hyphen separates it.
    fn parse(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(BYTES)?;
        let is_separated = [2, 35, 52].iter().all(|&at| head[at] == b'-');
        let version = hex(&head[..2])?;
        let fits = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => value.len() <= BYTES_MAX && rest.first().is_none_or(|byte| *byte == b'-'),
        };
        let (trace_id, parent_id) = (hex(&head[3..35])?, hex(&head[36..52])?);
        let found = Self {
            trace_id: trace_id.to_be_bytes(),
            parent_id: u64::try_from(parent_id).ok()?.to_be_bytes(),
            flags: u8::try_from(hex(&head[53..])?).ok()?,
        };
        (is_separated && fits && trace_id != 0 && parent_id != 0).then_some(found)
    }

    /// The id of the trace, as 32 hexadecimal digits.
    pub fn trace_id(self) -> impl fmt::Display {
        Padded::<32>(u128::from_be_bytes(self.trace_id))
    }

    /// The id of the caller's span, as 16 hexadecimal digits.
    pub fn parent_id(self) -> impl fmt::Display {
        Padded::<16>(u64::from_be_bytes(self.parent_id).into())
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace_id, parent_id) = (self.trace_id(), self.parent_id());
        write!(f, "00-{trace_id}-{parent_id}-{:02x}", self.flags)
    }
}

/// A number as `DIGITS` hexadecimal digits.
struct Padded<const DIGITS: usize>(u128);

impl<const DIGITS: usize> fmt::Display for Padded<DIGITS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0DIGITS$x}", self.0)
    }
}

/// A number of at most 32 hexadecimal digits; only lower-case digits are valid.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// The example of the specification.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn reads_specified_example() {
        let found = TraceParent::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(
            found.trace_id().to_string(),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
        assert_eq!(found.parent_id().to_string(), "00f067aa0ba902b7");
        assert_eq!(found.to_string(), EXAMPLE);
    }

    #[test]
    fn reads_later_versions_as_00() {
        let later = |rest: &str| format!("cc{}{rest}", &EXAMPLE[2..]);
        for rest in ["", "-", "-what-follows"] {
            let found = TraceParent::parse(later(rest).as_bytes()).unwrap();
            assert_eq!(found.to_string(), EXAMPLE, "{rest}");
        }
        let longest = later(&"-".repeat(BYTES_MAX - BYTES));
        assert!(TraceParent::parse(longest.as_bytes()).is_some());
        for rest in [".what", &"-".repeat(BYTES_MAX - BYTES + 1)] {
            assert_eq!(TraceParent::parse(later(rest).as_bytes()), None, "{rest}");
        }
    }

    #[test]
    fn rejects_invalid_headers() {
        let replaced = |at: usize, with: &str| {
            let mut text = EXAMPLE.to_owned();
            text.replace_range(at..at + with.len(), with);
            text
        };
        for text in [
            String::new(),
            EXAMPLE[..54].to_owned(),
            format!("{EXAMPLE}0"),
            format!("{EXAMPLE}-"),
            format!(" {EXAMPLE}"),
            EXAMPLE.to_uppercase(),
            // No version ff, no id of zeros, other separators, no digits.
            replaced(0, "ff"),
            replaced(3, &"0".repeat(32)),
            replaced(36, &"0".repeat(16)),
            replaced(2, "_"),
            replaced(35, "0"),
            replaced(52, "\0"),
            replaced(3, "+"),
            replaced(53, "0x"),
            replaced(54, "g"),
            replaced(3, "é"),
        ] {
            assert_eq!(TraceParent::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn ignores_repeated_header() {
        let mut headers = HeaderMap::new();
        assert_eq!(TraceParent::of(&headers), None);
        headers.append(HEADER, HeaderValue::from_static(EXAMPLE));
        assert!(TraceParent::of(&headers).is_some());
        headers.append(HEADER, HeaderValue::from_static(EXAMPLE));
        assert_eq!(TraceParent::of(&headers), None);
    }

    proptest! {
        #[test]
        fn never_panics_on_any_bytes(value: Vec<u8>, at in 0..BYTES, byte: u8) {
            TraceParent::parse(&value);
            let mut almost = EXAMPLE.as_bytes().to_owned();
            almost[at] = byte;
            if let Some(found) = TraceParent::parse(&almost) {
                prop_assert_eq!(TraceParent::parse(found.to_string().as_bytes()), Some(found));
            }
        }

        #[test]
        fn round_trips(trace_id in 1u128.., parent_id in 1u64.., flags: u8) {
            let (trace_id, parent_id) = (trace_id.to_be_bytes(), parent_id.to_be_bytes());
            let made = TraceParent { trace_id, parent_id, flags };
            prop_assert_eq!(TraceParent::parse(made.to_string().as_bytes()), Some(made));
        }
    }
}
