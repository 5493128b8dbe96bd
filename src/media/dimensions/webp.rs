//! Reads the chunks of a WebP file (RFC 9649 §2.3–2.7): the sizes in them, and which bitstreams are decoded.
//!
//! Each bitstream has a size of its own, for which the decoder allocates memory before it compares the size with the
//! canvas, so the largest one counts. The memory for the prefix codes of a lossless bitstream is counted separately
//! ([`measure`]), since that costs CPU.

use image::metadata::Orientation;

use super::{
    Header, orientation, truncated,
    vp8l::{self, Stream},
};
use crate::media::{error::MediaError, kind::Sniffed, window::Window};

/// Flags of the chunk VP8X (§2.7).
const HAS_ALPHA: u8 = 0x10;
const IS_ANIMATED: u8 = 0x02;
/// Copies of a lossy bitstream in the decoder: a buffer that grows by doubling, and the partitions.
const LOSSY_COPIES: u64 = 3;

/// What the chunks of a WebP file say.
#[derive(Default)]
struct Webp {
    width: u32,
    height: u32,
    pixels: u64,
    turned: Option<Orientation>,
    has_alpha: bool,
    is_lossless: bool,
    is_animated: bool,
    /// How the decoder reads the file, by its first chunk.
    container: Container,
    /// The bitstreams outside of frames.
    outside: Streams,
    /// The bitstreams in the first frame of an animation.
    in_frame: Option<Streams>,
    /// Bytes of the largest lossy bitstream.
    lossy_bytes: u64,
}

/// How the decoder reads a file, by its first chunk.
#[derive(Default, Clone, Copy)]
enum Container {
    /// One lossy bitstream, or a chunk that is not decoded.
    #[default]
    Lossy,
    /// One lossless bitstream.
    Lossless,
    /// VP8X and further chunks.
    Extended { has_alpha: bool, is_animated: bool },
}

/// The first lossless bitstream of each kind in a list of chunks.
#[derive(Default)]
struct Streams {
    picture: Option<Stream>,
    alpha: Option<Stream>,
    /// The lossless bitstream in the first chunk of the list.
    first: Option<Stream>,
}

/// One chunk of a list.
#[derive(Clone, Copy)]
struct Chunk {
    /// The offset of its first byte after the header.
    body: u64,
    length: u64,
    /// Whether it is the first of its list.
    is_first: bool,
}

/// The list of chunks that is read.
#[derive(Clone, Copy)]
enum Level {
    File,
    Frame {
        width: u32,
        height: u32,
        is_first: bool,
    },
}

