//! Finds the kind of a file by its first bytes.
//!
//! A table of magic numbers, and a few structures that a prefix does not identify. Names, extensions and declared types do
//! not count, nor do bytes after the first [`SNIFF_BYTES_MAX`]. A file is sniffed once, when it is uploaded; its metadata
//! keeps the result.

pub use super::{
    content_type::{content_type, served_type},
    kind::Sniffed,
};

/// How many of the first bytes are read.
pub const SNIFF_BYTES_MAX: usize = 4096;

/// Returns the kind of a file by its first bytes. Bytes after [`SNIFF_BYTES_MAX`] do not count; fewer are enough where the
/// whole file is shorter.
pub fn sniff(first_bytes: &[u8]) -> Sniffed {
    let bytes = &first_bytes[..first_bytes.len().min(SNIFF_BYTES_MAX)];
    for (magic, kind) in MAGIC {
        if bytes.starts_with(magic) {
            return *kind;
        }
    }
    riff(bytes)
        .or_else(|| iso_bmff(bytes))
        .or_else(|| ebml(bytes))
        .or_else(|| ogg(bytes))
        .or_else(|| bmp(bytes))
        .or_else(|| ico(bytes))
        .or_else(|| mpeg_audio(bytes))
        .or_else(|| text(bytes))
        .unwrap_or(Sniffed::Unknown)
}

/// Prefixes that identify a kind. A longer prefix stands before its own prefixes.
const MAGIC: &[(&[u8], Sniffed)] = &[
    (b"\xff\xd8\xff", Sniffed::Jpeg),
    (b"\x89PNG\r\n\x1a\n", Sniffed::Png),
    (b"GIF87a", Sniffed::Gif),
    (b"GIF89a", Sniffed::Gif),
    (b"II*\0", Sniffed::Tiff),
    (b"MM\0*", Sniffed::Tiff),
    (b"II+\0", Sniffed::Tiff),
    (b"MM\0+", Sniffed::Tiff),
    (b"#!AMR-WB\n", Sniffed::AmrWb),
    (b"#!AMR\n", Sniffed::AmrNb),
    (b"fLaC", Sniffed::Flac),
    (b"%PDF-", Sniffed::Pdf),
    (b"PK\x03\x04", Sniffed::Zip),
    (b"PK\x05\x06", Sniffed::Zip),
    (b"PK\x07\x08", Sniffed::Zip),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Sniffed::Ole),
    (b"\x1f\x8b\x08", Sniffed::Gzip),
    (b"7z\xbc\xaf\x27\x1c", Sniffed::SevenZip),
    (b"Rar!\x1a\x07", Sniffed::Rar),
];

fn riff(bytes: &[u8]) -> Option<Sniffed> {
    if !bytes.starts_with(b"RIFF") {
        return None;
    }
    match bytes.get(8..12)? {
        b"WEBP" => Some(Sniffed::Webp),
        b"WAVE" => Some(Sniffed::Wav),
        b"AVI " => Some(Sniffed::Avi),
        _ => None,
    }
}

/// ISO/IEC 14496-12 §4.3: the file type box comes first. The major brand decides, otherwise the compatible brands.
fn iso_bmff(bytes: &[u8]) -> Option<Sniffed> {
    let kind = bytes.get(4..8)?;
    // QuickTime files from before 2001 have no file type box. Text cannot begin like this: the size has a zero byte.
    if matches!(kind, b"moov" | b"mdat" | b"wide" | b"pnot") && bytes[0] == 0 {
        return Some(Sniffed::Mov);
    }
    if kind != b"ftyp" {
        return None;
    }
    let size =
        usize::try_from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).ok()?;
    let brands = bytes.get(8..size.min(bytes.len()))?;
    let major = brands.get(..4)?;
    let compatible = || brands.get(8..).unwrap_or_default().chunks_exact(4);
    let has = |brand: &[u8]| compatible().any(|other| other == brand);
    if matches!(major, b"mif1" | b"msf1" | b"miaf") && (has(b"avif") || has(b"avis")) {
        return Some(Sniffed::Avif);
    }
    brand(major).or_else(|| compatible().find_map(brand))
}

