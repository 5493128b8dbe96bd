//! The chunks of a WebP file (RFC 9649 §2.3–2.7): the sizes that they name, and the bitstreams that are decoded.
//!
//! The bitstreams inside name sizes of their own, which the decoder allocates before it compares them with the canvas:
//! the largest counts. What the prefix codes of a lossless bitstream take is counted apart ([`measure`]), since that
//! costs CPU.

use image::metadata::Orientation;

use super::{
    Header, MediaError, Sniffed, Window, orientation, truncated,
    vp8l::{self, Stream},
};

/// Flags of the chunk VP8X (§2.7).
const HAS_ALPHA: u8 = 0x10;
const IS_ANIMATED: u8 = 0x02;
/// Copies of a lossy bitstream that the decoder makes: a buffer that grows by doubling, and the partitions.
const LOSSY_COPIES: u64 = 3;

/// What the chunks of a WebP file hold.
#[derive(Default)]
struct Webp {
    width: u32,
    height: u32,
    pixels: u64,
    turned: Option<Orientation>,
    has_alpha: bool,
    is_lossless: bool,
    is_animated: bool,
    /// The first chunk, which decides how the others are read.
    container: Container,
    /// The bitstreams among the file's own chunks.
    outside: Streams,
    /// Those in the first frame of an animation.
    in_frame: Option<Streams>,
    /// Bytes of the largest lossy bitstream.
    lossy_bytes: u64,
}

/// What the first chunk makes of a file.
#[derive(Default, Clone, Copy)]
enum Container {
    /// A lossy bitstream alone, or nothing that is decoded.
    #[default]
    Lossy,
    /// A lossless bitstream alone.
    Lossless,
    /// The first of several chunks: VP8X.
    Extended { has_alpha: bool, is_animated: bool },
}

/// The first lossless bitstream of each kind in a list of chunks.
#[derive(Default)]
struct Streams {
    picture: Option<Stream>,
    alpha: Option<Stream>,
    /// The one in the list's first chunk.
    first: Option<Stream>,
}

/// Where the list of chunks that is walked belongs.
#[derive(Clone, Copy)]
enum Level {
    File,
    Frame {
        width: u32,
        height: u32,
        is_first: bool,
    },
}

/// Reads the chunks, without what the prefix codes take.
pub(super) fn header(file: &mut Window<'_>) -> Option<Header> {
    let mut found = Webp {
        container: container(file)?,
        ..Webp::default()
    };
    found.walk(file, 12, file.size(), Level::File)?;
    // Measured peaks of `image-webp`, output included, rounded up: planes of YUV, RGBA of a lossless picture, the alpha
    // channel's own lossless picture, the frame and the canvas of an animation.
    let per_pixel = match (found.is_animated, found.is_lossless, found.has_alpha) {
        (true, ..) => 16,
        (false, true, _) => 9,
        (false, false, true) => 12,
        (false, false, false) => 6,
    };
    // Rounding up left room for one byte of each pixel.
    let copied = (LOSSY_COPIES * found.lossy_bytes.min(file.size())).saturating_sub(found.pixels);
    Some(Header {
        kind: Sniffed::Webp,
        width: found.width,
        height: found.height,
        pixels: found.pixels,
        file_bytes: file.size(),
        metadata_bytes: 0,
        decoder_bytes: found
            .pixels
            .saturating_mul(per_pixel)
            .saturating_add(copied),
        pixel_bytes: if found.has_alpha { 4 } else { 3 },
        orientation: found.turned.unwrap_or(Orientation::NoTransforms),
        jpeg: None,
        unmeasured: found.stream(),
    })
}

fn container(file: &mut Window<'_>) -> Option<Container> {
    Some(match &file.array(12)? {
        b"VP8L" => Container::Lossless,
        b"VP8X" => {
            let flags = file.byte(20)?;
            Container::Extended {
                has_alpha: flags & HAS_ALPHA != 0,
                is_animated: flags & IS_ANIMATED != 0,
            }
        }
        _ => Container::Lossy,
    })
}

/// Adds what the prefix codes of the lossless bitstream take, at least until there are more than `bytes_max`.
pub(super) fn measure(
    file: &mut Window<'_>,
    header: &Header,
    stream: &Stream,
    bytes_max: u64,
) -> Result<Header, MediaError> {
    let bytes = vp8l::code_bytes(file, stream, bytes_max).ok_or_else(|| truncated("WebP"))?;
    Ok(Header {
        decoder_bytes: header.decoder_bytes.saturating_add(bytes),
        unmeasured: None,
        ..*header
    })
}

