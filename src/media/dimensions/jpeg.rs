//! Reads the segments of a JPEG: its frame, its scans, and whether the file is complete.

use image::metadata::Orientation;

use super::{Header, orientation, truncated};
use crate::media::{
    error::MediaError,
    kind::Sniffed,
    limits::SCANS_MAX,
    window::{WINDOW_BYTES, Window},
};

/// Bytes per pixel of a row of blocks that `zune-jpeg` holds beside its output, for each component: 16 lines of
/// coefficients, samples and upsampled samples.
const ROW_BYTES: u64 = 16 * 2 * 3;

/// The properties that only a JPEG has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::media) struct Jpeg {
    /// 1: grey. 3: RGB or YCbCr. 4: CMYK.
    pub(in crate::media) components: u8,
    /// Samples of all components, in whole blocks.
    pub(in crate::media) samples: u64,
    /// The sum of the samples that each scan passes over.
    pub(in crate::media) scanned_samples: u64,
    pub(in crate::media) is_progressive: bool,
    /// Whether the file has its end marker. Where it has not, the header is still what the file claims.
    pub(in crate::media) is_whole: bool,
}

/// A frame header (SOF).
#[derive(Clone, Copy)]
struct Frame {
    width: u32,
    height: u32,
    components: usize,
    /// The identifier of each component, and how many samples it has.
    samples: [(u8, u64); 4],
    is_progressive: bool,
}

/// What the segments of a JPEG say, up to the end or to the first damage.
#[derive(Default)]
struct Segments {
    frame: Option<Frame>,
    turned: Option<Orientation>,
    metadata_bytes: u64,
    scans: u32,
    scanned_samples: u64,
}

/// Reads the header. A file without its end marker is truncated: a decoder would fill the rest with grey, and a thumbnail
/// of half a picture would be kept.
pub(super) fn header(file: &mut Window<'_>) -> Result<Header, MediaError> {
    let mut segments = Segments::default();
    let end = segments.walk(file);
    let (Some(frame), false) = (
        segments.frame,
        matches!(end, Err(MediaError::UnsupportedImage)),
    ) else {
        return Err(end.err().unwrap_or_else(|| truncated("JPEG")));
    };
    let samples = frame.samples.iter().map(|(_, samples)| samples).sum();
    let pixel_bytes = if frame.components == 1 { 1 } else { 3 };
    // Several scans are collected as 16-bit coefficients of the whole picture before any pixel is computed.
    let coefficient_bytes = match frame.is_progressive || segments.scans > 1 {
        true => 2 * samples,
        false => 0,
    };
    let rows = (u64::from(frame.width) + 64) * frame.components as u64 * ROW_BYTES;
    let size = (frame.width, frame.height);
    let header = Header::new(Sniffed::Jpeg, file, size, pixel_bytes);
    Ok(Header {
        metadata_bytes: segments.metadata_bytes,
        decoder_bytes: header.decoder_bytes + coefficient_bytes + rows,
        orientation: segments.turned.unwrap_or(Orientation::NoTransforms),
        jpeg: Some(Jpeg {
            components: frame.components as u8,
            samples,
            scanned_samples: segments.scanned_samples,
            is_progressive: frame.is_progressive,
            is_whole: end.is_ok() && segments.scans > 0,
        }),
        ..header
    })
}

impl Segments {
    /// Reads the segments up to the end marker (ITU-T T.81 annex B). An error where there is none.
    fn walk(&mut self, file: &mut Window<'_>) -> Result<(), MediaError> {
        let broken = || truncated("JPEG");
        let mut at = 2;
        loop {
            // Between segments and inside scans: go to the next 0xff and the byte after it.
            at = file.find(0xff, at).ok_or_else(broken)? + 1;
            let marker = file.byte(at).ok_or_else(broken)?;
            match marker {
                // 0xff is a fill byte. Stuffing, restart markers and stand-alone markers have no length.
                0xff => continue,
                0x00 | 0x01 | 0xd0..=0xd8 => {
                    at += 1;
                    continue;
                }
                0xd9 => return Ok(()),
                _ => at += 1,
            }
            let length = file.u16_be(at).ok_or_else(broken)?.max(2);
            let body = file.get(at + 2, usize::from(length - 2));
            self.segment(marker, body.ok_or_else(broken)?)?;
            at += u64::from(length);
        }
    }

