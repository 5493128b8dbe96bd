//! JPEGs written bit by bit, with many pixels and scans in few bytes.

/// Sampling factors of the components: chroma halved, chroma full, and four inks.
pub const HALVED: &[u8] = &[0x22, 0x11, 0x11];
pub const WHOLE: &[u8] = &[0x11; 3];
pub const INKS: &[u8] = &[0x11; 4];

/// A grey progressive JPEG: one scan over all components, the others over the first one.
pub fn progressive(width: u16, height: u16, sampling: &[u8], scans: u32) -> Vec<u8> {
    let mut file = start(0xc2, width, height, sampling);
    // The lowest frequency of all components: the same shade everywhere, one bit per block.
    file.extend(scan_of_all(sampling, &[0, 0, 0]));
    file.extend(vec![
        0;
        blocks_of_all(width, height, sampling).div_ceil(8)
            as usize
    ]);
    // All other frequencies of the first component, refined repeatedly without change: a decoder visits every
    // coefficient.
    let blocks = u32::from(width).div_ceil(8) * u32::from(height).div_ceil(8);
    for _ in 1..scans {
        file.extend(segment(0xda, &[1, 1, 0, 1, 63, 0x10]));
        file.extend(nothing(blocks));
    }
    file.extend([0xff, 0xd9]);
    file
}

/// A grey picture with only a size: some 300 bytes for any size.
pub fn empty(width: u16, height: u16) -> Vec<u8> {
    let mut file = start(0xc2, width, height, HALVED);
    file.extend(segment(0xda, &[1, 1, 0, 1, 63, 0]));
    file.extend(nothing(
        u32::from(width).div_ceil(8) * u32::from(height).div_ceil(8),
    ));
    file.extend([0xff, 0xd9]);
    file
}

/// A grey baseline JPEG with one scan.
pub fn baseline(width: u16, height: u16, sampling: &[u8]) -> Vec<u8> {
    let mut file = start(0xc0, width, height, sampling);
    file.extend(scan_of_all(sampling, &[0, 63, 0]));
    // For each block, the same shade as before (0) and the end of the block (0000).
    let bits = blocks_of_all(width, height, sampling) * 5;
    file.extend(vec![0; bits.div_ceil(8) as usize]);
    file.extend([0xff, 0xd9]);
    file
}

fn start(frame: u8, width: u16, height: u16, sampling: &[u8]) -> Vec<u8> {
    let mut file = vec![0xff, 0xd8];
    file.extend(segment(0xdb, &[&[0][..], &[1; 64]].concat()));
    let ([h1, h0], [w1, w0]) = (height.to_be_bytes(), width.to_be_bytes());
    let mut body = vec![8, h1, h0, w1, w0, sampling.len() as u8];
    body.extend(
        (1..)
            .zip(sampling)
            .flat_map(|(id, factors)| [id, *factors, 0]),
    );
    file.extend(segment(frame, &body));
    // One code of one bit: no difference from the previous block.
    let mut counts = [0; 16];
    counts[0] = 1;
    file.extend(segment(0xc4, &[&[0][..], &counts, &[0]].concat()));
    // Fifteen codes of four bits: the ends of runs of 2^n blocks. The first one ends one block.
    let mut counts = [0; 16];
    counts[3] = 15;
    let ends: Vec<u8> = (0..15).map(|n| n << 4).collect();
    file.extend(segment(0xc4, &[&[0x10][..], &counts, &ends].concat()));
    file
}

fn scan_of_all(sampling: &[u8], last: &[u8]) -> Vec<u8> {
    let mut body = vec![sampling.len() as u8];
    body.extend((1..).zip(sampling).flat_map(|(id, _)| [id, 0]));
    body.extend(last);
    segment(0xda, &body)
}

fn blocks_of_all(width: u16, height: u16, sampling: &[u8]) -> u32 {
    let (h, v) = (u32::from(sampling[0] >> 4), u32::from(sampling[0] & 15));
    let units = u32::from(width).div_ceil(8 * h) * u32::from(height).div_ceil(8 * v);
    units * (h * v + sampling.len() as u32 - 1)
}

fn segment(marker: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 2).expect("a short segment");
    [&[0xff, marker][..], &length.to_be_bytes(), body].concat()
}

/// A run of blocks without changes.
fn nothing(mut blocks: u32) -> Vec<u8> {
    let mut bits = Vec::new();
    while blocks > 0 {
        let n = blocks.ilog2().min(14);
        bits.extend((0..4).rev().map(|bit| n >> bit & 1));
        bits.extend(vec![0; n as usize]);
        blocks -= 1 << n;
    }
    let byte =
        |bits: &[u32]| bits.iter().fold(0, |byte, bit| byte << 1 | *bit as u8) << (8 - bits.len());
    bits.chunks(8).map(byte).collect()
}
