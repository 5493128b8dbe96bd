//! The errors of reading, decoding and resizing a picture.

use std::{fmt, io};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a picture has no thumbnail.
#[derive(Debug)]
pub enum MediaError {
    /// The file is not a picture.
    NotAnImage,
    /// A picture of a kind or coding that this server does not decode.
    UnsupportedImage,
    /// The header claims more pixels than the limit.
    TooManyPixels {
        /// Pixels in the header.
        pixels: u64,
        /// The limit.
        pixels_max: u64,
    },
    /// The scans of a JPEG pass over more samples than the limit.
    TooManyScans {
        /// The sum over all scans.
        samples: u64,
        /// The limit.
        samples_max: u64,
    },
    /// Decoding takes more memory than the limit.
    TooMuchMemory {
        /// Bytes that decoding takes.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The picture is damaged or truncated.
    Corrupt(Source),
    /// The file could not be read.
    Unreadable(io::Error),
    /// The caller has cancelled the work.
    Cancelled,
}

impl MediaError {
    pub(super) fn corrupt(source: impl Into<Source>) -> Self {
        Self::Corrupt(source.into())
    }
}

impl fmt::Display for MediaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnImage => f.write_str("the file is not a picture"),
            Self::UnsupportedImage => f.write_str("the picture has a format that is not decoded"),
            Self::TooManyPixels { pixels, pixels_max } => {
                write!(
                    f,
                    "the picture has {pixels} pixels, more than thumbnails.pixels_max = {pixels_max}"
                )
            }
            Self::TooManyScans {
                samples,
                samples_max,
            } => write!(
                f,
                "the scans of the JPEG read {samples} samples, more than {samples_max} (10 × thumbnails.pixels_max)"
            ),
            Self::TooMuchMemory { bytes, bytes_max } => write!(
                f,
                "decoding takes {bytes} bytes of memory, more than thumbnails.decode_bytes_max = {bytes_max}"
            ),
            Self::Corrupt(_) => f.write_str("the picture is damaged"),
            Self::Unreadable(_) => f.write_str("the picture could not be read"),
            Self::Cancelled => f.write_str("the request was cancelled"),
        }
    }
}

impl std::error::Error for MediaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Corrupt(source) => Some(&**source),
            Self::Unreadable(source) => Some(source),
            _ => None,
        }
    }
}