impl Webp {
    fn walk(&mut self, file: &mut Window<'_>, mut at: u64, end: u64, level: Level) -> Option<()> {
        let start = at;
        let mut previous = [0; 4];
        while let (true, Some(kind), Some(length)) =
            (at < end, file.array::<4>(at), file.u32_le(at + 4))
        {
            let body = at + 8;
            let length = u64::from(length);
            let next = body + length + (length & 1);
            let (is_first, stream_end) = (at == start, body + length);
            match &kind {
                b"VP8X" => {
                    let flags = file.byte(body)?;
                    self.has_alpha |= flags & HAS_ALPHA != 0;
                    self.is_animated |= flags & IS_ANIMATED != 0;
                    self.has_size(file.u24_le(body + 4)? + 1, file.u24_le(body + 7)? + 1);
                }
                b"VP8L" => {
                    let bits = file.u32_le(body + 1)?;
                    self.is_lossless = true;
                    self.has_alpha |= bits >> 28 & 1 != 0;
                    self.has_size((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1);
                    let stream = Stream {
                        start: body,
                        end: stream_end,
                        sides: None,
                    };
                    if let Some(streams) = self.streams(level) {
                        streams.picture.get_or_insert(stream);
                        streams.first = streams.first.or(is_first.then_some(stream));
                    }
                }
                b"ANMF" if matches!(level, Level::File) => {
                    self.is_animated = true;
                    let is_first = self.in_frame.is_none();
                    self.in_frame.get_or_insert_default();
                    let (width, height) = (file.u24_le(body + 6)? + 1, file.u24_le(body + 9)? + 1);
                    self.pixels = self.pixels.max(u64::from(width) * u64::from(height));
                    let frame = Level::Frame {
                        width,
                        height,
                        is_first,
                    };
                    self.walk(file, body + 16, next, frame)?;
                }
                b"EXIF" => {
                    let chunk = file.get_some(body, usize::try_from(length).ok()?);
                    // Some writers put the JPEG prefix before the TIFF structure.
                    let tiff = chunk.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
                    self.turned = Some(orientation(tiff));
                }
                b"ALPH" => {
                    self.has_alpha = true;
                    // The lowest two bits name the compression; 1 is a lossless bitstream without a header (§2.7.1.2).
                    let is_lossless = file.byte(body)? & 3 == 1;
                    let (width, height) = match level {
                        Level::File => (self.width, self.height),
                        Level::Frame { width, height, .. } => (width, height),
                    };
                    // The decoder refuses larger sides before it reads the channel.
                    let sides = u16::try_from(width).ok().zip(u16::try_from(height).ok());
                    let stream = Stream {
                        start: body + 1,
                        end: stream_end,
                        sides,
                    };
                    if is_lossless
                        && sides.is_some()
                        && let Some(streams) = self.streams(level)
                    {
                        streams.alpha.get_or_insert(stream);
                        streams.first = streams.first.or(is_first.then_some(stream));
                    }
                }
                _ => {}
            }
            // What follows the alpha channel of a frame is decoded as a lossy bitstream, whatever its name.
            let is_behind_alpha = matches!(level, Level::Frame { .. }) && &previous == b"ALPH";
            if &kind == b"VP8 " || is_behind_alpha {
                let (width, height) = (file.u16_le(body + 6)?, file.u16_le(body + 8)?);
                self.has_size((width & 0x3fff).into(), (height & 0x3fff).into());
                self.lossy_bytes = self.lossy_bytes.max(length);
            }
            previous = kind;
            at = next;
        }
        (self.width > 0).then_some(())
    }

    /// The first size is the picture's, the largest what a decoder may allocate.
    fn has_size(&mut self, width: u32, height: u32) {
        if self.width == 0 {
            (self.width, self.height) = (width, height);
        }
        self.pixels = self.pixels.max(u64::from(width) * u64::from(height));
    }

    /// Where the bitstreams of a list of chunks are noted. Frames behind the first are not decoded.
    fn streams(&mut self, level: Level) -> Option<&mut Streams> {
        match level {
            Level::File => Some(&mut self.outside),
            Level::Frame { is_first: true, .. } => self.in_frame.as_mut(),
            Level::Frame { .. } => None,
        }
    }

    /// The lossless bitstream that `image-webp` decodes.
    fn stream(self) -> Option<Stream> {
        let (outside, in_frame) = (self.outside, self.in_frame.unwrap_or_default());
        match self.container {
            Container::Lossy => None,
            Container::Lossless => outside.picture,
            Container::Extended {
                is_animated: true, ..
            } => in_frame.first,
            // It looks for chunks in the first frame even where nothing says that there is an animation.
            Container::Extended { has_alpha, .. } => {
                let alpha = outside.alpha.or(in_frame.alpha);
                let picture = outside.picture.or(in_frame.picture);
                picture.or(alpha.filter(|_| has_alpha))
            }
        }
    }
}
