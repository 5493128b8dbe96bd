//! Lossless WebPs written bit by bit, with many prefix codes in few bytes (RFC 9649 §3).

/// The order in which the lengths of code length codes are stored.
const ORDER: [u8; 16] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12];

/// The position of a lossless bitstream in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    /// The only content of the file.
    Alone,
    /// The only picture, among several chunks.
    Extended,
    /// The alpha channel of a lossy picture.
    Alpha,
    /// The first frame of an animation.
    Frame,
    /// The alpha channel of an animation's first frame.
    FrameAlpha,
    /// The first frame of a file that does not declare an animation.
    UnsaidFrame,
}

pub const EVERYWHERE: [Inside; 6] = [
    Inside::Alone,
    Inside::Extended,
    Inside::Alpha,
    Inside::Frame,
    Inside::FrameAlpha,
    Inside::UnsaidFrame,
];

/// A bit writer, lowest bit of each byte first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    fn put(&mut self, value: u32, bits: u32) {
        for at in 0..bits {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> at & 1) as u8) << (self.used % 8);
            }
            self.used += 1;
        }
    }

    /// A prefix code with one symbol.
    fn single(&mut self, symbol: u8) {
        self.put(0b101, 3);
        self.put(symbol.into(), 8);
    }

    /// A prefix code with 2^`length` symbols, all of `length` bits: 8 bytes, for any alphabet.
    fn uniform(&mut self, length: u8) {
        let count = 1 + ORDER.iter().position(|of| *of == length).expect("a length");
        self.put(0, 1);
        self.put(count as u32 - 4, 4);
        for at in 0..count {
            self.put(u32::from(at + 1 == count), 3);
        }
        // The number of lengths, in 12 bits. Each of them takes no bits.
        self.put(1, 1);
        self.put(5, 3);
        self.put((1 << length) - 2, 12);
    }
}

/// A bitstream with `groups` groups of prefix codes. The green code of each takes 70 KB in `image-webp`, because its
/// alphabet includes a colour cache; the others take 1 KB.
fn bitstream(has_header: bool, (width, height): (u32, u32), groups: u32) -> Vec<u8> {
    let mut bits = Bits::default();
    if has_header {
        bits.put(0x2f, 8);
        bits.put(width - 1, 14);
        bits.put(height - 1, 14);
        bits.put(0, 4);
    }
    // No transform; a colour cache of 2^11 entries; an entropy image.
    bits.put(0, 1);
    bits.put(1 | 11 << 1, 5);
    bits.put(1, 1);
    // Blocks of 4 × 4 pixels, all in the last group; no colour cache.
    bits.put(0, 3);
    bits.put(0, 1);
    let [high, low] = ((groups - 1) as u16).to_be_bytes();
    for symbol in [low, high, 0, 0, 0] {
        bits.single(symbol);
    }
    for _ in 0..groups {
        bits.uniform(11);
        bits.uniform(8);
        bits.uniform(8);
        bits.uniform(8);
        bits.single(0);
    }
    // Every pixel uses the first symbol of each code.
    for _ in 0..width * height {
        bits.put(0, 11);
        bits.put(0, 24);
    }
    bits.bytes
}

/// A WebP with few pixels and `groups` groups of prefix codes in its lossless bitstream.
pub fn many_groups(inside: Inside, groups: u32) -> Vec<u8> {
    let size = (64, 48);
    let with_header = bitstream(true, size, groups);
    // Compressed, without a filter.
    let alpha = [vec![1], bitstream(false, size, groups)].concat();
    let small = chunk(b"VP8L", &bitstream(true, size, 1));
    match inside {
        Inside::Alone => riff(&[chunk(b"VP8L", &with_header)]),
        Inside::Extended => riff(&[extended(0, size), chunk(b"VP8L", &with_header)]),
        Inside::Alpha => riff(&[
            extended(0x10, size),
            chunk(b"ALPH", &alpha),
            chunk(b"VP8 ", &lossy(size)),
        ]),
        Inside::Frame => riff(&[
            extended(0x12, size),
            chunk(b"ANIM", &[0; 6]),
            frame(size, &[chunk(b"VP8L", &with_header)]),
            frame(size, &[small]),
        ]),
        Inside::FrameAlpha => riff(&[
            extended(0x12, size),
            chunk(b"ANIM", &[0; 6]),
            frame(
                size,
                &[chunk(b"ALPH", &alpha), chunk(b"VP8 ", &lossy(size))],
            ),
        ]),
        Inside::UnsaidFrame => riff(&[
            extended(0, size),
            chunk(b"VP8 ", &lossy(size)),
            frame(size, &[chunk(b"VP8L", &with_header)]),
        ]),
    }
}

/// An animation whose first frame has an alpha channel and, under an unknown chunk name, a lossy bitstream that claims
/// this size. The decoder ignores the name.
pub fn unnamed_bitstream(claimed: (u32, u32)) -> Vec<u8> {
    let size = (64, 48);
    let alpha = vec![0; 1 + 64 * 48];
    let chunks = [chunk(b"ALPH", &alpha), chunk(b"none", &lossy(claimed))];
    riff(&[
        extended(0x12, size),
        chunk(b"ANIM", &[0; 6]),
        frame(size, &chunks),
    ])
}

fn riff(chunks: &[Vec<u8>]) -> Vec<u8> {
    chunk(b"RIFF", &[&b"WEBP"[..], &chunks.concat()].concat())
}

fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a short chunk");
    let padding = vec![0; body.len() % 2];
    [&name[..], &length.to_le_bytes(), body, &padding].concat()
}

fn extended(flags: u8, (width, height): (u32, u32)) -> Vec<u8> {
    let body = [&[flags, 0, 0, 0][..], &u24(width - 1), &u24(height - 1)].concat();
    chunk(b"VP8X", &body)
}

fn frame((width, height): (u32, u32), chunks: &[Vec<u8>]) -> Vec<u8> {
    let head = [&[0; 6][..], &u24(width - 1), &u24(height - 1), &[0; 4]].concat();
    chunk(b"ANMF", &[head, chunks.concat()].concat())
}

/// The header of a lossy key frame (RFC 6386 §9.1), with zeros instead of its partitions.
fn lossy((width, height): (u32, u32)) -> Vec<u8> {
    let first_partition_bytes = 2048;
    let tag = u24(first_partition_bytes << 5 | 1 << 4);
    let [w0, w1, ..] = width.to_le_bytes();
    let [h0, h1, ..] = height.to_le_bytes();
    let head = [&tag[..], &[0x9d, 1, 0x2a, w0, w1, h0, h1]].concat();
    [head, vec![0; first_partition_bytes as usize + 4096]].concat()
}

fn u24(value: u32) -> [u8; 3] {
    let [a, b, c, _] = value.to_le_bytes();
    [a, b, c]
}
