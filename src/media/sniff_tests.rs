//! Tests magic numbers, the inline allow-list, and the choice of the content type.

use std::fs;

use super::{
    content_type::CONTENT_TYPE_BYTES_MAX,
    kind::Family,
    sniff::{Sniffed, content_type, sniff},
};

#[test]
fn finds_kind_by_first_bytes() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/images");
    for path in fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        let kind = match path
            .extension()
            .and_then(|extension| extension.to_str())
            .unwrap()
        {
            "jpg" => Sniffed::Jpeg,
            "png" => Sniffed::Png,
            "gif" => Sniffed::Gif,
            "webp" => Sniffed::Webp,
            "bmp" => Sniffed::Bmp,
            _ => Sniffed::Text,
        };
        assert_eq!(sniff(&fs::read(&path).unwrap()), kind, "{}", path.display());
    }
    let frames = |header: &[u8], length: usize| {
        let mut bytes = header.to_vec();
        bytes.resize(length, 0x55);
        bytes.extend_from_slice(header);
        bytes.resize(2 * length, 0x55);
        bytes
    };
    let mp3 = frames(b"\xff\xfb\x90\x00\x00\x00", 417);
    let aac = frames(b"\xff\xf1\x50\x80\x10\x1f", 128);
    let cases: &[(&[u8], Sniffed)] = &[
        (b"", Sniffed::Unknown),
        (b"\0\x01\x02", Sniffed::Unknown),
        (b"#!AMR\n\x3c", Sniffed::AmrNb),
        (b"#!AMR-WB\n\x3c", Sniffed::AmrWb),
        (b"ID3\x04\0\0\0\0\x02\x01", Sniffed::Mp3),
        (&mp3, Sniffed::Mp3),
        (&mp3[..417], Sniffed::Unknown),
        (&aac, Sniffed::Aac),
        (b"OggS\0\x02\0\0\0\0\0\0\0\0OpusHead", Sniffed::OggAudio),
        (b"OggS\0\x02\0\0\0\0\0\0\0\0\x80theora", Sniffed::OggVideo),
        (b"RIFF\x24\0\0\0WAVEfmt ", Sniffed::Wav),
        (b"RIFF\x24\0\0\0AVI LIST", Sniffed::Avi),
        (b"RIFF\x24\0\0\0CDR9", Sniffed::Unknown),
        (b"fLaC\0\0\0\x22", Sniffed::Flac),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", Sniffed::Mp4),
        (b"\0\0\0\x18ftypxxxx\0\0\0\0isommp42", Sniffed::Mp4),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", Sniffed::Mov),
        (b"\0\0\0\x08wide\0\0\x10\0mdat", Sniffed::Mov),
        (b"\0\0\0\x18ftyp3gp4\0\0\0\0isom3gp4", Sniffed::ThreeGp),
        (b"\0\0\0\x18ftypM4A \0\0\0\0isomM4A ", Sniffed::M4a),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Sniffed::Heif),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", Sniffed::Avif),
        (b"\0\0\0\x14ftypavif\0\0\0\0avif", Sniffed::Avif),
        (b"\0\0\0\x14ftypcrx \0\0\0\0zzzz", Sniffed::Unknown),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm", Sniffed::Webm),
        (b"\x1a\x45\xdf\xa3\xa3\x42\x82\x88matroska", Sniffed::Mkv),
        (b"%PDF-1.7\n", Sniffed::Pdf),
        (b"PK\x03\x04\x14\0", Sniffed::Zip),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0", Sniffed::Ole),
        (b"\x1f\x8b\x08\0", Sniffed::Gzip),
        (b"7z\xbc\xaf\x27\x1c\0\x04", Sniffed::SevenZip),
        (b"Rar!\x1a\x07\x01\0", Sniffed::Rar),
        (b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0", Sniffed::Ico),
        (b"MM\0*\0\0\0\x08", Sniffed::Tiff),
        (
            b"BMW is a maker of cars, and of motorcycles.",
            Sniffed::Text,
        ),
        (b"  \r\n<!DOCTYPE html><p>", Sniffed::Html),
        (b"\xef\xbb\xbf<ScRiPt>alert(1)</script>", Sniffed::Html),
        (b"<!-- --><script>", Sniffed::Html),
        (b"<svg/onload=alert(1)>", Sniffed::Svg),
        (b"<?xml version='1.0'?><!-- --><svg>", Sniffed::Svg),
        (b"<?xml version='1.0'?><html>", Sniffed::Html),
        (b"<?xml version='1.0'?><feed/>", Sniffed::Xml),
        (b"<bold claims follow", Sniffed::Text),
        ("你好，世界".as_bytes(), Sniffed::Text),
        (b"\xc4\xe3\xba\xc3", Sniffed::Unknown),
        (b"\xff\xfeh\0i\0", Sniffed::Text),
    ];
    for (bytes, kind) in cases {
        assert_eq!(sniff(bytes), *kind, "{}", bytes.escape_ascii());
    }
    // Text whose last character is cut by the limit is still text.
    assert_eq!(sniff("世".repeat(2000).as_bytes()), Sniffed::Text);
}

