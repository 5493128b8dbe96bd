//! Computes how long an AMR file plays.
//!
//! Nothing is decoded. The duration is not estimated from the size, but counted frame by frame: a frame of silence of 20 ms
//! takes one byte, so ten megabytes can play for a minute or for two days.

/// The duration of every frame in milliseconds (RFC 4867 §4.1).
pub const AMR_FRAME_MS: u64 = 20;
/// The length of the longest magic number, in bytes.
pub const AMR_MAGIC_BYTES_MAX: u64 = 9;
/// The length of the longest frame in bytes, its header included: AMR-WB at 23.85 kbit/s.
pub const AMR_FRAME_BYTES_MAX: u64 = 61;

/// The length of a frame in bytes by its type, its header of one byte included (3GPP TS 26.101 and 26.201, whole octets
/// as in RFC 4867 §5.3). Zero marks types that a file must not hold: reserved ones, and the silence of other codecs.
const NB_FRAME_BYTES: [usize; 16] = [13, 14, 16, 18, 20, 21, 27, 32, 6, 0, 0, 0, 0, 0, 0, 1];
const WB_FRAME_BYTES: [usize; 16] = [18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 0, 0, 0, 0, 1, 1];

/// Returns how long an AMR or AMR-WB file of one channel plays, in milliseconds (RFC 4867 §5).
///
/// ```text
/// "#!AMR\n" | "#!AMR-WB\n"    then frames:    P F F F F Q P P   speech bits, filled up to an octet
///                                              └─type──┘
/// ```
///
/// An incomplete last frame does not count: phones stop recording in the middle of one. `None` for another magic number,
/// and where a frame has a type without a length. Files of several channels have another magic number (`#!AMR_MC1.0\n`).
pub fn amr_duration_ms(bytes: &[u8]) -> Option<u64> {
    let (mut rest, frame_bytes) = if let Some(rest) = bytes.strip_prefix(b"#!AMR\n") {
        (rest, NB_FRAME_BYTES)
    } else {
        (bytes.strip_prefix(b"#!AMR-WB\n")?, WB_FRAME_BYTES)
    };
    let mut frames = 0;
    while let Some(header) = rest.first() {
        let frame_len = frame_bytes[usize::from(header >> 3 & 0xf)];
        if frame_len == 0 {
            return None;
        }
        let Some(next) = rest.get(frame_len..) else {
            break;
        };
        rest = next;
        frames += 1;
    }
    Some(frames * AMR_FRAME_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NB: &[u8] = b"#!AMR\n";
    const WB: &[u8] = b"#!AMR-WB\n";

    /// One frame of a type, of `len` bytes.
    fn frame(kind: u8, len: usize) -> Vec<u8> {
        let mut frame = vec![0xa5; len];
        frame[0] = kind << 3 | 4;
        frame
    }

    fn file(magic: &[u8], frames: &[(u8, usize)]) -> Vec<u8> {
        let mut bytes = magic.to_vec();
        for (kind, len) in frames {
            bytes.extend(frame(*kind, *len));
        }
        bytes
    }

    #[test]
    fn counts_20_ms_per_frame() {
        let nb = [13, 14, 16, 18, 20, 21, 27, 32, 6];
        let wb = [18, 24, 33, 37, 41, 47, 51, 59, 61, 6];
        for (magic, sizes, empty) in [(NB, &nb[..], &[15][..]), (WB, &wb[..], &[14, 15][..])] {
            let mut frames: Vec<(u8, usize)> = (0..).zip(sizes.iter().copied()).collect();
            frames.extend(empty.iter().map(|kind| (*kind, 1)));
            for frame in &frames {
                assert_eq!(amr_duration_ms(&file(magic, &[*frame])), Some(20));
            }
            let all = file(magic, &frames);
            assert_eq!(amr_duration_ms(&all), Some(frames.len() as u64 * 20));
        }
    }

    #[test]
    fn ignores_padding_bits() {
        let mut bytes = file(NB, &[(7, 32)]);
        for header in [7 << 3, 7 << 3 | 0x87] {
            bytes[NB.len()] = header;
            assert_eq!(amr_duration_ms(&bytes), Some(20));
        }
    }

    #[test]
    fn ignores_incomplete_last_frame() {
        let whole = file(NB, &[(7, 32), (7, 32), (8, 6)]);
        for (cut, expected) in [(0, 60), (1, 40), (5, 40), (6, 40), (7, 20)] {
            let bytes = &whole[..whole.len() - cut];
            assert_eq!(amr_duration_ms(bytes), Some(expected), "{cut} cut off");
        }
        assert_eq!(amr_duration_ms(NB), Some(0));
        assert_eq!(amr_duration_ms(WB), Some(0));
    }

    #[test]
    fn broken_structure_has_no_duration() {
        for kind in 9..15 {
            let bytes = file(NB, &[(7, 32), (kind, 7), (7, 32)]);
            assert_eq!(amr_duration_ms(&bytes), None, "AMR {kind}");
        }
        for kind in 10..14 {
            let bytes = file(WB, &[(2, 33), (kind, 7)]);
            assert_eq!(amr_duration_ms(&bytes), None, "AMR-WB {kind}");
        }
        for bytes in [
            &b""[..],
            b"#!AMR",
            b"#!AMR-WB",
            b"#!AMR_MC1.0\n\0\0\0\x01",
            b"ID3\x04",
        ] {
            assert_eq!(amr_duration_ms(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn silence_plays_for_days() {
        let mut bytes = NB.to_vec();
        bytes.resize(NB.len() + 10_485_760, 15 << 3);
        let duration_ms = amr_duration_ms(&bytes).unwrap();
        assert_eq!(duration_ms, 10_485_760 * 20);
        assert_eq!(duration_ms / 3_600_000, 58);
    }

    #[test]
    fn no_frame_exceeds_the_maximum() {
        for bytes in NB_FRAME_BYTES.iter().chain(&WB_FRAME_BYTES) {
            assert!(*bytes as u64 <= AMR_FRAME_BYTES_MAX);
        }
        assert!(WB.len() as u64 <= AMR_MAGIC_BYTES_MAX);
    }
}