fn brand(brand: &[u8]) -> Option<Sniffed> {
    match brand {
        b"avif" | b"avis" => Some(Sniffed::Avif),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"hevm" | b"hevs" | b"mif1"
        | b"msf1" => Some(Sniffed::Heif),
        b"M4A " | b"M4B " | b"M4P " | b"F4A " => Some(Sniffed::M4a),
        b"qt  " => Some(Sniffed::Mov),
        b"isom" | b"iso2" | b"iso3" | b"iso4" | b"iso5" | b"iso6" | b"iso7" | b"iso8" | b"iso9"
        | b"mp41" | b"mp42" | b"avc1" | b"dash" | b"M4V " | b"M4VH" | b"M4VP" | b"MSNV"
        | b"mmp4" | b"F4V " | b"XAVC" | b"cmfc" => Some(Sniffed::Mp4),
        [b'3', b'g', b'p' | b'e' | b'g' | b'r' | b's' | b'2', _] => Some(Sniffed::ThreeGp),
        _ => None,
    }
}

/// Matroska (RFC 9559): the EBML header has the document type in its first bytes.
fn ebml(bytes: &[u8]) -> Option<Sniffed> {
    if !bytes.starts_with(b"\x1a\x45\xdf\xa3") {
        return None;
    }
    let header = &bytes[..bytes.len().min(64)];
    if contains(header, b"webm") {
        Some(Sniffed::Webm)
    } else {
        contains(header, b"matroska").then_some(Sniffed::Mkv)
    }
}

fn ogg(bytes: &[u8]) -> Option<Sniffed> {
    if !bytes.starts_with(b"OggS\0") {
        return None;
    }
    Some(if contains(bytes, b"\x80theora") {
        Sniffed::OggVideo
    } else {
        Sniffed::OggAudio
    })
}

/// Texts may begin with "BM", so the reserved words and the size of the second header must fit as well.
fn bmp(bytes: &[u8]) -> Option<Sniffed> {
    let header = bytes.get(14..18)?;
    let known = matches!(header, [12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0]);
    (bytes.starts_with(b"BM") && bytes[6..10] == [0; 4] && known).then_some(Sniffed::Bmp)
}

/// An icon: type 1, at least one entry, and a zero in the reserved byte of the first entry.
fn ico(bytes: &[u8]) -> Option<Sniffed> {
    let entry = bytes.get(..10)?;
    (entry[..4] == [0, 0, 1, 0] && entry[4] != 0 && entry[5] == 0 && entry[9] == 0)
        .then_some(Sniffed::Ico)
}

/// An ID3v2 tag, or two consecutive frame headers of MPEG audio: the eleven bits of one sync word occur in any noise.
fn mpeg_audio(bytes: &[u8]) -> Option<Sniffed> {
    if let Some([b'I', b'D', b'3', major, minor, _, size @ ..]) = bytes.get(..10)
        && *major != 0xff
        && *minor != 0xff
        && size.iter().all(|byte| *byte < 0x80)
    {
        return Some(Sniffed::Mp3);
    }
    let (kind, length) = mpeg_frame(bytes)?;
    let (next, _) = mpeg_frame(bytes.get(length..)?)?;
    (next == kind).then_some(kind)
}

/// Bit rates of MPEG audio in kbit/s, by version and layer (ISO/IEC 11172-3 §2.4.2.3, 13818-3 §2.4.2.3).
const V1_LAYER_2: [usize; 14] = [
    32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384,
];
const V1_LAYER_3: [usize; 14] = [
    32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320,
];
const V2: [usize; 14] = [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];