    fn segment(&mut self, marker: u8, body: &[u8]) -> Result<(), MediaError> {
        match marker {
            0xc0..=0xc2 if self.frame.is_none() => {
                self.frame = Some(start_of_frame(body, marker == 0xc2)?);
            }
            0xc0..=0xc2 => return Err(MediaError::corrupt("two frames in one JPEG")),
            // Lossless, hierarchical and arithmetic coding. 0xc4 is a table, and 0xc8 is reserved.
            0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Err(MediaError::UnsupportedImage);
            }
            0xda => self.start_of_scan(body)?,
            0xe0..=0xef | 0xfe => {
                self.metadata_bytes += body.len() as u64;
                if let (0xe1, None, Some(tiff)) =
                    (marker, self.turned, body.strip_prefix(b"Exif\0\0"))
                {
                    self.turned = Some(orientation(Some(tiff)));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// T.81 §B.2.3: the components of the scan come first.
    fn start_of_scan(&mut self, body: &[u8]) -> Result<(), MediaError> {
        self.scans += 1;
        if self.scans > SCANS_MAX {
            return Err(MediaError::corrupt("too many scans in a JPEG"));
        }
        let (Some(frame), Some((count, components))) = (&self.frame, body.split_first()) else {
            return Ok(());
        };
        let selected = components
            .as_chunks::<2>()
            .0
            .iter()
            .take((*count).into())
            .map(|[identifier, _]| {
                let component = frame.samples.iter().find(|(of, _)| of == identifier);
                component.map_or(0, |(_, samples)| *samples)
            });
        self.scanned_samples += selected.sum::<u64>();
        Ok(())
    }
}

fn start_of_frame(body: &[u8], is_progressive: bool) -> Result<Frame, MediaError> {
    let broken = || truncated("JPEG");
    let &[precision, h1, h0, w1, w0, count, ref components @ ..] = body else {
        return Err(broken());
    };
    let components = components.as_chunks::<3>().0;
    if precision != 8 || !matches!(count, 1 | 3 | 4) {
        return Err(MediaError::UnsupportedImage);
    }
    if components.len() != usize::from(count) {
        return Err(broken());
    }
    let (mut h_max, mut v_max) = (1, 1);
    for component in components {
        let (h, v) = sampling_factors(component)?;
        (h_max, v_max) = (h_max.max(h), v_max.max(v));
    }
    let (width, height) = (
        u32::from(u16::from_be_bytes([w1, w0])),
        u32::from(u16::from_be_bytes([h1, h0])),
    );
    // Decoders round up to whole blocks of the coarsest component.
    let columns = u64::from(width).div_ceil(8 * h_max) * 8;
    let rows = u64::from(height).div_ceil(8 * v_max) * 8;
    let mut samples = [(0, 0); 4];
    for (into, component) in samples.iter_mut().zip(components) {
        let (h, v) = sampling_factors(component)?;
        *into = (component[0], columns * h * rows * v);
    }
    Ok(Frame {
        width,
        height,
        components: components.len(),
        samples,
        is_progressive,
    })
}

/// The horizontal and the vertical sampling factor of a component.
///
/// T.81 also allows factors of 3 and ratios like 3:2. No camera uses them, and the decoder's upsampling was not written
/// for them, so everything but powers of two is refused here.
fn sampling_factors(component: &[u8; 3]) -> Result<(u64, u64), MediaError> {
    let (h, v) = (u64::from(component[1] >> 4), u64::from(component[1] & 15));
    match (h, v) {
        (1 | 2 | 4, 1 | 2 | 4) => Ok((h, v)),
        _ => Err(MediaError::UnsupportedImage),
    }
}

const _: () = assert!(
    WINDOW_BYTES > u16::MAX as usize,
    "a segment fits the window"
);