/// Reads the header from the chunks. The memory for prefix codes is not counted yet.
pub(super) fn header(file: &mut Window<'_>) -> Option<Header> {
    let mut found = Webp {
        container: container(file)?,
        ..Webp::default()
    };
    found.walk(file, 12, file.size(), Level::File)?;
    // Measured peaks of `image-webp`, its output included, rounded up: YUV planes, the RGBA of a lossless picture, the
    // lossless picture of an alpha channel, the frame and the canvas of an animation.
    let per_pixel = match (found.is_animated, found.is_lossless, found.has_alpha) {
        (true, ..) => 16,
        (false, true, _) => 9,
        (false, false, true) => 12,
        (false, false, false) => 6,
    };
    // The rounding above leaves room for one byte per pixel.
    let copied = (LOSSY_COPIES * found.lossy_bytes.min(file.size())).saturating_sub(found.pixels);
    let pixel_bytes = if found.has_alpha { 4 } else { 3 };
    let size = (found.width, found.height);
    Some(Header {
        pixels: found.pixels,
        decoder_bytes: found
            .pixels
            .saturating_mul(per_pixel)
            .saturating_add(copied),
        orientation: found.turned.unwrap_or(Orientation::NoTransforms),
        unmeasured: found.stream(),
        ..Header::new(Sniffed::Webp, file, size, pixel_bytes)
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

/// Adds the memory for the prefix codes of the lossless bitstream. Counting stops above `bytes_max`.
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
    /// Reads the chunks from `at` to `end`.
    fn walk(&mut self, file: &mut Window<'_>, mut at: u64, end: u64, level: Level) -> Option<()> {
        let start = at;
        let mut previous = [0; 4];
        while let (true, Some(kind), Some(length)) =
            (at < end, file.array::<4>(at), file.u32_le(at + 4))
        {
            let chunk = Chunk {
                body: at + 8,
                length: length.into(),
                is_first: at == start,
            };
            match &kind {
                b"VP8X" => self.extended(file, chunk)?,
                b"VP8L" => self.lossless(file, chunk, level)?,
                b"ANMF" if matches!(level, Level::File) => self.frame(file, chunk)?,
                b"EXIF" => self.exif(file, chunk)?,
                b"ALPH" => self.alpha(file, chunk, level)?,
                _ => {}
            }
            // The decoder reads the chunk after the alpha channel of a frame as a lossy bitstream, whatever its name is.
            let is_behind_alpha = matches!(level, Level::Frame { .. }) && &previous == b"ALPH";
            if &kind == b"VP8 " || is_behind_alpha {
                let (width, height) = (file.u16_le(chunk.body + 6)?, file.u16_le(chunk.body + 8)?);
                self.has_size((width & 0x3fff).into(), (height & 0x3fff).into());
                self.lossy_bytes = self.lossy_bytes.max(chunk.length);
            }
            previous = kind;
            at = chunk.next();
        }
        (self.width > 0).then_some(())
    }

    fn extended(&mut self, file: &mut Window<'_>, chunk: Chunk) -> Option<()> {
        let flags = file.byte(chunk.body)?;
        self.has_alpha |= flags & HAS_ALPHA != 0;
        self.is_animated |= flags & IS_ANIMATED != 0;
        self.has_size(
            file.u24_le(chunk.body + 4)? + 1,
            file.u24_le(chunk.body + 7)? + 1,
        );
        Some(())
    }

    fn lossless(&mut self, file: &mut Window<'_>, chunk: Chunk, level: Level) -> Option<()> {
        let bits = file.u32_le(chunk.body + 1)?;
        self.is_lossless = true;
        self.has_alpha |= bits >> 28 & 1 != 0;
        self.has_size((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1);
        if let Some(streams) = self.streams(level) {
            let stream = chunk.stream(chunk.body, None);
            streams.picture.get_or_insert(stream);
            streams.first = streams.first.or(chunk.is_first.then_some(stream));
        }
        Some(())
    }

    fn frame(&mut self, file: &mut Window<'_>, chunk: Chunk) -> Option<()> {
        let Chunk { body, .. } = chunk;
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
        self.walk(file, body + 16, chunk.next(), frame)
    }

    fn exif(&mut self, file: &mut Window<'_>, chunk: Chunk) -> Option<()> {
        let exif = file.get_some(chunk.body, usize::try_from(chunk.length).ok()?);
        // Some writers put the JPEG prefix before the TIFF structure.
        let tiff = exif.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
        self.turned = Some(orientation(tiff));
        Some(())
    }

    fn alpha(&mut self, file: &mut Window<'_>, chunk: Chunk, level: Level) -> Option<()> {
        self.has_alpha = true;
        // The lowest two bits name the compression; 1 is a lossless bitstream without a header (§2.7.1.2).
        let is_lossless = file.byte(chunk.body)? & 3 == 1;
        let (width, height) = match level {
            Level::File => (self.width, self.height),
            Level::Frame { width, height, .. } => (width, height),
        };
        // The decoder refuses larger sides before it reads the channel.
        let sides = u16::try_from(width).ok().zip(u16::try_from(height).ok());
        if is_lossless
            && sides.is_some()
            && let Some(streams) = self.streams(level)
        {
            let stream = chunk.stream(chunk.body + 1, sides);
            streams.alpha.get_or_insert(stream);
            streams.first = streams.first.or(chunk.is_first.then_some(stream));
        }
        Some(())
    }

    /// Notes the size of a canvas or bitstream. The first is the picture's; the largest is what a decoder may allocate.
    fn has_size(&mut self, width: u32, height: u32) {
        if self.width == 0 {
            (self.width, self.height) = (width, height);
        }
        self.pixels = self.pixels.max(u64::from(width) * u64::from(height));
    }

    /// The bitstreams of a list of chunks. `None` for frames after the first, which are not decoded.
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
            // The decoder looks for chunks in the first frame even where no flag says that there is an animation.
            Container::Extended { has_alpha, .. } => {
                let alpha = outside.alpha.or(in_frame.alpha);
                let picture = outside.picture.or(in_frame.picture);
                picture.or(alpha.filter(|_| has_alpha))
            }
        }
    }
}

impl Chunk {
    /// The offset of the chunk behind it. Chunks have an even number of bytes.
    fn next(self) -> u64 {
        self.body + self.length + (self.length & 1)
    }

    /// A bitstream from `start` to the end of the chunk.
    fn stream(self, start: u64, sides: Option<(u16, u16)>) -> Stream {
        let end = self.body + self.length;
        Stream { start, end, sides }
    }
}