#[test]
fn only_safe_kinds_are_inline() {
    use Sniffed::*;
    for kind in [
        Html, Svg, Xml, Text, Pdf, Zip, Ole, Gzip, SevenZip, Rar, Mkv, Avi, Tiff, Ico, Unknown,
    ] {
        assert!(!kind.may_be_inline(), "{kind:?}");
    }
    for kind in [
        Jpeg, Png, Gif, Webp, Bmp, AmrNb, AmrWb, Mp3, OggAudio, Wav, Flac, M4a, Aac, Mp4, Mov,
        ThreeGp, Webm,
    ] {
        assert!(kind.may_be_inline(), "{kind:?}");
        // Whatever type is declared, an inline body gets a type that does not run.
        for declared in [
            "text/html",
            "image/svg+xml",
            "application/xhtml+xml",
            "application/javascript",
            "text/xml",
        ] {
            assert_eq!(
                content_type(Some(declared), kind),
                kind.media_type().unwrap(),
                "{kind:?} as {declared}"
            );
        }
    }
    assert!(!Svg.is_image() && Svg.family() == Family::Text);
    assert!(!M4a.is_video() && ThreeGp.is_video() && Tiff.is_image() && !Tiff.is_decodable_image());
}

#[test]
fn keeps_declared_type_unless_contradicted() {
    use Sniffed::*;
    let docx = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
    let long = format!("text/{}", "x".repeat(CONTENT_TYPE_BYTES_MAX));
    for (declared, kind, stored) in [
        (Some("image/jpeg"), Ole, "application/x-ole-storage"),
        (
            Some("application/vnd.ms-excel"),
            Ole,
            "application/vnd.ms-excel",
        ),
        (Some(docx), Zip, docx),
        (
            Some("application/vnd.android.package-archive"),
            Zip,
            "application/vnd.android.package-archive",
        ),
        (Some("application/octet-stream"), Zip, "application/zip"),
        (Some("image/jpeg"), Png, "image/png"),
        (Some("image/jpg"), Jpeg, "image/jpeg"),
        (Some("audio/mp4"), Mp4, "audio/mp4"),
        (Some("video/quicktime"), Mp4, "video/quicktime"),
        (Some("video/3gpp"), ThreeGp, "video/3gpp"),
        (Some("text/html"), Mp4, "video/mp4"),
        (
            Some("audio/webm;codecs=opus"),
            Webm,
            "audio/webm;codecs=opus",
        ),
        (
            Some("text/markdown; charset=utf-8"),
            Text,
            "text/markdown; charset=utf-8",
        ),
        (
            Some("text/html; charset=utf-8"),
            Text,
            "application/octet-stream",
        ),
        (None, Html, "application/octet-stream"),
        (Some("image/png"), Html, "application/octet-stream"),
        (None, Xml, "application/octet-stream"),
        (Some("application/xml"), Xml, "application/octet-stream"),
        (None, Svg, "image/svg+xml"),
        (Some("image/svg+xml"), Svg, "image/svg+xml"),
        (Some("image/svg+xml"), Html, "application/octet-stream"),
        (Some("image/svg+xml"), Text, "text/plain"),
        (Some("image/svg+xml"), Unknown, "application/octet-stream"),
        (Some("Text/JavaScript"), Text, "application/octet-stream"),
        (Some("text/css;a=b"), Unknown, "application/octet-stream"),
        (
            Some("application/wasm"),
            Unknown,
            "application/octet-stream",
        ),
        (Some("application/vnd.thing+xml"), Zip, "application/zip"),
        (
            Some("application/x-java-archive"),
            Zip,
            "application/octet-stream",
        ),
        (Some("application/pdf"), Pdf, "application/pdf"),
        (Some("text/css"), Jpeg, "image/jpeg"),
        (Some("text/csv"), Text, "text/csv"),
        (Some("application/json"), Text, "application/json"),
        (Some("image/png"), Text, "text/plain"),
        (Some("text/plain"), Html, "text/plain"),
        (Some("application/x-thing"), Unknown, "application/x-thing"),
        (
            Some("text/plain; charset=\"a;\\\"b\""),
            Unknown,
            "text/plain; charset=\"a;\\\"b\"",
        ),
        (Some("text/plain;"), Unknown, "text/plain;"),
        (
            Some("multipart/form-data; boundary=x"),
            Unknown,
            "application/octet-stream",
        ),
        (Some("Multipart/Mixed"), Text, "text/plain"),
        (Some(""), Unknown, "application/octet-stream"),
        (Some("text"), Unknown, "application/octet-stream"),
        (Some("text/"), Unknown, "application/octet-stream"),
        (Some("text/plain x"), Unknown, "application/octet-stream"),
        (
            Some("text/plain; charset"),
            Unknown,
            "application/octet-stream",
        ),
        (
            Some("text/plain; a=\"b"),
            Unknown,
            "application/octet-stream",
        ),
        (
            Some("text/plain\r\nx: y"),
            Unknown,
            "application/octet-stream",
        ),
        (Some("text/plain; a=é"), Unknown, "application/octet-stream"),
        (Some(&long), Unknown, "application/octet-stream"),
        (None, Unknown, "application/octet-stream"),
        (None, Jpeg, "image/jpeg"),
    ] {
        assert_eq!(
            content_type(declared, kind),
            stored,
            "{declared:?} of {kind:?}"
        );
    }
}
