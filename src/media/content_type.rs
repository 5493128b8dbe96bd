//! Chooses the content type of a file. The declared type is kept where the bytes do not contradict it and no browser
//! would run it.
//!
//! Whether a body is inline depends on its kind alone, so that a declared type can never make a browser run it.

use std::borrow::Cow;

use super::{
    active_type::is_active,
    kind::{Family, Sniffed},
};

/// The longest declared content type that is kept, in bytes.
pub(super) const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// The content type of a file of which nothing is known.
const OCTET_STREAM: &str = "application/octet-stream";

/// Application types whose own magic would have been found, and the type that says nothing.
const DISTINCT: &[&str] = &[
    OCTET_STREAM,
    "application/pdf",
    "application/gzip",
    "application/x-gzip",
    "application/x-7z-compressed",
    "application/vnd.rar",
    "application/x-rar-compressed",
    "application/ogg",
    "application/mp4",
];
const ZIP: &[&str] = &[
    "application/zip",
    "application/x-zip-compressed",
    "application/x-zip",
];
const OLE: &str = "application/x-ole-storage";
const SVG: &str = "image/svg+xml";
/// Types after `video/` or `audio/`.
const ISO_MEDIA: &[&str] = &[
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
/// Types after `image/`.
const ISO_IMAGE: &[&str] = &[
    "heic",
    "heif",
    "heic-sequence",
    "heif-sequence",
    "avif",
    "avif-sequence",
];
const EBML: &[&str] = &[
    "video/webm",
    "audio/webm",
    "video/x-matroska",
    "audio/x-matroska",
    "video/matroska",
];
const OGG: &[&str] = &["audio/ogg", "video/ogg", "application/ogg", "audio/opus"];

/// Returns the content type to store: the declared one where it is well-formed and the bytes do not contradict it,
/// otherwise that of the kind, otherwise `application/octet-stream`. Never `multipart/*`, and never an active type
/// (`active_type.rs`).
///
/// The declared value is kept with its parameters (RFC 9110 §8.3.1): at most `CONTENT_TYPE_BYTES_MAX` bytes of visible
/// ASCII and spaces.
pub fn content_type(declared: Option<&str>, sniffed: Sniffed) -> Cow<'_, str> {
    if let Some(declared) = declared
        .map(|value| value.trim_matches([' ', '\t']))
        .filter(|value| is_media_type(value))
    {
        let essence = essence(declared);
        if !essence.starts_with("multipart/") && is_plausible(&essence, sniffed) {
            return Cow::Borrowed(served_type(declared));
        }
    }
    Cow::Borrowed(sniffed.media_type().map_or(OCTET_STREAM, served_type))
}

/// Returns the content type to answer with, for a stored one: older versions stored active types.
pub fn served_type(stored: &str) -> &str {
    if is_active(&essence(stored)) {
        OCTET_STREAM
    } else {
        stored
    }
}

/// The media type in lower case, without its parameters.
fn essence(content_type: &str) -> String {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim_matches([' ', '\t']).to_ascii_lowercase()
}

/// Whether a declared type, in lower case and without parameters, may be true of a file of this kind.
fn is_plausible(essence: &str, sniffed: Sniffed) -> bool {
    let (group, subtype) = essence.split_once('/').unwrap_or((essence, ""));
    let is_application = group == "application" && !DISTINCT.contains(&essence);
    let is_markup =
        essence.ends_with("+xml") || matches!(essence, "application/xml" | "application/json");
    match sniffed.family() {
        // An SVG would have been recognised. By this type alone, `<img>` would show any file as one.
        Family::Unknown => essence != SVG,
        Family::Text if group == "application" => {
            is_application && !ZIP.contains(&essence) && essence != OLE
        }
        Family::Text => {
            matches!(group, "text" | "message" | "model")
                || essence == SVG && sniffed == Sniffed::Svg
        }
        Family::Zip => is_application && !is_markup && essence != OLE,
        Family::Ole => is_application && !is_markup && !ZIP.contains(&essence),
        Family::IsoMedia => matches!(group, "video" | "audio") && ISO_MEDIA.contains(&subtype),
        Family::IsoImage => group == "image" && ISO_IMAGE.contains(&subtype),
        Family::Ebml => EBML.contains(&essence),
        Family::Ogg => OGG.contains(&essence),
        Family::Image | Family::Audio | Family::Video | Family::Document => {
            sniffed.media_type() == Some(essence)
        }
    }
}

/// Checks the syntax of RFC 9110 §8.3.1: `type "/" subtype *( OWS ";" OWS [ parameter ] )`, ASCII only.
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
        match after_parameter(rest) {
            Some(after) => rest = after,
            None => return false,
        }
    }
}

/// The text behind a parameter, `name=value`. `None` where it is malformed.
fn after_parameter(text: &str) -> Option<&str> {
    let (name, value) = text.split_once('=')?;
    let end = match value.strip_prefix('"') {
        Some(quoted) => quoted_end(quoted)? + 1,
        None => value.find([';', ' ', '\t']).unwrap_or(value.len()),
    };
    let is_value = value.starts_with('"') || is_token(&value[..end]);
    (is_token(name) && is_value).then_some(&value[end..])
}

/// The length of a quoted string after its opening quote, the closing quote included.
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

/// Checks for a token (RFC 9110 §5.6.2).
fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}