/// The kind of the first frame, and its length in bytes.
fn mpeg_frame(bytes: &[u8]) -> Option<(Sniffed, usize)> {
    let &[sync, flags, rates, channels, more, last, ..] = bytes else {
        return None;
    };
    if sync != 0xff {
        return None;
    }
    if flags & 0xf6 == 0xf0 {
        // ADTS (ISO/IEC 13818-7 §6.2): the layer bits are zero; thirteen bits of length.
        let length =
            usize::from(channels & 3) << 11 | usize::from(more) << 3 | usize::from(last) >> 5;
        let rate_known = rates >> 2 & 0xf < 13;
        return (rate_known && length >= 7).then_some((Sniffed::Aac, length));
    }
    let (version, layer) = (flags >> 3 & 3, flags >> 1 & 3);
    if flags & 0xe0 != 0xe0 || version == 1 || !matches!(layer, 1 | 2) {
        return None;
    }
    let (bitrate, rate) = (usize::from(rates >> 4), usize::from(rates >> 2 & 3));
    if !(1..15).contains(&bitrate) || rate == 3 {
        return None;
    }
    let kilobits = match (version, layer) {
        (3, 2) => V1_LAYER_2,
        (3, _) => V1_LAYER_3,
        _ => V2,
    }[bitrate - 1];
    let hertz = [44_100, 48_000, 32_000][rate]
        / match version {
            3 => 1,
            2 => 2,
            _ => 4,
        };
    let samples_per_8 = if version != 3 && layer == 1 { 72 } else { 144 };
    let padding = usize::from(rates >> 1 & 1);
    Some((
        Sniffed::Mp3,
        samples_per_8 * kilobits * 1000 / hertz + padding,
    ))
}

/// Tags that begin an HTML document.
const HTML: &[&str] = &[
    "<!doctype html",
    "<html",
    "<head",
    "<script",
    "<iframe",
    "<h1",
    "<div",
    "<font",
    "<table",
    "<a",
    "<style",
    "<title",
    "<b",
    "<body",
    "<br",
    "<p",
    "<img",
    "<meta",
    "<link",
    "<form",
    "<object",
    "<embed",
];

/// Distinguishes text that a browser would run from other text, by WHATWG's list of tags (mimesniff §7.1), in upper or
/// lower case, after a byte order mark and white space.
fn text(bytes: &[u8]) -> Option<Sniffed> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return (bytes.len() >= 4).then_some(Sniffed::Text);
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let is_control = |byte: &u8| matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f | 0x7f);
    let cut = bytes.len() >= SNIFF_BYTES_MAX - 3;
    let utf8 = match std::str::from_utf8(bytes) {
        Ok(_) => true,
        // The last character that is read may be incomplete.
        Err(error) => cut && error.error_len().is_none(),
    };
    let start = bytes.trim_ascii_start();
    if start.is_empty() || bytes.iter().any(is_control) || !utf8 {
        return None;
    }
    Some(text_kind(&start.to_ascii_lowercase()))
}

/// The kind of a text in lower case, without white space at the beginning.
fn text_kind(lower: &[u8]) -> Sniffed {
    let begins = |tags: &[&str]| {
        tags.iter().any(|tag| {
            let next = lower.get(tag.len());
            lower.starts_with(tag.as_bytes())
                && next.is_none_or(|byte| matches!(byte, b' ' | b'>' | b'\t'..=b'\r' | b'/'))
        })
    };
    let is_comment = lower.starts_with(b"<!--");
    let is_markup = is_comment || lower.starts_with(b"<?xml") || lower.starts_with(b"<!doctype");
    if begins(HTML) {
        Sniffed::Html
    } else if begins(&["<svg", "<!doctype svg"]) || is_markup && contains(lower, b"<svg") {
        Sniffed::Svg
    } else if is_comment || is_markup && contains(lower, b"<html") {
        Sniffed::Html
    } else if is_markup {
        Sniffed::Xml
    } else {
        Sniffed::Text
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}
