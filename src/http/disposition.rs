//! File names in `Content-Disposition`: renders them for downloads (RFC 6266, RFC 8187) and parses them from the part
//! headers of uploads (RFC 7578 §4.2).
//!
//! Does not decide whether a body may be shown inline. A name is only shown to people; no path on disk contains it.

use std::borrow::Cow;

use bytes::Bytes;
use hyper::header::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// The longest name in bytes of UTF-8: the limit of most file systems.
const FILENAME_BYTES_MAX: usize = 255;

/// All characters except `attr-char` (RFC 8187 §3.2.1).
const NOT_ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// How a browser should handle a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Show it.
    Inline,
    /// Save it.
    Attachment,
}

/// The value of `Content-Disposition`, at most about 1 KiB for any name: control characters are removed, path
/// separators become `_`, and the name is cut at 255 bytes.
///
/// `filename` is plain ASCII. If that is not the name itself, `filename*` has the name in UTF-8.
#[must_use]
pub fn content_disposition(kind: Disposition, filename: Option<&str>) -> HeaderValue {
    let kind = match kind {
        Disposition::Inline => "inline",
        Disposition::Attachment => "attachment",
    };
    let Some(name) = filename.map(displayable).filter(|name| !name.is_empty()) else {
        return HeaderValue::from_static(kind);
    };
    let fallback: String = name
        .chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    let mut text = format!("{kind}; filename=\"{fallback}\"");
    if fallback != name {
        text.push_str("; filename*=UTF-8''");
        text.extend(percent_encode(name.as_bytes(), NOT_ATTR_CHAR));
    }
    HeaderValue::from_maybe_shared(Bytes::from(text))
        .expect("plain characters, percent signs and fixed text are visible ASCII or spaces")
}

/// The file name in the `Content-Disposition` of a part, safe to store and show: the last path component (of `/` and
/// `\`), without control characters, at most [`FILENAME_BYTES_MAX`] bytes. `None` without a name, and for `.` and `..`.
///
/// Prefers `filename*` (RFC 8187), which RFC 7578 forbids in forms but clients send. Otherwise reads `filename`, a
/// token or quoted string in UTF-8, and replaces invalid bytes. Linear in the length of the header.
pub(super) fn parse_filename(content_disposition: &[u8]) -> Option<String> {
    let mut plain = None;
    let mut extended = None;
    let type_end = content_disposition.iter().position(|&byte| byte == b';')?;
    let mut rest = &content_disposition[type_end..];
    while let Some((name, value, after)) = next_parameter(rest) {
        // The first parameter of a name counts. A later one may have been injected by an unescaped quote.
        if name.eq_ignore_ascii_case(b"filename") {
            plain.get_or_insert(value);
        } else if name.eq_ignore_ascii_case(b"filename*") {
            extended.get_or_insert(value);
        }
        rest = after;
    }
    extended
        .and_then(|value| clean(&decode_extended(&value)?))
        .or_else(|| clean(&String::from_utf8_lossy(&plain?)))
}

/// A parameter's name, its value, and the rest of the text.
type Parameter<'t> = (&'t [u8], Cow<'t, [u8]>, &'t [u8]);

/// Parses the next `; name=value`. A parameter without `=` has an empty value.
fn next_parameter(text: &[u8]) -> Option<Parameter<'_>> {
    let start = text
        .iter()
        .position(|byte| !matches!(byte, b';' | b' ' | b'\t'))?;
    let (name, rest) = split_before(&text[start..], b"=;");
    let (value, rest) = match rest.strip_prefix(b"=").map(<[u8]>::trim_ascii_start) {
        None => (Cow::Borrowed(&b""[..]), rest),
        Some([b'"', quoted @ ..]) => {
            let (value, after) = unquote(quoted);
            (Cow::Owned(value), split_before(after, b";").1)
        }
        Some(token) => {
            let (value, after) = split_before(token, b";");
            (Cow::Borrowed(value.trim_ascii()), after)
        }
    };
    Some((name.trim_ascii(), value, rest))
}

/// Splits before the first of the bytes `ends`, or at the end.
fn split_before<'t>(text: &'t [u8], ends: &[u8]) -> (&'t [u8], &'t [u8]) {
    let end = text.iter().position(|byte| ends.contains(byte));
    text.split_at(end.unwrap_or(text.len()))
}

