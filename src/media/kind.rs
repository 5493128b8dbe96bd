//! The kinds of files that the server tells apart, and what may be done with each.
//!
//! A kind is found by `sniff.rs`. The kind alone decides whether a body may be shown inline, and which decoder reads it.

use crate::derivative::VoiceFormat;

/// Defines [`Sniffed`] from a table: the documentation, name, media type and [`Family`] of each kind.
macro_rules! kinds {
    ($($(#[$doc:meta])+ $kind:ident = $media_type:literal, $family:ident;)+) => {
        /// The kind of a file, by its first bytes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Sniffed {
            $($(#[$doc])+ $kind,)+
            /// Any other file, the empty one included.
            Unknown,
        }

        impl Sniffed {
            /// The kind's own media type; `None` for [`Sniffed::Unknown`].
            pub fn media_type(self) -> Option<&'static str> {
                match self {
                    $(Self::$kind => Some($media_type),)+
                    Self::Unknown => None,
                }
            }

            /// The kind with this media type of its own.
            pub fn of_media_type(media_type: &str) -> Self {
                match media_type {
                    $($media_type => Self::$kind,)+
                    _ => Self::Unknown,
                }
            }

            pub(super) fn family(self) -> Family {
                match self {
                    $(Self::$kind => Family::$family,)+
                    Self::Unknown => Family::Unknown,
                }
            }
        }
    };
}

kinds! {
    /// JFIF, Exif and plain JPEG.
    Jpeg = "image/jpeg", Image;
    /// PNG and APNG.
    Png = "image/png", Image;
    /// GIF87a and GIF89a.
    Gif = "image/gif", Image;
    /// WebP in all its forms.
    Webp = "image/webp", Image;
    /// A Windows bitmap with its file header.
    Bmp = "image/bmp", Image;
    /// TIFF, and formats based on it (DNG, NEF).
    Tiff = "image/tiff", Image;
    /// HEIC and HEIF by their ISO-BMFF brands.
    Heif = "image/heic", IsoImage;
    /// AVIF by its ISO-BMFF brands.
    Avif = "image/avif", IsoImage;
    /// A Windows icon.
    Ico = "image/vnd.microsoft.icon", Image;
    /// AMR narrow-band (RFC 4867 §5).
    AmrNb = "audio/amr", Audio;
    /// AMR wide-band (RFC 4867 §5).
    AmrWb = "audio/amr-wb", Audio;
    /// MPEG layer II or III audio, with or without an ID3 tag.
    Mp3 = "audio/mpeg", Audio;
    /// Ogg without Theora: Vorbis, Opus, Speex.
    OggAudio = "audio/ogg", Ogg;
    /// Ogg with Theora.
    OggVideo = "video/ogg", Ogg;
    /// RIFF WAVE.
    Wav = "audio/wav", Audio;
    /// FLAC.
    Flac = "audio/flac", Audio;
    /// MPEG-4 audio by its ISO-BMFF brands.
    M4a = "audio/mp4", IsoMedia;
    /// AAC in ADTS frames.
    Aac = "audio/aac", Audio;
    /// MPEG-4 by its ISO-BMFF brands.
    Mp4 = "video/mp4", IsoMedia;
    /// QuickTime.
    Mov = "video/quicktime", IsoMedia;
    /// 3GPP and 3GPP2.
    ThreeGp = "video/3gpp", IsoMedia;
    /// WebM (EBML with the document type `webm`).
    Webm = "video/webm", Ebml;
    /// Matroska.
    Mkv = "video/x-matroska", Ebml;
    /// RIFF AVI.
    Avi = "video/x-msvideo", Video;
    /// PDF.
    Pdf = "application/pdf", Document;
    /// ZIP, and formats based on it: OOXML, ODF, EPUB, APK, JAR.
    Zip = "application/zip", Zip;
    /// Compound File Binary: the old office formats.
    Ole = "application/x-ole-storage", Ole;
    /// gzip.
    Gzip = "application/gzip", Document;
    /// 7z.
    SevenZip = "application/x-7z-compressed", Document;
    /// RAR 1.5 and later.
    Rar = "application/vnd.rar", Document;
    /// HTML: text that a browser would run.
    Html = "text/html", Text;
    /// SVG: text that a browser would run.
    Svg = "image/svg+xml", Text;
    /// XML other than SVG and XHTML.
    Xml = "application/xml", Text;
    /// Other text: UTF-8 without control characters, or with a UTF-16 byte order mark.
    Text = "text/plain", Text;
}

/// A group of kinds that share a container. The first bytes alone cannot contradict a declared type of the same group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// An image format with a signature of its own.
    Image,
    /// An audio format with a signature of its own.
    Audio,
    /// A video format with a signature of its own.
    Video,
    /// ISO base media with audio or video: mp4, mov, 3gp, m4a.
    IsoMedia,
    /// ISO base media with still pictures: HEIF, AVIF.
    IsoImage,
    /// WebM and Matroska, which hold audio or video.
    Ebml,
    /// Ogg, which holds audio or video.
    Ogg,
    /// ZIP.
    Zip,
    /// Compound File Binary.
    Ole,
    /// Text, including the kinds that a browser would run.
    Text,
    /// PDF and archives, which have one media type each.
    Document,
    Unknown,
}

impl Sniffed {
    /// Whether it is an image, decodable or not. SVG is text.
    pub fn is_image(self) -> bool {
        matches!(self.family(), Family::Image | Family::IsoImage)
    }

    /// Whether this server can decode it as an image.
    pub fn is_decodable_image(self) -> bool {
        matches!(
            self,
            Self::Jpeg | Self::Png | Self::Gif | Self::Webp | Self::Bmp
        )
    }

    /// Whether it is a voice message that is converted to this format on demand: AMR to MP3, and MP3 to AMR.
    pub fn converts_to(self, format: VoiceFormat) -> bool {
        match format {
            VoiceFormat::Mp3 => matches!(self, Self::AmrNb | Self::AmrWb),
            VoiceFormat::Amr => self == Self::Mp3,
        }
    }

    /// Whether it is a video whose first frame can be shown (3gp and WebM may still hold audio alone).
    pub fn is_video(self) -> bool {
        matches!(self, Self::Mp4 | Self::Mov | Self::ThreeGp | Self::Webm)
    }

    /// Whether a file of this kind has derivatives: a thumbnail or another format. For an image that is not decoded, the
    /// original stands in for the thumbnail.
    pub fn has_derivatives(self) -> bool {
        let is_voice = matches!(self, Self::AmrNb | Self::AmrWb | Self::Mp3);
        self.is_image() || self == Self::Svg || is_voice || self.is_video()
    }

    /// Whether a browser may show it inline: an allow-list of kinds that cannot run code on our origin. Every other
    /// kind is an attachment, above all SVG, HTML, XML, PDF and text.
    pub fn may_be_inline(self) -> bool {
        matches!(
            self,
            Self::Jpeg
                | Self::Png
                | Self::Gif
                | Self::Webp
                | Self::Bmp
                | Self::Heif
                | Self::Avif
                | Self::AmrNb
                | Self::AmrWb
                | Self::Mp3
                | Self::Wav
                | Self::Flac
                | Self::M4a
                | Self::Aac
                | Self::OggAudio
                | Self::OggVideo
                | Self::Mp4
                | Self::Mov
                | Self::ThreeGp
                | Self::Webm
        )
    }
}
