//! Deserializes single values of the configuration, for the `Config` structs of the modules.
//!
//! A module states the bounds of a setting in the `deserialize_with` attribute of its field, so that a `Config` is
//! valid once it is read. `config/document.rs` adds the name of the setting to the error.

use std::{
    fmt::{self, Display},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;
use jiff::fmt::friendly::{Spacing, SpanParser, SpanPrinter};
use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

/// Units of sizes. `parse_bytes` ignores their case.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];
/// Units that may mean a power of 1000 or of 1024.
const AMBIGUOUS_UNITS: [&str; 4] = ["k", "m", "g", "t"];
/// The largest size: TOML integers are signed.
const SIZE_MAX: u64 = i64::MAX as u64;

/// An integer from `MIN` to `MAX`.
///
/// # Errors
/// The value is out of bounds or not an integer.
pub fn number<'de, const MIN: u64, const MAX: u64, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let value = i128::deserialize(deserializer)?;
    let bounded = u64::try_from(value)
        .ok()
        .filter(|value| (MIN..=MAX).contains(value));
    bounded
        .and_then(|value| T::try_from(value).ok())
        .ok_or_else(|| expected(format_args!("a number from {MIN} to {MAX}"), value))
}

/// A size from `MIN` to `MAX` bytes: an integer, or a text such as `"10MiB"`.
///
/// # Errors
/// The value is out of bounds or not a size.
pub fn size<'de, const MIN: u64, const MAX: u64, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let bounds = |written: &Written| {
        let (min, max) = (format_bytes(MIN), format_bytes(MAX));
        expected(
            format_args!("a size from {min} to {max}, such as 10MiB"),
            written,
        )
    };
    Written::read(deserializer, parse_bytes, MIN..=MAX, bounds)
}

/// A time from a second to a day: a number of seconds, or a text such as `"30s"`.
///
/// # Errors
/// As [`seconds_in`].
pub fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    seconds_in::<1, 86_400, _, _>(deserializer).map(Duration::from_secs)
}

/// A number of seconds from `MIN` to `MAX`: an integer, or a text such as `"1m30s"`.
///
/// # Errors
/// The value is out of bounds or not a time.
pub fn seconds_in<'de, const MIN: u64, const MAX: u64, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let bounds = |written: &Written| {
        let (min, max) = (format_seconds(MIN), format_seconds(MAX));
        expected(
            format_args!("a time from {min} to {max}, such as 30s or 1m30s"),
            written,
        )
    };
    Written::read(deserializer, parse_seconds, MIN..=MAX, bounds)
}

/// A list of numbers of seconds, each as in [`seconds_in`]. The caller checks their bounds.
///
/// # Errors
/// A value is not a time.
pub fn seconds_list<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<i64>>, D::Error> {
    let seconds = |written: Written| match &written {
        Written::Integer(number) => {
            i64::try_from(*number).map_err(|_| expected("a time such as 600 or 10m", &written))
        }
        Written::Text(text) => {
            let seconds = parse_seconds(text).map_err(D::Error::custom)?;
            i64::try_from(seconds).map_err(|_| expected("a shorter time", &written))
        }
    };
    let list = Vec::<Written>::deserialize(deserializer)?;
    list.into_iter()
        .map(seconds)
        .collect::<Result<_, _>>()
        .map(Some)
}

/// A text, or an integer as a text: `8081` is `"8081"`.
///
/// # Errors
/// The value is of another type.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Written::deserialize(deserializer)? {
        Written::Integer(number) => number.to_string(),
        Written::Text(text) => text,
    })
}

/// An integer or a text in the configuration.
enum Written {
    Integer(i128),
    Text(String),
}