/// Reads a quoted-string after its opening quote, and returns the rest after the closing quote, which may be missing.
/// Only `\"` and `\\` are escapes: some clients send `C:\dir\name` unescaped, and none uses other escapes.
fn unquote(quoted: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut value = Vec::with_capacity(quoted.len().min(FILENAME_BYTES_MAX));
    let mut at = 0;
    while let Some(&byte) = quoted.get(at) {
        match (byte, quoted.get(at + 1)) {
            (b'"', _) => return (value, &quoted[at + 1..]),
            (b'\\', Some(&escaped @ (b'"' | b'\\'))) => {
                value.push(escaped);
                at += 2;
            }
            _ => {
                value.push(byte);
                at += 1;
            }
        }
    }
    (value, &[])
}

/// Decodes an `ext-value` (RFC 8187 §3.2) in UTF-8; `None` for other charsets.
fn decode_extended(value: &[u8]) -> Option<String> {
    let mut fields = value.splitn(3, |&byte| byte == b'\'');
    let (charset, _language, encoded) = (fields.next()?, fields.next()?, fields.next()?);
    charset
        .eq_ignore_ascii_case(b"UTF-8")
        .then(|| percent_decode(encoded).decode_utf8_lossy().into_owned())
}

fn clean(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let visible: String = last.chars().filter(|c| !c.is_control()).collect();
    let name = cut(visible.trim()).trim_end();
    (!matches!(name, "" | "." | "..")).then(|| name.to_owned())
}

fn displayable(name: &str) -> String {
    let name: String = name
        .chars()
        .filter(|c| !c.is_control())
        .map(|c| if matches!(c, '/' | '\\') { '_' } else { c })
        .collect();
    cut(&name).to_owned()
}

fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(FILENAME_BYTES_MAX)]
}

