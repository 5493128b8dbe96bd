//! Chooses the content type of a file: the declared one is a label, kept where the bytes do not contradict it and no
//! browser would run it.
//!
//! Whether a body is inline is not decided here but by its kind, so that a label can never make it run.

use std::borrow::Cow;

use super::{
    active_type::is_active,
    kind::{Family, Sniffed},
};

/// The longest declared content type that is kept, in bytes.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// What a body is called of which nothing is known.
const OCTET_STREAM: &str = "application/octet-stream";

/// The content type to store: the declared one where it is well-formed and of the sniffed family or the
/// bytes say nothing; else the sniffed kind's; else `application/octet-stream`. Never `multipart/*`, and never an active type
/// (`active_type.rs`).
///
/// The declared value is kept whole, parameters included (RFC 9110 §8.3.1), at most
/// [`CONTENT_TYPE_BYTES_MAX`] bytes of visible ASCII and spaces.
pub fn content_type(declared: Option<&str>, sniffed: Sniffed) -> Cow<'_, str> {
    if let Some(declared) = declared
        .map(|value| value.trim_matches([' ', '\t']))
        .filter(|value| is_media_type(value))
    {
        let essence = essence(declared);
        if !essence.starts_with("multipart/") && of_family(&essence, sniffed) {
            return Cow::Borrowed(served_type(declared));
        }
    }
    Cow::Borrowed(sniffed.mime().map_or(OCTET_STREAM, served_type))
}

/// The content type to answer with, of a stored one: older versions kept active types.
pub fn served_type(stored: &str) -> &str {
    if is_active(&essence(stored)) {
        OCTET_STREAM
    } else {
        stored
    }
}

/// A type in lower case, without its parameters.
fn essence(content_type: &str) -> String {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim_matches([' ', '\t']).to_ascii_lowercase()
}

/// Whether a declared type, in lower case and without parameters, may be true of these bytes.
fn of_family(essence: &str, sniffed: Sniffed) -> bool {
    let (group, _) = essence.split_once('/').unwrap_or((essence, ""));
    // Application types whose own magic would have been found, and the one that says nothing.
    let distinct = || {
        matches!(
            essence,
            "application/octet-stream"
                | "application/pdf"
                | "application/gzip"
                | "application/x-gzip"
        ) || matches!(
            essence,
            "application/x-7z-compressed" | "application/vnd.rar" | "application/x-rar-compressed"
        ) || matches!(essence, "application/ogg" | "application/mp4")
    };
    let is_zip = || {
        matches!(
            essence,
            "application/zip" | "application/x-zip-compressed" | "application/x-zip"
        )
    };
    let is_markup =
        || essence.ends_with("+xml") || matches!(essence, "application/xml" | "application/json");
    match sniffed.family() {
        // An SVG would have been found; `<img>` shows one by this label alone, whatever it holds.
        Family::Unknown => essence != "image/svg+xml",
        Family::Text if group == "application" => {
            !distinct() && !is_zip() && essence != "application/x-ole-storage"
        }
        Family::Text => {
            matches!(group, "text" | "message" | "model")
                || essence == "image/svg+xml" && sniffed == Sniffed::Svg
        }
        Family::Zip => {
            group == "application"
                && !distinct()
                && !is_markup()
                && essence != "application/x-ole-storage"
        }
        Family::Ole => group == "application" && !distinct() && !is_markup() && !is_zip(),
        Family::IsoMedia => {
            let subtype = essence
                .strip_prefix("video/")
                .or_else(|| essence.strip_prefix("audio/"));
            let known = [
                "mp4",
                "quicktime",
                "3gpp",
                "3gpp2",
                "x-m4v",
                "m4a",
                "x-m4a",
                "m4v",
                "3gp",
            ];
            subtype.is_some_and(|subtype| known.contains(&subtype))
        }
        Family::IsoImage => {
            let known = [
                "heic",
                "heif",
                "heic-sequence",
                "heif-sequence",
                "avif",
                "avif-sequence",
            ];
            essence
                .strip_prefix("image/")
                .is_some_and(|subtype| known.contains(&subtype))
        }
        Family::Ebml => {
            matches!(
                essence,
                "video/webm"
                    | "audio/webm"
                    | "video/x-matroska"
                    | "audio/x-matroska"
                    | "video/matroska"
            )
        }
        Family::Ogg => matches!(
            essence,
            "audio/ogg" | "video/ogg" | "application/ogg" | "audio/opus"
        ),
        Family::Image | Family::Audio | Family::Video | Family::Document => {
            sniffed.mime() == Some(essence)
        }
    }
}

/// RFC 9110 §8.3.1: `type "/" subtype *( OWS ";" OWS [ parameter ] )`, in ASCII alone.
fn is_media_type(value: &str) -> bool {
    if value.len() > CONTENT_TYPE_BYTES_MAX {
        return false;
    }
    let Some((group, rest)) = value.split_once('/') else {
        return false;
    };
    let end = rest.find([';', ' ', '\t']).unwrap_or(rest.len());
    let (subtype, mut rest) = rest.split_at(end);
    if !is_token(group) || !is_token(subtype) {
        return false;
    }
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        if rest.is_empty() {
            return true;
        }
        let Some(parameter) = rest.strip_prefix(';') else {
            return false;
        };
        rest = parameter.trim_start_matches([' ', '\t']);
        if rest.is_empty() || rest.starts_with(';') {
            continue;
        }
        let Some((name, after)) = rest.split_once('=') else {
            return false;
        };
        let end = match after.strip_prefix('"') {
            Some(quoted) => match quoted_end(quoted) {
                Some(end) => end + 1,
                None => return false,
            },
            None => after.find([';', ' ', '\t']).unwrap_or(after.len()),
        };
        let is_value = after.starts_with('"') || is_token(&after[..end]);
        if !is_token(name) || !is_value {
            return false;
        }
        rest = &after[end..];
    }
}

/// The length of a quoted string after its first quote, the last quote included.
fn quoted_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'\t' | b' '..=b'~' if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            b'\t' | b' '..=b'~' => {}
            _ => return None,
        }
    }
    None
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}