impl Written {
    fn read<'de, D: Deserializer<'de>, T: TryFrom<u64>>(
        deserializer: D,
        parse: impl FnOnce(&str) -> Result<u64, String>,
        allowed: std::ops::RangeInclusive<u64>,
        out_of_bounds: impl FnOnce(&Self) -> D::Error,
    ) -> Result<T, D::Error> {
        let written = Self::deserialize(deserializer)?;
        let value = match &written {
            Self::Integer(number) => u64::try_from(*number).ok(),
            Self::Text(text) => Some(parse(text).map_err(D::Error::custom)?),
        };
        value
            .filter(|value| allowed.contains(value))
            .and_then(|value| T::try_from(value).ok())
            .ok_or_else(|| out_of_bounds(&written))
    }
}

impl Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WrittenVisitor;

        impl Visitor<'_> for WrittenVisitor {
            type Value = Written;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number or a text")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Written, E> {
                Ok(Written::Integer(number.into()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Written, E> {
                Ok(Written::Integer(number.into()))
            }

            fn visit_i128<E: Error>(self, number: i128) -> Result<Written, E> {
                Ok(Written::Integer(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Written, E> {
                Ok(Written::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(WrittenVisitor)
    }
}

/// Parses a size: a whole number of bytes, or a whole number with a unit: `B`, `kB`, `MB`, `GB`, `TB` (powers of 1000),
/// `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024), in upper or lower case, possibly after a space.
///
/// # Errors
/// A message for the user: the text is not a size, its unit is ambiguous (`10M`), or it exceeds 2^63 - 1 bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits_len = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = text.split_at(digits_len);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let is_unit = |name: &str| unit.eq_ignore_ascii_case(name);
    let of_unit = SIZE_UNITS.iter().find(|(name, _)| is_unit(name));
    let factor = match of_unit {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => 1,
        None if !digits.is_empty() && AMBIGUOUS_UNITS.into_iter().any(is_unit) => {
            let letter = unit.to_ascii_uppercase();
            return Err(format!(
                "the unit of {text:?} is ambiguous: write {digits}{letter}iB or {digits}{letter}B"
            ));
        }
        None => return Err(not_a_size(text)),
    };
    if digits.is_empty() {
        return Err(not_a_size(text));
    }
    let bytes = digits
        .parse()
        .ok()
        .and_then(|number: u64| number.checked_mul(factor));
    bytes
        .filter(|bytes| *bytes <= SIZE_MAX)
        .ok_or_else(|| format!("{text:?} is too large: sizes have at most {SIZE_MAX} bytes"))
}

fn not_a_size(text: &str) -> String {
    format!("expected a whole number with a unit, such as 10MiB, 500kB or 64KiB, found {text:?}")
}

/// Parses a time: a whole number of seconds, or numbers with the units `h`, `m` and `s`, such as `1m30s`. The long
/// names of the units are allowed too.
///
/// # Errors
/// A message for the user: the text is not a time, or not a whole number of seconds.
pub fn parse_seconds(text: &str) -> Result<u64, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        return text
            .parse()
            .map_err(|_| format!("{text:?} is too large for a number of seconds"));
    }
    let not_a_time =
        || format!("expected a time in h, m and s, such as 30s, 5m, 1m30s or 2h, found {text:?}");
    let time = SpanParser::new().parse_unsigned_duration(text);
    let time = time.map_err(|_| not_a_time())?;
    match time.subsec_nanos() {
        0 => Ok(time.as_secs()),
        _ => Err(format!("expected whole seconds, found {text:?}")),
    }
}

/// Formats a size in the largest unit that divides it, such as `10MiB`. [`parse_bytes`] reads it back.
pub fn format_bytes(bytes: u64) -> String {
    let divides = |(_, factor): &&(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    let (unit, factor) = SIZE_UNITS.iter().rev().find(divides).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / factor)
}

/// Formats a number of seconds, such as `1m30s`. [`parse_seconds`] reads it back.
pub fn format_seconds(seconds: u64) -> String {
    let printer = SpanPrinter::new().spacing(Spacing::None);
    printer.unsigned_duration_to_string(&Duration::from_secs(seconds))
}

/// Networks in CIDR notation; a single address is a network of one.
///
/// # Errors
/// A text is not a network, or it is an IPv4-mapped IPv6 network. The latter would never match, because client
/// addresses are compared as IPv4 where they are mapped.
pub fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: String| {
        let network = text
            .parse()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .ok()
            .filter(|net| !matches!(net, IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some()));
        let allowed = "addresses or networks such as 10.0.0.0/8 or 2001:db8::/32";
        network.ok_or_else(|| expected(allowed, format_args!("{text:?}")))
    };
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.into_iter().map(network).collect()
}

/// The error for a value that is not allowed.
pub fn expected<E: Error>(allowed: impl Display, found: impl Display) -> E {
    E::custom(format_args!("expected {allowed}, found {found}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("10485760", 10 << 20),
            ("1B", 1),
            ("64KiB", 64 << 10),
            ("64 kib", 64 << 10),
            ("10MiB", 10 << 20),
            ("10MB", 10_000_000),
            ("10 MB", 10_000_000),
            ("500kB", 500_000),
            ("500KB", 500_000),
            ("2GiB", 2 << 30),
            ("1TiB", 1 << 40),
            ("3TB", 3_000_000_000_000),
            ("9223372036854775807", i64::MAX as u64),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_bad_sizes() {
        for (text, why) in [
            ("", "such as 10MiB"),
            ("MiB", "such as 10MiB"),
            (" 1MiB", "such as 10MiB"),
            ("1MiB ", "such as 10MiB"),
            ("1  MiB", "such as 10MiB"),
            ("-1", "such as 10MiB"),
            ("+1", "such as 10MiB"),
            ("1.5GiB", "whole number"),
            ("1MiB 5KiB", "such as 10MiB"),
            ("10Mib/s", "such as 10MiB"),
            ("\u{661}MiB", "such as 10MiB"),
            ("10M", "10MiB or 10MB"),
            ("10k", "10KiB or 10KB"),
            ("9223372036854775808", "too large"),
            ("99999999999999999999", "too large"),
            ("8388608TiB", "too large"),
            ("18446744073709551615TiB", "too large"),
        ] {
            let error = parse_bytes(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn parses_times() {
        for (text, secs) in [
            ("0", 0),
            ("0s", 0),
            ("90", 90),
            ("30s", 30),
            ("5m", 300),
            ("1m30s", 90),
            ("1m 30s", 90),
            ("2h", 7200),
            ("1.5h", 5400),
            ("2 hours", 7200),
        ] {
            assert_eq!(parse_seconds(text), Ok(secs), "{text}");
        }
    }

    #[test]
    fn refuses_bad_times() {
        for (text, why) in [
            ("", "such as 30s"),
            ("s", "such as 30s"),
            ("-5s", "such as 30s"),
            ("5x", "such as 30s"),
            ("5s ago", "such as 30s"),
            ("1d", "in h, m and s"),
            ("500ms", "whole seconds"),
            ("1.5s", "whole seconds"),
            ("99999999999999999999", "too large"),
            ("99999999999999999999h", "such as 30s"),
        ] {
            let error = parse_seconds(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn formats_in_largest_unit() {
        for (bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (1000, "1kB"),
            (1024, "1KiB"),
            (10_551_296, "10304KiB"),
            (10 << 20, "10MiB"),
            (10_000_000, "10MB"),
            (1_000_000_000_000, "1TB"),
            (1 << 40, "1TiB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
        for (secs, text) in [(0, "0s"), (90, "1m30s"), (3600, "1h"), (86_400, "24h")] {
            assert_eq!(format_seconds(secs), text);
        }
    }

    proptest! {
        #[test]
        fn formatted_values_parse(bytes in 0..=SIZE_MAX, secs in 0..=999_999_999u64) {
            prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
            prop_assert_eq!(parse_seconds(&format_seconds(secs)), Ok(secs));
        }

        #[test]
        fn parsers_never_panic(text in "\\PC{0,40}") {
            let _ = (parse_bytes(&text), parse_seconds(&text));
        }
    }
}