/// Whether the quoted fallback may contain it. RFC 6266 Appendix D: some browsers decode `%` there or misread escapes.
fn is_plain(c: char) -> bool {
    matches!(c, ' '..='~') && !matches!(c, '"' | '\\' | '%')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check_written(cases: &[(&str, &str)]) {
        for (name, expected) in cases {
            assert_eq!(
                content_disposition(Disposition::Attachment, Some(name)),
                expected,
                "{name:?}"
            );
        }
    }

    fn check_read(cases: &[(&[u8], Option<&str>)]) {
        for (header, expected) in cases {
            let shown = String::from_utf8_lossy(header);
            assert_eq!(parse_filename(header).as_deref(), *expected, "{shown}");
        }
    }

    #[test]
    fn quotes_plain_name() {
        check_written(&[
            ("a.jpg", "attachment; filename=\"a.jpg\""),
            (
                "my file; 'v2'.txt",
                "attachment; filename=\"my file; 'v2'.txt\"",
            ),
        ]);
        assert_eq!(
            content_disposition(Disposition::Inline, Some("a")),
            "inline; filename=\"a\""
        );
    }

    #[test]
    fn no_name_gives_only_the_kind() {
        assert_eq!(content_disposition(Disposition::Inline, None), "inline");
        check_written(&[("", "attachment"), ("\r\n\0", "attachment")]);
    }

    #[test]
    fn other_names_have_extended_value() {
        check_written(&[
            (
                "é €.txt",
                "attachment; filename=\"_ _.txt\"; filename*=UTF-8''%C3%A9%20%E2%82%AC.txt",
            ),
            (
                "100%.txt",
                "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt",
            ),
        ]);
    }

    #[test]
    fn name_stays_within_quotes_and_line() {
        check_written(&[
            (
                "a\"; x=\"b",
                "attachment; filename=\"a_; x=_b\"; filename*=UTF-8''a%22%3B%20x%3D%22b",
            ),
            (
                "a\r\nSet-Cookie: b",
                "attachment; filename=\"aSet-Cookie: b\"",
            ),
            ("..\\..\\a", "attachment; filename=\".._.._a\""),
            ("a/b", "attachment; filename=\"a_b\""),
            ("a\u{7f}\u{85}b", "attachment; filename=\"ab\""),
        ]);
    }

    #[test]
    fn parses_quoted_token_and_utf8_names() {
        check_read(&[
            (
                b"form-data; name=\"file\"; filename=\"a b.jpg\"",
                Some("a b.jpg"),
            ),
            (b"form-data;name=file;filename=a.jpg", Some("a.jpg")),
            (b"form-data; FileName = \"a.jpg\" ; x=y", Some("a.jpg")),
            (
                "form-data; filename=\"图片.png\"".as_bytes(),
                Some("图片.png"),
            ),
            (b"form-data; filename=\"a\xff.png\"", Some("a\u{fffd}.png")),
            (
                b"form-data; filename=\"a;b=c.png\"; name=file",
                Some("a;b=c.png"),
            ),
            (
                b"form-data; name=\"filename=evil\"; filename=good",
                Some("good"),
            ),
            (b"form-data; filename=\"a\"; filename=\"b\"", Some("a")),
            (b"form-data; filename=\"open", Some("open")),
        ]);
    }

    #[test]
    fn unescapes_but_keeps_windows_paths() {
        check_read(&[
            (br#"form-data; filename="a \"b\".txt""#, Some("a \"b\".txt")),
            (
                br#"form-data; filename="C:\dir\name.txt""#,
                Some("name.txt"),
            ),
            (
                br#"form-data; filename="C:\\dir\\name.txt""#,
                Some("name.txt"),
            ),
        ]);
    }

    #[test]
    fn prefers_readable_extended_name() {
        check_read(&[
            (
                b"form-data; filename=\"a\"; filename*=UTF-8''%e2%82%ac.txt",
                Some("\u{20ac}.txt"),
            ),
            (
                b"form-data; filename*=utf-8'en'b%20c; filename=a",
                Some("b c"),
            ),
            (b"form-data; filename*=\"UTF-8''b\"; filename=a", Some("b")),
            (
                b"form-data; filename=a; filename*=ISO-8859-1''%A3",
                Some("a"),
            ),
            (b"form-data; filename=a; filename*=broken", Some("a")),
            (b"form-data; filename=a; filename*=UTF-8''..", Some("a")),
            (b"form-data; filename*=UTF-8''%ff.txt", Some("\u{fffd}.txt")),
            (
                b"form-data; filename=\"_\"; filename*=UTF-8''%C2%A0",
                Some("_"),
            ),
            (
                b"form-data; filename*=UTF-8''..%2F..%2Fpasswd%00",
                Some("passwd"),
            ),
        ]);
    }

    #[test]
    fn keeps_last_path_component() {
        check_read(&[
            (b"form-data; filename=\"../../etc/passwd\"", Some("passwd")),
            (b"form-data; filename=\"a\tb\x01\"", Some("ab")),
            (b"form-data; filename=\"dir/\"", None),
            (b"form-data; filename=\".\"", None),
            (b"form-data; filename=\" ..\x01 \"", None),
            (b"form-data; filename=\"\"", None),
            (b"form-data; filename", None),
            (b"form-data; name=\"file\"", None),
            (b"filename=a", None),
            (b"", None),
            (b";;;=;=\"", None),
        ]);
    }

    #[test]
    fn cuts_long_name_between_characters() {
        let header = format!("form-data; filename=\"a{}\"", "图".repeat(1000));
        let name = parse_filename(header.as_bytes()).unwrap();
        assert_eq!(name, format!("a{}", "图".repeat(84)));
        assert!(content_disposition(Disposition::Inline, Some(&"图".repeat(1000))).len() < 1100);
    }

    proptest! {
        #[test]
        fn parses_its_own_output(name: String) {
            let value = content_disposition(Disposition::Attachment, Some(&name));
            prop_assert!(value.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte)));
            // A name that has only spaces counts as absent. Then the fallback is parsed, in which they are underscores.
            if let Some(expected) = clean(&displayable(&name)) {
                prop_assert_eq!(parse_filename(value.as_bytes()), Some(expected));
            }
        }

        #[test]
        fn gives_clean_name_or_none(mut header: Vec<u8>) {
            header.splice(0..0, *b"x; filename=");
            if let Some(name) = parse_filename(&header) {
                prop_assert!(!name.is_empty() && name.len() <= FILENAME_BYTES_MAX);
                prop_assert!(!name.contains(|c: char| c.is_control() || matches!(c, '/' | '\\')));
            }
        }
    }
}
