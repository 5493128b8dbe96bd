//! Tests that the memory for the prefix codes of a lossless WebP is known before decoding, and that no ordinary picture is
//! refused for it.

use std::panic;

use image::{ImageDecoder, codecs::webp::WebPDecoder};

use super::{
    cost::Plan,
    sniff::Sniffed,
    thumbnail::{Header, MediaError, thumbnail},
    thumbnail_tests::{LIMITS, fixture},
};
use crate::derivative::BoundingBox;

#[path = "../../tests/it/support/lossless.rs"]
#[allow(unreachable_pub, reason = "the tests in `tests/it` share it")]
mod lossless;
#[path = "../../tests/it/support/random.rs"]
#[allow(unreachable_pub, reason = "the tests in `tests/it` share it")]
mod random;

use lossless::{EVERYWHERE, Inside, many_groups, unnamed_bitstream};
use random::Random;

const FIT: BoundingBox = BoundingBox::square(96);
/// The least bytes of a group: a table and a tree for the green channel, and tables for red, blue and alpha.
const GROUP_BYTES: u64 = 4096 + 2048 * 32 + 3 * 1024;

#[test]
fn counts_codes_everywhere() {
    for inside in EVERYWHERE {
        let decoder_bytes = |groups: u32| {
            let source = many_groups(inside, groups);
            let header = Header::read(&source.as_slice(), &LIMITS).unwrap();
            header.decoder_bytes
        };
        let (one, many) = (decoder_bytes(1), decoder_bytes(1001));
        let grown = many - one;
        let exact = 1000 * GROUP_BYTES;
        assert!(
            (exact..exact * 5 / 4).contains(&grown),
            "{inside:?}: {grown} of {exact}"
        );
    }
}

#[test]
fn rejects_codes_above_limit() {
    let check = |inside: Inside, groups: u32| {
        let source = many_groups(inside, groups);
        let header = Header::read(&source.as_slice(), &LIMITS).unwrap();
        let refused = Plan::new(&header, FIT, &LIMITS);
        assert!(
            matches!(refused, Err(MediaError::TooMuchMemory { .. })),
            "{inside:?}, {groups}: {refused:?}"
        );
    };
    for inside in EVERYWHERE {
        check(inside, 8_000);
    }
    // The largest number of groups.
    check(Inside::Alone, 65_536);
}

#[test]
fn plans_only_measured_pictures() {
    let source = many_groups(Inside::Alone, 1);
    let outline = Header::read_outline(&source.as_slice(), Sniffed::Webp, &LIMITS).unwrap();
    assert!(!outline.is_measured());
    assert!(Plan::new(&outline, FIT, &LIMITS).is_err());
    let header = outline.measure(&source.as_slice(), &LIMITS).unwrap();
    assert!(header.is_measured());
    assert!(Plan::new(&header, FIT, &LIMITS).is_ok());
}

#[test]
fn rejects_bitstreams_under_other_names() {
    let source = unnamed_bitstream((16_383, 16_383));
    let refused = Header::read(&source.as_slice(), &LIMITS);
    assert!(
        matches!(refused, Err(MediaError::TooManyPixels { .. })),
        "{refused:?}"
    );
}

#[test]
fn accepts_written_pictures() {
    for inside in EVERYWHERE {
        let source = many_groups(inside, 3);
        assert!(is_decoded(&source), "{inside:?}");
        assert!(
            thumbnail(&source, FIT, &LIMITS, &|| false).is_ok(),
            "{inside:?}"
        );
    }
}

/// Every bitstream that the decoder accepts can be measured, also after damage: if a bitstream is not understood, the
/// count could be too low.
#[test]
fn measures_whatever_the_decoder_accepts() {
    let mut random = Random::new();
    let cases = std::env::var("MEDIA_FUZZ_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(100);
    let mut sources: Vec<Vec<u8>> = ["lossless.webp", "lossless_alpha.webp", "lossy_alpha.webp"]
        .map(fixture)
        .into();
    sources.push(fixture("animated.webp"));
    sources.extend(EVERYWHERE.map(|inside| many_groups(inside, 3)));
    let mut decoded = 0;
    for (number, original) in sources.iter().enumerate() {
        assert!(is_decoded(original), "{number}");
        for case in 0..cases {
            let mut source = original.clone();
            // The codes are at the beginning.
            let reach = source
                .len()
                .min(if case % 2 == 0 { 400 } else { usize::MAX });
            for _ in 0..=random.below(2) {
                let at = random.below(reach);
                source[at] ^= 1 << random.below(8);
            }
            if case % 8 == 1 {
                source[random.below(reach)] = random.bytes(1)[0];
            }
            if case % 16 == 0 {
                source.truncate(1 + random.below(source.len()));
            }
            let measured = panic::catch_unwind(|| Header::read(&source.as_slice(), &LIMITS));
            let measured = measured.unwrap_or_else(|_| panic!("{number}, {case}: panicked"));
            if is_decoded(&source) {
                decoded += 1;
                let is_bounded = matches!(measured, Ok(_) | Err(MediaError::TooManyPixels { .. }));
                assert!(is_bounded, "{number}, {case}: {measured:?}");
            }
        }
    }
    assert!(decoded > cases, "damage that still decodes: {decoded}");
}

fn is_decoded(source: &[u8]) -> bool {
    // A limit of its own: a damaged header may claim many pixels.
    let decode = || {
        let decoder = WebPDecoder::new(std::io::Cursor::new(source)).ok()?;
        if decoder.total_bytes() > 4 << 20 {
            return None;
        }
        let mut pixels = vec![0; usize::try_from(decoder.total_bytes()).ok()?];
        decoder.read_image(&mut pixels).ok()
    };
    // The decoder's arithmetic overflows on some damage, which is a panic in tests.
    panic::catch_unwind(decode).is_ok_and(|decoded| decoded.is_some())
}
