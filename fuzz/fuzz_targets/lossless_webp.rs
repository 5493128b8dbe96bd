//! Arbitrary bytes as the lossless bitstream of a WebP: the memory of its prefix codes.
//!
//! The parser is compiled from its source files, as in `proxy_header.rs`.
#![no_main]

// Formatted in their own place.
#[rustfmt::skip]
#[path = "../../src/media/dimensions/bits.rs"]
mod bits;
#[rustfmt::skip]
#[path = "../../src/media/dimensions/vp8l.rs"]
mod vp8l;
#[rustfmt::skip]
#[allow(dead_code)]
#[path = "../../src/media/window.rs"]
mod window;

use libfuzzer_sys::fuzz_target;

use self::{
    vp8l::{Stream, code_bytes},
    window::Window,
};

fuzz_target!(|bytes: &[u8]| check(bytes));

fn check(bytes: &[u8]) {
    for sides in [None, Some((300, 200))] {
        let counted = |bytes: &[u8], bytes_max: u64| {
            let stream = Stream {
                start: 0,
                end: u64::MAX,
                sides,
            };
            code_bytes(&mut Window::new(&bytes), &stream, bytes_max)
        };
        let all = counted(bytes, u64::MAX);
        let bounded = counted(bytes, 100_000);
        match (all, bounded) {
            // The count stopped at the limit, or the total is not above it.
            (Some(all), Some(bounded)) if bounded > 100_000 => assert!(bounded <= all),
            (None, Some(bounded)) => assert!(bounded > 100_000),
            _ => assert_eq!(all, bounded),
        }
        // Bytes after the codes change nothing.
        if all.is_some() {
            assert_eq!(counted(&[bytes, &[0xa5; 9]].concat(), u64::MAX), all);
        }
    }
}
