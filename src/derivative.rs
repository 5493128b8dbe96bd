//! Names the derivatives of a file: what a client can ask for in place of the file that was uploaded.
//!
//! How they are made is in `files/derive.rs`; how they are stored, in `store/`.

use std::fmt;

/// A derivative of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Derivative {
    /// A small picture of an image, or of a video's first frame.
    Thumbnail(BoundingBox),
    /// The first frame of a video, in the size from which thumbnails are made.
    VideoFrame,
    /// A voice message in this format.
    Voice(VoiceFormat),
}

/// The short ASCII name that stored derivatives have.
impl fmt::Display for Derivative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thumbnail(fit) => write!(f, "t{}x{}", fit.width(), fit.height()),
            Self::VideoFrame => f.write_str("frame"),
            Self::Voice(VoiceFormat::Mp3) => f.write_str("mp3"),
            Self::Voice(VoiceFormat::Amr) => f.write_str("amr"),
        }
    }
}

/// The box that a thumbnail must fit, in pixels of the upright picture. Each side is from 1 to
/// [`BoundingBox::SIDE_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BoundingBox {
    width: u16,
    height: u16,
}

impl BoundingBox {
    /// The longest side, in pixels.
    pub const SIDE_MAX: u16 = 2048;
    /// The box of a thumbnail where no size was asked for: 170 × 170, in both vendors' APIs.
    pub const DEFAULT: Self = Self::square(170);

    /// Sides outside of 1 to [`BoundingBox::SIDE_MAX`] become the nearest bound.
    pub const fn new(width: u16, height: u16) -> Self {
        Self {
            width: Self::clamp(width),
            height: Self::clamp(height),
        }
    }

    /// A box with sides of equal length.
    pub const fn square(side: u16) -> Self {
        Self::new(side, side)
    }

    /// Pixels across.
    pub const fn width(self) -> u16 {
        self.width
    }

    /// Pixels down.
    pub const fn height(self) -> u16 {
        self.height
    }

    /// `Ord::clamp` is not a `const fn`.
    const fn clamp(side: u16) -> u16 {
        match side {
            0 => 1,
            1..=Self::SIDE_MAX => side,
            _ => Self::SIDE_MAX,
        }
    }
}

/// A format in which a client can ask for a voice message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VoiceFormat {
    /// AMR narrow-band in its storage format: 8 kHz, mono.
    Amr,
    /// MPEG layer III.
    Mp3,
}

impl VoiceFormat {
    /// The media type of a file in this format.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Amr => "audio/amr",
            Self::Mp3 => "audio/mpeg",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clamps_sides() {
        for (side, expected) in [(0, 1), (1, 1), (2048, 2048), (2049, 2048), (u16::MAX, 2048)] {
            assert_eq!(BoundingBox::square(side).width(), expected);
        }
    }
}
